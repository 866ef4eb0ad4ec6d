"""Which stages may be lost: a word or a list becomes stage numbers (semantics 7)."""

from __future__ import annotations

from typing import Any

from checkfree.core.errors import BadInput

WORDS = ("middle", "body", "all", "edges")


def target_stages(stages: Any, n: int) -> tuple[int, ...]:
    """The stages that ``stages`` names in a pipeline of body stages S1 … Sn, ascending, each once.

    ``middle`` is 2 … n-1, ``body`` 1 … n, ``all`` 0 … n, ``edges`` 1 and n; else a list of
    numbers. Raises BadInput for an unknown word, a stage out of range, or no stage at all.
    """
    found = _listed(stages, n) if isinstance(stages, (list, tuple)) else _named(stages, n)
    if not found:
        raise BadInput(
            f"failures.stages {stages!r} names no stage of 0 … {n}: name another, or turn "
            f"failures off with failures.scenario none"
        )
    return found


def _named(word: Any, n: int) -> tuple[int, ...]:
    named = {
        "middle": range(2, n),
        "body": range(1, n + 1),
        "all": range(n + 1),
        "edges": sorted({1, n}),
    }
    if not isinstance(word, str) or word not in named:
        raise BadInput(
            f"failures.stages is {word!r}, expected {', '.join(WORDS)} or a list such as [2, 3]"
        )
    return tuple(named[word])


def _listed(stages: list[Any] | tuple[Any, ...], n: int) -> tuple[int, ...]:
    for stage in stages:
        if type(stage) is not int or not 0 <= stage <= n:
            raise BadInput(
                f"failures.stages names {stage!r}, this pipeline has stages 0 … {n}: "
                f"name only those"
            )
    return tuple(sorted(set(stages)))
