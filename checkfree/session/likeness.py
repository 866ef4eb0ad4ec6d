"""Whether body stages are alike, as a strategy needs them that makes a lost one of its neighbours:
parameters of equal names and shapes, else it is refused; and, beside that, layers of equal kinds at
the same place, else it averages what computes in other ways, and that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from torch import nn

from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.recovery.registry import spec_of


def unequal(stages: Sequence[nn.Module]) -> str:
    """The first parameter in which a body stage differs from stage 1; "" if none does."""
    first = _shapes(stages[1])
    for place, module in enumerate(stages[2:], 2):
        for one, other in zip_longest(first, _shapes(module)):
            if one != other:
                told = (found or "nothing" for found in (other, one))
                return "body stage {} has {} where stage 1 has {}".format(place, *told)
    return ""


def check_equal(recovery: RecoveryConfig, other: str) -> None:
    """Raise BadInput for a strategy that makes a lost stage of its neighbours where one differs
    as ``unequal`` tells."""
    if other and spec_of(recovery).neighbours:
        raise BadInput(
            f"recovery.name={recovery.name} makes a lost stage of its neighbours, and "
            f"{other}: take replay, shadow, checkpoint or redundant, or another number of stages"
        )


def mixed(recovery: RecoveryConfig, kinds: Sequence[str], stages: int) -> str:
    """One line on a strategy that makes a lost stage of its neighbours where those, alike in their
    shapes, have layers of other kinds at the same place; "" if it doesn't or they haven't.
    ``kinds``: of each layer of the model; ``stages``: body stages."""
    each = len(kinds) // stages
    apart = (k for k in range(len(kinds) - each) if kinds[k] != kinds[k + each])
    place = next(apart, None)
    if place is None or not spec_of(recovery).neighbours:
        return ""
    one, other = (f"layer {k} is {kinds[k]}" for k in (place, place + each))
    return (
        f"recovery={recovery.name} makes a lost stage of its neighbours, which have layers of "
        f"other kinds at the same place ({one}, {other}): {_alike(kinds)}"
    )


def _alike(kinds: Sequence[str]) -> str:
    """Which equal cuts have layers of one kind at each place of all stages, of which there are two
    or more."""
    parts = [k for k in range(len(kinds), 1, -1) if len(kinds) % k == 0]
    found = [
        str(stages)
        for stages in parts
        if all(kind == kinds[k % (len(kinds) // stages)] for k, kind in enumerate(kinds))
    ]
    return f"stages={' or '.join(found)} has them alike" if found else "no cut has them alike"


def _shapes(module: nn.Module) -> list[str]:
    return [
        f"{name} {list(param.shape)} {str(param.dtype).removeprefix('torch.')}"
        for name, param in module.named_parameters()
    ]
