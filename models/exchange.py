"""A stage's tensors, and a model's shape, as ``transformers`` has them in a folder, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .config import ModelConfig
from .families import pattern_of, renamed
from .folder import Folder

KNOWN_BUFFERS = (
    *(".attn.bias", ".attn.masked_bias", ".attention.bias"),
    *(".rotary_emb.inv_freq", ".position_ids"),
)
"""How names end of what older versions of ``transformers`` saved beside the weights: constants."""


@dataclass(frozen=True)
class Dialect:
    """How ``transformers`` writes one of our families: ``names`` and ``transposed`` of its
    parameters, as ``Family`` has them, and what stands in its config.json."""

    names: Mapping[str, str]
    transposed: Collection[str]
    prefix: str
    """Of all names but the head's; the bare base model is saved without it."""
    keys: Mapping[str, str]
    """Fields of ModelConfig to keys of config.json."""
    fixed: Mapping[str, Any]
    """What our family computes with, by key of config.json; what is not there is so, too."""
    tied: bool
    """Whether the head is, where config.json doesn't say."""

    def to_theirs(self, first_block: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A stage's parameters, in a stage whose first block is ``first_block``: the very ones, or
        views of them. Raises ValueError for a name that no parameter has."""
        return {
            renamed(self.names, first_block, name): (
                tensor.T if pattern_of(name) in self.transposed else tensor
            )
            for name, tensor in tensors.items()
        }

    def from_theirs(
        self, config: ModelConfig, first_block: int, module: nn.Module, folder: Folder
    ) -> dict[str, Tensor]:
        """The parameters of ``module``, whose values don't count, from a folder. All shapes are
        looked at before any is read. Raises ValueError for what isn't there or has another, and
        for a folder with more than the model has."""
        strange = self._strange(config, folder)
        if strange:
            raise ValueError(
                f"{folder.path} has {strange[0]}, which model.family={config.family} of "
                f"{config.blocks} blocks has no place for: that is another model; model.family=hf "
                "can train it"
            )
        homes = {}
        for name, param in module.named_parameters():
            theirs = self._found(renamed(self.names, first_block, name), folder)
            turned = pattern_of(name) in self.transposed
            wanted = tuple(reversed(param.shape)) if turned else tuple(param.shape)
            if folder.shape(theirs) != wanted:
                raise ValueError(
                    f"{folder.path}: {theirs} has shape {list(folder.shape(theirs))}, expected "
                    f"{list(wanted)}: that is another model"
                )
            if not folder.dtype(theirs).is_floating_point:
                raise ValueError(
                    f"{folder.path}: {theirs} is {folder.dtype(theirs)}, expected floating-point "
                    "numbers: a quantized model can't be trained; get the one that it was made of"
                )
            homes[name] = theirs, turned
        return {
            name: folder.read(theirs).T.contiguous() if turned else folder.read(theirs)
            for name, (theirs, turned) in homes.items()
        }

    def _strange(self, config: ModelConfig, folder: Folder) -> list[str]:
        """Tensors in a folder that the whole model has no place for."""
        known = {
            theirs.replace("{}", str(block))
            for theirs in self.names.values()
            for block in range(config.blocks)
        }
        known |= {name.removeprefix(self.prefix) for name in known}
        return sorted(n for n in folder.names - known if not n.endswith(KNOWN_BUFFERS))

    def write(self, config: ModelConfig, **more: Any) -> dict[str, Any]:
        """What config.json says of a model."""
        sizes = {theirs: getattr(config, ours) for ours, theirs in self.keys.items()}
        return {**sizes, **self.fixed, **more}

    def read(self, family: str, tree: Mapping[str, Any]) -> ModelConfig:
        """The model that config.json tells of. Raises ValueError for one that our family would not
        compute exactly as it is."""
        for key, ours in self.fixed.items():
            if key in tree and tree[key] != ours:
                raise ValueError(
                    f"config.json has {key}={tree[key]!r}, and model.family={family} computes with "
                    f"{ours!r}: that is another model; model.family=hf can train it"
                )
        found: dict[str, Any] = {ours: tree.get(theirs) for ours, theirs in self.keys.items()}
        found["tied"] = self.tied if found["tied"] is None else found["tied"]
        for ours, theirs in self.keys.items():
            value, optional = found[ours], ours in ("kv_heads", "hidden")
            kind = bool if ours == "tied" else int
            if type(value) is not kind and not (optional and value is None):
                raise ValueError(f"config.json has {theirs}={value!r}, expected {kind.__name__}")
        return ModelConfig(family, **found)

    def _found(self, name: str, folder: Folder) -> str:
        bare = name.removeprefix(self.prefix)
        return bare if name not in folder.names and bare in folder.names else name
