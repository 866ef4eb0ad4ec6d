"""Where each op of a microbatch stands in schedules of seats with two chunks: a pattern that every
microbatch repeats, as papers draw it.

A *place* is a number: each worker runs its ops by rising places. Along a microbatch's way out and
home they rise, too; so what all wait for is always the op with the least place of those that have
not run, and that one can run: no deadlock, on any routes that visit as many hops.

Places are slots of a steady state in which all ops take one slot. They decide an order and nothing
else: an op runs as soon as it is its turn and its input is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

_PERIOD = 6  # slots of a microbatch at a body seat: F, B and W of both chunks


@dataclass(frozen=True)
class Pattern:
    """``forwards`` and ``backwards``: places of the first microbatch at hops 0 … 2n + 1 of a route
    over n body stages; each further one of a group stands ``step`` later, each group of ``group``
    microbatches ``period`` later. ``most``: chunks that a body seat may hold."""

    forwards: tuple[float, ...]
    backwards: tuple[float, ...]
    step: float
    group: int
    period: float
    most: int

    @property
    def held(self) -> int:
        """Chunks that a body seat of a V holds at most, once all of its slots are taken."""
        hops = len(self.forwards) - 2
        return max(
            sum(
                floor((now - self.forwards[hop]) / self.period)
                - floor((now - self.backwards[hop]) / self.period)
                for hop in (seat, hops + 1 - seat)
            )
            for seat in range(1, hops // 2 + 1)
            for now in (self.forwards[seat], self.forwards[hops + 1 - seat])
        )

    def place(self, microbatch: int, hop: int, *, forward: bool) -> float:
        """Of the op of a microbatch, the how manieth on its seats, at a hop."""
        groups, further = divmod(microbatch, self.group)
        first = self.forwards[hop] if forward else self.backwards[hop]
        return first + self.period * groups + self.step * further


def v_pattern(delays: tuple[int, int, int, int], stages: int, most: int, lag: int) -> Pattern:
    """Of V schedules (arXiv 2405.15362, section 3): ``delays`` are slots from one seat's forward to
    the next one's, in the first chunks and in the second, and from one backward to the next, in the
    second chunks and in the first. The more of them, the longer a microbatch is held, and the
    better is the pipeline filled.

    Where a slot is taken at a seat in all periods, the next one is; so two of six stay free for
    gradients of weights. ``lag``: slots that the loss takes.
    """
    taken: dict[int, set[int]] = {seat: set() for seat in range(stages)}
    hops = 2 * stages
    out, down, up, home = delays

    def settle(hop: int, place: int) -> int:
        own = taken[min(hop, hops - 1 - hop)]
        while place % _PERIOD in own:
            place += 1
        own.add(place % _PERIOD)
        return place

    forwards, backwards, now = list[float](), dict[int, float](), 0
    for hop in range(hops):
        now = settle(hop, now)
        forwards.append(now)
        now += 1 if hop == stages - 1 else out if hop < stages else down
    now = int(forwards[-1]) + 1 + lag
    for hop in reversed(range(hops)):
        now = settle(hop, now)
        backwards[hop] = now
        now += 1 if hop == stages else up if hop > stages else home
    return _with_ends(forwards, [backwards[hop] for hop in range(hops)], _PERIOD, 1, _PERIOD, most)


def loop_pattern(stages: int, most: int) -> Pattern:
    """Of interleaved 1F1B (arXiv 2104.04473, section 2.2): as many microbatches as there are stages
    go through the first chunks, then the same through the second ones, and home alike.

    Seat r of 0 … n - 1 has 2 (n - r - 1) + n forwards before its first backward, and from there on
    one of each in turn, three slots.
    """
    chunks, seats = range(2), range(stages)
    pairs = [(chunk, seat) for chunk in chunks for seat in seats]
    forwards = [3.0 * (chunk * stages + seat - 3 * stages + 2) for chunk, seat in pairs]
    backwards = [3.0 * ((1 - chunk) * stages - seat) + 1 for chunk, seat in pairs]
    return _with_ends(forwards, backwards, 3, stages, 6 * stages, most)


def _with_ends(
    forwards: list[float],
    backwards: list[float],
    step: float,
    group: int,
    period: float,
    most: int,
) -> Pattern:
    """With stage 0 before and behind, whose seat does nothing else."""
    loss = forwards[-1] + 0.3, forwards[-1] + 0.6
    first, last = (forwards[0] - 1, backwards[0] + 1)
    ways = (first, *forwards, loss[0]), (last, *backwards, loss[1])
    return Pattern(*ways, step, group, period, most)


@dataclass(frozen=True)
class VSchedule:
    """``delays``: see :func:`v_pattern`. ``share``, ``more``: a body seat holds that share of n
    microbatches and so many more, rounded down: those of the paper and one, for here stage 0 takes
    the loss. ``lags``: the loss has slots of its own."""

    delays: tuple[int, int, int, int]
    share: int
    more: int
    lags: bool = True

    def most(self, stages: int) -> int:
        """Microbatches that a body seat may hold, of both chunks."""
        return (stages + self.more) // self.share + 1

    def pattern(self, stages: int, lag: int) -> Pattern:
        """For so many body stages, and slots of a loss: as many as leave it within its bound."""
        most, lag = 2 * self.most(stages), lag if self.lags else 0
        found = v_pattern(self.delays, stages, most, lag)
        while found.held > most and lag:
            lag -= 1
            found = v_pattern(self.delays, stages, most, lag)
        return found


V_SCHEDULES: Mapping[str, VSchedule] = {
    "zbv": VSchedule((1, 4, 1, 2), 1, 0, lags=False),
    "v_half": VSchedule((1, 2, 1, 1), 2, 2),
    "v_min": VSchedule((1, 1, 1, 1), 3, 4),
}
"""Delays are those with the least bubble of all of 1 to 4 slots, for 2 to 16 stages, within what
the paper has a seat hold."""
