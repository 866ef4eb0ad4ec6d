"""What config.json says of a Hugging Face model, read without torch or transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkfree.config.load import build, load, load_saved, to_tree, to_yaml
from checkfree.config.places import placeless
from checkfree.core.errors import BadInput
from checkfree.models import hub
from checkfree.models.config import ModelConfig

LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 301,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
GPT2 = {
    **{"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": None},
    **{"vocab_size": 301, "n_positions": 64},
}


def folder(path: Path, told: Any = LLAMA, weights: bytes | None = b"weights") -> Path:
    """A model's folder, with a file of weights that nobody reads here."""
    path.mkdir(parents=True, exist_ok=True)
    text = told if isinstance(told, str) else json.dumps(told)
    (path / "config.json").write_text(text)
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return path


def described(**keys: Any) -> ModelConfig:
    return hub.described(ModelConfig("hf", **{"context": 16, **keys}))


def test_sizes_are_as_config_json_says(tmp_path: Path) -> None:
    config = described(path=str(folder(tmp_path)))
    sizes = (config.width, config.heads, config.kv_heads, config.hidden, config.blocks)
    assert sizes == (48, 6, 2, 80, 4) and config.vocabulary == 301 and config.tied
    assert config.weights == hub.PRETRAINED and config.architecture == LLAMA
    config = described(config=str(folder(tmp_path / "b", GPT2) / "config.json"))
    assert (config.width, config.heads, config.blocks, config.hidden) == (32, 4, 2, None)
    assert config.weights == hub.FRESH and config.sha256 is None


@pytest.mark.parametrize(
    "telling",
    [
        {"layers_block_type": ["mamba", "attention", "mamba", "moe"]},
        {"layer_types": ["full_attention"] * 4, "num_hidden_layers": None},
        {"decoder_layers": 4, "encoder_layers": 2},
        {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 2},
    ],
)
def test_how_many_layers_there_are(telling: dict[str, Any]) -> None:
    told = {key: value for key, value in LLAMA.items() if key != "num_hidden_layers"}
    config = described(architecture={**told, **telling}, weights=hub.FRESH)
    assert config.blocks == 4


