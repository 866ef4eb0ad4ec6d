"""What a lead and whoever wants to join say to one another, and the proofs that both know the
run's token. Notices over a stream of its own, the *join stream*, for as long as both live.

    joiner > {"apply": …, "protocol", "release", "node": …, "addresses": where it is called,
              "was": seat and life, or null, "brings": seat, life and version of a state, or null,
              "prepared": …, "equipment": on what it computes, "proof"}
    lead   > {"refused": why}  or  {"welcome": the run, "proof"}  or  {"elsewhere": null, "proof"}
             "clock" of a welcome: what time it is there, which nothing goes by
    joiner > {"ready": true}                once its data are open
    lead   > {"dial": who, who, …}          to it and to members: call these, and answer with
    both   > {"dialled": who: "" or why not}
    lead   > {"called": why not, …}         who could call it ("": everybody), before it is given
    lead   > {"assignment": seat, life, …}       now, or when it is needed; until then it stands by
    lead   > {"wanted": n}                  its node is to have so many processes
    lead   > {"sits": true} or {"over": …}  to one that was at a seat already
    lead   > {"differs": [what, …]}         it computes on something else than the run's first
    lead   > {"stale": true}                what it brings is of no use any more
    joiner > {"leaving": seat, "seconds": …} it wants to go, and will be gone by then
    lead   > {"heir": seat, life, at}       to one that stands by: take that one's state
    heir   > {"heir": where it is called}, then {"has": version}, once and again
    lead   > {"heir": where it is called}   to whoever leaves
    lead   > {"beat": when, "granted": s}   silence is how a cut link is noticed; so long, and as
    joiner > {"beat": …, "echo": when}      much more as the way there and back takes

A proof is good for one pair of peers, whose ids libp2p has verified, and one direction.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from checkfree.core.ops import Address, StateId
from checkfree.messages.control import Ticket
from checkfree.plugins import OUTSIDE
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.frames import (
    ENVELOPE,
    LARGEST_NOTICE,
    NOTICE,
    PROTOCOL,
    BadFrame,
    Notice,
    notice_frame,
    read_notice,
)

JOIN_PROTOCOL = "checkfree-join"
LARGEST_WORD = 1 << 13
"""Bytes that a stranger may say."""
STALE_AFTER = 3.0
"""Seconds of silence, at least, after which a join stream counts as cut."""


def proof(secret: bytes, sender: str, receiver: str, notice: Notice) -> str:
    """Of all that a notice says."""
    told = json.dumps([PROTOCOL, sender, receiver, {**notice, "proof": None}], sort_keys=True)
    return hmac.new(secret, told.encode(), hashlib.sha256).hexdigest()


def signed(secret: bytes, sender: str, receiver: str, notice: Mapping[str, Any]) -> dict[str, Any]:
    """With its proof."""
    return {**notice, "proof": proof(secret, sender, receiver, notice)}


def is_proven(secret: bytes, sender: str, receiver: str, notice: Notice) -> bool:
    """Whoever said it knows the secret, and said it to us."""
    found = notice.get("proof")
    if type(found) is not str:
        return False
    return hmac.compare_digest(found.encode(), proof(secret, sender, receiver, notice).encode())


def say(writer: asyncio.StreamWriter, notice: Notice) -> None:
    """Queue a notice."""
    writer.write(notice_frame(notice))


async def hear(reader: asyncio.StreamReader, largest: int = LARGEST_NOTICE) -> dict[str, Any]:
    """The next notice. Raises EOFError if there is none, BadFrame for anything else."""
    kind, _, _, size = ENVELOPE.unpack(await reader.readexactly(ENVELOPE.size))
    if kind != NOTICE or size > largest:
        raise BadFrame(f"frame of kind {kind} and {size} bytes")
    return read_notice(await reader.readexactly(size))


def stale_after(patience: float) -> float:
    """Seconds."""
    return max(patience, STALE_AFTER)


def application(
    release: Mapping[str, str],
    node: Node,
    addresses: Sequence[str] = (),
    was: tuple[str, int] | None = None,
    brings: StateId | None = None,
    prepared: Ticket | None = None,
    equipment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a joiner says first; see ``Visitor``."""
    return {
        "apply": True,
        "protocol": PROTOCOL,
        "release": dict(release),
        "node": node.to_json(),
        "addresses": list(addresses),
        "was": was,
        "brings": brings and [str(brings.seat), brings.life, brings.version],
        "prepared": prepared and [prepared.epoch, prepared.iteration],
        "equipment": equipment or {},
    }


def state_id(plain: Any) -> StateId | None:
    """Of an application, or an assignment. Raises ValueError or TypeError for what is none."""
    if plain is None:
        return None
    seat, life, version = plain
    if type(life) is not int or type(version) is not int:
        raise ValueError(f"not a state: {plain!r:.60}")
    return StateId(Address.parse(seat), life, version)


def refusal(notice: Notice, release: Mapping[str, str], known: bool) -> str:
    """Why an application can't be heard, in one line that says what to do; "": it can.

    ``known``: it proves that it knows the secret.
    """
    if notice.get("protocol") != PROTOCOL:
        return (
            f"the run speaks protocol {PROTOCOL}, not {notice.get('protocol')!r:.20}: install "
            f"checkfree {release['checkfree']}, as the lead has"
        )
    if not known:
        return (
            "wrong token: give the one that checkfree swarm lead printed when this run was started"
        )
    theirs = notice.get("release")
    theirs = theirs if isinstance(theirs, dict) else {}
    if theirs.get("checkfree") != release["checkfree"]:
        return (
            f"the run is led by checkfree {release['checkfree']}, not "
            f"{theirs.get('checkfree')!r:.20}: pip install checkfree=={release['checkfree']}"
        )
    for key, digest in release.items():
        if theirs.get(key) != digest and key.startswith(OUTSIDE):
            name = key.removeprefix(OUTSIDE)
            found = f"{theirs[key]!s:.60}" if key in theirs else "not allowed"
            return (
                f"the run's strategy is code of {name} ({digest} there, {found} here): have the "
                f"same where you start this, and, if you trust it, --allow {name}"
            )
        if theirs.get(key) != digest:
            what = "that trains" if key == "code" else f"of {key}"
            return (
                f"the code {what} is not the lead's: {digest} there, {theirs.get(key)!r:.20} here; "
                "install the same checkout of checkfree"
            )
    return ""
