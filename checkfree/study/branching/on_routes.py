"""A rule under test, on the routes of the run that branches leave."""

from __future__ import annotations

from dataclasses import replace

from checkfree.core.config import Config
from checkfree.core.ops import Route, Schedule
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import Wrapper, make_strategy
from checkfree.worker import WorkerContext


class OnRoutes(Wrapper):
    """Keeps and repairs as ``rule`` does, on the routes that the run trains on: all branches go
    on alike, and differ in their repair only."""

    def __init__(self, run: Strategy, rule: Strategy):
        super().__init__(rule)
        self._run = run

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return self._run.routes(routes)

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        """None of the rule's own: they need copies that no seat of the run holds yet."""
        return schedule


def on_routes_of(run: Config, context: WorkerContext, rule: Strategy) -> WorkerContext:
    """What workers of a branch are built with."""
    return replace(context, strategy=OnRoutes(make_strategy(run.recovery), rule))
