"""Run a recorded run again from its plan records: same members, same repairs, same numbers.

A trace says when stages are lost; what happened also depends on who answered when, who joined
late, and which copy was at hand. All of that stands in the plans (semantics 19).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from checkfree.core.ops import (
    LEAD,
    STORE,
    Address,
    Recipe,
    Refusal,
    Repair,
    Source,
    StateId,
    View,
    parse_route,
)
from checkfree.core.records import (
    IterationRecord,
    PlanRecord,
    RecoveryRecord,
    ValidationRecord,
)
from checkfree.lead import Lead
from checkfree.lead.membership import first_seats
from checkfree.messages.control import (
    HANDOVER,
    RESUME,
    SNAPSHOT,
    Archive,
    Begin,
    Due,
    Message,
    Note,
    Outgoing,
    Purpose,
    Reroute,
    Struck,
    Ticket,
)
from checkfree.messages.recorded import read_rebuilt
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import in_order
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import BACK, REPLAY, WAVE
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import Wrapper
from checkfree.runtime.inprocess import InProcess
from checkfree.runtime.store import Store
from checkfree.worker import StageWorker


@dataclass(frozen=True)
class Step:
    """What happened between two plans: who left, who came, and what was repaired.

    ``after``: so many losses of iterations and validations had been recorded by then. That tells
    whether it was before or after a validation that its tick began with.
    """

    after: int
    lost: tuple[tuple[Address, int], ...]
    joined: tuple[tuple[Address, int], ...]
    repair: Repair | None
    left: tuple[tuple[Address, int], ...] = ()
    """Of their own will: no failure was recorded."""

    checkpoint: int | None = None
    """The newest that there was by then, -1 for none; None: the records are too old to tell."""

    resumed: tuple[tuple[str, str, str, int], ...] | None = None
    """Nobody came or left: the swarm was resumed, with these shadows."""

    @property
    def gone(self) -> tuple[tuple[Address, int], ...]:
        """All who were there before, and not after."""
        return tuple(sorted((*self.lost, *self.left)))


def script(records: Iterable[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps that lead from each plan to the next. The first plan is the start."""
    plans: list[tuple[int, Mapping[str, Any], set[str]]] = []
    made, failed = 0, set[str]()
    resumed: list[tuple[int, Step]] = []
    for record in records:
        if record["kind"] == "resume" and record.get("shadows") is not None:
            shadows = tuple((str(o), str(h), str(f), int(v)) for o, h, f, v in record["shadows"])
            resumed.append((len(plans), Step(made, (), (), None, resumed=shadows)))
        made += record["kind"] in ("iteration", "validation")
        if record["kind"] == "failure":
            failed |= set(record["seats"])
        if record["kind"] == "plan":
            plans.append((made, record, failed))
            failed = set()
    seated = _seated([plan["members"] for _, plan, _ in plans])
    steps = [
        _step(after, was, now, plan, bad)
        for (was, now), (after, plan, bad) in zip(pairwise(seated), plans[1:], strict=True)
    ]
    for number, step in reversed(resumed):  # after so many plans, of which the first is no step
        steps.insert(max(0, number - 1), step)
    return _whole(step for step in steps if _tells(step))


def reroutes(
    records: Iterable[Mapping[str, Any]], microbatches: int
) -> tuple[tuple[int, Reroute], ...]:
    """The ways of microbatches by each plan, and after how many losses: all of them, if any plan
    tells ways that are not in order. A run that is resumed begins in order again."""
    made, found, told = 0, list[tuple[int, Reroute]](), False
    seats: tuple[Address, ...] = ()
    stages = set[int]()
    for record in records:
        made += record["kind"] in ("iteration", "validation")
        anew = record["kind"] == "resume" and record.get("shadows") is not None
        if record["kind"] != "plan" and not anew:
            continue
        if not anew:
            seats = tuple(sorted(map(Address.parse, record["members"])))
            stages |= {seat.stage for seat in seats}
        ways = tuple(map(parse_route, record.get("routes", ())))
        told = told or bool(ways)
        if seats and stages == {seat.stage for seat in seats}:  # where not, nobody trains
            found.append((made, Reroute(seats, ways or in_order(seats, microbatches))))
    return tuple(found) if told else ()


def _tells(step: Step) -> bool:
    """Somebody came or left, the run was resumed, or something was repaired; states that a resumed
    run merely handed out were not."""
    if step.gone or step.joined or step.resumed is not None:
        return True
    recipes = step.repair.rebuild.values() if step.repair else ()
    return any(recipe.rule != HANDOVER for recipe in recipes)


