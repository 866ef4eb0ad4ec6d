"""Emulated lines between real processes: they take time, and change no number."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

import checkfree
from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.simulator.surveyed import read_surveyed
from tests.chaos import SOAK
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    finished,
    last_tick,
    numbers,
    only_line,
    run,
    start,
    wait_until,
)
from tests.process.hosts import may, network

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


@pytest.mark.skipif(not SOAK, reason="11 seconds: CHECKFREE_SOAK=1")
def test_lines_are_measured_while_a_run_trains(folder: Path) -> None:
    (folder / "lines").write_text("* * latency=5ms\n0 1 latency=40ms,bandwidth=3Mb\n")
    words = ("iterations=100000", "stages=2", "recovery=none", "out=run")
    up = start(folder, checkfree_command("swarm", "up", "small.yaml", *words, "--link=lines"))
    try:
        wait_until(lambda: last_tick(folder / "run") > 0, up)
        told = run(folder, "profile", "run", "--links", "--to=links.json", expect=0).stdout
    finally:
        up.kill()
        up.communicate()
        Workdir.of(folder / "run").kill_leftovers()
    found = read_surveyed(folder / "links.json")
    assert set(found.machines) == {"0.0", "1.0", "2.0"} and len(found.links) == 6
    slow = found.link("0.0", "1.0")
    # Machines are busy with tests: what was measured can be late, and never early.
    assert slow.latency >= 0.04 and 0.5 * 375e3 < slow.bandwidth < 1.1 * 375e3
    assert slow.bandwidth < found.link("0.0", "2.0").bandwidth
    assert "use it as fleet.links=links.json" in told and "1.0 > 0.0" in told


@pytest.mark.skipif("CHECKFREE_SOAK" not in os.environ, reason="20 seconds: CHECKFREE_SOAK=1")
@pytest.mark.skipif(not may(), reason="no right to make network namespaces")
def test_real_lines_between_hosts_are_measured_by_address(folder: Path) -> None:
    """Of 20 Mbit/s; the run waits for a third stage, and has sent nothing."""
    with network(3) as net:
        for host in range(3):
            net.narrow(host, 20.0, 0.4)
        words = ("iterations=100000", "stages=2", "recovery=none", "out=run", "--wait=1")
        lead = checkfree_command("swarm", "lead", "small.yaml", *words, "--listen=0.0.0.0:0")
        log = folder / "log"
        processes = [net.on(0, folder, lead, log)]
        try:
            wait_until(lambda: "swarm join" in log.read_text(), processes[0])
            line = re.search(r"^checkfree (swarm join \S+ --token \S+)$", log.read_text(), re.M)
            assert line is not None
            for host in (1, 2):
                join = (*line[1].split(), f"--host=h{host}", "--seats=1")
                processes.append(net.on(host, folder, checkfree_command(*join), log))
            wait_until(lambda: log.read_text().count("takes seat") == 2, processes[0])
            address, token = line[1].split()[2], line[1].split()[-1]
            ask = ("profile", address, "--links", "--token", token, "--to=links.json", "--json")
            assert net.on(2, folder, checkfree_command(*ask), log).wait(DEADLINE) == 0
        finally:
            for process in processes:
                process.kill()
                process.wait()
            Workdir.of(folder / "run").kill_leftovers()
    found = read_surveyed(folder / "links.json")
    assert set(found.machines) == {"h1", "h2"}
    for link in found.links.values():
        assert 0.6 * 2.5e6 < link.bandwidth < 1.2 * 2.5e6


def test_what_is_no_link_is_one_line(folder: Path) -> None:
    assert "as in latency=40ms" in only_line(run(folder, *UP, "--link=latency=40", expect=2))
    assert "nowhere: no file" in only_line(run(folder, *UP, "--link=nowhere", expect=2))
    assert not (folder / "run").exists()
