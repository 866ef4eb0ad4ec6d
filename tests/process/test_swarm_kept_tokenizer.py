"""A swarm's run folder has the tokenizer, and goes on with it; under Muon, as any run."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.contract.test_kept_tokenizer import tokenizer
from tests.process.command import end_of, finished, losses, run, start_until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
ITERATIONS = 300


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
def test_it_goes_on_under_muon_when_the_files_are_gone(folder: Path) -> None:
    tokenizer(folder / "model")
    sizes = ("stages=2", "microbatches=2", "validation.every=0", f"iterations={ITERATIONS}")
    words = ("data.tokenizer=model", "data.cache=cache", "optimizer.name=muon", "out=run")
    process = start_until(
        12, folder, "swarm", "up", "small.yaml", *sizes, *words, "--quiet", folder="run"
    )
    process.send_signal(signal.SIGINT)
    finished(process, 130)
    before = losses(folder / "run")
    kept = (folder / "run" / "tokenizer" / "tokenizer.json").read_bytes()
    assert kept == (folder / "model" / "tokenizer.json").read_bytes()
    shutil.rmtree(folder / "model")
    run(folder, "swarm", "up", "--resume", "run", "--quiet")
    assert end_of(folder / "run")["status"] == "done"
    after, records = losses(folder / "run"), read(folder / "run")
    assert sorted(after) == list(range(ITERATIONS)) and len(of_kind(records, "resume")) == 1
    assert {step: after[step] for step in before} == before
    assert "equal bit for bit" in run(folder, "verify", "run").stdout
