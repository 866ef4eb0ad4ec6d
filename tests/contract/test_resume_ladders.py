"""A run with shadows that is stopped and resumed is the run that was never stopped, bit for bit:
what seats hold for each other is in the snapshot too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.core.records import Record, of_kind
from tests.chaos import SOAK
from tests.contract.small import small, text, trace

STOPPED = 11
LOSSES = ((7, 2), (10, 4), (13, 0), (17, 1))


class Stopped(Exception):
    """In the midst of a run."""


LATE = ((7, 2), (10, 4), (15, 0), (16, 3), (18, 1))
"""Stage 1 goes on from a change, sent after the resume, of what it had pushed before."""
AGAIN = ((7, 4), (13, 4), (18, 1))
"""Stage 4 goes on from a change, sent after the resume, of what it restarted from before."""
FILED = ((9, 1),)
"""Stage 1 is moved on along a change that is nowhere but in the snapshot."""
CHANGES = {"name": "shadow", "shadow_every": 5, "shadow_format": "signs", "shadow_ahead": 1.0}
FITTED = ((5, 2), (9, 2), (10, 3), (12, 2), (17, 3))


def stop(record: Record) -> None:
    if record.kind == "iteration" and getattr(record, "tick", -1) == STOPPED:
        raise Stopped


@pytest.mark.parametrize("replicas", [1, 2] if SOAK else [2])
@pytest.mark.parametrize(
    ("recovery", "wire", "losses", "rule"),
    [
        ({"name": "auto", "shadow_every": 6, "log_memory": 0}, "fp32", LOSSES, "shadow"),
        (
            {"name": "shadow", "shadow_every": "auto", "shadow_format": "int4"},
            "fp32",
            LOSSES,
            "shadow",
        ),
        (CHANGES, "fp32", LATE, "shadow"),
        (CHANGES, "fp32", AGAIN, "shadow"),
        (CHANGES, "fp32", FILED, "shadow"),
        ({"name": "fit", "fit_steps": 16}, "int8", FITTED, "fitted average"),
        ({"name": "fit", "fit_steps": 16, "fit_memory": 16000}, "fp32", FITTED, "fitted average"),
    ],
)
def test_resumed(
    tmp_path: Path,
    recovery: dict[str, Any],
    wire: str,
    losses: tuple[tuple[int, int], ...],
    rule: str,
    replicas: int,
) -> None:
    changes = (
        {"recovery": recovery, "replicas": replicas, "resume": {"every": 4}},
        {"failures": {"scenario": trace(tmp_path / "losses.json", *losses)}},
        {"wire": {"activations": wire}},
        text(tmp_path / "text"),
    )
    whole = checkfree.train(small(tmp_path / "whole", *changes))
    with pytest.raises(Stopped):
        checkfree.train(small(tmp_path / "cut", *changes), listeners=[stop])
    again = checkfree.resume(tmp_path / "cut")
    assert whole.status == again.status == "done", again.reason
    assert [r["tick"] for r in of_kind(again.records, "resume")] == [8]
    assert again.losses == whole.losses
    kinds = ("rule", "sources", "ahead", "check")
    one, other = (
        [
            {seat: [made.get(k) for k in kinds] for seat, made in record["rebuilds"].items()}
            for record in of_kind(run.records, "recovery")
        ]
        for run in (whole, again)
    )
    assert one == other
    assert {made[0] for repair in one for made in repair.values()} == {rule}
