"""The same pipeline on a GPU, and with its stages on both sides of the bus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.records import of_kind
from checkfree.pipeline.stash import NOTHING
from checkfree.stage import Part, Stage, offload
from checkfree.stage.offload import Offloading
from tests.contract.small import counting, modules, small
from tests.unit.states import conditions

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"
)

LOSSES = ((2, 2), (3, 0), (4, 4))
"""(tick, stage): a middle stage, the embeddings, an edge."""


def train(out: Path, recovery: str = "checkfree_plus", **changes: Any) -> checkfree.Run:
    entries = [{"iteration": tick, "stage": stage} for tick, stage in LOSSES]
    out.with_suffix(".json").write_text(json.dumps({"failures": entries}))
    config = small(
        out,
        {"iterations": 8, "optimizer": {"eps": 1e-6}, "resume": {"every": 2}},
        {"recovery": recovery, "failures": str(out.with_suffix(".json"))},
        changes,
    )
    run = checkfree.train(config, stages=modules(config), batches=counting(config))
    assert run.status == "done", run.reason
    return run


@pytest.mark.parametrize("devices", [["cuda:0"], ["cpu", "cuda:0"]])
@pytest.mark.parametrize(
    "recovery",
    ["checkfree_plus", "redundant", "checkpoint(interval=2)", "replay(wave_lag=1)", "auto"],
)
def test_losses_are_those_of_the_cpu(tmp_path: Path, devices: list[str], recovery: str) -> None:
    cpu = train(tmp_path / "cpu", recovery)
    gpu = train(tmp_path / "gpu", recovery, devices=devices)
    assert gpu.losses == pytest.approx(cpu.losses, rel=1e-4)
    assert len(of_kind(gpu.records, "recovery")) == len(LOSSES)


def test_stages_stand_where_they_should(tmp_path: Path) -> None:
    run = train(tmp_path / "both", devices=["cpu", "cuda:0"])
    places = [next(stage.parameters()).device.type for stage in run.stages]
    assert places[0] == "cpu" and places[-1] == "cuda"
    assert places == sorted(places)


def test_bf16_trains(tmp_path: Path) -> None:
    run = train(tmp_path / "bf16", devices=["cuda:0"], precision="bf16", iterations=20)
    assert run.losses[-1] < run.losses[0]
    assert all(p.dtype is torch.float32 for stage in run.stages for p in stage.parameters())


@pytest.mark.parametrize("devices", [["cuda:0"], ["cpu", "cuda:0"]])
@pytest.mark.parametrize("schedule", ["gpipe", "zb_h1"])
def test_what_is_offloaded_changes_nothing(
    tmp_path: Path, devices: list[str], schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "LEAST", 1)
    how = {"devices": devices, "schedule": schedule, "microbatches": 8, "model": {"dropout": 0.2}}
    kept, away = (
        train(tmp_path / stash, "replay(wave_lag=1)", stash=stash, **how)
        for stash in ("keep", "offload")
    )
    assert away.losses == pytest.approx(kept.losses, rel=1e-6)


def test_what_is_offloaded_is_not_on_the_gpu() -> None:
    """And comes back as it was."""
    device, most, found = torch.device("cuda:0"), {}, {}
    how = Offloading(Path("/"), print, lambda ops: NOTHING)
    for name, given in (("keep", None), ("offload", how)):
        torch.manual_seed(0)
        module = torch.nn.Sequential(*[torch.nn.Linear(256, 256), torch.nn.Tanh()] * 4)
        stage = Stage(module, conditions(device=device, offload=given))
        x = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        for m in range(6):
            stage.forward((m, 1), Part.BODY, x + m, None, m)
        torch.cuda.synchronize()
        most[name] = torch.cuda.memory_allocated() - before
        for m in range(6):
            stage.read_ahead((m, 1))
            stage.backward((m, 1), x)
        found[name] = [gradient.cpu() for gradient in stage.gradients().values()]
    assert most["offload"] < 0.6 * most["keep"]
    assert all(map(torch.equal, found["keep"], found["offload"]))


def test_a_resumed_run_goes_on_alike(tmp_path: Path) -> None:
    run = train(tmp_path / "whole", devices=["cuda:0"])
    config, losses = run.config, run.losses
    again = checkfree.resume(run.folder, stages=modules(config), batches=counting(config))
    assert again.losses == pytest.approx(losses, rel=1e-5)
