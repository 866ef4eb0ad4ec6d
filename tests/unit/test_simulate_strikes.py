"""When losses fall on the clock, and which tick they count for."""

from __future__ import annotations

import json
import math
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import pytest

from checkfree.config.load import build, load
from checkfree.core.config import FleetConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.failures import arrivals, poisson_rate_per_hour
from checkfree.session.rehearsal import rehearse
from checkfree.simulator.failure_schedule import ClockStrikes, TickStrikes
from checkfree.simulator.fleet import FLEETS, fleet_of


def clock(first: int = 0, **times: list[float]) -> ClockStrikes:
    arriving = {int(name[1:]): iter(chain(at, repeat(math.inf))) for name, at in times.items()}
    return ClockStrikes(arriving, replicas=2, first=first)


def test_a_loss_in_the_midst_of_an_iteration_strikes_it_there() -> None:
    strikes = clock(s2=[7.0])
    assert strikes.before(0, 0.0) == ()
    assert strikes.during(0, 0.0, 5.0) is None
    assert strikes.during(1, 5.0, 10.0) == 7.0
    assert strikes.before(1, 7.0) == (Address(2, 0), Address(2, 1))
    assert strikes.before(1, 20.0) == ()


def test_what_comes_during_a_repair_counts_for_the_next_tick() -> None:
    strikes = clock(s1=[7.0], s3=[8.0, 8.5])
    assert strikes.before(1, 7.0) == (Address(1, 0), Address(1, 1))
    assert strikes.before(1, 30.0) == (), "no tick is struck twice"
    assert strikes.during(1, 30.0, 40.0) is None
    assert strikes.before(2, 40.0) == (Address(3, 0), Address(3, 1)), (
        "and nobody dies twice at once"
    )
    assert strikes.before(3, 50.0) == ()


def test_nothing_is_lost_before_the_first_tick_that_may_be() -> None:
    strikes = clock(first=2, s1=[1.0, 6.0, 11.0])
    assert strikes.during(0, 0.0, 5.0) is None
    assert strikes.before(1, 5.0) == ()
    assert strikes.during(1, 5.0, 10.0) is None
    assert strikes.before(2, 10.0) == (Address(1, 0), Address(1, 1)), "6 s fell into tick 1"


def test_a_tick_of_a_trace_is_struck_once() -> None:
    strikes = TickStrikes({3: (Address(1),)})
    assert strikes.before(3, 0.0) == (Address(1),)
    assert strikes.before(3, 0.0) == ()


TREE: dict[str, Any] = {
    "iterations": 300,
    "failures": {"scenario": "clock", "rate_per_hour": 0.16, "stages": "body"},
    "validation": {"every": 0},
}


def test_a_slower_strategy_meets_more_failures_per_iteration() -> None:
    """Semantics 9: the clock decides, so per hour they meet the same."""
    fast, slow = (
        rehearse(build({**TREE, "iterations": 2000, "recovery": name}))
        for name in ("random", "redundant")
    )
    assert slow.priced.total > 1.2 * fast.priced.total
    assert len(slow.trace) > len(fast.trace)
    hours = (len(made.trace) / made.priced.total for made in (fast, slow))
    assert math.isclose(*hours, rel_tol=0.15)


def test_failures_come_as_often_as_their_rate_says() -> None:
    made = rehearse(build({**TREE, "iterations": 6000, "recovery": "random"}))
    expected = 6 * poisson_rate_per_hour(0.16) * made.priced.total / 3600
    assert abs(len(made.trace) - expected) < 4 * math.sqrt(expected)


def test_all_strategies_meet_the_same_events() -> None:
    """The first loss comes at the same second, whatever tick that is for a strategy."""
    tree = {**TREE, "failures": {**TREE["failures"], "first": 0}}
    rate = poisson_rate_per_hour(0.16)
    first = min(next(arrivals(0, stage, rate)) for stage in range(1, 7))
    for name in ("random", "redundant", "checkpoint"):
        made = rehearse(build({**tree, "recovery": name}))
        tick = made.trace[0].tick
        ends = (0.0, *made.priced.ends)
        assert ends[tick] <= first < ends[tick + 1]


def test_seconds_of_all_classes_are_the_clock() -> None:
    for name in ("random", "redundant", "checkpoint(interval=20)", "checkfree_plus"):
        priced = rehearse(build({**TREE, "recovery": name})).priced
        assert sum(priced.seconds.values()) == pytest.approx(priced.ends[-1], rel=0.02)
        assert priced.recoveries and min(priced.recoveries) >= FLEETS["paper"].detection


