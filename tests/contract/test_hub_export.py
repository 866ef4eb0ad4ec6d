"""What was cut from a model's folder comes out as the same folder, and a trained one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import checkfree
from checkfree.models import hf, hub
from checkfree.models.config import ModelConfig
from checkfree.models.folder import Folder, draft_of
from tests.contract.hub_models import CONTEXT, FAMILIES, folder_with
from tests.contract.test_hub_runs import hub_run, undrawn

__all__ = ["undrawn"]


def reloaded(folder: Path) -> Any:
    """As anybody loads it; what it lacks would be drawn, with a warning."""
    model, about = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"]
    assert not about["mismatched_keys"]
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_comes_out_as_it_came_in(name: str, tmp_path: Path) -> None:
    model = folder_with(name, tmp_path / "in")
    config = hub.described(ModelConfig("hf", path=str(tmp_path / "in"), context=CONTEXT))
    with draft_of(tmp_path / "out") as draft:
        for i in range(3):
            part = hf.stage(config, i, 2)
            kept = dict(part.state_dict())
            tensors = {ours: kept[ours] for ours, _ in part.named_parameters()}
            tensors |= {ours: kept[ours] for ours, _ in part.named_buffers() if ours in kept}
            draft.shard(i + 1, 3, hf.to_transformers(config, 2, i, tensors))
        draft.write_json("config.json", hf.transformers_config(config))
    names = Folder(tmp_path / "in").names
    assert Folder(tmp_path / "out").names == names  # as other programs know them
    again, before = reloaded(tmp_path / "out").state_dict(), model.state_dict()
    assert again.keys() == before.keys()
    assert all(torch.equal(again[key], before[key]) for key in before)
    whole = Folder(tmp_path / "out")
    part = hf.stage(config, 1, 2)
    for ours, tensor in hf.from_transformers(config, 2, 1, whole).items():
        assert torch.equal(tensor, part.state_dict()[ours])


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "mixtral", "deepseek_v3"])
def test_a_run_is_exported_and_goes_on_cut_another_way(name: str, tmp_path: Path) -> None:
    folder_with(name, tmp_path / "model")
    validated = {"validation": {"every": 10, "microbatches": 2}}
    run = checkfree.train(hub_run(tmp_path, "run", {"stages": 2}, validated))
    made = checkfree.export(run.folder, to=tmp_path / "out")
    assert made.iteration == 10
    model = reloaded(tmp_path / "out")
    batch = torch.arange(2 * CONTEXT + 2).view(2, -1) % 200
    edge, *bodies = (stage.eval() for stage in run.stages)
    with torch.no_grad():
        hidden = edge.embed(batch)
        for body in bodies:
            hidden = body(hidden)
        assert torch.equal(edge.logits(hidden), model(batch[:, :-1]).logits)
    there = {"model": {"path": str(tmp_path / "out")}, "stages": 4}
    more = checkfree.train(hub_run(tmp_path, "more", there, validated))
    last = [r["loss"] for r in run.records if r["kind"] == "validation"][-1]
    first = next(r["loss"] for r in more.records if r["kind"] == "validation")
    assert first == last
    begun = checkfree.train(
        hub_run(tmp_path, "begun", {"stages": 4, "init": str(tmp_path / "out")}, validated)
    )
    assert begun.losses == more.losses
    told = checkfree.verify(begun.folder)
    assert told.difference == ""
