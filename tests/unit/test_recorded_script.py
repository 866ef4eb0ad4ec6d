"""What a replay makes of the plans of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from checkfree.core.ops import LEAD, STORE, Address, StateId
from checkfree.messages.control import HANDOVER
from checkfree.recovery.rungs import BACK
from checkfree.runtime.recorded import RecordedFaults, script

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


class Had:
    """A worker with a state, and what it is brought."""

    def __init__(self, seat: Address):
        self.seat, self.brought = seat, list[tuple[StateId, str]]()

    def exact(self) -> tuple[StateId, str]:
        return StateId(self.seat, 0, 1), f"state of {self.seat}"

    def bring(self, name: StateId, state: str) -> None:
        self.brought.append((name, state))


def test_whoever_comes_back_while_others_are_repaired_has_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two repairs, one at once after the other: nobody is struck before the second."""
    monkeypatch.setattr("checkfree.runtime.recorded.StageWorker", Had)

    def back(seat: str) -> dict[str, Any]:
        source = {"holder": seat, "stage": int(seat[0]), "version": 1}
        return {seat: {"rule": BACK, "sources": [source], "moments": True}}

    both = {"kind": "failure", "seats": ["0.0", "1.0"]}
    plans = [
        {"kind": "plan", "iteration": 1, "members": {"0.0": 1}, "rebuilds": back("0.0")},
        {"kind": "plan", "iteration": 1, "members": {"0.0": 1, "1.0": 1}, "rebuilds": back("1.0")},
    ]
    steps = script([plan(0, (0, 0), {}), STEP, both, plans[0], both, plans[1]])
    came: dict[Address, Had] = {}
    actors: dict[Address, Any] = {ONE: Had(ONE), TWO: Had(TWO), STORE: None, LEAD: None}

    def join(seat: Address, life: int) -> None:
        actors[seat] = came[seat] = Had(seat)

    host = SimpleNamespace(
        actors=actors, post=lambda *said: None, kill=lambda seat: None, join=join
    )
    faults = RecordedFaults(host, steps)  # type: ignore[arg-type]
    faults._strike(1, 1)
    assert {seat: had.brought for seat, had in came.items()} == {
        ONE: [(StateId(ONE, 0, 1), "state of 0.0")],
        TWO: [(StateId(TWO, 0, 1), "state of 1.0")],
    }
