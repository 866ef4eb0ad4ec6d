"""Runs that train a model of the Hub: as a plain loop would, and through losses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import checkfree
from checkfree.config.load import build, merge
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.data import open_data
from checkfree.models import hf
from checkfree.session import session
from tests.contract.hub_models import CONTEXT, folder_with
from tests.contract.small import TREE, text, trace


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


def hub_run(tmp_path: Path, out: str, *changes: Mapping[str, Any]) -> Config:
    """Of the folder ``model``, on a text."""
    model = {"family": "hf", "path": str(tmp_path / "model"), "context": CONTEXT}
    data = text(tmp_path / "text")["data"]
    tree = {**TREE, "out": str(tmp_path / out), "iterations": 10, "model": model, "data": data}
    for change in ({"failures": "none"}, *changes):
        tree = merge(tree, change)
    return build(tree)


ADAMW = {"name": "adamw", "weight_decay": 0.1, "clip": 0.05, "clip_over": "global", "eps": 1e-6}


Clip = Callable[[nn.Module, float], float]
"""Multiplies the gradients of a model so that no norm exceeds that; returns the norm before."""


def clip_as_any_loop(model: nn.Module, clip: float) -> float:
    return float(nn.utils.clip_grad_norm_(model.parameters(), clip))


def clip_as_stages(config: Config) -> Clip:
    """As semantics 20 has it: a norm for each stage, and in doubles that of all."""
    found = []
    for i in range(config.stages + 1):
        with torch.device("meta"):
            part = hf.stage(config.model, i, config.stages)
        names = dict(part.named_parameters())
        found.append([hf.transformers_name(config.model, config.stages, i, n) for n in names])

    def clip(model: nn.Module, most: float) -> float:
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        norms = [
            float(nn.utils.get_total_norm([named[n] for n in names if n in named]))
            for names in found
        ]
        total = math.sqrt(sum(norm**2 for norm in norms))
        for gradient in named.values():
            gradient.mul_(min(1.0, most / (total + 1e-6)))
        return total

    return clip


def plain_loop(
    config: Config,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    clipped: Clip = clip_as_any_loop,
) -> list[float]:
    """Train the uncut model in place as any tutorial would. Returns the loss of each step."""
    data = open_data(config.data, context=CONTEXT, batch=config.batch, seed=config.seed)
    losses, clip = [], config.optimizer.clip
    for iteration in range(config.iterations):
        total = 0.0
        for microbatch in range(config.microbatches):
            batch = data.train(iteration, microbatch)
            logits = model(batch[:, :-1], use_cache=False).logits.flatten(0, 1)
            loss = F.cross_entropy(logits, batch[:, 1:].flatten()) / config.microbatches
            loss.backward()
            total += loss.item()
        if clip is not None:
            assert clipped(model, clip) > clip
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(total)
    assert losses[-1] < losses[0] - 0.05, "nothing was learnt, so little was compared"
    return losses


def largest_difference(run: checkfree.Run, model: nn.Module) -> float:
    """Over all parameters of all stages."""
    whole, stages = dict(model.named_parameters()), len(run.stages) - 1
    with torch.no_grad():
        return max(
            float((p - whole[hf.transformers_name(run.config.model, stages, i, n)]).abs().max())
            for i, stage in enumerate(run.stages)
            for n, p in stage.named_parameters()
        )


@pytest.mark.parametrize(
    "name, stages, schedule",
    [
        ("llama tied", 2, "1f1b"),
        ("llama tied", 4, "1f1b"),
        ("gpt2", 4, "1f1b"),
        ("gemma3", 2, "1f1b"),
        ("deepseek_v3", 4, "1f1b"),
        ("gpt2", 4, "zb_h1"),
        ("mixtral", 2, "zb_h2"),
    ],
)
def test_ten_steps_are_those_of_a_plain_loop(
    name: str, stages: int, schedule: str, tmp_path: Path
) -> None:
    model = folder_with(name, tmp_path / "model").train()
    words = {"stages": stages, "optimizer": ADAMW, "schedule": schedule}
    config = hub_run(tmp_path, "run", words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, eps=1e-6, weight_decay=0.1)
    losses = plain_loop(config, model, [optimizer])
    run = checkfree.train(config)
    assert run.losses == pytest.approx(losses, rel=0, abs=1e-5)
    assert largest_difference(run, model) < 1e-4
    assert "unsplit" not in of_kind(run.records, "config")[0]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_attention_is_the_same_however_it_is_computed(name: str, tmp_path: Path) -> None:
    folder_with(name, tmp_path / "model")
    eager, sdpa = (
        checkfree.train(hub_run(tmp_path, how, {"stages": 2, "model": {"attention": how}}))
        for how in ("eager", "sdpa")
    )
    assert eager.losses == pytest.approx(sdpa.losses, rel=0, abs=1e-5)
    assert largest_apart(eager, sdpa) > 0.0, "both were computed alike"


def largest_apart(one: checkfree.Run, other: checkfree.Run) -> float:
    pairs = zip(one.stages, other.stages, strict=True)
    with torch.no_grad():
        return max(
            float((a - b).abs().max())
            for stage, twin in pairs
            for a, b in zip(stage.parameters(), twin.parameters(), strict=True)
        )


def muon_and_adamw(model: nn.Module, **how: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers."""
    own = {
        id(p)
        for n, p in model.named_parameters()
        if p.ndim == 2 and re.search(r"\.\d+\.", n) and not n.endswith("bias")
    }
    matrices, rest = (
        [param for param in model.parameters() if (id(param) in own) is theirs]
        for theirs in (True, False)
    )
    rates = {"lr": 2e-3, "weight_decay": 0.1}
    return [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **rates),
        torch.optim.AdamW(rest, eps=1e-6, **rates, **how),
    ]


