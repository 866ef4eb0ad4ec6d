"""A comparison without training: what each strategy would take on a fleet, over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from checkfree.config.load import build, source_of
from checkfree.config.parts import running
from checkfree.core.config import Config
from checkfree.core.cost import Priced
from checkfree.plugins import packages
from checkfree.session.rehearsal import rehearse
from checkfree.study.options import check_names, make_options
from checkfree.study.plan import Cell, base, plan


@dataclass(frozen=True)
class Simulation:
    """One strategy at one rate."""

    label: str
    """The strategy as it was asked for."""
    rate: float | None
    """Failures per stage and hour in percent; None: the configuration's own, or none."""
    runs: tuple[Priced, ...]
    """By seed: seconds, bytes and cost, where they went, and why the run ended early if it did."""
    failures: float
    """Losses a run, on average."""

    @property
    def seconds_per_iteration(self) -> float:
        """Of the whole clock, per iteration that the weights keep."""
        return mean(run.total / max(1, len(set(run.iterations))) for run in self.runs)

    def share(self, kind: str) -> float:
        """Of the clock that went into one class."""
        return mean(
            run.seconds.get(kind, 0.0) / run.total if run.total else 0.0 for run in self.runs
        )


def simulate(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    strategies: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int = 1,
    words: Sequence[str] = (),
    allow: Collection[str] = (),
    watch: Callable[[Cell], object] | None = None,
) -> list[Simulation]:
    """What runs would take on ``fleet.name``, without training: the lead that trains, with workers
    that hold nothing. One per strategy and rate; without ``strategies`` the configuration's own.

    ``config``, ``strategies``, ``rates`` (in percent per stage and hour) and ``allow`` are as
    :func:`checkfree.compare` takes them, ``words`` are ``key=value`` over the configuration, and
    ``watch`` is called before each run. Raises BadInput for what no run can be made of.
    """
    source = source_of(config)
    tree = base(source, words)
    own = build(tree).recovery.name
    given = {
        "strategies": strategies or ["no_failure" if own == "none" else own],
        "rates": rates,
        "seeds": seeds,
    }
    options = make_options({}, given)
    check_names(options.strategies)
    may = {*allow, *packages((*words, *options.strategies))}
    if isinstance(config, Config):
        may |= running(config)
    found: dict[tuple[str, float | None], list[tuple[Priced, int]]] = {}
    for cell in plan(tree, options, Path("simulated"), may):
        if watch is not None:
            watch(cell)
        made = rehearse(cell.config)
        found.setdefault((cell.label, cell.rate), []).append((made.priced, len(made.trace)))
    return [
        Simulation(label, rate, tuple(p for p, _ in runs), mean(n for _, n in runs))
        for (label, rate), runs in found.items()
    ]


def to_json(rows: Sequence[Simulation]) -> str:
    """All figures, for other programs."""
    return json.dumps([_plain(row) for row in rows], indent=1)


def _plain(row: Simulation) -> Mapping[str, Any]:
    return {
        "strategy": row.label,
        "rate": row.rate,
        "failures": row.failures,
        "seconds_per_iteration": row.seconds_per_iteration,
        "runs": [
            {
                "hours": run.total / 3600,
                "ticks": len(run.ends),
                "iterations": len(set(run.iterations)),
                "goodput": run.goodput,
                "seconds": dict(run.seconds),
                "bytes": dict(run.bytes),
                "stored": dict(run.stored),
                "recoveries": list(run.recoveries),
                "cost": run.cost,
                "ended": run.reason,
            }
            for run in row.runs
        ],
    }