def test_a_rollback_is_told_as_one_and_nothing_else_is_useful_twice() -> None:
    tree = {**TREE, "failures": {**TREE["failures"], "seed": 3}}
    plain = rehearse(build({**tree, "failures": "none", "recovery": "checkpoint(interval=20)"}))
    rolled = rehearse(build({**tree, "recovery": "checkpoint(interval=20)"}))
    assert len(rolled.priced.iterations) > 300
    assert rolled.priced.seconds["useful"] == pytest.approx(plain.priced.seconds["useful"])
    assert rolled.priced.bytes["useful"] == plain.priced.bytes["useful"]
    assert rolled.priced.seconds["rollback"] > 0


def test_what_replays_take_is_told_apart_from_rollbacks() -> None:
    """Of the same losses: who is replayed costs nobody an iteration but the one broken off."""
    tree = {**TREE, "failures": {**TREE["failures"], "seed": 1}}
    replayed, averaged = (
        rehearse(build({**tree, "recovery": name})).priced for name in ("replay", "random")
    )
    assert replayed.iterations == averaged.iterations == tuple(range(300))
    assert replayed.seconds["replay"] > 0 and not averaged.seconds.get("replay")
    assert replayed.bytes["replay"] > 0 and not averaged.bytes.get("replay")
    assert not replayed.bytes.get("rebuild") and not replayed.seconds["rebuild"]
    longest = max(later - sooner for sooner, later in pairwise(averaged.ends))
    assert replayed.seconds["rollback"] < longest * len(replayed.recoveries)


def test_uploads_beside_training_cost_nothing_until_they_meet() -> None:
    seconds = {}
    for upload in ("blocking", "overlapped"):
        for store in (1e9, 2e6):
            fleet = {"upload": upload, "store": store}
            tree = {**TREE, "failures": "none", "recovery": "checkpoint(interval=2)"}
            priced = rehearse(build({**tree, "iterations": 20, "fleet": fleet})).priced
            seconds[upload, store] = priced.seconds.get("checkpoint", 0.0)
    assert seconds["overlapped", 1e9] == 0
    assert seconds["blocking", 1e9] > 0
    assert 0 < seconds["overlapped", 2e6] < seconds["blocking", 2e6]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "mars"}, "expected one of paper"),
        ({"upload": "never"}, "expected one of blocking, overlapped"),
        ({"flops": 0.0}, "above 0"),
        ({"detection": -1.0}, "at least 0"),
        ({"price": float("nan")}, "at least 0"),
    ],
)
def test_a_fleet_that_is_none_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build({"fleet": keys})
    with pytest.raises(BadInput, match=said):
        fleet_of(FleetConfig(**keys))


@pytest.mark.parametrize("name", FLEETS)
def test_every_fleet_can_be_named(name: str) -> None:
    assert fleet_of(load(None, [f"fleet.name={name}"]).fleet).name == name


def test_the_paper_set_up_takes_what_the_paper_measured() -> None:
    """91.3 s an iteration and about 30 s a recovery; see the calibration for what falls short."""
    tree = {
        "stages": 6,
        "replicas": 3,
        "microbatches": 12,
        "iterations": 2,
        "validation": {"every": 0},
    }
    quiet = rehearse(build({**tree, "failures": "none", "recovery": "checkfree"})).priced
    assert quiet.total / 2 == pytest.approx(91.3, rel=0.05)
    tree = {**tree, "iterations": 3000}
    failures = {"scenario": "clock", "rate_per_hour": 0.16, "stages": "middle"}
    lost = rehearse(build({**tree, "failures": failures, "recovery": "checkfree"})).priced
    assert max(lost.recoveries) == pytest.approx(30, rel=0.1)


def test_a_profile_of_other_sizes_is_refused(tmp_path: Path) -> None:
    part = {"forward": 0.1, "backward": 0.2, "shadow": 0.1}
    seconds = {"embed": part, "body": part, "head": part, "step": {"edge": 0.1, "body": 0.1}}
    tree = {
        "format": 1,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "sizes": {
            "batch": 9,
            "context": 128,
            "width": 96,
            "blocks_per_stage": 2,
            "vocabulary": 256,
        },
        "seconds": {**seconds, "iteration_overhead": 0.5, "message_overhead": 0.0},
        "bytes_per_second": {"copy": 1e9, "store": 1e8},
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(tree))
    fleet = {"name": "thread", "profile": str(path)}
    tree = {"iterations": 2, "recovery": "none", "validation": {"every": 0}, "fleet": fleet}
    with pytest.raises(BadInput, match="measured batch 9, this run has 4"):
        rehearse(build(tree))
    made = rehearse(build({**tree, "batch": 9})).priced
    one = 8 * (6 + 2) * (0.1 + 0.2) + 7 * 0.1 + 0.5
    assert made.total == pytest.approx(2 * one)
