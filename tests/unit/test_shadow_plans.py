"""Who pushes what, when and where to; and what the lead counts on. Plain data only."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.ops import Address, Recipe, Shadow, Source, Transfer, View
from checkfree.lead.trend import SLOW, falling, follow
from checkfree.messages.control import Kept
from checkfree.recovery.shadow.ledger import COUNTS_AFTER, Shadowing, renewed
from checkfree.recovery.shadow.plan import LAG, RAREST, Pushing


def seats(stages: int, replicas: int = 1) -> frozenset[Address]:
    return frozenset(Address(s, r) for s in range(stages) for r in range(replicas))


def pushes(pushing: Pushing, stages: int, iterations: int) -> dict[int, list[int]]:
    """stage -> versions that it pushes in a run that loses nobody."""
    pushed: set[Shadow] = set()
    found: defaultdict[int, list[int]] = defaultdict(list)
    for committed in range(iterations):
        view = View(seats(stages), stages, committed, pushed=frozenset(pushed))
        keeps = pushing.transfers(view)
        assert len(keeps) <= 1, "more than one burst"
        for keep in keeps:
            pushed.add(Shadow(keep.owner.stage, keep.holder, committed + 1))
            found[keep.owner.stage].append(committed + 1)
    return found


@settings(max_examples=60, deadline=None)
@given(stages=st.integers(2, 12), every=st.integers(1, 40))
def test_every_stage_has_one_soon_and_then_every_k_iterations(stages: int, every: int) -> None:
    k = max(every, stages)
    found = pushes(Pushing("int4_rows", every), stages, 6 * k + stages)
    for stage in range(stages):
        versions = found[stage]
        assert versions[0] == stage + 1
        gaps = [b - a for a, b in pairwise(versions)]
        assert k / 2 <= gaps[0] < 2 * k + stages, versions
        assert set(gaps[1:]) == {k}, versions
        assert len(versions) <= 1 + (6 * k + stages) / k


def test_each_is_held_by_the_next_stage_and_each_seat_holds_one() -> None:
    pushed: set[Shadow] = set()
    for committed in range(5):
        (keep,) = Pushing("int4_rows", 9).transfers(
            View(seats(5), 5, committed, pushed=frozenset(pushed))
        )
        pushed.add(Shadow(keep.owner.stage, keep.holder, committed + 1))
        assert keep.what == "int4_rows"
    assert {(s.stage, s.holder.stage) for s in pushed} == {(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)}


def held_by(*versions: tuple[int, int]) -> frozenset[Shadow]:
    """Of stage 0: (holding stage, version); of the others, one each, fresh."""
    others = {Shadow(s, Address((s + 1) % 5), 39) for s in range(1, 5)}
    return frozenset(others | {Shadow(0, Address(stage), version) for stage, version in versions})


@pytest.mark.parametrize(
    ("held", "holder"),
    [(((1, 10),), 4), (((1, 10), (4, 20)), 1), (((1, 20), (4, 10)), 4), (((4, 20),), 1)],
)
def test_two_stages_hold_the_embeddings_in_turn(
    held: tuple[tuple[int, int], ...], holder: int
) -> None:
    view = View(seats(5), 5, 39, pushed=held_by(*held))
    (keep,) = Pushing("int4_rows", 10).transfers(view)
    assert (keep.owner, keep.holder) == (Address(0), Address(holder))


def test_the_embeddings_are_pushed_at_once_when_their_newest_is_lost() -> None:
    pushing = Pushing("int4_rows", 40)
    assert not pushing.transfers(View(seats(5), 5, 42, pushed=held_by((1, 40))))
    pushed = {shadow for shadow in held_by((4, 1)) if shadow.stage != 3}  # 4.0 held that too
    for left in (pushed, pushed | {Shadow(3, Address(4), 39)}):
        (keep,) = pushing.transfers(View(seats(5), 5, 59, pushed=frozenset(left)))
        assert (keep.owner, keep.holder) == (Address(0), Address(1))


def test_what_a_lost_holder_held_is_pushed_at_once() -> None:
    pushed = {Shadow(s, Address((s + 1) % 5), 20 + s) for s in range(5) if s != 2}
    (keep,) = Pushing("int4_rows", 40).transfers(View(seats(5), 5, 27, pushed=frozenset(pushed)))
    assert (keep.owner, keep.holder) == (Address(2), Address(3))


def test_one_replica_pushes_to_one() -> None:
    (keep,) = Pushing("int4_rows", 30).transfers(View(seats(4, replicas=3), 4, 0))
    assert (keep.owner, keep.holder) == (Address(0, 0), Address(1, 0))


@pytest.mark.parametrize(
    ("slope", "least", "k"),
    [(None, 1, 7), (None, 30, 30), (LAG / 25, 1, 25), (LAG / 25, 40, 40), (0.0, 1, RAREST),
     (-1.0, 1, RAREST), (10.0, 1, 7)],
)  # fmt: skip
def test_auto_follows_the_loss_within_the_budget(slope: float | None, least: int, k: int) -> None:
    view = View(seats(7), 7, 100, falling=slope)
    assert Pushing("int4_rows", None, least).interval(view) == k


def test_how_fast_the_loss_falls() -> None:
    trend: tuple[float, ...] = ()
    for iteration in range(400):
        assert (falling(trend) is None) == (iteration < SLOW)
        trend = follow(trend, 5.0 - 0.01 * iteration)
    assert falling(trend) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("at", [9, 30, 57, 123])
@pytest.mark.parametrize("stage", range(5))
def test_a_branch_begins_so_that_its_shadow_is_that_of_a_whole_run(stage: int, at: int) -> None:
    pushing = Pushing("int4_rows", 12)
    whole = [v for v in pushes(pushing, 5, at)[stage] if v <= at - COUNTS_AFTER]
    start, earlier = (pushing.warmup_start(stage, 5, at, at - back) for back in (0, 20))
    assert 0 <= earlier <= start and earlier <= max(0, at - 20)
    if at > 4 * 12:
        assert start + 1 + stage == whole[-1]
        assert (whole[-1] - earlier - 1 - stage) % 12 == 0


def test_a_branch_of_changes_begins_with_the_run() -> None:
    """Each is a change of the one before it."""
    assert Pushing("signs", 12).warmup_start(2, 5, 123, 90) == 0


# --- what the lead counts on ---------------------------------------------------------------------

KEEP = Transfer(Address(1), Address(2), "int8_rows")
OTHER = Transfer(Address(2), Address(3), "int8_rows")


def book(*versions: int, arrived: bool = True) -> Shadowing:
    made = Shadowing()
    for version in versions:
        made.order([KEEP], version, 0)
        if arrived:
            made.kept(Kept(0, KEEP, version))
    return made


def test_a_shadow_counts_two_iterations_later() -> None:
    made = book(4)
    assert [len(made.counted(c)) for c in (4, 5, 6)] == [0, 0, 1]
    assert not any(made.waiting(c) for c in range(9))


def test_the_lead_waits_only_after_a_whole_iteration() -> None:
    made = book(4, arrived=False)
    assert [made.waiting(committed) for committed in (3, 4, 5)] == [False, False, True]
    made.kept(Kept(1, KEEP, 4))  # of another epoch
    assert made.waiting(5)
    made.kept(Kept(0, KEEP, 4))
    assert not made.waiting(5)


def test_the_one_before_counts_until_the_next_does() -> None:
    made = book(4, 10)
    for version, counted, pushed in ((11, {4}, {4, 10}), (12, {10}, {10})):
        made.order([], version, 0)
        assert {s.version for s in made.counted(version)} == counted
        assert {s.version for s in made.pushed()} == pushed


def test_another_lead_has_the_same_book() -> None:
    """And waits for what nobody holds."""
    made = book(4, 10)
    made.order([OTHER], 11, 3)
    held = [push for push in made.pushes() if push.version < 11]
    again = Shadowing.told(made.pushes(), held)
    assert (again.pushes(), again.entries()) == (made.pushes(), made.entries())
    assert again.waiting(12) and not again.waiting(11)
    again.kept(Kept(3, OTHER, 11))
    assert not again.waiting(12)


@pytest.mark.parametrize("arrived", [True, False])
def test_whether_it_had_arrived_does_not_show_when_its_owner_is_lost(arrived: bool) -> None:
    made = book(4, 10, 11)
    made = book(4)
    for version in (10, 11):
        made.order([KEEP], version, 0)
        if arrived:
            made.kept(Kept(0, KEEP, version))
    made.lose(Address(1), 11)
    assert {s.version for s in made.pushed()} == {4}


def test_a_lost_holder_takes_all_that_it_held() -> None:
    made = book(4, 10)
    made.order([OTHER], 11, 0)
    made.lose(Address(2), 20)
    assert {s.stage for s in made.pushed()} == {2}


def test_a_rollback_forgets_what_is_newer() -> None:
    made = book(4, 10)
    made.mend(6, renewed({Address(1): Recipe("shadow", (Source(Address(2), 1, 4),))}))
    assert {s.version for s in made.pushed()} == {4}


def test_a_stage_made_of_something_else_has_no_shadow() -> None:
    made = book(4, 10)
    made.mend(20, renewed({Address(1): Recipe("average", (Source(Address(3), 3, 20),))}))
    assert made.pushed() == frozenset()
