"""Whole tiny runs under a ladder, for tests of what it did."""

from __future__ import annotations

from typing import Any

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy
from checkfree.worker import StageWorker
from tests.tiny import Run, make


def strategy(name: str, net: int | None = None, **options: Any) -> Strategy:
    """Nothing is replayed, so that the other rungs are reached."""
    return make_strategy(RecoveryConfig(name=name, **{"log_memory": 0, **options}), net)


def run(name: str, losses: dict[int, list[str]], **options: Any) -> Run:
    made = prepared(name, losses, **options)
    made.runtime.run()
    return made


def prepared(
    name: str, losses: dict[int, list[str]], *, iterations: int = 14, **options: Any
) -> Run:
    """One that has not begun."""
    net, more = options.pop("net", None), options.pop("terms", {})
    return make(
        strategy(name, net, **{"shadow_every": 5, **options}),
        stages=4,
        terms={"iterations": iterations, "microbatches": 4, "validation_every": 5, **more},
        strikes=lambda tick: [Address.parse(seat) for seat in losses.get(tick, ())],
    )


def told(made: Run) -> list[dict[str, str]]:
    return [{s: m.recipe.rule for s, m in r.rebuilds.items()} for r in made.of_kind("recovery")]


def worker(made: Run, seat: str) -> StageWorker:
    found = made.runtime.actors[Address.parse(seat)]
    assert isinstance(found, StageWorker)
    return found
