"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import nn

from checkfree.core.config import OptimizerConfig
from checkfree.core.errors import BadInput
from checkfree.core.rates import MUON, SGD, momentum_of
from checkfree.stage.learnt import COMPUTED

ADAMS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


NO_MATRICES = ("bias", "A_log")
"""How names end of what has two dimensions and is multiplied with nothing: biases, of experts one
each; and of state space models the decays."""


def make_optimizer(
    config: OptimizerConfig,
    params: Iterable[nn.Parameter],
    *,
    edge: bool = False,
    matrices: Collection[int] | None = None,
) -> torch.optim.Optimizer:
    """Fused where torch has it for the device and type of every parameter. ``edge``: of stage 0,
    whose embedding and head Muon leaves to AdamW; ``matrices``: ``id`` of each parameter that it
    does not, where names are known. Raises BadInput for ``muon`` where torch has none."""
    params = list(params)
    if config.name == MUON:
        known = (id(param) for param in params if for_muon("", param))
        return _make_muon(
            config, params, () if edge else set(known if matrices is None else matrices)
        )
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)
    if config.name == SGD:
        return torch.optim.SGD(
            params,
            lr=config.lr,
            momentum=momentum_of(config),
            weight_decay=config.weight_decay,
            fused=fused or None,
        )
    return ADAMS[config.name](
        params,
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused or None,
    )


def for_muon(name: str, param: nn.Parameter) -> bool:
    """A parameter of a body stage is orthogonalised by Muon, and not stepped by AdamW: a matrix
    that trains. Fused matrices count as one; experts in one tensor of three dimensions are none."""
    trains = param.requires_grad and param.dtype in COMPUTED
    return param.ndim == 2 and trains and not name.endswith(NO_MATRICES)


def find_muon() -> Callable[..., torch.optim.Optimizer]:
    """torch's own Muon. Raises BadInput where torch has none."""
    found: Callable[..., torch.optim.Optimizer] | None = getattr(torch.optim, "Muon", None)
    if found is None:
        raise BadInput(
            f"optimizer.name=muon needs torch 2.9 or later, this is {torch.__version__}: update "
            "torch, or take optimizer.name=adamw"
        )
    return found


def _make_muon(
    config: OptimizerConfig, params: Sequence[nn.Parameter], theirs: Collection[int]
) -> torch.optim.Optimizer:
    """Steps of matrices are scaled to the root mean square that AdamW's have ("Muon is scalable for
    LLM training", arXiv 2502.16982), so that one learning rate and one decay serve both."""
    muon = find_muon()
    matrices = [param for param in params if id(param) in theirs]
    rest = [param for param in params if id(param) not in theirs]
    parts = []
    if matrices:
        parts.append(
            muon(
                matrices,
                lr=config.lr,
                momentum=momentum_of(config),
                weight_decay=config.weight_decay,
                nesterov=True,  # without it torch's normalises a momentum in bf16 in place
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if rest:
        as_adamw = OptimizerConfig(
            "adamw", config.lr, config.betas, config.eps, weight_decay=config.weight_decay
        )
        parts.append(make_optimizer(as_adamw, rest))
    return parts[0] if len(parts) == 1 else Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimizers as one, each of parameters of its own: they share one state, and a change
    to a group here is one there."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state
        self._parts = parts

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each, in their order."""
        for part in self._parts:
            part.step()
