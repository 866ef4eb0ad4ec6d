"""Lives and seats: old news never changes anything."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from checkfree.core.ops import Address
from checkfree.lead.membership import Membership

SEATS = [Address(stage, replica) for stage in range(3) for replica in range(2)]
A, B = Address(1, 0), Address(1, 1)
seats, lives = st.sampled_from(SEATS), st.integers(0, 6)


def of(members: Membership) -> tuple[Any, ...]:
    return frozenset(members.alive), frozenset(members.uninitialized), dict(members.lives)


def test_all_seats_are_alive_at_first() -> None:
    members = Membership(SEATS)
    assert members.alive == set(SEATS) and not members.uninitialized and members.whole()
    assert members.names() == {str(seat): 0 for seat in SEATS}


def test_a_seat_is_lost_joined_and_filled() -> None:
    members = Membership(SEATS)
    assert members.lose(A, 0) and not members.holds(A)
    assert members.join(A, 1) and members.uninitialized == {A}
    assert "1.0" not in members.names()  # uninitialized is not alive
    members.fill([A])
    assert members.names()["1.0"] == 1


def test_a_stage_without_any_seat_is_not_whole() -> None:
    members = Membership(SEATS)
    members.lose(A, 0)
    assert members.whole()
    members.lose(B, 0)
    assert not members.whole()
    members.join(B, 1)
    assert members.whole()  # if only an uninitialized one


def test_news_of_an_earlier_life_cannot_touch_a_later_one() -> None:
    members = Membership(SEATS)
    members.lose(A, 0)
    members.join(A, 1)
    before = of(members)
    assert not members.lose(A, 0)  # its Lost came after the Joined of its successor
    assert not members.join(A, 0)
    assert of(members) == before


def test_lives_of_a_snapshot_go_on() -> None:
    members = Membership(SEATS, {A: 4})
    assert not members.lose(A, 3) and A in members.alive
    assert members.lose(A, 4) and members.lives[A] == 5


def test_losses_are_told_once() -> None:
    members = Membership(SEATS)
    members.lose(A, 0)
    members.lose(A, 0)
    members.lose(B, 0)
    assert members.take_losses() == {A, B}
    assert members.take_losses() == set()


def test_told_to_become_something_else_is_no_loss() -> None:
    members = Membership(SEATS)
    members.empty(SEATS)
    assert members.uninitialized == set(SEATS) and not members.alive
    assert members.take_losses() == set() and members.whole()


class Lives(RuleBasedStateMachine):
    """Random news in random order, beside a model of one life per seat."""

    def __init__(self) -> None:
        super().__init__()
        self.members = Membership(SEATS)
        self.sitting: dict[Address, tuple[int, bool]] = dict.fromkeys(SEATS, (0, True))
        self.next_life = dict.fromkeys(SEATS, 0)
        self.losses: set[Address] = set()

    @rule(seat=seats, life=lives)
    def lose(self, seat: Address, life: int) -> None:
        old, before = life < self.next_life[seat], of(self.members)
        held = not old and self.sitting.pop(seat, None) is not None
        assert self.members.lose(seat, life) is held
        if old:
            assert of(self.members) == before
        else:
            self.next_life[seat] = life + 1
        self.losses |= {seat} if held else set()

    @rule(seat=seats, life=lives)
    def join(self, seat: Address, life: int) -> None:
        sits = seat not in self.sitting and life >= self.next_life[seat]
        before = of(self.members)
        assert self.members.join(seat, life) is sits
        if sits:
            self.sitting[seat], self.next_life[seat] = (life, False), life
        else:
            assert of(self.members) == before

    @rule()
    def fill_all(self) -> None:
        self.members.fill(set(self.members.uninitialized))
        self.sitting = {seat: (life, True) for seat, (life, _) in self.sitting.items()}

    @rule()
    def empty_all(self) -> None:
        self.members.empty(set(self.members.alive))
        self.sitting = {seat: (life, False) for seat, (life, _) in self.sitting.items()}

    @rule()
    def take(self) -> None:
        assert self.members.take_losses() == self.losses
        self.losses = set()

    @invariant()
    def as_the_model_says(self) -> None:
        alive = {str(seat): life for seat, (life, full) in self.sitting.items() if full}
        assert self.members.names() == alive
        assert self.members.uninitialized == {
            s for s, (_, full) in self.sitting.items() if not full
        }
        assert self.members.whole() == ({s.stage for s in self.sitting} == {0, 1, 2})


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.data())
def test_lives_never_go_down(data: st.DataObject) -> None:
    members = Membership(SEATS)
    for _ in range(20):
        before = dict(members.lives)
        call = data.draw(st.sampled_from([members.lose, members.join]))
        call(data.draw(seats), data.draw(lives))
        assert all(members.lives[seat] >= before[seat] for seat in SEATS)