@pytest.mark.parametrize("name, stages", [("llama tied", 2), ("gpt2", 4), ("gemma3", 4)])
def test_and_under_muon(name: str, stages: int, tmp_path: Path) -> None:
    """In fp64, for Muon rounds directions to bf16: else the last bit of a gradient shows."""
    model = folder_with(name, tmp_path / "model").train().double()
    muon = {"optimizer": {**ADAMW, "name": "muon"}, "precision": "fp64"}
    config = hub_run(tmp_path, "run", {"stages": stages}, muon)
    losses = plain_loop(config, model, muon_and_adamw(model))
    run = checkfree.train(config)
    assert run.losses == pytest.approx(losses, rel=0, abs=1e-8)
    assert largest_difference(run, model) < 1e-8


@pytest.mark.parametrize(
    "name, stages", [("llama", 4), ("qwen3", 2), ("deepseek_v3", 2), ("mixtral", 2), ("gpt_oss", 2)]
)
def test_and_under_muon_to_the_last_bit(name: str, stages: int, tmp_path: Path) -> None:
    """In fp32, where a loop rounds as a pipeline does: it divides losses by a power of two, takes
    norms by stage, and ties no head, whose gradient has two parts to be summed in some order."""
    model = folder_with(name, tmp_path / "model").train()
    muon = {"optimizer": {**ADAMW, "name": "muon"}, "microbatches": 4}
    config = hub_run(tmp_path, "run", {"stages": stages}, muon)
    optimizers = muon_and_adamw(model, fused=True)
    losses = plain_loop(config, model, optimizers, clip_as_stages(config))
    run = checkfree.train(config)
    assert run.losses == losses and largest_difference(run, model) == 0.0


LOSSES = ((2, 0), (4, 2), (4, 3), (7, 1), (8, 4))
"""Before the first wave and after it; stage 0, and two beside each other."""


@pytest.mark.parametrize(
    "name, recovery",
    [
        *(("llama", "replay(wave_lag=1)"), ("deepseek_v3", "replay(wave_lag=1)")),
        *(("gpt2", "redundant"), ("mixtral", "auto")),
    ],
)
def test_what_is_lost_comes_back_exactly(name: str, recovery: str, tmp_path: Path) -> None:
    folder_with(name, tmp_path / "model")
    losses = LOSSES if recovery != "redundant" else ((2, 0), (4, 2), (7, 1), (8, 4))
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *losses)}}
    plain, run = (
        checkfree.train(hub_run(tmp_path, out, {"stages": 4, "recovery": recovery}, failures))
        for out, failures in (("plain", {}), ("lossy", lossy))
    )
    assert run.status == plain.status == "done", run.reason
    assert run.losses == plain.losses
    digests = [[r.get("digests") for r in of_kind(x.records, "iteration")] for x in (plain, run)]
    assert digests[0] == digests[1]
    assert checkfree.verify(run.folder).difference == ""


