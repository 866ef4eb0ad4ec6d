"""``recovery=replay``: exact, or not at all."""

from __future__ import annotations

from collections.abc import Mapping

from checkfree.core.ops import Address, Refusal, Repair, Source, View
from checkfree.messages.tensors import StageState
from checkfree.recovery.options import ReplayOptions
from checkfree.recovery.replay.plan import replays
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy


class LogAndReplay(Strategy):
    """Keeps logs and waves, and has lost stages replayed."""

    def __init__(self, terms: ReplayTerms):
        self._terms = terms

    @property
    def replays(self) -> ReplayTerms:
        return self._terms

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return replays(lost, view, refused)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        (state,) = states.values()
        return Rebuilding(state, (1.0,))


def replay(options: ReplayOptions) -> LogAndReplay:
    """As configured."""
    return LogAndReplay(ReplayTerms.of(options))