def test_a_recorded_configuration_needs_no_folder(tmp_path: Path) -> None:
    tree = {"model": {"family": "hf", "path": str(folder(tmp_path / "model")), "context": 16}}
    config = build({**tree, "stages": 4})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    again = load_saved(tmp_path / "config.yaml")
    assert again.model == config.model and build(to_tree(config)).model == config.model
    assert "model.path" not in placeless(to_tree(config))
    assert placeless(to_tree(config))["model.architecture.vocab_size"] == 301


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    at, tree = 0, {}
    for name, data in tensors.items():
        tree[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


TENSORS = {"norm": bytes(64), **{f"matrix.{k}": bytes(100_000) for k in range(5)}, "bias": bytes(8)}


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    def taken(tensors: Mapping[str, bytes]) -> str:
        return hub.fingerprint(folder(tmp_path / "w", weights=safetensors(tensors)))

    first = taken(TENSORS)
    assert taken(TENSORS) == first
    for name, data in TENSORS.items():
        sparse = bytes(k % 7 == 0 for k in range(len(data)))  # as rounding to bf16 leaves some
        last_row = data[:-8] + bytes(range(1, 9))
        for other in (sparse, last_row):
            assert taken({**TENSORS, name: other}) != first, name
    renamed = {name.replace("bias", "gain"): data for name, data in TENSORS.items()}
    assert taken(renamed) != first


def headed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(9)


@pytest.mark.parametrize(
    "weights",
    [
        *(b"", b"weights", b"\xff" * 100, headed(b"[]"), headed(b"{}"), headed(b"[" * 100_000)),
        (1 << 62).to_bytes(8, "little") + b"{}",
        safetensors({"w": bytes(9)})[:-4],
        *(
            headed(b'{"w": {"data_offsets": %s}}' % offsets)
            for offsets in (b"[9, 0]", b"[-9, 9]", b'["a", 1]', b"[0, 1e999]", b"[0]", b"5")
        ),
    ],
)
def test_a_fingerprint_of_what_is_no_safetensors(weights: bytes, tmp_path: Path) -> None:
    """Whoever reads it will say what is wrong with it."""
    found = {hub.fingerprint(folder(tmp_path, weights=w)) for w in (weights, weights + b"!")}
    assert len(found) == 2


def test_a_fingerprint_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tensors there are: then it reads less of each."""
    monkeypatch.setattr(hub, "ALL_PLACES", 4)
    amid = bytearray(TENSORS["matrix.0"])
    amid[len(amid) // 2] = 1
    found = [
        hub.fingerprint(folder(tmp_path, weights=safetensors(tensors)))
        for tensors in (TENSORS, {**TENSORS, "matrix.0": bytes(amid)})
    ]
    assert found[0] == found[1]


def test_weights_are_those_that_a_run_began_with(tmp_path: Path) -> None:
    config = described(path=str(folder(tmp_path)))
    assert hub.held(config) == tmp_path
    formerly = "ccad26b8ab4293b386927fc5401d4d09eaeb3b9642b98eb841db8e4352e56e63"
    assert hub.held(replace(config, sha256=formerly)) == tmp_path
    assert hub.held(replace(config, path=str(folder(tmp_path / "moved")))).name == "moved"
    folder(tmp_path, weights=b"Weights")
    for recorded in (config, replace(config, sha256=formerly)):
        with pytest.raises(ValueError, match="other weights than the run began with"):
            hub.held(recorded)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no folder": (LLAMA, {"path": "nowhere"}, "nowhere: no such folder"),
    "neither": (LLAMA, {"path": None}, "needs one of model.path=FOLDER .* and model.config=FILE"),
    "no JSON": ("{", {}, "config.json is no JSON .*: give the model's own"),
    "another JSON": ([1], {}, "has no model_type"),
    "no sizes": ({"model_type": "llama"}, {}, "says nothing of hidden_size"),
    "a size of text": ({**LLAMA, "hidden_size": "48"}, {}, "hidden_size '48', expected 1 or more"),
    "no layers": ({**LLAMA, "num_hidden_layers": 0}, {}, "num_hidden_layers 0, expected 1 or more"),
    "a size that is a truth": ({**LLAMA, "vocab_size": True}, {}, "vocab_size True, expected 1"),
    "sizes by layer": ({**LLAMA, "hidden_size": [48]}, {}, "says nothing of hidden_size"),
    "tied by a word": ({**LLAMA, "tie_word_embeddings": "no"}, {}, "'no', expected true or false"),
    "a long number": ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", {}, "no JSON"),
    "a size of one's own": (LLAMA, {"width": 64}, "model.width is 64, and .* has 48: leave it"),
    "dropout": (LLAMA, {"dropout": 0.1}, "dropout is as config.json has it"),
    "a long context": (LLAMA, {"context": 65}, "has positions for 64: model.context=64"),
    "of several models": ({"model_type": "gemma3", "text_config": LLAMA}, {}, "several models"),
    "of several by other names": (
        {"model_type": "musicgen", "decoder": {"model_type": "musicgen_decoder"}},
        {},
        r"a musicgen is made of several models \(decoder\)",
    ),
    "weights": (LLAMA, {"weights": "none"}, "expected pretrained or fresh"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=list(BAD))
def test_a_bad_input_is_one_line(case: tuple[Any, dict[str, Any], str], tmp_path: Path) -> None:
    told, keys, expected = case
    keys = {"path": str(folder(tmp_path, told)), **keys}
    with pytest.raises(ValueError, match=expected) as refused:
        described(**keys)
    assert "\n" not in str(refused.value)


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    where = folder(tmp_path, weights=None)
    (where / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \*.safetensors, and what is pickled is not read"):
        described(path=str(where))
    assert described(path=str(where), weights=hub.FRESH).weights == hub.FRESH
    with pytest.raises(ValueError, match=r"model.config has no weights: model.path=FOLDER"):
        described(config=str(where / "config.json"), weights=hub.PRETRAINED)


def test_keys_of_hf_with_another_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model.path is for model.family=hf, and this is llama"):
        load("demo", [f"model.path={folder(tmp_path)}"])


def test_a_name_is_looked_for_in_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--some--model"
    folder(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert described(path="some/model").width == 48
    with pytest.raises(ValueError, match="hf download other/model"):
        described(path="other/model")


def test_torch_and_transformers_are_not_imported(tmp_path: Path) -> None:
    words = ["model.family=hf", f"model.path={folder(tmp_path)}", "model.context=16", "stages=4"]
    code = (
        "import sys; from checkfree.config.load import load; "
        f"load(None, {words!r}); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_folder_has_no_say_in_whose_code_computes(tmp_path: Path) -> None:
    """Each of these keys has transformers fetch code of the Hub, where the package kernels is."""
    evil = dict.fromkeys(hub.FROM_ELSEWHERE, "kernels-community/evil")
    assert described(path=str(folder(tmp_path, LLAMA | evil))).architecture == LLAMA
    with pytest.raises(ValueError, match="some/kernel is code of a repository"):
        described(path=str(tmp_path), attention="some/kernel")


@pytest.mark.parametrize("key", hub.QUANTIZED)
def test_quantized_weights_are_refused(key: str, tmp_path: Path) -> None:
    """Else fp8 would train without its scales, and an export would claim to be quantized."""
    where = str(folder(tmp_path, LLAMA | {key: {"quant_method": "fp8"}}))
    with pytest.raises(ValueError, match="has quantized weights, which can't train"):
        described(path=where)
    assert described(path=where, weights=hub.FRESH).architecture == LLAMA


def test_a_config_json_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for where in ("pipe", "."):
        with pytest.raises(ValueError, match="is no file, or larger than any"):
            described(config=str(tmp_path / where))
