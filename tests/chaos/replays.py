"""Runs that lose stages, and what holds them against the run that lost nothing: after every replay,
and at the end.

Everything is counted, so that a test can say that it has seen what it is about: waves that counted,
losses while one travels and while a replay runs, owner and holder at once, changes of lead. In half
of the runs some kinds of messages are slow: what usually comes first comes last.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from checkfree.core.ops import LEAD, Address, Location, Refusal, Repair, Source, View
from checkfree.lead import Phase
from checkfree.messages.control import Leaving, Message, Rebuilt, Resend, Severed
from checkfree.messages.tensors import KeepState, StageState
from checkfree.recovery.auto import Ladder, auto
from checkfree.recovery.options import AutoOptions
from checkfree.recovery.replay.plan import survives
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import ReplicaFirst
from checkfree.runtime.disk_log import DiskLog
from checkfree.runtime.faults import Faults
from checkfree.worker import StageWorker
from checkfree.worker.log import SentLog
from tests.chaos import SOAK
from tests.chaos.chaos import SCHEDULES
from tests.chaos.takeovers import OF_LEAD, succeed
from tests.chaos.test_severed import BETWEEN as ALWAYS
from tests.tiny import Run, make

MICROBATCHES, ITERATIONS = 3, 90 if SOAK else 24
SENT = 2 * MICROBATCHES * 3 * 4 * 4
"""Bytes that a seat logs in an iteration: three samples of four numbers, there and back."""


def digest(state: StageState) -> str:
    """SHA-256 of weights, moments and buffers, bit for bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.tensors()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    numbers = (state.version, state.gradient_norm, state.clipped_norm, state.lr_scale)
    return found.hexdigest() + repr(numbers)


class Foretelling(LogAndReplay):
    """Notes of losses what ``survives`` had said of them, and whether they are made good."""

    def __init__(self, terms: ReplayTerms):
        super().__init__(terms)
        self.expected: tuple[frozenset[Address], bool] | None = None
        self.foretold: list[tuple[bool, bool]] = []

    def foretell(self, lost: Collection[Address], view: View) -> None:
        """Before they are lost."""
        self.expected = frozenset(lost), survives(lost, view)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        made = super().repair(lost, view, refused)
        if self.expected is not None and self.expected[0] == lost:
            self.foretold.append((self.expected[1], isinstance(made, Repair)))
        self.expected = None
        return made


@dataclass(frozen=True)
class Terms:
    """Of one run, all of it from one seed."""

    seed: int
    stages: int
    replicas: int
    terms: ReplayTerms
    schedule: int
    machines: int = 0
    """That its seats are spread over; 0: nobody tells of any."""

    @classmethod
    def of(cls, seed: int, replicas: int = 1) -> Terms:
        rng = random.Random(seed)
        lag = rng.choice((1, 2, 2, 3))
        every, memory = rng.choice(
            ((None, None), (None, rng.randrange(lag + 2, 13) * SENT), (rng.randrange(1, 5), None))
        )
        terms = ReplayTerms(lag, every, memory, copies=rng.choice((1, 1, 2)))
        return cls(
            seed, rng.choice((1, 2, 3, 3, 4, 4, 5)), replicas, terms, rng.randrange(len(SCHEDULES))
        )

    def run(self, strategy: Strategy, **more: Any) -> Run:
        terms = {
            "iterations": ITERATIONS,
            "microbatches": MICROBATCHES,
            "schedule": SCHEDULES[self.schedule],
            "validation_every": 7,
            "validate_after_repair": True,
            "clip_over": ("stage", "global")[self.schedule % 2],
            "clip": 0.3,
            "max_ticks": ITERATIONS + 36,
        }
        sizes = {"stages": self.stages, "replicas": self.replicas}
        return make(strategy, terms=terms, seed=self.stages, **sizes, **more)


@lru_cache(maxsize=64)
def undisturbed(stages: int, schedule: int) -> Mapping[tuple[int, int], str]:
    """Of a run that loses nothing, the digest of each stage after each iteration."""
    found: dict[tuple[int, int], str] = {}
    run = Terms(0, stages, 1, ReplayTerms(), schedule).run(
        ReplicaFirst(LogAndReplay(ReplayTerms()))
    )

    def watch(to: Address, message: Message) -> None:
        for seat, actor in run.runtime.actors.items():
            if isinstance(actor, StageWorker):
                version = actor.stage.version
                if (seat.stage, version) not in found:
                    found[seat.stage, version] = digest(actor.stage.snapshot())

    run.runtime.run(watch)
    assert run.lead.done
    return found


BETWEEN = (*ALWAYS, Resend)
"""What workers say to each other."""

