"""Body stages of two chunks: made of any family's own body stages, and named by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .chunks import Chunks
from .config import ModelConfig
from .families import Family
from .folder import Folder

CHUNKS = ("first", "second")
"""What a body stage calls its chunks."""


class TwoChunks(nn.Module):
    """A body stage that a microbatch visits twice: once through ``first``, later on through
    ``second``. Neither knows of the other."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first = first
        self.second = second
        if any(hasattr(chunk, "own_loss_scale") for chunk in (first, second)):
            self.own_loss_scale = 0.0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "own_loss_scale":
            for chunk in (self.first, self.second):
                if hasattr(chunk, name):
                    chunk.own_loss_scale = value

    @property
    def in_fp32(self) -> tuple[str, ...]:
        """Names of parameters that are not rounded: its chunks'."""
        return tuple(
            f"{chunk}.{name}"
            for chunk in CHUNKS
            for name in getattr(getattr(self, chunk), "in_fp32", ())
        )


class InTwoChunks:
    """A family whose body stages are of two chunks, each a body stage of ``inner`` in a model of
    twice as many. All else of it is ``inner``'s."""

    def __init__(self, inner: Family, chunks: Chunks):
        self._inner, self._chunks = inner, chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def stage(self, config: ModelConfig, i: int, stages: int) -> nn.Module:
        """Stage ``i``, see :class:`checkfree.models.families.Family`."""
        plain = _whole(config)
        if i == 0:
            return self._inner.stage(plain, 0, 2 * stages)
        chunks = self._chunks.of(i, stages)
        return TwoChunks(*[self._inner.stage(plain, chunk, 2 * stages) for chunk in chunks])

    def transformers_name(self, config: ModelConfig, stages: int, i: int, name: str) -> str:
        """The name that ``inner`` has for a parameter of one of its chunks."""
        chunk, own = self._chunk_of(stages, i, name)
        return self._inner.transformers_name(_whole(config), 2 * stages, chunk, own)

    def to_transformers(
        self, config: ModelConfig, stages: int, i: int, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of both chunks together."""
        by_chunk: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            chunk, own = self._chunk_of(stages, i, name)
            by_chunk.setdefault(chunk, {})[own] = tensor
        found: dict[str, Tensor] = {}
        for chunk, own_tensors in by_chunk.items():
            found |= self._inner.to_transformers(_whole(config), 2 * stages, chunk, own_tensors)
        return found

    def from_transformers(
        self, config: ModelConfig, stages: int, i: int, folder: Folder
    ) -> dict[str, Tensor]:
        """Of both chunks together."""
        plain = _whole(config)
        if i == 0:
            return self._inner.from_transformers(plain, 2 * stages, 0, folder)
        return {
            f"{called}.{name}": tensor
            for called, chunk in zip(CHUNKS, self._chunks.of(i, stages), strict=True)
            for name, tensor in self._inner.from_transformers(
                plain, 2 * stages, chunk, folder
            ).items()
        }

    def _chunk_of(self, stages: int, i: int, name: str) -> tuple[int, str]:
        """The chunk that has a parameter, and what it calls it. Raises ValueError for a name that
        is of no chunk."""
        if i == 0:
            return 0, name
        called, _, own = name.partition(".")
        if called not in CHUNKS:
            raise ValueError(f"no parameter is called {name!r}, expected first… or second…")
        return self._chunks.of(i, stages)[CHUNKS.index(called)], own


def _whole(config: ModelConfig) -> ModelConfig:
    return replace(config, chunks=Chunks.WHOLE)
