"""How a run goes at the moment: what stands in no record, and is told to whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkfree.core.ops import Address
from checkfree.core.units import render_seconds


@dataclass(frozen=True)
class ReplayProgress:
    """How far a seat has come that is replayed from version ``base`` to ``until``."""

    seat: Address
    base: int
    until: int
    at: int | None = None
    """The version that it has reached; None: it waits for its copy."""
    checked: bool = False
    """What comes of it is held against a sum over what was lost."""
    seconds: float | None = None
    """To go, at the rate of this replay; None: nobody knows yet."""


@dataclass(frozen=True)
class LiveStatus:
    """What can be seen of a run beside its records. ``unprotected``: stages that no replay could
    give back if they were lost now, each with the iteration since which that is so; None: the run
    replays none. ``goodput``: see :mod:`checkfree.core.goodput`; None: not known yet."""

    replays: Sequence[ReplayProgress] = ()
    unprotected: Mapping[int, int] | None = None
    goodput: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, as ``checkfree swarm status --json`` has it."""
        since = self.unprotected
        return {
            "replaying": [{**vars(found), "seat": str(found.seat)} for found in self.replays],
            "unprotected": None if since is None else sorted(since),
            "unprotected_since": {str(stage): at for stage, at in sorted((since or {}).items())},
            "goodput": self.goodput,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> LiveStatus:
        """The status that ``to_json`` made plain, with anything else beside it. A lead may not have
        told all of it yet."""
        known, since = told.get("unprotected"), told.get("unprotected_since", {})
        return cls(
            tuple(
                ReplayProgress(**{**plain, "seat": Address.parse(plain["seat"])})
                for plain in told.get("replaying", ())
            ),
            None if known is None else {stage: since[str(stage)] for stage in known},
            told.get("goodput"),
        )


def render_replays(replays: Sequence[ReplayProgress]) -> str:
    """One line: "replays stage 2 (5 of 17 iterations since 480), about 6.1 s to go"; "": none."""
    if not replays:
        return ""
    stages = ", ".join(f"stage {found.seat.stage} ({_come(found)})" for found in replays)
    known = [found.seconds for found in replays if found.seconds is not None]
    told = f", about {render_seconds(max(known))} to go" if len(known) == len(replays) else ""
    return f"replays {stages}{told}"


def _come(found: ReplayProgress) -> str:
    if found.at is None:
        return f"waits for its copy of {found.base}"
    return f"{found.at - found.base} of {found.until - found.base} iterations since {found.base}"


def render_unprotected(since: Mapping[int, int]) -> str:
    """Of each: "stage 3 (unprotected since iteration 498)"; "": none."""
    stages = sorted(since.items())
    return ", ".join(f"stage {stage} (unprotected since iteration {at})" for stage, at in stages)
