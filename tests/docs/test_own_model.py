"""The example of a model of one's own runs as its first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import checkfree
from checkfree.core.records import of_kind, read

ROOT = Path(checkfree.__file__).parents[1]
SCRIPT = Path(__file__).parents[2] / "experiments" / "own_model.py"


def test_own_model_trains_through_its_failures(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "run")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    records = read(tmp_path / "run")
    losses = [record["loss"] for record in of_kind(records, "iteration")]
    repairs = of_kind(records, "recovery")
    rules = {made["rule"] for repair in repairs for made in repair["rebuilds"].values()}
    assert rules == {"weighted average", "partner copy"}
    assert run.stdout.count("lost and rebuilt") == len(repairs)
    assert run.stdout.splitlines()[-1].startswith(f"done: loss {losses[-1]:.3f}")
    assert losses[-1] < 1.5 < losses[0]
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000


def test_it_is_short_and_no_transformer() -> None:
    text = SCRIPT.read_text()
    code = [line for line in text.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(code) <= 40
    assert "checkfree.train(stages=stages, batches=batches, config=config)" in text
    assert "attention" not in text.lower()
