"""Whole runs in which restarts are moved on by the age of their shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from checkfree.core.ops import Address, Source
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.ahead import moved_on
from checkfree.recovery.shadow.format import unpack_state
from tests.tiny import make
from tests.unit.ladders import prepared, strategy, worker


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("ahead", [0.0, 0.5, 1.0])
def test_a_stage_is_moved_on_by_the_age_of_its_shadow(ahead: float) -> None:
    options = {"shadow_format": "signs", "shadow_ahead": ahead}
    made = prepared("auto", {12: ["2.0"]}, iterations=13, **options)
    seen: list[StageState] = []

    def watch(to: Address, message: Any) -> None:
        if type(message).__name__ == "Rebuilt":
            seen.append(worker(made, "2.0").stage.snapshot())
            shadow = worker(made, "3.0").shadows.read(Source(Address(3), 2, 8))
            assert shadow is not None
            seen.extend((moved_on(shadow, 4 * ahead), unpack_state(shadow)))

    made.runtime.run(watch)
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"].recipe.ahead == 4 * ahead
    began, expected, there = seen
    expected = unpack_state(expected)
    for name, param in began.params.items():
        assert torch.equal(param, expected.params[name])
        moved = param.ndim > 1 and ahead > 0
        assert torch.equal(param, there.params[name]) != moved


@pytest.mark.parametrize("at", [7, 12])
def test_a_restart_has_the_configured_learning_rate(at: int) -> None:
    """From a whole copy, which says no way, and from a change."""
    options = {"shadow_format": "signs", "shadow_ahead": 1.0, "lr_scale": 1.5}
    made = prepared("auto", {at: ["2.0"]}, iterations=at + 1, **options)
    made.runtime.run()
    assert len(made.of_kind("recovery")) == 1
    assert made.states()["2.0"].lr_scale == 1.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda part: part[:0], "it can't be moved on: signs with"),
        (lambda part: torch.full_like(part, float("nan")), "not finite"),
        (lambda part: torch.full_like(part, 1e30), "root mean square"),
    ],
)
def test_a_shadow_whose_way_was_spoilt_is_told_and_passed_over(
    wrong: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    def strikes(tick: int) -> list[Address]:
        if tick != 12:
            return []
        (state,) = (s for s in worker(made, "3.0").shadows.states() if s.version == 8)
        heading = cast(dict[str, torch.Tensor], state.heading)
        for name in [name for name in heading if name.endswith("/scales")]:
            heading[name] = wrong(heading[name])
        return [Address(2)]

    options = {"shadow_every": 5, "shadow_format": "signs", "shadow_ahead": 1.0}
    terms = {"iterations": 14, "microbatches": 4}
    made = make(strategy("auto", **options), stages=4, terms=terms, strikes=strikes)
    made.runtime.run()
    (record,) = made.of_kind("recovery")
    told = record.rebuilds["2.0"]
    assert told.recipe.rule == "fitted average"
    assert said in told.rejected[0][1]
