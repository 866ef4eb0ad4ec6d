"""A shadow that says how its stage was moving is moved on by its age."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from checkfree.core.formats import FP32
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow import changes
from checkfree.recovery.shadow.ahead import FARTHEST, moved_on
from checkfree.recovery.shadow.format import unpack_state


def weights(value: float, version: int) -> StageState:
    """Of one matrix and one bias, all of them ``value``."""
    params = {"a.weight": torch.full((4, 300), value), "a.bias": torch.full((4,), value)}
    return StageState(params, {}, {}, version)


def shadow(since: int = 12, version: int = 22) -> StageState:
    """Of a stage that went from 0 to 1 between those versions."""
    before = changes.held(changes.whole(weights(0.0, since)), None)
    now = weights(1.0, version)
    return changes.held(changes.change(now, before), before)


def matrix(state: StageState) -> float:
    (value,) = set(unpack_state(state).params["a.weight"].flatten().tolist())
    return float(value)


@pytest.mark.parametrize(("iterations", "expected"), [(0, 1.0), (5, 1.5), (7, 1.7), (10, 2.0)])
def test_it_goes_on_at_the_pace_of_its_last_change(iterations: int, expected: float) -> None:
    assert matrix(moved_on(shadow(), iterations)) == pytest.approx(expected)


def test_not_for_long() -> None:
    assert matrix(moved_on(shadow(), 1000)) == 1.0 + FARTHEST


def test_norms_and_biases_stay() -> None:
    made = unpack_state(moved_on(shadow(), 10))
    assert bool((made.params["a.bias"] == 1.0).all())


def test_what_was_moved_on_is_a_shadow_still() -> None:
    """Packed, for a state of a stage's own that isn't would pass for a replica's, an exact one."""
    made = moved_on(shadow(), 10)
    assert (made.packed, made.heading, made.version) == (FP32, {}, 22)
    assert all(param.dtype == torch.float32 for param in made.params.values())


def test_a_whole_copy_does_not_say_where_it_was_going() -> None:
    whole = changes.held(changes.whole(weights(1.0, 22)), None)
    assert moved_on(whole, 10) is whole


def test_nothing_is_moved_on_by_nothing() -> None:
    there = shadow()
    assert moved_on(there, 0) is there


@pytest.mark.parametrize("iterations", [-1.0, float("nan")])
def test_nothing_goes_back(iterations: float) -> None:
    there = shadow()
    assert moved_on(there, iterations) is there


def test_way_and_weights_are_of_the_same_push() -> None:
    first = shadow()
    second = changes.held(changes.change(weights(1.0, 32), first), first)
    assert second.since == 22
    assert matrix(moved_on(second, 10)) == pytest.approx(1.0)


@pytest.mark.parametrize("since", [22, 30])
def test_time_runs_one_way(since: int) -> None:
    with pytest.raises(ValueError, match=f"version 22 as a change of version {since}"):
        moved_on(replace(shadow(), since=since), 10)


def test_a_change_of_other_weights_is_refused() -> None:
    there = shadow()
    odd = {name.replace("a.", "b."): part for name, part in there.heading.items()}
    with pytest.raises(ValueError, match="a change of another stage"):
        moved_on(replace(there, heading=odd), 10)


def test_a_change_of_another_shape_is_refused() -> None:
    there = shadow()
    parts = {name: part[:1] for name, part in there.heading.items()}
    with pytest.raises(ValueError, match="signs with codes"):
        moved_on(replace(there, heading=parts), 10)


def test_a_holder_keeps_no_memory_of_the_push() -> None:
    before = changes.held(changes.whole(weights(0.0, 12)), None)
    sent = changes.change(weights(1.0, 22), before)
    there = changes.held(sent, before)
    for part in sent.params.values():
        part.zero_()
    assert matrix(moved_on(there, 10)) == pytest.approx(2.0)
