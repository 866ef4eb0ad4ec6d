"""What each strategy makes of its sources' states: averages against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from checkfree.core.config import Config, OptimizerConfig, RecoveryConfig
from checkfree.core.ops import STORE, Address, Source
from checkfree.messages.tensors import StageState
from checkfree.recovery.average import (
    Inexact,
    average_states,
    gradient_weights,
    mean_norms,
    normalised,
    weighted_average,
)
from checkfree.recovery.registry import STRATEGIES
from checkfree.recovery.strategy import Rebuilding
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_modules
from tests.tiny import Body, Edge

SEAT = Address(2)


def state(values: list[float], **more: Any) -> StageState:
    moments = {"w/exp_avg": torch.tensor(values) / 10, "w/step": torch.tensor(values[0])}
    return StageState({"w": torch.tensor(values)}, {}, moments, version=7, **more)


BEFORE = state([10.0, 20.0], gradient_norm=3.0, clipped_norm=1.0, lr_scale=1.1)
AFTER = state([20.0, 0.0], gradient_norm=1.0, clipped_norm=1.0)


def fresh() -> StageState:
    return replace(state([0.5, -0.5]), moments={}, version=0)


def never() -> NoReturn:
    raise AssertionError("nothing is initialised anew without need")


def rebuilt(name: str, *sources: StageState, **options: Any) -> Rebuilding:
    made = make_strategy(RecoveryConfig(name=name, **options))
    states = {Source(Address(2 * i + 1), 2 * i + 1, 7): state for i, state in enumerate(sources)}
    return made.rebuild(SEAT, fresh if not sources else never, states)


def values(made: Rebuilding) -> list[float]:
    found: list[float] = made.state.params["w"].tolist()
    return found


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkfree", "checkfree_plus"])
@pytest.mark.parametrize(
    ("options", "weights", "expected"),
    [
        ({}, (0.9, 0.1), [11.0, 18.0]),  # the norm before clipping, squared
        ({"exponent": 1.0}, (0.75, 0.25), [12.5, 15.0]),
        ({"gradient": "after"}, (0.5, 0.5), [15.0, 10.0]),
    ],
)
def test_neighbours_weigh_by_their_gradients(
    name: str, options: dict[str, Any], weights: tuple[float, float], expected: list[float]
) -> None:
    made = rebuilt(name, BEFORE, AFTER, **options)
    assert made.weights == pytest.approx(weights)
    assert values(made) == pytest.approx(expected)


def test_uniform_takes_no_notice_of_gradients() -> None:
    made = rebuilt("uniform", BEFORE, AFTER)
    assert made.weights == (0.5, 0.5) and values(made) == [15.0, 10.0]


@pytest.mark.parametrize("name", ["copy", "checkfree_plus"])
def test_a_copy_is_the_sources_weights(name: str) -> None:
    made = rebuilt(name, BEFORE)
    assert made.weights == (1.0,) and values(made) == [10.0, 20.0]


@pytest.mark.parametrize(("name", "expected"), [("random", [0.5, -0.5]), ("zero", [0.0, 0.0])])
def test_a_stage_that_starts_anew_needs_nobody(name: str, expected: list[float]) -> None:
    made = rebuilt(name)
    assert values(made) == expected
    assert (made.weights, made.state.moments, made.state.lr_scale) == ((), {}, 1.0)


def test_without_a_gradient_all_weigh_the_same() -> None:
    """None yet, or all of them zero (semantics 11)."""
    still = [replace(s, gradient_norm=0.0, clipped_norm=0.0) for s in (BEFORE, AFTER)]
    made = rebuilt("checkfree", *still)
    assert made.weights == (0.5, 0.5) and values(made) == [15.0, 10.0]
    one = rebuilt("checkfree", BEFORE, still[1])
    assert one.weights == (1.0, 0.0) and values(one) == [10.0, 20.0]


def test_a_rebuilt_stage_starts_with_its_sources_mean_gradient() -> None:
    for name in ("checkfree", "uniform"):
        made = rebuilt(name, BEFORE, AFTER).state
        assert (made.gradient_norm, made.clipped_norm) == (2.0, 1.0)
    assert mean_norms([BEFORE]) == (3.0, 1.0)


# --- what it carries on --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkfree", "uniform"])
def test_the_optimizer_starts_fresh_or_as_the_average(name: str) -> None:
    assert rebuilt(name, BEFORE, AFTER).state.moments == {}
    made = rebuilt(name, BEFORE, AFTER, optimizer="average")
    share = made.weights[1]
    assert made.state.moments["w/exp_avg"].tolist() == pytest.approx([1 + share, 2 - 2 * share])
    assert made.state.moments["w/step"].item() == pytest.approx(10 + 10 * share)


def test_moments_that_one_source_lacks_are_not_averaged() -> None:
    made = rebuilt("checkfree", BEFORE, replace(AFTER, moments={}), optimizer="average")
    assert made.state.moments == {}


def test_a_copy_may_take_the_sources_moments_along() -> None:
    made = rebuilt("checkfree_plus", BEFORE, optimizer="average")
    assert torch.equal(made.state.moments["w/exp_avg"], BEFORE.moments["w/exp_avg"])


@pytest.mark.parametrize("chosen", [None, 1.3])
@pytest.mark.parametrize(
    ("name", "default"),
    [("checkfree", 1.1), ("checkfree_plus", 1.1), ("uniform", 1.0), ("copy", 1.0)],
)
def test_the_rate_is_scaled_by_the_rule_and_not_by_the_source(
    name: str, default: float, chosen: float | None
) -> None:
    """Two of the sources were rebuilt themselves, and that does not compound."""
    scaled = [replace(s, lr_scale=1.1) for s in (BEFORE, AFTER)]
    sources = scaled[:1] if name == "copy" else scaled
    made = rebuilt(name, *sources, lr_scale=chosen)
    assert made.state.lr_scale == (default if chosen is None else chosen)


@pytest.mark.parametrize("name", ["random", "zero"])
def test_the_rate_of_a_stage_that_starts_anew_can_be_chosen(name: str) -> None:
    assert rebuilt(name, lr_scale=1.5).state.lr_scale == 1.5


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("holder", [Address(2, 1), Address(1), STORE])
def test_a_state_of_the_very_stage_is_taken_as_it_is(name: str, holder: Address) -> None:
    """A replica's, a redundant or embedding copy, a checkpoint: exact, with its optimizer."""
    made = make_strategy(RecoveryConfig(name=name, lr_scale=1.3))
    kept = made.rebuild(SEAT, never, {Source(holder, SEAT.stage, 7): BEFORE})
    assert kept.state is BEFORE and kept.weights == (1.0,)


