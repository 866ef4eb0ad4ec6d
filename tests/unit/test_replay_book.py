"""What the lead counts on: copies that are known to be there, and logs that have room."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from checkfree.core.ops import Address, Course, Location, Recipe, Relog, Repair, Source, Transfer
from checkfree.messages.control import ForReplays
from checkfree.recovery.replay.book import Passed, ReplayBook
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY

SEATS = [Address(stage) for stage in range(4)]
ONE, THREE = SEATS[1], SEATS[3]
PUSH = Transfer(ONE, THREE, "state")
BYTES = 100
"""That each seat logs in an iteration."""


def train(book: ReplayBook, iteration: int) -> None:
    """As the lead does it; copies are ordered and don't arrive."""
    wave = book.wave(iteration, SEATS, 1000)
    passed = Passed(Course((), {}), {}, {}, dict.fromkeys(SEATS, BYTES))
    book.committed(iteration, passed, wave, {})
    book.orders(iteration + 1, SEATS, 0)


def waiting(lag: int = 1) -> ReplayBook:
    """For the copies of a wave that was ordered in epoch 0."""
    book = ReplayBook(ReplayTerms(lag), 0, SEATS)
    at = 0
    while not book.waiting(at):
        train(book, at)
        at += 1
    return book


def ordered(book: ReplayBook, committed: int, epoch: int) -> set[Transfer]:
    return {transfer for transfer, _ in book.orders(committed, SEATS, epoch)}


def test_what_a_lost_owner_was_to_send_is_not_waited_for() -> None:
    book = waiting()
    (at,) = book.clones
    for copy, how in list(book._copies.items()):
        if how.owner != ONE:
            book.kept(Transfer(how.owner, copy.holder, "state"), copy.version, how.epoch)
    assert book.waiting(at + 1)
    book.lose(ONE, at + 1)
    assert not book.waiting(at + 1)


def test_what_two_lost_between_them_is_ordered_again() -> None:
    """However late: the lead waits for it by then."""
    for seat in (ONE, THREE):
        book = waiting()
        (at,) = book.clones
        book.unsure(seat, at + 1)
        assert PUSH in ordered(book, at + 1, 1)


def test_an_earlier_life_of_the_holder_may_have_had_it() -> None:
    book = waiting()
    (at,) = book.clones
    book.lose(THREE, at)
    assert PUSH in ordered(book, at, 1)
    book.kept(PUSH, at, 0)  # what it said before it was lost
    copy = Source(THREE, ONE.stage, at)
    assert not book._copies[copy].arrived
    book.kept(PUSH, at, 1)
    assert book._copies[copy].arrived


def test_only_copies_that_are_there_can_be_counted_on() -> None:
    """A loss while an iteration is committed is repaired before the lead waits for any."""
    book = ReplayBook(ReplayTerms(1, every=50), 0, SEATS)
    at = 0
    while book.base == 0:
        train(book, at)
        for copy, how in list(book._copies.items()):
            book.kept(Transfer(how.owner, copy.holder, "state"), copy.version, how.epoch)
        at += 1
        book.settle(at, SEATS)
    book.lose(THREE, at)
    book.orders(at, SEATS, 1)
    seen = book.protection(at + 1, SEATS)
    assert seen is not None
    assert {copy.of for copy in seen.copies} == {0, 2, 3}
    book.kept(PUSH, book.base or 0, 1)
    seen = book.protection(at + 1, SEATS)
    assert seen is not None
    assert {copy.of for copy in seen.copies} == {0, 1, 2, 3}


def test_logs_are_full_when_a_wave_counts_and_never_before() -> None:
    """Room for 2·lag + 1 iterations is enough: all are protected all the time, and use it up."""
    for lag in (1, 2, 3):
        for room in range(2 * lag + 1, 2 * lag + 6):
            book, most = ReplayBook(ReplayTerms(lag, None, room * BYTES), 0, SEATS), 0
            for at in range(60):
                book.settle(at, SEATS)
                assert book.base is not None, (lag, room, at)
                train(book, at)
                for copy, how in list(book._copies.items()):
                    book.kept(Transfer(how.owner, copy.holder, "state"), copy.version, how.epoch)
                most = max(most, book._fullest())
            assert most == room * BYTES, (lag, room)


def test_copies_go_to_other_machines_also_when_their_owner_has_come_to_their_holder_s() -> None:
    """The one that it has stays until the next wave."""
    locations = {seat: Location(name) for seat, name in zip(SEATS, "abab", strict=True)}
    book = ReplayBook(ReplayTerms(1), 0, SEATS)
    passed = Passed(Course((), {}), {}, {}, dict.fromkeys(SEATS, BYTES))
    book.committed(0, passed, SEATS, {})
    ordered = {t for t, _ in book.orders(1, SEATS, 0, locations)}
    assert {(t.owner.stage, t.holder.stage) for t in ordered} == {(0, 3), (1, 0), (2, 1), (3, 2)}
    assert not book.orders(1, SEATS, 0, locations)
    moved = {**locations, SEATS[0]: Location("b")}
    assert [t for t, _ in book.orders(1, SEATS, 0, moved)] == [
        Transfer(SEATS[0], SEATS[2], "state"),
        Transfer(SEATS[1], SEATS[2], "state"),
    ]
    assert not book.orders(1, SEATS, 0, moved)


