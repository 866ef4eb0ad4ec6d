"""The runs of a study by strategy and rate, each seed beside the reference's run of that seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from checkfree.core.records import of_kind
from checkfree.report.study.model import REFERENCE, Entry, Study
from checkfree.report.study.run_series import Floats, RunSeries, run_of


@dataclass(frozen=True)
class Group:
    """All seeds of one strategy at one rate."""

    label: str
    rate: float | None
    runs: tuple[RunSeries, ...]

    @property
    def is_reference(self) -> bool:
        return self.label == REFERENCE

    @property
    def lost(self) -> tuple[RunSeries, ...]:
        """Runs that the strategy could not save."""
        return tuple(run for run in self.runs if not run.saved)

    @property
    def unfinished(self) -> tuple[RunSeries, ...]:
        return tuple(run for run in self.runs if not run.finished)


@dataclass(frozen=True)
class Book:
    """A study, sorted. ``rates`` is ``(None,)`` if no entry has one."""

    study: Study
    groups: tuple[Group, ...]
    rates: tuple[float | None, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The reference first, then as they came."""
        found = dict.fromkeys(group.label for group in self.groups)
        return tuple(sorted(found, key=lambda label: label != REFERENCE))

    def at(self, rate: float | None) -> tuple[Group, ...]:
        """The groups to show together at ``rate``: a strategy without failures belongs to each."""
        shown = {g.label: g for g in self.groups if g.rate is None}
        shown |= {g.label: g for g in self.groups if g.rate == rate}
        return tuple(shown[label] for label in self.labels if label in shown)

    def reference(self, run: RunSeries) -> RunSeries | None:
        """The reference's run of the same seed, at the same rate if there is one for each."""
        entry = run.entry
        twins = {
            (other.entry.rate, other.entry.seed): other
            for group in self.groups
            if group.is_reference
            for other in group.runs
        }
        return twins.get((entry.rate, entry.seed), twins.get((None, entry.seed)))

    @property
    def references(self) -> tuple[RunSeries, ...]:
        """One a seed."""
        runs = [run for group in self.groups if group.is_reference for run in group.runs]
        return tuple({run.entry.seed: run for run in reversed(runs)}.values())

    @cached_property
    def may_fail(self) -> Mapping[str, str]:
        """Labels whose stages may fail where most others' may not, with a word on which."""
        stages = {}
        for group in self.groups:
            failures = config_of(group.runs[0].entry).get("failures") or {}
            if not group.is_reference and failures.get("stages") is not None:
                stages[group.label] = str(failures["stages"])
        if len(set(stages.values())) < 2:
            return {}
        usual = Counter(stages.values()).most_common(1)[0][0]
        return {label: found for label, found in stages.items() if found != usual}

    def name(self, label: str) -> str:
        """A strategy's name as every table and plot shows it."""
        return (
            f"{label} · only {self.may_fail[label]} may fail" if label in self.may_fail else label
        )


def book(study: Study) -> Book:
    """Sort a study's entries. An entry given twice counts once, as it was given last."""
    runs: dict[tuple[str, float | None], dict[int, RunSeries]] = {}
    for entry in study.entries:
        runs.setdefault((entry.label, entry.rate), {})[entry.seed] = run_of(entry)
    groups = [
        Group(label, rate, tuple(found[seed] for seed in sorted(found)))
        for (label, rate), found in runs.items()
    ]
    groups.sort(key=lambda g: (not g.is_reference, -1.0 if g.rate is None else g.rate))
    rates = sorted({group.rate for group in groups if group.rate is not None})
    return Book(study, tuple(groups), tuple(rates) or (None,))


def rate_name(rate: float | None) -> str:
    """As a reader should see it."""
    return "as configured" if rate is None else f"{rate:g} % per hour"


def config_of(entry: Entry) -> Mapping[str, Any]:
    """What the run was told; empty if its records do not say."""
    found = of_kind(entry.records, "config")
    return dict(found[0].get("config") or {}) if found else {}


def shared(lines: Iterable[tuple[Floats, Floats]]) -> Sequence[float]:
    """The places that all of ``lines`` have, up to where the first of them ended."""
    found = [set(x.tolist()) for x, _ in lines]
    return sorted(set.intersection(*found)) if found else []