def _whole(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Where one repair followed the other at once, whoever came to a seat that was lost before the
    first sat there before it; and so did all who came to others in between."""
    found: list[Step] = []
    for step in steps:
        found.append(step)
        for seat, _ in step.joined:
            place = _missed(found[:-1], seat, step)
            for later in () if place is None else range(place + 1, len(found)):
                assert place is not None
                struck = found[later].gone  # it comes by itself, and who else joins then with it
                joins = [j for j in found[later].joined if j[0] == seat or not struck]
                _move(found, joins, later, place)
    return tuple(found)


def _missed(found: Sequence[Step], seat: Address, step: Step) -> int | None:
    """At which of the repairs just before ``step`` that seat was lost, and not taken again."""
    for place in range(len(found) - 1, -1, -1):
        before = found[place]
        if before.after != step.after or not (before.repair and step.repair):
            return None
        if any(seat == other for other, _ in before.joined):
            return None
        if any(seat == other for other, _ in before.gone):
            return place
    return None


def _move(found: list[Step], joins: Collection[tuple[Address, int]], origin: int, to: int) -> None:
    """Have these join at another step."""
    there, here = found[to], found[origin]
    found[to] = replace(there, joined=tuple(sorted({*there.joined, *joins})))
    found[origin] = replace(here, joined=tuple(j for j in here.joined if j not in joins))


Lives = Mapping[Address, int]


def _seated(members: Iterable[Mapping[str, Any]]) -> list[Lives]:
    """Of each plan who sat there. Whoever was to be rolled back, and was rebuilt by a later plan
    instead, had no state to name by then, and yet never left."""
    named = [{Address.parse(seat): int(life) for seat, life in plan.items()} for plan in members]
    found: list[Lives] = [*named[:1]]
    for number, plan in enumerate(named[1:], 1):
        later = named[number + 1 :]
        stayed = {
            seat: life
            for seat, life in found[-1].items()
            if seat not in plan and next((o[seat] for o in later if seat in o), None) == life
        }
        found.append({**stayed, **plan})
    return found


def _step(
    made: int, was: Lives, now: Lives, after: Mapping[str, Any], failed: Collection[str]
) -> Step:
    gone = tuple(sorted((s, life) for s, life in was.items() if now.get(s) != life))
    lost = tuple((seat, life) for seat, life in gone if str(seat) in failed)
    left = tuple((seat, life) for seat, life in gone if str(seat) not in failed)
    joined = tuple(sorted((s, life) for s, life in now.items() if was.get(s) != life))
    told = after["rebuilds"].items()
    committed = int(after["iteration"])
    rebuilds = {
        seat: _exactly(seat, read_rebuilt(made).recipe, committed)
        for seat, made in ((Address.parse(name), made) for name, made in told)
    }
    repair = Repair(rebuilds, committed) if rebuilds else None
    return Step(made, lost, joined, repair, left, after.get("checkpoint"))


def _exactly(seat: Address, recipe: Recipe, committed: int) -> Recipe:
    """What was replayed is given back: that it was the same, the recorded sums say. There are no
    waves here: what went back to one has it from the store."""
    if recipe.rule == WAVE:
        stored = (Source(STORE, seat.stage, source.version) for source in recipe.sources)
        return Recipe(SNAPSHOT, tuple(stored))
    if recipe.rule != REPLAY:
        return recipe
    return Recipe(BACK, (Source(seat, seat.stage, committed),))


class RecordedFaults:
    """Strikes as recorded: after as many losses as then, and before whatever would make another.

    ``watch`` has to see each delivery of a runtime that delivers in order.
    """

    def __init__(
        self,
        host: InProcess,
        steps: Sequence[Step],
        reroutes: Sequence[tuple[int, Reroute]] = (),
    ):
        self._reroutes = deque(reroutes)
        # One repair that followed another at once has nobody left to strike: whoever was given a
        # state by it came with the first.
        told = [s for s in steps if s.gone or s.joined or s.resumed is not None]
        self._host, self._steps = host, deque(told)
        self._repairs: list[list[Repair]] = []
        for step in steps:
            if step in told:
                self._repairs.append([])
            if step.repair is not None and self._repairs:
                self._repairs[-1].append(step.repair)
        self._repaired = [
            sum(before.repair is not None for before in steps[:number])
            for number, step in enumerate(steps)
            if step in told
        ]
        self._all = tuple(steps)
        self._kept: dict[int, StageState] = {}
        self._kept_after = -1
        """States of those who are gone since as many losses had been recorded."""
        self._inbox: deque[Due] = deque()
        self._made, self._watched = 0, (-1, -1)
        self._wanted = {
            source.version
            for step in steps
            for recipe in (step.repair.rebuild.values() if step.repair else ())
            for source in recipe.sources
            if recipe.rule == SNAPSHOT
        }
        self._reroute()

    def deliver(self, message: Message) -> None:
        if isinstance(message, Due):
            self._inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self._inbox:
            return None
        message = self._inbox.popleft()
        if not self._now():
            return [(LEAD, Struck(message.epoch, message.tick))]
        self._strike(message.epoch, message.tick)
        return []

    def watch(self, to: Address, message: Message) -> None:
        """No tick is due before a validation, nor before a checkpoint or the finished weights are
        stored."""
        match message:
            case Note(_, IterationRecord() as record):
                self._count()
                self._put_aside(record.iteration + 1)
            case Note(_, ValidationRecord()):
                self._count()
            case Note(_, RecoveryRecord() | PlanRecord()) if self._between_repairs():
                self._strike(-1, -1)  # at the plan, where a validation is to tell the recovery
            case Archive(epoch, "checkpoint", version) if self._now():
                stored = self._steps[0].checkpoint
                if stored is not None and stored < version:
                    self._strike(epoch, -1)
            case Begin(Ticket(epoch, iteration, Purpose.VALIDATE)) | Archive(
                epoch, "weights", iteration
            ):
                if (epoch, iteration) != self._watched and self._now():
                    self._watched = epoch, iteration  # each member gets a Begin
                    self._strike(epoch, -1)

    def _count(self) -> None:
        """One loss more, and the ways of whatever makes the next one."""
        self._made += 1
        self._reroute()

    def _reroute(self) -> None:
        while self._reroutes and self._reroutes[0][0] <= self._made:
            self._host.post(LEAD, self._reroutes.popleft()[1])

    def _put_aside(self, version: int) -> None:
        """What the run goes back to later. Whatever it did in between, the last time counts."""
        if version in self._wanted:
            firsts = first_seats([s for s in self._host.actors if s.stage >= 0])
            states = {seat.stage: self._worker(seat).stage.snapshot() for seat in firsts}
            note = {"progress": {"committed": version}}
            self._store.shelve(RESUME, self._made, states, note)

    @property
    def _lead(self) -> Lead:
        lead = self._host.actors[LEAD]
        assert isinstance(lead, Lead)
        return lead

    @property
    def _store(self) -> Store:
        store = self._host.actors[STORE]
        assert isinstance(store, Store)
        return store

    def _now(self) -> bool:
        """Somebody comes or leaves. If the run was resumed first, so is this one."""
        while self._steps and self._steps[0].after <= self._made:
            if self._steps[0].resumed is None:
                return True
            self._lead.resumed(self._steps.popleft().resumed or ())
            for actor in self._host.actors.values():
                if isinstance(actor, StageWorker):
                    actor.resumed()
        return False

    def _between_repairs(self) -> bool:
        """Others left while not all was repaired: no tick is due in between."""
        if not self._lead.members.uninitialized or not self._now():
            return False
        return self._lead.progress.repairs == self._repaired[-len(self._steps)]

    def _strike(self, epoch: int, tick: int) -> None:
        """All at once: the lead is told before it hears of each."""
        repairs = self._repairs[-len(self._steps)]
        step = self._steps.popleft()
        self._host.post(LEAD, Struck(epoch, tick, step.lost, step.joined, step.left))
        if step.after != self._kept_after:
            self._kept_after, self._kept = step.after, {}
        self._keep(step)
        for seat, _ in step.gone:
            self._host.kill(seat)
        for seat, life in step.joined:
            self._host.join(seat, life)
        for repair in repairs:
            self._hand_over(repair)

    def _keep(self, step: Step) -> None:
        """By stage, what those who go have, where the run goes on from that before it trains
        again: semantics 19."""
        repairs = [other.repair for other in self._all if other.after == step.after]
        recipes = [made for repair in repairs if repair for made in repair.rebuild.values()]
        wanted = {made.sources[0].of for made in recipes if made.rule in (BACK, HANDOVER)}
        for seat, _ in step.gone:
            exact = self._worker(seat).exact() if seat.stage in wanted else None
            if exact is not None:
                self._kept[seat.stage] = exact[1]

    def _hand_over(self, repair: Repair) -> None:
        """Where the run had it: in the memory of whoever sits there now, or in the store."""
        recipes = repair.rebuild.values()
        sources = {made.sources[0] for made in recipes if made.rule in (BACK, HANDOVER)}
        shelved = {}
        for source in sources:
            if source.of not in self._kept:
                continue
            if source.holder == STORE:
                shelved[source.of] = self._kept[source.of]
            else:
                name = StateId(source.holder, 0, source.version)  # whose it was tells nothing here
                self._worker(source.holder).bring(name, self._kept[source.of])
        if shelved:
            self._store.shelve(HANDOVER, self._made, shelved, {"committed": repair.resume_at})

    def _worker(self, seat: Address) -> StageWorker:
        worker = self._host.actors[seat]
        assert isinstance(worker, StageWorker)
        return worker


class RecordedRepairs(Wrapper):
    """A strategy whose repairs are those that a run recorded."""

    def __init__(self, inner: Strategy, steps: Sequence[Step]):
        super().__init__(inner)
        self._repairs = [step.repair for step in steps if step.repair is not None]

    @property
    def replays(self) -> ReplayTerms | None:
        """None: a stage that was replayed is given the state that its seat had."""
        return None

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        if view.repairs >= len(self._repairs):
            return Refusal("the recorded run repaired nothing more")
        return self._repairs[view.repairs]