def counted(copies: int) -> tuple[ReplayBook, int]:
    """A book with a wave that counts, of which all copies have arrived; and how many iterations
    are committed by then."""
    book, at = ReplayBook(ReplayTerms(9, copies=copies), 0, SEATS), 0
    while not book.base:
        train(book, at)
        at += 1
        for copy, how in book._copies.items():
            book.kept(Transfer(how.owner, copy.holder, "state"), copy.version, how.epoch)
        book.settle(at, SEATS)
    return book, at


def due(book: ReplayBook) -> dict[int, int]:
    """By holder, how many iterations are committed when the base's copy of stage 1 counts."""
    found = book._copies.items()
    return {
        c.holder.stage: how.counts_at for c, how in found if (c.of, c.version) == (1, book.base)
    }


def test_the_only_copy_counts_soon_also_if_it_was_ordered_while_there_was_another() -> None:
    book, at = counted(copies=2)
    assert due(book) == {3: at, 0: at}
    book.lose(Address(3), at)
    left = [seat for seat in SEATS if seat.stage != 3]
    book.orders(at, left, 1)
    assert due(book) == {0: at, 2: at + 9}
    book.lose(Address(0), at + 1)
    book.orders(at + 1, left[1:], 2)
    assert due(book) == {2: at + 3}


def test_the_only_copy_on_another_machine_counts_soon() -> None:
    """The one on its stage's own may be lost with it; another helps if there is a machine."""
    book, at = counted(copies=1)
    book.orders(at, SEATS, 1, dict.fromkeys(SEATS, Location("one")))
    assert due(book) == {3: at}
    there = {seat: Location(name) for seat, name in zip(SEATS, "abab", strict=True)}
    book.orders(at, SEATS, 1, there)
    assert due(book) == {3: at, 0: at + 2}
    book.orders(at + 2, SEATS, 1, {**there, SEATS[3]: Location("c")})
    assert due(book) == {3: at, 0: at + 2}


def test_a_wave_that_a_stage_lacks_for_good_is_given_up_for_another() -> None:
    """It was handed on, which its clones are not, and its holder is lost."""
    book, at = counted(copies=1)
    while book._pending is None:
        train(book, at)
        at += 1
    for seat in (ONE, THREE):
        book.lose(seat, at)
    back = {seat: Recipe("handover", (Source(seat, seat.stage, at),)) for seat in (ONE, THREE)}
    book.rebuilt(Repair(back, at))
    book.settle(at, SEATS)
    assert book._pending is None
    train(book, at)
    assert book._pending == at + 1


def test_where_a_stage_can_not_be_replayed_the_next_wave_counts_soon() -> None:
    """The one that is on its way, or another; unless a copy is about to mend it."""
    book, at = counted(copies=1)
    book.hurry(at)
    train(book, at)
    assert (book._pending, book._counts_at) == (at + 1, at + 3)

    book, at = counted(copies=1)
    while book._pending is None:
        train(book, at)
        at += 1
    pending = book._pending
    book.hurry(at)
    train(book, at)
    assert (book._pending, book._counts_at) == (pending, at + 2)
    assert {how.counts_at for c, how in book._copies.items() if c.version == pending} == {at + 2}

    book, at = counted(copies=1)
    book.lose(THREE, at)
    book.orders(at, SEATS, 1)
    assert at + 2 in due(book).values()
    book.hurry(at)
    train(book, at)
    assert (book._pending, book._counts_at) == (at + 1, at + 10)  # as it was due by itself


def test_nothing_is_hurried_that_logs_have_no_room_for() -> None:
    """They would be begun anew before it counts, and the next one would be as urgent."""
    for room, hurried in ((2, False), (3, True)):
        book = ReplayBook(ReplayTerms(9, log_memory=room * BYTES), 0, SEATS)
        for at in range(room):
            train(book, at)
        book._base, book._pending = None, None
        book._trim()
        book.hurry(room)
        assert book._urgent is hurried


def test_a_log_that_is_made_whole_has_nothing_that_a_twin_s_log_has() -> None:
    """Of any iteration: also of those after the first."""
    seat, twin = Address(1, 0), Address(1, 1)
    book = ReplayBook(ReplayTerms(1, every=50), 0, [seat, twin])
    for iteration in range(4):
        passed = Passed(Course((), {}), {}, {}, {seat: BYTES, twin: BYTES})
        book.committed(iteration, passed, (), {})
    book.lose(seat, 3)
    copied = Recipe("replica", (Source(twin, 1, 3),))
    book.rebuilt(Repair({seat: copied}, 3))
    assert book.logged(1, [seat, twin]) == {seat: 3, twin: 0}
    book.rebuilt(Repair({}, 4, {seat: Relog(Recipe(REPLAY, ()), 4)}))
    assert [passed.logged[seat] for passed in book.passed.values()] == [BYTES] * 4


