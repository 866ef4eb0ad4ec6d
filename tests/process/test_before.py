"""Run folders of commits before go on, and verify: see ``tests/before/make.py``."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from checkfree.session.job import versions
from tests.before.make import LOSSES, ready
from tests.chaos import SOAK
from tests.process.command import losses, run

EVERY = sorted((Path(__file__).parent.parent / "before").glob("*.tar.gz"))
BETWEEN = ("17-", "18-")
"""With CHECKFREE_SOAK=1 alone: what the oldest and the newest read, those read, too."""
ARCHIVES = [archive for archive in EVERY if SOAK or not archive.name.startswith(BETWEEN)]
HIVEMIND = importlib.util.find_spec("hivemind") is not None


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_a_run_of_before_goes_on(archive: Path, tmp_path: Path) -> None:
    of_swarm = "swarm" in archive.name
    if of_swarm and not HIVEMIND:
        pytest.skip("hivemind is not installed")
    with tarfile.open(archive) as packed:
        packed.extractall(ready(tmp_path), filter="data")
    folder = tmp_path / "run"
    before = losses(folder)
    command = ("swarm", "up") if of_swarm else ("train",)
    run(tmp_path, *command, "--resume", "run", "--quiet")
    records, after = read(folder), losses(folder)
    assert of_kind(records, "end")[-1]["status"] == "done"
    assert sorted(after) == list(range(14))
    kept = {iteration: loss for iteration, loss in before.items() if iteration < 8}
    assert {iteration: after[iteration] for iteration in kept} == kept  # as they stood there
    assert before == pytest.approx({iteration: after[iteration] for iteration in before}, rel=1e-4)
    repaired = [record["tick"] for record in of_kind(records, "recovery")]
    assert repaired == [entry["iteration"] for entry in LOSSES]
    was = json.loads((folder / "versions.json").read_text())
    if was == versions():  # on another processor the first ones come out otherwise
        assert "equal bit for bit" in run(tmp_path, "verify", "run").stdout
