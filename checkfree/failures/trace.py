"""What is lost, and when: a failure, and the trace that a run is given before it starts.

Rule: data only. A trace names seats and ticks; runtimes do the killing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address

STOP = "stop"
"""The kind of a failure that hangs a process instead of ending it (SIGSTOP), in a swarm."""


@total_ordering
@dataclass(frozen=True)
class Failure:
    """One loss, before the first op of ``tick`` (semantics 5).

    Without ``replica`` every replica of the stage dies, which is the paper's unit; with it, that
    seat alone. Failures sort by tick, stage and replica, a whole stage before its seats.
    """

    tick: int
    stage: int
    replica: int | None = None
    kind: str = "crash"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Failure):
            return NotImplemented
        return self._key < other._key

    def __str__(self) -> str:
        seat = f"S{self.stage}" if self.replica is None else f"{self.stage}.{self.replica}"
        return f"{seat} at tick {self.tick}"

    @property
    def _key(self) -> tuple[int, int, int, str]:
        return self.tick, self.stage, -1 if self.replica is None else self.replica, self.kind


Trace = tuple[Failure, ...]
"""Sorted, and no seat twice in one tick: what :func:`make_trace` returns."""


def make_trace(failures: Iterable[Failure]) -> Trace:
    """Sorted, without a seat that the same tick has lost already, alone or with its stage."""
    kept: dict[tuple[int, int, int | None], Failure] = {}
    for failure in sorted(failures):
        if (failure.tick, failure.stage, None) not in kept:
            kept.setdefault((failure.tick, failure.stage, failure.replica), failure)
    return tuple(kept.values())


def strikes(trace: Trace, tick: int) -> Trace:
    """The entries of one tick, which are lost together (semantics 5)."""
    start, end = (bisect_left(trace, t, key=lambda failure: failure.tick) for t in (tick, tick + 1))
    return trace[start:end]


def seats_hit(
    failures: Iterable[Failure], num_stages_total: int, replicas: int
) -> tuple[Address, ...]:
    """The seats that ``failures`` lose, each once, in address order.

    ``num_stages_total`` counts stage 0 too. Raises BadInput for a seat that the pipeline lacks.
    """
    seats: set[Address] = set()
    for failure in failures:
        check_seat(failure, num_stages_total - 1, replicas)
        hit = range(replicas) if failure.replica is None else (failure.replica,)
        seats.update(Address(failure.stage, replica) for replica in hit)
    return tuple(sorted(seats))


def check_seat(failure: Failure, stages: int | None, replicas: int | None) -> None:
    """Raise BadInput unless a pipeline of body stages S1 … S``stages`` has the seat.

    None for ``stages`` or ``replicas``: not known, not checked.
    """
    if stages is not None and not 0 <= failure.stage <= stages:
        raise BadInput(
            f"trace names stage {failure.stage}, this pipeline has stages 0 … {stages}: "
            f"change the entry of iteration {failure.tick}, or set stages to fit"
        )
    if replicas is not None and failure.replica is not None and failure.replica >= replicas:
        raise BadInput(
            f"trace names replica {failure.replica} of stage {failure.stage}, this pipeline has "
            f"replicas 0 … {replicas - 1}: change the entry of iteration {failure.tick}, or set "
            f"replicas to fit"
        )
