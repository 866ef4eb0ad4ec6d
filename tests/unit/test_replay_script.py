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


def test_a_swarm_that_was_resumed_has_what_its_snapshot_had() -> None:
    """At its place among those who came and went."""
    shadow = ["0.0", "1.0", "int8", 3]
    resumed = {"kind": "resume", "iteration": 2, "tick": 2, "shadows": [shadow]}
    lost = {"kind": "failure", "seats": ["0.0"]}
    first, last = plan(1, (1, 2), {"0.0": "shadow"}), plan(3, (1, 3), {"1.0": "shadow"})
    records = [plan(0, (0, 2), {}), STEP, lost, first, STEP, resumed, STEP, last]
    one, again, other = script(records)
    assert (one.after, one.gone, one.resumed) == (1, ((ONE, 0),), None)
    assert (again.after, again.gone, again.repair) == (2, (), None)
    assert again.resumed == (("0.0", "1.0", "int8", 3),)
    assert (other.after, other.gone, other.resumed) == (3, ((TWO, 2),), None)


def test_one_that_was_handed_its_state_is_not_all() -> None:
    (left,) = script([plan(0, (0, 0), {}), STEP, plan(1, (1, 0), {"0.0": HANDOVER})])
    assert (left.left, left.joined) == (((ONE, 0),), ((ONE, 1),))
