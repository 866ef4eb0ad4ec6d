"""What a lead with a join server needs beside a run: an invitation that stays good, and what is
left of those who led and sat there before."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from checkfree.config.load import to_tree
from checkfree.core.config import FailuresConfig, InitConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, StateId
from checkfree.core.records import of_kind, read
from checkfree.lead import Handed, history, states_of
from checkfree.messages.control import HANDOVER
from checkfree.recovery.rungs import EXACT
from checkfree.runtime.store import Damaged, Store
from checkfree.runtime.swarm.joining.invitation import TOKEN_BYTES, Invitation
from checkfree.runtime.swarm.joining.join_server import JoinServerConfig
from checkfree.runtime.swarm.presence.roster import Roster
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.transport.addresses import listen_address, render_listen
from checkfree.session.job import Job
from checkfree.session.swarm.release import release
from checkfree.session.terms import seats

INVITATION, KEY, REGISTER = "invitation", "lead.key", "members"


def invitation_of(workdir: Workdir, order: Mapping[str, Any], told: list[str]) -> Invitation:
    """That of the run, or a new one. ``order`` has "host" and "port", or neither: as before.
    What changed since, and made old join lines useless, is ``told``. Raises BadInput."""
    known = Invitation.load(workdir.path / INVITATION)
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
            f"can't listen at {render_listen(listen_address(host, port))} "
            f"({os.strerror(error.errno or 0)}): give another "
            "--listen HOST:PORT, or port 0 for any that is free"
        ) from None


def frame_of(
    invitation: Invitation, job: Job, workdir: Workdir, incarnation: str
) -> JoinServerConfig:
    """All that the join server has to know, written down so that the next lead has the same."""
    invitation.save(workdir.path / INVITATION)
    model = replace(job.config.model, vocabulary=job.config.model.vocabulary or job.vocabulary)
    begins = job.config.init.data
    if begins == "continue" and job.initial is not None:
        begins = job.initial.about["tokens"]
    init = InitConfig(data=begins)  # the state to begin with comes from the lead
    config = replace(job.config, failures=FailuresConfig("none"), model=model, init=init)
    run = {
        "config": to_tree(config),
        "data": json.loads(json.dumps(job.data)),
        "incarnation": incarnation,
    }
    return JoinServerConfig(
        invitation, workdir.path / KEY, release(config), run, workdir.path / REGISTER
    )


def roster_of(workdir: Workdir, job: Job) -> Roster:
    """Of a run that goes on, led by one more: as its last lead left it, else as its records tell.
    Raises KeyError, TypeError or ValueError for records that tell nothing."""
    known = Roster.load(workdir.roster)
    if known is None:
        lives = dict(history(read(job.folder), {}).members)
        every = dict.fromkeys(seats(job.config), 0) | lives
        known = Roster(secrets.token_hex(8), 0, bool(lives), every)
    return replace(known, lead=known.lead + 1)


def unused(store: Store, records: Sequence[Mapping[str, Any]]) -> dict[int, Handed]:
    """What was handed on and is still what its stages were then, as ``Departures.states``."""
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
