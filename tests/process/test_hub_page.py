"""The commands of docs/hub.md, one after the other, with the page's own model and files."""

from __future__ import annotations

import asyncio
import re
import runpy
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from checkfree.core.records import of_kind, read
from tests.docs.commands import ROOT, commands, files
from tests.process.command import checkfree_command, end_of, finished, run, start, wait_until
from tests.process.test_swarm import PATIENT, begin, swarm, trains

__all__ = ["swarm"]

PAGE = ROOT / "docs" / "hub.md"


def succeeds(folder: Path, words: Sequence[str]) -> bool:
    """A command: not as long as nobody has taken the seat that it names."""
    return finished(start(folder, checkfree_command(*words)), None).returncode == 0


def test_its_commands_in_their_order(swarm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swarm)
    shutil.copytree(Path(asyncio.__file__).parent, swarm / "text")
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (swarm / name).write_text(text)
    for name, text in files(PAGE):
        (swarm / name).write_text(text)
        runpy.run_path(str(swarm / name))
    up: subprocess.Popen[str] | None = None
    for words in commands(PAGE):
        match words:
            case ["swarm", "up", *_]:
                (swarm / "run").symlink_to("runs/hub")
                up = begin(swarm, *words, "--quiet", PATIENT, "iterations=100000", tick=3)
            case ["swarm", "kill", *_]:
                assert up is not None
                wait_until(partial(succeeds, swarm, words), up)
                trains(swarm, up, 2)
            case _:
                if up is not None:
                    run(swarm, "swarm", "stop", "runs/hub")
                    finished(up, 0)
                    up = None
                told = run(swarm, *words).stdout
                assert told.strip(), words
    made = [
        r for m in of_kind(read(swarm / "runs/hub"), "recovery") for r in m["rebuilds"].values()
    ]
    assert len(made) >= 2 and {how["rule"] for how in made} == {"replay"}
    assert end_of(swarm / "runs/more")["status"] == "done"
    _, about = AutoModelForCausalLM.from_pretrained("trained", output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"]
