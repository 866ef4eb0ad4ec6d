"""A comparison without training: what each strategy would take on a fleet, over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.table import Table

from checkfree.core.cost import SECONDS, Priced
from checkfree.core.units import render_bytes, render_seconds
from checkfree.session.rehearsal import rehearse
from checkfree.study.plan import Cell


@dataclass(frozen=True)
class Row:
    """One strategy at one rate; ``runs`` by seed."""

    label: str
    rate: float | None
    runs: tuple[Priced, ...]
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


def simulate(cells: Sequence[Cell], listener: Callable[[Cell], object] = bool) -> list[Row]:
    """Rehearse every cell. Raises BadInput for what no run can be made of."""
    found: dict[tuple[str, float | None], list[tuple[Priced, int]]] = {}
    for cell in cells:
        listener(cell)
        made = rehearse(cell.config)
        found.setdefault((cell.label, cell.rate), []).append((made.priced, len(made.trace)))
    return [
        Row(label, rate, tuple(p for p, _ in runs), mean(n for _, n in runs))
        for (label, rate), runs in found.items()
    ]


def table(rows: Sequence[Row]) -> Table:
    """Time, where it went, and what is sent and stored."""
    first = rows[0].runs[0]
    made = Table(title=f"On the fleet {first.fleet}, {first.nodes} nodes", title_justify="left")
    made.add_column("strategy", overflow="fold")
    columns = ["failures", "s/iteration", "hours", *SECONDS, "recovery", "sent/iteration", "held"]
    columns += [] if first.price is None else ["cost"]
    for column in columns:
        made.add_column(column, justify="right")
    made.add_column("ended")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    runs = row.runs
    rate = "" if row.rate is None else f" {row.rate:g} %/h"
    recoveries = [seconds for run in runs for seconds in run.recoveries]
    sent = mean(sum(run.bytes.values()) / max(1, len(run.ends)) for run in runs)
    held = max(sum(run.stored.values()) for run in runs)
    costs = [run.cost for run in runs if run.cost is not None]
    return [
        row.label + rate,
        f"{row.failures:.1f}",
        f"{row.seconds_per_iteration:.2f}",
        f"{mean(run.total for run in runs) / 3600:.2f}",
        *(_percent(row.share(kind)) for kind in SECONDS),
        render_seconds(mean(recoveries)) if recoveries else "–",
        render_bytes(sent),
        render_bytes(held),
        *([f"{mean(costs):.2f}"] if costs else []),
        _ended(runs),
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share else "–"


def _ended(runs: Sequence[Priced]) -> str:
    early = [run for run in runs if run.reason]
    if not early:
        return ""
    return f"{len(early)} of {len(runs)}; first: {early[0].reason}"


def to_json(rows: Sequence[Row]) -> str:
    """All figures, for other programs."""
    return json.dumps([_plain(row) for row in rows], indent=1)


def _plain(row: Row) -> Mapping[str, Any]:
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
