"""``schedule=auto``: the fastest on a fleet that the memory allows."""

from dataclasses import replace
from pathlib import Path

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load, load_saved
from checkfree.core.config import Config
from checkfree.core.records import of_kind
from checkfree.session.auto_schedule import chosen_of, schedule_options, with_schedule
from checkfree.session.rehearsal import rehearse
from tests.contract.small import counting, modules, small, text

BUSY = (
    "fleet.name=machine",
    "fleet.flops=1e9",
    "microbatches=16",
    "recovery=none",
    "failures=none",
)
"""Seats that compute for long and send at once: what is left to gain is bubble."""


def demo(*words: str) -> Config:
    return load("demo", ["schedule=auto", *words])


def test_the_fastest_is_taken() -> None:
    options = {option.name: option for option in schedule_options(demo(*BUSY))}
    assert options["zbv"].seconds < options["zb_h1"].seconds < options["1f1b"].seconds
    assert options["interleaved"].seconds < options["1f1b"].seconds
    assert chosen_of([*options.values()]).name == "zbv" == with_schedule(demo(*BUSY)).schedule


def test_it_is_what_the_simulator_says() -> None:
    one, other = (demo(*BUSY, "iterations=3"), demo(*BUSY, "iterations=3", "schedule=zbv"))
    assert rehearse(one).priced.total == rehearse(other).priced.total


def test_where_activations_travel_for_long_two_chunks_do_not_pay() -> None:
    assert with_schedule(demo("fleet.name=home", "microbatches=16")).schedule in ("gpipe", "zb_h2")


def test_on_one_thread_nothing_is_faster() -> None:
    assert with_schedule(demo("fleet.name=thread")).schedule == "1f1b"


def test_memory_bounds_it() -> None:
    words = (*BUSY, "fleet.sizes=own", "microbatches=32", "batch=16")
    wide = schedule_options(demo(*words))
    taken = {option.name: option.bytes for option in wide}
    assert taken["v_min"] < taken["v_half"] < taken["zbv"]
    assert chosen_of(wide).name == "zbv"
    tight = demo(*words, f"fleet.memory={taken['v_half']}")
    assert with_schedule(tight).schedule == "v_half"
    none = demo(*words, "fleet.memory=1000000")
    with pytest.raises(checkfree.BadInput, match=r"takes .* a seat, and there are 976"):
        with_schedule(none)


def test_what_can_not_be_cut_in_two_is_left_out() -> None:
    options = {o.name: o for o in schedule_options(demo(*BUSY, "stages=12"))}
    assert "model.blocks=12 can't be cut into" in options["zbv"].refused
    assert not options["zb_h1"].refused
    kept = {o.name: o for o in schedule_options(demo(*BUSY, "recovery=redundant"))}
    assert "take another schedule" in kept["v_min"].refused


def test_a_run_has_the_one_that_was_taken(tmp_path: Path) -> None:
    more = {"schedule": "auto", "fleet": {"name": "machine", "flops": 1e6}, "iterations": 2}
    shared = {**text(tmp_path / "text"), "microbatches": 6}
    shared["model"] = {**shared["model"], "blocks": 8}
    run = checkfree.train(small(tmp_path / "run", shared, more))
    (began,) = of_kind(run.records, "config")
    taken = began["config"]["schedule"]
    assert taken == load_saved(tmp_path / "run" / "config.yaml").schedule != "auto"
    assert checkfree.verify(tmp_path / "run").difference == ""


def test_own_modules_are_not_measured(tmp_path: Path) -> None:
    config = small(tmp_path / "run")
    own, feed = modules(config), counting(config)
    auto = replace(config, schedule="auto")
    with pytest.raises(checkfree.BadInput, match="your own modules are not measured: name one of"):
        checkfree.train(auto, stages=own, batches=feed)


def test_plan_and_doctor_decide_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'run'}"
    assert main(["doctor", "demo", "schedule=auto", "stages=2", "model.blocks=4", out]) in (0, 2)
    assert "schedule=auto" not in capsys.readouterr().out


def test_a_stash_that_may_be_computed_again_counts_so() -> None:
    words = (*BUSY, "fleet.sizes=own", "microbatches=32", "batch=16")
    kept = {option.name: option.bytes for option in schedule_options(demo(*words))}
    free = {o.name: o.bytes for o in schedule_options(demo(*words, "stash=auto"))}
    assert all(free[name] <= kept[name] for name in kept) and free["gpipe"] < kept["gpipe"]


def test_memory_of_another_model_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(checkfree.BadInput, match=r"fleet\.sizes=own, or leave fleet\.memory out"):
        with_schedule(demo("fleet.name=paper", "fleet.memory=1000"))


def test_runs_that_are_compared_have_one_schedule(tmp_path: Path) -> None:
    with pytest.raises(checkfree.BadInput, match="runs that are compared have the same"):
        checkfree.compare(demo(), out=tmp_path / "study")
