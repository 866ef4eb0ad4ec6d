"""What ``checkfree profile`` measured: seconds of every op on one machine. Read and checked.

A profile is a small JSON file::

    {"format": 1, "checkfree": "0.1.0", "device": "cpu", "precision": "fp32", "threads": 1,
     "sizes": {"batch": 2, "context": 128, "width": 96, "blocks_per_stage": 2, "vocabulary": 257},
     "seconds": {"embed": {"forward": 1e-4, "backward": 2e-4, "shadow": 1e-4},
                 "body": {..., "input": 1e-4, "weights": 1e-4}, "head": {...},
                 "step": {"edge": 1e-3, "body": 2e-3},
                 "iteration_overhead": 5e-3, "message_overhead": 2e-5},
     "bytes_per_second": {"copy": 1e9, "store": 2e8}}

``input`` and ``weights`` are the halves of a split backward; older profiles have none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput

FORMAT = 1
SIZES = ("batch", "context", "width", "blocks_per_stage", "vocabulary")


@dataclass(frozen=True)
class PartSeconds:
    """Of one microbatch, in seconds."""

    forward: float
    backward: float
    shadow: float
    """A forward that keeps nothing for a backward."""
    halves: tuple[float, float] | None = None
    """Of a split backward: the gradient by the input, and that by the weights. None: not measured,
    or of what is not split."""


@dataclass(frozen=True)
class Profile:
    """Seconds; ``step_*`` of an optimizer step with its clipping, ``iteration_overhead`` of all
    that is no op, messages included."""

    embed: PartSeconds
    body: PartSeconds
    head: PartSeconds
    step_edge: float
    step_body: float
    iteration_overhead: float = 0.0
    message_overhead: float = 0.0
    """What one message more adds to an iteration; part of ``iteration_overhead``."""
    copy: float = math.inf
    """Bytes per second of a state that is copied and taken over."""
    store: float = math.inf
    """Bytes per second of a checkpoint that is written to disk, checksums included."""
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of what was measured: see ``SIZES``."""


def read_profile(path: Path) -> Profile:
    """A file that ``checkfree profile`` wrote. Raises BadInput for any other."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return parse_profile(tree)
    except OSError as error:
        raise BadInput(f"fleet.profile={path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"fleet.profile={path}: no profile ({reason}): write one by checkfree profile CONFIG"
        ) from None


def parse_profile(tree: Any) -> Profile:
    """A profile of plain data. Raises ValueError, saying what is missing or wrong."""
    found = _at(tree, "format")
    if found != FORMAT:
        raise ValueError(f"format is {found!r}, expected {FORMAT}")
    rates = "bytes_per_second"
    return Profile(
        embed=_part(tree, "embed"),
        body=_part(tree, "body"),
        head=_part(tree, "head"),
        step_edge=_seconds(tree, "seconds", "step", "edge"),
        step_body=_seconds(tree, "seconds", "step", "body"),
        iteration_overhead=_seconds(tree, "seconds", "iteration_overhead"),
        message_overhead=_seconds(tree, "seconds", "message_overhead"),
        copy=_rate(tree, rates, "copy"),
        store=_rate(tree, rates, "store"),
        device=_text(tree, "device"),
        precision=_text(tree, "precision"),
        threads=_count(tree, "threads"),
        sizes={name: _count(tree, "sizes", name) for name in SIZES},
    )


def _part(tree: Any, part: str) -> PartSeconds:
    forward, backward, shadow = (
        _seconds(tree, "seconds", part, name) for name in ("forward", "backward", "shadow")
    )
    if not {"input", "weights"} & _at(tree, "seconds", part).keys():
        return PartSeconds(forward, backward, shadow)
    both = _seconds(tree, "seconds", part, "input"), _seconds(tree, "seconds", part, "weights")
    return PartSeconds(forward, backward, shadow, both)


def _seconds(tree: Any, *keys: str) -> float:
    value = _number(tree, *keys)
    if value < 0:
        raise ValueError(f"{'.'.join(keys)} is {value:g}, expected no time below 0")
    return value


def _rate(tree: Any, *keys: str) -> float:
    value = _number(tree, *keys)
    if value <= 0:
        raise ValueError(f"{'.'.join(keys)} is {value:g}, expected a rate above 0")
    return value


def _number(tree: Any, *keys: str) -> float:
    value = _at(tree, *keys)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{'.'.join(keys)} is {_short(value)}, expected a finite number")
    return float(value)


def _count(tree: Any, *keys: str) -> int:
    value = _at(tree, *keys)
    if type(value) is not int or value < 1:
        raise ValueError(f"{'.'.join(keys)} is {_short(value)}, expected a whole number from 1 up")
    return value


def _text(tree: Any, key: str) -> str:
    value = _at(tree, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {_short(value)}, expected text")
    return value


def _at(tree: Any, *keys: str) -> Any:
    for place, key in enumerate(keys):
        if not isinstance(tree, Mapping):
            where = ".".join(keys[:place]) or "the file"
            raise ValueError(f"{where} is {_short(tree)}, expected an object")
        if key not in tree:
            raise ValueError(f"it has no {'.'.join(keys[: place + 1])}")
        tree = tree[key]
    return tree


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
