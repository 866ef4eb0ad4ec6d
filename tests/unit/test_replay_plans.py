"""Who computes what again, and where copies stand: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import (
    STORE,
    Address,
    Location,
    Protection,
    Recipe,
    Refusal,
    Repair,
    Rung,
    Source,
    View,
)
from checkfree.pipeline.routes import far_away, in_order
from checkfree.recovery.auto import auto
from checkfree.recovery.options import AutoOptions
from checkfree.recovery.replay.plan import (
    begins,
    holders,
    lost_with,
    replays,
    replays_of_some,
    senders,
    survives,
)
from checkfree.recovery.rungs import REPLAY, WAVE

A = Address
BASE, COMMITTED = 4, 9


def protected(stages: int = 5, **changes: object) -> View:
    """All of 0 … ``stages`` live, and each holds the copy of the one half the pipeline before."""
    seats = frozenset(A(stage) for stage in range(stages + 1))
    copies = {
        Source(holder, stage, BASE)
        for stage in range(stages + 1)
        for holder in holders(stage, seats, 1)
    }
    routes = in_order(seats, 3)
    have = Protection(
        BASE,
        frozenset(copies),
        logs=dict.fromkeys(seats, BASE),
        routes=dict.fromkeys(range(BASE, COMMITTED), routes),
    )
    return View(seats, stages + 1, COMMITTED, seats=seats, protection=replace(have, **changes))  # type: ignore[arg-type]


def without(view: View, *lost: Address) -> View:
    """As the lead tells of it when these are lost."""
    alive, have = view.alive - set(lost), view.protection
    assert have is not None
    left = replace(
        have,
        copies=frozenset(copy for copy in have.copies if copy.holder in alive),
        clones=have.clones & alive,
        logs={seat: since for seat, since in have.logs.items() if seat in alive},
    )
    return replace(view, alive=alive, protection=left)


def planned(view: View, *lost: Address) -> Repair:
    made = replays(frozenset(lost), without(view, *lost))
    assert isinstance(made, Repair), made
    return made


def refused(view: View, *lost: Address) -> str:
    made = replays(frozenset(lost), without(view, *lost))
    assert isinstance(made, Refusal), made
    return made.reason


def test_a_copy_stands_half_the_pipeline_away() -> None:
    seats = [A(stage) for stage in range(6)]
    assert holders(2, seats, 1) == (A(5),)
    assert holders(4, seats, 1) == (A(1),)
    assert holders(2, seats, 2) == (A(5), A(0))
    assert holders(2, seats, 2, having=[A(5)]) == (A(0),)
    assert holders(0, [A(0), A(1)], 2) == (A(1),)


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 2))
def test_holders_are_others(stages: int, replicas: int, copies: int) -> None:
    seats = [A(s, r) for s in range(stages + 1) for r in range(replicas)]
    for stage in range(stages + 1):
        found = holders(stage, seats, copies)
        assert len(found) == min(copies, stages)
        assert len({seat.stage for seat in found} | {stage}) == len(found) + 1


PLACES = st.none() | st.builds(Location, st.sampled_from("abc"), st.sampled_from(["", "e", "w"]))


@given(st.integers(2, 7), st.integers(1, 2), st.integers(1, 2), st.data())
def test_holders_are_on_other_machines_where_there_are_any(
    stages: int, replicas: int, copies: int, data: st.DataObject
) -> None:
    """And in other zones; of those that are as good, whoever is first from half the pipeline on.
    Where nothing is known, all is as if there were no machines."""
    seats = [A(s, r) for s in range(stages) for r in range(replicas)]
    told = {seat: data.draw(PLACES) for seat in seats}
    locations = {seat: at for seat, at in told.items() if at is not None}
    for stage in range(stages):
        own = [seat for seat in seats if seat.stage == stage]
        others = [seat for seat in seats if seat.stage != stage]
        machine = {s: lost_with(s, own, locations)[0] for s in others}
        zone = {s: lost_with(s, own, locations)[1] for s in others}
        found = holders(stage, seats, copies, locations=locations)
        assert len({seat.stage for seat in found} | {stage}) == min(copies, stages - 1) + 1
        first, far = found[0], far_away(stage, stages)
        best = min((machine[s], zone[s]) for s in others)
        alike = [s for s in others if (machine[s], zone[s]) == best]
        assert first == min(alike, key=lambda s: (far.index(s.stage), s))
        assert holders(stage, seats, copies, found, locations) == ()
        nowhere = holders(stage, seats, copies)
        assert [s.stage for s in nowhere] == [*far[:copies]]
        if len(locations) < 2 or len({at.machine for at in locations.values()}) == 1:
            assert found[: len(far)] == nowhere


def test_two_copies_of_a_stage_are_on_two_machines() -> None:
    locations = {A(s): Location(name) for s, name in enumerate("aabbcc")}
    assert holders(0, locations, 2, locations=locations) == (A(3), A(4))
    assert holders(0, locations, 2, [A(2)], locations) == (A(4),)


def test_a_holder_that_has_come_to_the_owner_s_machine_is_made_up_for() -> None:
    """By one more, once; not where there is no other machine."""
    locations = {A(s): Location(name) for s, name in enumerate("abab")}
    assert holders(0, locations, 1, [A(2)], locations) == (A(3),)
    assert holders(0, locations, 1, [A(2), A(3)], locations) == ()
    assert holders(0, locations, 2, [A(2), A(3)], locations) == (A(1),)
    alone = dict.fromkeys(locations, Location("a"))
    assert holders(0, alone, 1, [A(2)], alone) == ()


def test_one_stage_begins_with_its_copy() -> None:
    made = planned(protected(), A(2))
    assert made.rebuild == {A(2): Recipe(REPLAY, (Source(A(5), 2, BASE),))}
    assert made.resume_at == COMMITTED and not made.relogs


def test_adjacent_stages_and_the_ends() -> None:
    for lost in ((A(1), A(2)), (A(0), A(1)), (A(0), A(5)), (A(2), A(3), A(4))):
        view = protected()
        if survives(lost, view):
            made = planned(view, *lost)
            assert made.rebuild.keys() == set(lost) and not made.relogs


def test_an_owner_with_its_holder_is_refused_and_named() -> None:
    assert "stage 2 is lost, and with it whoever held its copy" in refused(protected(), A(2), A(5))
    assert "recovery.copies=2" in refused(protected(), A(2), A(5))
    assert "recovery.copies" not in refused(protected(asked=2), A(2), A(5))


def test_without_a_base_there_is_no_replay() -> None:
    assert "before a copy of every stage" in refused(protected(base=None), A(2))
    assert not survives({A(2)}, protected(base=None))
    assert survives((), protected(base=None))


def test_which_stages_could_not_be_replayed() -> None:
    assert begins(protected()).keys() == {*range(6)}
    assert begins(protected(base=None)) == {}
    assert begins(protected(copies=frozenset({Source(A(5), 2, BASE)}))).keys() == {2}
    assert begins(protected(since={2: BASE + 1})).keys() == {0, 1, 3, 4, 5}


def test_from_which_version_each_stage_would_be_replayed() -> None:
    assert begins(protected()) == dict.fromkeys(range(6), BASE)
    assert begins(protected(since={2: BASE + 1})) == dict.fromkeys((0, 1, 3, 4, 5), BASE)
    # 1 and 3 need what 2 sent, which computes it once more from its copy, and 5 has that.
    assert begins(without(protected(), A(2))).keys() == {0, 4}


def test_as_many_as_can_be_are_replayed() -> None:
    wide, lost = protected(8), {A(4), A(8)}  # 8 held the copy of 4, and 3 has that of 8
    assert isinstance(replays(lost, without(wide, *lost)), Refusal)
    made = replays_of_some(lost, without(wide, *lost), frozenset())
    assert isinstance(made, Repair)
    assert made.rebuild == {A(8): Recipe(REPLAY, (Source(A(3), 8, BASE),))}
    beside = {A(3), A(4), A(8)}  # 3 needs what 4 sent, and 4 is gone with its copy
    made = replays_of_some(beside, without(wide, *beside), frozenset())
    assert isinstance(made, Refusal)


def test_what_was_made_anew_is_not_replayed_past_that() -> None:
    """But what it sent before, it can make once more for others."""
    assert "was made anew after 6 iterations" in refused(protected(since={2: 6}), A(2))
    logs = {A(stage): BASE for stage in range(6)} | {A(3): 6}
    made = planned(protected(since={3: 6}, logs=logs), A(2))
    assert made.relogs[A(3)].until == 6
    late = {**logs, A(3): 8}
    assert "stage 3 was made anew" in refused(protected(since={3: 6}, logs=late), A(2))


def test_the_store_and_the_seed_need_no_holder() -> None:
    stored = planned(protected(copies=frozenset(), stored=True), A(2))
    assert stored.rebuild[A(2)].sources == (Source(STORE, 2, BASE),)
    drawn = planned(protected(copies=frozenset(), drawn=True), A(2))
    assert drawn.rebuild[A(2)].sources == ()


def test_a_neighbour_whose_log_begins_later_computes_what_it_lacks() -> None:
    view = protected()
    assert view.protection is not None
    logs = {**view.protection.logs, A(3): 7}
    made = planned(protected(logs=logs), A(2))
    assert made.rebuild.keys() == {A(2)}
    (relog,) = made.relogs.values()
    assert made.relogs.keys() == {A(3)}
    assert relog.until == 7  # from there on its log is whole
    assert relog.recipe == Recipe(REPLAY, (Source(A(0), 3, BASE),))


def test_what_one_lacks_others_may_need_too() -> None:
    """Stage 3 lacks four iterations, and needs stage 4 for them, which lacks two."""
    logs = {A(stage): BASE for stage in range(6)} | {A(3): 8, A(4): 6}
    made = planned(protected(logs=logs), A(2))
    assert {seat: relog.until for seat, relog in made.relogs.items()} == {A(3): 8, A(4): 6}


def test_a_log_that_nobody_can_make_whole_refuses() -> None:
    logs = {A(stage): BASE for stage in range(6)} | {A(3): 8}
    copies = frozenset({Source(A(5), 2, BASE)})
    assert "stage 3 is lost" in refused(protected(logs=logs, copies=copies), A(2))


def test_a_seat_goes_on_from_where_it_has_come() -> None:
    view = protected(reached={A(2): 6})
    made = planned(view, A(2), A(3))
    assert made.rebuild[A(2)].sources == (Source(A(2), 2, 6),)
    assert made.rebuild[A(3)].sources == (Source(A(0), 3, BASE),)


def test_what_proved_no_good_is_not_taken_again() -> None:
    view = without(protected(), A(2))
    copy = Source(A(5), 2, BASE)
    assert isinstance(replays({A(2)}, view, {copy}), Refusal)
    tried = replace(view, rejected=frozenset({Rung(2, REPLAY)}))
    made = replays({A(2)}, tried)
    assert isinstance(made, Refusal) and "did not come out as it was" in made.reason


def test_a_lost_replica_of_a_neighbour_is_computed_by_its_twin() -> None:
    seats = frozenset(A(s, r) for s in range(4) for r in range(2))
    routes = in_order(seats, 4)
    copies = {Source(h, s, BASE) for s in range(4) for h in holders(s, seats, 1)}
    have = Protection(
        BASE,
        frozenset(copies),
        logs=dict.fromkeys(seats, BASE),
        routes=dict.fromkeys(range(BASE, COMMITTED), routes),
    )
    view = View(seats, 4, COMMITTED, seats=seats, protection=have)
    made = planned(view, A(1, 0), A(1, 1), A(2, 1))
    assert made.rebuild.keys() == {A(1, 0)}  # its twin copies it then
    assert made.relogs.keys() == {A(2, 0)}


@pytest.mark.parametrize("stage", range(4))
def test_senders_are_the_neighbours_on_routes(stage: int) -> None:
    routes = in_order([A(s) for s in range(4)], 2)
    expected = {A((stage - 1) % 4), A((stage + 1) % 4)}
    assert senders(routes, stage) == expected


@given(st.integers(2, 6), st.sets(st.integers(0, 6), min_size=1, max_size=4), st.booleans())
def test_survives_says_what_replays_does(stages: int, lost: set[int], two: bool) -> None:
    """Both ways, and only the lost are rebuilt."""
    view = protected(stages)
    assert view.protection is not None
    if two:
        copies = frozenset(
            Source(h, s, BASE) for s in range(stages + 1) for h in holders(s, view.alive, 2)
        )
        view = replace(view, protection=replace(view.protection, copies=copies))
    gone = frozenset(A(stage) for stage in lost if stage <= stages)
    if not gone:
        return
    made = replays(gone, without(view, *gone))
    assert survives(gone, view) is isinstance(made, Repair)
    if isinstance(made, Repair):
        assert made.rebuild.keys() == gone
    held = view.protection.copies
    safe = all(any(c.of == s.stage and c.holder not in gone for c in held) for s in gone)
    assert isinstance(made, Repair) is safe


@pytest.mark.parametrize(("most", "goes_back"), [(0, False), (1, True)])
def test_nobody_goes_back_to_the_last_copies_unasked(most: int, goes_back: bool) -> None:
    """Not by no iteration either: what proved no good is no better in all seats."""
    view = protected(clones=protected().alive)
    view = replace(view, committed=BASE, rejected=frozenset({Rung(2, REPLAY)}))
    ladder = auto(AutoOptions(most_rollback=most))
    repair = ladder.repair(frozenset({A(2)}), without(view, A(2)), frozenset())
    assert isinstance(repair, Repair)
    assert ({recipe.rule for recipe in repair.rebuild.values()} == {WAVE}) == goes_back
