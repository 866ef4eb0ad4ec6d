"""A rule under test, on the routes of the run that branches leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkfree.messages.tensors import StageState
from checkfree.ops import Address, Keep, Refusal, Repair, Route, Source, View
from checkfree.recovery.ring import Room
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy


class OnRoutes(Strategy):
    """Keeps and repairs as ``rule`` does, on the routes that the run trains on: all branches go
    on alike, and differ in their repair only."""

    def __init__(self, run: Strategy, rule: Strategy):
        self._run, self._rule = run, rule

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return self._run.routes(routes)

    def keeps(self, version: int, workers: Any) -> tuple[Keep, ...]:
        return self._rule.keeps(version, workers)

    def shadows(self, view: View) -> tuple[Keep, ...]:
        return self._rule.shadows(view)

    @property
    def room(self) -> Room:
        return self._rule.room

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return self._rule.repair(lost, view, refused)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        return self._rule.rebuild(seat, fresh, states)
