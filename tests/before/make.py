"""Run folders as a commit leaves them, for ``tests/process/test_before.py``::

    python -m tests.before.make 17

Made by the commit before an issue is begun, so that what that issue changes goes on with them: one
run in one process, killed between a loss and its repair; one of a swarm, killed later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import checkfree
from checkfree.config.load import load
from checkfree.core.records import FailureRecord, Record, of_kind, read
from tests.process.command import checkfree_command, environment, prepare

LOSSES = [{"iteration": 3, "stage": 2}, {"iteration": 6, "stage": 1}, {"iteration": 9, "stage": 3}]
WORDS = (
    *("small.yaml", "out=run", "iterations=14", "resume.every=4", "model.width=8"),
    *("model.hidden=16", "failures=losses.json", "recovery=auto", "recovery.shadow_every=5"),
)
LEFT_OUT = (".swarm/log", ".swarm/id", ".swarm/s", ".lock")


def ready(folder: Path) -> Path:
    """With all that a run there reads."""
    (folder / "losses.json").write_text(json.dumps({"failures": LOSSES}))
    return prepare(folder)


def _killed_between_loss_and_repair(folder: Path) -> None:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return

    def listen(record: Record) -> None:
        if isinstance(record, FailureRecord) and record.tick == LOSSES[-1]["iteration"]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(folder)
    file, *words = WORDS
    checkfree.train(load(file, words), listeners=[listen])


def _killed_swarm(folder: Path) -> None:
    words = checkfree_command("swarm", "up", *WORDS, "--quiet")
    with subprocess.Popen(words, cwd=folder, env=environment()) as process:
        while not (folder / "run/records.jsonl").is_file():
            time.sleep(0.1)
        while len(of_kind(read(folder / "run"), "iteration")) < 11:
            time.sleep(0.1)
        process.kill()


def main() -> None:
    """Write two archives beside this file."""
    for name, made in {
        "one_process": _killed_between_loss_and_repair,
        "swarm": _killed_swarm,
    }.items():
        with tempfile.TemporaryDirectory() as place:
            folder = ready(Path(place))
            made(folder)
            path = Path(__file__).parent / f"{sys.argv[1]}-{name}.tar.gz"
            with tarfile.open(path, "w:gz") as archive:
                for file in _kept(folder / "run"):
                    archive.add(file, file.relative_to(folder))
            print(path, path.stat().st_size)


def _kept(run: Path) -> Iterator[Path]:
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if file.is_file() and not name.startswith(LEFT_OUT):
            yield file


if __name__ == "__main__":
    main()
