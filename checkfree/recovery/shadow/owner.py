"""The shadows that a seat pushes: what is due, how it is written, and what holders have by then."""

from __future__ import annotations

from collections import deque

from checkfree.core.formats import SIGNS
from checkfree.core.ops import Address, Transfer
from checkfree.messages.control import Begin, Outgoing
from checkfree.messages.tensors import KeepShadow, StageState
from checkfree.recovery.shadow import changes
from checkfree.recovery.shadow.format import pack_state
from checkfree.recovery.shadow.references import References


class Pushes:
    """Of one seat. True while anything is due. ``shelf``: of the snapshot that is."""

    def __init__(self, seat: Address):
        self.references: References[StageState] = References(seat)
        self._seat = seat
        self._due: deque[tuple[Begin, Transfer]] = deque()
        self.shelf: tuple[int, int] | None = None
        """With the epoch that it is of."""

    def __bool__(self) -> bool:
        return bool(self._due) or self.shelf is not None

    def committed(self, plan: Begin) -> None:
        """What a plan wants pushed is due."""
        self._due += [(plan, push) for push in plan.transfers if push.owner == self._seat]
        if self._seat in plan.snapshot:
            self.shelf = plan.ticket.epoch, plan.shelf

    def restarted(self, shadow: tuple[Address, StageState] | None) -> None:
        """The seat became another stage, or again its own out of a shadow that its holder keeps."""
        self.references.clear()
        if shadow is not None:
            holder, state = shadow
            self.references.leave(holder, state.version, state)

    def push(self, state: StageState) -> Outgoing:
        """What is due next, of the weights as they were just committed."""
        plan, keep = self._due.popleft()
        if keep.what == SIGNS:
            return keep.holder, self._signs(plan, keep, state)
        return keep.holder, KeepShadow(plan.ticket.epoch, keep, pack_state(state, keep.what))

    def _signs(self, plan: Begin, keep: Transfer, state: StageState) -> KeepShadow:
        left = self.references.base(keep, plan)
        if left is not None and not changes.is_base(left.item, state):
            left = None  # of a snapshot that an older version made, with what never trains
        base = None if left is None else left.item
        sent = changes.whole(state) if base is None else changes.change(state, base)
        self.references.leave(keep.holder, state.version, changes.held(sent, base))
        version = None if left is None else left.version
        return KeepShadow(plan.ticket.epoch, keep, sent, version)

    def destroy(self) -> None:
        """Lost means lost."""
        for _, left in self.references.items():
            left.item.destroy()
