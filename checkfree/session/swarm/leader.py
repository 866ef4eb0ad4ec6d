"""The process of a swarm that hosts the lead and writes the run folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.live import LiveStatus
from checkfree.core.ops import FAULTS, LEAD, LOG, STORE, Address
from checkfree.core.participants import Company, Differences, Facts
from checkfree.core.records import (
    IterationRecord,
    Record,
    ResumeRecord,
    ended,
    read,
)
from checkfree.lead import History, Lead, Progress, Takeover, history
from checkfree.lead.membership import Membership
from checkfree.messages.control import CHECKPOINT, RESUME, WEIGHTS
from checkfree.pipeline.flow import IN_ORDER
from checkfree.pipeline.routes import in_order
from checkfree.recovery.registry import replays
from checkfree.runtime import folder as folders
from checkfree.runtime.actor import Actor
from checkfree.runtime.store import Damaged
from checkfree.runtime.swarm.faults import RealFaults
from checkfree.runtime.swarm.leader import LeaderProcess
from checkfree.runtime.swarm.processes.launcher import LEAD_AGAIN
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.threaded import ThreadedActor
from checkfree.session.initial import with_way_back
from checkfree.session.session import Session, draw
from checkfree.session.swarm.invitation import unused
from checkfree.session.swarm.measured_routes import MeasuredRoutes
from checkfree.session.swarm.shared import ForkResources
from checkfree.session.terms import terms_of
from checkfree.simulator.measured import MeasuredFleet


class Leading:
    """``life``: how many leads the run had before this one. It listens to its own records, and
    tells the launcher how the run goes."""

    def __init__(self, shared: ForkResources, life: int):
        self._shared, self._job = shared, shared.job
        self._lead: Lead | None = None
        self._routing: MeasuredRoutes | None = None
        self._live = LiveStatus()
        if life:
            folders.mend(self._job.folder)
        self._resumes = shared.resumes == life
        self._leader_process = LeaderProcess(
            shared.workdir, shared.lives().items(), shared.patience, shared.limits, shared.frame
        )
        self._leader_process.life, self._leader_process.measured = life, shared.measured
        self._leader_process.grace, self._leader_process.wait = shared.grace, shared.wait
        self._leader_process.relay = shared.relay
        self._leader_process.first_stored = self._job.initial is not None
        self._leader_process.resumes = self._resumes
        self._leader_process.met = self._met
        join_server, kept = self._leader_process.join_server, replays(self._job.config.recovery)
        if join_server is not None:
            join_server.candidates.slow = shared.slow
        if join_server is not None and kept:
            join_server.candidates.copies = self._job.config.recovery.copies
        self._leader_process.peer_table.replacing = shared.replacements

    def run(self) -> int:
        """Train. Returns 0 if the run is done."""
        since = self._shared.started
        with Session.open(self._job, listeners=[self], since=since) as session:
            return self._run(session)

    def _run(self, session: Session) -> int:
        self._session = session
        if self._shared.frame is None and self._leader_process.life == 0:
            session.take_part(self._shared.equipment, self._shared.snapshot)
        self._tell_start()
        found, reason = self._history(), ""
        self._company, self._begins = Company(read(self._job.folder)), found.progress.committed
        if self._resumes and found.members:
            session.recorder.write(ResumeRecord(found.progress.committed, found.progress.tick))
        if ended(read(self._job.folder)):
            return 0
        try:
            if not self._stored(found) and self._leader_process.gather():
                self._train(found)
        except RunFailed as error:
            reason = str(error)
        if self._leader_process.cut_off:
            return LEAD_AGAIN
        status = self._end(reason, found.progress)
        self._leader_process.close()
        return 0 if status == "done" else 1

    def _met(self, peer: Peer, facts: Facts) -> Differences:
        """Somebody takes a seat; in what it computes on something else than the run's first."""
        since = self._begins if self._lead is None else self._lead.progress.committed
        record = self._company.joined(since, facts, peer.seat, peer.life)
        if record is None:
            return ()
        self._session.recorder.write(record)
        return record.differs

    def _tell_start(self) -> None:
        """From which snapshot it goes on, before the first plan; another lead may have been here
        before."""
        records, snapshot = read(self._job.folder), self._shared.snapshot
        if snapshot is None or records[-1]["kind"] == "resume":
            return
        progress = snapshot.progress
        if progress == Progress():  # it begins, with another run's state
            return
        if folders.count_notes(self._job.folder) == progress.notes:
            shadows = tuple(entry[:4] for entry in progress.shadows)
            start = ResumeRecord(progress.committed, progress.tick, shadows)
            self._session.recorder.write(start)

    def _history(self) -> History:
        """The run as its folder tells it."""
        store, made = self._session.store, dict[str, dict[int, int]]()
        for area in (CHECKPOINT, RESUME):
            made[area] = {}
            for shelf in store.offered(area):
                with suppress(Damaged, KeyError, TypeError):
                    p = store.note(area, shelf)["progress"]
                    told = p["tick"] if area == CHECKPOINT else p["committed"]
                    made[area][shelf] = int(told)
        found = history(read(self._job.folder), made[CHECKPOINT], made[RESUME])
        return found if found.members else replace(found, members=self._shared.lives())

    def _stored(self, found: History) -> bool:
        """Another lead had stored the trained weights, and all that is missing is the end."""
        p = found.progress
        if p.committed < self._job.config.iterations:
            return False
        try:
            note = self._session.store.note(WEIGHTS, p.committed)
            stored = bool(note["progress"]["tick"] == p.tick)
        except (Damaged, KeyError, TypeError):
            return False
        if stored:
            self._ending = p
        return stored

    _ending: Progress | None = None

    def _led(self, found: History) -> Lead:
        """A lead of the run as it is now."""
        peer_table, snapshot = self._leader_process.peer_table, self._shared.snapshot
        rules = replace(
            terms_of(self._job.config, self._job.blueprint.tokens),
            background=True,
            last_rung=self._job.config.resume.last_rung,
            initial=self._job.initial is not None,
            routes=in_order,  # until it is known what links and seats take
        )
        strategy, lives = self._job.worker_context.strategy, peer_table.lives
        if self._job.config.routes != IN_ORDER and self._job.config.replicas > 1:
            self._routing = MeasuredRoutes(self._job.config, strategy, rules)
        if self._leader_process.handoff.started:
            present = {seat: peer.life for seat, peer in peer_table.present.items()}
            takeover = Takeover(
                self._leader_process.life,
                found,
                present,
                lives,
                locations=self._leader_process.locations(),
            )
            lead = Lead(takeover.members(), strategy, rules, found.progress, takeover)
            lead.inherit(unused(self._session.store, read(self._job.folder)))
            if self._resumes:
                lead.may_go_back()
            return lead
        progress, absent = Progress(), {}
        if snapshot is not None:
            progress, absent = snapshot.progress, dict(snapshot.absent)
        present = {seat: lives[seat] for seat in peer_table.present}
        members = Membership(present, lives | absent, self._leader_process.locations())
        if self._shared.frame is not None and self._job.initial is not None:
            members.empty(present)  # each has its first state still to get
        lead = Lead(members, strategy, rules, progress)
        peer_table.fill(absent)
        return lead

    def _train(self, found: History) -> None:
        peer_table = self._leader_process.peer_table
        leader_process = self._leader_process
        lead = self._lead = self._led(found)
        due = self._job.due
        store = ThreadedActor(self._session.store, leader_process.inbox)
        actors: dict[Address, Actor] = {
            LEAD: lead,
            STORE: store,
            LOG: self._session.recorder,
            FAULTS: RealFaults(
                peer_table,
                lambda tick, hit: leader_process.strike(tick, hit, due.hung(tick)),
                due.struck,
                leader_process.handoff.struck,
            ),
        }
        try:
            leader_process.run(actors, lambda: bool(lead.done or lead.failure or lead.stopped))
        finally:
            store.close()

    def _end(self, reason: str, began: Progress) -> str:
        """The last records and the picture; as ``checkfree train`` leaves them. ``began``: how far
        the run was when this lead came."""
        leader_process, lead, job = self._leader_process, self._lead, self._job
        reason = reason or leader_process.reason or (lead.failure if lead else "")
        p = lead.progress if lead else began
        reason = with_way_back(reason, job.folder, job.config, p.committed)
        stopped = leader_process.stopped or (lead is not None and lead.stopped)
        status = "failed" if reason else "interrupted" if stopped else "done"
        sent = ({}, {}) if self._ending else leader_process.dismiss(status, reason)
        if status == "done":
            try:
                self._session.keep_average(("cpu",))  # a fork that leads computes nothing else
            except (BadInput, RunFailed) as error:  # the weights are stored all the same
                status, reason = "failed", str(error)
        leader_process.launcher.tell({"ended": reason})  # who else would know, if the disk is full?
        progress = self._ending or (lead.progress if lead else began)
        with suppress(RunFailed):  # a disk that is full stays full; the error counts
            self._session.end(status, reason, progress, sent, leader_process.dropped())
        self._session.recorder.close()
        draw(job.folder)
        return status

    def __call__(self, record: Record) -> None:
        lead = self._lead
        if lead is None or not isinstance(record, IterationRecord):
            return
        states = {str(seat): "trains" for seat in lead.members.alive}
        states |= {str(seat): "joins" for seat in lead.members.uninitialized}
        self._leader_process.timed(record.iteration, record.seconds or 0.0)
        self._reroute(lead)
        told = {
            "iteration": record.iteration,
            "loss": record.loss,
            "seconds": record.seconds,
            "seats": states,
            "replayable": self._replayable(lead),
            "fatal": lead.exposure.fatal,
            **self._live.to_json(),
        }
        self._leader_process.tell_status(told)

    def _reroute(self, lead: Lead) -> None:
        """Send microbatches other ways, if that has been found to be worth it."""
        process, alive = self._leader_process, lead.members.alive
        if self._routing is None or lead.members.uninitialized or not lead.members.whole():
            return
        speeds, nodes = process.speeds, process.nodes()
        found = MeasuredFleet(speeds.seconds, speeds.travels, nodes)
        message = self._routing.better(alive, lead.routes(), found)
        if message is not None:
            process.host.post(LEAD, message)

    def live(self, status: LiveStatus) -> None:
        """Told at once while nothing is committed, else with the next iteration."""
        before, self._live = self._live, status
        if replace(status, goodput=before.goodput) != before:
            self._leader_process.tell_status(status.to_json())

    def _replayable(self, lead: Lead) -> dict[str, dict[str, float | None]] | None:
        """From which version each stage could be replayed now, and in about how many seconds: as
        many as its iterations usually take. It computes them alone, so rather in fewer."""
        versions, usual = lead.exposure.begins, self._leader_process.watch.pace.usual
        if versions is None:
            return None
        return {
            str(stage): {
                "version": version,
                "seconds": None if usual is None else usual * (lead.progress.committed - version),
            }
            for stage, version in versions.items()
        }
