"""What our families write is what ``transformers`` reads, and the other way round."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from checkfree.models.config import ModelConfig
from checkfree.models.families import family
from checkfree.models.folder import SINGLE, Folder, draft_of
from tests.contract.test_models_match_transformers import (
    CONFIGS,
    GPT,
    LLAMA,
    hidden_of,
    ours,
    relative_error,
    theirs,
    tokens,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM


@pytest.fixture(params=CONFIGS.values(), ids=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    found: ModelConfig = request.param
    return found


def written(path: Path, config: ModelConfig, stages: list[Any], dtype: str = "float32") -> Path:
    made, count = family(config.family), len(stages) - 1
    with draft_of(path) as draft:
        tree = made.transformers_config(config) | {"dtype": dtype}
        draft.write_json("config.json", tree | {"bos_token_id": 0, "eos_token_id": 0})
        for i, module in enumerate(stages):
            tensors = {name: p.detach() for name, p in module.named_parameters()}
            draft.shard(i + 1, count + 1, made.to_transformers(config, count, i, tensors))
    return path


def loaded(path: Path) -> Any:
    """With nothing drawn, renamed, or left over."""
    model, told = AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(told.values()), told
    return model.eval()


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_what_we_write_they_read(tmp_path: Path, config: ModelConfig, stages: int) -> None:
    mine, batch = ours(config, stages), tokens(config)
    model = loaded(written(tmp_path / "out", config, mine))
    with torch.no_grad():
        got, expected = model(batch[:, :-1]).logits, mine[0].logits(hidden_of(mine, batch))
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_what_they_write_we_read(tmp_path: Path, config: ModelConfig, stages: int) -> None:
    theirs(config).save_pretrained(tmp_path)
    folder, made = Folder(tmp_path), family(config.family)
    assert made.model_config(folder.json("config.json")) == replace(
        config,
        kv_heads=None if config.family == "gpt" else config.kv_heads or config.heads,
    )
    read = [made.from_transformers(config, stages, i, folder) for i in range(stages + 1)]
    mine = [made.stage(config, i, stages) for i in range(stages + 1)]
    for module, tensors in zip(mine, read, strict=True):
        module.load_state_dict(tensors)
    again = written(tmp_path / "again", config, mine)
    one, other = loaded(tmp_path).state_dict(), loaded(again).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_config_json_says_what_theirs_says(config: ModelConfig) -> None:
    made, expected = family(config.family), theirs(config).config.to_dict()
    told = made.transformers_config(config)
    odd = {k: (v, expected.get(k)) for k, v in told.items() if expected.get(k) != v}
    for key in ("architectures", "rope_theta", "rope_scaling"):
        odd.pop(key, None)  # written for other programs than transformers of today
    for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        assert odd.pop(key, (0.0,))[0] == 0.0  # as trained, and not as theirs would be
    assert odd == {}
    assert made.model_config(told) == made.model_config(json.loads(json.dumps(expected)))


@pytest.mark.parametrize(
    ("base", "change", "told"),
    [
        (LLAMA, {"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-05"),
        (LLAMA, {"attention_bias": True}, "attention_bias=True"),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        (LLAMA, {"rope_theta": 5e5}, "rope_theta=500000.0"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        (LLAMA, {"rope_parameters": {"rope_theta": 5e5}}, "500000"),
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        (LLAMA, {"head_dim": 16}, "head_dim=16"),
        (LLAMA, {"hidden_size": None}, "hidden_size=None, expected int"),
        (LLAMA, {"hidden_size": "48"}, "hidden_size='48', expected int"),
        (LLAMA, {"tie_word_embeddings": 1}, "tie_word_embeddings=1, expected bool"),
        (LLAMA, {"model_type": "mistral"}, "model_type='mistral'"),
        (GPT, {"activation_function": "relu"}, "activation_function='relu'"),
        (GPT, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        (GPT, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ],
)
def test_another_model_is_refused(base: ModelConfig, change: dict[str, Any], told: str) -> None:
    made = family(base.family)
    tree = made.transformers_config(base) | change
    with pytest.raises(ValueError, match=r"config\.json has") as refused:
        made.model_config(tree)
    assert told in str(refused.value)


def test_a_bare_base_model_is_read_as_the_hub_has_gpt2(tmp_path: Path) -> None:
    config = replace(GPT, tied=True)
    model = theirs(config)
    model.save_pretrained(tmp_path / "whole")
    model.transformer.save_pretrained(tmp_path / "bare")
    whole, bare = (Folder(tmp_path / name) for name in ("whole", "bare"))
    assert not whole.names & bare.names
    made = family("gpt")
    for i in range(3):
        one, other = (made.from_transformers(config, 2, i, f) for f in (whole, bare))
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    theirs(LLAMA).save_pretrained(tmp_path)
    made, folder = family("llama"), Folder(tmp_path)
    with pytest.raises(ValueError, match=r"has shape \[48, 48\], expected \[16, 48\]"):
        made.from_transformers(replace(LLAMA, kv_heads=2), 2, 1, folder)
    with pytest.raises(ValueError, match=r"has no model\.layers\.4\.input_layernorm"):
        made.from_transformers(replace(LLAMA, blocks=6), 2, 2, folder)
    tensors = {name: folder.read(name) for name in folder.names}
    tensors["model.norm.weight"] = torch.ones(48, dtype=torch.int8)
    with draft_of(tmp_path / "quantized") as draft:
        draft.shard(1, 1, tensors)
    with pytest.raises(ValueError, match="a quantized model can't be trained"):
        made.from_transformers(LLAMA, 2, 0, Folder(tmp_path / "quantized"))
    assert (tmp_path / "quantized" / SINGLE).is_file()
