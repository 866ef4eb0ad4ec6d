"""What the processes of a run share, made by their fork server once, before the first of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from checkfree.core.ops import Address
from checkfree.messages import codec
from checkfree.runtime.swarm.joining.join_server import JoinServerConfig
from checkfree.runtime.swarm.leader import Wait
from checkfree.runtime.swarm.presence.liveness import GRACE, RELAY
from checkfree.runtime.swarm.processes.fork_server import SpawnRequest
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.session.assemble import restore
from checkfree.session.job import Job
from checkfree.session.snapshot import Snapshot
from checkfree.session.terms import seats
from checkfree.worker import StageWorker, WorkerContext


@dataclass
class ForkResources:
    """All that a fork needs; ``snapshot`` of a run that goes on, ``frame`` of one with a join
    server. ``resumes``: the life of the lead that goes on, with one, where another launcher's
    ended."""

    job: Job
    workdir: Workdir
    patience: float
    measured: bool
    """See ``LeaderProcess.measured``."""
    limits: codec.Limits
    equipment: Mapping[str, str]
    """Of this machine."""
    snapshot: Snapshot | None = None
    frame: JoinServerConfig | None = None
    resumes: int | None = None
    replacements: bool = True
    grace: float = GRACE
    wait: Wait = Wait()  # noqa: RUF009 (frozen)
    relay: int = RELAY
    slow: frozenset[frozenset[str]] = frozenset()
    """Pairs of machines with slow lines between them, as ``fleet.links`` has them."""
    started: float = field(default_factory=time.perf_counter)

    def lives(self) -> dict[Address, int]:
        """Of each seat, as the run begins or goes on."""
        if self.snapshot is not None:
            return dict(self.snapshot.lives)
        return dict.fromkeys(seats(self.job.config), 0)

    @property
    def context(self) -> WorkerContext:
        """What workers are built with: other processes may be strangers."""
        return replace(self.job.worker_context, strangers=True, shares_memory=False)

    def worker(self, assignment: SpawnRequest) -> StageWorker:
        """The worker of an assignment."""
        seat = Address.parse(assignment["seat"])
        worker = StageWorker(
            seat,
            assignment["life"],
            self.context,
            uninitialized=assignment["uninitialized"],
        )
        if self.snapshot is not None and not assignment["uninitialized"]:
            restore(worker, self.snapshot)
        return worker
