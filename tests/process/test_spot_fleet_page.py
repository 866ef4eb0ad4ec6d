"""The commands of docs/spot-fleet.md, one after the other, on a model of a few hundred weights.

What a page can't know stands in for its placeholders: an address, a token's file, a port that is
free, hosts that are there. What stays up is stopped when the page goes on to the next swarm.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.docs.commands import ROOT, SMALL, commands
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    finished,
    last_tick,
    run,
    start,
    wait_until,
)
from tests.process.test_swarm_stop import Fleet, ended

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
    ),
    pytest.mark.skipif("CHECKFREE_SOAK" not in os.environ, reason="two minutes: CHECKFREE_SOAK=1"),
]
PAGE = ROOT / "docs" / "spot-fleet.md"
ENDLESS = (
    *(word for word in SMALL if word.partition("=")[0] not in ("iterations", "model.blocks")),
    *("iterations=1000000", "stages=4", "model.blocks=4"),
)
HOSTS = ("gpu-3", "gpu-7")
"""Where the page moves a seat to, and what it drains."""


def until(condition: Callable[[], bool], said: Sequence[str] = ()) -> None:
    """``said``: what is told if it never comes to hold."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, said
        time.sleep(0.05)


class Reader:
    """Whoever types what the page says. ``shown``: commands that ran."""

    def __init__(self, folder: Path):
        self.folder, self.fleet = folder, Fleet(folder)
        self.up: subprocess.Popen[str] | None = None
        self.at = folder / "runs"
        self.shown: list[str] = []

    def types(self, words: list[str]) -> None:
        words = [self._filled_in(word) for word in words]
        match words:
            case ["swarm", "up", *_]:
                self._goes_up(words)
            case ["swarm", "lead", *more]:
                self._leads(more)
            case ["swarm", "join", _, *more]:
                self._joins(more)
            case ["swarm", "stop", _, "--all"]:
                self.rests()
            case ["swarm", "stop", *_]:
                self._until_done(words)
                self.up = None
            case ["swarm", "kill" | "move", *_]:
                self._until_done(words)
            case ["train", *_]:
                self._trains_on(words)
            case ["simulate", *_]:
                run(self.folder, *words[:-1], "iterations=20")
            case _:
                run(self.folder, *words)
        self.shown.append(" ".join(words[:2]))

    def _filled_in(self, word: str) -> str:
        known = {"0.0.0.0:4001": "127.0.0.1:0", "auto": "cmd:false"}
        if self.fleet.line:
            known["ADDRESS"] = self.fleet.line[2]
        return known.get(word, word)

    def _started(self, words: list[str]) -> subprocess.Popen[str]:
        return start(self.folder, checkfree_command(*words))

    def _until_done(self, words: list[str]) -> None:
        """Again, while a lead that was killed, or a seat, has nobody yet."""
        said: list[str] = []

        def done() -> bool:
            found = finished(self._started(words), None)
            said[:] = [found.stdout, found.stderr]
            return found.returncode == 0

        until(done, said)

    def _goes_up(self, words: list[str]) -> None:
        out = next((w.removeprefix("out=") for w in words if w.startswith("out=")), words[-1])
        self.rests()
        self.at = self.folder / out
        before, new = last_tick(self.at), () if "--resume" in words else ENDLESS
        self.up = self._started([*words, *new, "--quiet"])
        wait_until(lambda: last_tick(self.at) > before + 1, self.up)

    def _leads(self, more: list[str]) -> None:
        if "--resume" not in more:
            self.rests()
        self.at = self.fleet.run = self.folder / "runs" / "fleet"
        if "--resume" not in more:
            shutil.rmtree(self.at, ignore_errors=True)
        waits = ["1" if before == "--wait" else word for before, word in pairwise(["", *more])]
        self.fleet.lead(*waits)
        (self.folder / "token").write_text(self.fleet.line[-1])
        if "--resume" in more:  # whoever is to hear of its end has to be back
            until(lambda: f'"{HOSTS[0]}"' in self._status())

    def _joins(self, more: list[str]) -> None:
        joined = len(self.fleet.nodes)
        host = more[more.index("--host") + 1] if "--host" in more else HOSTS[0]
        line, self.fleet.line = self.fleet.line, ["swarm", "join", self.fleet.line[2], *more]
        self.fleet.join(f"{host}-{joined}", "--host", host)
        self.fleet.line = line
        before = last_tick(self.at)
        until(lambda: f'"{host}"' in self._status() and last_tick(self.at) > before + 1)

    def _status(self) -> str:
        return finished(self._started(["swarm", "status", str(self.at), "--json"]), None).stdout

    def _trains_on(self, words: list[str]) -> None:
        before, process = last_tick(self.at), self._started([*words, "--quiet"])
        wait_until(lambda: last_tick(self.at) > before + 1, process)
        process.send_signal(signal.SIGINT)
        finished(process, 130)

    def rests(self) -> None:
        """Ends what is up: another swarm's turn comes."""
        if self.up is not None:
            self._until_done(["swarm", "stop", str(self.at)])
            finished(self.up, None)
            self.up = None
        elif self.fleet.line:
            self._until_done(["swarm", "stop", str(self.at), "--all"])
            for node in self.fleet.nodes.values():
                ended(node, 0)
            self.fleet.nodes.clear()
            self.fleet.line = []


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    settings = "\n".join(f"{word.replace('=', ': ')}" for word in ENDLESS if "." not in word)
    nested = [word.partition(".")[::2] for word in ENDLESS if "." in word]
    for section in dict.fromkeys(name for name, _ in nested):
        inner = (value.replace("=", ": ") for name, value in nested if name == section)
        settings += f"\n{section}: {{{', '.join(inner)}}}"
    (tmp_path / "fleet.yaml").write_text(settings + "\n")
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        if made.up is not None:
            made.up.kill()
            made.up.communicate()
        made.fleet.end()
        for path in (tmp_path / "runs").glob("*"):
            Workdir.of(path).kill_leftovers()


def test_the_page_from_top_to_bottom(reader: Reader) -> None:
    for words in commands(PAGE):
        reader.types(words)
    reader.rests()
    assert {"swarm drain", "swarm move", "swarm kill", "verify runs/fleet"} <= {*reader.shown}
    plans = of_kind(read(reader.folder / "runs" / "fleet"), "plan")
    assert len(plans) > 3, "joined, drained, moved, resumed"
