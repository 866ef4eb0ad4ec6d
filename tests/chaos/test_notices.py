"""Who gets notice and who comes back: nothing is lost by it, whatever is delivered next."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from checkfree.core.ops import Address
from checkfree.lead import Phase
from checkfree.messages.control import Message
from checkfree.recovery.rungs import EXACT
from tests.chaos import SOAK
from tests.chaos.chaos import SHAPES, Plan, measured, replay
from tests.chaos.notices import Notices
from tests.chaos.test_leaving import undisturbed
from tests.tiny import Run, same_states

RUNS = 1000 if SOAK else 40
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost(part: int) -> None:
    """Every rebuild is exact, no iteration is trained twice, and the plans give the run again."""
    torch.set_num_threads(1)
    happened: Counter[str] = Counter()
    for seed in range(part, RUNS, PARTS):
        plan = Plan.of(seed)
        notices = Notices(plan)
        run, plain = notices.play(), undisturbed(plan)
        assert run.lead.done, (seed, run.lead.phase, run.lead.failure, run.lead.members.__dict__)
        rules = {m.recipe.rule for r in run.of_kind("recovery") for m in r.rebuilds.values()}
        assert rules <= EXACT, (seed, rules)
        iterations = [record.iteration for record in run.of_kind("iteration")]
        assert iterations == list(range(len(iterations))), seed
        if plan.shape["replicas"] == 1:
            assert measured(run) == measured(plain), seed
            assert same(plain, run), seed
        again = replay(plan, run)
        assert measured(again) == measured(run), seed
        assert same(again, run), seed
        happened += notices.happened
        happened.update(rules)
    assert len(SHAPES) == PARTS  # each part has one shape
    assert happened["dismissed"] > 0
    if RUNS >= 1000 and SHAPES[part]["replicas"] == 1:
        assert sum(n for name, n in happened.items() if name.startswith("killed")) > 20
        assert {"heir", "store", "cut off", "back", "stepped late", "handover"} <= happened.keys()


class Harsh(Notices):
    """Seats are killed besides, without any notice, and taken again sooner or later."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kills = sorted(self.rng.randrange(1, 300) for _ in range(self.rng.randrange(1, 4)))

    def _after(self, to: Address, message: Message) -> None:
        super()._after(to, message)
        runtime = self.run.runtime
        seats = sorted(seat for seat in self._workers() if seat not in self.noticed)
        ended = self.run.lead.phase is Phase.ENDED
        bring = [seat for seat in seats if seat in self.run.lead.members.brings]
        due = self.kills and (self.kills[0] <= runtime.delivered or bring)
        if due and seats and not ended:
            self.kills.pop(0)
            seat = self.rng.choice(bring or seats)
            self.happened["killed without notice"] += 1
            self.happened["with what it brought"] += bool(bring)
            self._joins(seat, runtime.kill(seat) + 1, None, None)


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_lost_meanwhile_is_replayed_too(part: int) -> None:
    """Seats are left and lost in any order, also between two repairs."""
    torch.set_num_threads(1)
    happened: Counter[str] = Counter()
    for seed in range(part, RUNS, PARTS):
        plan = Plan.of(seed)
        harsh = Harsh(plan)
        run = harsh.play()
        happened += harsh.happened
        assert run.lead.done or run.lead.failure, (seed, run.lead.phase)
        if not run.lead.done:
            continue  # it was too much for its strategy
        again = replay(plan, run)
        assert measured(again) == measured(run), seed
        assert same(again, run), seed
    assert happened["killed without notice"] > 0


def same(other: Run, run: Run) -> bool:
    """All that still sit when ``run`` ends have the states that they have in the other."""
    states, others = run.states(), other.states()
    return same_states({seat: others[seat] for seat in states}, states)
