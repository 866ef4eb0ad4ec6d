"""Whole or a change: decided by what was left where, and by what the lead counts on."""

from __future__ import annotations

from collections.abc import Collection

from checkfree.core.ops import Address, Shadow, Transfer
from checkfree.messages.control import Begin, Ticket
from checkfree.recovery.shadow.references import References

OWNER, HOLDER, OTHER = Address(2), Address(3), Address(4)
KEEP = Transfer(OWNER, HOLDER, "signs")


def plan(iteration: int, *counted: Shadow, seats: Collection[Address] = (OWNER, HOLDER)) -> Begin:
    """An iteration of these seats, with what the lead counts on."""
    return Begin(Ticket(0, iteration), (), dict.fromkeys(seats, ()), (), (KEEP,), counted)


def left(version: int = 5, holder: Address = HOLDER) -> References[str]:
    made = References[str](OWNER)
    made.leave(holder, version, f"as of {version}")
    return made


def test_a_change_is_of_what_counts() -> None:
    begin = plan(12, Shadow(2, HOLDER, 5))
    base = left().base(KEEP, begin)
    assert base is not None and (base.version, base.item) == (5, "as of 5")


def test_of_anything_else_a_whole_copy_is_sent() -> None:
    """On its way, of another stage, at another seat, of another version, or of nobody."""
    for counted in ((), (Shadow(1, HOLDER, 5),), (Shadow(2, OTHER, 5),), (Shadow(2, HOLDER, 4),)):
        assert left().base(KEEP, plan(12, *counted)) is None
    begin = plan(12, Shadow(2, HOLDER, 5))
    assert left(holder=OTHER).base(KEEP, begin) is None
    assert References[str](OWNER).base(KEEP, begin) is None


def test_each_holder_has_its_own() -> None:
    made = left(5)
    made.leave(OTHER, 9, "as of 9")
    begin = plan(14, Shadow(2, HOLDER, 5), Shadow(2, OTHER, 9))
    found = [made.base(KEEP._replace(holder=seat), begin) for seat in (HOLDER, OTHER)]
    assert [base.version for base in found if base is not None] == [5, 9]


def test_who_becomes_something_else_forgets() -> None:
    made = left()
    made.clear()
    assert made.base(KEEP, plan(12, Shadow(2, HOLDER, 5))) is None


def test_only_what_counts_or_may_count_soon_is_remembered() -> None:
    for iteration, counted, kept in (
        (6, (), True),
        (7, (), False),
        (12, (Shadow(2, HOLDER, 5),), True),
        (12, (Shadow(2, HOLDER, 4),), False),
    ):
        made = left()
        made.tidy(plan(iteration, *counted))
        assert bool(list(made.items())) is kept, (iteration, counted)


def test_another_owner_of_the_stage_begins_anew() -> None:
    """The second seat of a stage pushes only while the first is away."""
    begin = plan(12, Shadow(2, HOLDER, 5), seats=(OWNER, Address(2, 1), HOLDER))
    first, second = left(), References[str](Address(2, 1))
    second.leave(HOLDER, 5, "as of 5")
    for made in (first, second):
        made.tidy(begin)
    assert list(first.items()) and not list(second.items())
