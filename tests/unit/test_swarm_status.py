"""What ``checkfree swarm status`` says of a run."""

from __future__ import annotations

from typing import Any

from checkfree.cli.swarm.status import _lines
from checkfree.core.live import LiveStatus, ReplayProgress
from checkfree.core.ops import Address

NODE = {"host": "attic", "zone": "home", "room": 3, "reserve": False, "spares": 1}


def test_nodes_with_their_seats_and_lines() -> None:
    nodes: list[dict[str, Any]] = [
        {**NODE, "id": "a", "seats": {"0.0": ["/ip4/10.0.0.1/tcp/7"], "1.0": []}},
        {**NODE, "id": "b", "host": "cellar", "zone": "", "seats": {}, "reserve": True},
    ]
    told = {
        "iteration": 7,
        "loss": 2.5,
        "seconds": 0.25,
        "nodes": nodes,
        "busy": {"0.0": 0.125},
        "lines": {"a": 1.25},
    }
    assert list(_lines(told)) == [
        "iteration 7, loss 2.5000, 0.25 s each",
        "attic in home: 0.0, 1.0 of at most 3; 1 stand by; its line 1.2 s an iteration"
        "  /ip4/10.0.0.1/tcp/7",
        "cellar: no seat of at most 3 (reserve); 1 stand by",
        "     0.0  computes 0.125 s",
    ]


def test_what_a_loss_would_cost_where_stages_are_replayed() -> None:
    assert "any stage that is lost now is replayed" in next(_lines({"unprotected": []}))
    assert list(_lines({"unprotected": None})) == []
    told = LiveStatus(unprotected={3: 500, 0: 498}).to_json()
    assert list(_lines(told)) == [
        "no replay could give back stage 0 (unprotected since iteration 498), "
        "stage 3 (unprotected since iteration 500)"
    ]


def test_how_far_a_replay_is_and_how_much_of_the_time_was_training() -> None:
    replay = ReplayProgress(Address(2), 480, 497, 485, True, 6.1)
    told = {
        "iteration": 496,
        "loss": 2.5,
        "seconds": 0.25,
        **LiveStatus([replay], {}, 0.97).to_json(),
    }
    assert list(_lines(told))[:2] == [
        "iteration 496, loss 2.5000, 0.25 s each, goodput 97.0%",
        "replays stage 2 (5 of 17 iterations since 480), about 6.1 s to go",
    ]


def test_from_where_stages_are_replayed_and_what_no_machine_may_take() -> None:
    like = {"version": 480, "seconds": 6.25}
    told = {
        "unprotected": [3],
        "unprotected_since": {"3": 490},
        "replayable": {"0": like, "1": like, "2": {"version": 497, "seconds": None}},
        "fatal": ["attic"],
    }
    assert list(_lines(told))[1:] == [
        "stages 0, 1: replayable from 480, about 6.2 s",
        "stage 2: replayable from 497",
        "not everything of attic could be replayed now",
    ]
    assert list(_lines({"replayable": None, "fatal": []})) == []
