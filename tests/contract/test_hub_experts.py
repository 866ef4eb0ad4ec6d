"""What a model with experts takes and computes: a token goes through few of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkfree.core.config import Config
from checkfree.models import hf
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.sizes import own_sizes
from checkfree.stage import Part
from tests.contract.hub_models import config_of
from tests.contract.test_hub_runs import hub_run, undrawn
from tests.unit.test_memory import kept_by_autograd

__all__ = ["undrawn"]  # for all tests here, too

WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_local_experts": 8}
ROUTED = {"num_experts": 8, "n_routed_experts": 8, "moe_intermediate_size": 96}
EVERYWHERE = {"mlp_only_layers": [], "first_k_dense_replace": 0}
CONTEXT = 64


def fresh(
    tmp_path: Path, name: str, told: Mapping[str, Any], *changes: Mapping[str, Any]
) -> Config:
    """A run of drawn weights, whose config.json says ``told`` beside what the family has; None: it
    says nothing of it."""
    tree = config_of(name).to_dict() | dict(told)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))
    model = {"path": None, "config": str(file), "context": CONTEXT, "vocabulary": None}
    return hub_run(tmp_path, "run", {"model": model}, *changes)


@pytest.mark.parametrize("used", [2, 4])
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "deepseek_v3"])
def test_what_is_stashed_is_about_what_autograd_keeps(name: str, used: int, tmp_path: Path) -> None:
    own = {} if name == "deepseek_v3" else {"head_dim": 32}
    told = {**WIDE, **ROUTED, **EVERYWHERE, "head_dim": 4, **own, "num_experts_per_tok": used}
    config = fresh(tmp_path, name, told, {"stages": 2})
    body, sizes = hf.stage(config.model, 1, 2), own_sizes(config)
    hidden = torch.randn(config.batch, CONTEXT, config.model.width).requires_grad_()
    kept = kept_by_autograd(body, lambda: body(hidden))
    assert 0.85 < sizes.stashed[1] / kept < 1.15


def test_what_config_json_leaves_to_its_family_counts(tmp_path: Path) -> None:
    """Mixtral's two of eight."""
    told, untold = (
        own_sizes(fresh(tmp_path, "mixtral", {**WIDE, "num_experts_per_tok": used}))
        for used in (2, None)
    )
    all_of_them = own_sizes(fresh(tmp_path, "mixtral", {**WIDE, "num_experts_per_tok": 8}))
    assert told.bodies == untold.bodies and told.stashed == untold.stashed
    assert all_of_them.bodies[0] > 2.5 * told.bodies[0]
    assert all_of_them.stashed[1] > 2.5 * told.stashed[1]


def test_cut_auto_goes_by_what_a_token_takes(tmp_path: Path) -> None:
    """Of a dense layer as wide as eight experts, and three with two of those for each token: by
    weights all would be alike."""
    sizes = {"intermediate_size": 8 * 96, "moe_intermediate_size": 96, "n_routed_experts": 8}
    told = {**WIDE, **sizes, "head_dim": 4, "n_group": 1, "n_shared_experts": 1}
    config = fresh(tmp_path, "deepseek_v3", told, {"stages": 2, "cut": "auto", "recovery": "none"})
    assert of_family(config, 256).cut == (1, 3)


@pytest.mark.parametrize("name", ["gpt_oss", "mamba2", "mixtral"])
def test_what_muon_remembers_is_what_sizes_say(name: str, tmp_path: Path) -> None:
    muon = {"optimizer": {"name": "muon"}, "stages": 2, "recovery": "none"}
    config = fresh(tmp_path, name, {}, muon)
    context = make_worker_context(config, of_family(config, 256), {})
    stage = context.make(1, 1)
    hidden = torch.randn(2, CONTEXT, config.model.width)
    stage.forward((0, 1), Part.BODY, hidden, None, 0)
    stage.backward((0, 1), torch.ones_like(hidden))
    stage.reduced()
    stage.step(0, 1.0)
    kept = stage.snapshot().moments
    assert sum(m.nbytes for m in kept.values()) == own_sizes(config).moments[1]
    by_muon = {key.rsplit("/", 1)[0] for key in kept if key.endswith("momentum_buffer")}
    params: dict[str, nn.Parameter] = stage.params
    assert by_muon and all(params[key].ndim == 2 for key in by_muon)
    assert not any(key.endswith(("bias", "A_log")) for key in by_muon)
