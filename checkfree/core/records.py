"""The frozen records of a run, one JSON object a line in ``records.jsonl``.

This is all that a report may read, so whatever a reader should know stands here. A record is
written when it happened; ``seconds`` are filled in by the runtime, which alone has a clock.
Ticks, iterations and epochs are those of the semantics: an iteration trained again after a
rollback appears again, with a higher tick.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Recipe

RECORDS = "records.jsonl"
LEADS_OWN = ("plan", "iteration", "validation", "failure", "recovery")
"""Kinds of records that the lead makes, which it counts."""


SPARSE = {"sparse": True}
"""Of a field that is not written where it is empty: records of older versions lack it, too."""


@dataclass(frozen=True)
class Record:
    """One line. ``kind`` names its class."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class ConfigRecord(Record):
    """First line of a run: all that it takes to run it again. ``text`` has the counts of
    ``TextCounts``: what was read of the data, skipped, dropped; {} where nobody counted."""

    kind = "config"
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    data: Mapping[str, Any]
    parameters: int
    init: Mapping[str, Any] = field(default_factory=dict, metadata=SPARSE)
    """The run whose state it begins with, see :mod:`checkfree.session.initial`."""
    text: Mapping[str, Any] = field(default_factory=dict, metadata=SPARSE)
    notes: Sequence[str] = field(default=(), metadata=SPARSE)
    """What there is to know of its stages, and of its strategy for them, a line each."""
    unread: Sequence[str] = field(default=(), metadata=SPARSE)
    """Tensors in the folder of the model that it begins with which the model has no place for."""
    unsplit: Sequence[int] = field(default=(), metadata=SPARSE)
    """Stages whose backwards are whole, for they can't be split as the schedule would."""
    stash: str = field(default="", metadata=SPARSE)
    """What ``stash=auto`` has become, in a line; "": it was not given."""


def render_unread(names: Sequence[str]) -> str:
    """A line on tensors of a model's folder that it has no place for; "" if there are none."""
    if not names:
        return ""
    told = "a tensor" if len(names) == 1 else f"{len(names)} tensors"
    return (
        f"{told} of the model's folder, as {names[0]}, not read: the model that its config.json "
        "tells of has no place for that"
    )


@dataclass(frozen=True)
class RebuiltSeat:
    """How a seat was rebuilt: its ``recipe``, how much each source ``weighed``, the ``bytes`` that
    they sent, the figures by which a fit was judged, and the rules that had been tried for its
    stage before, each with the reason why not. ``checkfree.messages.recorded`` reads it back."""

    recipe: Recipe
    weights: Sequence[float] = ()
    bytes: int = 0
    check: Mapping[str, float] = field(default_factory=dict)
    rejected: Sequence[tuple[str, str]] = ()

    def plain(self) -> dict[str, Any]:
        """As it is written: the recipe's fields by name, without those that are as usual."""
        recipe = {
            f.name: getattr(self.recipe, f.name)
            for f in dataclasses.fields(Recipe)
            if f.name in ALWAYS or getattr(self.recipe, f.name) != f.default
        }
        sources = [
            {"holder": s.holder, "stage": s.of, "version": s.version} for s in recipe["sources"]
        ]
        found = {**recipe, "sources": sources, "weights": self.weights, "bytes": self.bytes}
        found |= {"check": self.check} if self.check else {}
        rejected = [{"rule": rule, "why": why} for rule, why in self.rejected]
        return found | ({"rejected": rejected} if rejected else {})


ALWAYS = ("rule", "sources", "moments")
"""Fields of a recipe that every reader looks for."""

APART = "apart"
"""Of what a replay was judged by, if it did not come out with the same bits, or nobody knew those
any more: the largest relative difference between its gradients' norms and those of then."""


def close_stages(rebuilds: Mapping[str, RebuiltSeat]) -> frozenset[int]:
    """Stages that a replay made nearly what they had been."""
    return frozenset(
        Address.parse(seat).stage for seat, how in rebuilds.items() if APART in how.check
    )


