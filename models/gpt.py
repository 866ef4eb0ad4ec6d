"""GPT-2, cut into stages: learned positions, LayerNorm before each layer, tanh GELU, biases.

    Edge (stage 0)                        Body (stages 1 … n)
    tokens -> embedding + positions       ... -> blocks -> ...
    ... -> norm -> head -> loss           block: x + attention(norm(x)), then x + MLP(norm(x))

Drawn as GPT-2 was: matrices from N(0, 0.02), biases 0, and the two matrices of a block that write
to the residual stream from N(0, 0.02 / √(2 × blocks of the whole model)), so that its variance at
the end does not depend on depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .exchange import Dialect
from .families import blocks_of_stage, check, renamed
from .folder import Folder

EPS = 1e-5
INIT_STD = 0.02

NAMES: Mapping[str, str] = MappingProxyType(
    {
        # stage 0
        "embedding.weight": "transformer.wte.weight",
        "positions.weight": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight",
        "norm.bias": "transformer.ln_f.bias",
        "head.weight": "lm_head.weight",
        # body stages
        "blocks.{}.attention_norm.weight": "transformer.h.{}.ln_1.weight",
        "blocks.{}.attention_norm.bias": "transformer.h.{}.ln_1.bias",
        "blocks.{}.attention.qkv.weight": "transformer.h.{}.attn.c_attn.weight",
        "blocks.{}.attention.qkv.bias": "transformer.h.{}.attn.c_attn.bias",
        "blocks.{}.attention.output.weight": "transformer.h.{}.attn.c_proj.weight",
        "blocks.{}.attention.output.bias": "transformer.h.{}.attn.c_proj.bias",
        "blocks.{}.feed_forward_norm.weight": "transformer.h.{}.ln_2.weight",
        "blocks.{}.feed_forward_norm.bias": "transformer.h.{}.ln_2.bias",
        "blocks.{}.feed_forward.up.weight": "transformer.h.{}.mlp.c_fc.weight",
        "blocks.{}.feed_forward.up.bias": "transformer.h.{}.mlp.c_fc.bias",
        "blocks.{}.feed_forward.down.weight": "transformer.h.{}.mlp.c_proj.weight",
        "blocks.{}.feed_forward.down.bias": "transformer.h.{}.mlp.c_proj.bias",
    }
)
"""Our names to those of GPT2LMHeadModel; ``{}`` is a block's number. A tied model has no head."""

TRANSPOSED: frozenset[str] = frozenset(
    {
        "blocks.{}.attention.qkv.weight",
        "blocks.{}.attention.output.weight",
        "blocks.{}.feed_forward.up.weight",
        "blocks.{}.feed_forward.down.weight",
    }
)
"""Matrices that we keep as (out, in) and GPT2LMHeadModel, in its Conv1D, as (in, out)."""

KEYS: Mapping[str, str] = {
    "width": "n_embd",
    "heads": "n_head",
    "hidden": "n_inner",
    "blocks": "n_layer",
    "context": "n_positions",
    "vocabulary": "vocab_size",
    "tied": "tie_word_embeddings",
}
"""Fields of ModelConfig to keys of config.json."""

DIALECT = Dialect(
    NAMES,
    TRANSPOSED,
    prefix="transformer.",
    keys=KEYS,
    fixed={
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPS,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    tied=True,
)
"""What config.json of GPT2LMHeadModel says."""


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
    width, hidden = config.width, _hidden(config)
    attention = 4 * width * width + 4 * width
    feed_forward = 2 * width * hidden + hidden + width
    block = attention + feed_forward + 4 * width
    tables = 1 if config.tied else 2
    return config.blocks * block + (tables * config.vocabulary + config.context + 2) * width


def transformers_name(config: ModelConfig, stages: int, i: int, name: str) -> str:
    """What GPT2LMHeadModel calls parameter ``name`` of stage ``i``; ValueError if none is."""
    return renamed(NAMES, blocks_of_stage(config, i, stages).start, name)


def to_transformers(
    config: ModelConfig, stages: int, i: int, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of stage ``i`` as GPT2LMHeadModel saves them; ValueError for a strange name."""
    return DIALECT.to_theirs(blocks_of_stage(config, i, stages).start, tensors)


def from_transformers(
    config: ModelConfig, stages: int, i: int, folder: Folder
) -> dict[str, Tensor]:
    """The reverse. Raises ValueError for what is missing or of another shape."""
    with torch.device("meta"):
        module = stage(config, i, stages)
    return DIALECT.from_theirs(config, blocks_of_stage(config, i, stages).start, module, folder)


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of GPT2LMHeadModel."""
    return DIALECT.write(
        replace(config, hidden=_hidden(config)),
        architectures=["GPT2LMHeadModel"],
        initializer_range=INIT_STD,
        attn_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        resid_pdrop=config.dropout,
    )


def model_config(tree: Mapping[str, Any]) -> ModelConfig:
    """The model of a config.json. Raises ValueError for one that is not computed as here."""
    return DIALECT.read("gpt", tree)


class Edge(nn.Module):
    """Stage 0: embeds the tokens, and takes the loss at the other end of the pipeline."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.vocabulary is not None
        self.embedding = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.head = None
        if not config.tied:
            self.head = Linear(config.width, config.vocabulary, bias=False)

    def embed(self, batch: Tensor) -> Tensor:
        """Tokens (batch, T + 1), int64 -> hidden (batch, T, width); the last token is no input.

        T is at most ``context``: further positions were never learned.
        """
        tokens = batch[:, :-1]
        positions = self.positions.weight[: tokens.shape[1]]
        hidden: Tensor = self.dropout(self.embedding(tokens) + positions)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden (batch, T, width) -> logits (batch, T, vocabulary)."""
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(hidden), head.weight)

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        """Mean cross-entropy () in nats of tokens 1 … T of ``batch`` (batch, T + 1)."""
        logits = self.logits(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


class Body(nn.Module):
    """A body stage of so many blocks."""

    def __init__(self, config: ModelConfig, blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, width) -> the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=EPS)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=EPS)
        self.feed_forward = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        y: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return y


class Attention(nn.Module):
    """Causal attention. Query, key and value are one matrix, for GPT-2 has them so."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = Linear(config.width, 3 * config.width)
        self.output = Linear(config.width, config.width, std=_residual_std(config))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.transpose(1, 3).unbind(2)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        z: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return z


class MLP(nn.Module):
    """down(gelu(up(x))), with GELU's tanh approximation (arXiv 1606.08415)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = Linear(config.width, _hidden(config))
        self.down = Linear(_hidden(config), config.width, std=_residual_std(config))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class Linear(nn.Linear):
    """y = W x + b, with W drawn from N(0, std) and b = 0."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, std: float = INIT_STD):
        self.std = std
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A vector per token or position, drawn from N(0, 0.02)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)


def _residual_std(config: ModelConfig) -> float:
    return INIT_STD / sqrt(2 * config.blocks)


def _hidden(config: ModelConfig) -> int:
    return 4 * config.width if config.hidden is None else config.hidden


def _check(config: ModelConfig, stages: int = 1) -> None:
    check(config, stages)
    if config.kv_heads not in (None, config.heads):
        raise ValueError(
            f"model.kv_heads is {config.kv_heads}, expected none for gpt, whose {config.heads} "
            "heads have a key and a value each: leave it out, or use model.family llama"
        )
