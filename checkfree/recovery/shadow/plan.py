"""Shadows: a quantized old copy of every stage's weights on another stage's seat.

Every ``k`` iterations each stage pushes one, one stage an iteration::

    version   1 2 3 4 5 …     8     11 …    k=9, stages 0 … 2
    stage     0 1 2             1     2 …    first as soon as can be, then each at its own phase

It is packed when its iteration is committed, and travels while others train. It counts from two
iterations later on, when the lead has waited for it: so whether it was there in time is the same
for any order of delivery. Until then the one before it is kept too.

A stage's shadow is held by the next one's seat, and the last one's by stage 0. Stage 0, which no
rule but this one rebuilds, has its own held by the next and the last stage in turn: so it survives
with either, at no more bytes. A lost stage goes on from its shadow, nobody rolls back.

Written as ``signs``, a shadow is a change of the last one that the same holder has, and what it
leaves out the next one makes up for; see ``references.py``. It says how its stage was moving, too:
so a restart makes up for its age; see ``ahead.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

from checkfree.core.formats import SIGNS
from checkfree.core.ops import Address, Recipe, Refusal, Shadow, Source, Transfer, View
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import ring_successor
from checkfree.recovery.options import AUTO, SHADOW_FORMATS, ShadowOptions
from checkfree.recovery.rungs import SHADOW
from checkfree.recovery.shadow.format import unpack_state
from checkfree.recovery.strategy import Rebuilding

LAG = 0.02
"""``every: auto``: nats of training loss that a shadow may be behind when the next one comes."""

RAREST = 200
"""``every: auto``: iterations between two shadows of a stage, at most."""

USUAL, USUAL_OF_SIGNS = 30, 10
"""Iterations between two shadows of a stage: a sixtieth of a byte a weight and iteration, as
``int4_rows`` and as ``signs``, or somewhat less."""

Format = Literal["int8_rows", "int4_rows", "signs", "bf16", "fp32"]


@dataclass(frozen=True)
class Pushing:
    """``every``: iterations between two shadows of a stage; None: as the loss falls, but not more
    often than ``least``, which a budget of bytes allows."""

    how: str
    every: int | None
    least: int = 1

    @classmethod
    def of(cls, options: ShadowOptions) -> Pushing:
        """As configured."""
        how = SHADOW_FORMATS[options.shadow_format]
        every = usual(how) if options.shadow_every is None else options.shadow_every
        return cls(how, None if every == AUTO else int(every), options.shadow_least)

    def transfers(self, view: View) -> tuple[Transfer, ...]:
        """The one to push when the step to come is committed, if any is due."""
        stage = self._due(view)
        if stage is None:
            return ()
        owner = view.living(stage)
        holder = self._holder(stage, view)
        if owner is None or holder is None or holder == owner:
            return ()
        return (Transfer(owner, holder, cast(Format, self.how)),)

    def interval(self, view: View) -> int:
        """k: at least the number of stages, so that each has an iteration of its own."""
        every = self.every
        if every is None:
            every = self.least if view.falling is None else _lagging(view.falling)
            every = max(every, self.least)
        return max(every, view.num_stages)

    def warmup_start(self, stage: int, num_stages: int, at: int, before: int) -> int:
        """An iteration, not after ``before``, from which on, with nothing pushed earlier, a
        stage's shadow at ``at`` is that of a whole run: stages come one after the other first.
        Changes are of all that was pushed before, back to the first copy."""
        if self.how == SIGNS:
            return 0
        k = max(num_stages, self.least, self.every or usual(self.how))
        phase, newest = stage * k // num_stages, at - 2
        turn = newest - (newest - phase) % k
        begins = turn - 1 - stage
        while begins > before:
            begins -= k
        return max(0, begins)

    def _due(self, view: View) -> int | None:
        """The first stage that has none, else the one that is longest overdue. Before all others
        stage 0, when it lost its newest: what it has left is too old by a turn, and no other rule
        rebuilds it."""
        stages = [stage for stage in range(view.num_stages) if view.living(stage) is not None]
        newest = {shadow.stage: shadow.version for shadow in sorted(view.pushed, key=_by_version)}
        k, version = self.interval(view), view.committed + 1
        missing = [stage for stage in stages if stage not in newest]
        if 0 in stages and newest.get(0, 0) < version - k - view.num_stages:
            return 0
        if missing:
            return missing[0]
        overdue = []
        for stage in stages:
            phase = stage * k // view.num_stages
            turn = version - (version - phase) % k
            if 2 * (turn - newest[stage]) >= k:
                overdue.append((turn, stage))
        return min(overdue)[1] if overdue else None

    def _holder(self, stage: int, view: View) -> Address | None:
        """Of the stages that hold it, the one with the oldest or none: the seat that has it
        already, else the first."""
        pushed = sorted((s for s in view.pushed if s.stage == stage), key=_by_version)
        held = {shadow.holder: shadow.version for shadow in pushed}
        last = view.num_stages - 1
        found = []
        for holding in sorted({1, last} if stage == 0 else {ring_successor(stage, last + 1)}):
            has = [seat for seat in sorted(held) if seat.stage == holding]
            found.append(has[0] if has else view.living(holding))
        seats = [seat for seat in found if seat is not None]
        return min(seats, key=lambda seat: (held.get(seat, 0), seat), default=None)


def usual(how: str) -> int:
    """``every``, if nobody says."""
    return USUAL_OF_SIGNS if how == SIGNS else USUAL


def _lagging(falling: float) -> int:
    """Iterations in which the loss falls by ``LAG``."""
    return RAREST if falling <= LAG / RAREST else int(LAG / falling)


def shadow_recipe(
    stage: int, view: View, refused: frozenset[Source], reach: float = 0.0
) -> Recipe | Refusal:
    """Out of the newest shadow that counts and is good, or why there is none; moved on by
    ``reach`` times its age, if it says how it was moving."""
    held = [s for s in view.shadows if s.stage == stage]
    if not held:
        return Refusal("no shadow of it is left" if view.committed > 1 else "it has no shadow yet")
    sources = [Source(s.holder, s.stage, s.version) for s in sorted(held, key=_by_version)]
    good = [source for source in sources if source not in refused]
    if not good:
        return Refusal("its shadow proved no good")
    age = view.committed - good[-1].version
    return Recipe(SHADOW, (good[-1],), moments=False, ahead=reach * age)


def _by_version(shadow: Shadow) -> tuple[int, Address]:
    return shadow.version, shadow.holder


def restart(state: StageState, lr_scale: float) -> Rebuilding:
    """A stage as its shadow has it, with a fresh optimizer."""
    made = unpack_state(state) if state.packed else replace(state, moments={})
    return Rebuilding(replace(made, lr_scale=lr_scale), (1.0,))
