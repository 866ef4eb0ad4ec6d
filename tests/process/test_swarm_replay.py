"""Stages of a swarm that are killed come back with the bits that they had."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from checkfree.core.ops import locations_of
from checkfree.core.records import of_kind, read
from checkfree.recovery.replay.promise import laid_out, promise
from tests.chaos import SOAK
from tests.process.command import end_of, finished, numbers, run, wait_until
from tests.process.test_swarm import (
    PATIENT,
    assert_nothing_left,
    begin,
    in_one_process,
    kill,
    replays,
    status,
    swarm,
    trains,
    up,
)

__all__ = ["swarm"]

REPLAY = ("recovery=replay(wave_lag=2,wave_every=3)", "validation.every=4", "resume.every=0")


def rules(folder: Path) -> list[str]:
    recoveries = of_kind(read(folder), "recovery")
    return [how["rule"] for made in recoveries for how in made["rebuilds"].values()]


@pytest.mark.parametrize("schedule", [*["1f1b"] * SOAK, "zbv"])
def test_the_numbers_of_a_run_that_lost_nothing(
    swarm: Path, schedule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the trace: from the seed, from a wave, adjacent stages, and the ends, all by SIGKILL."""
    ticks = [(1, 2), (6, 0), (9, 2), (9, 3), (13, 4), (16, 1)]
    entries = [{"iteration": tick, "stage": stage} for tick, stage in ticks]
    (swarm / "losses.json").write_text(json.dumps({"failures": entries}))
    words = ("iterations=18", *REPLAY, "wire.activations=int8", f"schedule={schedule}")
    words += ("model.blocks=8",)  # for two chunks a stage
    run(swarm, *up("failures=losses.json", *words, PATIENT))
    assert end_of(swarm / "run")["status"] == "done"
    assert rules(swarm / "run") == ["replay"] * len(ticks)
    alone = in_one_process(swarm, *words)
    one, other = numbers(swarm / "run"), numbers(alone)
    assert one["weights"] == other["weights"]
    digests = [
        [record["digests"] for record in of_kind(read(folder), "iteration")]
        for folder in (swarm / "run", alone)
    ]
    assert digests[0] == digests[1]
    assert_nothing_left(swarm)
    replays(swarm, capsys)


