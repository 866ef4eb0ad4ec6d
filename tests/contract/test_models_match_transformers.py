"""Our families compute what ``transformers`` computes, with the same weights under its names."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checkfree.core.units import derive
from checkfree.models.config import ModelConfig
from checkfree.models.families import Family, family, pattern_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

STAGES = 2
LLAMA = ModelConfig("llama", 48, heads=6, hidden=80, blocks=4, context=32, vocabulary=61)
GPT = replace(LLAMA, family="gpt")
CONFIGS = {
    "llama": LLAMA,
    "llama grouped queries": replace(LLAMA, kv_heads=2),
    "llama one key": replace(LLAMA, kv_heads=1),
    "llama tied": replace(LLAMA, tied=True),
    "gpt": GPT,
    "gpt tied": replace(GPT, tied=True),
}
TOLERANCE = 1e-5


@pytest.fixture(params=CONFIGS.values(), ids=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """One of the models that both sides build."""
    found: ModelConfig = request.param
    return found


def theirs(config: ModelConfig) -> Any:
    """The model as ``transformers`` builds it, in fp32 and with the plainest attention it has."""
    shared: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "attn_implementation": "eager",
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model: Any
    if config.family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**_llama(config), **shared))
    else:
        model = GPT2LMHeadModel(GPT2Config(**_gpt(config), **shared))
    return model.eval()


def _llama(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads or config.heads,
        "max_position_embeddings": config.context,
        "rms_norm_eps": 1e-6,
    }


def _gpt(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_inner": config.hidden,
        "n_layer": config.blocks,
        "n_head": config.heads,
        "n_positions": config.context,
        "activation_function": "gelu_new",
    }


def ours(config: ModelConfig, stages: int = STAGES) -> list[Any]:
    """Every stage, with weights large enough that each of them matters to the logits, and
    embeddings so small that the epsilon of the first norm does, too."""
    found = family(config.family)
    modules = [found.stage(config, i, stages) for i in range(stages + 1)]
    generator = torch.Generator().manual_seed(derive(0, "weights"))
    for module in modules:
        for param in module.parameters():
            nn.init.normal_(param, mean=0.1, std=0.2, generator=generator)
    with torch.no_grad():
        for name, param in modules[0].named_parameters():
            param.mul_(0.1 if name in ("embedding.weight", "positions.weight") else 1.0)
    return modules


def to_theirs(config: ModelConfig, stages: list[Any], what: str) -> dict[str, Tensor]:
    """Parameters (``data``) or gradients (``grad``) of our stages under the names of theirs."""
    found: Family = family(config.family)
    renamed: dict[str, Tensor] = {}
    for i, module in enumerate(stages):
        for name, param in module.named_parameters():
            tensor = getattr(param, what)
            their_name = found.transformers_name(config, len(stages) - 1, i, name)
            assert their_name not in renamed
            transposed = pattern_of(name) in found.TRANSPOSED
            renamed[their_name] = tensor.T if transposed else tensor
    return renamed


def tokens(config: ModelConfig) -> Tensor:
    generator = torch.Generator().manual_seed(derive(0, "tokens"))
    assert config.vocabulary is not None
    return torch.randint(config.vocabulary, (3, config.context // 2 + 1), generator=generator)


def hidden_of(stages: list[Any], batch: Tensor) -> Tensor:
    x: Tensor = stages[0].embed(batch)
    for body in stages[1:]:
        x = body(x)
    return x


def filled_with(model: Any, weights: dict[str, Tensor]) -> Any:
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    return model


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_every_parameter_of_theirs_has_one_of_ours(config: ModelConfig) -> None:
    expected = {name: param.shape for name, param in theirs(config).named_parameters()}
    got = {name: param.shape for name, param in to_theirs(config, ours(config), "data").items()}
    assert got == expected


def test_every_name_in_the_table_is_of_a_parameter(config: ModelConfig) -> None:
    found = family(config.family)
    modules = [found.stage(config, i, STAGES) for i in range(STAGES + 1)]
    patterns = {pattern_of(name) for module in modules for name, _ in module.named_parameters()}
    assert patterns == set(found.NAMES) - ({"head.weight"} if config.tied else set())
    assert len(set(found.NAMES.values())) == len(found.NAMES)
    assert set(found.NAMES) >= found.TRANSPOSED


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_names_are_the_same_for_every_cut(config: ModelConfig, stages: int) -> None:
    got = to_theirs(config, ours(config, stages), "data")
    assert set(got) == {name for name, _ in theirs(config).named_parameters()}


def test_logits(config: ModelConfig) -> None:
    stages, batch = ours(config), tokens(config)
    model = filled_with(theirs(config), to_theirs(config, stages, "data"))
    with torch.no_grad():
        got = stages[0].logits(hidden_of(stages, batch))
        expected = model(batch[:, :-1]).logits
    assert relative_error(got, expected) < TOLERANCE


def test_loss_and_gradients(config: ModelConfig) -> None:
    """The error of each gradient is held against the norm of all of them together."""
    stages, batch = ours(config), tokens(config)
    model = filled_with(theirs(config), to_theirs(config, stages, "data"))
    loss = stages[0].loss(hidden_of(stages, batch), batch)
    loss.backward()
    expected_loss = model(batch, labels=batch).loss
    expected_loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=TOLERANCE)
    expected = {name: param.grad for name, param in model.named_parameters()}
    got = to_theirs(config, stages, "grad")
    assert set(got) == set(expected)
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (got[name] - gradient).norm() / whole < TOLERANCE, name


def test_every_weight_matters(config: ModelConfig) -> None:
    """Else the tests above could not tell whether it got the right name."""
    stages, batch = ours(config), tokens(config)
    model = filled_with(theirs(config), to_theirs(config, stages, "data"))
    with torch.no_grad():
        expected = model(batch[:, :-1]).logits
        for module in stages:
            for name, param in module.named_parameters():
                param.neg_()
                got = stages[0].logits(hidden_of(stages, batch))
                param.neg_()
                assert relative_error(got, expected) > TOLERANCE, name
