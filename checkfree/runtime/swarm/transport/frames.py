"""What goes over a raw stream: a hello, then frames. No pickle; sizes are checked before use.

    frame   = kind:u8 stage:i16 replica:i32 size:u32, then so many bytes: JSON of a notice, or a
              piece of a message, whose own prefix tells how long all of it is. Of each lane one
              message is under way at a time; the kind tells the lane
    hello   = the first notice on a stream: who opens which, and the proof that it knows the run's
              secret, for exactly this pair of peers. ``local.py`` tells what may follow it on a
              stream of data
    ack     = one byte, the other way: a piece of any lane but control is here

Notices are the runtime's own: who sits where, that one lives, that a run ends.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkfree.core.ops import Address
from checkfree.runtime.swarm.transport.addresses import parse_address, parse_peer_id

NOTICE, FIRST_LANE = 2, 16
ACK = b"\x06"
ENVELOPE = struct.Struct("<BhiI")
LARGEST_NOTICE = 1 << 20  # bytes
PROTOCOL = 6

Notice = Mapping[str, Any]


class BadFrame(ValueError):
    """Bytes that are no frame of ours. One line."""


@dataclass(frozen=True)
class Peer:
    """Who sits at a seat in one life, and where its streams are opened."""

    seat: Address
    life: int
    id: str
    addresses: tuple[str, ...]

    def gives_way(self, other: Peer) -> bool:
        """``other`` is the same, or sits here in a later life."""
        return other == self or other.life > self.life

    def to_json(self) -> list[Any]:
        """Plain data that :meth:`from_json` makes the same of."""
        return [str(self.seat), self.life, self.id, list(self.addresses)]

    @classmethod
    def from_json(cls, plain: Any) -> Peer:
        """Raises BadFrame for anything else."""
        try:
            seat, life, name, addresses = plain
            if type(life) is not int or life < 0:
                raise ValueError
            every = tuple(str(parse_address(text)) for text in addresses)
            return cls(Address.parse(seat), life, parse_peer_id(name), every)
        except (ValueError, TypeError, AttributeError):
            raise BadFrame(f"no peer: {plain!r:.80}") from None


def piece_frame(lane: int, to: Address, size: int) -> bytes:
    """What stands before a piece of a message for an actor."""
    return ENVELOPE.pack(FIRST_LANE + lane, to.stage, to.replica, size)


def notice_frame(notice: Notice) -> bytes:
    """A whole frame."""
    data = json.dumps(notice, separators=(",", ":")).encode()
    return ENVELOPE.pack(NOTICE, 0, 0, len(data)) + data


def read_notice(data: bytes) -> dict[str, Any]:
    """Raises BadFrame for anything but a JSON object."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise BadFrame(f"no notice: {data[:40]!r}") from None
    if not isinstance(found, dict):
        raise BadFrame(f"no notice: {data[:40]!r}")
    return found


def hello(me: Peer, to: str, secret: bytes, stream: str = "control", machine: str = "") -> Notice:
    """The first notice from ``me`` to the peer with the id ``to``, on a stream of that name. With
    ``machine`` it asks for a shorter way."""
    proof = _proof(me, to, secret, stream)
    told = {"hello": me.to_json(), "protocol": PROTOCOL, "stream": stream, "proof": proof}
    return {**told, "machine": machine} if machine else told


def check_hello(notice: Notice, sender: str, receiver: str, secret: bytes) -> tuple[Peer, str]:
    """Who opened which stream. ``sender`` and ``receiver`` are the ids that libp2p has verified.
    Raises BadFrame for whoever does not know the secret, or says to be somebody else."""
    if notice.get("protocol") != PROTOCOL:
        raise BadFrame(f"speaks protocol {notice.get('protocol')!r:.20}, expected {PROTOCOL}")
    peer = Peer.from_json(notice.get("hello"))
    proof, stream = notice.get("proof"), notice.get("stream")
    if peer.id != sender or type(proof) is not str or type(stream) is not str:
        raise BadFrame("says to be somebody else")
    if not hmac.compare_digest(proof.encode(), _proof(peer, receiver, secret, stream).encode()):
        raise BadFrame("does not know the secret of the run")
    return peer, stream


def _proof(sender: Peer, receiver: str, secret: bytes, stream: str) -> str:
    """Good for this pair only: a peer cannot show another's proof to a third."""
    told = json.dumps([PROTOCOL, sender.to_json(), receiver, stream]).encode()
    return hmac.new(secret, told, hashlib.sha256).hexdigest()
