"""What a seat is told that is to run iterations once more: how they ran, as far as concerns it."""

from __future__ import annotations

from collections.abc import Collection

from checkfree.core.ops import Address, Course, Recipe
from checkfree.messages.control import RESUME, Again
from checkfree.recovery.replay.book import ReplayBook


def again(
    book: ReplayBook,
    seat: Address,
    recipe: Recipe,
    until: int,
    seats: Collection[Address],
    *,
    aside: bool = False,
) -> Again:
    """From what its recipe begins with to version ``until``; ``seats``: all that there are."""
    base = book.base
    assert base is not None
    start = recipe.sources[0].version if recipe.sources else base
    courses: list[Course] = []
    places: dict[int, int] = {}
    steps: list[tuple[int, float, float]] = []
    for iteration in range(start, until):
        passed = book.passed[iteration]
        which = places.setdefault(id(passed.course), len(places))
        if which == len(courses):
            schedule = passed.course.schedule
            own = {other: ops for other, ops in schedule.items() if other.stage == seat.stage}
            courses.append(Course(passed.course.routes, own))
        steps.append((which, passed.clip[seat.stage], passed.norms[seat.stage]))
    version, digest = book.digests.get(seat.stage, (-1, 0))
    return Again(
        start,
        tuple(courses),
        tuple(steps),
        tuple(sorted(other for other in seats if other != seat)),
        () if aside else book.clones,
        book.stored or RESUME,
        aside,
        book.copied(seat.stage) if start == base else None,
        digest if version == until and not aside else None,
        book.tolerance,
        book.logged(seat.stage, seats) if aside else {},
    )
