"""A run without tensors: the real lead, and a clock that only moves for a reason.

What it decides (routes, schedules, keeps, repairs, rollbacks, refusals) is what training decides,
because the same code decides it. What it takes is priced per distinct iteration, once.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from checkfree.core.cost import Priced
from checkfree.core.ops import STORE, Address, Mirror, Transfer
from checkfree.core.records import IterationRecord, Record, RecoveryRecord, ValidationRecord
from checkfree.failures import Failure, Trace, make_trace
from checkfree.lead import Lead, Terms
from checkfree.lead.membership import Membership
from checkfree.messages.control import (
    AVERAGE,
    CHECKPOINT,
    Archive,
    Archived,
    Begin,
    Commit,
    Due,
    Joined,
    Kept,
    Lost,
    Message,
    Note,
    Outgoing,
    Prepared,
    Purpose,
    Push,
    Rebuild,
    Rebuilt,
    Stepped,
    Struck,
)
from checkfree.recovery.strategy import Strategy
from checkfree.simulator.background import BackgroundCopies
from checkfree.simulator.failure_schedule import FailureSchedule
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.iteration import NetworkLines, Price, message_bytes, price_iteration
from checkfree.simulator.replays import Orders, logged, received, replay_seconds, resent
from checkfree.simulator.sizes import ComputePace, Sizes
from checkfree.simulator.workers import SimulatedWorkers, counts, losses

NAN = float("nan")


@dataclass(frozen=True)
class RehearsalSetting:
    """What is simulated, and on what."""

    seats: tuple[Address, ...]
    strategy: Strategy
    terms: Terms
    fleet: Fleet
    sizes: Sizes
    pace: ComputePace
    averages_moments: bool = False
    average_last: int = 0
    """So many states are kept to average."""


@dataclass(frozen=True)
class Rehearsal:
    """What a run will do, and take. ``records`` are those of its lead, without any losses."""

    records: tuple[Record, ...]
    trace: Trace
    priced: Priced
    reason: str
    """Why it ends early; empty: it does not."""


def rehearse(
    setting: RehearsalSetting,
    strikes: FailureSchedule,
    listener: Callable[[int], object] = bool,
    until: int | None = None,
) -> Rehearsal:
    """Run it, for at most ``until`` ticks. ``listener`` hears how many have passed, after each."""
    host = _Host(setting, strikes, listener)
    host.run(until)
    return host.rehearsal()


@dataclass
class CostLedger:
    """The clock, and the account of its seconds and bytes. ``now`` is the sum of all seconds:
    nothing passes that is not accounted for."""

    now: float = 0.0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)

    def spend(self, kind: str, seconds: float) -> None:
        """Everybody waits for this."""
        self.seconds[kind] += seconds
        self.now += seconds

    def send(self, kind: str, name: str, count: int) -> None:
        """Bytes of one name of message."""
        if count:
            self.bytes[kind] += count
            self.messages[name] += count

    def iteration(self, price: Price, *, again: bool) -> None:
        """A committed iteration; ``again``: it makes up for one that was rolled back."""
        for kind, seconds in price.seconds.items():
            self.seconds["rollback" if again else kind] += seconds
        self.now += price.total
        self.sent(price.bytes, again=again)

    def sent(self, counts: Mapping[str, int], *, again: bool) -> None:
        for name, count in counts.items():
            kind = "redundant" if name in ("KeepGradient", "KeepShadow") else "useful"
            self.send("rollback" if again else kind, name, count)

    def aborted(self, price: Price, seconds: float) -> None:
        """An iteration of which so much was done when a stage was lost."""
        self.spend("rollback", seconds)
        share = seconds / price.total if price.total else 0.0
        for name, count in price.bytes.items():
            self.send("rollback", name, int(count * share))


_Alike = tuple[int, tuple[Mirror, ...], tuple[Transfer, ...]]
"""What iterations of one price have in common; the first is the id of their schedule."""


class _Host:
    """Carries messages between the lead and simulated workers, and turns the clock."""

    def __init__(
        self, setting: RehearsalSetting, strikes: FailureSchedule, listener: Callable[[int], object]
    ):
        self._setting, self._strikes, self._listener = setting, strikes, listener
        seats = setting.seats
        self._lead = Lead(
            Membership(seats, dict.fromkeys(seats, 0)), setting.strategy, setting.terms
        )
        limits = setting.strategy.activation_buffer
        self._workers = SimulatedWorkers.new(setting.sizes, seats, setting.averages_moments, limits)
        self._workers.average_last = setting.average_last
        self._ledger = CostLedger()
        self._copies = BackgroundCopies(setting.fleet)
        self._inbox: deque[Message] = deque()
        self._prices: dict[_Alike, tuple[Begin, Price]] = {}
        self._counts: dict[int, Any] = {}
        self._begun: tuple[Begin, Price] | None = None
        self._struck_at: float | None = None
        self._uploaded, self._highest = 0.0, -1
        self._records: list[Record] = []
        self._failures: list[Failure] = []
        self._trained: list[int] = []
        self._ends: list[float] = []
        self._recoveries: list[float] = []

    def run(self, until: int | None) -> None:
        while (out := self._lead.advance()) is not None or self._await_copies():
            if until is not None and len(self._ends) >= until:
                return
            self._act(out or ())
            while self._inbox:
                self._lead.deliver(self._inbox.popleft())
        if not (self._lead.done or self._lead.failure):
            raise AssertionError(f"nothing moves: {self._lead.phase}")

    def rehearsal(self) -> Rehearsal:
        setting, ledger, simulated = self._setting, self._ledger, self._workers
        simulated.note_peak()
        priced = Priced(
            fleet=f"{setting.fleet.name} ({setting.sizes.name} sizes)",
            iterations=tuple(self._trained),
            ends=tuple(self._ends),
            seconds=dict(ledger.seconds),
            bytes=dict(ledger.bytes),
            messages=dict(ledger.messages),
            recoveries=tuple(self._recoveries),
            stored={
                "peers": simulated.peak_peers,
                "store": simulated.peak_store,
                "own": simulated.peak_own,
            },
            parameters=setting.sizes.parameters,
            nodes=1 if setting.fleet.serial else len(setting.seats),
            price=setting.fleet.price,
            reason=self._lead.failure,
        )
        trace = make_trace(self._failures)
        return Rehearsal(tuple(self._records), trace, priced, self._lead.failure)

    # --- what the lead sends ---------------------------------------------------------------------

    def _act(self, out: Sequence[Outgoing]) -> None:
        groups: dict[type, list[Any]] = {}
        for to, message in out:
            groups.setdefault(type(message), []).append((to, message))
        for kind, group in groups.items():
            if kind is Note:
                self._records += [_without_losses(note.record) for _, note in group]
            elif kind is Due:
                self._due(group[0][1])
            elif kind is Begin:
                self._begin([to for to, _ in group], group[0][1])
            elif kind is Commit:
                self._commit([to for to, _ in group], group[0][1])
            elif kind is Rebuild:
                self._rebuild(group)
            elif kind is Archive:
                self._archive(group[0][1])
            elif kind is Push and Archive not in groups:
                orders = [(order, order.keep) for _, order in group]
                self._push([(o, keep) for o, keep in orders if isinstance(keep, Mirror)])
                self._push_copies([o for o, keep in orders if isinstance(keep, Transfer)])

    def _due(self, due: Due) -> None:
        seats = self._strikes.before(due.tick, self._ledger.now)
        lost, joined = self._kill(seats)
        self._inbox.append(Struck(due.epoch, due.tick, lost, joined))

    def _kill(self, seats: Collection[Address]) -> tuple[Any, Any]:
        """Their lives end, others begin; what is lost is noticed and replaced."""
        if not seats:
            return (), ()
        lives = self._lead.members.lives
        lost = tuple((seat, lives[seat]) for seat in sorted(seats))
        for seat in seats:
            self._workers.lose(seat)
        self._copies.drop(lambda copy: bool({copy.keep.owner, copy.keep.holder} & set(seats)))
        self._failures += _entries(self._lead.progress.tick, seats, self._setting.seats)
        if self._struck_at is None:
            self._struck_at = self._ledger.now
        fleet = self._setting.fleet
        self._idle("detection", fleet.detection + fleet.replacement)
        return lost, tuple((seat, life + 1) for seat, life in lost)

    # --- time that passes beside training --------------------------------------------------------

    def _idle(self, kind: str, seconds: float) -> None:
        """Everybody waits for something that takes no line between seats."""
        self._ledger.spend(kind, seconds)
        self._arrive(self._copies.passed(seconds, {}))

    def _arrive(self, copies: Sequence[Push]) -> None:
        for order in copies:
            assert isinstance(order.keep, Transfer)
            self._inbox.append(Kept(order.epoch, order.keep, order.version))

    def _await_copies(self) -> bool:
        """A copy is to count by now and is not there: everybody waits for one more to arrive."""
        seconds = self._copies.next_arrival()
        if self._lead.done or self._lead.failure or seconds == float("inf"):
            return False
        self._idle("redundant", seconds)
        return True

    # --- an iteration ----------------------------------------------------------------------------

    def _begin(self, workers: Sequence[Address], begin: Begin) -> None:
        if begin.ticket.purpose is Purpose.VALIDATE:
            sent = message_bytes(begin.routes, {}, (), (), self._setting.sizes)
            self._ledger.send("validation", "Activation", sent["Activation"])
            return self._prepare(workers, begin)
        self._workers.tidy(begin)
        if self._struck_at is not None:
            self._recoveries.append(self._ledger.now - self._struck_at)
            self._struck_at = None
        price, now, tick = self._price(begin), self._ledger.now, self._lead.progress.tick
        hit = self._strikes.during(tick, now, now + price.total)
        if hit is None:
            self._begun = begin, price
            return self._prepare(workers, begin)
        self._struck_at = hit
        self._ledger.aborted(price, hit - now)
        share = (hit - now) / price.total
        busy = {line: share * seconds for line, seconds in price.busy.items()}
        self._arrive(self._copies.passed(hit - now, busy))
        lost, joined = self._kill(self._strikes.before(tick, max(hit, self._ledger.now)))
        self._inbox.extend(Lost(seat, life) for seat, life in lost)
        self._inbox.extend(Joined(seat, life) for seat, life in joined)

    def _price(self, begin: Begin) -> Price:
        transfers = self._workers.sent(begin)
        key = id(begin.schedule), begin.mirrors, transfers
        if key not in self._prices:
            s = self._setting
            keeps = begin.mirrors, transfers
            price = price_iteration(begin.routes, begin.schedule, *keeps, s.fleet, s.sizes, s.pace)
            self._prices[key] = begin, price  # begin too: ids are of living objects only
        return self._prices[key][1]

    def _answers(self, begin: Begin) -> dict[Address, Any]:
        """Of each worker: losses, forwards, redundant forwards, and the bytes that it sends."""
        key = id(begin.schedule)
        if key not in self._counts:
            made = counts(begin.schedule)
            sent = logged(begin.schedule, begin.routes, self._setting.sizes)
            answers = {w: (losses(begin, w), *made[w], sent[w]) for w in begin.schedule}
            self._counts[key] = begin, answers
        found: dict[Address, Any] = self._counts[key][1]
        return found

    def _prepare(self, workers: Sequence[Address], begin: Begin) -> None:
        answers = self._answers(begin)
        for worker in workers:
            zeros, forwards, redundant, count = answers[worker]
            count *= begin.logs is not None
            answer = Prepared(begin.ticket, worker, zeros, 1.0, forwards, redundant, count)
            self._inbox.append(answer)

    def _commit(self, workers: Sequence[Address], commit: Commit) -> None:
        assert self._begun is not None
        begin, price = self._begun
        iteration = commit.ticket.iteration
        self._ledger.iteration(price, again=iteration <= self._highest)
        self._arrive(self._copies.passed(price.total, price.busy))
        self._highest = max(self._highest, iteration)
        self._workers.step(workers, begin.mirrors)
        self._workers.cross(begin)
        self._workers.put_aside(begin, {w: told[-1] for w, told in self._answers(begin).items()})
        for transfer in begin.transfers:
            self._workers.shadow(transfer, begin)
            self._inbox.append(Kept(commit.ticket.epoch, transfer, iteration + 1))
        self._trained.append(iteration)
        self._ends.append(self._ledger.now)
        self._listener(len(self._ends))
        self._inbox.extend(Stepped(commit.ticket, worker) for worker in workers)

    # --- states ----------------------------------------------------------------------------------

    def _push(self, orders: Sequence[tuple[Push, Mirror]]) -> None:
        """Exact copies, whole, for holders that have none."""
        kind = "redundant" if self._struck_at is None else "rebuild"
        sizes = [(m, self._workers.push(o).bytes(self._setting.sizes)) for o, m in orders]
        for (order, mirror), (_, count) in zip(orders, sizes, strict=True):
            self._ledger.send(kind, "KeepState", count)
            self._inbox.append(Kept(order.epoch, mirror, order.version))
        lines = NetworkLines(self._setting.fleet)  # they leave all at once
        arrivals = [lines.send(0.0, m.owner, m.holder, count) for m, count in sizes]
        self._ledger.spend(kind, max(arrivals, default=0.0))
        self._workers.note_peak()

    def _push_copies(self, orders: Sequence[Push]) -> None:
        """Of a wave: they travel beside the next iterations, after all else. In one process they
        are there at once."""
        for order in orders:
            count = self._workers.push_copy(order).bytes(self._setting.sizes)
            self._ledger.send("redundant", "KeepState", count)
            if self._setting.fleet.serial:
                self._arrive([order])
            else:
                self._copies.send(order, count)
        self._workers.note_peak()

    def _archive(self, order: Archive) -> None:
        """A checkpoint, or weights to average; the finished weights are nobody's cost."""
        offered = self._workers.archive(order)
        self._inbox.append(Archived(order.epoch, order.area, order.shelf, offered))
        if order.area not in (CHECKPOINT, AVERAGE):
            return
        moments = order.area == CHECKPOINT
        fleet, sizes = self._setting.fleet, self._setting.sizes
        sent = [self._workers.own[seat].bytes(sizes, moments=moments) for seat in order.seats]
        self._ledger.send("checkpoint", "KeepState", sum(sent))
        # In one process a thread writes one state after another.
        together = sum(sent) if fleet.serial else max(sent, default=0)
        seconds = together / fleet.store
        if fleet.overlapped:
            self._idle("checkpoint", max(0.0, self._uploaded - self._ledger.now))
            self._uploaded = self._ledger.now + seconds
        else:
            self._idle("checkpoint", seconds)
        self._workers.note_peak()

    def _rebuild(self, orders: Sequence[tuple[Address, Rebuild]]) -> None:
        replies = [
            (seat, source.holder, self._workers.reply(source, moments=order.recipe.moments))
            for seat, order in orders
            for source in order.recipe.sources
        ]
        crossed = {s: self._workers.crossed(s.stage, order.recipe) for s, order in orders}
        held = [(to, seat, n) for to, (sent, _) in crossed.items() for seat, n in sent.items()]
        made = [(seat, self._workers.rebuilt(seat, order)) for seat, order in orders]
        self._workers.own |= dict(made)
        self._copies.drop(lambda copy: copy.version > orders[0][1].resume_at)
        replayed = {seat: order for seat, order in orders if order.again is not None}
        forwards, backwards = resent(list(replayed.items()), self._setting.sizes)
        self._ledger.send("replay", "Activation", forwards)
        self._ledger.send("replay", "Gradient", backwards)
        for seat, _, count in replies:
            self._ledger.send("replay" if seat in replayed else "rebuild", "StateReply", count)
        self._ledger.send("rebuild", "BoundaryReply", sum(count for _, _, count in held))
        self._spend_on_states(orders, replayed, [*replies, *held])
        for seat, order in orders:
            moved = sum(count for to, by, count in (*replies, *held) if to == seat != by)
            moved += 0 if order.again is None else received(seat, order, self._setting.sizes)
            answer = Rebuilt(order.epoch, order.life, seat, (), moved)
            if order.recipe.fit and not crossed[seat][1]:
                answer = replace(answer, problem="nothing to fit it to is held", rejected=True)
            self._inbox.append(answer)

    def _spend_on_states(
        self,
        orders: Orders,
        replayed: Mapping[Address, Rebuild],
        replies: Sequence[tuple[Address, Address, int]],
    ) -> None:
        """Until all have their states: some are rebuilt while others are replayed, and what the
        replays take longer is theirs. One process does everything in turn."""
        s = self._setting
        there = _arrivals(replies, s.fleet)
        rebuilt = max((at for seat, at in there.items() if seat not in replayed), default=0.0)
        rebuilt += self._fit_seconds(orders)
        again = max((at for seat, at in there.items() if seat in replayed), default=0.0)
        again += replay_seconds(list(replayed.items()), s.fleet, s.sizes, s.pace)
        self._ledger.spend("rebuild", rebuilt)
        self._ledger.spend("replay", again if s.fleet.serial else max(0.0, again - rebuilt))

    def _fit_seconds(self, orders: Sequence[tuple[Address, Rebuild]]) -> float:
        """Of the local steps; seats take them side by side."""
        pace = self._setting.pace
        spent = [
            order.recipe.fit * (part.forward + part.backward + pace.step(seat))
            for seat, order in orders
            for part in (pace.body(max(1, seat.stage)),)
        ]
        return sum(spent) if self._setting.fleet.serial else max(spent, default=0.0)


