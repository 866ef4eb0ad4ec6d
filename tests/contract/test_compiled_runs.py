"""Runs whose blocks are compiled. A compiler takes half a minute for a block, so few are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.config.load import to_yaml
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.session import session
from tests.chaos import SOAK
from tests.contract.hub_models import CONTEXT, folder_with
from tests.contract.small import small, text, trace

LOSSES = ((2, 0), (4, 2), (4, 3), (7, 1))
WITHIN = 1e-5
"""By how much a loss in nats may differ from an uncompiled run's over ten steps, as docs say."""


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("family", ["llama", "gpt", "hf"])
def test_it_is_the_run_that_it_was_and_replays_to_the_last_bit(family: str, tmp_path: Path) -> None:
    """With dropout, as far as the family has it, and one stage recomputed."""
    folder_with("qwen2", tmp_path / "model")  # of two kinds of layer
    hub = {"family": "hf", "path": str(tmp_path / "model"), "context": CONTEXT}
    model = hub if family == "hf" else {"family": family, "dropout": 0.1}
    data = text(tmp_path / "text")["data"]
    how = {"iterations": 10, "recompute": [2], "recovery": "replay(wave_lag=1)"}
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *LOSSES)}}

    def train(out: str, **keys: Any) -> checkfree.Run:
        tree = {"data": data, "model": model, **how, **keys}
        if family != "hf":
            tree["model"] = {**model, "vocabulary": 256}
            return checkfree.train(small(tmp_path / out, tree))
        sizes = {"stages": 4, "microbatches": 3, "batch": 2, "validation": {"every": 0}}
        return checkfree.train(
            {**sizes, **tree, "failures": "none", "out": str(tmp_path / out)} | keys
        )

    eager = train("eager")
    plain, lost = train("plain", compile=True), train("lost", compile=True, **lossy)
    assert eager.status == plain.status == lost.status == "done"
    assert plain.losses == pytest.approx(eager.losses, rel=0, abs=WITHIN)
    assert lost.losses == plain.losses
    digests = [[r["digests"] for r in of_kind(run.records, "iteration")] for run in (plain, lost)]
    assert digests[0] == digests[1]
    assert checkfree.verify(lost.folder).difference == ""
    for one, other in zip(eager.stages, plain.stages, strict=True):
        assert list(one.state_dict()) == list(other.state_dict())
    pairs = zip(eager.stages[1].parameters(), plain.stages[1].parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs), "nothing was compiled"


def test_without_a_compiler_no_run_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = small(tmp_path / "run", text(tmp_path / "text"), {"compile": True})
    with pytest.raises(BadInput, match="there is no no-such-compiler on this machine"):
        checkfree.train(config)
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_is_told_before_a_run_begins(tmp_path: Path) -> None:
    """As one does that lacks headers, or whose disk is full. By itself: torch remembers it."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exec echo g++ 1.0\nexit 1\n")
    compiler.chmod(0o755)
    config = small(tmp_path / "run", text(tmp_path / "text"), {"compile": True})
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    here = {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    told = subprocess.run(
        [sys.executable, "-m", "checkfree", "train", str(tmp_path / "run.yaml")],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2, told.stderr
    lines = told.stderr.splitlines()
    assert lines[-1].startswith("checkfree: stage 1: compile=true: torch can't compile Body here (")
    assert "Traceback" not in told.stderr and not (tmp_path / "run").exists()
