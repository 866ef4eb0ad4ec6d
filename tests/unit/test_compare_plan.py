"""What a comparison consists of, and what it refuses to consist of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from checkfree.config.load import ConfigSource, open_source
from checkfree.core.errors import BadInput
from checkfree.study.options import Options, check_names, make_options
from checkfree.study.plan import Cell, base, labels, place, plan, slug
from tests.unit.test_rooms import failed_without_torch

TREE: dict[str, Any] = {"seed": 4, "stages": 4, "model": {"blocks": 4}, "iterations": 12}


def cells(
    strategies: Sequence[str], words: Sequence[str] = (), tree: dict[str, Any] = TREE, **more: Any
) -> tuple[Cell, ...]:
    options = make_options({}, {"strategies": list(strategies), **more})
    return plan(base(ConfigSource("x", tree, {}), words), options, Path("out"))


def only(found: Sequence[Cell], label: str, number: int = 0) -> Cell:
    (cell,) = (c for c in found if (c.label, c.number) == (label, number))
    return cell


# --- options -------------------------------------------------------------------------------------


def test_a_variant_may_have_a_list_on_the_command_line_as_in_a_file() -> None:
    label = "checkfree(failures.stages=[1,2],exponent=1)"
    for strategies in (f"{label},copy", [label, "copy"]):
        options = make_options({}, {"strategies": strategies})
        assert options.strategies == (label, "copy")
    config = only(cells([label]), label).config
    assert (config.failures.stages, config.recovery.exponent) == ([1, 2], 1.0)


def test_the_command_line_goes_over_the_file() -> None:
    section = {"strategies": ["a", "b"], "rates": "5,10", "seeds": 3}
    options = make_options(section, {"seeds": 2, "rates": None, "workers": None, "out": "here"})
    assert options == Options(strategies=("a", "b"), rates=(5.0, 10.0), seeds=2, out="here")


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"seed": 3}, ("compare.seed", "did you mean compare.seeds")),
        ({"seeds": 0}, ("seeds=0", "at least 1")),
        ({"workers": 0}, ("workers=0", "at least 1")),
        ({"seeds": "many"}, ("compare.seeds=many", "whole number")),
        ({"rates": "5,100"}, ("100", "below 100")),
        ({"rates": "-1"}, ("-1", "below 100")),
        ({"rates": "nan"}, ("nan", "below 100")),
        ({"rates": "ten"}, ("'ten'", "5,10,16")),
        ({"rates": "5,5.0"}, ("5 twice",)),
        ({"strategies": "a,b,a"}, ("a twice",)),
        ({"strategies": []}, ("empty",)),
        ({"devices": "tpu"}, ("tpu", "cuda:0")),
        ({"devices": "cpu,cuda:1"}, ("cpu, cuda:1", "one kind")),
    ],
)
def test_wrong_options(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        make_options(tree, {})
    assert [part for part in parts if part not in str(error.value)] == [], error.value


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("chekfree", ("chekfree", "no_failure, auto, shadow, fit, none, checkfree")),
        ("checkfree(", ("checkfree(", "NAME(key=value, …)")),
        ("no_failure(seed=1)", ("takes no options",)),
    ],
)
def test_unknown_strategies(label: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        check_names(["checkfree", label])
    assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_a_file_s_own_section_is_no_part_of_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("iterations: 3\nfailures: none\ncompare: {seeds: 2}\n")
    source = open_source(file)
    assert source == ConfigSource(
        "mine", {"iterations": 3, "failures": {"scenario": "none"}}, {"seeds": 2}
    )


def test_a_section_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("compare: 5\n")
    with pytest.raises(BadInput, match=r"compare=5.*expected keys"):
        open_source(tmp_path / "mine.yaml")


# --- names ---------------------------------------------------------------------------------------


def test_places() -> None:
    assert place("no_failure", None, 0) == "no_failure/seed-0"
    assert place("checkpoint(interval=25)", 2.5, 3) == "checkpoint-interval-25/rate-2.5/seed-3"
    assert slug("checkfree(failures.stages=middle)") == "checkfree-failures.stages-middle"


def test_long_labels_stay_apart() -> None:
    one, other = (slug(f"checkfree({'x' * 300}={n})") for n in (1, 2))
    assert one != other
    assert max(len(one), len(other)) < 120


def test_the_reference_comes_first_whether_named_or_not() -> None:
    assert labels(["b", "a"]) == ("no_failure", "b", "a")
    assert labels(["b", "no_failure"]) == ("no_failure", "b")


def test_a_plan_takes_no_torch() -> None:
    rooms = [f"checkfree.study.{name}" for name in ("options", "plan", "study_file")]
    assert failed_without_torch(rooms) == {}


def test_labels_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(BadInput, match="twice, spelled differently"):
        labels(["checkpoint(interval=5)", "checkpoint( interval=5)"])


# --- cells ---------------------------------------------------------------------------------------


def test_seed_by_seed_with_the_reference_first() -> None:
    found = cells(["redundant", "checkfree(failures=none)"], seeds=2, rates=[5, 10])
    assert [(c.label, c.rate) for c in found if c.number == 0] == [
        ("no_failure", None),
        ("checkfree(failures=none)", None),
        ("redundant", 5.0),
        ("redundant", 10.0),
    ]
    assert [c.number for c in found] == [0] * 4 + [1] * 4
    assert found[-1].config.out == "out/runs/redundant/rate-10/seed-1"
    assert str(found[-1]) == "redundant, 10 %/h, seed 1"


def test_seeds_go_up_from_the_configuration_s() -> None:
    found = cells(["checkfree"], ["failures.seed=7", "failures.probability=0.1"], seeds=3)
    seeds = [(c.config.seed, c.config.failures.seed) for c in found if c.label == "checkfree"]
    assert seeds == [(4, 7), (5, 8), (6, 9)]
    assert [c.config.seed for c in found if c.label == "no_failure"] == [4, 5, 6]


def test_all_strategies_of_a_seed_share_what_is_not_theirs() -> None:
    found = cells(["checkfree", "checkpoint(interval=25)"], ["failures.probability=0.1"])
    free, checkpoint = (
        only(found, "checkfree").config,
        only(found, "checkpoint(interval=25)").config,
    )
    assert (checkpoint.recovery.name, checkpoint.recovery.interval) == ("checkpoint", 25)
    assert free.failures == checkpoint.failures
    assert free.failures.probability == 0.1
    assert (free.model, free.data, free.seed) == (
        checkpoint.model,
        checkpoint.data,
        checkpoint.seed,
    )


def test_without_failures_means_without_any_that_were_set() -> None:
    words = ["failures.probability=0.1", "failures.seed=3"]
    found = cells(["checkfree(failures=none)"], words)
    for label in ("no_failure", "checkfree(failures=none)"):
        failures = only(found, label).config.failures
        assert (failures.scenario, failures.probability, failures.seed) == ("none", None, None)
    assert only(found, "no_failure").config.recovery.name == "none"


def test_a_rate_takes_the_place_of_the_configuration_s() -> None:
    words = ["failures.probability=0.1", "failures.stages=middle"]
    found = cells(["checkfree", "checkpoint(failures.stages=all)"], words, rates=[16])
    failures = only(found, "checkfree").config.failures
    assert (failures.scenario, failures.rate_per_hour, failures.probability) == (
        "clock",
        0.16,
        None,
    )
    assert failures.stages == "middle"
    assert only(found, "checkpoint(failures.stages=all)").config.failures.stages == "all"


def test_a_rate_takes_the_place_of_a_preset() -> None:
    found = cells(["checkfree"], ["failures=paper/500m/10"], rates=[5])
    assert only(found, "checkfree").config.failures.scenario == "clock"


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("checkfree(seed=3)", ("sets seed", "share")),
        ("checkfree(model.width=8)", ("sets model", "share")),
        ("checkfree(failures.probability=0.1)", ("failures.probability", "so do rates")),
        ("checkfree(intervall=3)", ("recovery.intervall", "recovery.interval")),
        ("checkfree(optimizer.lr=x)", ("checkfree(optimizer.lr=x)",)),
    ],
)
def test_variants_that_could_not_be_compared(label: str, parts: tuple[str, ...]) -> None:
    if label == "checkfree(optimizer.lr=x)":  # recovery.optimizer is a word of its own
        parts = (*parts, "optimizer.lr")
    with pytest.raises(BadInput) as error:
        cells([label], rates=[5])
    assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_devices_are_the_pool_s_to_give() -> None:
    found = cells(["checkfree"], devices=["cuda:0", "cuda:1"])
    assert {c.config.devices for c in found} == {("cuda",)}
    assert {c.config.devices for c in cells(["checkfree"])} == {("cpu",)}
