"""A worker of a living swarm under 100,000 malformed messages: is training disturbed?

    python benchmarks/fuzz.py [--messages 100000]

Starts a small swarm, then a process that talks rubbish to worker 2.0, with the run's secret and, a
tenth on top, without (``tests/process/stranger.py``). Prints how long that took, what was dropped,
what the worker's memory grew by after the first 2,000, who was lost, and whether every loss is, bit
for bit, that of the same run undisturbed in one process; if not, where the run is to look at. Needs
the libraries of the swarm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkfree
from checkfree.config.load import load
from checkfree.core.records import RECORDS, of_kind, read
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir

ROOT = Path(__file__).parents[1]
STRANGER = ROOT / "tests" / "process" / "stranger.py"
SEAT, MESSAGES, WARM = "2.0", 100_000, 2_000
WORDS = [
    *("stages=4", "microbatches=4", "batch=1", "validation.every=0", "resume.every=0"),
    *("model.width=16", "model.heads=2", "model.hidden=32", "model.blocks=4", "model.context=16"),
    *("data.documents=20", "failures=none", "recovery=checkfree", "optimizer.schedule=constant"),
]
DEADLINE = 600.0  # seconds
STILL = 3.0  # seconds, in which several pulses come


def main() -> int:
    """Returns 0 if training was undisturbed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=MESSAGES)
    messages = parser.parse_args().messages
    folder = Path(tempfile.mkdtemp(prefix="checkfree-fuzz-"))
    run = folder / "run"
    options = (f"out={run}", "iterations=1000000", "--quiet", "--patience=60")
    up = start("-m", "checkfree", "swarm", "up", "demo", *WORDS, *options)
    try:
        disturb(up, run, messages)
    finally:
        up.terminate()
        up.wait()
        Workdir.of(run).kill_leftovers()
        Workdir.of(run).clear(keep_logs=True)
    losses = [step["loss"] for step in of_kind(read(run), "iteration")]
    lost = [
        f"{seat} at {event['iteration']}"
        for event in of_kind(read(run), "failure")
        for seat in event["seats"]
    ]
    equal = losses == undisturbed(folder / "one", len(losses))
    print(f"lost: {', '.join(lost) or 'nobody'}")
    print(f"{len(losses)} losses, {'equal' if equal else 'NOT EQUAL'} to those undisturbed")
    if lost or not equal:
        print(f"kept: {run}")
        return 1
    shutil.rmtree(folder)
    return 0


def disturb(up: subprocess.Popen[str], run: Path, messages: int) -> None:
    """Talk rubbish to a worker, and print what came of it."""
    wait(up, lambda: ticks(run) >= 5)
    memory = [resident(run)]
    fuzz(run, WARM)
    memory.append(resident(run))
    before, begun = ticks(run), time.monotonic()
    fuzz(run, messages)
    took, during = time.monotonic() - begun, ticks(run) - before
    wait(up, lambda: ticks(run) >= before + during + 5)
    memory.append(resident(run))
    told = settled(up, run)
    print(f"{messages} messages in {took:.0f} s, {during} iterations meanwhile")
    print(f"dropped, of all {messages + WARM}: {told['dropped']}")
    kib = " -> ".join(f"{count / 1024:.1f}" for count in memory)
    grown = memory[2] / memory[1] - 1
    print(f"memory of worker {SEAT}, MiB: {kib} (start, after {WARM}, end; {grown:+.1%})")


def settled(up: subprocess.Popen[str], run: Path) -> dict[str, Any]:
    """The status once no pulse counts more drops than the last."""
    told, since = status(run), time.monotonic()

    def same() -> bool:
        nonlocal told, since
        now = status(run)
        if now["dropped"] != told["dropped"]:
            told, since = now, time.monotonic()
        return time.monotonic() > since + STILL

    wait(up, same)
    return told


def undisturbed(run: Path, iterations: int) -> Sequence[float]:
    config = load("demo", [*WORDS, f"out={run}", f"iterations={iterations}"])
    return checkfree.train(config).losses


def fuzz(run: Path, messages: int) -> None:
    script = start(os.fspath(STRANGER), os.fspath(run), SEAT, str(messages))
    out, _ = script.communicate()
    assert script.returncode == 0, out


def start(*words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.fspath(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], env=env, stdout=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen[str], true: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert process.poll() is None, "the swarm ended"
        assert time.monotonic() < end, "the swarm is stuck"
        time.sleep(0.05)


def ticks(run: Path) -> int:
    return len(of_kind(read(run), "iteration")) if (run / RECORDS).exists() else 0


def status(run: Path) -> dict[str, Any]:
    return dict(ask(Workdir.of(run), {"ask": "status"}))


def resident(run: Path) -> int:
    """KiB that the worker has in memory."""
    pid = status(run)["processes"][SEAT]["pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    raise SystemExit(main())
