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
from checkfree.lead import Handed, note_of, states_of
from checkfree.load import to_tree
from checkfree.membership import first_seats
from checkfree.messages.control import HANDOVER
from checkfree.ops import Address, StateId
from checkfree.record import of_kind
from checkfree.recovery.exact import EXACT
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
    model = replace(job.config.model, vocabulary=job.config.model.vocabulary or job.vocabulary)
    config = replace(job.config, failures=FailuresConfig("none"), model=model)
    run = {
        "config": to_tree(config),
        "data": json.loads(json.dumps(job.data)),
        "incarnation": secrets.token_hex(8),
    }
    return Frame(invitation, home.path / KEY, release(), run, home.path / REGISTER, resumed)


def hand_over(snapshot: Snapshot, store: Store) -> dict[int, Handed]:
    """Put a snapshot's states where joiners get theirs; see ``Farewells.states``."""
    p, lives = snapshot.progress, snapshot.lives
    shelf = 1 + max(store.offered(HANDOVER), default=0)
    states = [StateId(seat, lives[seat], p.committed) for seat in first_seats(lives)]
    store.shelve(HANDOVER, shelf, snapshot.states, note_of(states, p.epoch))
    return {state.seat.stage: Handed(state, shelf) for state in states}


def unused(store: Store, records: Sequence[Mapping[str, Any]]) -> dict[int, Handed]:
    """What was handed on and is still what its stages were then, as ``Farewells.states``."""
    found: dict[int, Handed] = {}
    for shelf in store.offered(HANDOVER):
        try:
            states, epoch = states_of(store.note(HANDOVER, shelf))
        except (Damaged, KeyError, TypeError, ValueError):
            continue  # nobody can be rebuilt from it
        for state in states:
            if not _outdated(state, epoch, records):
                found[state.seat.stage] = Handed(state, shelf)
    return found


def _outdated(state: StateId, since: int, records: Sequence[Mapping[str, Any]]) -> bool:
    """A plan of a later epoch took all back to before it, or made its stage of something else."""
    plans = [plan for plan in of_kind(records, "plan") if plan["epoch"] > since]
    return any(
        plan["iteration"] < state.version
        or any(
            Address.parse(seat).stage == state.seat.stage and made["rule"] not in EXACT
            for seat, made in plan["rebuilds"].items()
        )
        for plan in plans
    )