@pytest.mark.parametrize(
    "recovery", ["checkfree", "checkfree_plus", "copy", "shadow(shadow_every=5)", "fit", "zero"]
)
def test_inexact_strategies_train_on(recovery: str, tmp_path: Path) -> None:
    folder_with("llama", tmp_path / "model")
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", (7, 2))}}
    run = checkfree.train(hub_run(tmp_path, "run", {"stages": 4, "recovery": recovery}, lossy))
    assert run.status == "done", run.reason
    assert len(run.losses) == 10 and len(of_kind(run.records, "recovery")) == 1


def test_random_reads_pretrained_weights_again(tmp_path: Path) -> None:
    folder_with("llama", tmp_path / "model")
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", (9, 2))}}
    frozen = {"optimizer": {"name": "sgd", "lr": 1e-30}, "recovery": "random", "stages": 2}
    run = checkfree.train(hub_run(tmp_path, "run", frozen, lossy))
    first = hf.stage(run.config.model, 2, 2)
    for one, other in zip(run.stages[2].parameters(), first.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("recovery", ["checkfree", "checkfree_plus", "copy", "uniform", "fit"])
def test_unequal_stages_have_no_neighbour_to_stand_in(recovery: str, tmp_path: Path) -> None:
    folder_with("deepseek_v3", tmp_path / "model")
    with pytest.raises(BadInput, match=r"makes a lost stage of its neighbours, and body stage 2 "):
        checkfree.train(hub_run(tmp_path, "run", {"stages": 4, "recovery": recovery}))
    assert not (tmp_path / "run").exists()


def test_bytes_are_not_what_pretrained_weights_know(tmp_path: Path) -> None:
    folder_with("llama", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"data.tokenizer=bytes, and the weights of .* know"):
        checkfree.train(hub_run(tmp_path, "run"))


@pytest.mark.parametrize("family", ["llama", "gpt", "hf"])
def test_an_uneven_cut_trains_as_an_even_one(family: str, tmp_path: Path) -> None:
    """And replays what is lost, though no stage has a neighbour that is like it."""
    folder_with("llama", tmp_path / "model")

    def train(out: str, **keys: Any) -> checkfree.Run:
        if family == "hf":
            return checkfree.train(hub_run(tmp_path, out, keys))
        data = text(tmp_path / "text")
        model = {**TREE["model"], **data["model"], "family": family}
        return checkfree.train(
            {**TREE, **data, "iterations": 8, "out": str(tmp_path / out), **keys, "model": model}
        )

    lossy = {
        "failures": {"scenario": trace(tmp_path / "lost.json", (2, 1), (5, 0), (6, 2), (6, 3))}
    }
    replay = {"recovery": {"name": "replay", "wave_lag": 1}, "stages": 3, "cut": [1, 2, 1]}
    plain, run = train("plain", **replay), train("lossy", **replay, **lossy)
    assert run.status == plain.status == "done", run.reason
    assert run.losses == plain.losses
    assert checkfree.verify(run.folder).difference == ""
    again = train("again", init=str(run.folder), stages=2, cut="auto")
    assert again.losses[0] < run.losses[0]
    if family == "hf":  # whose first weights are the folder's, however it is cut
        assert train("even", stages=4).losses == pytest.approx(run.losses, rel=0, abs=1e-4)


def test_auto_takes_old_copies_where_stages_are_unequal(tmp_path: Path) -> None:
    folder_with("deepseek_v3", tmp_path / "model")
    auto = {"recovery": {"name": "auto", "log_memory": 0, "shadow_every": 5}, "stages": 4}
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", (8, 1))}}
    run = checkfree.train(hub_run(tmp_path, "run", auto, lossy))
    assert run.status == "done", run.reason
    made = [how for r in of_kind(run.records, "recovery") for how in r["rebuilds"].values()]
    assert [how["rule"] for how in made] == ["shadow"]
    early = {"failures": {"scenario": trace(tmp_path / "early.json", (1, 1))}}
    run = checkfree.train(hub_run(tmp_path, "early", auto, early))
    assert run.status == "failed" and "\n" not in run.reason
