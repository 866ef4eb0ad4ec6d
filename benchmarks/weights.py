"""What the processes of a run weigh, and by how much they grow as they live.

All are forks of one fork server and share its memory, some 130 MB, until they write to it. A page
that they write to is then their own, but no memory more than they had: over thousands of
iterations the holes in that memory are used one by one. So growth is counted in all anonymous
memory of a process, own and shared, which copying a page leaves as it is and a leak does not. It
is given as a share of what is the process' own alone, so that the shared part makes no leak look
small.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

GROWN_UP = 200
"""Iterations of a process' life that do not count: allocators and caches get their share."""
LONG = 100
"""Iterations that it has to live after that to be judged."""


@dataclass(frozen=True)
class Weight:
    """Of a process at a tick, in bytes: what is its own alone, and all anonymous memory, swapped
    out or not."""

    tick: int
    own: int
    anonymous: int


def weigh(pid: int, tick: int) -> Weight | None:
    """None: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = {w[0]: 1024 * int(w[1]) for line in lines[1:] if (w := line.split())}
    own = found.get("Private_Clean:", 0) + found.get("Private_Dirty:", 0)
    return Weight(tick, own, found.get("Anonymous:", 0) + found.get("Swap:", 0))


@dataclass
class Scale:
    """Weighs every process again and again; ``by_process`` is by name and pid."""

    by_process: dict[tuple[str, int], list[Weight]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def put(self, name: str, pid: int, tick: int) -> None:
        """Weigh one."""
        weight = weigh(pid, tick)
        if weight is not None and weight.own:
            self.by_process[name, pid].append(weight)

    def grown(self) -> dict[tuple[str, int], tuple[float, float]]:
        """Of those that lived long enough: the growth as this file has it, and that of what is
        theirs alone, copied pages among it."""
        found = {}
        for process, weights in self.by_process.items():
            old = [w for w in weights if w.tick >= weights[0].tick + GROWN_UP]
            if old and old[-1].tick >= old[0].tick + LONG:
                first, last = old[0], old[-1]
                new = (last.anonymous - first.anonymous) / first.own
                found[process] = new, last.own / first.own - 1
        return found

    def course(self, process: tuple[str, int]) -> str:
        """Its growth in each quarter of its grown-up life: a leak has no last one."""
        weights = self.by_process[process]
        old = [w for w in weights if w.tick >= weights[0].tick + GROWN_UP]
        corners = [old[round(place * (len(old) - 1) / 4)] for place in range(5)]
        steps = ((b.anonymous - a.anonymous) / old[0].own for a, b in pairwise(corners))
        return ", ".join(f"{step:+.1%}" for step in steps)

    def report(self) -> None:
        """A line, and one for each process that grew most."""
        found = self.grown()
        if not found:
            print(f"memory: no process lived for {GROWN_UP + LONG} iterations")
            return
        for name in sorted({name for name, _ in found}):
            new, own = max(grown for (whose, _), grown in found.items() if whose == name)
            print(f"memory of {name:10}{new:+7.1%}, with pages copied {own:+7.1%}")
        longest = max(found, key=lambda process: len(self.by_process[process]))
        print(f"memory of {longest[0]}, by quarters of its life: {self.course(longest)}")
        middle = median(new for new, _ in found.values())
        worst = max(new for new, _ in found.values())
        print(f"memory: median {middle:+.1%}, worst {worst:+.1%}, of {len(found)} processes")
