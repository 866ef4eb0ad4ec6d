"""A model of the Hub, cut into stages, is the uncut model of ``transformers`` to the last bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from checkfree.models import hf, hub
from checkfree.models.config import ModelConfig
from checkfree.models.folder import Folder
from tests.contract.hub_models import (
    CONTEXT,
    FAMILIES,
    LAYERS,
    VOCABULARY,
    config_of,
    cut,
    folder_with,
    model_of,
    tokens,
    uncut,
    with_more,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def described(folder: Path, **keys: Any) -> ModelConfig:
    return hub.described(ModelConfig("hf", path=str(folder), context=CONTEXT, **keys))


def check_equal(one: Any, other: Any) -> None:
    """Logits, losses, and every gradient under its name, to the last bit."""
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[2].keys() == other[2].keys() and len(one[2]) > LAYERS
    for name, gradient in one[2].items():
        assert torch.equal(gradient, other[2][name]), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_model_is_the_uncut_one(name: str, tmp_path: Path) -> None:
    model, batch = folder_with(name, tmp_path), tokens()
    config, whole = described(tmp_path), uncut(model.train(), batch)
    for stages in (1, 2, 4):
        check_equal(cut(config, stages, batch), whole)
    assert hf.parameters_of(config) == sum(p.numel() for p in model.parameters())


@contextmanager
def nothing_put_in(layer: Any, given: Any = None) -> Iterator[list[Tensor]]:
    """As transformers' own pipeline hands hidden states on: as if they were embeddings."""
    with hf_entering(layer) as seen:
        yield seen


hf_entering = hf.entering


def test_the_comparison_sees_a_wrong_cutter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tokens()
    whole = uncut(folder_with("granite", tmp_path).train(), batch)
    zeros = torch.zeros_like
    monkeypatch.setattr(
        torch, "zeros_like", lambda t, **of: t if t.requires_grad else zeros(t, **of)
    )
    monkeypatch.setattr(hf, "entering", nothing_put_in)
    logits, *_ = cut(described(tmp_path), 2, batch)
    assert (logits - whole[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "deepseek_v3"])
