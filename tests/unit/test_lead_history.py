"""What a new lead reads in the records of a run."""

from __future__ import annotations

import json

from checkfree.core.ops import STORE, Recipe, Source
from checkfree.core.records import IterationRecord, PlanRecord, RebuiltSeat, dumps
from checkfree.lead import history
from checkfree.messages.control import CHECKPOINT
from checkfree.recovery.rungs import SHADOW

MEMBERS = {"0.0": 0, "1.0": 0}


def digests_after(plan: PlanRecord) -> dict[int, int]:
    """Of four iterations and a repair."""
    records = [
        PlanRecord(0, 0, 0, MEMBERS),
        *(
            IterationRecord(i, i, 0, 2.0, {}, {}, 2, 0, 2, digests={"0": "a", "1": f"{i:x}"})
            for i in range(4)
        ),
        plan,
    ]
    return dict(history([json.loads(dumps(record)) for record in records], {2: 2}).digests)


def test_a_sum_is_of_the_stage_as_it_is_not_as_it_was_before_all_went_back() -> None:
    """Else a replay of the state that they went back to is held against it, and refused."""
    stored = RebuiltSeat(Recipe(CHECKPOINT, (Source(STORE, 1, 2),)))
    assert digests_after(PlanRecord(1, 2, 4, MEMBERS, {"1.0": stored})) == {}


def test_a_repair_leaves_the_sums_of_those_who_stayed_as_they_were() -> None:
    made = RebuiltSeat(Recipe(SHADOW, ()))
    assert digests_after(PlanRecord(1, 4, 4, MEMBERS, {"1.0": made}))[0] == 10
