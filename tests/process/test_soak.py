"""The soak of ``benchmarks/``, in small: five kills, the lead's among them, and nobody helps."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import SOAK

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KILLS, WALKS = BENCHMARKS / "kills.py", BENCHMARKS / "elastic.py"


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
@pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
@pytest.mark.skipif(not KILLS.exists(), reason="needs the checkout's benchmarks")
def test_training_goes_on_through_five_kills(folder: Path) -> None:
    """Another iteration is committed after each; nothing is left when it is stopped."""
    command = [sys.executable, str(KILLS), "--kills", "5", "--seed", "0", "--patience=60"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout.splitlines()
    assert told[0] == "left over: 0 processes, sockets: False"
    assert told[1].startswith("5 kills, 1 of the lead")


@pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
@pytest.mark.skipif(not WALKS.exists(), reason="needs the checkout's benchmarks")
def test_training_goes_on_with_whatever_nodes_there_are(folder: Path) -> None:
    """From one node to three (make soak: as many as there are seats) and back: nothing stands
    still, and all of it replays. How long a gap may be is for a machine with nothing else to do."""
    small = ("microbatches=2", "batch=1", "model.width=16", "model.heads=2", "model.hidden=32")
    walk = (
        "--walks=1",
        f"--most={5 if SOAK else 3}",
        "--steady=0",
        "--slack=100",
        "--pause=0.5",
        "model.context=16",
        *small,
    )
    command = [sys.executable, str(WALKS), *walk]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "verified: True" in ran.stdout
