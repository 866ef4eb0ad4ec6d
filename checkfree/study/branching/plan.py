"""All that a branching will train, checked before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

from checkfree.core.errors import BadInput
from checkfree.runtime.folder import CONFIG
from checkfree.session.log_disk import check_log_disk
from checkfree.session.memory import check_fits
from checkfree.session.terms import seats
from checkfree.study.branching.base_run import ELSEWHERE, BaseRun, survey
from checkfree.study.branching.branch_run import BranchRun
from checkfree.study.branching.request import (
    BranchRequest,
    Rule,
    check_request,
    check_stages,
    lead_in,
    rules_of,
)
from checkfree.study.branching.shared_prefix import SharedPrefix

REINITIALISING = "random"


@dataclass(frozen=True)
class Plan:
    """All that will be trained."""

    base: BaseRun
    uninterrupted: BranchRun
    runs: tuple[BranchRun, ...]


def prepare(request: BranchRequest, workers: int = 1) -> Plan:
    """Everything checked, nothing written; so many ``workers`` train at a time. Raises BadInput."""
    check_request(request)
    base = survey(request)
    check_stages(request.stages, base.config.stages)
    rules = rules_of(request.rules, base.config)
    if request.reinits > 1 and all(rule.config.name != REINITIALISING for rule in rules):
        raise BadInput(
            f"--seeds-of-reinit {request.reinits} is for the rule {REINITIALISING}, which --rules "
            "does not name: add it, or leave the option out"
        )
    runs = _together(tuple(_branch_runs(base, rules)))
    _check_rules(base, rules, max(1, min(workers, len(runs))))
    every = _every(request, request.at)
    return Plan(base, BranchRun(_branches(base) / "uninterrupted", request.at, every), runs)


def _check_rules(base: BaseRun, rules: Collection[Rule], at_once: int) -> None:
    """Raise BadInput unless the run's stages are such that each rule can be applied, and this
    machine has the disk for the logs of the run and of each rule, and the memory for so many
    branches ``at_once``."""
    count, path = len(seats(base.config)), base.request.run / CONFIG
    check_log_disk(base.config, count, give=f"have {path} name", less="")
    less = "lower --workers" if at_once > 1 else "leave that rule out"
    for rule in rules:
        config = replace(base.config, recovery=rule.config)
        try:
            base.job.notes(rule.config)  # what its stages are too unequal for is refused
            check_fits(config, at_once, lambda: f"{less}, or branch {ELSEWHERE}")
            check_log_disk(config, at_once * count, less=less)
        except BadInput as error:
            raise BadInput(f"--rules {rule.label}: {error}") from None


def _branches(base: BaseRun) -> Path:
    return base.request.folder / "branches"


def _branch_runs(base: BaseRun, rules: tuple[Rule, ...]) -> Iterator[BranchRun]:
    request, all_seats = base.request, seats(base.config)
    for stage in dict.fromkeys(request.stages):
        for rule in rules:
            back = lead_in(rule.strategy, request.at, base.earliest, all_seats)
            counts = base.config.stages + 1, request.at, base.config.microbatches
            start = max(base.earliest, min(back, rule.strategy.warmup_start(stage, *counts)))
            prefix = _prefix(base, rule, start) if start < back == request.at else None
            every = _every(request, back)
            path = _branches(base) / f"stage-{stage}_{_name(rule)}"
            count = request.reinits if rule.config.name == REINITIALISING else 1
            for reinit in range(count):
                own = path.with_name(f"{path.name}_{reinit}") if reinit else path
                yield BranchRun(own, start, every, rule, stage, reinit, prefix)


def _prefix(base: BaseRun, rule: Rule, start: int) -> SharedPrefix:
    return SharedPrefix(base.request.folder / "ways" / f"{_name(rule)}_from_{start}", start, rule)


def _name(rule: Rule) -> str:
    return re.sub(r"[^0-9A-Za-z_.=-]+", "-", rule.label).strip("-")


def _together(runs: tuple[BranchRun, ...]) -> tuple[BranchRun, ...]:
    """A way is for several branches; one alone trains what is before its loss itself."""
    counts = Counter(run.prefix.folder for run in runs if run.prefix)
    return tuple(
        replace(run, prefix=None) if run.prefix and counts[run.prefix.folder] == 1 else run
        for run in runs
    )


def _every(request: BranchRequest, back: int) -> int:
    """Of a branch that a loss may take back to the iteration ``back``: readings are due by the
    iteration, and have to come ``gaps`` steps after the loss from there too."""
    return gcd(request.at, back, *request.gaps) or 1
