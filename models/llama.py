"""LLaMa (arXiv 2302.13971), cut into stages: RMSNorm, rotary positions, SwiGLU, no biases.

    Edge (stage 0)                        Body (stages 1 … n)
    tokens -> embedding -> ...            ... -> blocks -> ...
    ... -> norm -> head -> loss           block: x + attention(norm(x)), then x + SwiGLU(norm(x))

As in "All is Not Lost" (arXiv 2506.15461): inner width 4 × width, embedding and head untied, all
matrices drawn from N(0, 0.02).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .exchange import Dialect
from .families import blocks_of_stage, check, renamed
from .folder import Folder

EPS = 1e-6
THETA = 1e4
INIT_STD = 0.02

NAMES: Mapping[str, str] = MappingProxyType(
    {
        # stage 0
        "embedding.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
        # body stages
        "blocks.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
        "blocks.{}.attention.query.weight": "model.layers.{}.self_attn.q_proj.weight",
        "blocks.{}.attention.key.weight": "model.layers.{}.self_attn.k_proj.weight",
        "blocks.{}.attention.value.weight": "model.layers.{}.self_attn.v_proj.weight",
        "blocks.{}.attention.output.weight": "model.layers.{}.self_attn.o_proj.weight",
        "blocks.{}.feed_forward_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
        "blocks.{}.feed_forward.gate.weight": "model.layers.{}.mlp.gate_proj.weight",
        "blocks.{}.feed_forward.up.weight": "model.layers.{}.mlp.up_proj.weight",
        "blocks.{}.feed_forward.down.weight": "model.layers.{}.mlp.down_proj.weight",
    }
)
"""Our names to those of LlamaForCausalLM; ``{}`` is a block's number. A tied model has no head."""

TRANSPOSED: frozenset[str] = frozenset()
"""Both keep every matrix as (out, in)."""

KEYS: Mapping[str, str] = {
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "blocks": "num_hidden_layers",
    "context": "max_position_embeddings",
    "vocabulary": "vocab_size",
    "tied": "tie_word_embeddings",
}
"""Fields of ModelConfig to keys of config.json."""

DIALECT = Dialect(
    NAMES,
    TRANSPOSED,
    prefix="model.",
    keys=KEYS,
    fixed={
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": THETA,
        "rope_scaling": None,
    },
    tied=False,
)
"""What config.json of LlamaForCausalLM says."""


def stage(config: ModelConfig, i: int, stages: int) -> nn.Module:
    """Stage ``i`` of 0 … ``stages``: an ``Edge`` for 0, else a ``Body``; no other is built.

    Weights come from torch's default generator. Raises ValueError if ``config`` can't be cut so.
    """
    _check(config, stages)
    own = blocks_of_stage(config, i, stages)
    return Edge(config) if i == 0 else Body(config, len(own))


def parameters_of(config: ModelConfig) -> int:
    """Parameters of the whole model, by arithmetic. Raises ValueError if it can't be built."""
    _check(config)
    assert config.vocabulary is not None
    width, kv_width = config.width, config.width // config.heads * _kv_heads(config)
    attention = 2 * width * width + 2 * width * kv_width
    block = attention + 3 * width * _hidden(config) + 2 * width
    tables = 1 if config.tied else 2
    return config.blocks * block + tables * config.vocabulary * width + width


def transformers_name(config: ModelConfig, stages: int, i: int, name: str) -> str:
    """What LlamaForCausalLM calls parameter ``name`` of stage ``i``; ValueError if none is."""
    return renamed(NAMES, blocks_of_stage(config, i, stages).start, name)


