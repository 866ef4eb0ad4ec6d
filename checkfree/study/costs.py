"""What losses cost inexact strategies in nats: read from the tables of a finished comparison."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from checkfree.config.load import split
from checkfree.core.errors import BadInput
from checkfree.report.study.csvs import SUMMARY

SUMMARY_FILE = "summary.csv"


@dataclass(frozen=True)
class LossCosts:
    """Nats that losses cost in one study. ``nats``: by strategy, what one loss adds to the
    validation loss, summed over the iterations in which it does; so a run's mean gap is that times
    its losses an iteration. ``noise``: of one validation reading; smaller gaps are none."""

    nats: Mapping[str, float]
    noise: float

    def gap(self, label: str, losses: float) -> float | None:
        """Expected mean gap in nats, with so many losses an iteration; None: nothing is known."""
        found = self.nats.get(label)
        return None if found is None else found * losses


def read_costs(folder: Path) -> LossCosts:
    """From the ``summary.csv`` that a comparison's report has, over all rates and seeds of a
    strategy. Raises BadInput for a folder without one, or without gaps."""
    rows = _rows(folder / SUMMARY_FILE, folder)
    gaps: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        gap, seeds, until, lost = (
            _number(row, key, folder)
            for key in ("gap", "gap_seeds", "compared_to_iteration", "failures_per_run")
        )
        if not any(map(math.isnan, (gap, seeds, until, lost))) and lost > 0 and until > 0:
            gaps[without_failures(row["label"])].append((gap * seeds, lost / until * seeds))
    nats = {
        label: sum(gap for gap, _ in found) / sum(often for _, often in found)
        for label, found in gaps.items()
    }
    if not nats:
        raise BadInput(
            f"--costs {folder}: no strategy of it has both losses and a gap to no_failure: give "
            "the results of a comparison in which stages were lost"
        )
    noises = [_number(row, "reading_noise", folder) for row in rows]
    return LossCosts(nats, max((n for n in noises if math.isfinite(n)), default=0.0))


def without_failures(label: str) -> str:
    """``auto(shadow_every=9,failures.probability=0.01)`` -> ``auto(shadow_every=9)``: what a
    strategy is, without what it was to lose."""
    name, bracket, options = label.partition("(")
    kept = [word for word in split(options.removesuffix(")")) if not word.startswith("failures")]
    return f"{name}({','.join(kept)})" if bracket and kept else name


def _rows(path: Path, folder: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            missing = [name for name in SUMMARY if name not in (reader.fieldnames or ())]
            if not missing:
                return list(reader)
    except FileNotFoundError:
        raise BadInput(
            f"--costs {folder} holds no {SUMMARY_FILE}: give the folder that checkfree compare "
            "or checkfree report wrote"
        ) from None
    except OSError as error:
        raise BadInput(f"--costs {path} cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"--costs {path} is no table of a comparison: {error}") from None
    raise BadInput(f"--costs {path} is no table of a comparison: it has no column {missing[0]}")


def _number(row: Mapping[str, str], key: str, folder: Path) -> float:
    """NaN where nothing is known."""
    try:
        return float(row[key] or "nan")
    except ValueError:
        raise BadInput(
            f"--costs {folder / SUMMARY_FILE}: {key} of {row['label']} is {row[key]!r}, expected "
            "a number"
        ) from None
