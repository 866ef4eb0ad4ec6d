"""What ops cost, relative to each other: enough to put them in a good order."""

from __future__ import annotations

from dataclasses import dataclass

from checkfree.core.ops import Kind, Op, Route


@dataclass(frozen=True)
class Costs:
    """Relative costs, in forwards of one body stage. Schedules resolve a millionth of that.

    They decide an order and nothing else: with every cost 1, 1F1B comes out worse than GPipe.
    """

    forward: float = 1.0
    """Of a body stage."""

    backward: float = 2.0
    """Of a body stage."""

    embed: float = 0.1
    """Forward of the first hop; its backward costs twice that."""

    head: float = 0.3
    """Forward of the last hop, loss included; its backward costs twice that."""

    transfer: float = 0.0
    """Of an activation or gradient from one worker to another."""

    def duration(self, op: Op, route: Route) -> float:
        """What ``op`` costs the worker that runs it. ``REDUCE`` is free."""
        if op.kind is Kind.REDUCE:
            return 0.0
        edge = self._edge(op.hop, len(route))
        if op.kind is Kind.BACKWARD:
            return self.backward if edge is None else 2 * edge
        return self.forward if edge is None else edge

    def _edge(self, hop: int, num_hops: int) -> float | None:
        """Forward cost of stage 0's two hops; None for a hop of the body."""
        if hop == 0:
            return self.embed
        return self.head if hop == num_hops - 1 else None
