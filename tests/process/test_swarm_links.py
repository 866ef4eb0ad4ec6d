"""Emulated lines between real processes: they take time, and change no number."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import checkfree
from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.process.command import checkfree_command, finished, numbers, only_line, run, start

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)

WORDS = ("iterations=5", "failures=losses.json", "recovery=redundant")
"""One owner is killed: what its holder has is all that is left of it."""
UP = ("swarm", "up", "small.yaml", "out=run", *WORDS, "--patience=60", "--quiet")
LINES = "* * bandwidth=100Mb\n1 2 latency=20ms,bandwidth=10Mb\n"
TRIPS = 2
"""Over that slow line in every iteration, one after the other: an activation, and its gradient."""


def test_slow_lines_take_time_and_change_nothing(folder: Path) -> None:
    (folder / "lines").write_text(LINES)
    try:
        finished(start(folder, checkfree_command(*UP, "--link=lines")))
    finally:
        Workdir.of(folder / "run").kill_leftovers()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        checkfree.train(load("small.yaml", ["out=one", *WORDS]))
    assert numbers(folder / "run") == numbers(folder / "one")
    (repair,) = of_kind(read(folder / "run"), "recovery")
    assert [made["sources"][0]["holder"] for made in repair["rebuilds"].values()] == ["1.0"]
    steps = of_kind(read(folder / "run"), "iteration")
    waited = len(steps) * TRIPS * 0.020
    # one by one they vary, as the lead may be late to write down any of them
    assert sum(step["seconds"] for step in steps) > 0.9 * waited


def test_microbatches_go_round_a_line_that_is_found_to_be_slow(folder: Path) -> None:
    """As soon as it is measured, which takes some iterations and seconds."""
    (folder / "lines").write_text("1.0 2.0 bandwidth=1Mb\n")
    words = ("iterations=45", "recovery=none", "replicas=2", "routes=flow", "microbatches=4")
    sizes = ("batch=4", "stages=2", "validation.every=0")
    try:
        finished(start(folder, checkfree_command(*UP[:4], *words, *sizes, "--link=lines")))
    finally:
        Workdir.of(folder / "run").kill_leftovers()
    records = read(folder / "run")
    first, *later = of_kind(records, "plan")
    assert "routes" not in first
    assert later, [step["seconds"] for step in of_kind(records, "iteration")]
    assert not [route for route in later[0]["routes"] if "1.0 > 2.0" in route]
    assert "equal bit for bit" in run(folder, "verify", "run", expect=0).stdout


def test_what_is_no_link_is_one_line(folder: Path) -> None:
    assert "as in latency=40ms" in only_line(run(folder, *UP, "--link=latency=40", expect=2))
    assert "nowhere: no file" in only_line(run(folder, *UP, "--link=nowhere", expect=2))
    assert not (folder / "run").exists()
