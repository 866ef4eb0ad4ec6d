"""Whether others can call somebody who wants a seat: the lead and members try, before it has one.

Who calls the lead shows only that it can call. Behind an address translation, or a closed port,
nobody can open a connection to it, and two of that kind can't talk to one another at all; nor can
two with no route between them. All that is found out by trying, in about a second, and not when
the first tensor is waited for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.addresses import (
    Place,
    best_first,
    elsewhere,
    parse_address,
    parse_peer_id,
)
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM, in_short
from checkfree.runtime.swarm.transport.streams import Endpoint

LOOK_WITHIN = 1.0
"""Seconds for a connection to be made."""
CALL_WITHIN = 2.0
"""Seconds for libp2p's own greeting after that."""
ANSWER_WITHIN = 4.0
"""Seconds after which whoever was asked to call has not."""
MOST_CALLERS = 8
"""Members that are asked: of a small swarm all, so that every pair is tried."""
MOST_ADDRESSES = 16


async def look(addresses: Sequence[str]) -> str:
    """See that somebody listens at one of these; "", or why nobody can be reached. Addresses that
    only libp2p understands are taken to be good."""
    why = "it has no address"
    for address in best_first(addresses):
        at = parse_address(address).socket
        if at is None:
            return ""
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(*at), LOOK_WITHIN)
            writer.close()
            return ""
        except (OSError, asyncio.TimeoutError) as error:
            number = getattr(error, "errno", None)
            why = os.strerror(number) if number else "no answer"
    return why


async def call(endpoint: Endpoint, place: Place) -> str:
    """Have libp2p connect to somebody, who proves to be who it is; "", or why that can't be.
    Looked at first: whoever failed to answer is not called again by the daemon for five seconds."""
    why = await look(elsewhere(place.addresses))
    if why:
        return why
    try:
        await asyncio.wait_for(endpoint.connect(place.id, place.addresses), CALL_WITHIN)
    except (ValueError, *BROKEN_STREAM) as error:  # ValueError: no address that libp2p knows
        return in_short(error)
    return ""


def read_addresses(plain: Any) -> tuple[str, ...]:
    """As an application has them. Raises ValueError."""
    if not isinstance(plain, list) or len(plain) > MOST_ADDRESSES:
        raise ValueError("no list of addresses")
    if not all(type(text) is str for text in plain):
        raise ValueError("an address is a text")
    return tuple(str(parse_address(text)) for text in plain)


Call = tuple[str, str]
"""Who calls whom."""


@dataclass
class Dialback:
    """The calls that show who can reach ``whom``, the id of a process; "" is the lead. Each of the
    ``members``, by their ids, calls it and is called by it: one way is enough for two to talk."""

    whom: str
    members: Mapping[str, Node]
    awaited: set[Call] = field(default_factory=set)
    failed: dict[Call, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = ((member, self.whom) for member in self.members)
        back = ((self.whom, member) for member in self.members)
        self.awaited = {("", self.whom), *both, *back}

    def answered(self, caller: str, found: Mapping[str, str]) -> None:
        """What somebody has found of those whom it called: "" or why it could not."""
        for called, why in found.items():
            if (caller, called) in self.awaited:
                self.awaited.discard((caller, called))
                if why:
                    self.failed[caller, called] = why

    def left(self, id: str) -> None:
        """That one will say nothing more, and nothing is known of it."""
        self.awaited = {call for call in self.awaited if id not in call}

    @property
    def over(self) -> bool:
        return not self.awaited

    @property
    def why(self) -> str:
        """Why it can't be called though it can call; "": it can be."""
        callers = ("", *(member for member in self.members if not self._apart(member)))
        calls = ((caller, self.whom) for caller in callers)
        return next((self.failed[call] for call in calls if call in self.failed), "")

    def apart(self) -> list[Node]:
        """Those of the members that it can't reach, and that can't reach it."""
        return [node for member, node in self.members.items() if self._apart(member)]

    def _apart(self, member: str) -> bool:
        return {(member, self.whom), (self.whom, member)} <= self.failed.keys()


def told_dial(places: Iterable[Place]) -> dict[str, Any]:
    """What somebody is told who is to call these."""
    return {"dial": [[place.id, list(place.addresses)] for place in places]}


def asked_dial(plain: Any) -> list[Place]:
    """The places of ``told_dial``. Raises ValueError or TypeError for anything else."""
    if len(plain) > MOST_CALLERS:
        raise ValueError("too many to call")
    return [Place(parse_peer_id(str(id)), read_addresses(addresses)) for id, addresses in plain]


async def dialled(endpoint: Endpoint, places: Sequence[Place]) -> dict[str, Any]:
    """What is answered: of each by its id "", or why it can't be called."""
    found = await asyncio.gather(*(call(endpoint, place) for place in places))
    return {"dialled": {place.id: why for place, why in zip(places, found, strict=True)}}


def read_dialled(plain: Any) -> dict[str, str]:
    """Of an answer; nothing that is not part of one."""
    if not isinstance(plain, dict):
        return {}
    return {id: why[:200] for id, why in plain.items() if type(id) is str and type(why) is str}
