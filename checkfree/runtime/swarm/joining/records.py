"""Signed records of who is where: what members of a run tell one another through the DHT.

Anybody who can reach a member may store anything there; so a record counts only if it carries an
HMAC by the run's token over all that it says. It is never more than a hint where to call: whoever
answers a call proves anew who it is, and no loss is ever noticed by a record that ran out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass

from checkfree.core.ops import LEAD, Address
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer

TTL = 30.0
"""Seconds that a record holds; it is renewed three times as often."""
LONGEST_TTL = 10 * TTL
"""Whatever claims to hold longer than that is refused."""
LARGEST_RECORD = 1 << 13  # bytes


class BadRecord(ValueError):
    """Unsigned, forged, too old, of another run, or no record at all. ``kind`` says which."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class MemberRecord:
    """Somebody sits at a seat in one life, until ``expires`` (seconds of the ``SwarmClock``)."""

    run: str
    peer: Peer
    expires: float

    @property
    def leads(self) -> bool:
        return self.peer.seat == LEAD


def run_key(secret: bytes) -> str:
    """Where a run's records are: a name that tells nothing of the token to who does not know it."""
    return hmac.new(secret, b"checkfree run", hashlib.sha256).hexdigest()[:32]


def sign(member: MemberRecord, secret: bytes) -> bytes:
    """What is stored."""
    told = {"run": member.run, "peer": member.peer.to_json(), "expires": member.expires}
    body = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return json.dumps([body, _mac(body, secret)]).encode()


def check(data: bytes, secret: bytes, now: float) -> MemberRecord:
    """The record that ``data`` are, if it still holds. Raises BadRecord."""
    member = verify(data, secret)
    if not now < member.expires < now + LONGEST_TTL:
        raise BadRecord("expired")
    return member


def verify(data: bytes, secret: bytes) -> MemberRecord:
    """The record that ``data`` are, or were. Raises BadRecord."""
    if len(data) > LARGEST_RECORD:
        raise BadRecord("malformed")
    try:
        body, mac = json.loads(data)
        if type(body) is not str or type(mac) is not str:
            raise ValueError
        told = json.loads(body)
        run, plain, expires = told["run"], told["peer"], float(told["expires"])
        proof, expected = mac.encode(), _mac(body, secret).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRecord("malformed") from None
    if not hmac.compare_digest(proof, expected):
        raise BadRecord("forged")
    if run != run_key(secret):
        raise BadRecord("of another run")
    try:
        return MemberRecord(run, Peer.from_json(plain), expires)
    except BadFrame:
        raise BadRecord("malformed") from None


def newest_lead(found: list[MemberRecord]) -> MemberRecord | None:
    """Of those that lead, the one of the latest life, and of that the latest word."""
    leads = [member for member in found if member.leads]
    return max(leads, key=lambda member: (member.peer.life, member.expires), default=None)


def subkey(seat: Address, life: int) -> str:
    """A record of its own for each life: an earlier one just runs out."""
    return f"{seat}/{life}"


def _mac(body: str, secret: bytes) -> str:
    return hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()
