"""Local steps: a rebuilt stage fitted to what its neighbours hold of the lost one, and judged by
that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from checkfree.core.ops import Recipe
from checkfree.core.units import derive
from checkfree.stage import Part, Stage

Pair = tuple[Tensor, Tensor, Part]
"""What went into the lost stage, what came out of it, and which share of it that was."""

JUDGED_BY = 8
"""Newest pairs that an error is measured on."""


def fit_and_judge(
    stage: Stage, recipe: Recipe, pairs: Sequence[Pair], lr: float, seed: int
) -> tuple[dict[str, float], str]:
    """Figures of the stage that was made by ``recipe``, fitted if that is asked for, and why it is
    no good, if it isn't."""
    if not pairs:
        return {}, "nothing is held of what went into it and came out" if recipe.fit else ""
    figures = {"pairs": float(len(pairs)), "error": error(stage, pairs)}
    if recipe.fit:
        figures["unfitted"] = figures["error"]
        fit(stage, pairs, recipe.fit, lr, seed)
        figures["error"] = error(stage, pairs)
    bound = figures["unfitted"] if recipe.fit else recipe.bound
    if bound is None or figures["error"] <= bound:
        return figures, ""
    return figures, (
        f"its error on what its neighbours hold is {figures['error']:.3g} times that of leaving "
        f"the stage out, expected at most {bound:g}"
    )


def fit(stage: Stage, pairs: Sequence[Pair], steps: int, lr: float, seed: int) -> None:
    """``steps`` steps of Adam, a pair each, in an order drawn from ``seed``."""
    params = [param for param in stage.params.values() if param.requires_grad]
    least = max((torch.finfo(param.dtype).tiny for param in params), default=0.0)
    optimizer = torch.optim.Adam(params, lr=lr, eps=max(1e-8, least))  # fp16 holds no 1e-8
    scale = max(_skipped(pairs), 1e-30)
    generator = torch.Generator().manual_seed(seed)
    places: list[int] = []
    for step in range(steps):
        places = places or torch.randperm(len(pairs), generator=generator).tolist()
        x, y, part = pairs[places.pop()]
        made = stage.predict(part, x, derive(seed, "step", step))
        loss = (made.float() - y.to(made.device).float()).square().mean() / scale
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        stage.recast()
    stage.discard()


@torch.no_grad()
def error(stage: Stage, pairs: Sequence[Pair]) -> float:
    """Mean square of what the stage makes wrong of the newest pairs, over that of leaving the
    stage out."""
    judged = pairs[-JUDGED_BY:]
    wrong = 0.0
    for x, y, part in judged:
        made = stage.evaluate(part, x, None, 0)
        wrong += float((made.float() - y.to(made.device).float()).square().mean())
    return wrong / len(judged) / max(_skipped(judged), 1e-30)


def _skipped(pairs: Sequence[Pair]) -> float:
    """Mean square of what leaving the stage out makes wrong."""
    apart = (float((y.to(x.device).float() - x.float()).square().mean()) for x, y, _ in pairs)
    return sum(apart) / len(pairs)
