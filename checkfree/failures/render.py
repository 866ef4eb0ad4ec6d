"""A trace as text: one line of figures, and a picture of stages by ticks for a terminal."""

from __future__ import annotations

from collections import Counter

from checkfree.failures.trace import Trace

_MANY = 10


def summary(trace: Trace) -> str:
    """``4 failures, ticks 3 … 91: S2 3, S4 1``"""
    if not trace:
        return "no failures"
    stages = Counter(failure.stage for failure in trace)
    counts = ", ".join(f"S{stage} {stages[stage]}" for stage in sorted(stages))
    noun = "failure" if len(trace) == 1 else "failures"
    first, last = trace[0].tick, trace[-1].tick
    span = f"tick {first}" if first == last else f"ticks {first} … {last}"
    return f"{len(trace)} {noun}, {span}: {counts}"


def picture(trace: Trace, *, stages: int, ticks: int, width: int = 80) -> str:
    """Stages S``stages`` … S0 down, ticks 0 … ``ticks`` - 1 across, squeezed into ``width``.

    ``x`` is one failure, ``2`` … ``9`` that many, ``+`` more; each row ends with its count::

        S2 ···x··········x·····  2
        S1 ········2···········  2
        S0 ····················  0
           0         20
        one column = 2 ticks

    Failures outside of these ticks or stages are counted in the last line.
    """
    shown = [f for f in trace if f.tick < ticks and f.stage <= stages]
    gutter, tail = len(f"S{stages} "), len(f"  {len(shown)}")
    per_column = max(1, -(-ticks // max(1, width - gutter - tail)))
    columns = -(-ticks // per_column)
    hits = Counter((failure.stage, failure.tick // per_column) for failure in shown)
    totals = Counter(failure.stage for failure in shown)
    rows = [
        f"{f'S{stage}':<{gutter}}"
        + "".join(_mark(hits[stage, column]) for column in range(columns))
        + f"{totals[stage]:>{tail}}"
        for stage in reversed(range(stages + 1))
    ]
    axis = " " * gutter + _axis(columns, per_column)
    caption = "one column = 1 tick" if per_column == 1 else f"one column = {per_column} ticks"
    if hidden := len(trace) - len(shown):
        caption += f"; {hidden} more outside of the picture"
    return "\n".join([*rows, axis, caption])


def _mark(count: int) -> str:
    if count >= _MANY:
        return "+"
    return "·x"[count] if count < 2 else str(count)


def _axis(columns: int, per_column: int) -> str:
    """Tick numbers, each starting under its own column, none running into the next or the edge."""
    step = max(10, 2 + len(str(columns * per_column)))
    labels = {column: str(column * per_column) for column in range(0, columns, step)}
    fitting = [label for column, label in labels.items() if column + len(label) <= columns]
    return "".join(label.ljust(step) for label in fitting).rstrip()
