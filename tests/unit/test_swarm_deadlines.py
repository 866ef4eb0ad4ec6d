"""Who is killed before an iteration can end."""

from __future__ import annotations

import pytest

from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence.deadlines import MARGIN, Deadlines

ONE, TWO = (Address(1), 4), (Address(2), 0)


def test_an_iteration_that_takes_too_long_is_broken_off_once_and_at_once() -> None:
    deadlines = Deadlines()
    deadlines.asked(ONE, 30.0, now=100.0)
    assert deadlines.late(100.0, remains=20.0) == []
    assert deadlines.late(100.0, remains=79.0) == [ONE]
    assert deadlines.late(101.0, remains=79.0) == []


def test_one_that_takes_longer_than_usual_is_so_in_the_last_moment() -> None:
    deadlines = Deadlines()
    deadlines.asked(ONE, 30, now=100.0)
    deadlines.asked(ONE, 30, now=120.0)  # it asks again
    assert deadlines.late(130.0 - MARGIN - 0.1, remains=0.0) == []
    assert deadlines.late(130.0 - MARGIN + 0.1, remains=0.0) == [ONE]


@pytest.mark.parametrize("seconds", [None, "soon", -1.0, True, [3]])
def test_who_does_not_say_when_is_waited_for(seconds: object) -> None:
    deadlines = Deadlines()
    deadlines.asked(ONE, seconds, now=0.0)
    assert deadlines.late(1e9, remains=1e9) == []


def test_lives_that_are_over_are_forgotten() -> None:
    deadlines = Deadlines()
    deadlines.asked(ONE, 5.0, now=0.0)
    deadlines.asked(TWO, 5.0, now=0.0)
    deadlines.gone({ONE[0]: ONE[1] + 1, TWO[0]: TWO[1]})
    assert deadlines.late(10.0, remains=0.0) == [TWO]
