"""Run a recorded run again from its plan records: same members, same repairs, same numbers.

A trace says when stages are lost; what happened also depends on who answered when, who joined
late, and which copy was at hand. All of that stands in the plans (semantics 19).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from checkfree.messages.control import Due, Message, Outgoing, Struck
from checkfree.messages.tensors import StageState
from checkfree.ops import (
    LEAD,
    Address,
    Keep,
    Recipe,
    Refusal,
    Repair,
    Route,
    Schedule,
    Source,
    View,
)
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy
from checkfree.runtime.faults import Host


@dataclass(frozen=True)
class Step:
    """What happened between two plans: who left, who came, and what was repaired."""

    tick: int
    lost: tuple[Address, ...]
    joined: tuple[tuple[Address, int], ...]
    repair: Repair | None


def script(plans: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps that lead from each plan record to the next. The first plan is the start."""
    steps = (_step(one, next_) for one, next_ in pairwise(plans))
    return tuple(step for step in steps if step.lost or step.joined or step.repair)


def _step(before: Mapping[str, Any], after: Mapping[str, Any]) -> Step:
    was, now = (
        {Address.parse(seat): int(life) for seat, life in plan["members"].items()}
        for plan in (before, after)
    )
    lost = tuple(sorted(seat for seat, life in was.items() if now.get(seat) != life))
    joined = tuple(sorted((s, life) for s, life in now.items() if was.get(s) != life))
    rebuilds = {Address.parse(seat): _recipe(made) for seat, made in after["rebuilds"].items()}
    repair = Repair(rebuilds, int(after["iteration"])) if rebuilds else None
    return Step(int(after["tick"]), lost, joined, repair)


def _recipe(made: Mapping[str, Any]) -> Recipe:
    sources = (
        Source(Address.parse(s["holder"]), int(s["stage"]), int(s["version"]))
        for s in made["sources"]
    )
    return Recipe(str(made["rule"]), tuple(sources), bool(made["moments"]))


class ReplayedFaults:
    """Strikes as recorded: one step each time that its tick is due."""

    def __init__(self, host: Host, steps: Sequence[Step]):
        self._host, self._steps = host, deque(steps)
        self._inbox: deque[Message] = deque()

    def deliver(self, message: Message) -> None:
        self._inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self._inbox:
            return None
        message = self._inbox.popleft()
        assert isinstance(message, Due)
        if not self._steps or self._steps[0].tick != message.tick:
            return [(LEAD, Struck(message.epoch, message.tick))]
        step = self._steps.popleft()
        lost = tuple((seat, self._host.kill(seat)) for seat in step.lost)
        for seat, life in step.joined:
            self._host.join(seat, life)
        return [(LEAD, Struck(message.epoch, message.tick, lost, step.joined))]


class Replayed(Strategy):
    """A strategy whose repairs are those that a run recorded."""

    def __init__(self, inner: Strategy, steps: Sequence[Step]):
        self._inner = inner
        self._repairs = [step.repair for step in steps if step.repair is not None]

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return self._inner.routes(routes)

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        return self._inner.ops(schedule, routes)

    def keeps(self, version: int, workers: Collection[Address]) -> tuple[Keep, ...]:
        return self._inner.keeps(version, workers)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        if view.repairs >= len(self._repairs):
            return Refusal("the recorded run repaired nothing more")
        return self._repairs[view.repairs]

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        return self._inner.rebuild(seat, fresh, states)
