"""What the lead knows of waves and logs, and when the next wave is due.

A wave is ordered with a commit, and its copies travel while others train. It counts ``lag``
iterations later: the lead waits for what is missing then, never before. So what a replay may begin
with depends on what was committed and who was lost when, never on which message came first. Until
then the wave before it is kept, and so is what was sent since that one::

    version    480          490       493
    base       480 ─────────────────> 490
    wave                    490 ····> counts
    logs since 480 ─────────────────> 490
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from checkfree.core.ops import Address, Course, Protection, Repair, Route, Source, Transfer
from checkfree.messages.control import ForReplays
from checkfree.recovery.replay.plan import Locations, holders, lost_with
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import EXACT, REPLAY

SOON = 2
"""Iterations until the copy of a stage counts that has no other, or none on another machine:
whoever held it was lost, or has moved; and until a wave does, if a stage could not be replayed
without it. They may take their lines' whole width, and are waited for: as long as they travel, the
stage could be lost for good."""


@dataclass
class _Copy:
    """One that is on its way, or has arrived; it counts from that iteration on. ``epoch``: in which
    it was ordered last."""

    owner: Address
    counts_at: int
    epoch: int = -1
    arrived: bool = False


@dataclass(frozen=True)
class Passed:
    """A committed iteration: how it ran, what each stage's gradient was multiplied by and the norm
    that it had before, and the bytes that each seat logged."""

    course: Course
    clip: Mapping[int, float]
    norms: Mapping[int, float]
    logged: Mapping[Address, int]


@dataclass
class _Summary:
    """What is asked of all that has passed, before each iteration: the bytes of each seat's log,
    and the routes of each iteration. An iteration adds to it; anything else makes it anew."""

    bytes: dict[Address, int]
    routes: dict[int, tuple[Route, ...]]


class ReplayBook:
    """Of one run; without ``terms`` nothing is kept. It begins at a version that the store has in
    its area ``stored``; "": the seed makes it."""

    def __init__(
        self,
        terms: ReplayTerms | None,
        version: int,
        seats: Iterable[Address],
        stored: str = "",
    ):
        self._terms = terms
        self._base: int | None = version
        self.stored, self._drawn = stored, not stored
        self._pending: int | None = None
        self._counts_at = 0
        self._urgent = False
        """The next wave is to count soon."""
        self._copies: dict[Source, _Copy] = {}
        self._clones: dict[int, set[Address]] = {}
        self._sums: dict[int, dict[int, int]] = {}
        """Of the versions that copies are of, by stage."""
        self._logs = dict.fromkeys(seats, version)
        self.passed: dict[int, Passed] = {}
        """Iterations since ``logs``, ascending."""
        self._newest: Mapping[Address, int] = {}
        """Bytes that seats logged in the last one."""
        self._summary: _Summary | None = None
        self.digests: dict[int, tuple[int, int]] = {}
        """Of each stage the last that is known, and the version that it is of."""
        self.reached: dict[Address, int] = {}
        """Versions of those that are being replayed."""
        self._since: dict[int, int] = {}
        """Of stages that were made inexactly, at which version."""

    @property
    def on(self) -> bool:
        return self._terms is not None

    @property
    def base(self) -> int | None:
        """The version that replays begin at."""
        return self._base if self.on else None

    @property
    def logs(self) -> int | None:
        """The version since which seats keep what they sent."""
        return self.base if self.base is not None else self._pending

    @property
    def tolerance(self) -> float | None:
        """By what share the norms of a replay's gradients may differ; None: as suits what
        computes."""
        return None if self._terms is None else self._terms.tolerance

    def copied(self, stage: int) -> int | None:
        """The sum over a stage at the version that replays begin at, if it is known."""
        return None if self._base is None else self._sums.get(self._base, {}).get(stage)

    @property
    def clones(self) -> tuple[int, ...]:
        """Versions of which owners keep a copy of their own."""
        return tuple(sorted(self._clones))

    # --- waves -----------------------------------------------------------------------------------

    def wave(self, committed: int, alive: Collection[Address], limit: int) -> tuple[Address, ...]:
        """Whose state is put aside with the commit to come, if a wave is due then, and there are
        iterations left of ``limit``."""
        busy = self._terms is None or self._pending is not None or committed + 1 >= limit
        if busy or not self._due(committed, alive):
            return ()
        firsts: dict[int, Address] = {}
        for seat in sorted(alive, reverse=True):
            firsts[seat.stage] = seat
        return tuple(firsts[stage] for stage in sorted(firsts))

    def _due(self, committed: int, alive: Collection[Address]) -> bool:
        terms = self._terms
        assert terms is not None
        if self._base is None or self.stored or self._urgent or self._unprotected(alive):
            return True
        if terms.every is not None:
            return committed + 1 - self._base >= terms.every
        if terms.log_memory is not None:
            # Ordered with the next iteration, it counts after ``lag`` more: else one too many.
            return self._fullest() + (terms.lag + 2) * self._most() > terms.log_memory
        return committed + 1 - self._base >= terms.lag

    def _unprotected(self, alive: Collection[Address]) -> bool:
        """A stage has no copy of the base on another's seat, and can't send one."""
        if self._base is None or (self._drawn and not self._since):
            return False
        held = {copy.of for copy in self._copies if copy.version == self._base}
        own = {seat.stage for seat in self._clones.get(self._base, ()) if seat in alive}
        anew = {stage for stage, since in self._since.items() if since > self._base}
        return bool({seat.stage for seat in alive} - ((held | own) - anew))

    def _fullest(self) -> int:
        """Bytes of the largest log."""
        return max(self._summed().bytes.values(), default=0)

    def _most(self) -> int:
        """Bytes that an iteration adds to it at most."""
        newest = next(reversed(self.passed.values()), None)
        return max((self._newest if newest is None else newest.logged).values(), default=0)

    def _summed(self) -> _Summary:
        """Of all that has passed."""
        if self._summary is None:
            self._summary = _Summary({}, {})
            for iteration, passed in self.passed.items():
                self._add(self._summary, iteration, passed)
        return self._summary

    def _add(self, summary: _Summary, iteration: int, passed: Passed) -> None:
        summary.routes[iteration] = passed.course.routes
        since = self.logs or 0
        for seat, count in passed.logged.items():
            if iteration >= max(since, self._logs.get(seat, since)):
                summary.bytes[seat] = summary.bytes.get(seat, 0) + count

    def orders(
        self,
        committed: int,
        alive: Collection[Address],
        epoch: int = -1,
        locations: Locations = MappingProxyType({}),
    ) -> list[tuple[Transfer, int]]:
        """Copies that are missing, of the base and of the wave on its way, with their version; to
        be sent in that epoch. Seats are in those ``locations``."""
        if self._terms is None:
            return []
        found, copies = [], self._terms.copies
        for version, owners in sorted(self._clones.items()):
            for owner in sorted(owners & set(alive)):
                having = [
                    copy.holder
                    for copy in self._copies
                    if copy.of == owner.stage and copy.version == version
                ]
                for holder in holders(owner.stage, alive, copies, having, locations):
                    copy = _Copy(owner, committed + self._terms.lag, epoch)
                    self._copies[Source(holder, owner.stage, version)] = copy
                    found.append((Transfer(owner, holder, "state"), version))
        self._date(committed, alive, locations)
        return found

    def _date(self, committed: int, alive: Collection[Address], locations: Locations) -> None:
        """What is on its way counts with its wave; of the base as soon as it can where nothing
        else does, or nothing that is on another machine."""
        assert self._terms is not None
        soon = committed + min(SOON, self._terms.lag)
        counting: dict[int, list[Address]] = {}
        for copy, how in self._copies.items():
            if copy.version == self._base and how.counts_at <= committed:
                counting.setdefault(copy.of, []).append(copy.holder)
        for copy, how in self._copies.items():
            if copy.version == self._pending:
                how.counts_at = self._counts_at
            elif how.counts_at > soon:
                own, others = [s for s in alive if s.stage == copy.of], counting.get(copy.of, [])
                beside = {h: lost_with(h, own, locations)[0] for h in (copy.holder, *others)}
                if all(beside[h] and not beside[copy.holder] for h in others):
                    how.counts_at = soon

    def kept(self, transfer: Transfer, version: int, epoch: int = -1) -> None:
        """The holder has it, which was sent in that epoch: an earlier life of it may have had it,
        too."""
        copy = self._copies.get(Source(transfer.holder, transfer.owner.stage, version))
        if copy is not None and (copy.owner, copy.epoch) == (transfer.owner, epoch):
            copy.arrived = True

    def waiting(self, committed: int) -> bool:
        """A copy that is to count by now has not arrived."""
        return any(
            not copy.arrived and copy.counts_at <= committed for copy in self._copies.values()
        )

    def settle(self, committed: int, alive: Collection[Address]) -> None:
        """Before the next iteration begins: the wave on its way counts if it is due and whole; and
        logs that have no room for one more iteration are begun anew."""
        if self._terms is None:
            return
        if self._pending is not None and committed >= self._counts_at:
            pending, self._pending = self._pending, None
            held = {copy.of for copy in self._copies if copy.version == pending}
            if held >= {seat.stage for seat in alive}:
                self._base, self.stored, self._drawn = pending, "", False
                self._since = {stage: at for stage, at in self._since.items() if at > pending}
            else:
                self._forget_version(pending)
            self._trim()
        memory = self._terms.log_memory
        if memory is not None and self._fullest() + self._most() > memory:
            if self._base is None:  # nor does it help to begin at the wave
                self._pending = None
            self._base, self.stored, self._drawn = None, "", False
            self._trim()
        if self._pending is not None and not self._can_count(self._pending, alive):
            self._forget_version(self._pending)
            self._pending = None
            self._trim()

    def _can_count(self, version: int, alive: Collection[Address]) -> bool:
        """Each stage has a copy of it on another's seat, or can send one."""
        held = {copy.of for copy in self._copies if copy.version == version}
        own = {seat.stage for seat in self._clones.get(version, ()) if seat in alive}
        return held | own >= {seat.stage for seat in alive}

    def hurry(self, committed: int) -> None:
        """A stage could not be replayed if it were lost now. Unless a copy is about to count, which
        may mend that, the wave on its way is to count soon; if there is none, one is due at
        once, and counts soon."""
        assert self._terms is not None
        soon = committed + min(SOON, self._terms.lag)
        memory = self._terms.log_memory
        if memory is not None and (SOON + 1) * self._most() > memory:
            return  # logs would be begun anew before it counts, again and again
        if any(committed < how.counts_at <= soon for how in self._copies.values()):
            return
        if self._pending is None:
            self._urgent = True
        else:
            self._counts_at = min(self._counts_at, soon)

    def _trim(self) -> None:
        """What is older than all that counts, or may, is of no use."""
        self._summary, since = None, self.logs
        if since is None:
            self._copies, self._clones, self._sums, self.passed = {}, {}, {}, {}
            return
        self._copies = {c: how for c, how in self._copies.items() if c.version >= since}
        self._clones = {v: owners for v, owners in self._clones.items() if v >= since}
        self._sums = {v: sums for v, sums in self._sums.items() if v >= since}
        self.passed = {i: passed for i, passed in self.passed.items() if i >= since}

    def _forget_version(self, version: int) -> None:
        self._copies = {c: how for c, how in self._copies.items() if c.version != version}
        self._clones.pop(version, None)

    # --- what happens to the run -----------------------------------------------------------------

    def committed(
        self,
        iteration: int,
        passed: Passed,
        wave: Collection[Address],
        digests: Mapping[int, int],
    ) -> None:
        """All have stepped; ``wave``: those that put their state aside; ``digests``: of stages."""
        if self._terms is None:
            return
        if wave:
            lag = min(SOON, self._terms.lag) if self._urgent else self._terms.lag
            self._pending, self._counts_at = iteration + 1, iteration + 1 + lag
            self._urgent = False
            self._clones[iteration + 1] = set(wave)
            self._sums[iteration + 1] = dict(digests)
        self._newest = passed.logged
        if self.logs is not None and iteration >= self.logs:
            self.passed[iteration] = passed
            if self._summary is not None:
                self._add(self._summary, iteration, passed)
        self.digests |= {stage: (iteration + 1, digest) for stage, digest in digests.items()}

    def lose(self, seat: Address, committed: int) -> None:
        """With all that it held and had sent, but for what others have of it for certain."""
        self.unsure(seat, committed)
        self._copies = {c: how for c, how in self._copies.items() if c.holder != seat}
        for owners in self._clones.values():
            owners.discard(seat)
        self._logs.pop(seat, None)
        self._summary = None
        self.reached.pop(seat, None)

    def unlogged(self, seat: Address, since: int) -> None:
        """What it had sent before can't be read. If it is being replayed, it begins anew: whoever
        goes on from what it has reached has a whole log."""
        if seat in self._logs:
            self._logs[seat] = max(since, self._logs[seat])
            self._summary = None
        self.reached.pop(seat, None)

    def unsure(self, seat: Address, committed: int) -> None:
        """What it has pushed or was sent of late may never arrive: all that is not known to be
        there, and what does not count yet."""
        self._copies = {
            copy: how
            for copy, how in self._copies.items()
            if seat not in (how.owner, copy.holder) or (how.arrived and how.counts_at <= committed)
        }

    def rebuilt(self, repair: Repair, close: Collection[int] = ()) -> None:
        """A repair is over, and nobody has gone back. Whoever was replayed has passed by all
        versions that are kept, and has a log since the base, as has whoever has computed it
        again, if that was as far as its own log goes back to. Stages that came ``close`` have other
        bits than those that sums are known of."""
        self.reached, self._summary = {}, None
        if self._terms is None:
            return
        for stage in close:
            self.digests.pop(stage, None)
            for version, sums in self._sums.items():
                if version != self._base:
                    sums.pop(stage, None)
        for seat, recipe in repair.rebuild.items():
            self._logs[seat] = repair.resume_at
            if recipe.rule not in EXACT:
                self._since[seat.stage] = repair.resume_at
                self.digests.pop(seat.stage, None)
            if recipe.rule == REPLAY and self._base is not None:
                self._has_log(seat, self._base, {})
                for owners in self._clones.values():
                    owners.add(seat)
        for seat, relog in repair.relogs.items():
            if self._base is not None and relog.until >= self._logs.get(seat, relog.until):
                self._has_log(seat, self._base, self.logged(seat.stage, self._logs))
        anew = [seat for seat, recipe in repair.rebuild.items() if recipe.rule not in EXACT]
        if anew and self._pending is not None:
            # What a wave on its way has of them is of another course: the next one is due at once.
            self._forget_version(self._pending)
            self._pending = None
            self._trim()

    def logged(self, stage: int, seats: Collection[Address]) -> dict[Address, int]:
        """Which of these seats have what they sent for a stage, since which version."""
        found = {s: since for s, since in self._logs.items() if s in seats}
        return {s: since for s, since in sorted(found.items()) if s.stage == stage}

    def _has_log(self, seat: Address, since: int, logged: Mapping[Address, int]) -> None:
        """Of what all seats of its stage sent, but for what others of them have ``logged``."""
        self._logs[seat] = since
        for iteration, passed in self.passed.items():
            count = sum(
                n
                for other, n in passed.logged.items()
                if other.stage == seat.stage
                and (other == seat or iteration < logged.get(other, iteration + 1))
            )
            counts = {**passed.logged, seat: count}
            self.passed[iteration] = replace(passed, logged=counts)

    def restart(self, version: int, seats: Iterable[Address], stored: str) -> None:
        """All have gone back to a version that the store has in that area; "": the seed makes
        it."""
        self._base, self.stored, self._drawn = version, stored, not stored
        self._pending, self.digests, self.reached, self._since = None, {}, {}, {}
        self._copies, self._clones, self._sums = {}, {}, {}
        self.passed, self._summary = {}, None
        self._logs = dict.fromkeys(seats, version)

    def go_back(self, seats: Iterable[Address]) -> None:
        """All are at the base again, and have its copies."""
        assert self._base is not None
        version, stored, drawn = self._base, self.stored, self._drawn
        copies = {copy: how for copy, how in self._copies.items() if copy.version == version}
        clones = {version: self._clones.get(version, set())}
        sums = {version: self._sums.get(version, {})}
        self.restart(version, seats, stored)
        self._copies, self._clones, self._sums, self._drawn = copies, clones, sums, drawn

    def unknown(self, committed: int, seats: Iterable[Address]) -> None:
        """Another lead knew: protection begins with the next wave."""
        self.restart(committed, seats, "")
        self._base, self._drawn = None, False

    def take_over(
        self,
        since: int,
        told: Mapping[Address, ForReplays],
        alive: Collection[Address],
        anew: Mapping[int, int],
        *,
        drawn: bool,
        stored: str,
    ) -> None:
        """What others tell, as another lead had it; ``since``: the version that it kept logs from;
        ``anew``: those at which stages were last made inexactly. A stage that has no copy of that
        is unprotected before the next wave."""
        self._base, self.stored, self._drawn = since, stored, drawn
        self._since = {stage: at for stage, at in anew.items() if at > since}
        self._logs, self._summary = {seat: told[seat].log for seat in alive}, None
        self._clones = {}
        for seat, has in told.items():
            for version in has.own:
                if version == since:
                    self._clones.setdefault(version, set()).add(seat)
            for stage, version in has.copies:
                if version == since:
                    owner = Address(stage)
                    copy = _Copy(owner, 0, arrived=True)
                    self._copies[Source(seat, stage, version)] = copy
            whole = has.log <= since  # it may have begun with a wave that nobody told others of
            if has.reached is not None and seat not in alive and whole:
                self.reached[seat] = has.reached

    def protection(self, committed: int, alive: Collection[Address]) -> Protection | None:
        """What a strategy may know."""
        if self._terms is None:
            return None
        base = self._base
        return Protection(
            base,
            frozenset(
                copy
                for copy, how in self._copies.items()
                if copy.version == base
                and how.arrived
                and how.counts_at <= committed
                and copy.holder in alive
            ),
            frozenset(self._clones.get(-1 if base is None else base, ())) & frozenset(alive),
            bool(self.stored),
            self._drawn,
            {seat: since for seat, since in self._logs.items() if seat in alive},
            dict(self._summed().routes),
            dict(self.reached),
            dict(self._since),
            self._terms.copies,
        )
