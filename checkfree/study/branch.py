"""Kill a stage in a saved run, apply many rules to the same state, and table what they cost."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkfree.config.load import to_tree
from checkfree.core.errors import BadInput, RunFailed, at_least, cannot_write
from checkfree.core.participants import apart, participants, render_cause
from checkfree.core.records import of_kind
from checkfree.pipeline.routes import in_order
from checkfree.recovery.rungs import EXACT
from checkfree.recovery.wrappers import make_strategy
from checkfree.report.branches import Branch, Branching, Readings, render, to_csv
from checkfree.report.branches import to_tree as branching_tree
from checkfree.report.branches_plot import draw_branches
from checkfree.runtime import folder as folders
from checkfree.runtime.files import write_whole
from checkfree.runtime.process import settled
from checkfree.runtime.recorder import Listener
from checkfree.session.job import recorded_config, versions
from checkfree.session.terms import seats
from checkfree.study.branching.base_run import (
    BaseRun,
    Watch,
    as_base,
    first_difference,
    first_state,
    states_at,
)
from checkfree.study.branching.branch_run import BranchRun, grow, grown
from checkfree.study.branching.plan import Plan, prepare
from checkfree.study.branching.request import GAPS, BranchRequest, Rule
from checkfree.study.pool import LOOK, Pool

NAMES = TEXT, CSV, JSON, PICTURE = "branches.txt", "branches.csv", "branches.json", "branches.png"
Records = list[Mapping[str, Any]]

BAD_INPUT = 2
"""Exit code of a command that was refused."""


def branch(
    run: str | Path,
    *,
    at: int,
    stages: Sequence[int],
    rules: Sequence[str],
    gaps: Sequence[int] = GAPS,
    reinits: int = 1,
    out: str | Path | None = None,
    workers: int = 1,
    allow: Collection[str] = (),
    watch: Watch | None = None,
) -> Branching:
    """Kill each of ``stages`` alone in a saved run when it has ``at`` iterations behind it, apply
    each of ``rules`` (strategies as on the command line: ``"checkfree(exponent=1)"``) to the same
    state with the same data after it, and tell the gap of the validation loss to the uninterrupted
    run, so many steps after the loss as ``gaps`` say.

    ``reinits``: initialisations for the rule ``random``. ``out``: where branches go
    (``RUN-at-ITERATION``); what stands there is not trained again. ``workers``: branches at a time.
    ``allow``: as :func:`checkfree.resume` takes it; strategies named in ``rules`` may run.
    ``watch`` gives a listener of the records of each piece of training, which has a label and so
    many iterations. Raises BadInput, RunFailed.
    """
    path = None if out is None else Path(out)
    request = BranchRequest(
        Path(run), at, tuple(stages), tuple(rules), tuple(gaps), reinits, path, tuple(allow)
    )
    return branch_as(request, watch or _unwatched, workers)


def _unwatched(label: str, iterations: int) -> Listener:
    return lambda record: None


def branch_as(request: BranchRequest, watch: Watch, workers: int = 1) -> Branching:
    """Train every branch that is not there yet, ``workers`` at a time, write table, CSV, JSON and
    picture, and return what they show. Raises BadInput, RunFailed."""
    at_least("--workers", workers, 1)
    plan = prepare(request, workers)
    path = request.folder
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {path} cannot be written: {error.strerror}") from None
    with folders.locked(path), settled(plan.base.config.threads):
        _claim(plan.base)
        states_at(
            plan.base,
            {plan.uninterrupted.start, *(run.start for run in plan.runs)},
            watch,
        )
        uninterrupted = list(grow(plan.base, plan.uninterrupted, watch))
        if workers > 1:
            _side_by_side(plan, watch, workers)
        found = _gather(
            plan,
            uninterrupted,
            [list(grow(plan.base, run, watch)) for run in plan.runs],
        )
        _write(found, plan)
    return found


def _side_by_side(plan: Plan, watch: Watch, workers: int) -> None:
    """Every branch in one of several child processes; they are read from their folders after.
    Of those that share a way one comes before the others, and trains it."""
    request, threads = plan.base.request, plan.base.config.threads
    with Pool([{"OMP_NUM_THREADS": str(threads)}] * workers) as pool:
        for wave in _waves(plan):
            queue = deque(wave)
            while queue or pool.keys:
                while queue and pool.free:
                    number = queue.popleft()
                    pool.start(str(number), ["branch", *request.words(), "--only", str(number)])
                for end in pool.ended():
                    label, said = plan.runs[int(end.key)].label, end.last
                    if end.code == BAD_INPUT:
                        raise BadInput(said.removeprefix("checkfree: "))
                    if end.code != 0:
                        raise RunFailed(f"{label}: {said.removeprefix('checkfree: ')}")
                    watch(f"{label}: done", 0)
                time.sleep(LOOK)


def _waves(plan: Plan) -> tuple[list[int], list[int]]:
    """Numbers of the branches that are missing, those last whose way another one trains."""
    missing = [n for n, run in enumerate(plan.runs) if not grown(plan.base, run)]
    prefixes: dict[Path, int] = {}
    for number in missing:
        if (prefix := plan.runs[number].prefix) is not None:
            prefixes.setdefault(prefix.folder, number)
    ahead = list(prefixes.values())
    alone = [number for number in missing if plan.runs[number].prefix is None]
    return [*ahead, *alone], [n for n in missing if n not in {*ahead, *alone}]


def grow_one(request: BranchRequest, number: int) -> None:
    """Train that branch only, in a child of ``branch``. Raises BadInput, RunFailed."""
    plan = prepare(request)
    if not 0 <= number < len(plan.runs):
        raise BadInput(f"--only {number}: there are branches 0 … {len(plan.runs) - 1}")
    with settled(plan.base.config.threads):
        grow(plan.base, plan.runs[number], _unwatched)


def _claim(base: BaseRun) -> None:
    """One folder for branches of one state. Raises BadInput if it is another's."""
    request = base.request
    config = {k: v for k, v in to_tree(base.config).items() if k not in ("out", "failures")}
    mine = {"at": request.at, "config": config, "data": dict(base.job.data)}
    if base.job.initial is not None:
        mine["init"] = first_state(base.job)
    path = request.folder / "origin.json"
    if not path.is_file():
        return folders.write_json(path, mine)
    try:
        was = json.loads(path.read_bytes())
        same = {**mine, **was, "config": as_base(recorded_config(was["config"]))}
    except (ValueError, TypeError, KeyError, AttributeError):
        same = {}
    if same != json.loads(json.dumps({**mine, "config": as_base(config)})):
        raise BadInput(
            f"{request.folder} holds branches of another run or iteration: give another --out"
        )