def test_sources_stay_as_they_were() -> None:
    kept = [{name: value.clone() for name, value in s.tensors()} for s in (BEFORE, AFTER)]
    made = rebuilt("checkfree", BEFORE, AFTER, optimizer="average").state
    for _, value in made.tensors():
        value.fill_(float("nan"))
    for state, copies in zip((BEFORE, AFTER), kept, strict=True):
        assert all(torch.equal(copies[name], value) for name, value in state.tensors())


def test_a_copy_shares_nothing_with_its_source() -> None:
    copied = average_states([BEFORE], (1.0,), Inexact(optimizer="average"))
    pointers = {value.data_ptr() for _, value in BEFORE.tensors()}
    assert not pointers & {value.data_ptr() for _, value in copied.tensors()}


@pytest.mark.parametrize(("half_life", "scales"), [(None, [1.8, 1.8]), (2.0, [1.4, 1.2])])
def test_the_half_life_is_counted_in_steps(half_life: float | None, scales: list[float]) -> None:
    config = Config(
        stages=1,
        optimizer=OptimizerConfig(lr=0.5),
        recovery=RecoveryConfig(lr_scale_half_life=half_life),
    )
    stage = make_worker_context(config, of_modules([Edge(), Body()], config), {}).make(1, 1)
    stage.restore(replace(stage.snapshot(), lr_scale=1.8))
    found = []
    for iteration in range(4):
        stage.step(iteration, 1.0)
        found.append(stage.lr_scale)
    assert found[1::2] == pytest.approx(scales)


# --- averages ------------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6, width=32)
weight = st.floats(1e-3, 1e3)


def tensors(count: int) -> st.SearchStrategy[list[Tensor]]:
    rows = st.lists(numbers, min_size=3, max_size=3).map(torch.tensor)
    return st.lists(rows, min_size=count, max_size=count)


def average(parts: list[Tensor], weights: list[float]) -> Tensor:
    return weighted_average([{"w": part} for part in parts], weights)["w"]


