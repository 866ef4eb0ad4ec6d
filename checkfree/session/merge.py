"""The average of a run's saved states: the call behind ``checkfree merge`` and
``checkfree.merge``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkfree.config.check import MOST
from checkfree.config.load import load_saved
from checkfree.config.places import moved
from checkfree.core.config import Config
from checkfree.core.errors import BadInput, at_least, one_of, within
from checkfree.core.records import read
from checkfree.core.units import render_bytes
from checkfree.messages.control import Purpose
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store, merged
from checkfree.session.assemble import make_worker_context
from checkfree.session.job import check_same, of_config, with_trace
from checkfree.session.memory import available
from checkfree.session.merging.averages import PipelineLoss, Weights, combined
from checkfree.session.merging.rules import (
    GENERATIONS,
    METRIC,
    PENALTY,
    POPULATION,
    RULES,
    SEARCH,
    UNIFORM,
    by_metric,
    search,
    trials,
    uniform,
)
from checkfree.session.merging.running import RUNNING
from checkfree.session.merging.states import held, keep, of_course, reader
from checkfree.session.merging.text import Parts, identities, parted, sizes_of
from checkfree.session.saved import MERGED_NAME, USER, Saved

MOST_TRIED = 10_000
"""Generations, and combinations of one, above which a number is a slip of the hand."""

Watch = Callable[[str, int], Callable[[], None]]
"""Begin a piece of so many steps; the result is called after each."""


@dataclass(frozen=True)
class Merged:
    """An average, as its manifest tells it. ``weights`` and ``losses`` are those of ``states``."""

    run: Path
    name: str
    rule: str
    states: tuple[Saved, ...]
    weights: tuple[float, ...]
    losses: tuple[float, ...] | None
    """Of each state by itself, in nats, on text that chose no weight; None: the run trained modules
    of your own, on batches that a command has not got."""
    loss: float | None
    """Of the average, on the same text."""
    chosen_by: int
    """Sequences of the validation text that chose the weights."""
    reported_on: int
    """Other sequences, which the losses are of."""

    @property
    def reference(self) -> str:
        """What ``init=`` takes."""
        return f"{self.run}@{self.name}"

    @property
    def folder(self) -> Path:
        """Where it stands: safetensors, one a stage, and a manifest."""
        return self.run / merged(self.name)

    def plain(self) -> dict[str, Any]:
        """As JSON can have it."""
        losses = self.losses or (None,) * len(self.states)
        rows = zip(self.states, self.weights, losses, strict=True)
        return {
            "reference": self.reference,
            "folder": str(self.folder),
            "rule": self.rule,
            "states": [
                {"iteration": s.iteration, "kind": s.kind, "weight": w, "loss": _number(loss)}
                for s, w, loss in rows
            ],
            "loss": self.loss,
            "sequences": {"chose": self.chosen_by, "reported": self.reported_on},
        }


def merge(
    run: Path | str,
    *,
    last: int = 5,
    rule: str = UNIFORM,
    to: str | None = None,
    penalty: float | None = None,
    generations: int | None = None,
    population: int | None = None,
    microbatches: int | None = None,
    overrides: Sequence[str] = (),
    allow: Collection[str] = (),
    watch: Watch = lambda label, steps: lambda: None,
) -> Merged:
    """Average the ``last`` states that a run has saved, and keep the average in its folder as
    ``merged/NAME``, which ``init=RUN@NAME`` begins from.

    ``rule``: ``uniform`` is the mean; ``metric`` weighs by validation loss, with a ``penalty`` a
    nat; ``search`` finds a linear combination by evolution, in so many ``generations`` of a
    ``population``. ``to`` is the name; the rule's, if none is given. The first ``microbatches`` of
    the validation text (twice ``validation.microbatches``) are halved: one half may choose the
    weights, every loss that is told is of the other one. ``overrides`` and ``allow`` are as in
    :func:`checkfree.resume`.

    A stage is in memory at a time, in two states and once in 64 bits; ``search`` holds all states'
    weights and the model.

    Raises BadInput, for too few states and for damaged ones too; RunFailed for a full disk.
    """
    name = _checked_name(to or rule, rule, last)
    options = _options(rule, penalty, generations, population)
    path = folders.existing(Path(run))
    config = moved(load_saved(path / folders.CONFIG, allow), overrides)
    with folders.locked(path):
        store = Store(DiskFiles(path))
        if name in store.merged():
            raise BadInput(
                f"{path / merged(name)} stands there already: give another --to NAME, or remove it"
            )
        states = _newest(path, last, config)
        work = _Work(path, store, states, rule, options, watch)
        if _users(path):
            weights, report = work.by_hand(), _Report()
        else:
            with settled(config.threads):
                weights, report = work.by_text(config, microbatches)
        made = Merged(path, name, rule, tuple(states), weights, *report.figures())
        _write(made, work.reads, report, store, options)
    return made


# --- what is asked for ---------------------------------------------------------------------------


def _checked_name(name: str, rule: str, last: int) -> str:
    one_of("--rule", rule, RULES)
    at_least("--last", last, 2)
    if name == RUNNING:
        raise BadInput(f"--to {name} is what average.every has a run make at its end: another one")
    if not re.fullmatch(MERGED_NAME, name):
        raise BadInput(
            f"--to {name}: expected a name of up to 64 letters, digits, dots and dashes that "
            "begins with a letter; the average is kept in the run's folder, as merged/NAME"
        )
    return name


def _options(
    rule: str, penalty: float | None, generations: int | None, population: int | None
) -> dict[str, Any]:
    """Of the rule. Raises BadInput for those of another one."""
    given: dict[str, dict[str, float | None]] = {
        METRIC: {"penalty": penalty},
        SEARCH: {"generations": generations, "population": population},
    }
    for whose, options in given.items():
        for key, value in options.items():
            if value is not None and whose != rule:
                raise BadInput(f"--{key} goes with --rule {whose}: leave it out of {rule}")
    if penalty is not None and not (math.isfinite(penalty) and penalty >= 0):
        raise BadInput(f"--penalty={penalty}: expected a number of at least 0, a nat")
    within("--generations", GENERATIONS if generations is None else generations, 0, MOST_TRIED)
    within("--population", POPULATION if population is None else population, 4, MOST_TRIED)
    defaults = {"penalty": PENALTY, "generations": GENERATIONS, "population": POPULATION}
    return {k: defaults[k] if v is None else v for k, v in given.get(rule, {}).items()}


def _newest(run: Path, last: int, config: Config) -> list[Saved]:
    """The states to merge, oldest first: one of an iteration, on the course that the run has taken
    after it went back. Raises BadInput if there are too few."""
    found = of_course(run)
    if len(found) >= last:
        return found[-last:]
    there = ", ".join(f"{state.iteration} ({state.kind})" for state in found)
    fewer = f"; or merge what is there: --last {len(found)}" if len(found) > 1 else ""
    raise BadInput(
        f"{run} has the states of {len(found)} iterations{f': {there}' if there else ''}; --last "
        f"{last} takes more, and resume.keep={config.resume.keep} of the snapshots stay: train it "
        f"with resume.keep={last} and resume.every=N{fewer}"
    )


def _users(run: Path) -> bool:
    records = read(run)
    return bool(records) and records[0].get("data", {}).get("name") == USER


# --- the work ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Report:
    losses: tuple[float, ...] | None = None
    loss: float | None = None
    chose: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()

    def figures(self) -> tuple[tuple[float, ...] | None, float | None, int, int]:
        return self.losses, self.loss, len(self.chose), len(self.reported)


class _Work:
    def __init__(
        self,
        run: Path,
        store: Store,
        states: Sequence[Saved],
        rule: str,
        options: Mapping[str, Any],
        watch: Watch,
    ):
        self._run, self._rule, self._options, self._watch = run, rule, options, watch
        self.reads = [reader(run, store, state) for state in states]

    def by_hand(self) -> tuple[float, ...]:
        """Weights without any text."""
        if self._rule != UNIFORM:
            raise BadInput(
                f"{self._run} trained modules of your own, on batches that a command has not got, "
                f"so nothing can be weighed by a loss: --rule {UNIFORM}"
            )
        return uniform(len(self.reads))

    def by_text(
        self, config: Config, microbatches: int | None
    ) -> tuple[tuple[float, ...], _Report]:
        """Weights, by the text that may choose them, and losses on the rest."""
        wanted = 2 * config.validation.microbatches if microbatches is None else microbatches
        within("--microbatches", wanted, 1, MOST["microbatches"])
        job = of_config(with_trace(config, self._run / folders.TRACE), self._run, (), whole=False)
        check_same(job, read(self._run))
        eager = replace(job.config, compile=False)  # nothing is trained
        context = make_worker_context(eager, job.blueprint, job.feeds)
        stages, count = job.blueprint.stages, len(self.reads)
        parts = parted(job.feeds[Purpose.VALIDATE], wanted)
        evaluation = PipelineLoss(context, stages)
        weights = uniform(count)
        if self._rule == METRIC:
            step = self._watch("losses of the states", count * evaluation.hops)
            losses = evaluation.losses(
                self.reads, parts.choosing, step, sizes=sizes_of(parts.choosing)
            )
            weights = by_metric(losses, self._options["penalty"])
        if self._rule == SEARCH:
            size = job.blueprint.parameters * (8 if config.precision == "fp64" else 4)
            self._check_room((count + 2) * size)
            here = [held(read, stages) for read in self.reads]
            weights = self._searched(PipelineLoss(context, stages, held=True), here, parts)
            del here
        several = [*self.reads, combined(self.reads, weights)]
        step = self._watch("losses to report", len(several) * evaluation.hops)
        *losses, loss = evaluation.losses(
            several, parts.reporting, step, sizes=sizes_of(parts.reporting)
        )
        if not math.isfinite(loss):
            raise BadInput(
                f"the average of these states has no finite loss, nothing was written: {self._run} "
                "has states that went too far; merge a run that was stopped before, or by --rule "
                f"{METRIC}"
            )
        chosen = identities(parts.choosing) if self._rule != UNIFORM else ()
        report = identities(parts.reporting)
        return weights, _Report(tuple(losses), loss, tuple(chosen), tuple(report))

    def _searched(
        self, evaluation: PipelineLoss, states: Sequence[Weights], parts: Parts
    ) -> tuple[float, ...]:
        sizes = sizes_of(parts.choosing)
        tried = trials(len(states), **self._options)
        step = self._watch("search", tried * evaluation.hops)

        def loss(weights: Sequence[float]) -> float:
            made = [combined(states, weights)]
            return evaluation.losses(made, parts.choosing, step, sizes=sizes)[0]

        return search(len(states), loss, evaluation.seed, **self._options).weights

    def _check_room(self, wanted: int) -> None:
        free = available()
        if wanted > free:
            raise BadInput(
                f"--rule {SEARCH} holds the weights of {len(self.reads)} states and the model, "
                f"{render_bytes(wanted)}, and {render_bytes(free)} of memory are available: "
                f"--last fewer, or --rule {METRIC}, which holds a stage at a time"
            )


def _write(
    made: Merged,
    reads: Sequence[Weights],
    report: _Report,
    store: Store,
    options: Mapping[str, Any],
) -> None:
    """Whole or not at all. Raises BadInput, RunFailed."""
    newest, stages = made.states[-1], int(read(made.run)[0]["config"]["stages"]) + 1
    note = {
        **made.plain(),
        "options": dict(options),
        "archives": [store.digest(state.area, state.shelf) for state in made.states],
        "chose": list(report.chose),
        "reported": list(report.reported),
        "progress": {"committed": newest.iteration, "tick": newest.tick},
    }
    keep(store, made.name, combined(reads, made.weights), stages, note)


def _number(loss: float | None) -> float | None:
    """JSON has no other ones."""
    return loss if loss is not None and math.isfinite(loss) else None
