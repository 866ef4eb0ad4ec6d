"""Which families there are, and what they have in common. Imports no torch.

A family is one file that can be read from top to bottom. It cuts a model into stage 0 (embedding,
final norm and head) and the transformer blocks of the body stages 1 … n: equally many in each, or
as many as ``cut`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from . import hub
from .config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .folder import Folder

WRITTEN_HERE = ("llama", "gpt")
FAMILIES = (*WRITTEN_HERE, hub.HF)

_NUMBER = re.compile(r"\d+")


class Family(Protocol):
    """What the file of a family offers."""

    @property
    def NAMES(self) -> Mapping[str, str]:
        """Our parameter names to those of ``transformers``; ``{}`` stands for a block's number,
        which we count within a stage and they from the first."""

    @property
    def LAYERED(self) -> bool:
        """Optional. Each layer's first weights are drawn from torch's seed and its number alone,
        however the model is cut; and layers may be of unequal shapes."""

    def experts_used(self, config: ModelConfig) -> int | None:
        """Optional. Experts that a token goes through, where the matrices of all of a layer are one
        parameter of three dimensions."""

    def kinds_of_layers(self, config: ModelConfig) -> Sequence[str]:
        """Optional. What tells each layer from others of the same shapes, as the attention that it
        computes: equal words for equal kinds."""

    @property
    def TRANSPOSED(self) -> frozenset[str]:
        """Keys of ``NAMES`` whose matrices ``transformers`` keeps the other way round."""

    @property
    def KEYS(self) -> Mapping[str, str]:
        """Fields of ModelConfig to keys of config.json."""

    def stage(self, config: ModelConfig, i: int, stages: int) -> nn.Module:
        """Stage ``i`` of a model cut into stage 0 and ``stages`` body stages, and nothing else."""

    def parameters_of(self, config: ModelConfig) -> int:
        """Parameters of the whole model; a tied head counts once."""

    def transformers_name(self, config: ModelConfig, stages: int, i: int, name: str) -> str:
        """What ``transformers`` calls parameter ``name`` of stage ``i``."""

    def to_transformers(
        self, config: ModelConfig, stages: int, i: int, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The tensors of stage ``i`` under the names and in the layouts in which ``transformers``
        saves them. Raises ValueError for a name that no parameter has."""

    def from_transformers(
        self, config: ModelConfig, stages: int, i: int, folder: Folder
    ) -> dict[str, Tensor]:
        """The reverse: the tensors of stage ``i``, in the types of the folder. Raises ValueError if
        it lacks one, has one of another shape, or is damaged."""

    def unread(self, config: ModelConfig, folder: Folder) -> list[str]:
        """Optional, for a family that reads folders with more in them than a model has: tensors
        that no stage has a place for, sorted. Raises ValueError."""

    def transformers_config(self, config: ModelConfig) -> dict[str, Any]:
        """What stands in config.json of such a model, but for its dtype and special tokens."""

    def model_config(self, tree: Mapping[str, Any]) -> ModelConfig:
        """The reverse. Raises ValueError for a model that this family would not compute exactly."""


def family(name: str) -> Family:
    """The file of a family, imported when first asked for. Raises ValueError if there is none."""
    if name not in FAMILIES:
        choices = ", ".join(FAMILIES)
        raise ValueError(f"model.family is {name!r}, expected one of {choices}: choose one")
    return cast(Family, import_module(f".{name}", __package__))


def described(config: ModelConfig) -> ModelConfig:
    """``config`` with all that a model's own description tells of its sizes, where its family has
    such. Raises ValueError, in one line."""
    if config.family == hub.HF:
        return hub.described(config)
    hub.check_unused(config)
    return config


def pattern_of(name: str) -> str:
    """``blocks.3.norm.weight`` -> ``blocks.{}.norm.weight``, a key of a family's ``NAMES``."""
    return _NUMBER.sub("{}", name)


def renamed(names: Mapping[str, str], first_block: int, name: str) -> str:
    """``name`` as ``transformers`` calls it, in a stage whose first block is ``first_block``.

    Raises ValueError for a name that no parameter has.
    """
    pattern = pattern_of(name)
    if pattern not in names:
        known = ", ".join(names)
        raise ValueError(f"no parameter is called {name!r}, expected one of {known}: name one")
    return names[pattern].format(*(first_block + int(k) for k in _NUMBER.findall(name)))


def check(config: ModelConfig, stages: int = 1) -> None:
    """Raises ValueError, in one line, if no family could build ``config`` in ``stages`` stages."""
    if config.vocabulary is None:
        raise ValueError(
            "model.vocabulary is None, expected a number of token types: "
            "set it, or take over the tokenizer's"
        )
    _check_counts(config)
    if config.width % config.heads:
        raise ValueError(
            f"model.heads is {config.heads}, which does not divide model.width {config.width}: "
            f"choose among {_divisors(config.width)}"
        )
    if not 0 <= config.dropout < 1:
        raise ValueError(f"model.dropout is {config.dropout}, expected 0 <= dropout < 1: use 0")
    blocks_of_stage(config, 0, stages)


def blocks_of_stage(config: ModelConfig, i: int, stages: int) -> range:
    """Numbers of the blocks of stage ``i``: none of stage 0, and as ``config.cut`` has it, or
    equally many, of the others. Raises ValueError where there is no such cut or no such stage."""
    check_place(i, stages)
    if config.cut is not None:
        counts = config.cut
        if len(counts) != stages or sum(counts) != config.blocks or min(counts) < 1:
            raise ValueError(
                f"cut is {list(counts)}, expected layers of {stages} stages, 1 or more each, that "
                f"are {config.blocks} together: give such, or cut=auto"
            )
        before = sum(counts[: max(i - 1, 0)])
        return range(before, before + counts[i - 1]) if i else range(0)
    each, rest = divmod(config.blocks, max(1, stages))
    if rest or stages < 1:
        raise ValueError(
            f"stages is {stages}, which does not cut model.blocks {config.blocks} into equal "
            f"parts: choose among {_divisors(config.blocks)}, or have unequal ones by cut=auto"
        )
    return range((i - 1) * each, i * each) if i else range(0)


def check_place(i: int, stages: int) -> None:
    """Raises ValueError unless there is a stage ``i``."""
    if not 0 <= i <= stages:
        raise ValueError(f"there is no stage {i}, expected one of 0 … {stages}: name one of those")


def _check_counts(config: ModelConfig) -> None:
    for name in ("width", "heads", "kv_heads", "hidden", "blocks", "context", "vocabulary"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"model.{name} is {value}, expected 1 or more: raise it")


def _divisors(number: int) -> str:
    return ", ".join(str(k) for k in range(1, number + 1) if number % k == 0)
