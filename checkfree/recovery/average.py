"""Pure functions on stage states: averages, and what an inexact rebuild carries on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from checkfree.messages.tensors import StageState
from checkfree.recovery.options import InexactOptions


@dataclass(frozen=True)
class Inexact:
    """How a stage starts that was not restored exactly."""

    optimizer: str = "fresh"
    lr_scale: float = 1.0

    @classmethod
    def of(cls, options: InexactOptions, lr_scale: float = 1.0) -> Inexact:
        """As configured; ``lr_scale``: the strategy's own."""
        return cls(options.optimizer, lr_scale if options.lr_scale is None else options.lr_scale)

    @property
    def moments(self) -> bool:
        """It takes more than weights."""
        return self.optimizer == "average"


def weighted_average(
    tensors: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> dict[str, Tensor]:
    """``Σ wᵢ tᵢ / Σ wᵢ``, name by name, on the first one's device; weights need no normalising.

    Raises ValueError unless the weights have a positive, finite sum.
    """
    shares = normalised(weights)
    return {
        name: _mix([t[name].to(tensors[0][name].device) for t in tensors], shares)
        for name in tensors[0]
    }


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights over their sum."""
    total = float(sum(weights))
    if not 0.0 < total < float("inf"):
        raise ValueError(f"weights must have a positive, finite sum, got {tuple(weights)}")
    return tuple(weight / total for weight in weights)


def _mix(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """In fp32 at least, of the smallest type that holds all of theirs: a neighbour may be there as
    it trains, and another as a shadow."""
    kept = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    wide = torch.promote_types(kept, torch.float32)
    tensors = [tensor.to(wide) for tensor in tensors]
    if len(tensors) == 2:  # one pass over memory instead of two
        return torch.lerp(tensors[0], tensors[1], shares[1]).to(kept)
    mixed = tensors[0] * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        mixed.add_(tensor, alpha=share)
    return mixed.to(kept)


def gradient_weights(
    states: Sequence[StageState], exponent: float, *, after_clipping: bool = False
) -> tuple[float, ...]:
    """ω of each source to the power, normalised (CheckFree, algorithm 1; semantics 11).

    Equal weights where no source has had a gradient, or all of them were zero.
    """
    norms = [s.clipped_norm if after_clipping else s.gradient_norm for s in states]
    largest = max(norms)
    if largest > 0 and not 1e-100 < largest < 1e100:  # of fp64: their squares may be inf, or 0
        norms = [norm / largest for norm in norms]
    weights = [norm**exponent for norm in norms]
    return normalised(weights) if sum(weights) > 0 else normalised([1.0] * len(states))


def mean_norms(states: Sequence[StageState]) -> tuple[float, float]:
    """ω that a rebuilt stage starts with: the mean of its sources', before and after clipping."""
    count = len(states)
    return (
        sum(s.gradient_norm for s in states) / count,
        sum(s.clipped_norm for s in states) / count,
    )


def average_states(
    states: Sequence[StageState], weights: Sequence[float], how: Inexact = Inexact()
) -> StageState:
    """A new stage out of others: their weighted average, with a fresh or averaged optimizer."""
    moments: Mapping[str, Tensor] = {}
    if how.optimizer == "average" and all(
        s.moments.keys() == states[0].moments.keys() for s in states
    ):
        moments = weighted_average([s.moments for s in states], weights)
        if any(bool(moment.isnan().any()) for moment in moments.values()):
            moments = {}  # inf in one of them, and not in another
    before, after = mean_norms(states)
    return StageState(
        params=weighted_average([s.params for s in states], weights),
        buffers={},  # constants of the stage, which a neighbour's need not equal
        moments=moments,
        version=states[0].version,
        gradient_norm=before,
        clipped_norm=after,
        lr_scale=how.lr_scale,
    )