@dataclass(frozen=True)
class PlanRecord(Record):
    """Who trains from here on: at the start, after every repair, when a member joins or leaves, and
    when microbatches go other ways than before.

    ``members`` maps seats to their lives, ``rebuilds`` to what they were made of; ``checkpoint`` is
    the newest that a rollback could use, -1 while there is none: it tells a loss before one was
    stored from a loss after. Replaying these records gives the run again, bit for bit (semantics
    19). ``hosts`` are the machines of a swarm that others join, ``zones`` where those stand that
    were told where; of no weight for what is trained.
    """

    kind = "plan"
    epoch: int
    iteration: int
    tick: int
    members: Mapping[str, int]
    rebuilds: Mapping[str, RebuiltSeat] = field(default_factory=dict)
    checkpoint: int = -1
    hosts: Mapping[str, str] = field(default_factory=dict)
    zones: Mapping[str, str] = field(default_factory=dict, metadata=SPARSE)
    seconds: float | None = field(default=None, metadata=SPARSE)
    """Since the record before it, if nothing was rebuilt: else the recovery tells them."""
    routes: Sequence[str] = field(default=(), metadata=SPARSE)
    """Of the microbatches, before the strategy swaps any; (): in order."""


@dataclass(frozen=True)
class IterationRecord(Record):
    """One committed step. ``loss`` is the mean over its microbatches, in nats per token;
    ``gradient_norms`` are per stage, after reduction and before clipping."""

    kind = "iteration"
    iteration: int
    tick: int
    epoch: int
    loss: float
    gradient_norms: Mapping[str, float]
    clip: Mapping[str, float]
    forwards: int
    redundant_forwards: int
    alive: int
    tokens: int | None = None
    lr: float | None = None
    seconds: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict, metadata=SPARSE)
    """Of each stage, a sum over all that it is after the step, in hex; where that is logged for
    replays, which have to come out the same."""


@dataclass(frozen=True)
class ValidationRecord(Record):
    """Loss on text that training never sees, of the weights before step ``iteration``."""

    kind = "validation"
    iteration: int
    tick: int
    loss: float
    after_repair: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class FailureRecord(Record):
    """Seats lost together, before the first op of ``tick`` or in the middle of it."""

    kind = "failure"
    iteration: int
    tick: int
    epoch: int
    seats: Sequence[str]
    stages: Sequence[int]
    """Stages that lost their last living replica."""
    seconds: float | None = field(default=None, metadata=SPARSE)
    """Since the record before it: of what was broken off, and until somebody had the seats."""


@dataclass(frozen=True)
class RecoveryRecord(Record):
    """What was done about a failure. ``rebuilds`` has each seat; validation losses are
    those just before and right after."""

    kind = "recovery"
    iteration: int
    tick: int
    epoch: int
    resume_at: int
    rebuilds: Mapping[str, RebuiltSeat]
    bytes: int
    lost_iterations: int
    validation_before: float | None = None
    validation_after: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ReplayRecord(Record):
    """A seat that was replayed, written down when the first step after it is committed: from
    version ``start`` to ``iteration``, with logs since ``base``. ``start`` is later than that for
    one that had come so far before something else was lost. ``exact``: a sum over all that it is
    was that of what had been lost; false: it was not, or nobody knew that sum any more, and
    gradients' norms were ``apart`` by that share at most. ``seconds`` by phase:
    ``seat``, from the loss until somebody was to take it over; ``copy``, until its copy was there;
    ``replay``, until it had come to the end; ``step``, until all had stepped again."""

    kind = "replay"
    iteration: int
    tick: int
    seat: str
    base: int
    start: int
    bytes: int
    exact: bool
    seconds: Mapping[str, float]
    apart: float = field(default=0.0, metadata=SPARSE)


@dataclass(frozen=True)
class ResumeRecord(Record):
    """The process ended and ``--resume`` went on from the snapshot of this tick. ``shadows``: all
    that its seats had of others then (owner, holder, format, version), if it was a swarm's; None:
    all that they had before."""

    kind = "resume"
    iteration: int
    tick: int
    shadows: tuple[tuple[str, str, str, int], ...] | None = None


@dataclass(frozen=True)
class ProcessRecord(Record):
    """A process takes part from this iteration on: the first of a run, one that goes on with it, or
    a member that takes a ``seat`` ("": all of them, or those of its machine) in that ``life``.
    ``equipment`` is on what it computes, ``differs`` in what that is not what the first computed on
    (name, then, now). :mod:`checkfree.core.participants` reads it."""

    kind = "process"
    iteration: int
    equipment: Mapping[str, str]
    seat: str = field(default="", metadata=SPARSE)
    life: int = field(default=0, metadata=SPARSE)
    differs: Sequence[tuple[str, str, str]] = field(default=(), metadata=SPARSE)


