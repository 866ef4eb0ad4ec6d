"""Which shadows there are, as the lead keeps count of them.

A push is ordered with the commit that it comes after, and nobody waits for it: not the next
iteration, and not the one after that. So a shadow counts from two iterations later on; by then
the lead has heard that it is there, or that its owner or holder is lost. What it then counts on
depends on what was committed and who was lost when, never on which message came first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast, get_args, get_type_hints

from checkfree.core.ops import Address, Recipe, Shadow, Transfer
from checkfree.messages.control import Pushed
from checkfree.recovery.rungs import EXACT

COUNTS_AFTER = 2
"""Iterations."""

_Push = tuple[Transfer, int]
"""What, and the version that it is of."""

Entry = tuple[str, str, str, int, int]
"""A shadow as a snapshot tells of it: owner, holder, how it is written, version and epoch."""


def entry_of(plain: Sequence[Any]) -> Entry:
    """Raises ValueError or TypeError for what is none."""
    owner, holder, what, version, epoch = plain
    seats = Address.parse(owner), Address.parse(holder)
    if what not in get_args(get_type_hints(Transfer)["what"]):
        raise ValueError(f"not a format of shadows: {what!r}")
    return str(seats[0]), str(seats[1]), str(what), int(version), int(epoch)


class Shadowing:
    """``_book`` has every push that is on its way (True) or has arrived."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._book: dict[_Push, bool] = {}
        self._epochs: dict[_Push, int] = {}
        for owner, holder, what, version, epoch in entries:
            seats = Address.parse(owner), Address.parse(holder)
            push = Transfer(*seats, cast(Any, what)), version
            self._book[push], self._epochs[push] = False, epoch

    @classmethod
    def told(cls, pushes: Iterable[Pushed], held: Collection[Pushed]) -> Shadowing:
        """As another lead had it: what nobody holds is still on its way."""
        made = cls()
        for push in pushes:
            made._book[push.keep, push.version] = push not in held
            made._epochs[push.keep, push.version] = push.epoch
        return made

    def pushes(self) -> tuple[Pushed, ...]:
        """Those on their way too, for a lead that may take over."""
        return tuple(Pushed(*push, self._epochs[push]) for push in self._book)

    def entries(self) -> tuple[Entry, ...]:
        """What has arrived, for a snapshot."""
        return tuple(
            (str(keep.owner), str(keep.holder), keep.what, version, self._epochs[keep, version])
            for (keep, version), travels in self._book.items()
            if not travels
        )

    def order(self, transfers: Iterable[Transfer], version: int, epoch: int) -> None:
        """Those of a commit of ``epoch`` that makes ``version``. What no longer counts by then is
        forgotten: here, not when an iteration begins, which a replay may do less often."""
        for transfer in transfers:
            self._book[transfer, version] = True
            self._epochs[transfer, version] = epoch
        self._tidy(version)

    def kept(self, pushed: Pushed) -> None:
        """The holder has it."""
        push = pushed.keep, pushed.version
        if push in self._book and self._epochs[push] == pushed.epoch:
            self._book[push] = False

    def resumed(self, having: Collection[tuple[str, str, str, int]]) -> None:
        """All but these is gone: owner, holder, how it is written and version of each."""
        self._forget(
            (keep, version)
            for keep, version in self._book
            if (str(keep.owner), str(keep.holder), keep.what, version) not in having
        )

    def waiting(self, committed: int) -> bool:
        """One of an earlier version has not arrived."""
        return any(travels and push[1] < committed for push, travels in self._book.items())

    def lose(self, seat: Address, committed: int) -> None:
        """What it held is gone, and so is what it has pushed of late: that may never arrive."""
        late = committed - COUNTS_AFTER + 1
        self._forget(
            push
            for push in self._book
            if push[0].holder == seat or (push[0].owner == seat and push[1] >= late)
        )

    def mend(self, resume_at: int, renewed: Collection[int]) -> None:
        """What is newer than where a repair resumes is of another course; and a stage that was
        made of something else had none that was any good."""
        self._forget(
            push for push in self._book if push[1] > resume_at or push[0].owner.stage in renewed
        )

    def pushed(self) -> frozenset[Shadow]:
        """All, those on their way too."""
        return frozenset(Shadow(k.owner.stage, k.holder, version) for k, version in self._book)

    def counted(self, committed: int) -> frozenset[Shadow]:
        """The newest of each stage and holder that can be counted on."""
        newest: dict[tuple[int, Address], int] = {}
        for shadow in sorted(self.pushed()):
            if shadow.version <= committed - COUNTS_AFTER:
                newest[shadow.stage, shadow.holder] = shadow.version
        return frozenset(Shadow(*place, version) for place, version in newest.items())

    def _tidy(self, committed: int) -> None:
        """Of those that may be counted on, the newest are enough: holders forget the others when
        they begin."""
        counted = self.counted(committed)
        late = committed - COUNTS_AFTER
        self._forget(
            (keep, version)
            for keep, version in self._book
            if version <= late and Shadow(keep.owner.stage, keep.holder, version) not in counted
        )

    def _forget(self, pushes: Iterable[_Push]) -> None:
        for push in list(pushes):
            del self._book[push], self._epochs[push]


def renewed(rebuild: Mapping[Address, Recipe]) -> frozenset[int]:
    """The stages that a repair makes of something else than a state of their own."""
    return frozenset(
        seat.stage
        for seat, recipe in rebuild.items()
        if recipe.rule not in EXACT and seat.stage not in {source.of for source in recipe.sources}
    )
