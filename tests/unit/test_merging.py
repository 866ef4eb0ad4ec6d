"""The weights of an average by each rule, the text that chooses them, and the sum itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.session.merging.averages import combined
from checkfree.session.merging.rules import (
    POPULATION,
    Combination,
    by_metric,
    search,
    trials,
    uniform,
)
from checkfree.session.merging.text import identities, parted

# --- rules ---------------------------------------------------------------------------------------


def test_a_state_that_is_worse_by_a_nat_over_the_penalty_weighs_e_times_less() -> None:
    best, worse = by_metric([2.0, 2.01], penalty=100)
    assert best / worse == pytest.approx(math.e)
    assert best + worse == pytest.approx(1)
    assert by_metric([2.0, 3.0, 4.0], penalty=0) == uniform(3)
    assert by_metric([7.0, 7.01], penalty=100) == pytest.approx((best, worse))


def test_what_has_no_finite_loss_weighs_nothing() -> None:
    assert by_metric([math.nan, 2.0, math.inf]) == (0.0, 1.0, 0.0)
    with pytest.raises(BadInput, match="none of these states has a finite loss"):
        by_metric([math.nan, math.inf])


BEST = (-0.5, 0.2, 1.3)


def bowl(weights: Sequence[float]) -> float:
    return sum((w - best) ** 2 for w, best in zip(weights, BEST, strict=True))


def test_a_search_finds_weights_that_are_negative_and_sum_to_one() -> None:
    found = search(3, bowl, seed=0, generations=30)
    assert found.loss < 1e-3 and found.loss == bowl(found.weights)
    assert found.weights == pytest.approx(BEST, abs=0.05)
    assert sum(found.weights) == pytest.approx(1)


def test_it_is_the_same_for_the_same_seed() -> None:
    assert search(3, bowl, seed=1) == search(3, bowl, seed=1) != search(3, bowl, seed=2)


def test_it_is_never_worse_than_the_mean_or_a_state_alone() -> None:
    def spike(weights: Sequence[float]) -> float:  # nothing that evolves comes near it
        return 0.0 if tuple(weights) == (0.0, 1.0, 0.0, 0.0) else 1.0

    assert search(4, spike, seed=0).weights == (0.0, 1.0, 0.0, 0.0)
    assert search(4, lambda w: 0.0 if w == uniform(4) else 1.0, seed=0).weights == uniform(4)


@pytest.mark.parametrize(("count", "generations", "population"), [(2, 0, 4), (5, 3, 8), (30, 1, 4)])
def test_it_takes_as_many_losses_as_it_says(count: int, generations: int, population: int) -> None:
    asked: list[float] = []

    def loss(weights: Sequence[float]) -> float:
        asked.append(sum(weights))
        return weights[0]

    search(count, loss, 0, generations=generations, population=population)
    assert len(asked) == trials(count, generations, population)
    assert asked == pytest.approx([1.0] * len(asked))


def test_what_has_gone_too_far_is_passed_by() -> None:
    def loss(weights: Sequence[float]) -> float:
        return math.nan if abs(weights[0]) > 1e-9 else bowl(weights)

    assert search(3, loss, seed=0) == Combination((0.0, 0.0, 1.0), bowl((0.0, 0.0, 1.0)))
    with pytest.raises(BadInput, match="none of these states has a finite loss"):
        search(3, lambda weights: math.nan, seed=0, population=POPULATION)


# --- text ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=24), st.integers(1, 4))
def test_no_sequence_chooses_and_reports(rows: list[int], batch: int) -> None:
    def validation(iteration: int, microbatch: int) -> Tensor:
        numbers = [rows[(microbatch * batch + i) % len(rows)] for i in range(batch)]
        return torch.tensor([[n, n + 1, n + 2] for n in numbers])

    microbatches = -(-len(rows) // batch)
    if len(set(rows)) < 2:
        with pytest.raises(BadInput, match="has 1 sequence to merge by"):
            parted(validation, microbatches)
        return
    parts = parted(validation, microbatches)
    chose, reported = identities(parts.choosing), identities(parts.reporting)
    assert not {*chose} & {*reported}
    assert len({*chose}) == len(chose) and len({*reported}) == len(reported)
    assert len(chose) + len(reported) == len(set(rows))  # equal ones are one
    assert 0 <= len(reported) - len(chose) <= 1
    assert all(len(part) <= batch for part in (*parts.choosing, *parts.reporting))


# --- the sum -------------------------------------------------------------------------------------


def states(*several: dict[str, Tensor]):
    return [lambda stage, tensors=tensors: tensors for tensors in several]


def test_the_mean_is_taken_in_64_bits() -> None:
    draws = torch.Generator().manual_seed(0)
    several = [{"w": torch.randn(64, generator=draws)} for _ in range(7)]
    made = combined(states(*several), uniform(7))(0)["w"]
    exact = torch.stack([one["w"].double() for one in several]).mean(0)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), exact, rtol=6e-8, atol=0)  # rounded once, at the end


def test_what_is_the_same_in_all_stays_as_it_is() -> None:
    same = {"mask": torch.tensor([-math.inf, 0.1]), "steps": torch.tensor([3])}
    several = [{**same, "w": torch.tensor([value])} for value in (1.0, 2.0, 4.0)]
    several[0]["steps"] = torch.tensor([1])
    made = combined(states(*several), (-2.0, 1.0, 2.0))(0)
    assert torch.equal(made["mask"], same["mask"])
    assert torch.equal(made["steps"], same["steps"])  # whole numbers are the last state's
    assert made["w"].tolist() == [8.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_types_stay(dtype: torch.dtype) -> None:
    several = [{"w": torch.full((2,), value, dtype=dtype)} for value in (1, 3)]
    made = combined(states(*several), (0.5, 0.5))(0)["w"]
    assert made.dtype == dtype and torch.equal(made, torch.full((2,), 2, dtype=dtype))
    assert several[1]["w"][0] == 3  # which were not written to


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_weighs_nothing_may_be_no_number(place: int) -> None:
    """As weights that went too far: by metric they weigh 0, and 0 times NaN is NaN."""
    values, factors = [[1.0, 2.0], [3.0, 4.0]], [0.25, 0.75]
    values.insert(place, [math.nan, math.inf])
    factors.insert(place, 0.0)
    several = [{"w": torch.tensor(value)} for value in values]
    assert combined(states(*several), factors)(0)["w"].tolist() == [2.5, 3.5]
