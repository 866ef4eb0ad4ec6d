"""What a replay makes of the plans of a run."""

from __future__ import annotations

from typing import Any

from checkfree.messages.control import HANDOVER
from checkfree.ops import Address
from checkfree.runtime.replay import script

ONE, TWO = Address(0), Address(1)
STEP = {"kind": "iteration"}


def plan(iteration: int, lives: tuple[int, int], rebuilt: dict[str, str]) -> dict[str, Any]:
    source = {"holder": "store", "stage": 0, "version": iteration}
    made = {s: {"rule": r, "sources": [source], "moments": True} for s, r in rebuilt.items()}
    members = dict(zip(("0.0", "1.0"), lives, strict=True))
    return {"kind": "plan", "iteration": iteration, "members": members, "rebuilds": made}


def test_who_joins_a_resumed_run_has_nothing_but_its_state() -> None:
    """No shadow, no activation of before: the replay's members are others from then on."""
    lost = {"kind": "failure", "seats": ["0.0"]}
    resumed = plan(4, (0, 2), {"0.0": HANDOVER, "1.0": HANDOVER})
    records = [plan(0, (0, 2), {}), STEP, resumed, STEP, lost, plan(5, (1, 2), {"0.0": "shadow"})]
    anew, loss = script(records)
    assert (anew.after, anew.lost, anew.left) == (1, (), ((ONE, 0), (TWO, 2)))
    assert anew.joined == ((ONE, 1), (TWO, 3))
    assert anew.repair is not None and set(anew.repair.rebuild) == {ONE, TWO}
    assert (loss.after, loss.lost, loss.joined) == (2, ((ONE, 1),), ((ONE, 2),))


def test_one_that_was_handed_its_state_is_not_all() -> None:
    (left,) = script([plan(0, (0, 0), {}), STEP, plan(1, (1, 0), {"0.0": HANDOVER})])
    assert (left.left, left.joined) == (((ONE, 0),), ((ONE, 1),))
