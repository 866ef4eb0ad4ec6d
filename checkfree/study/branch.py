"""Kill a stage in a saved run, apply many rules to the same state, and table what they cost."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkfree.build.job import versions
from checkfree.build.terms import seats
from checkfree.errors import BadInput, RunFailed, at_least, cannot_write
from checkfree.load import to_tree
from checkfree.record import of_kind
from checkfree.recovery.exact import EXACT
from checkfree.recovery.wrappers import make_strategy
from checkfree.report.branches import Branch, Branching, Readings, render, to_csv
from checkfree.report.branches import to_tree as branching_tree
from checkfree.report.branches_plot import draw_branches
from checkfree.routes import in_order
from checkfree.runtime import folder as folders
from checkfree.runtime.files import write_whole
from checkfree.runtime.process import settled
from checkfree.study.branching.limb import Limb, grow, grown
from checkfree.study.branching.plan import Plan, prepare
from checkfree.study.branching.request import Request, Rule
from checkfree.study.branching.trunk import (
    Ground,
    Watch,
    first_difference,
    placeless,
    states_at,
)
from checkfree.study.pool import LOOK, Pool

NAMES = TEXT, CSV, JSON, PICTURE = "branches.txt", "branches.csv", "branches.json", "branches.png"
Records = list[Mapping[str, Any]]

BAD_INPUT = 2
"""Exit code of a command that was refused."""


def branch(request: Request, watch: Watch, workers: int = 1) -> Branching:
    """Train every branch that is not there yet, ``workers`` at a time, write table, CSV, JSON and
    picture, and return what they show. Raises BadInput, RunFailed."""
    at_least("--workers", workers, 1)
    plan = prepare(request)
    path = request.folder
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {path} cannot be written: {error.strerror}") from None
    with folders.locked(path), settled(plan.ground.config.threads):
        _claim(plan.ground)
        states_at(plan.ground, {plan.trunk.start, *(limb.start for limb in plan.limbs)}, watch)
        trunk = list(grow(plan.ground, plan.trunk, watch))
        if workers > 1:
            _side_by_side(plan, watch, workers)
        found = _gather(plan, trunk, [list(grow(plan.ground, limb, watch)) for limb in plan.limbs])
        _write(found, plan)
    return found


def _side_by_side(plan: Plan, watch: Watch, workers: int) -> None:
    """Every branch in one of several child processes; they are read from their folders after.
    Of those that share a way one comes before the others, and trains it."""
    request, threads = plan.ground.request, plan.ground.config.threads
    with Pool([{"OMP_NUM_THREADS": str(threads)}] * workers) as pool:
        for wave in _waves(plan):
            queue = deque(wave)
            while queue or pool.keys:
                while queue and pool.free:
                    number = queue.popleft()
                    pool.start(str(number), ["branch", *request.words(), "--only", str(number)])
                for end in pool.ended():
                    label, said = plan.limbs[int(end.key)].label, end.last
                    if end.code == BAD_INPUT:
                        raise BadInput(said.removeprefix("checkfree: "))
                    if end.code != 0:
                        raise RunFailed(f"{label}: {said.removeprefix('checkfree: ')}")
                    watch(f"{label}: done", 0)
                time.sleep(LOOK)


def _waves(plan: Plan) -> tuple[list[int], list[int]]:
    """Numbers of the branches that are missing, those last whose way another one trains."""
    missing = [n for n, limb in enumerate(plan.limbs) if not grown(plan.ground, limb)]
    ways: dict[Path, int] = {}
    for number in missing:
        if (way := plan.limbs[number].way) is not None:
            ways.setdefault(way.folder, number)
    ahead = list(ways.values())
    alone = [number for number in missing if plan.limbs[number].way is None]
    return [*ahead, *alone], [n for n in missing if n not in {*ahead, *alone}]


def grow_one(request: Request, number: int) -> None:
    """Train that branch only, in a child of ``branch``. Raises BadInput, RunFailed."""
    plan = prepare(request)
    if not 0 <= number < len(plan.limbs):
        raise BadInput(f"--only {number}: there are branches 0 … {len(plan.limbs) - 1}")
    with settled(plan.ground.config.threads):
        grow(plan.ground, plan.limbs[number], lambda label, iterations: lambda record: None)


def _claim(ground: Ground) -> None:
    """One folder for branches of one state. Raises BadInput if it is another's."""
    request = ground.request
    config = placeless(to_tree(ground.config))
    mine = {"at": request.at, "config": config, "data": dict(ground.job.data)}
    path = request.folder / "origin.json"
    written = json.dumps(mine, indent=1).encode()
    if path.is_file():
        if path.read_bytes() != written:
            raise BadInput(
                f"{request.folder} holds branches of another run or iteration: give another --out"
            )
        return
    write_whole(path, written)


