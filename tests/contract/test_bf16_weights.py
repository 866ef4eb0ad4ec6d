"""Runs that compute with weights in bf16, and train masters in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import checkfree
from checkfree.core.config import Config
from checkfree.core.records import of_kind
from checkfree.data import open_data
from checkfree.models import hf
from checkfree.session import session
from tests.contract.hub_models import CONTEXT, folder_with
from tests.contract.small import small, text, trace
from tests.contract.test_hub_runs import hub_run

NARROW = {"precision": "bf16_weights"}
WITHIN = 0.005
"""By how much a loss in nats may differ from fp32's over ten steps, as docs say."""


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("family", ["llama", "gpt"])
def test_ten_steps_are_close_to_those_of_fp32(family: str, optimizer: str, tmp_path: Path) -> None:
    how = {"iterations": 10, "model": {"family": family}, "optimizer": {"name": optimizer}}
    shared = text(tmp_path / "text")
    wide, narrow = (
        checkfree.train(small(tmp_path / out, shared, how, precision))
        for out, precision in (("wide", {}), ("narrow", NARROW))
    )
    assert narrow.losses == pytest.approx(wide.losses, rel=0, abs=WITHIN)
    assert narrow.losses != wide.losses
    assert all(p.dtype is torch.float32 for stage in narrow.stages for p in stage.parameters())


@pytest.mark.parametrize("name", ["llama tied", "gemma3", "gpt2", "mixtral", "deepseek_v3"])
def test_models_of_the_hub_too(name: str, tmp_path: Path) -> None:
    folder_with(name, tmp_path / "model")
    wide, narrow = (
        checkfree.train(hub_run(tmp_path, out, precision, {"stages": 2}))
        for out, precision in (("wide", {}), ("narrow", NARROW))
    )
    assert narrow.losses == pytest.approx(wide.losses, rel=0, abs=WITHIN)
    assert narrow.losses != wide.losses


def loop_with_masters(config: Config, model: nn.Module) -> list[float]:
    """Train the uncut model as one would by hand. It ends as its masters."""
    data = open_data(config.data, context=CONTEXT, batch=config.batch, seed=config.seed)
    params = list(model.parameters())
    masters = [nn.Parameter(param.detach().clone()) for param in params]
    optimizer = torch.optim.AdamW(masters, lr=config.optimizer.lr, weight_decay=0.1, fused=True)
    losses = []
    for iteration in range(config.iterations):
        for param, master in zip(params, masters, strict=True):
            param.data, master.grad = master.detach().bfloat16(), torch.zeros_like(master)
        total = 0.0
        for microbatch in range(config.microbatches):
            batch = data.train(iteration, microbatch)
            logits = model(batch[:, :-1], use_cache=False).logits.flatten(0, 1)
            loss = F.cross_entropy(logits.float(), batch[:, 1:].flatten()) / config.microbatches
            loss.backward()
            total += loss.item()
            for param, master in zip(params, masters, strict=True):
                if param.grad is not None and master.grad is not None:
                    master.grad += param.grad.float()
                param.grad = None
        optimizer.step()
        losses.append(total)
    for param, master in zip(params, masters, strict=True):
        param.data = master.detach()
    return losses


UNCLIPPED = {"name": "adamw", "weight_decay": 0.1, "clip": None}


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "qwen3_moe", "mamba2"])
def test_however_it_is_cut_it_is_a_plain_loop_to_the_last_bit(name: str, tmp_path: Path) -> None:
    """Whose losses are divided by a power of two. Gemma's weights are tied: what the two ends of
    such a model add to a gradient, one backward adds in bf16, and stage 0 in fp32."""
    model = folder_with(name, tmp_path / "model").train()
    how = {**NARROW, "microbatches": 4, "optimizer": UNCLIPPED}
    cuts = {n: checkfree.train(hub_run(tmp_path, f"{n}", how, {"stages": n})) for n in (1, 2, 4)}
    assert cuts[1].losses == cuts[2].losses == cuts[4].losses
    expected = loop_with_masters(cuts[1].config, model)
    if model.config.tie_word_embeddings:
        assert cuts[1].losses == pytest.approx(expected, rel=0, abs=WITHIN)
        return
    assert cuts[1].losses == expected
    whole = dict(model.named_parameters())
    for n, run in cuts.items():
        for i, stage in enumerate(run.stages):
            for own, param in stage.named_parameters():
                theirs = whole[hf.transformers_name(run.config.model, n, i, own)]
                assert torch.equal(param, theirs), (n, own)


RULES = ["checkfree_plus", "redundant", "checkpoint(interval=2)", "auto", "fit"]


@pytest.mark.parametrize("recovery", RULES)
def test_every_kind_of_recovery(recovery: str, tmp_path: Path) -> None:
    lost = {"failures": {"scenario": trace(tmp_path / "lost.json", (3, 2), (6, 4))}}
    how = {"iterations": 10, "recovery": recovery, "replicas": 1}
    run = checkfree.train(small(tmp_path / "run", text(tmp_path / "text"), how, NARROW, lost))
    assert run.status == "done", run.reason
    assert len(of_kind(run.records, "recovery")) == 2
    assert checkfree.verify(run.folder).difference == ""


def test_a_resumed_run_has_the_same_bits_and_saves_masters(tmp_path: Path) -> None:
    def train(out: str, **keys: Any) -> checkfree.Run:
        how = {"iterations": 8, "recovery": "auto", "resume": {"every": 3}, **keys}
        return checkfree.train(small(tmp_path / out, text(tmp_path / "text"), NARROW, how))

    whole = train("whole")
    again = checkfree.resume(whole.folder)  # from its newest snapshot, of iteration 6
    assert again.losses == whole.losses
    digests = [r["digests"] for r in of_kind(whole.records, "iteration")]
    assert [r["digests"] for r in of_kind(again.records, "iteration")][: len(digests)] == digests
    for path in sorted((whole.folder / "weights").glob("*.safetensors")):
        for name, saved in load_file(path).items():
            assert saved.dtype == torch.float32
            assert saved.ndim < 2 or not torch.equal(saved, saved.bfloat16().float()), name


def test_an_export_has_the_masters(tmp_path: Path) -> None:
    how = {"iterations": 3, **NARROW}
    run = checkfree.train(small(tmp_path / "run", text(tmp_path / "text"), how))
    made = checkfree.export(run.folder, to=tmp_path / "out").folder
    tensors = [t for f in sorted(made.glob("*.safetensors")) for t in load_file(f).values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert "bf16_weights" in (made / "README.md").read_text(encoding="utf-8")
