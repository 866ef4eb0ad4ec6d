"""Who took part in a run, and on what each computed, as its records tell. Bits are the same only
where all of that is (semantics 17), so whoever goes on with a run, joins it or verifies it is held
against those before.

Nothing is concluded from what is not known: runs of older versions tell of their first process
alone, and not of all that it computed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from checkfree.core.ops import Address
from checkfree.core.records import LEADS_OWN, ProcessRecord, of_kind

Records = Sequence[Mapping[str, Any]]
Facts = Mapping[str, str]
"""What a process computes on, by name; see :func:`checkfree.session.equipment.equipment`."""
Differences = Sequence[tuple[str, str, str]]
"""Each a fact's name, what it was, and what it is now."""

LIKELIEST = ("devices", "cpu", "threads", "processor", "math", "torch", "code", "numpy", "python")
"""What other bits most likely come from, the likeliest first; then all else."""
RULE = "strategy's code"
"""The fact that runs of a comparison have each of their own."""
PROCESS = ProcessRecord.kind


@dataclass(frozen=True)
class Participant:
    """A process, and from which iteration on it took part. ``seat`` "": all seats, or those of its
    machine."""

    since: int
    facts: Facts
    seat: str = ""

    def __str__(self) -> str:
        if self.seat:
            return f"at seat {self.seat} from iteration {self.since} on"
        return f"from iteration {self.since} on" if self.since else "at first"


def participants(records: Records) -> list[Participant]:
    """All of whom something is known, in the order in which they came."""
    told = of_kind(records, PROCESS)
    found = _of_use([Participant(r["iteration"], r["equipment"], r.get("seat", "")) for r in told])
    began, before = of_kind(records, "config"), _before_all(records)
    trained = any(record["kind"] in LEADS_OWN for record in before)
    if not began or not trained or _have_joined(before):
        return found
    first = {**began[0]["versions"]}
    if "threads" in began[0]["config"]:
        first["threads"] = str(began[0]["config"]["threads"])
    return [Participant(0, first), *found]


def _of_use(told: Sequence[Participant]) -> list[Participant]:
    """Without those of whose work nothing is left: another began where they did."""
    alone = [who for who in told if not who.seat]
    useless = [who for who, other in pairwise(alone) if other.since <= who.since]
    return [who for who in told if not any(who is other for other in useless)]


def has_strangers(records: Records) -> bool:
    """Others took part of whom nothing is known."""
    before = _before_all(records)
    return _have_joined(before) or bool(of_kind(before, "resume"))


def _have_joined(records: Records) -> bool:
    return any(plan.get("hosts") for plan in of_kind(records, "plan"))


def _before_all(records: Records) -> Records:
    """What comes before the first process that is told of: in a run of an older version trained by
    one that is not."""
    places = (place for place, record in enumerate(records) if record["kind"] == PROCESS)
    return records[: next(places, len(records))]


class Company:
    """All who took part in a run so far."""

    def __init__(self, records: Records):
        told = of_kind(records, PROCESS)
        self._known = {(r["seat"], r.get("life", 0)) for r in told if "seat" in r}
        self._first = next((who.facts for who in participants(records)), None)

    def joined(
        self, iteration: int, facts: Facts, seat: Address | None = None, life: int = 0
    ) -> ProcessRecord | None:
        """Somebody takes part from that iteration on; None: that life of a seat is known."""
        at = "" if seat is None else str(seat)
        if (at, life) in self._known:
            return None
        if at:
            self._known.add((at, life))
        if self._first is None:
            self._first = facts
        return ProcessRecord(iteration, facts, at, life, differences(self._first, facts))


def differences(then: Facts, now: Facts) -> Differences:
    """What is known of both, and not the same; the likeliest cause of other bits first."""
    names = sorted(then.keys() & now.keys(), key=_likelihood)
    return tuple((name, then[name], now[name]) for name in names if then[name] != now[name])


def _likelihood(name: str) -> tuple[int, str]:
    place = LIKELIEST.index(name) if name in LIKELIEST else len(LIKELIEST)
    return place, name


def render_differences(differs: Iterable[Sequence[str]]) -> str:
    """One line of a process: "cpu DEFAULT (AVX512 at first), threads 2 (1 at first)"."""
    told = (f"{name} {now} ({then} at first)" for name, then, now in differs)
    return f"{', '.join(told)}: bits may differ"


def apart(known: Iterable[Participant], here: Facts) -> list[str]:
    """In words in what those who took part differ from whoever verifies, the likeliest cause of
    other losses first: "cpu was AVX512 at first, and is DEFAULT here"."""
    found: dict[str, dict[str, Participant]] = {}
    for who in known:
        for name, then, _ in differences(who.facts, here):
            found.setdefault(name, {}).setdefault(then, who)
    words = []
    for name in sorted(found, key=_likelihood):
        was = " and ".join(f"{then} {who}" for then, who in found[name].items())
        words.append(f"{name} was {was}, and is {here[name]} here")
    return words


def render_cause(records: Records, here: Facts, until: int | None = None) -> str:
    """Why losses may have come out otherwise here than in a run, at that iteration: in what those
    who took part by then computed on something else."""
    known = [who for who in participants(records) if until is None or who.since <= until]
    if found := apart(known, here):
        return f"most likely because {'; also, '.join(found)}"
    if has_strangers(records):
        return "of others than the first process that trained it nothing is known"
    return "all that took part had the same versions, kind of CPU and threads as this process"


def unequal(runs: Iterable[Records]) -> list[str]:
    """The names of what not all computed on alike who took part in these runs."""
    found: dict[str, set[str]] = {}
    for who in (who for records in runs for who in participants(records)):
        for name, value in who.facts.items():
            found.setdefault(name, set()).add(value)
    return sorted(name for name, values in found.items() if len(values) > 1 and name != RULE)
