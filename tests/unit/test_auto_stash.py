"""What ``stash=auto`` becomes, by memory; and what seats need then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.config.load import load
from checkfree.config.stash import KEEP, OFFLOAD, RECOMPUTE, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.session.auto_stash import level, with_stash
from checkfree.session.memory import (
    DAEMON_BYTES,
    FIRST_BYTES,
    FORK_BYTES,
    SPARED,
    held_bytes,
    seat_bytes,
    stashed_bytes,
)
from checkfree.session.train import train
from tests.contract.small import modules, small

FAST, SLOW = "fleet.offload=1e14", "fleet.offload=1e6"


def demo(*words: str) -> Config:
    """Deep, so that the first stages hold many microbatches."""
    made = load("demo", ["recovery=none", "microbatches=32", *words])
    return replace(made, model=replace(made.model, vocabulary=512))


def leaving(config: Config, stash: int) -> int:
    """Memory of a machine that leaves so many bytes for all stashes."""
    seats = config.stages + 1
    processes = FIRST_BYTES + seats * (FORK_BYTES + DAEMON_BYTES)
    return int((sum(held_bytes(config)) + processes + stash) / (1 - SPARED)) + 1


def decided(*words: str, share: float, alone: bool = False) -> tuple[Config, str]:
    """With memory for such a share of what all would keep."""
    config = demo("stash=auto", *words)
    whole = sum(stashed_bytes(replace(config, stash=KEEP)))
    return with_stash(config, lambda _: leaving(config, int(share * whole)), alone=alone)


def test_where_there_is_memory_all_is_kept() -> None:
    config, told = decided(share=1.01)
    assert config.stash == KEEP and config.stash_room is None
    assert told.startswith("stash=auto: all keep (S")
    assert with_stash(config) == (config, ""), "once"


def test_a_fast_line_has_as_little_offloaded_as_needed() -> None:
    config, told = decided(FAST, share=0.7)
    ways = stash_of(config)
    assert {KEEP, OFFLOAD} == {*ways} and "offload" in told and "recompute" not in told
    whole = sum(stashed_bytes(replace(config, stash=KEEP)))
    assert sum(stashed_bytes(config)) <= 0.7 * whole
    assert sum(stashed_bytes(config)) > 0.35 * whole, "not as little as can be"


def test_a_slow_line_has_it_recomputed() -> None:
    config, told = decided(SLOW, share=0.7)
    assert {KEEP, RECOMPUTE} == {*stash_of(config)} and config.stash_room is None
    assert "S1" in told and "recompute" in told
    whole = sum(stashed_bytes(replace(config, stash=KEEP)))
    assert sum(stashed_bytes(config)) <= 0.7 * whole


def test_what_is_given_stays_so() -> None:
    config = demo("stash={auto: [1], recompute: [2]}", FAST)
    found, told = with_stash(config, lambda _: 0)
    ways = stash_of(found)
    assert ways[1] in (OFFLOAD, RECOMPUTE) and ways[2] == RECOMPUTE and {*ways[3:]} == {KEEP}
    assert ways[0] == KEEP and "S2" not in told


def test_seats_of_machines_of_their_own_have_more() -> None:
    together, _ = decided(FAST, share=0.5)
    apart, _ = decided(FAST, share=0.5, alone=True)
    assert OFFLOAD in stash_of(together) and {*stash_of(apart)} == {KEEP}


def test_each_gpu_has_its_own_memory() -> None:
    config = demo("stash=auto", FAST, "devices=[cuda:0,cuda:1]")
    large = sum(held_bytes(config)) + 2 * sum(stashed_bytes(replace(config, stash=KEEP)))
    small = {"cuda:0": large, "cuda:1": int(1.2 * sum(held_bytes(config)))}
    found, _ = with_stash(config, lambda device: 2 * small[device])
    ways = stash_of(found)
    assert {*ways[:2]} == {KEEP}
    found, _ = with_stash(config, {"cuda:0": 10, "cuda:1": 2 * large}.__getitem__)
    assert KEEP not in stash_of(found)[1:3] and stash_of(found)[-1] == KEEP


def test_a_seat_needs_less_that_offloads() -> None:
    kept = seat_bytes(demo())
    away = seat_bytes(demo("stash=offload", FAST))
    assert seat_bytes(demo("stash=recompute")) < kept and away < kept
    assert seat_bytes(demo("stash=offload", SLOW)) == kept, "nothing can be moved in time"
    assert seat_bytes(demo("stash=offload", SLOW, "stash_room=0")) <= away
    assert seat_bytes(demo("stash=auto")) == kept, "as long as it is not decided"
    deep = demo("stash=offload", "stash_room=0", "schedule=gpipe")
    assert seat_bytes(replace(deep, microbatches=128)) < seat_bytes(demo("schedule=gpipe"))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(-10, 500))
def test_nobody_has_more_than_there_is(wanted: list[int], free: int) -> None:
    share = level(wanted, free)
    taken = sum(min(one, share) for one in wanted)
    assert taken <= max(free, taken if share < 0 else free)
    if share < max(wanted) and free >= 0:
        assert taken + len(wanted) > free, "and what there is is had"
    else:
        assert free < 0 or sum(wanted) <= free


def test_own_modules_are_not_measured(tmp_path: Path) -> None:
    config = small(tmp_path / "run", {"stash": "auto"})
    with pytest.raises(BadInput, match="stash=auto needs to know"):
        train(config, stages=modules(config), batches=lambda iteration, microbatch: None)
