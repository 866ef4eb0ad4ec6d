"""Ladders as plain data: which rung is taken for which losses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.config.load import load
from checkfree.core.errors import BadInput
from checkfree.core.ops import STORE, Address, Recipe, Refusal, Repair, Rung, Shadow, Source, View
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.format import pack_state, unpack_state
from tests.unit.ladders import strategy

COMMITTED = 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def view_after(lost: Collection[int], stages: int, **changes: Any) -> View:
    """Each stage has one seat, and each its shadow on the next."""
    alive = frozenset(Address(s) for s in range(stages) if s not in lost)
    held = (Shadow(s, Address((s + 1) % stages), 20 - s % 5) for s in range(stages))
    shadows = frozenset(shadow for shadow in held if shadow.holder in alive)
    seats = frozenset(Address(s) for s in range(stages))
    return replace(View(alive, stages, COMMITTED, seats=seats, shadows=shadows), **changes)


def repaired(name: str, lost: Collection[int], view: View, **options: Any) -> Repair | Refusal:
    seats = frozenset(Address(stage) for stage in lost)
    return strategy(name, **options).repair(seats, view, frozenset())


def rules(repair: Repair | Refusal) -> dict[int, str]:
    assert isinstance(repair, Repair), repair
    return {seat.stage: recipe.rule for seat, recipe in repair.rebuild.items()}


def possible(stage: int, view: View, tried: Collection[str]) -> bool:
    """It has its own shadow, or there is another body stage, if only as a shadow."""
    held = {shadow.stage for shadow in view.shadows}
    if stage in held and "shadow" not in tried:
        return True
    living = {seat.stage for seat in view.alive}
    return stage != 0 and bool((held | living) - {0, stage})


@settings(max_examples=200, deadline=None)
@given(data=st.data(), stages=st.integers(3, 9), swap=st.booleans())
def test_auto_names_nobody_dead_and_gives_up_only_without_anything(
    data: st.DataObject, stages: int, swap: bool
) -> None:
    lost = data.draw(st.sets(st.integers(0, stages - 1), min_size=1, max_size=stages))
    tried = data.draw(st.sets(st.sampled_from(("shadow", "partner copy", "fitted average"))))
    rejected = frozenset(Rung(stage, rule) for stage in lost for rule in tried)
    view = view_after(lost, stages, rejected=rejected)
    repair = repaired("auto", lost, view, swap=swap and stages > 4)
    if not all(possible(stage, view, tried) for stage in lost):
        assert isinstance(repair, Refusal) and "\n" not in repair.reason
        return
    assert isinstance(repair, Repair), repair
    assert {seat.stage for seat in repair.rebuild} == lost and repair.resume_at == COMMITTED
    for seat, recipe in repair.rebuild.items():
        assert Rung(seat.stage, recipe.rule) not in rejected
        assert recipe.sources
        assert {source.holder for source in recipe.sources} <= view.alive
        assert set(recipe.boundary) <= view.alive
        for source in recipe.sources:
            own = source.of == source.holder.stage
            kept = Shadow(source.of, source.holder, source.version) in view.shadows
            assert (own and source.version == COMMITTED) or kept


CHOICES = [
    # lost, changes of the view: rule by stage
    ([2], {}, {2: "shadow"}),
    ([0], {}, {0: "shadow"}),
    ([2, 3], {}, {2: "average", 3: "shadow"}),
    ([2], {"shadows": frozenset()}, {2: "fitted average"}),
    ([1], {"shadows": frozenset()}, {1: "fitted average"}),
    ([5], {"shadows": frozenset()}, {5: "fitted average"}),
    ([2, 4], {"shadows": frozenset()}, {2: "fitted average", 4: "fitted average"}),
    ([1, 2], {"shadows": frozenset()}, {1: "average", 2: "average"}),
    ([1, 2, 4, 5], {"shadows": frozenset()}, dict.fromkeys((1, 2, 4, 5), "average")),
    ([2], {"rejected": frozenset({Rung(2, "shadow")})}, {2: "fitted average"}),
]  # fmt: skip


@pytest.mark.parametrize(("lost", "changes", "expected"), CHOICES)
def test_the_best_rung_that_is_possible(
    lost: list[int], changes: dict[str, Any], expected: dict[int, str]
) -> None:
    assert rules(repaired("auto", lost, view_after(lost, 6, **changes))) == expected


def test_a_swap_partner_only_where_trained_so() -> None:
    view = view_after([1], 6, shadows=frozenset())
    assert rules(repaired("auto", [1], view, swap=True)) == {1: "partner copy"}
    assert rules(repaired("auto", [1], view)) == {1: "fitted average"}


def test_far_apart_stages_weigh_by_how_near_they_are() -> None:
    view = view_after([2, 3, 4], 7, shadows=frozenset())
    repair = repaired("auto", [2, 3, 4], view)
    assert isinstance(repair, Repair)
    assert {s.of for s in repair.rebuild[Address(2)].sources} == {1, 5}
    made = {
        stage: strategy("auto").rebuild(
            Address(stage), nothing, {s: numbers(s.of) for s in repair.rebuild[Address(2)].sources}
        )
        for stage in (2, 3, 4)
    }
    assert [tuple(map(float, made[s].weights)) for s in made] == [
        pytest.approx((0.75, 0.25)),
        pytest.approx((0.5, 0.5)),
        pytest.approx((0.25, 0.75)),
    ]
    assert float(made[2].state.params["w"][0]) == pytest.approx(2.0)


def nothing() -> StageState:
    raise AssertionError("not needed")


def numbers(value: float) -> StageState:
    return StageState({"w": torch.full((3,), float(value))}, {}, {}, COMMITTED, 1.0, 1.0)


@pytest.mark.parametrize("name", ["shadow", "fit"])
def test_stage_0_without_its_shadow_is_refused(name: str) -> None:
    refusal = repaired(name, [0], view_after([0], 6, shadows=frozenset()))
    assert isinstance(refusal, Refusal) and "stage 0" in refusal.reason


def test_a_damaged_shadow_is_passed_over() -> None:
    view = view_after([2], 6)
    bad = frozenset({Source(Address(3), 2, 18)})
    repair = strategy("auto").repair(frozenset({Address(2)}), view, bad)
    assert rules(repair) == {2: "fitted average"}


def test_the_safety_net_is_the_last_rung() -> None:
    made = strategy("auto", net=10)
    lost = frozenset(Address(s) for s in range(6))
    view = replace(view_after(range(6), 6), checkpoints=(20, 30), alive=frozenset())
    repair = made.repair(lost, view, frozenset())
    assert isinstance(repair, Repair) and repair.resume_at == 30
    assert {s.holder for r in repair.rebuild.values() for s in r.sources} == {STORE}


@pytest.mark.parametrize("how", ["int8_rows", "int4_rows", "bf16", "fp32"])
def test_a_packed_state_comes_back_nearly(how: str) -> None:
    state = replace(numbers(1), params={"a.b": torch.randn(5, 8), "bias": torch.randn(8)})
    again = unpack_state(pack_state(state, how))
    assert again.packed == "" and again.params.keys() == state.params.keys()
    for name, param in state.params.items():
        assert torch.allclose(again.params[name], param, atol=0.35 if "int4" in how else 0.02)
    recipe = Recipe("shadow")
    assert recipe.boundary == ()


def test_too_many_stages_for_a_turn_each() -> None:
    with pytest.raises(BadInput, match=r"recovery.shadow_every=6: expected at least 7 iterations"):
        load(None, ["stages=6", "recovery=auto(shadow_every=6)"])


@pytest.mark.parametrize("how", ["int4", "int8", "bf16", "fp32"])
def test_a_format_that_says_no_way_is_taken_as_it_is(how: str) -> None:
    repair = repaired("auto", [2], view_after([2], 6), shadow_format=how, shadow_ahead=1.0)
    assert isinstance(repair, Repair)
    assert repair.rebuild[Address(2)].ahead == 0.0
