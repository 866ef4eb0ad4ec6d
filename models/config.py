"""The shape of a model. Imports no torch, so that a configuration can be read without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from .chunks import Chunks


@dataclass(frozen=True)
class ModelConfig:
    """One model of one family, before it is cut into stages."""

    family: str = "llama"
    """``llama`` or ``gpt``; ``hf``, any causal language model of ``transformers`` (see ``path``);
    or one from elsewhere, as ``my_models:mamba``."""

    width: int = 96
    """Model dimension, in features per token."""

    heads: int = 6
    """Attention heads; must divide ``width``."""

    kv_heads: Optional[int] = None
    """Heads of keys and values (grouped-query attention); None: as many as ``heads``."""

    hidden: Optional[int] = None
    """Inner width of the feed-forward layer; None: 4 × ``width``."""

    blocks: int = 12
    """Transformer blocks in the whole model."""

    context: int = 128
    """Tokens per sequence."""

    vocabulary: Optional[int] = None
    """Token types; None: as many as the tokenizer knows."""

    tied: bool = False
    """The head shares the embedding's weights."""

    dropout: float = 0.0
    """Probability of dropping a feature, in [0, 1)."""

    path: Optional[str] = None
    """``hf``: folder of a Hugging Face model (config.json and safetensors), or its name in the Hub
    cache of this machine, as ``HuggingFaceTB/SmolLM2-135M``. Sizes are as its config.json says."""

    config: Optional[str] = None
    """``hf``: a config.json alone, instead of ``path``, of a model whose weights are drawn."""

    weights: Optional[str] = None
    """``hf``: ``pretrained``, those of ``path``, or ``fresh`` ones; None: pretrained if there is a
    ``path``."""

    attention: Optional[str] = None
    """``hf``: how attention is computed: ``eager``, ``sdpa``, or another one that ``transformers``
    has; None: as it chooses."""

    router_loss: Any = None
    """``hf``, of a model with experts: coefficient of the loss that has its routers use them all
    alike, or ``config``, the one that its config.json has. Each stage adds it over its own layers,
    which is not the loss of the uncut model; see :mod:`checkfree.models.hf`. None: not added."""

    architecture: Any = None
    """``hf``: what config.json holds, and a run's own configuration with it. Never to be given."""

    sha256: Optional[str] = None
    """``hf``: fingerprint of the files of pretrained weights. Never to be given."""

    cut: Any = field(default=None, compare=False, repr=False, metadata={"internal": True})
    """Never configured here: the blocks of each chunk, if they are not equally many."""

    chunks: Any = field(
        default=Chunks.WHOLE, compare=False, repr=False, metadata={"internal": True}
    )
    """Never configured here: the chunks of each body stage, which the schedule asks for."""

    code: Any = field(default=None, compare=False, repr=False, metadata={"internal": True})
    """Never configured: a family from outside, once somebody has permitted it."""
