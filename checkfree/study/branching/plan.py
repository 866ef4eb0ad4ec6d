"""All that a branching will train, checked before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

from checkfree.build.terms import seats
from checkfree.errors import BadInput
from checkfree.study.branching.limb import Limb
from checkfree.study.branching.request import (
    Request,
    Rule,
    check_request,
    check_stages,
    lead_in,
    rules_of,
)
from checkfree.study.branching.trunk import Ground, survey
from checkfree.study.branching.way import Way

REINITIALISING = "random"


@dataclass(frozen=True)
class Plan:
    """All that will be trained."""

    ground: Ground
    trunk: Limb
    limbs: tuple[Limb, ...]


def prepare(request: Request) -> Plan:
    """Everything checked, nothing written. Raises BadInput."""
    check_request(request)
    ground = survey(request)
    check_stages(request.stages, ground.config.stages)
    rules = rules_of(request.rules, ground.config)
    if request.reinits > 1 and all(rule.config.name != REINITIALISING for rule in rules):
        raise BadInput(
            f"--seeds-of-reinit {request.reinits} is for the rule {REINITIALISING}, which --rules "
            "does not name: add it, or leave the option out"
        )
    limbs = _together(tuple(_limbs(ground, rules)))
    every = _every(request, request.at)
    return Plan(ground, Limb(_branches(ground) / "uninterrupted", request.at, every), limbs)


def _branches(ground: Ground) -> Path:
    return ground.request.folder / "branches"


def _limbs(ground: Ground, rules: tuple[Rule, ...]) -> Iterator[Limb]:
    request, all_seats = ground.request, seats(ground.config)
    for stage in dict.fromkeys(request.stages):
        for rule in rules:
            back = lead_in(rule.strategy, request.at, ground.earliest, all_seats)
            counts = ground.config.stages + 1, request.at, ground.config.microbatches
            start = max(ground.earliest, min(back, rule.strategy.begins(stage, *counts)))
            way = _way(ground, rule, start) if start < back == request.at else None
            every = _every(request, back)
            path = _branches(ground) / f"stage-{stage}_{_name(rule)}"
            count = request.reinits if rule.config.name == REINITIALISING else 1
            for reinit in range(count):
                own = path.with_name(f"{path.name}_{reinit}") if reinit else path
                yield Limb(own, start, every, rule, stage, reinit, way)


def _way(ground: Ground, rule: Rule, start: int) -> Way:
    return Way(ground.request.folder / "ways" / f"{_name(rule)}_from_{start}", start, rule)


def _name(rule: Rule) -> str:
    return re.sub(r"[^0-9A-Za-z_.=-]+", "-", rule.label).strip("-")


def _together(limbs: tuple[Limb, ...]) -> tuple[Limb, ...]:
    """A way is for several branches; one alone trains what is before its loss itself."""
    counts = Counter(limb.way.folder for limb in limbs if limb.way)
    return tuple(
        replace(limb, way=None) if limb.way and counts[limb.way.folder] == 1 else limb
        for limb in limbs
    )


def _every(request: Request, back: int) -> int:
    """Of a branch that a loss may take back to the iteration ``back``: readings are due by the
    iteration, and have to come ``gaps`` steps after the loss from there too."""
    return gcd(request.at, back, *request.gaps) or 1
