"""The loss that has the routers of a model's experts use them all alike, stage by stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkfree
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.data import open_data
from checkfree.models import hf
from checkfree.models.config import ModelConfig
from checkfree.models.families import blocks_of_stage
from checkfree.stage import Conditions, Part, Stage
from tests.contract.hub_models import LAYERS, folder_with
from tests.contract.small import trace
from tests.contract.test_hub_models import described, tokens
from tests.contract.test_hub_runs import LOSSES, hub_run, largest_difference, undrawn

__all__ = ["undrawn"]  # for all tests here, too

COEFFICIENT = 0.25
NAMES = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"]


def uncut_loss(model: Any, batch: Tensor, stages: int) -> Tensor:
    """As it is defined: the mean of the cross-entropies, and the family's own function of each
    stage's logits, by how many of the model's routers the stage has."""
    made = model(batch[:, :-1], use_cache=False, output_router_logits=True)
    balance = sys.modules[type(model).__module__].load_balancing_loss_func
    per_token = model.config.num_experts_per_tok
    total = F.cross_entropy(made.logits.flatten(0, 1), batch[:, 1:].flatten())
    dense = getattr(model.config, "mlp_only_layers", None) or []
    routed = [k for k in range(LAYERS) if k not in dense]
    config = ModelConfig(blocks=LAYERS)
    for i in range(1, stages + 1):
        places = [routed.index(k) for k in blocks_of_stage(config, i, stages) if k in routed]
        if places:
            own = tuple(made.router_logits[place] for place in places)
            loss = balance(own, model.num_experts, per_token)
            total = total + COEFFICIENT * len(own) / len(routed) * loss
    return total


def gradients_of(config: ModelConfig, stages: int, batch: Tensor) -> dict[str, Tensor]:
    """Of a pipeline whose stages are told that its loss is multiplied by 1."""
    edge, *bodies = (hf.stage(config, i, stages) for i in range(stages + 1))
    assert isinstance(edge, hf.Edge)
    hidden = edge.embed(batch)
    for body in bodies:
        assert isinstance(body, hf.Body)
        body.own_loss_scale = 1.0
        hidden = body(hidden)
    edge.loss(hidden, batch).backward()  # type: ignore[no-untyped-call]
    return {
        hf.transformers_name(config, stages, i, name): param.grad
        for i, part in enumerate((edge, *bodies))
        for name, param in part.named_parameters()
        if param.grad is not None
    }


def taken(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_one_body_stage_has_the_loss_of_the_uncut_model(name: str, tmp_path: Path) -> None:
    """As transformers adds it, where it is given labels."""
    model, batch = folder_with(name, tmp_path).train(), tokens()
    model.config.router_aux_loss_coef = model.router_aux_loss_coef = COEFFICIENT
    labels = batch[:, 1:].contiguous()
    given = {"labels": labels, "shift_labels": labels, "output_router_logits": True}
    model(batch[:, :-1], use_cache=False, **given).loss.backward()
    whole = taken(model)
    model.zero_grad()
    uncut_loss(model, batch, 1).backward()  # type: ignore[no-untyped-call]
    defined = taken(model)
    made = gradients_of(described(tmp_path, router_loss=COEFFICIENT), 1, batch)
    without = gradients_of(described(tmp_path), 1, batch)
    assert made.keys() == whole.keys()
    assert all(torch.equal(gradient, whole[name]) for name, gradient in made.items())
    for name, gradient in made.items():
        torch.testing.assert_close(gradient, defined[name], rtol=1e-5, atol=1e-7)
    apart = max(float((made[name] - without[name]).abs().max()) for name in made)
    assert apart > 1e-3, "it shows nowhere"


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_more_of_them_add_it_each_over_its_own_layers(
    name: str, stages: int, tmp_path: Path
) -> None:
    model, batch = folder_with(name, tmp_path).train(), tokens()
    uncut_loss(model, batch, stages).backward()  # type: ignore[no-untyped-call]
    whole = taken(model)
    made = gradients_of(described(tmp_path, router_loss=COEFFICIENT), stages, batch)
    assert made.keys() == whole.keys()
    for name, gradient in made.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_its_coefficient_may_be_that_of_config_json(name: str, tmp_path: Path) -> None:
    told = folder_with(name, tmp_path).config.router_aux_loss_coef
    one, other = (
        gradients_of(described(tmp_path, router_loss=given), 2, tokens())
        for given in ("config", told)
    )
    assert all(torch.equal(gradient, other[name]) for name, gradient in one.items())


@pytest.mark.parametrize(
    "stages, how",
    [
        (1, {}),
        (2, {"replicas": 2}),
        (2, {"recompute": True, "schedule": "1f1b"}),
        (2, {"precision": "fp64"}),
    ],
)
def test_steps_are_those_of_a_plain_loop(
    stages: int, how: Mapping[str, Any], tmp_path: Path
) -> None:
    """Each microbatch's loss counts by their number, whoever computes it; what is told is the
    cross-entropy alone."""
    model = folder_with("mixtral", tmp_path / "model").train()
    if "precision" in how:
        model.double().set_experts_implementation("eager")
    sgd = {"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0, "clip": None}}
    keys = {"stages": stages, "model": {"router_loss": COEFFICIENT}, "iterations": 4}
    config = hub_run(tmp_path, "run", keys, sgd, how)
    data = open_data(config.data, context=config.model.context, batch=config.batch, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for iteration in range(config.iterations):
        for microbatch in range(config.microbatches):
            loss = uncut_loss(model, data.train(iteration, microbatch), stages)
            (loss / config.microbatches).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    run = checkfree.train(config)
    near = 1e-12 if "precision" in how else 1e-5
    assert largest_difference(run, model) < near
    off = hub_run(tmp_path, "off", keys, sgd, how, {"model": {"router_loss": None}})
    other = checkfree.train(off)
    assert run.losses[0] == pytest.approx(other.losses[0], abs=1e-6)
    assert largest_difference(other, model) > 1e-3


def test_what_is_lost_comes_back_exactly(tmp_path: Path) -> None:
    folder_with("mixtral", tmp_path / "model")
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *LOSSES)}}
    keys = {"stages": 4, "recovery": "replay(wave_lag=1)", "model": {"router_loss": "config"}}
    plain, run = (
        checkfree.train(hub_run(tmp_path, out, keys, failures))
        for out, failures in (("plain", {}), ("lossy", lossy))
    )
    assert run.status == plain.status == "done", run.reason
    assert run.losses == plain.losses
    digests = [[r.get("digests") for r in of_kind(x.records, "iteration")] for x in (plain, run)]
    assert digests[0] == digests[1]
    assert checkfree.verify(run.folder).difference == ""
    assert "router_loss: config" in (run.folder / "config.yaml").read_text()
    told = "model.router_loss is taken by each stage over its own layers, not over all as by the"
    (note,) = of_kind(run.records, "config")[0]["notes"]
    assert note.startswith(told)
    checkfree.export(run.folder, to=tmp_path / "out")
    assert note in (tmp_path / "out/README.md").read_text()
    again = {"model": {"path": str(tmp_path / "out"), "router_loss": 0.1}}
    assert checkfree.train(hub_run(tmp_path, "again", {"stages": 1}, again)).status == "done"


def body_stage(tmp_path: Path, **keys: Any) -> Stage:
    def optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1)

    module = hf.stage(described(tmp_path, **keys), 1, 2)
    return Stage(module, Conditions(optimizer, lambda iteration: 0.1))


def test_it_is_added_in_the_backward_of_training_alone(tmp_path: Path) -> None:
    """And not where a stage is fitted to what its neighbours hold, or only looked at."""
    folder_with("mixtral", tmp_path)
    hidden = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(2))

    def fitted(stage: Stage) -> None:
        stage.predict(Part.BODY, hidden, 0).square().mean().backward()  # type: ignore[no-untyped-call]

    def trained(stage: Stage) -> None:
        stage.forward((0, 1), Part.BODY, hidden, None, 0)
        stage.backward((0, 1), torch.ones_like(hidden), 0.5)

    def apart(run: Callable[[Stage], None]) -> float:
        one, other = (body_stage(tmp_path, **keys) for keys in ({}, {"router_loss": COEFFICIENT}))
        for stage in (one, other):
            run(stage)
        pairs = zip(one.gradients().values(), other.gradients().values(), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)

    def both(stage: Stage) -> None:
        trained(stage)
        stage.discard()
        fitted(stage)

    assert apart(fitted) == apart(both) == 0.0
    assert apart(trained) > 1e-4
    one, other = (body_stage(tmp_path, **keys) for keys in ({}, {"router_loss": COEFFICIENT}))
    looked = [stage.evaluate(Part.BODY, hidden, None, 0) for stage in (one, other)]
    assert torch.equal(looked[0], looked[1])


@pytest.mark.parametrize(
    "name, given, why",
    [
        ("llama", 0.1, r"^model.router_loss=0.1, and transformers has no such loss for llama: lea"),
        ("deepseek_v3", "config", r"=config, and transformers has no such loss for deepseek_v3"),
        ("qwen2_moe dense", 0.1, r"=0.1, and qwen2_moe has no experts, as config.json has it: le"),
        ("mixtral", "all", r"^model.router_loss is all, expected a number of 0 or more"),
        ("mixtral", -1, r"is -1, expected a number of 0 or more, as in 0.001, or config: choose"),
        ("mixtral", True, r"is True, expected a number"),
        ("mixtral", float("nan"), r"is nan, expected a number"),
    ],
)
def test_what_can_not_be_balanced_is_refused(
    name: str, given: Any, why: str, tmp_path: Path
) -> None:
    folder_with(name.split()[0], tmp_path / "model")
    if name.endswith("dense"):
        file = tmp_path / "model/config.json"
        told = {**json.loads(file.read_text()), "mlp_only_layers": list(range(LAYERS))}
        file.write_text(json.dumps(told))
    with pytest.raises(BadInput, match=why) as refused:
        checkfree.train(hub_run(tmp_path, "run", {"stages": 2, "model": {"router_loss": given}}))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_what_tells_of_other_routers_than_a_stage_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with("mixtral", tmp_path)
    monkeypatch.setattr(hf, "routers_of", lambda model, layers: [2] * len(layers))
    with pytest.raises(ValueError, match=r"tells of 2 routers where a stage has 4, so what it wo"):
        hf.stage(described(tmp_path, router_loss=0.1), 1, 2)


def test_a_family_that_makes_none_though_it_takes_the_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[type(folder_with("mixtral", tmp_path)).__module__]
    monkeypatch.setattr(module, "load_balancing_loss_func", lambda *args: None)
    with pytest.raises(ValueError, match=r"and its family makes no such loss: leave it out"):
        hf.stage(described(tmp_path, router_loss=0.1), 1, 2)


def test_other_families_have_no_such_key(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model.router_loss is for model.family=hf, and this is"):
        checkfree.train({"model": {"router_loss": 0.1}, "out": str(tmp_path / "run")})


def test_text_that_yaml_takes_for_no_number_is_one(tmp_path: Path) -> None:
    folder_with("mixtral", tmp_path)
    assert described(tmp_path, router_loss="1e-3").router_loss == 1e-3
