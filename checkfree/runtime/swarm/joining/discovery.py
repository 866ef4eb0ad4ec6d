"""Where the members of a run are, by a DHT that they make up themselves: one node a process, in
the network thread's loop. For finding alone: who lives and who is lost is never read off it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
from hivemind.dht.node import DHTNode
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2PDaemonError
from hivemind.utils import MSGPackSerializer

from checkfree.runtime.swarm.joining.clock import SwarmClock
from checkfree.runtime.swarm.joining.records import (
    TTL,
    BadRecord,
    MemberRecord,
    check,
    newest_lead,
    run_key,
    sign,
    subkey,
    verify,
)
from checkfree.runtime.swarm.transport.addresses import Place
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM
from checkfree.runtime.swarm.transport.streams import Endpoint

ANSWER_WITHIN = 1.0  # seconds
FIND_WITHIN = 5.0  # seconds
_FAILED = (*BROKEN_STREAM, P2PDaemonError, RuntimeError, ValueError)


class _Signed(RecordValidatorBase):  # type: ignore[misc]
    """Nothing unsigned is stored here, or believed."""

    def __init__(self, secret: bytes, refused: Counter[str]):
        self._secret, self._refused = secret, refused

    def validate(self, record: DHTRecord) -> bool:
        try:
            verify(_unpacked(record.value), self._secret)
        except BadRecord as error:
            _count(self._refused, error)
            return False
        return True


def _count(refused: Counter[str], error: BadRecord) -> None:
    refused[f"record {error.kind}"] += 1


def _unpacked(value: bytes) -> bytes:
    """The DHT packs values before it stores them."""
    try:
        found = MSGPackSerializer.loads(value)
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException):
        raise BadRecord("malformed") from None
    if type(found) is not bytes:
        raise BadRecord("malformed")
    return found


class Discovery:
    """Records that were dropped count among what the endpoint refused."""

    def __init__(self, endpoint: Endpoint, secret: bytes):
        self._endpoint, self._secret = endpoint, secret
        self._clock = SwarmClock(endpoint)
        self._node: Any = None

    async def join(self, places: Sequence[Place]) -> None:
        """Become part of the DHT that these are of; no places: the first."""
        others = []
        for place in places:
            with suppress(*_FAILED):
                connecting = self._endpoint.connect(place.id, place.addresses)
                await asyncio.wait_for(connecting, FIND_WITHIN)
                others.append(place)
        await self._clock.agree(others)
        await self._clock.serve()
        self._node = await DHTNode.create(
            p2p=self._endpoint.p2p,
            initial_peers=[f"/p2p/{place.id}" for place in others] or None,  # connected by now
            wait_timeout=ANSWER_WITHIN,
            record_validator=_Signed(self._secret, self._endpoint.refused),
            ensure_bootstrap_success=False,
            strict=False,
            cache_locally=False,
            cache_on_store=False,
        )

    async def join_once(self, places: Sequence[Place]) -> None:
        """As ``join``, unless we have."""
        if self._node is None:
            await self.join(places)

    async def announce(self, me: Callable[[], Peer]) -> None:
        """Tell where we are, for as long as we are there."""
        while True:
            peer, expires = me(), self._clock.now() + TTL
            value = sign(MemberRecord(run_key(self._secret), peer, expires), self._secret)
            with suppress(*_FAILED):  # nobody else is there; the next time
                key, own = run_key(self._secret), subkey(peer.seat, peer.life)
                await self._node.store(key, value, expires, subkey=own)
            await asyncio.sleep(TTL / 3)

    async def keep_time(self, places: Sequence[Place]) -> None:
        """See that our time is still that of these: no two clocks run alike."""
        await self._clock.agree(places)

    async def members(self) -> list[MemberRecord]:
        """All records that hold."""
        try:
            found = await asyncio.wait_for(
                self._node.get(run_key(self._secret), latest=True), FIND_WITHIN
            )
        except _FAILED:
            return []
        if found is None or not isinstance(found.value, dict):
            return []
        return [m for entry in found.value.values() if (m := self._read(entry.value)) is not None]

    async def lead(self) -> Place | None:
        """Where the lead is, as far as members know."""
        found = newest_lead(await self.members())
        return None if found is None else Place(found.peer.id, found.peer.addresses)

    async def close(self) -> None:
        """Leave, if there is a daemon left to say so by."""
        if self._node is not None and self._endpoint.listens:
            await self._node.shutdown()

    def _read(self, value: Any) -> MemberRecord | None:
        try:
            if type(value) is not bytes:
                raise BadRecord("malformed")
            return check(value, self._secret, self._clock.now())
        except BadRecord as error:
            _count(self._endpoint.refused, error)
            return None
