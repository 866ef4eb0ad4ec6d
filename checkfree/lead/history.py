"""What is written down of a run, as a new lead reads it: its progress, and what was under way.

Records are written when they happened, so they are at most one iteration behind: a step that was
decided and not yet written down is told by whoever took it (see ``takeover``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from checkfree.core.ops import Address, Location, Route, locations_of, parse_route
from checkfree.core.records import LEADS_OWN, RecoveryRecord, close_stages
from checkfree.lead.progress import Progress
from checkfree.lead.trend import follow
from checkfree.messages.recorded import read_rebuilt
from checkfree.recovery.rungs import EXACT
from checkfree.recovery.shadow.ledger import renewed

Plain = Mapping[str, Any]
"""A record as it stands in the file."""


@dataclass(frozen=True)
class Planned:
    """What a plan changed: whose lives had ended when ``committed`` was the next iteration, where
    it resumes, and which stages were made of something else than a state of their own."""

    gone: frozenset[Address]
    committed: int
    resume_at: int
    renewed: frozenset[int]


class Ran(NamedTuple):
    """An iteration: who took part, what each stage's gradient was multiplied by, the norm that it
    had before, and the ways of microbatches, (): as the run's terms have them."""

    members: frozenset[Address]
    clip: Mapping[int, float]
    norms: Mapping[int, float]
    routes: tuple[Route, ...] = ()


MOST_PASSED = 10_000
"""Iterations that a lead remembers for replays: nobody waits for more than so many."""


@dataclass(frozen=True)
class History:
    """A run as far as it is written down."""

    progress: Progress = Progress()  # noqa: RUF009 (frozen)
    members: Mapping[Address, int] = field(default_factory=dict)
    """Seats and lives of the last plan; none: nothing was planned yet."""
    rebuilt: Mapping[Address, int] = field(default_factory=dict)
    """Of each seat that was ever rebuilt, the epoch of the last plan that did."""
    plans: tuple[Planned, ...] = ()
    """Since the last step."""
    noted: frozenset[Address] = frozenset()
    """Seats whose loss, after the last plan, stands in a record."""
    recovery: RecoveryRecord | None = None
    """That of the last plan, if it is not written down yet."""
    exact: bool = False
    """That repair gave back what was lost: no validation has to tell its cost."""
    passed: Mapping[int, Ran] = field(default_factory=dict)
    """The last iterations that replays may run once more."""
    anew: Mapping[int, int] = field(default_factory=dict)
    """The versions at which stages were last made inexactly, while others stayed as they were."""
    digests: Mapping[int, int] = field(default_factory=dict)
    """Of each stage after the last step."""
    locations: Mapping[Address, Location] = field(default_factory=dict)
    """Of the seats of the last plan, as far as it tells."""
    routes: tuple[Route, ...] = ()
    """Those of the last plan; (): it tells none."""


def history(
    records: Sequence[Plain],
    checkpoints: Mapping[int, int],
    snapshots: Mapping[int, int] = MappingProxyType({}),
) -> History:
    """From the records of a run, and from what its store offers: of each version of a checkpoint
    the tick at which it was made, and of the tick of each snapshot its version. Raises KeyError,
    TypeError or ValueError for other records."""
    found, rollbacks = History(), list[tuple[int, int]]()
    passed: dict[int, Ran] = {}
    for record in records:
        if record["kind"] == "plan" and record["rebuilds"]:
            rollbacks.append((record["tick"], record["iteration"]))
        found = _after(found, record)
        if record["kind"] == "iteration":
            passed[record["iteration"]] = ran(
                found.members, record["clip"], record["gradient_norms"], found.routes
            )
            passed.pop(record["iteration"] - MOST_PASSED, None)

    def good(made: int, version: int) -> bool:
        return all(tick < made or to >= version for tick, to in rollbacks)

    there = tuple(v for v, made in sorted(checkpoints.items()) if good(made, v))
    back = tuple((made, v) for made, v in sorted(snapshots.items()) if good(made, v))
    p = replace(found.progress, checkpoints=there, snapshots=back)
    last = {i: ran for i, ran in sorted(passed.items()) if i < p.committed}
    return replace(found, progress=p, passed=last)