def close(one: Tensor, other: Tensor, parts: list[Tensor]) -> bool:
    """To the rounding of float32, at the size of what went in."""
    largest = max(float(part.abs().max()) for part in parts)
    return bool(((one - other).abs() <= 1e-5 * largest + 1e-30).all())


sized = st.integers(1, 4).flatmap(
    lambda n: st.tuples(tensors(n), st.lists(weight, min_size=n, max_size=n))
)


@given(tensors(1), st.lists(weight, min_size=1, max_size=4))
def test_the_average_of_equals_is_that(one: list[Tensor], weights: list[float]) -> None:
    parts = one * len(weights)
    made = average(parts, weights)
    assert close(made, one[0], one)
    if len(weights) == 2:
        assert torch.equal(made, one[0])


@given(sized, st.randoms(use_true_random=False))
def test_the_order_of_sources_does_not_matter(
    given: tuple[list[Tensor], list[float]], random: Any
) -> None:
    parts, weights = given
    order = random.sample(range(len(parts)), len(parts))
    shuffled = average([parts[i] for i in order], [weights[i] for i in order])
    assert close(average(parts, weights), shuffled, parts)


@given(sized)
def test_an_average_lies_between_its_sources(given: tuple[list[Tensor], list[float]]) -> None:
    parts, weights = given
    made, stack = average(parts, weights), torch.stack(parts)
    inside = made.clamp(stack.amin(0), stack.amax(0))
    assert close(made, inside, parts)


@given(sized, st.floats(0.01, 100.0))
def test_weights_need_no_normalising(
    given: tuple[list[Tensor], list[float]], factor: float
) -> None:
    parts, weights = given
    scaled = average(parts, [factor * w for w in weights])
    assert close(average(parts, weights), scaled, parts)
    assert sum(normalised(weights)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "weights", [(), (0.0, 0.0), (-1.0, 0.5), (float("nan"), 1.0), (float("inf"), 1.0)]
)
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="weights must have a positive, finite sum, got"):
        normalised(weights)


@pytest.mark.parametrize(
    ("one", "other", "made"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.complex64, torch.complex64, torch.complex64),
    ],
)
def test_an_average_is_of_the_type_that_holds_both(
    one: torch.dtype, other: torch.dtype, made: torch.dtype
) -> None:
    """A neighbour as it trains, and another as a shadow: two of them, and more."""
    parts = [torch.tensor([1.0, 6.0]).to(one), torch.tensor([3.0, 2.0]).to(other)]
    found = weighted_average([{"w": part} for part in parts], (1, 3))["w"]
    assert found.dtype == made and found.tolist() == [2.5, 3.0]
    found = weighted_average([{"w": part} for part in (*parts, parts[0])], (1, 2, 1))["w"]
    assert found.dtype == made and found.tolist() == [2.0, 4.0]


def test_small_types_are_averaged_in_a_wider_one() -> None:
    parts = [torch.full((3,), value, dtype=torch.float16) for value in (6e4, -6e4)]
    for several in (parts, [*parts, parts[0]]):
        found = weighted_average([{"w": part} for part in several], [1.0] * len(several))["w"]
        assert bool(found.isfinite().all())


def test_moments_that_have_no_mean_are_made_anew() -> None:
    """The square of a gradient that one neighbour's type could not hold."""
    over = replace(BEFORE, moments={**BEFORE.moments, "w/exp_avg": torch.tensor([1.0, torch.inf])})
    how = Inexact("average")
    assert average_states([BEFORE, AFTER], (0.5, 0.5), how).moments
    assert not average_states([over, AFTER], (0.75, 0.25), how).moments


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_norms_of_any_size_weigh_by_their_ratio(scale: float) -> None:
    states = [state([1.0], gradient_norm=norm * scale) for norm in (3.0, 1.0)]
    assert gradient_weights(states, 2.0) == pytest.approx((0.9, 0.1))


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=3), st.sampled_from([1.0, 2.0]))
def test_gradient_weights_are_shares(norms: list[float], exponent: float) -> None:
    states = [replace(BEFORE, gradient_norm=norm) for norm in norms]
    found = gradient_weights(states, exponent)
    assert sum(found) == pytest.approx(1.0) and all(0 <= share <= 1 for share in found)
    assert found == pytest.approx(gradient_weights(states[::-1], exponent)[::-1])
