"""No recovery: a lost stage ends the run."""

from __future__ import annotations

from collections.abc import Mapping

from checkfree.core.ops import Address, Refusal, Repair, Source, View
from checkfree.messages.tensors import StageState
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, wholly_lost


class NoRecovery(Strategy):
    """What a plain pipeline does."""

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        gone = wholly_lost(lost, view)
        which = (
            f"stage {gone[0]} is" if len(gone) == 1 else f"stages {', '.join(map(str, gone))} are"
        )
        return Refusal(
            f"{which} lost and recovery=none: choose recovery=checkfree_plus, "
            "recovery=checkpoint or recovery=redundant, or set replicas=2"
        )

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        raise AssertionError("recovery=none rebuilds nothing")
