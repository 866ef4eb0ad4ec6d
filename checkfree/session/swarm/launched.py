"""A run of real processes: what its fork server prepares, and what its forks become."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from checkfree.config.parts import permitted
from checkfree.core.config import Config
from checkfree.core.ops import LEAD
from checkfree.core.records import read
from checkfree.failures import render_trace
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.forking import count_cuda_devices, keep_for_forks, render_threads
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.runtime.swarm.leader import Wait
from checkfree.runtime.swarm.presence.liveness import GRACE, RELAY
from checkfree.runtime.swarm.processes.fork_server import Channel, SpawnRequest, SwarmForkServer
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.seat import Seat
from checkfree.runtime.swarm.transport.links import FILE as LINKS
from checkfree.session.equipment import equipment
from checkfree.session.job import (
    Job,
    any_config,
    check_same,
    of_config,
    with_trace,
)
from checkfree.session.log_disk import LESS, check_log_disk
from checkfree.session.memory import instead_of_resuming, within_memory
from checkfree.session.session import begin, go_on
from checkfree.session.sizes import own_sizes
from checkfree.session.snapshot import newest
from checkfree.session.stash import check_stash_disk
from checkfree.session.swarm.invitation import frame_of, invitation_of, roster_of
from checkfree.session.swarm.leader import Leading
from checkfree.session.swarm.limits import limits_of
from checkfree.session.swarm.member import NodeResources, join_here, warm_up
from checkfree.session.swarm.shared import ForkResources
from checkfree.session.terms import seats
from checkfree.session.trial import try_out_in_fork
from checkfree.session.wired import check_given
from checkfree.simulator.surveyed import read_surveyed


def be(shared: ForkResources, await_request: Callable[[], SpawnRequest], spare: bool) -> int:
    """What a fork does. Returns its exit code. A spare gets ready before it is asked for."""
    with settled(shared.job.config.threads):
        if not spare and await_request()["seat"] == str(LEAD):
            return Leading(shared, int(await_request()["life"])).run()
        if not spare and shared.frame is not None:
            threads, facts = shared.job.config.threads, shared.equipment
            resources = NodeResources(shared.context, shared.limits, threads, facts)
            count = len(seats(shared.job.config))
            return join_here(shared.workdir, await_request(), resources, shared.frame, count)
        seat = Seat(shared.workdir, shared.limits)
        assignment = await_request()
        return seat.run(assignment, partial(shared.worker, assignment), shared.patience)


def _fresh(order: Mapping[str, Any]) -> Job:
    config = permitted(any_config(order["config"]), order.get("allow", ()))
    check_given(config)
    whole = "join_server" not in order
    if whole:
        config = within_memory(config)
    return of_config(config, Path(order["folder"]), (), whole=whole)


def _resumed(order: Mapping[str, Any]) -> Job:
    path = folders.existing(Path(order["folder"]))
    config = permitted(any_config(order["config"]), order.get("allow", ()))
    config = with_trace(config, path / folders.TRACE)
    instead = partial(instead_of_resuming, config, path)
    job = of_config(config, path, (), whole="join_server" not in order, instead=instead)
    check_same(job, read(path))
    return job


def slow_pairs(config: Config, *, resume: bool) -> frozenset[frozenset[str]]:
    """Of machines, by the lines of ``fleet.links`` and what this run sends over them; none without
    such a file, which a run that goes on can do without. Raises BadInput."""
    path = Path(os.path.expanduser(config.fleet.links or ""))
    if config.fleet.links is None or (resume and not path.exists()):
        return frozenset()
    return read_surveyed(path).slow(own_sizes(config))


def _seats_here(order: Mapping[str, Any], count: int) -> int:
    """Of ``count`` in all, those that processes of this machine may take: all, or those of the
    nodes that stand beside a lead."""
    if not order.get("join_server"):
        return count
    return min(count, sum(node["room"] or count for node in order.get("workers", ())))


def device_here(config: Config) -> str:
    """Where seats of the lead's own machine compute: others bring their own devices, and a lead
    needs none."""
    wanted = config.devices[0]
    return "cpu" if wanted.startswith("cuda") and not count_cuda_devices() else wanted


def raise_children(channel: Channel, order: Mapping[str, Any], workdir: Workdir) -> None:
    """Check everything, prepare everything, then fork what the launcher asks for. Raises
    BadInput, RunFailed or OSError."""
    resume = bool(order["resume"])
    job = _resumed(order) if resume else _fresh(order)
    if order.get("join_server"):
        job = replace(job, devices=(device_here(job.config),))
    if here := _seats_here(order, len(seats(job.config))):
        check_log_disk(job.config, here, less="" if resume else LESS)
        check_stash_disk(job.config)
    slow = slow_pairs(job.config, resume=resume)
    warm_up(job.worker_context, job.config, (job.devices or job.config.devices)[0])
    job = try_out_in_fork(job)
    told: list[str] = []
    invited = (
        invitation_of(workdir, order["join_server"], told) if order.get("join_server") else None
    )
    if not resume:
        folders.create(
            job.folder, f"checkfree swarm {'lead' if order.get('join_server') else 'up'}"
        )
    with folders.locked(job.folder):
        workdir.create(invited.secret if invited else None)
        if resume:
            go_on(job)
        else:
            begin(job, render_trace(job.due.trace))
        (workdir.path / LINKS).write_text(order.get("links", ""), encoding="ascii")
        patience, measured = float(order["patience"]), bool(order["measured"])
        facts = equipment(job.config, job.devices)
        shared = ForkResources(job, workdir, patience, measured, limits_of(job.config), facts)
        shared.replacements = bool(order.get("replacements", True))
        shared.grace, shared.wait = float(order.get("grace", GRACE)), Wait(**order.get("wait", {}))
        shared.relay = int(order.get("relay", RELAY))
        shared.slow = slow
        before: dict[str, Any] = {}
        if invited is not None:
            incarnation = secrets.token_hex(8)
            if resume:
                roster = roster_of(workdir, job)
                folders.reopen(job.folder)
                incarnation, shared.resumes = roster.incarnation, roster.lead
                before = {"lead": roster.lead, "found": roster.found()}
                before |= {"started": roster.started, "struck": roster.struck}
            shared.frame = frame_of(invited, job, workdir, incarnation)
        elif resume:
            shared.snapshot = newest(job.folder, Store(DiskFiles(job.folder)), seats(job.config))
        if shared.snapshot is None and job.initial is not None and invited is None:
            shared.snapshot = job.initial.snapshot(shared.lives())
        listed = [[str(seat), life] for seat, life in shared.lives().items()]
        told += filter(None, [render_threads()])
        channel.tell({"ready": True, "seats": listed, "told": told, **before})
        keep_for_forks()
        SwarmForkServer(channel, partial(be, shared), workdir.logs, int(order["spares"])).run()