@dataclass(frozen=True)
class LedgerRecord(Record):
    """What the run computed and took, from its records; and what was sent since ``since_tick``,
    the last resume, by name of message. Snapshots of ``--resume`` are left out (semantics 16).
    ``dropped``: what the processes of a swarm did not believe, by what was wrong with it."""

    kind = "ledger"
    ops: Mapping[str, int]
    seconds: Mapping[str, float]
    messages: Mapping[str, int]
    bytes: Mapping[str, int]
    since_tick: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AverageRecord(Record):
    """At the end of a run that asked for it, the mean of its weights after these ``iterations`` is
    kept. ``loss`` is that of a validation, in nats; None: the run has none."""

    kind = "average"
    iterations: Sequence[int]
    loss: float | None


@dataclass(frozen=True)
class EndRecord(Record):
    """Last line. ``status`` is ``done``, ``failed`` or ``interrupted``."""

    kind = "end"
    status: str
    iteration: int
    tick: int
    reason: str = ""
    recoveries: Sequence[Mapping[str, Any]] = ()
    seconds: float | None = None


def dumps(record: Record) -> str:
    """One line of JSON, floats with all their digits; what is not a number becomes null."""
    told = {
        f.name: getattr(record, f.name)
        for f in dataclasses.fields(record)
        if getattr(record, f.name) or not f.metadata.get("sparse")
    }
    return json.dumps({"kind": record.kind, **_plain(told)}, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, RebuiltSeat):
        value = value.plain()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a run folder or file (``.jsonl`` or ``.jsonl.gz``), in order: one mapping a
    line, of which ``kind`` says what it tells. A last line cut short by a crash or a full disk is
    left out. Raises BadInput for a file that can't be read, and any other line that is no record.
    """
    path = Path(path)
    path = path / RECORDS if path.is_dir() else path
    lines = _content(path).split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            found.append(_as_written_now({"kind": record["kind"], **record}))
        except (ValueError, TypeError, KeyError, RecursionError):
            if number == len(lines):
                break
            raise BadInput(f"{path}:{number} is no record: {line[:60]!r}") from None
    return found


def _as_written_now(record: dict[str, Any]) -> dict[str, Any]:
    """Redundant forwards were called shadow forwards before."""
    if record["kind"] == "ledger":
        return {**record, "ops": _renamed(record["ops"])}
    return _renamed(record) if record["kind"] == "iteration" else record


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    if "shadow_forwards" not in found:
        return found
    names = {"shadow_forwards": "redundant_forwards"}
    return {names.get(name, name): value for name, value in found.items()}


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is no gzip file, or cut short: {error}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; give a run folder") from None


def of_kind(records: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The records of one kind, in order."""
    return [record for record in records if record["kind"] == kind]


def ended(records: Sequence[Mapping[str, Any]]) -> bool:
    """Nothing more will be written."""
    return bool(records) and records[-1]["kind"] == "end"


def ledger(
    records: Sequence[Mapping[str, Any]],
    messages: Mapping[str, int],
    sent: Mapping[str, int],
    dropped: Mapping[str, int],
) -> LedgerRecord:
    """Sum up the records of a run, beside what its runtime counted."""
    steps, resumed = of_kind(records, "iteration"), of_kind(records, "resume")
    ops = {name: sum(step[name] for step in steps) for name in ("forwards", "redundant_forwards")}
    seconds = {
        kind: sum(record["seconds"] or 0.0 for record in of_kind(records, kind))
        for kind in ("iteration", "validation", "recovery")
    }
    since = resumed[-1]["tick"] if resumed else 0
    return LedgerRecord(ops, seconds, messages, sent, since, dropped)


def recoveries(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per recovery: validation loss before, right after, and how many ticks until it was back at
    or below what it was before (None: not within the run; semantics 15)."""
    table = []
    for place, record in enumerate(records):
        if record["kind"] != "recovery":
            continue
        table.append(
            {
                "tick": record["tick"],
                "iteration": record["iteration"],
                "rules": {seat: made["rule"] for seat, made in record["rebuilds"].items()},
                "before": record["validation_before"],
                "after": record["validation_after"],
                "back_after": _back_after(record, records[place:]),
            }
        )
    return table


def _back_after(record: Mapping[str, Any], rest: Sequence[Mapping[str, Any]]) -> int | None:
    before, after = record["validation_before"], record["validation_after"]
    if before is None:
        return None
    if after is not None and after <= before:
        return 0
    for later in of_kind(rest, "validation"):
        if later["loss"] is not None and later["loss"] <= before:
            return int(later["tick"] - record["tick"])
    return None
