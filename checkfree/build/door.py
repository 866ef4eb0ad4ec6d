"""What a lead with a door needs beside a run: an invitation that stays good, and the states that
joiners of a resumed run begin with."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from checkfree.build.job import Job
from checkfree.build.release import release
from checkfree.build.snapshot import Snapshot
from checkfree.config import FailuresConfig
from checkfree.errors import BadInput
from checkfree.load import to_tree
from checkfree.messages.control import HANDOVER
from checkfree.ops import Address
from checkfree.record import of_kind
from checkfree.runtime.swarm.joining.door import Frame
from checkfree.runtime.swarm.joining.invitation import TOKEN_BYTES, Invitation
from checkfree.runtime.swarm.processes.home import Home
from checkfree.store import Damaged, Store

INVITATION, KEY, REGISTER = "invitation", "lead.key", "members"


def invitation_of(home: Home, order: Mapping[str, Any], told: list[str]) -> Invitation:
    """That of the run, or a new one. ``order`` has "host" and "port", or neither: as before.
    What changed since, and made old join lines useless, is ``told``. Raises BadInput."""
    known = Invitation.load(home.path / INVITATION)
    secret = known.secret if known else secrets.token_bytes(TOKEN_BYTES)
    if order.get("host") is None and known is not None:
        try:
            return _checked(known)
        except BadInput:
            told.append(f"port {known.port} is in use by now: old join lines are no longer good")
            return _checked(Invitation(known.host, 0, secret))
    host, port = order.get("host") or "0.0.0.0", int(order.get("port") or 0)
    return _checked(Invitation(host, port, secret))


def _checked(invitation: Invitation) -> Invitation:
    """With a port that is free. Raises BadInput."""
    host, port = invitation.host, invitation.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            return replace(invitation, port=server.getsockname()[1])
    except OSError as error:
        raise BadInput(
            f"can't listen at {host}:{port} ({os.strerror(error.errno or 0)}): give another "
            "--listen HOST:PORT, or port 0 for any that is free"
        ) from None


def frame_of(invitation: Invitation, job: Job, home: Home, resumed: bool) -> Frame:
    """All that the door has to know, written down so that the next lead has the same."""
    invitation.save(home.path / INVITATION)
    config = replace(job.config, failures=FailuresConfig("none"))
    run = {
        "config": to_tree(config),
        "data": json.loads(json.dumps(job.data)),
        "incarnation": secrets.token_hex(8),
    }
    return Frame(invitation, home.path / KEY, release(), run, home.path / REGISTER, resumed)


def hand_over(snapshot: Snapshot, store: Store) -> dict[int, tuple[int, int]]:
    """Put a snapshot's states where joiners get theirs; see ``Farewells.states``."""
    p, stages = snapshot.progress, sorted(snapshot.states)
    note = {"committed": p.committed, "tick": p.tick, "stages": stages}
    store.shelve(HANDOVER, p.epoch, snapshot.states, note)
    return dict.fromkeys(stages, (p.epoch, p.committed))


def unused(store: Store, records: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, int]]:
    """What leavers handed on and nobody has been rebuilt from, as ``Farewells.states``: of stages
    that no plan has had a member of since."""
    found: dict[int, tuple[int, int]] = {}
    for shelf in store.offered(HANDOVER):
        try:
            note = store.note(HANDOVER, shelf)
            handed = {int(stage): (shelf, int(note["committed"])) for stage in note["stages"]}
        except (Damaged, KeyError, TypeError, ValueError):
            continue  # nobody can be rebuilt from it
        found |= {stage: at for stage, at in handed.items() if not _sat(stage, shelf, records)}
    return found


def _sat(stage: int, since: int, records: Sequence[Mapping[str, Any]]) -> bool:
    """Somebody was at that stage in a plan of a later epoch than ``since``."""
    plans = (plan for plan in of_kind(records, "plan") if plan["epoch"] > since)
    return any(Address.parse(seat).stage == stage for plan in plans for seat in plan["members"])
