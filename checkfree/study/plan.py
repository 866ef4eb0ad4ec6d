"""What a comparison consists of: a cell per strategy, rate and seed, each a configuration.

Pure, and without torch. Cells of one seed have the same weights, data and failures; what may
differ between strategies is what their variants say, and never what they are compared on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkfree.config.check import check_data_keys
from checkfree.config.load import ConfigSource, build, expand, over, parse_words
from checkfree.config.parts import permitted
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.report.study.model import REFERENCE
from checkfree.study.options import Options

RUNS = "runs"

SHARED = (
    "seed",
    "iterations",
    "out",
    "stages",
    "microbatches",
    "batch",
    "devices",
    "precision",
    "threads",
    "model",
    "data",
    "validation",
)
"""Keys that no variant may set: with another value the curves could not be compared."""

RATES = ("scenario", "probability", "rate_per_hour")

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    rate: float | None
    """In percent per stage and hour; None: the configuration's own failures, or none."""
    number: int
    """Of the seed, from 0."""
    config: Config

    @property
    def place(self) -> str:
        """Where it stands in a folder of runs: ``checkfree/rate-10/seed-0``."""
        return place(self.label, self.rate, self.number)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.config.out)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", {self.rate:g} %/h"
        return f"{self.label}{rate}, seed {self.number}"


def place(label: str, rate: float | None, number: int) -> str:
    """The path of a cell below a folder of runs or results."""
    parts = [slug(label), *([] if rate is None else [f"rate-{rate:g}"]), f"seed-{number}"]
    return "/".join(parts)


def slug(label: str) -> str:
    """A label as a file name: ``checkpoint(interval=25)`` -> ``checkpoint-interval-25``."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def labels(strategies: Sequence[str]) -> tuple[str, ...]:
    """The reference first, then the others in the order in which they were asked for. Raises
    BadInput if two of them would share a folder."""
    ordered = (REFERENCE, *(label for label in strategies if label != REFERENCE))
    slugs = [slug(label) for label in ordered]
    for label, name in zip(ordered, slugs, strict=True):
        if slugs.count(name) > 1:
            raise BadInput(f"strategies has {label} twice, spelled differently: leave one out")
    return ordered


def base(source: ConfigSource, words: Sequence[str]) -> dict[str, Any]:
    """The configuration that all cells derive from, as nested mappings."""
    return over(source.tree, expand(parse_words(words)))


def plan(
    tree: Mapping[str, Any], options: Options, out: Path, allow: Collection[str] = ()
) -> tuple[Cell, ...]:
    """All cells, seed by seed, the reference first: so what is done when a comparison is stopped
    early are whole seeds. ``tree``: see :func:`base`; ``allow``: see
    :func:`checkfree.config.load.load`. Raises BadInput for values that no run can take."""
    columns = _columns(tree, options)
    made = []
    for number in range(options.seeds):
        for (label, rate), config in columns.items():
            folder = out / RUNS / place(label, rate, number)
            config = seeded(replace(permitted(config, allow), out=str(folder)), number)
            made.append(Cell(label, rate, number, _placed(config, options.devices)))
    return tuple(made)


def _columns(tree: Mapping[str, Any], options: Options) -> dict[tuple[str, float | None], Config]:
    """The configurations of the first seed by label and rate, those without a rate first."""
    ordered = labels(options.strategies)
    variants = {label: variant(label) for label in ordered}
    free = [label for label in ordered if not options.rates or has_no_failures(variants[label])]
    columns: dict[tuple[str, float | None], Config] = {
        (label, None): _config(tree, label, variants[label]) for label in free
    }
    for rate in options.rates:
        drawn = {**tree, "failures": clock(tree.get("failures") or {}, rate)}
        for label in ordered:
            if label not in free:
                _check_no_rate(label, variants[label])
                columns[label, rate] = _config(drawn, label, variants[label])
    return columns


def _config(tree: Mapping[str, Any], label: str, above: Mapping[str, Any]) -> Config:
    if has_no_failures(above):
        tree = {key: value for key, value in tree.items() if key != "failures"}
    try:
        config = build(over(tree, above))
        check_data_keys(config.data)
        return config
    except BadInput as error:
        if not above or label == REFERENCE:
            raise
        raise BadInput(f"{label}: {error}") from None


def variant(label: str) -> dict[str, Any]:
    """What a strategy sets: ``checkpoint(interval=25)`` -> name and interval. Raises BadInput if
    that is something that all runs of a comparison share."""
    if label == REFERENCE:
        return {"recovery": {"name": "none"}, "failures": {"scenario": "none"}}
    above = expand(parse_words([f"recovery={label}"]))
    for key in SHARED:
        if key in above:
            raise BadInput(
                f"{label} sets {key}, which all strategies of a comparison share: set it for all, "
                f"as in {key}=… behind the strategies"
            )
    return above


def has_no_failures(above: Mapping[str, Any]) -> bool:
    """A variant that runs undisturbed, ``X(failures=none)``: it is the same at any rate."""
    failures = above.get("failures")
    return isinstance(failures, Mapping) and failures.get("scenario") == "none"


def clock(failures: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """A section of failures with its own rate replaced by one on the simulated clock."""
    kept = {key: value for key, value in failures.items() if key not in RATES}
    return {**kept, "scenario": "clock", "rate_per_hour": rate / 100}


def _check_no_rate(label: str, above: Mapping[str, Any]) -> None:
    for key in RATES:
        if key in (above.get("failures") or {}):
            raise BadInput(
                f"{label} sets failures.{key}, and so do rates: leave one out; failures.stages and "
                "failures=none are what a variant may set beside rates"
            )


def seeded(config: Config, number: int) -> Config:
    """The configuration for the seed of that number, from 0."""
    own = config.failures.seed
    failures = replace(config.failures, seed=None if own is None else own + number)
    return replace(config, seed=config.seed + number, failures=failures)


def _placed(config: Config, devices: Sequence[str]) -> Config:
    """The pool shows each child one device, so all configurations are the same."""
    return replace(config, devices=(devices[0].partition(":")[0],)) if devices else config