def test_first_weights_do_not_depend_on_the_cut(name: str) -> None:
    told = config_of(name).to_dict()
    config = hub.described(ModelConfig("hf", context=CONTEXT, architecture=told, weights=hub.FRESH))

    def drawn(stages: int, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return {
            hf.transformers_name(config, stages, i, name): param.detach()
            for i in range(stages + 1)
            for name, param in hf.stage(config, i, stages).named_parameters()
        }

    once, other, more = drawn(1, 3), drawn(4, 3), drawn(2, 4)
    assert once.keys() == other.keys() == more.keys()
    assert all(torch.equal(once[name], other[name]) for name in once)
    assert all(tensor.isfinite().all() for tensor in once.values())
    assert any(not torch.equal(once[name], more[name]) for name in once)
    blocks = [tensor for tensor in once.values() if tensor.ndim == 2 and tensor.std() > 0]
    assert all(0.005 < float(tensor.std()) < 0.5 for tensor in blocks)


def test_weights_are_no_mapping_of_the_file(tmp_path: Path) -> None:
    """Else whoever writes to it changes the weights of a running model."""
    folder_with("llama", tmp_path, shard="1GB")
    part = hf.stage(described(tmp_path), 1, 2)
    before = [param.detach().clone() for param in part.parameters()]
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 4)
        stream.write(bytes(file.stat().st_size // 2))
    assert all(map(torch.equal, before, part.parameters()))


@pytest.mark.parametrize(
    "kind, keys",
    [
        ("bert", {"is_decoder": True, "intermediate_size": 48}),
        ("openai-gpt", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}),
        ("xlnet", {"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 48}),
        ("rwkv", {"attention_hidden_size": 32, "context_length": 64}),
    ],
)
def test_what_can_not_be_cut_is_refused(kind: str, keys: dict[str, Any]) -> None:
    told = {
        **{"model_type": kind, "vocab_size": VOCABULARY, "hidden_size": 32},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": 4, **keys},
    }
    config = hub.described(ModelConfig("hf", context=CONTEXT, architecture=told, weights=hub.FRESH))
    with pytest.raises(ValueError, match=f"^a {kind} can't be cut into stages: .") as refused:
        cut(config, 2, tokens())
    assert "\n" not in str(refused.value)


def watched(tmp_path: Path, pre_hook: Any) -> tuple[Any, list[int]]:
    """The shell of layers 0 and 1 of a Llama, of which ``pre_hook`` changes what layer 1 is called
    with; and the layers that are run from now on."""
    folder_with("llama", tmp_path)
    shell, run = hf.stage(described(tmp_path), 1, 2).shell, list[int]()
    layers = hf.layers_of(shell)
    layers[1].register_forward_pre_hook(pre_hook, with_kwargs=True)
    for k in (0, 1):
        layers[k].mlp.register_forward_hook(lambda *_, k=k: run.append(k))
    return shell, run


def test_a_check_runs_layers_once(tmp_path: Path) -> None:
    shell, run = watched(tmp_path, lambda _, args, kwargs: None)
    hf.check(shell, range(2))
    assert run == [0, 1]


def test_a_check_sees_what_is_made_of_what_a_layer_returned(tmp_path: Path) -> None:
    def handed_on(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "router": args[0].mean()}

    shell, _ = watched(tmp_path, handed_on)
    with pytest.raises(ValueError, match="layer 1 needs more than hidden states"):
        hf.check(shell, range(2))


def test_a_check_lets_layers_do_more_than_return(tmp_path: Path) -> None:
    """Then they are run for the second input, too."""

    def handed_on(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "notes": notes[-1]}

    notes: list[dict[str, int]] = []
    shell, run = watched(tmp_path, handed_on)
    first = hf.layers_of(shell)[0]
    shell.base_model.register_forward_pre_hook(lambda *_: notes.append({}))
    first.mlp.register_forward_hook(lambda *_: notes[-1].update(layer=0))
    hf.check(shell, range(2))
    assert run == [0, 1, 0, 1]


def test_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    folder_with("llama", tmp_path)
    file = tmp_path / "config.json"
    text = file.read_text().replace('"model_type": "llama"', '"model_type": "strange"')
    file.write_text(text.replace("{", '{"auto_map": {"AutoConfig": "evil.Evil"},', 1))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="no causal language model called strange"):
        hf.stage(described(tmp_path), 0, 2)


def test_a_folder_that_lacks_a_tensor_or_has_others_is_refused(tmp_path: Path) -> None:
    folder_with("llama", tmp_path / "a")
    config = described(tmp_path / "a")
    folder_with("llama", tmp_path / "b", seed=1)
    with pytest.raises(ValueError, match="other weights than the run began with"):
        hf.stage(replace(config, path=str(tmp_path / "b")), 1, 2)
    model = model_of("llama")
    state = model.state_dict()
    del state["model.layers.3.mlp.up_proj.weight"]
    model.save_pretrained(tmp_path / "c", state_dict=state)
    lacking = described(tmp_path / "c")
    hf.stage(lacking, 1, 2)
    with pytest.raises(ValueError, match=r"has no model.layers.3.mlp.up_proj.weight"):
        hf.stage(lacking, 2, 2)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(ValueError, match="no such folder"):
        hf.stage(config, 1, 2)


def test_a_stage_has_nothing_of_the_others(tmp_path: Path) -> None:
    folder_with("gemma2", tmp_path)
    config = described(tmp_path)
    parts = [hf.stage(config, i, 2) for i in range(3)]
    counts = [sum(p.numel() for p in part.shell.parameters()) for part in parts]
    assert counts == [sum(p.numel() for p in part.parameters()) for part in parts]
    assert sum(counts) == hf.parameters_of(config)


@pytest.mark.parametrize(
    "key, value", [("num_key_value_heads", 3), ("rope_parameters", []), ("hidden_act", "none")]
)
def test_odd_values_of_config_json_are_told_in_one_line(key: str, value: object) -> None:
    told = {**config_of("llama").to_dict(), key: value}
    config = hub.described(ModelConfig("hf", context=CONTEXT, architecture=told, weights=hub.FRESH))
    with pytest.raises(ValueError, match=r"^a llama can't be cut into stages: .") as refused:
        hf.stage(config, 1, 1)
    assert "\n" not in str(refused.value)


def test_a_head_that_is_tied_and_another_one_is_refused(tmp_path: Path) -> None:
    """transformers has two then; here the head would be forgotten."""
    model = folder_with("llama tied", tmp_path, shard="1GB")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    hf.stage(described(tmp_path), 0, 2)
    state["lm_head.weight"][0] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"ties lm_head.weight to model.embed_tokens.weight"):
        hf.stage(described(tmp_path), 0, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_nobody_reads_of_a_folder(name: str, tmp_path: Path) -> None:
    model = folder_with(name, tmp_path)
    config = described(tmp_path)
    assert hf.unread(config, Folder(tmp_path)) == []
    layers = next(n for n, m in model.named_modules() if m is hf.layers_of(model))
    told = {n.replace(f"{layers}.1.", f"{layers}.{LAYERS}.") for n in Folder(tmp_path).names}
    ignored = model._keys_to_ignore_on_load_unexpected or ()  # gpt2's are wider than it means
    beyond = told - Folder(tmp_path).names
    extra = sorted(n for n in beyond if not any(re.search(one, n) for one in ignored))
    assert extra
    known = ["lm_head.weight"] if model.config.tie_word_embeddings else []
    known += [f"{layers}.0.self_attn.rotary_emb.inv_freq"]
    more = dict.fromkeys((*extra, *known, "score.weight"), torch.zeros(1))
    assert hf.unread(config, with_more(tmp_path, more)) == sorted((*extra, "score.weight"))


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_experts_train_in_fp64(name: str) -> None:
    """torch's grouped products take no doubles."""
    told = config_of(name).to_dict()
    config = hub.described(ModelConfig("hf", context=CONTEXT, architecture=told, weights=hub.FRESH))
    edge, body = (hf.stage(config, i, 1) for i in (0, 1))
    batch = tokens()
    assert isinstance(edge, hf.Edge)
    narrow = edge.loss(body(edge.embed(batch)), batch)
    wide = edge.double().loss(body.double()(edge.embed(batch)), batch)
    wide.backward()  # type: ignore[no-untyped-call]
    assert wide.dtype == torch.float64 and wide.item() == pytest.approx(narrow.item(), rel=1e-5)


def test_layers_that_would_be_in_no_stage_are_refused() -> None:
    """A GPT-2 knows no ``num_layers``, and has 12."""
    told = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "vocab_size": 260, "num_layers": 2}
    config = hub.described(ModelConfig("hf", context=CONTEXT, architecture=told, weights=hub.FRESH))
    with pytest.raises(ValueError, match="a gpt2 tells of 2 layers, and its class makes 12"):
        hf.stage(config, 1, 2)


def test_flash_attention_is_not_fetched_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with("llama", tmp_path)
    monkeypatch.setattr(hf, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package flash_attn"):
        hf.stage(described(tmp_path, attention="flash_attention_2"), 1, 2)


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    """transformers writes them as objects."""
    folder_with("mamba2", tmp_path)
    assert '"__float__"' in (tmp_path / "config.json").read_text()
    batch = tokens()
    check_equal(cut(described(tmp_path), 2, batch), uncut(model_of("mamba2").train(), batch))
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"Infinity"', '"many"'))
    with pytest.raises(ValueError, match=r"^a mamba2 can't be cut into stages: could not convert"):
        hf.stage(described(tmp_path), 1, 2)
