"""Tiny models of many families of ``transformers``, as folders that a run trains from; and what
they compute, uncut and cut."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from checkfree.models import hf
from checkfree.models.config import ModelConfig
from checkfree.models.folder import INDEX, Folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

VOCABULARY, CONTEXT, LAYERS, WINDOW = 260, 16, 4, 5
USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = {"sliding_window": WINDOW}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4},
    **{"qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4},
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
GPT2 = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "n_inner": 48}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", USUAL),
    "llama tied": ("llama", {**USUAL, "tie_word_embeddings": True}),
    "llama yarn": ("llama", {**USUAL, "rope_parameters": YARN}),
    "mistral": ("mistral", {**USUAL, **SLIDING}),
    "qwen2": (
        "qwen2",
        {**USUAL, **SLIDING, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", USUAL),
    "gemma2": ("gemma2", {**USUAL, **SLIDING}),
    "gemma3": ("gemma3_text", {**USUAL, **SLIDING, "sliding_window_pattern": 2}),
    "phi3": ("phi3", {**USUAL, **SLIDING}),
    "olmo2": ("olmo2", USUAL),
    "smollm3": ("smollm3", {**USUAL, "no_rope_layers": [1, 1, 1, 0]}),
    "gpt_neox": ("gpt_neox", USUAL),
    "gpt2": ("gpt2", {**USUAL, **GPT2}),
    "opt": ("opt", {**USUAL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "granite": (
        "granite",
        {**USUAL, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "mixtral": ("mixtral", {**USUAL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "qwen2_moe",
        {
            **USUAL,
            **EXPERTS,
            **{"num_experts": 4, "shared_expert_intermediate_size": 24, "mlp_only_layers": [0]},
        },
    ),
    "qwen3_moe": ("qwen3_moe", {**USUAL, **EXPERTS, "num_experts": 4}),
    "gpt_oss": (
        "gpt_oss",
        {**USUAL, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mamba2": (
        "mamba2",
        {**USUAL, "num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **USUAL,
            **EXPERTS,
            **LATENT,
            **{"num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1},
            **{"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        },
    ),
}
"""By name: the type, and what its config.json holds. Windows are shorter than a sequence, so that
they matter."""


def config_of(name: str) -> Any:
    """The family's own configuration."""
    kind, told = FAMILIES[name]
    dropouts = ("attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout")
    made = CONFIG_MAPPING[kind](**told)
    for dropout in dropouts:
        if hasattr(made, dropout):
            setattr(made, dropout, 0.0)
    return made


def model_of(name: str, seed: int = 0) -> Any:
    """The uncut model with drawn weights, in fp32: biases and norms drawn, too, or what goes wrong
    with them would show in nothing."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(name)).float()
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(torch.randn_like(param), alpha=0.1)
    return model


def folder_with(name: str, folder: Path, seed: int = 0, shard: str = "40KB") -> Any:
    """The uncut model, saved in a folder of several shards."""
    model = model_of(name, seed)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def with_more(folder: Path, more: Mapping[str, torch.Tensor]) -> Folder:
    """A folder, with more tensors in another file of its own."""
    save_file({name: tensor.clone() for name, tensor in more.items()}, folder / "more.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= dict.fromkeys(more, "more.safetensors")
    (folder / INDEX).write_text(json.dumps(index))
    return Folder(folder)


Measured = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Logits, loss, and gradients by the family's names."""


def tokens(rows: int = 2, vocabulary: range = range(VOCABULARY)) -> Tensor:
    """(rows, CONTEXT + 1), always the same."""
    generator = torch.Generator().manual_seed(7)
    size = (rows, CONTEXT + 1)
    return torch.randint(vocabulary.start, vocabulary.stop, size, generator=generator)


def uncut(model: Any, batch: Tensor, coefficient: float | None = None) -> Measured:
    """Of the model as transformers runs it; with a ``coefficient`` gradients have its loss that
    balances experts in them."""
    asked = {"output_router_logits": True} if coefficient else {}
    out = model(batch[:, :-1], use_cache=False, **asked)
    logits = out.logits
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    (loss + coefficient * out.aux_loss if coefficient else loss).backward()
    named = model.named_parameters()
    return logits, loss, {name: p.grad for name, p in named if p.grad is not None}


def cut(config: ModelConfig, stages: int, batch: Tensor) -> Measured:
    """The same of a pipeline of so many body stages."""
    edge, *bodies = (hf.stage(config, i, stages) for i in range(stages + 1))
    assert isinstance(edge, hf.Edge)
    hidden = edge.embed(batch)
    for body in bodies:
        body.own_loss_scale = 1.0  # type: ignore[assignment]
        hidden = body(hidden)
    logits, loss = edge.logits(hidden), edge.loss(hidden, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {
        hf.transformers_name(config, stages, i, name): param.grad
        for i, part in enumerate((edge, *bodies))
        for name, param in part.named_parameters()
        if param.grad is not None
    }
    return logits, loss, gradients