def _arrivals(
    replies: Sequence[tuple[Address, Address, int]], fleet: Fleet
) -> dict[Address, float]:
    """Seconds from the order until each seat has its sources: (seat, holder, bytes) of each."""
    lines, arrivals = NetworkLines(fleet), dict[Address, float]()
    from_store = 0.0
    for seat, holder, count in replies:
        if holder == STORE:
            from_store += count
            here = (from_store if fleet.serial else count) / fleet.store
        else:
            asked = fleet.link(seat, holder).latency if seat != holder else 0.0
            here = lines.send(asked, holder, seat, count)
        arrivals[seat] = max(here, arrivals.get(seat, 0.0))
    return arrivals


def _entries(tick: int, struck: Collection[Address], seats: Collection[Address]) -> list[Failure]:
    """As a trace has them: a stage if all of its seats are struck, else each seat."""
    found: list[Failure] = []
    for stage in sorted({seat.stage for seat in struck}):
        hit = {seat for seat in struck if seat.stage == stage}
        whole = hit == {seat for seat in seats if seat.stage == stage}
        found += [Failure(tick, stage)] if whole else [Failure(tick, *seat) for seat in sorted(hit)]
    return found


def _without_losses(record: Record) -> Record:
    match record:
        case IterationRecord():
            return replace(record, loss=NAN, gradient_norms={})
        case ValidationRecord():
            return replace(record, loss=NAN)
        case RecoveryRecord():
            return replace(record, validation_before=None, validation_after=None)
    return record