def _gather(plan: Plan, uninterrupted: Records, branches: list[Records]) -> Branching:
    base, request = plan.base, plan.base.request
    own = readings(uninterrupted, base.tick, lost=False)
    notes = _compare(base, uninterrupted)
    pairs = list(zip(plan.runs, branches, strict=True))
    for run, records in pairs:
        before = [r["loss"] for r in of_kind(records, "validation") if _before(r, base.tick)]
        if base.exact and before and before[0] != own[0]:
            raise RunFailed(
                f"{run.folder} stood at {before[0]} before the loss and the run at {own[0]}: "
                "they are not the same state; remove the folder and run again"
            )
    config, tokens = base.config, base.job.blueprint.tokens
    count = config.validation.microbatches
    return Branching(
        run=str(request.run),
        at=request.at,
        gaps=request.gaps,
        trunk=own,
        branches=tuple(_branch(plan, run, records) for run, records in pairs),
        microbatches=count,
        tokens=None if tokens is None else count * tokens // config.microbatches,
        before=own.get(0),
        notes=(*notes, *dict.fromkeys(_told_of_rules(plan))),
    )


def _told_of_rules(plan: Plan) -> Iterator[str]:
    """What there is to say of a rule for stages such as the run's."""
    for run in plan.runs:
        if run.rule is not None:
            yield from plan.base.job.notes(run.rule.config)