def to_transformers(
    config: ModelConfig, stages: int, i: int, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of stage ``i`` as LlamaForCausalLM saves them; ValueError for a strange name."""
    return DIALECT.to_theirs(blocks_of_stage(config, i, stages).start, tensors)


def from_transformers(
    config: ModelConfig, stages: int, i: int, folder: Folder
) -> dict[str, Tensor]:
    """The reverse. Raises ValueError for what is missing or of another shape."""
    with torch.device("meta"):
        module = stage(config, i, stages)
    return DIALECT.from_theirs(config, blocks_of_stage(config, i, stages).start, module, folder)


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of LlamaForCausalLM."""
    full = replace(config, kv_heads=_kv_heads(config), hidden=_hidden(config))
    rope = {"rope_type": "default", "rope_theta": THETA}
    return DIALECT.write(
        full,
        architectures=["LlamaForCausalLM"],
        head_dim=config.width // config.heads,
        rope_parameters=rope,  # where transformers looks from version 5 on
        initializer_range=INIT_STD,
        attention_dropout=0.0,  # ours is where LlamaForCausalLM has none
    )


def model_config(tree: Mapping[str, Any]) -> ModelConfig:
    """The model of a config.json. Raises ValueError for one that is not computed as here."""
    rope = tree.get("rope_parameters") or {}
    strange = {"rope_type": "default", "rope_theta": THETA} | rope
    if strange != {"rope_type": "default", "rope_theta": THETA}:
        raise ValueError(
            f"config.json has rope_parameters={rope!r}, and model.family=llama turns by the plain "
            f"rule and {THETA}: that is another model; model.family=hf can train it"
        )
    found = DIALECT.read("llama", tree)
    if tree.get("head_dim") not in (None, found.width // found.heads):
        raise ValueError(
            f"config.json has head_dim={tree['head_dim']!r}, and model.family=llama has as many "
            "features a head as hidden_size over num_attention_heads: model.family=hf can train it"
        )
    return found


class Edge(nn.Module):
    """Stage 0: embeds the tokens, and takes the loss at the other end of the pipeline."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.vocabulary is not None
        self.embedding = Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = RMSNorm(config.width)
        self.head = None if config.tied else Linear(config.width, config.vocabulary)

    def embed(self, batch: Tensor) -> Tensor:
        """Tokens (batch, T + 1), int64 -> hidden (batch, T, width); the last token is no input."""
        hidden: Tensor = self.dropout(self.embedding(batch[:, :-1]))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden (batch, T, width) -> logits (batch, T, vocabulary)."""
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(hidden), head.weight)

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        """Mean cross-entropy () in nats of tokens 1 … T of ``batch`` (batch, T + 1)."""
        logits = _at_least_fp32(self.logits(hidden))
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


class Body(nn.Module):
    """A body stage of so many blocks."""

    def __init__(self, config: ModelConfig, blocks: int):
        super().__init__()
        self.head_width = config.width // config.heads
        self.blocks = nn.ModuleList(Block(config) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, width) -> the same shape."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        rotary = rotary_tables(x.shape[1], self.head_width, dtype, x.device)
        for block in self.blocks:
            x = block(x, rotary)
        return x


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width)
        self.feed_forward = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary))
        y: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return y


class Attention(nn.Module):
    """Causal attention with rotary positions; several heads may share one key and value."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_width = config.width // config.heads
        self.grouped = _kv_heads(config) != config.heads
        kv_width = self.head_width * _kv_heads(config)
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, kv_width)
        self.value = Linear(config.width, kv_width)
        self.output = Linear(config.width, config.width)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_width)
        query = rotate(self.query(x).view(heads), rotary).transpose(1, 2)
        key = rotate(self.key(x).view(heads), rotary).transpose(1, 2)
        value = self.value(x).view(heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.grouped
        )
        z: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return z


class SwiGLU(nn.Module):
    """down(silu(gate(x)) × up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Linear(config.width, _hidden(config))
        self.up = Linear(config.width, _hidden(config))
        self.down = Linear(_hidden(config), config.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return y


class RMSNorm(nn.Module):
    """x over its root mean square, in fp32 or better (arXiv 1910.07467)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # By hand, for F.rms_norm takes twice as long on a CPU.
        wide = _at_least_fp32(x)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
        return self.weight * wide.to(x.dtype)


class Linear(nn.Linear):
    """y = W x, with W drawn from N(0, 0.02)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)


class Embedding(nn.Embedding):
    """A vector per token, drawn from N(0, 0.02)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn feature j and j + half of (batch, T, heads, head width) by the angle of its position."""
    cos, sin = rotary
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


# A function of its arguments that is worth remembering: no buffer, so a stage has no state but its
# parameters. inference_mode(False): what is remembered must be of use in training, too.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotary_tables(
    length: int, head_width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (length, 1, head width) by which ``rotate`` turns (2104.09864)."""
    steps = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu")
    positions = torch.arange(length, dtype=torch.float64, device="cpu")
    angles = positions[:, None, None] * THETA ** (-steps / head_width)
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return tables[0].to(device, dtype), tables[1].to(device, dtype)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kv_heads(config: ModelConfig) -> int:
    return config.heads if config.kv_heads is None else config.kv_heads


def _hidden(config: ModelConfig) -> int:
    return 4 * config.width if config.hidden is None else config.hidden


def _check(config: ModelConfig, stages: int = 1) -> None:
    check(config, stages)
    if config.heads % _kv_heads(config):
        raise ValueError(
            f"model.kv_heads is {config.kv_heads}, which does not divide model.heads "
            f"{config.heads}: choose a divisor, or leave it out for one each"
        )
    if config.width // config.heads % 2:
        raise ValueError(
            f"model.width {config.width} over model.heads {config.heads} is "
            f"{config.width // config.heads} features a head, expected an even number, for rotary "
            "positions turn pairs: change one of them"
        )