def test_lead_and_stages_killed_from_outside(
    swarm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any moment; two seats at once, a seat with the lead, and one while another is replayed."""
    words = ("iterations=60", *REPLAY, "recovery.copies=2")
    process = begin(swarm, *up(*words, "--chaos", "--link=latency=5ms", PATIENT), tick=4)
    assert status(swarm)["unprotected"] == []
    for victims in (("2.0",), ("lead",), ("0.0", "1.0"), ("3.0", "lead"), ("4.0",), ("1.0", "2.0")):
        for victim in victims:
            kill(swarm, process, victim)
        trains(swarm, process, 2)
    finished(process, 0)
    assert set(rules(swarm / "run")) <= {"replay", "back"}
    assert rules(swarm / "run").count("replay") >= 6
    alone = in_one_process(swarm, *words)
    assert numbers(swarm / "run")["weights"] == numbers(alone)["weights"]
    assert_nothing_left(swarm)
    replays(swarm, capsys)


def test_a_replay_is_seen_while_it_runs(swarm: Path) -> None:
    """By ``swarm status``: a neighbour is stopped, so that the replay can't come to its end; and
    afterwards by its record."""
    words = ("iterations=1000", "recovery=replay(wave_lag=2,wave_every=100)", "validation.every=0")
    process = begin(swarm, *up(*words, "--chaos", PATIENT), tick=4)
    neighbour = status(swarm)["processes"]["1.0"]["pid"]
    os.kill(neighbour, signal.SIGSTOP)
    kill(swarm, process, "2.0")
    wait_until(lambda: any(found["at"] == 0 for found in status(swarm)["replaying"]), process)
    found, *_ = (each for each in status(swarm)["replaying"] if each["seat"] == "2.0")
    assert (found["seat"], found["base"], found["seconds"]) == ("2.0", 0, None)
    assert found["until"] >= 4
    told = run(swarm, "swarm", "status", "run").stdout
    assert f"replays stage 2 (0 of {found['until']} iterations since 0)\n" in told
    assert re.search(r"^iteration .*, goodput \d+\.\d%$", told, re.MULTILINE)
    os.kill(neighbour, signal.SIGCONT)
    trains(swarm, process, 2)
    wait_until(lambda: not status(swarm)["replaying"], process)
    assert 0 < status(swarm)["goodput"] < 1
    run(swarm, "swarm", "stop", "run")
    finished(process, 0)
    # Whoever was stopped may have been taken for lost, and be replayed as well.
    record, *_ = (r for r in of_kind(read(swarm / "run"), "replay") if r["seat"] == "2.0")
    assert (record["seat"], record["base"], record["start"]) == ("2.0", 0, 0)
    assert record["iteration"] == found["until"]
    assert record["exact"] and record["bytes"] > 0
    assert list(record["seconds"]) == ["seat", "copy", "replay", "step"]
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert_nothing_left(swarm)


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
def test_a_machine_is_lost_with_all_that_it_has(
    swarm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage is kept on another one. So says the first line, so it is, and so a second lead
    has it."""
    words = ("small.yaml", "out=run", "iterations=150", *REPLAY)
    process = begin(swarm, "swarm", "up", *words, "--nodes=2", "--chaos", PATIENT, tick=6)

    def safe() -> bool:
        """Nodes share the seats, and the copies of a wave count that was made since they do; said
        some iterations after the last of them moved."""
        told, plans = status(swarm), of_kind(read(swarm / "run"), "plan")
        versions = [how["version"] for how in (told.get("replayable") or {}).values()]
        spread = all(len(node["seats"]) >= 2 for node in told["nodes"])
        settled = told.get("iteration", 0) >= plans[-1]["iteration"] + 3
        whole = len(versions) == 5 and min(versions) > 0 and told["fatal"] == []
        return spread and settled and whole

    def replayed_seats() -> list[set[str]]:
        recoveries = of_kind(read(swarm / "run"), "recovery")
        found = [
            {s for s, how in r["rebuilds"].items() if how["rule"] == "replay"} for r in recoveries
        ]
        return [seats for seats in found if seats]

    for count, lead_too in enumerate((False, True) if SOAK else (True,), 1):
        wait_until(safe, process)
        if lead_too:
            kill(swarm, process, "lead")
            trains(swarm, process, 8)  # copies that the second lead had sent count
            wait_until(safe, process)
        nodes = {node["host"]: node["seats"].keys() for node in status(swarm)["nodes"]}
        run(swarm, "swarm", "kill", "run", "worker-1")
        wait_until(lambda: len(replayed_seats()) == count, process)  # noqa: B023
        assert replayed_seats()[-1] <= nodes["node-1"]  # one may have been about to move
    wait_until(lambda: "replayable from" in run(swarm, "swarm", "status", "run").stdout, process)
    told = finished(process, 0)
    assert set(rules(swarm / "run")) <= {"replay", "handover"}
    plans = of_kind(read(swarm / "run"), "plan")
    assert all(plan["hosts"].keys() == plan["members"].keys() for plan in plans)
    assert set(plans[0]["hosts"].values()) == {"node-0", "node-1"}
    last = [plans[-1]["hosts"][f"{stage}.0"] for stage in range(5)]
    assert sum(last[stage] == last[(stage + 2) % 5] for stage in range(5)) == 1  # five in a ring
    at = locations_of(plans[0]["hosts"], {})
    promised = str(promise(laid_out(at, 1, at), at))
    assert promised.endswith(", any one machine")
    assert f"replay gives back {promised}\n" in told.stdout + told.stderr
    alone = in_one_process(swarm, *words[2:])
    assert numbers(swarm / "run")["weights"] == numbers(alone)["weights"]
    assert_nothing_left(swarm)
    replays(swarm, capsys)