@pytest.mark.parametrize(("until", "since"), [(2, 3), (3, 0), (4, 0)])
def test_a_log_is_whole_only_if_it_is_computed_as_far_as_it_reaches_back(
    until: int, since: int
) -> None:
    """Who needs it may need no more than its beginning."""
    seat, other = Address(1), Address(2)
    book = ReplayBook(ReplayTerms(1, every=50), 0, [seat, other])
    for iteration in range(4):
        passed = Passed(Course((), {}), {}, {}, {seat: BYTES, other: BYTES})
        book.committed(iteration, passed, (), {})
    book.unlogged(seat, 3)
    assert book.logged(1, [seat]) == {seat: 3}
    book.rebuilt(Repair({}, 4, {seat: Relog(Recipe(REPLAY, ()), until)}))
    assert book.logged(1, [seat]) == {seat: since} and book.logged(2, [other]) == {other: 0}


def test_whoever_can_t_read_its_log_begins_anew_if_it_is_being_replayed() -> None:
    seat = Address(1)
    book = ReplayBook(ReplayTerms(1, every=50), 0, [seat, Address(2)])
    book.lose(seat, 3)
    book.reached[seat] = 2
    book.unlogged(seat, 2)
    assert not book.reached and not book.logged(1, [seat])
    assert book.logged(2, [Address(2)]) == {Address(2): 0}


def test_a_stage_that_is_made_anew_makes_the_wave_on_its_way_worthless() -> None:
    """The next one is due at once, not only when that would have counted."""
    book, at = ReplayBook(ReplayTerms(lag=5), 0, SEATS), 0
    while not book.clones:
        train(book, at)
        at += 1
    assert book.wave(at, SEATS, 1000) == ()  # one is on its way
    book.lose(ONE, at)
    book.rebuilt(Repair({ONE: Recipe("shadow")}, at))
    assert {*book.wave(at, SEATS, 1000)} == {*SEATS}


def check_sums(book: ReplayBook, committed: int) -> None:
    """The bytes of the fullest log, and the routes, against all that has passed."""
    since, total = book.logs or 0, Counter[Address]()
    for iteration, passed in book.passed.items():
        for seat, count in passed.logged.items():
            if iteration >= max(since, book._logs.get(seat, since)):
                total[seat] += count
    assert book._fullest() == max(total.values(), default=0)
    seen = book.protection(committed, SEATS)
    assert seen is not None
    assert seen.routes == {i: passed.course.routes for i, passed in book.passed.items()}
    newest = book.passed.get(max(book.passed, default=-1))
    assert newest is None or book._most() == max(newest.logged.values())


@pytest.mark.parametrize("seed", range(40))
def test_what_is_kept_of_sums_is_what_summing_would_give(seed: int) -> None:
    """Whatever befalls: an iteration adds to them, and anything else may change them all."""
    rng = random.Random(seed)
    terms = ReplayTerms(rng.choice((1, 2)), rng.choice((None, 4)), rng.choice((None, 9 * BYTES)))
    book, at, done = ReplayBook(terms, 0, SEATS), 0, Counter[str]()
    for _ in range(120):
        seat = rng.choice(SEATS)
        what = rng.choice((*["train"] * 6, "lose", "copied", "replayed", "anew", "back", "took"))
        if what == "train":
            wave = book.wave(at, SEATS, 1000)
            logged = {other: rng.randrange(BYTES) for other in SEATS}
            book.committed(at, Passed(Course(((ONE,) * at,), {}), {}, {}, logged), wave, {})
            at += 1
            book.orders(at, SEATS)
            book.settle(at, SEATS)
        elif what == "lose":
            book.lose(seat, at)
        elif what == "copied":
            book.rebuilt(Repair({seat: Recipe("replica", (Source(ONE, 1, at),))}, at))
        elif what == "replayed":
            book.rebuilt(Repair({}, at, {seat: Relog(Recipe(REPLAY), at)}))
        elif what == "anew":
            book.rebuilt(Repair({seat: Recipe("shadow")}, at))
        elif what == "took" and book.base is not None:
            told = {other: ForReplays(rng.randrange(book.base, at + 1)) for other in SEATS}
            book.take_over(book.base, told, SEATS, {}, drawn=False, stored="")
        elif what == "back" and book.base is not None:
            at = book.base
            book.go_back(SEATS)
        done[what if book.passed else f"{what}, nothing"] += 1
        check_sums(book, at)
    assert done["train"] > 30, done
