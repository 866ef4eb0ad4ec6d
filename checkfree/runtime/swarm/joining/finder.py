"""Where a joiner looks for the lead: where it was last, then where members of the run say it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from checkfree.runtime.swarm.joining.discovery import Discovery
from checkfree.runtime.swarm.joining.records import TTL
from checkfree.runtime.swarm.transport.addresses import Place
from checkfree.runtime.swarm.transport.frames import Peer

MOST = 32
"""Places that are remembered."""


class AddressBook:
    """Places that belong to the run, the likeliest of the lead first. Outlives one life at a
    seat, and one stream to the lead."""

    def __init__(self, first: Place):
        self.places = [first]

    def put_first(self, place: Place) -> None:
        """This is the lead, or was a moment ago."""
        self.places = [place, *(known for known in self.places if known.id != place.id)][:MOST]

    def put(self, place: Place) -> None:
        """This is a member."""
        if all(known.id != place.id for known in self.places):
            self.places = [*self.places, place][:MOST]


class Finder:
    """One for each life: it shares that life's streams."""

    def __init__(self, discovery: Discovery, book: AddressBook):
        self._discovery, self._book = discovery, book

    @property
    def likeliest(self) -> Sequence[Place]:
        """The one that should be right."""
        return self._book.places[:1]

    async def places(self, *, ask: bool) -> Sequence[Place]:
        """All that are known, the likeliest first: of that members are to be asked. Nobody answers
        who is cut off, and waiting for that would take longer than a look at every place."""
        if not ask:
            return tuple(self._book.places)
        await self._discovery.join_once(self._book.places)
        lead = await self._discovery.lead()
        if lead is not None:
            self._book.put_first(lead)
        return tuple(self._book.places)

    def met(self, lead: Place) -> None:
        """It answered."""
        self._book.put_first(lead)

    async def close(self) -> None:
        """Leave the DHT."""
        await self._discovery.close()

    async def stay_known(self, me: Callable[[], Peer]) -> None:
        """Be found by others, and know others to be found by, as long as we sit."""
        await self._discovery.join_once(self._book.places)
        announcing = asyncio.ensure_future(self._discovery.announce(me))
        try:
            while True:
                await self._discovery.keep_time(self.likeliest)
                for member in await self._discovery.members():
                    self._book.put(Place(member.peer.id, member.peer.addresses))
                await asyncio.sleep(TTL / 3)
        finally:
            announcing.cancel()
            with suppress(asyncio.CancelledError):
                await announcing
