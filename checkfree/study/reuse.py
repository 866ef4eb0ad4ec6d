"""What an exact strategy repairs is what was lost, so its losses are those of the run without
failures: one seed is trained to prove it, and the others take the reference's curve.

What they met, and where they ended, is rehearsed: the same lead decides it as in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkfree.config.load import to_tree, to_yaml
from checkfree.core.config import Config
from checkfree.core.errors import RunFailed
from checkfree.core.participants import unequal
from checkfree.core.records import EndRecord, dumps, of_kind, recoveries
from checkfree.failures import render_trace
from checkfree.recovery.registry import spec_of
from checkfree.report.study.model import REFERENCE
from checkfree.runtime.folder import begin
from checkfree.session.rehearsal import rehearse
from checkfree.session.wired import with_choices
from checkfree.simulator.rehearse import Rehearsal
from checkfree.study.folders import Records, clear, differences, ended
from checkfree.study.plan import Cell

_OWN = ("recovery.", "failures.", "fleet.")

Rehearse = Callable[[Config], Rehearsal]


@dataclass(frozen=True)
class ReusedRun:
    """A cell that takes the curve of ``reference``, once ``proof`` was trained and proved equal to
    ``model``, the reference of its own seed."""

    cell: Cell
    reference: Cell
    proof: Cell
    model: Cell

    @property
    def needs(self) -> tuple[Cell, ...]:
        """What has to be done before."""
        return self.reference, self.proof, self.model


def reused_runs(cells: Sequence[Cell]) -> dict[str, ReusedRun]:
    """By place, the cells that need no training: all but the first of each exact strategy."""
    references = {cell.number: cell for cell in cells if cell.label == REFERENCE}
    proofs: dict[str, Cell] = {}
    found = {}
    for cell in cells:
        reference = references[cell.number]
        exact = spec_of(cell.config.recovery).exact  # its losses are known without training
        if not exact or not _is_alike(cell.config, reference.config):
            continue
        proof = proofs.setdefault(cell.label, cell)
        if proof is not cell:
            found[cell.place] = ReusedRun(cell, reference, proof, references[proof.number])
    return found


def _is_alike(one: Config, other: Config) -> bool:
    """But for recovery, failures and their clock."""
    found = differences(to_tree(one), to_tree(other))
    return all(key == "out" or key.startswith(_OWN) for key, _, _ in found)


def check_same_losses(proof: Cell, trained: Records, reference: Records) -> None:
    """Raise RunFailed, naming the iteration, unless each loss of ``trained`` is the reference's."""
    expected = _losses(reference)
    for step in of_kind(trained, "iteration"):
        iteration, loss = step["iteration"], step["loss"]
        if expected.get(iteration) == loss:
            continue
        apart = unequal((reference, trained))
        cause = (
            f"they were not trained with the same {', '.join(apart)}"
            if apart
            else "a bug, or a device that is not deterministic"
        )
        raise RunFailed(
            f"{proof}: loss {loss} at iteration {iteration}, {REFERENCE} has "
            f"{expected.get(iteration)}: {cause}; --train-redundant trains all seeds"
        )


def _losses(records: Records) -> dict[int, float | None]:
    return {step["iteration"]: step["loss"] for step in of_kind(records, "iteration")}


def has_whole_curve(reference: Records) -> bool:
    """The reference came to its end, so it has a loss for every iteration."""
    return ended(reference) == "done"


def reused_records(run: ReusedRun, reference: Records, made: Rehearsal) -> list[dict[str, Any]]:
    """The records of the cell that reuses: as rehearsed, with the reference's losses."""
    trained = to_tree(with_choices(run.cell.config))
    config = {**reference[0], "config": trained, "reused": run.reference.place}
    records: list[dict[str, Any]] = [config]
    filler = _Filler(reference)
    records += [filler.filled(json.loads(dumps(record))) for record in made.records]
    status = "failed" if made.reason else "done"
    steps = of_kind(records, "iteration")
    tick = steps[-1]["tick"] + 1 if steps else 0
    table = recoveries(records)
    end = EndRecord(status, len(steps), tick, made.reason, table)
    return [*records, json.loads(dumps(end))]


class _Filler:
    """Puts losses into rehearsed records, in their order."""

    def __init__(self, reference: Records):
        self._steps = {step["iteration"]: step for step in of_kind(reference, "iteration")}
        checks = [v for v in of_kind(reference, "validation") if not v["after_repair"]]
        self._checks: Mapping[int, float | None] = {v["iteration"]: v["loss"] for v in checks}
        self._last: float | None = None

    def filled(self, record: dict[str, Any]) -> dict[str, Any]:
        """A copy; real seconds stay empty, for nothing was trained."""
        match record["kind"]:
            case "iteration":
                step = self._steps[record["iteration"]]
                kept = {key: step.get(key) for key in ("loss", "tokens", "lr")}
                return {**record, **kept, "seconds": None}
            case "validation":
                loss = self._checks.get(record["iteration"])
                if loss is not None:
                    self._last = loss
                return {**record, "loss": loss, "seconds": None}
            case "recovery":
                return {**record, "validation_before": self._last, "seconds": None}
        return record


def write_reused(
    run: ReusedRun, reference: Records, rehearsed: Rehearse = rehearse
) -> list[dict[str, Any]]:
    """Write the run folder of the cell that reuses, and return its records. Raises RunFailed."""
    made = rehearsed(run.cell.config)
    records = reused_records(run, reference, made)
    folder = run.cell.folder
    clear(folder)
    config = to_yaml(with_choices(run.cell.config))
    begin(folder, config, render_trace(made.trace), map(json.dumps, records))
    return records
