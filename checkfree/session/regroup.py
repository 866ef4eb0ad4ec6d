"""A model's state, cut another way: each tensor by a name that the whole model has for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from checkfree.core.errors import BadInput
from checkfree.messages.tensors import StageState
from checkfree.models.chunks import Chunks

STEP = "step"
"""What Adam calls the steps that it has taken: fp32, whatever it counts them for."""


@dataclass(frozen=True)
class Layout:
    """A model in stages. ``modules``: stages 0 … n, of which only names, shapes and types count.
    ``whole``: (stage, name of a parameter there) -> its name in the whole model. Raises
    ValueError for a name that no parameter has."""

    modules: Sequence[nn.Module]
    whole: Callable[[int, str], str]
    double: bool = False
    """It computes in fp64, whatever the modules say."""
    chunks: Chunks = Chunks.WHOLE
    """Of each body stage."""

    def dtype(self, tensor: Tensor) -> torch.dtype:
        """Of a tensor of its modules, once they compute."""
        return torch.float64 if self.double and tensor.is_floating_point() else tensor.dtype

    def params(self, stage: int) -> dict[str, Tensor]:
        """Those of a stage, by name."""
        return dict(self.modules[stage].named_parameters())

    def buffers(self, stage: int) -> dict[str, Tensor]:
        """Those that are part of a stage's state."""
        module = self.modules[stage]
        kept = module.state_dict(keep_vars=True)
        return {name: b for name, b in module.named_buffers() if name in kept}

    def homes(self) -> dict[str, tuple[int, str]]:
        """By their names in the whole model: the stage that has a parameter, and its name there."""
        return {
            self.whole(stage, name): (stage, name)
            for stage in range(len(self.modules))
            for name in self.params(stage)
        }


LayoutOf = Callable[[int, Sequence[int] | None, Chunks], Layout]
"""Of a model in so many body stages of such chunks, with so many layers each; None: equally many.
Raises BadInput if it can't be cut so."""


def regrouped(
    stage: int, old: Layout, new: Layout, load: Callable[[int], StageState]
) -> StageState:
    """The state of ``stage`` in the cut ``new``, of version 0, from those that ``load`` gives of
    the stages in the cut ``old``; floating-point numbers in the types of ``new``. Norms and
    learning rates are as in a new run. Raises BadInput for what isn't there, or has another
    shape."""
    homes, params, moments = old.homes(), {}, {}
    for name, wanted in new.params(stage).items():
        home = homes.get(new.whole(stage, name))
        if home is None:
            raise BadInput(f"it has no {new.whole(stage, name)}: that is another model")
        place, there = home
        state = load(place)
        dtype = new.dtype(wanted)
        params[name] = _fitting(state.params.get(there), wanted, dtype, new.whole(stage, name))
        prefix = f"{there}/"
        for key, moment in state.moments.items():
            if key.startswith(prefix) and "/" not in key[len(prefix) :]:
                moments[f"{name}/{key[len(prefix) :]}"] = (
                    moment.to(dtype)
                    if moment.shape == wanted.shape and key != f"{prefix}{STEP}"
                    else moment
                )
    return StageState(params, _buffers(stage, old, new, load), moments, version=0)


def _buffers(
    stage: int, old: Layout, new: Layout, load: Callable[[int], StageState]
) -> dict[str, Tensor]:
    wanted = new.buffers(stage)
    if wanted and (len(old.modules), old.chunks) != (len(new.modules), new.chunks):
        chunks = "" if old.chunks is new.chunks else ", and a schedule with its chunks"
        raise BadInput(
            f"its buffers ({', '.join(wanted)}) are each of a stage, and can't be cut anew: "
            f"stages={len(old.modules) - 1}{chunks} as there"
        )
    found = load(stage).buffers if wanted else {}
    return {
        name: _fitting(found.get(name), buffer, new.dtype(buffer), name)
        for name, buffer in wanted.items()
    }


def _fitting(found: Tensor | None, wanted: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if found is None:
        raise BadInput(f"it has no {name}: that is another model")
    if found.shape != wanted.shape:
        raise BadInput(
            f"its {name} has shape {list(found.shape)}, this model's {list(wanted.shape)}: the "
            "model, but for its number of stages, has to be the same"
        )
    if found.dtype != dtype and not (found.is_floating_point() and wanted.is_floating_point()):
        raise BadInput(f"its {name} is {found.dtype}, this model's {dtype}")
    return found.to(dtype)
