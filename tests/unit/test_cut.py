"""Layers of unequal costs in stages that have about the same to do."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.config.load import build, load_saved, to_yaml
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Kind, Op
from checkfree.pipeline.cut import balanced
from checkfree.session.blueprint import of_family
from checkfree.session.job import of_config, of_users
from checkfree.session.sizes import own_sizes
from checkfree.simulator.fleet import fleet_of
from checkfree.simulator.sizes import pace_of
from tests.contract.small import small, text

ROUTE = (Address(0), Address(2), Address(1), Address(0))
COSTS = st.lists(st.integers(0, 9), min_size=1, max_size=9)


def sums(costs: list[int], counts: tuple[int, ...]) -> list[int]:
    left = list(costs)
    return [sum(left.pop(0) for _ in range(count)) for count in counts]


@given(COSTS, st.data())
def test_no_cut_has_a_busiest_stage_that_has_less_to_do(costs: list[int], data: Any) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    counts = balanced(costs, stages)
    assert len(counts) == stages and sum(counts) == len(costs) and min(counts) > 0
    every = [
        tuple(b - a for a, b in pairwise((0, *at, len(costs))))
        for at in combinations(range(1, len(costs)), stages - 1)
    ]
    assert max(sums(costs, counts)) == min(max(sums(costs, other)) for other in every)


def test_alike_layers_are_spread_evenly() -> None:
    assert balanced([1.0] * 11, 3) in ((4, 4, 3), (4, 3, 4), (3, 4, 4))
    assert balanced([5, 1, 1, 1, 1, 1], 2) == (1, 5)
    # The last stage has 7 in any case, so the first may have 5, and more of them are alike.
    assert sums([2, 0, 3, 4, 5, 1, 7], balanced([2, 0, 3, 4, 5, 1, 7], 5)) == [2, 3, 4, 6, 7]
    with pytest.raises(ValueError, match="2 layers can't be cut into 3 stages"):
        balanced([1, 1], 3)


def cut(tmp_path: Path, **keys: Any) -> Any:
    changes = {"model": {"blocks": 5}, **text(tmp_path / "text"), "stages": 2, **keys}
    changes["model"] = {"blocks": 5, "vocabulary": 256}
    return small(tmp_path / "run", changes)


def test_a_run_knows_what_it_was_cut_into(tmp_path: Path) -> None:
    config = of_config(cut(tmp_path, cut="auto", layer_costs=[3, 1, 1, 1, 0]), tmp_path, ()).config
    assert tuple(config.cut) == (1, 4) and config.layer_costs is None
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert list(load_saved(tmp_path / "config.yaml").cut) == [1, 4]
    config = of_config(cut(tmp_path, cut="auto"), tmp_path, ()).config
    assert sorted(config.cut) == [2, 3]


def test_each_stage_has_its_own_size_and_work(tmp_path: Path) -> None:
    config = cut(tmp_path, cut=[1, 4])
    sizes, equal = own_sizes(config), own_sizes(cut(tmp_path, cut=[4, 1]))
    assert sizes.params[2] == 4 * sizes.params[1] and sizes.bodies[1] == 4 * sizes.bodies[0]
    assert equal.params[1:] == sizes.params[:0:-1]
    pace = pace_of(sizes, fleet_of(replace(config.fleet, name="datacenter")))
    assert pace.body(2).forward == pytest.approx(4 * pace.body(1).forward)
    parts = [pace.seconds(Op(Kind.FORWARD, 0, hop), ROUTE) for hop in (1, 2)]
    assert parts == [pace.body(2).forward, pace.body(1).forward]  # as a swapped microbatch goes
    names = of_family(config, 256).layout(2, [1, 4])
    assert names.whole(2, "blocks.0.attention.query.weight").startswith("model.layers.1.")
    assert names.whole(1, "blocks.0.attention.query.weight").startswith("model.layers.0.")


BAD = {
    "too few": ({"cut": [5]}, r"cut=\[5\]: expected 2 whole numbers of 1 or more, for stages=2"),
    "another sum": ({"cut": [2, 2]}, "whose sum is the model's 5 layers"),
    "none": ({"cut": [0, 5]}, "1 or more"),
    "a word": ({"cut": "even"}, r"expected auto, or layers of each stage as in \[4, 4, 3\]"),
    "costs without auto": ({"cut": [2, 3], "layer_costs": [1] * 5}, "layer_costs is for cut=auto"),
    "too few costs": ({"cut": "auto", "layer_costs": [1, 2]}, "expected 5 numbers of 0 or more"),
    "a cost of text": ({"cut": "auto", "layer_costs": ["a"] * 5}, "expected 5 numbers"),
    "without a cut": ({}, "does not cut model.blocks 5 into equal parts: .* by cut=auto"),
    "neighbours": (
        {"cut": [2, 3], "recovery": "checkfree"},
        "makes a lost stage of its neighbours, and body stage 2 has blocks.2",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=list(BAD))
def test_a_bad_cut_is_one_line(case: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    keys, expected = case
    with pytest.raises(BadInput, match=expected) as refused:
        of_config(cut(tmp_path, **keys), tmp_path, ())
    assert "\n" not in str(refused.value)


def test_stages_of_one_s_own_are_cut() -> None:
    config = build({"cut": "auto"})
    with pytest.raises(BadInput, match="your stages are cut"):
        of_users(config, Path(), [], lambda i, m: None, None, ())
