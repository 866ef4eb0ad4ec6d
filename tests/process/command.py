"""The command line as its users have it: real processes, real signals, a real run folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkfree
from checkfree.core.records import RECORDS, of_kind, read
from tests.process.zygote import Forked, usable

DEADLINE = 300.0
"""Seconds after which a process is stuck, whatever the load."""

TEXT = "text.txt"
SMALL = """\
iterations: 40
stages: 4
microbatches: 4
batch: 1
model: {width: 16, heads: 2, hidden: 32, blocks: 4, context: 16}
data: {name: text, path: text.txt}
validation: {every: 10, microbatches: 2}
resume: {every: 5}
recovery: checkfree
failures: none
"""

MODULES = ("checkfree", "tests.process.mortal", "tests.process.stranger")
FORKED = [[sys.executable, "-m", module] for module in MODULES]
"""What the zygote forks."""

Numbers = Mapping[str, Any]


def prepare(folder: Path) -> Path:
    """A folder to run commands in: a text, and ``small.yaml`` that trains on it."""
    words = ("stage", "lost", "the", "neighbours", "of", "a", "mean", "weigh", "more", "than")
    draw = random.Random(0)
    lines = (" ".join(draw.choices(words, k=10)) for _ in range(200))
    (folder / TEXT).write_text("".join(f"{line}\n" for line in lines))
    (folder / "small.yaml").write_text(SMALL)
    return folder


def checkfree_command(*words: str) -> list[str]:
    """``checkfree WORDS`` in this Python."""
    return [sys.executable, "-m", "checkfree", *words]


def run(cwd: Path, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """``checkfree WORDS``, awaited."""
    return finished(start(cwd, checkfree_command(*words)), expect)


def start(cwd: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """A process on one thread that imports the checkfree that this one has, and heeds Ctrl-C."""
    return opened(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def opened(command: Sequence[str], *, space: str = "", **options: Any) -> subprocess.Popen[Any]:
    """A process that heeds Ctrl-C, in a network namespace if one is named; see zygote.py."""
    if usable() and list(command[:3]) in FORKED:
        return Forked(command, space=space, **options)
    if space:
        command = ["ip", "netns", "exec", space, *command]
    with heeding_interrupts():
        return subprocess.Popen(command, **options)


def environment() -> dict[str, str]:
    """Ours, with the checkfree that this one has."""
    package = str(Path(checkfree.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """A shell that runs us in the background has us ignore SIGINT, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def finished(
    process: subprocess.Popen[str], expect: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """The process when it has ended, with ``expect`` as its exit code."""
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    told = f"{process.args!r}: {process.returncode}\n{out}{err}"
    assert expect is None or process.returncode == expect, told
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def descendants(pid: int) -> list[int]:
    """Of a process, those that live: a child before its own."""
    found = list[int]()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until ``condition`` holds; it has to before ``process`` ends. Looking takes a fifth of a core
    at most: it is the others who need this machine."""
    end = time.monotonic() + DEADLINE
    began = time.thread_time()
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended too early: {finished(process, None)}")
        assert time.monotonic() < end, "nothing happened"
        time.sleep(max(0.002, 4 * (time.thread_time() - began)))
        began = time.thread_time()


def start_until(tick: int, cwd: Path, *words: str, folder: str) -> subprocess.Popen[str]:
    """``checkfree WORDS``, returned as soon as the records in ``folder`` tell of ``tick``."""
    process = start(cwd, checkfree_command(*words))
    wait_until(lambda: last_tick(cwd / folder) >= tick, process)
    return process


def last_tick(folder: Path) -> int:
    """Of the newest step in the records of a run that may still be writing them; -1: none."""
    if not (folder / RECORDS).exists():
        return -1
    *lines, _ = (folder / RECORDS).read_bytes().split(b"\n")
    records = (json.loads(line) for line in reversed(lines))
    return next((record["tick"] for record in records if record["kind"] == "iteration"), -1)


def numbers(folder: Path) -> Numbers:
    """All of a run that has to be equal bit for bit, interrupted or not."""
    records = read(folder)

    def columns(kind: str, *keys: str) -> list[tuple[Any, ...]]:
        return [tuple(record[key] for key in keys) for record in of_kind(records, kind)]

    return {
        "steps": columns("iteration", "tick", "iteration", "loss", "gradient_norms"),
        "validations": columns("validation", "tick", "iteration", "loss", "after_repair"),
        "failures": columns("failure", "tick", "iteration", "seats"),
        "recoveries": columns("recovery", "tick", "resume_at", "rebuilds", "validation_after"),
        "weights": {p.name: p.read_bytes() for p in (folder / "weights").glob("*.safetensors")},
    }


def losses(folder: Path) -> dict[int, float]:
    """Iteration -> loss; of an iteration that was trained twice, the later one."""
    return {step["iteration"]: step["loss"] for step in of_kind(read(folder), "iteration")}


def end_of(folder: Path) -> Mapping[str, Any]:
    """The last record, which has to be how the run ended."""
    record = read(folder)[-1]
    assert record["kind"] == "end"
    return record


def only_line(process: subprocess.CompletedProcess[str]) -> str:
    """What the process said on stderr: one line of ours."""
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("checkfree: "), process.stderr
    return lines[0]