def _gather(plan: Plan, trunk: Records, branches: list[Records]) -> Branching:
    ground, request = plan.ground, plan.ground.request
    own = readings(trunk, ground.tick, lost=False)
    notes = _compare(ground, trunk)
    pairs = list(zip(plan.limbs, branches, strict=True))
    for limb, records in pairs:
        before = [r["loss"] for r in of_kind(records, "validation") if _before(r, ground.tick)]
        if ground.exact and before and before[0] != own[0]:
            raise RunFailed(
                f"{limb.folder} stood at {before[0]} before the loss and the run at {own[0]}: "
                "they are not the same state; remove the folder and run again"
            )
    config, tokens = ground.config, ground.job.blueprint.tokens
    count = config.validation.microbatches
    return Branching(
        run=str(request.run),
        at=request.at,
        gaps=request.gaps,
        trunk=own,
        branches=tuple(_branch(plan, limb, records) for limb, records in pairs),
        microbatches=count,
        tokens=None if tokens is None else count * tokens // config.microbatches,
        before=own.get(0),
        notes=notes,
    )


def _before(record: Mapping[str, Any], tick: int) -> bool:
    return record["tick"] == tick and not record["after_repair"]


def _compare(ground: Ground, trunk: Records) -> tuple[str, ...]:
    """The uninterrupted run goes on as the run itself did, until that lost a stage."""
    later = (r["tick"] for r in of_kind(ground.records, "failure") if r["tick"] >= ground.tick)
    until = min(later, default=None)
    same = [r for r in ground.records if until is None or r.get("tick", -1) < until]
    differ = first_difference(same, trunk)
    if differ and ground.exact:
        raise RunFailed(
            f"{ground.request.run} {differ}: the same run gives other numbers here (other "
            "versions, machine or threads: see versions.json)"
        )
    return (f"On this device the run does not repeat bit for bit: it {differ}.",) if differ else ()


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


def _branch(plan: Plan, limb: Limb, records: Records) -> Branch:
    assert limb.rule is not None
    repairs, end = of_kind(records, "recovery"), of_kind(records, "end")[-1]
    repair = repairs[0] if repairs else None
    return Branch(
        stage=limb.stage,
        rule=limb.rule.label,
        reinit=limb.reinit,
        readings=_after_the_loss(records, plan.ground.tick, repair) if repair else {},
        made=_made(repair, limb.stage) if repair else "",
        rolled_back=repair["lost_iterations"] if repair else 0,
        bytes=repair["bytes"] if repair else 0,
        mark=_mark(plan.ground, limb.rule),
        reason=re.sub(r"^iteration \d+: ", "", end["reason"]),
    )


def _made(repair: Mapping[str, Any], stage: int) -> str:
    """``weighted average of 1 and 3``"""
    own = {seat: made for seat, made in repair["rebuilds"].items() if seat.startswith(f"{stage}.")}
    made = next(iter(own.values()))
    sources = [str(s["holder"]).removesuffix(".0") for s in made["sources"]]
    return f"{made['rule']} of {' and '.join(sources)}" if sources else str(made["rule"])


def _mark(ground: Ground, rule: Rule) -> str:
    """Set where a rule counts on routes that the run did not train on."""
    config = ground.config
    plain = in_order(seats(config), config.microbatches)
    wanted, trained = rule.strategy.routes(plain), make_strategy(config.recovery).routes(plain)
    if wanted in (plain, trained):
        return ""
    return "run not swap-trained" if trained == plain else "run trained on other swaps"


def _write(found: Branching, plan: Plan) -> None:
    folder, ground = plan.ground.request.folder, plan.ground
    tree = {
        "format": 1,
        **branching_tree(found),
        "config": to_tree(ground.config),
        "versions": versions(),
    }
    write_whole(folder / TEXT, render(found).encode())
    write_whole(folder / CSV, to_csv(found).encode())
    folders.write_json(folder / JSON, tree)
    try:
        draw_branches(found, folder / PICTURE)
    except OSError as error:
        raise cannot_write(folder / PICTURE, error) from error