def _before(record: Mapping[str, Any], tick: int) -> bool:
    return record["tick"] == tick and not record["after_repair"]


def _compare(base: BaseRun, uninterrupted: Records) -> tuple[str, ...]:
    """The uninterrupted run goes on as the run itself did, until that lost a stage."""
    later = (r["tick"] for r in of_kind(base.records, "failure") if r["tick"] >= base.tick)
    until = min(later, default=None)
    same = [r for r in base.records if until is None or r.get("tick", -1) < until]
    differ = first_difference(same, uninterrupted)
    if differ and base.exact:
        raise RunFailed(
            f"{base.request.run} {differ}: the same run gives other numbers here "
            f"({render_cause(base.records, base.here)})"
        )
    notes = [f"On this device the run does not repeat bit for bit: it {differ}."] if differ else []
    if others := apart(participants(base.records), base.here):
        notes.append(f"The run was not all trained on what its branches were: {'; '.join(others)}.")
    return tuple(notes)


def readings(records: Records, tick: int, *, lost: bool) -> Readings:
    """Steps after ``tick`` -> validation loss. After a loss, that at 0 is the repaired model's."""
    found = {}
    for record in of_kind(records, "validation"):
        steps = record["tick"] - tick
        if steps > 0 or (steps == 0 and record["after_repair"] == lost):
            found[steps] = record["loss"]
    return found


def _after_the_loss(records: Records, tick: int, repair: Mapping[str, Any]) -> Readings:
    """Nothing is read right after an exact repair: the model is the one that it was."""
    found = readings(records, tick, lost=True)
    exact = all(made["rule"] in EXACT for made in repair["rebuilds"].values())
    return {**readings(records, tick, lost=False), **found} if exact else found


def _branch(plan: Plan, run: BranchRun, records: Records) -> Branch:
    assert run.rule is not None
    repairs, end = of_kind(records, "recovery"), of_kind(records, "end")[-1]
    repair = repairs[0] if repairs else None
    return Branch(
        stage=run.stage,
        rule=run.rule.label,
        reinit=run.reinit,
        readings=_after_the_loss(records, plan.base.tick, repair) if repair else {},
        made=_made(repair, run.stage) if repair else "",
        rolled_back=repair["lost_iterations"] if repair else 0,
        bytes=repair["bytes"] if repair else 0,
        mark=_mark(plan.base, run.rule),
        reason=re.sub(r"^iteration \d+: ", "", end["reason"]),
    )


def _made(repair: Mapping[str, Any], stage: int) -> str:
    """``weighted average of 1 and 3``"""
    own = {seat: made for seat, made in repair["rebuilds"].items() if seat.startswith(f"{stage}.")}
    made = next(iter(own.values()))
    sources = [str(s["holder"]).removesuffix(".0") for s in made["sources"]]
    return f"{made['rule']} of {' and '.join(sources)}" if sources else str(made["rule"])


def _mark(base: BaseRun, rule: Rule) -> str:
    """Set where a rule counts on routes that the run did not train on."""
    config = base.config
    plain = in_order(seats(config), config.microbatches)
    wanted, trained = rule.strategy.routes(plain), make_strategy(config.recovery).routes(plain)
    if wanted in (plain, trained):
        return ""
    return "run not swap-trained" if trained == plain else "run trained on other swaps"


def _write(found: Branching, plan: Plan) -> None:
    folder, base = plan.base.request.folder, plan.base
    tree = {
        "format": 1,
        **branching_tree(found),
        "config": to_tree(base.config),
        "versions": versions(),
    }
    write_whole(folder / TEXT, render(found).encode())
    write_whole(folder / CSV, to_csv(found).encode())
    folders.write_json(folder / JSON, tree)
    try:
        draw_branches(found, folder / PICTURE)
    except OSError as error:
        raise cannot_write(folder / PICTURE, error) from error
