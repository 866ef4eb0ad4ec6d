"""What each stage does with what it holds between a microbatch's forward and its backward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.typed import written

KEEP, RECOMPUTE, OFFLOAD, AUTO = WAYS = ("keep", "recompute", "offload", "auto")


def stash_of(config: Config) -> tuple[str, ...]:
    """One of WAYS for each stage 0 … n. Raises BadInput for what is none, for two of them at one
    stage, and for a ``recompute`` that says otherwise."""
    told, stages = config.stash, config.stages
    if isinstance(told, Mapping):
        ways = _by_way(told, stages)
    elif isinstance(told, (list, tuple)):
        ways = _listed(told, stages)
    elif told in WAYS:
        ways = (told,) * (stages + 1)
    else:
        raise BadInput(
            f"stash={written(told)}: expected one of {', '.join(WAYS)}, or stages of some of them "
            "as in {offload: [1, 2]}"
        )
    again = _recomputed(config.recompute, stages)
    if not again:
        return ways
    older = tuple(RECOMPUTE if stage in again else KEEP for stage in range(stages + 1))
    if told != KEEP and ways != older:
        raise BadInput(
            f"recompute={written(config.recompute)} and stash={written(told)} say two things: "
            "leave recompute out, which is the older form of stash=recompute"
        )
    return older


def as_stash(ways: Iterable[str]) -> Any:
    """The value of ``stash`` that :func:`stash_of` makes these of, as a run's records have it: one
    word, or one for each stage."""
    ways = list(ways)
    return ways[0] if len({*ways}) == 1 else ways


def _listed(told: Sequence[Any], stages: int) -> tuple[str, ...]:
    if len(told) != stages + 1 or any(way not in WAYS for way in told):
        raise BadInput(
            f"stash={written(told)}: expected one of {', '.join(WAYS)} for each of the stages 0 … "
            f"{stages}, or stages by word as in {{offload: [1, 2]}}"
        )
    return tuple(told)


def _by_way(told: Mapping[Any, Any], stages: int) -> tuple[str, ...]:
    found = dict.fromkeys(range(stages + 1), KEEP)
    seen: dict[int, str] = {}
    for way, named in told.items():
        if way not in WAYS:
            raise BadInput(f"stash.{way}: expected one of {', '.join(WAYS)}, and stages of it")
        if not isinstance(named, (list, tuple)):
            raise BadInput(f"stash.{way}={written(named)}: expected stages as in [1, 2]")
        for stage in _checked(f"stash.{way}", named, stages):
            if seen.setdefault(stage, way) != way:
                raise BadInput(f"stash says {seen[stage]} and {way} of stage {stage}: choose one")
            found[stage] = way
    return tuple(found.values())


def _recomputed(recompute: Any, stages: int) -> frozenset[int]:
    if isinstance(recompute, bool):
        return frozenset(range(stages + 1)) if recompute else frozenset()
    if not isinstance(recompute, (list, tuple)):
        raise BadInput(f"recompute={recompute}: expected true, false, or stages as in [1, 2]")
    return frozenset(_checked("recompute", recompute, stages))


def _checked(key: str, named: Iterable[Any], stages: int) -> list[int]:
    named = list(named)
    for stage in named:
        if isinstance(stage, bool) or not isinstance(stage, int) or not 0 <= stage <= stages:
            raise BadInput(f"{key} names stage {stage}: this pipeline has 0 … {stages}")
    return named
