"""What a comparison is asked for: on the command line, or under ``compare:`` in the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkfree.config.load import as_section, split
from checkfree.core.errors import BadInput, within
from checkfree.plugins import known
from checkfree.recovery.registry import STRATEGIES
from checkfree.report.study.model import REFERENCE

MOST = 1000
"""Seeds, and runs at a time."""

LIST = ("strategies", "rates", "devices")
"""Options that may be given as one text with commas."""


@dataclass(frozen=True)
class Options:
    """The section ``compare:`` of a configuration."""

    strategies: tuple[str, ...] = ("auto", "checkpoint", "redundant", "checkfree", "checkfree_plus")
    """Names of strategies, or variants such as ``checkpoint(interval=25)``. ``no_failure`` is the
    reference: it comes first whether named or not."""

    rates: tuple[float, ...] = ()
    """Failures per stage and hour of the simulated clock, in percent, in [0, 100). Empty: the
    configuration's own failures."""

    seeds: int = 1
    """How many: the configuration's seed, and those after it."""

    out: str = "runs/compare-{name}"
    """Folder of the comparison; ``{name}`` becomes the configuration's file name."""

    results: str | None = None
    """Folder for compact records of finished runs; what stands there need not be trained."""

    workers: int | None = None
    """Runs at a time. None: one per core (or device, if ``devices`` are given)."""

    devices: tuple[str, ...] = ()
    """Each run gets one of these; empty: what the configuration says."""

    target: float | None = None
    """Validation loss to reach, in nats per token."""

    title: str | None = None
    """Of the report."""

    train_redundant: bool = False
    """Train exact strategies, as redundant computation, for every seed, though their losses are the
    reference's."""


def make_options(section: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """``given`` (what is None in it was not) over the file's section. Raises BadInput."""
    tree = {**section, **{key: value for key, value in given.items() if value is not None}}
    for key in LIST:
        if isinstance(tree.get(key), str):
            tree[key] = split(tree[key])
        elif isinstance(tree.get(key), (int, float)):
            tree[key] = [tree[key]]
        elif tree.get(key, ()) is None:
            del tree[key]
    tree["rates"] = [_percent(rate) for rate in tree.get("rates", ())]
    options: Options = as_section(tree, Options, "compare.")
    _check(options)
    return options


def _percent(rate: Any) -> float:
    try:
        return float(rate)
    except (TypeError, ValueError):
        raise BadInput(f"rates has {rate!r}, expected percent, as in rates=5,10,16") from None


def _check(options: Options) -> None:
    for key in ("seeds", "workers"):
        value = getattr(options, key)
        if value is not None:
            within(key, value, 1, MOST)
    if not options.strategies:
        raise BadInput("strategies is empty: name one, as in strategies=checkfree,checkpoint")
    for rate in options.rates:
        if not (math.isfinite(rate) and 0 <= rate < 100):
            raise BadInput(
                f"rates has {rate:g}, expected percent per stage and hour, from 0 to below 100: "
                "10 % is written 10"
            )
    _check_twice("rates", [f"{rate:g}" for rate in options.rates])
    _check_twice("strategies", options.strategies)
    _check_devices(options.devices)


def _check_twice(key: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise BadInput(f"{key} names {twice[0]} twice: leave one out")


def _check_devices(devices: Sequence[str]) -> None:
    for device in devices:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise BadInput(f"devices: {device!r} is none: expected cpu, cuda or cuda:0")
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise BadInput(
            f"devices {', '.join(devices)}: a CPU and a GPU don't give the same numbers, so their "
            "runs can't be compared: name devices of one kind"
        )


def check_names(strategies: Sequence[str]) -> None:
    """Raise BadInput for a strategy that nobody offers."""
    for label in strategies:
        match = re.fullmatch(r"([\w.:-]+)(\(.*\))?", label)
        name = "" if match is None else match[1]
        if name != REFERENCE and not known("recovery.name", name, STRATEGIES):
            names = ", ".join((REFERENCE, *STRATEGIES))
            raise BadInput(f"unknown strategy {label}: known are {names}; or NAME(key=value, …)")
        if match is not None and name == REFERENCE and match[2] is not None:
            raise BadInput(f"{label}: the reference takes no options; set them for all runs")