def ran(
    members: Iterable[Address],
    clip: Mapping[str, float],
    norms: Mapping[str, float],
    routes: tuple[Route, ...] = (),
) -> Ran:
    """As records name stages."""
    clips, before = ({int(stage): n for stage, n in found.items()} for found in (clip, norms))
    return Ran(frozenset(members), clips, before, routes)


def _after(before: History, record: Plain) -> History:
    kind, p = record["kind"], before.progress
    if kind in LEADS_OWN:
        p = replace(p, notes=p.notes + 1, epoch=max(p.epoch, record.get("epoch", 0)))
    before = replace(before, progress=p)
    match kind:
        case "resume":
            now = replace(p, committed=record["iteration"], tick=record["tick"])
            begun_anew = record.get("shadows") is not None
            return replace(before, progress=now, routes=() if begun_anew else before.routes)
        case "iteration":
            trend = follow(p.trend, record["loss"])
            now = replace(
                p, committed=record["iteration"] + 1, tick=record["tick"] + 1, trend=trend
            )
            logged = record.get("digests", {})
            digests = {int(stage): int(digest, 16) for stage, digest in logged.items()}
            return replace(before, progress=now, plans=(), digests=digests)
        case "validation":
            recovery = before.recovery
            if recovery is not None and record["after_repair"]:
                recovery = replace(recovery, validation_after=record["loss"])
            now = replace(p, validation=record["loss"], validated_at=record["tick"])
            return replace(before, progress=now, recovery=recovery)
        case "failure":
            noted = before.noted | {Address.parse(seat) for seat in record["seats"]}
            return replace(before, noted=noted)
        case "plan":
            return _planned(before, record)
        case "recovery":
            return replace(before, recovery=None)
    return before


def _planned(before: History, record: Plain) -> History:
    p = before.progress
    rebuilds = {seat: read_rebuilt(made) for seat, made in record["rebuilds"].items()}
    members = {Address.parse(seat): int(life) for seat, life in record["members"].items()}
    now = replace(p, committed=record["iteration"], tick=record["tick"])
    gone = frozenset(s for s, life in before.members.items() if members.get(s) != life)
    recipes = {Address.parse(seat): made.recipe for seat, made in rebuilds.items()}
    plan = Planned(gone, p.committed, now.committed, renewed(recipes))
    planned = replace(
        before,
        progress=now,
        members=members,
        plans=(*before.plans, plan),
        noted=frozenset(),
        locations=locations_of(record.get("hosts", {}), record.get("zones", {})),
        routes=tuple(map(parse_route, record.get("routes", ()))),
    )
    if not rebuilds:
        return planned
    seats = {Address.parse(seat) for seat in rebuilds}
    inexact = {
        Address.parse(seat).stage: now.committed
        for seat, made in rebuilds.items()
        if made.recipe.rule not in EXACT
    }
    went_back = now.committed < p.committed
    other = inexact.keys() | close_stages(rebuilds)
    return replace(
        planned,
        progress=replace(now, repairs=now.repairs + 1),
        rebuilt={**before.rebuilt, **dict.fromkeys(seats, int(record["epoch"]))},
        exact=all(made.recipe.rule in EXACT for made in rebuilds.values()),
        anew={} if went_back else {**before.anew, **inexact},
        digests={} if went_back else {s: d for s, d in before.digests.items() if s not in other},
        recovery=RecoveryRecord(
            iteration=p.committed,
            tick=record["tick"],
            epoch=record["epoch"],
            resume_at=record["iteration"],
            rebuilds=rebuilds,
            bytes=sum(made.bytes for made in rebuilds.values()),
            lost_iterations=p.committed - record["iteration"],
            validation_before=p.validation,
        ),
    )