KINDS = (
    *(*["anywhere"] * 3, *["travels"] * 3, *["replays"] * 3, *["waits"] * 2, "pair"),
    *("leaves", "leaves", "lead", "lead replays", "severed", "severed"),
)
TIMED = ("travels", "replays", "waits", "lead replays", "severed")
WHOLE = (*KINDS, *["machine"] * 12)
SLOW = (
    *("Push", "KeepState", "Kept", "Rebuild", "Resend", "Replaying", "Rebuilt", "StateRequest"),
    *("StateReply", "Activation", "Gradient", "Begin", "Commit", "Joined"),
)
"""Messages, by the names of their types."""


@dataclass
class Losing:
    """A run that loses seats: ``anywhere``, while a wave ``travels`` or the lead ``waits`` for it,
    while somebody ``replays``, an owner with whoever holds its copy (``pair``), all of a
    ``machine``, or of its own will (``leaves``); or its ``lead``. ``severed`` are two that lose
    what they said to each other. Some come back on another machine."""

    terms: Terms
    seen: Counter[str] = field(default_factory=Counter)
    ladder: bool = False
    """Under ``auto``, which rebuilds what can't be replayed."""
    sent: Callable[[], SentLog | DiskLog] = SentLog
    """Makes the log of a seat."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.terms.seed + 1)
        self.strategy = self._ladder() if self.ladder else Foretelling(self.terms.terms)
        strategy = ReplicaFirst(self.strategy)
        self.run = self.terms.run(strategy, pick=self._pick, sent=self.sent)
        self.slow = set(self.rng.sample(SLOW, self.rng.choice((0, 0, 1, 2))))
        self.slow_to = self.rng.choice((None, *sorted(self.run.lead.members.alive)))
        self.leads = 0
        count, kinds = self.rng.randrange(2, 7), WHOLE if self.terms.machines else KINDS
        self.plan = [(self.rng.choice(kinds), self.rng.randrange(1, 500)) for _ in range(count)]
        self.plan.insert(0, ("anywhere", self.rng.randrange(250, 500)))  # a wave counts first
        self.absent: list[tuple[Address, int, int]] = []
        self.base = 0
        self.stood: dict[Address, Location] = {}
        members = self.run.lead.members
        if self.terms.machines:
            members.locations |= {seat: self._somewhere() for seat in sorted(members.alive)}

    def _somewhere(self) -> Location:
        """One of the machines; each second one is in the same zone."""
        number = self.rng.randrange(self.terms.machines)
        return Location(f"machine-{number}", f"zone-{number % 2}")

    def _ladder(self) -> Ladder:
        own = self.terms.terms
        return auto(
            AutoOptions(
                log_memory=own.log_memory or 12 * SENT,
                wave_every=own.every,
                wave_lag=own.lag,
                shadow_every=6,
                fit_steps=4,
            )
        )

    def play(self) -> Run:
        runtime = self.run.runtime
        runtime.run(self._after)
        while self.absent and not (self.run.lead.done or self.run.lead.failure):
            self._return(self.absent.pop(0))
            runtime.run(self._after)
        return self.run

    def _pick(self, count: int) -> int:
        """Any, but one that is slow seldom; so are copies that the lead is to wait for."""
        waits = self.plan[:1] and self.plan[0][0] == "waits"
        for _ in range(20 if waits else 6):
            place = self.rng.randrange(count)
            to, message = self.run.runtime._pending[place]
            if waits and isinstance(message, KeepState):
                continue
            if type(message).__name__ not in self.slow or self.slow_to not in (None, to):
                break
        return place

    @property
    def book(self) -> Any:
        return self.run.lead._lead_state.replays

    def _after(self, to: Address, message: Message) -> None:
        runtime = self.run.runtime
        if to == LEAD and isinstance(message, Rebuilt):
            self._compare(message)
        if self.book.base is not None and self.book.base > self.base:
            self.base = self.book.base
            self.seen["waves counted"] += 1
        for entry in [entry for entry in self.absent if entry[2] <= runtime.delivered]:
            self.absent.remove(entry)
            self._return(entry)
        for seat, worker in self._workers().items():
            if worker.dismissed:
                self.seen["left"] += 1
                self._gone([seat])
        if self.plan and self.run.lead.phase is not Phase.ENDED:
            kind, left = self.plan[0]
            if kind not in TIMED or self._is_time(kind):
                self.plan[0] = (kind, left - 1)
                if left <= 1 or (kind in TIMED and left % 7 == 0) or kind == "waits":
                    self.plan.pop(0)
                    self._lose(kind)

    def _is_time(self, kind: str) -> bool:
        if kind == "waits":
            waits = self.book.waiting(self.run.lead.progress.committed)
            return waits and self.run.lead.phase is Phase.IDLE
        if kind == "severed":
            return self._is_time("travels") or self._is_time("replays")
        if kind in ("replays", "lead replays"):
            replaying = [w for w in self._workers().values() if w._replay is not None]
            return self.run.lead.phase is Phase.REBUILDING and bool(replaying)
        return any(isinstance(message, KeepState) for _, message in self.run.runtime._pending)

    def _lose(self, kind: str) -> None:
        workers = self._workers()
        seats = sorted(workers)
        if not seats:
            return
        seat = self.rng.choice(seats)
        if kind == "leaves":
            self.run.runtime.post(LEAD, Leaving(seat, workers[seat].life))
            return
        if kind == "severed":
            self._sever(seat, self.rng.choice(seats))
            return
        self.seen[f"lost: {kind}"] += 1
        if kind == "machine":
            at = self.run.lead.members.locations
            machine = at[seat].machine if seat in at else ""
            there = [s for s in seats if s in at and at[s].machine == machine]
            self.seen["several at once"] += len(there) > 1
            return self._gone(there)
        if kind in ("lead", "lead replays"):
            self._change_lead()
            return
        both = {seat}
        if kind == "pair":
            held = [
                (at, w)
                for at, w in workers.items()
                for s, _ in w.replayable._held
                if s == seat.stage
            ]
            both |= {self.rng.choice(held)[0]} if held else set()
            self.seen["owner and holder"] += len(both) == 2
        self._gone(sorted(both))

    def _sever(self, one: Address, other: Address) -> None:
        """Nothing of what any worker says to them comes through, until the lead is told."""
        pending, cut = self.run.runtime._pending, (one, other)
        kept = deque((to, m) for to, m in pending if to not in cut or not isinstance(m, BETWEEN))
        self.seen["severed"] += len(kept) < len(pending)
        self.run.runtime._pending = kept
        self.run.runtime.post(LEAD, Severed(one, other))

    def _change_lead(self) -> None:
        """What it had said arrives first, or not at all."""
        runtime, sent = self.run.runtime, self.rng.random() < 0.5
        said = [out for out in runtime._pending if type(out[1]).__name__ in OF_LEAD]
        for to, message in said if sent else ():
            runtime._pending.remove((to, message))
            if to in runtime.actors:
                runtime.actors[to].deliver(message)
                runtime._exhaust(to)
        self.leads += 1
        if isinstance(self.strategy, Foretelling):
            self.strategy.expected = None
        faults = Faults(runtime, lambda tick: ())
        succeed(self.run, self.leads, sent=sent, faults=faults)

    def _gone(self, seats: Collection[Address]) -> None:
        lead = self.run.lead
        if isinstance(self.strategy, Foretelling):
            self.strategy.expected = None  # of others, who had this one beside them
            if lead.phase is Phase.RUNNING and not self.absent:
                self.strategy.foretell(seats, lead._lead_state.view())
        self.stood |= lead.members.locations
        for seat in seats:
            life = self.run.runtime.kill(seat)
            late = self.run.runtime.delivered + self.rng.choice((0, 0, 5, 30, 300))
            self.absent.append((seat, life + 1, late))

    def _return(self, entry: tuple[Address, int, int]) -> None:
        seat, life, _ = entry
        at = self.stood.get(seat)
        moves = at is not None and self.rng.random() < 0.2
        self.run.runtime.join(seat, life, self._somewhere() if moves else at)

    def _workers(self) -> dict[Address, StageWorker]:
        actors = self.run.runtime.actors.items()
        return {seat: actor for seat, actor in actors if isinstance(actor, StageWorker)}

    def _compare(self, answer: Rebuilt) -> None:
        """Right after: it is what it was, to the last bit."""
        worker = self._workers().get(answer.sender)
        if worker is None or worker.life != answer.life or worker._replay is None:
            return
        if answer.problem or worker._replay.aside or worker._replay.order.epoch != answer.epoch:
            return
        self.seen["replays"] += 1
        self.seen["replays from a wave"] += bool(worker._replay.order.recipe.sources)
        if self.terms.replicas == 1 and not self.ladder:
            expected = undisturbed(self.terms.stages, self.terms.schedule)
            version = worker.stage.version
            assert digest(worker.stage.snapshot()) == expected[answer.sender.stage, version]

    def check_end(self) -> None:
        """Done, and the same; or refused, where that was foretold."""
        run, terms = self.run, self.terms
        assert run.lead.done or run.lead.failure, f"{terms}: stalls while {run.lead.phase}"
        assert isinstance(self.strategy, Foretelling)
        assert all(said == made for said, made in self.strategy.foretold), terms
        self.seen["foretold: lost"] += sum(not said for said, _ in self.strategy.foretold)
        self.seen["foretold: saved"] += sum(said for said, _ in self.strategy.foretold)
        self.seen["done"] += run.lead.done
        if not run.lead.done:
            assert "lost" in run.lead.failure
            return
        rules = {m.recipe.rule for r in run.of_kind("recovery") for m in r.rebuilds.values()}
        assert rules <= {REPLAY, "replica", "handover", "back"}, terms
        if terms.replicas > 1:
            return
        expected = undisturbed(terms.stages, terms.schedule)
        for seat, state in run.states().items():
            stage = int(seat.split(".")[0])
            assert digest(state) == expected[stage, ITERATIONS], (terms, seat)
