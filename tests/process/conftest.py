from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.process.command import prepare, run

LOSSES = [(3, 2), (8, 1), (13, 3), (17, 0), (24, 4), (31, 2)]
"""(tick, stage): before and after whatever snapshot a test resumes from, the edges among them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: a text, ``small.yaml`` that trains on it, ``losses.json`` to survive."""
    return _prepared(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with ``losses.json`` under CheckFree+ that nobody stopped."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "undisturbed"
    with open(shared / "undisturbed.lock", "w") as lock:  # one for all workers of pytest-xdist
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            words = ("failures=losses.json", "recovery=checkfree_plus", "out=run", "--quiet")
            run(_prepared(folder), "train", "small.yaml", *words)
    return folder / "run"


def _prepared(folder: Path) -> Path:
    entries = [{"iteration": tick, "stage": stage} for tick, stage in LOSSES]
    (folder / "losses.json").write_text(json.dumps({"failures": entries}))
    return prepare(folder)
