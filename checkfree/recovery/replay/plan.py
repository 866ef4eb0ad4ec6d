"""Which seats compute what again when stages are lost: pure, and the same for every runtime.

One rule: of each iteration since the base, whoever has not got there yet computes it, and whoever
is ahead sends again from its log what it sent then. A living seat whose log lacks it computes it
again as well, beside the state that it keeps::

    version        480 (base)                    497 (committed)
    stage 1        log ─────────────────────────────>  sends again
    stage 2 lost   copy > 480 > 481 > …         > 497  computes
    stage 3        moved at 490: log ─ ─ ─ ─490────>   computes 480 … 489 aside, sends the rest
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from checkfree.core.ops import (
    STORE,
    Address,
    Location,
    Protection,
    Recipe,
    Refusal,
    Relog,
    Repair,
    Route,
    Rung,
    Source,
    View,
)
from checkfree.pipeline.routes import far_away
from checkfree.recovery.rungs import REPLAY, WAVE
from checkfree.recovery.strategy import wholly_lost


class _Start(NamedTuple):
    """Of a stage: the seat that computes, from what, and up to which version."""

    seat: Address
    recipe: Recipe
    begins: int
    until: int


Locations = Mapping[Address, Location]
"""Of seats, as far as that is known. One that is unknown may be on any machine."""


def holders(
    stage: int,
    seats: Collection[Address],
    copies: int,
    having: Collection[Address] = (),
    locations: Locations = MappingProxyType({}),
) -> tuple[Address, ...]:
    """Where copies of a stage are to stand, beside those ``having`` one: a living seat each of
    other stages, beginning half the pipeline away, so that adjacent stages are not lost with them.

    On other machines than the stage's own seats, and each on another if that can be; of those
    rather in other zones. One that has come to stand on the stage's machine is made up for as soon
    as there is another: whoever holds it doesn't count.
    """
    own = [seat for seat in seats if seat.stage == stage]
    missing, beside = copies - len(having), sum(lost_with(h, own, locations)[0] for h in having)
    if missing + beside <= 0:
        return ()
    far = far_away(stage, 1 + max((seat.stage for seat in seats), default=0))
    order = {other: place for place, other in enumerate(far)}
    taken, without = list(having), order.keys() - {holder.stage for holder in having}
    free = [seat for seat in seats if seat.stage in without]

    def judged(seat: Address) -> tuple[Any, ...]:
        machine, zone = lost_with(seat, own, locations)
        return machine, zone, *lost_with(seat, taken, locations), order[seat.stage], seat

    apart = len({seat.stage for seat in free if not lost_with(seat, own, locations)[0]})
    found: list[Address] = []
    while free and len(found) < max(missing, min(missing + beside, apart)):
        found.append(min(free, key=judged))
        taken.append(found[-1])
        free = [seat for seat in free if seat.stage != found[-1].stage]
    return tuple(found)


def lost_with(seat: Address, others: Iterable[Address], locations: Locations) -> tuple[bool, bool]:
    """Whether a seat may be lost with the machine, or with the zone, of any of the others."""
    at, there = locations.get(seat), [locations.get(other) for other in others]
    machine = any(at is None or o is None or at.machine == o.machine for o in there)
    return machine, machine or any(at and o and at.area == o.area for o in there)


def survives(lost: Collection[Address], view: View) -> bool:
    """Whether these seats, lost together, would come back exactly."""
    left = _without(view, view.alive - frozenset(lost))
    return not isinstance(_starts(wholly_lost(lost, left), lost, left, frozenset()), Refusal)


def begins(view: View) -> dict[int, int]:
    """The version that a stage's replay would begin at, by stage: of those that would come back
    exactly if they were lost by themselves."""
    found: dict[int, int] = {}
    for stage in {seat.stage for seat in view.alive}:
        lost = [seat for seat in view.alive if seat.stage == stage]
        left = _without(view, view.alive - frozenset(lost))
        starts = _starts([stage], lost, left, frozenset())
        if not isinstance(starts, Refusal):
            found[stage] = starts[stage].begins
    return dict(sorted(found.items()))


def replays(
    lost: Collection[Address], view: View, refused: Collection[Source] = frozenset()
) -> Repair | Refusal:
    """One seat of every stage that is wholly lost is replayed; its twins copy it then."""
    gone = wholly_lost(lost, view)
    starts = _starts(gone, lost, view, refused)
    return starts if isinstance(starts, Refusal) else _planned(starts, gone, view)


def replays_of_some(
    lost: Collection[Address], view: View, refused: Collection[Source]
) -> Repair | Refusal:
    """As ``replays``, of as many stages as can be."""
    gone = wholly_lost(lost, view)
    whys = {stage: _starts([stage], lost, view, refused) for stage in gone}
    can = [stage for stage, starts in whys.items() if not isinstance(starts, Refusal)]
    starts = _starts(can or gone, lost, view, refused)
    return starts if isinstance(starts, Refusal) else _planned(starts, gone, view)


def back_to_wave(view: View, most: int, refused: Collection[Source]) -> Repair | Refusal:
    """A repair by which all go back to the version that replays begin at, by at most so many
    iterations: for stages whose copy is there, and that no replay makes the same again."""
    have = view.protection
    if have is None or have.base is None or have.stored or view.committed - have.base > most:
        return Refusal(f"the last copies are older than recovery.most_rollback={most} iterations")
    recipes: dict[Address, Recipe] = {}
    for seat in sorted(view.seats):
        own = Source(seat, seat.stage, have.base)
        has = seat in have.clones and own not in refused
        source = (own,) if has else _base(seat.stage, have, refused)
        if isinstance(source, Refusal):
            return source
        recipes[seat] = Recipe(WAVE, source)
    return Repair(recipes, have.base)


def _planned(starts: Mapping[int, _Start], gone: Collection[int], view: View) -> Repair:
    rebuild = {start.seat: start.recipe for stage, start in starts.items() if stage in gone}
    relogs = {
        start.seat: Relog(start.recipe, start.until)
        for stage, start in sorted(starts.items())
        if stage not in gone
    }
    return Repair(dict(sorted(rebuild.items())), view.committed, relogs)


def _without(view: View, alive: frozenset[Address]) -> View:
    """As if nobody else lived."""
    was = view.protection
    if was is None:
        return replace(view, alive=alive)
    left = replace(
        was,
        copies=frozenset(copy for copy in was.copies if copy.holder in alive),
        clones=was.clones & alive,
        logs={seat: since for seat, since in was.logs.items() if seat in alive},
        reached={},
    )
    return replace(view, alive=alive, protection=left)


def _starts(
    gone: Sequence[int], lost: Collection[Address], view: View, refused: Collection[Source]
) -> dict[int, _Start] | Refusal:
    """By stage: all that has to compute for those that are ``gone``, so that nobody waits for what
    nobody has."""
    have = view.protection
    if not gone:
        return {}
    if have is None or have.base is None:
        return Refusal(
            f"stage {gone[0]} is lost before a copy of every stage was on another's seat: "
            "replicas=2 would have helped, or a smaller recovery.wave_every"
        )
    found: dict[int, _Start] = {}
    wanted = dict.fromkeys(gone, view.committed)
    while wanted:
        stage = min(wanted)
        until = wanted.pop(stage)
        start = _start(stage, sorted(lost), view, refused, until)
        if isinstance(start, Refusal):
            return start
        found[stage] = start
        for other, end in _lacking(found, have, view.alive).items():
            if other not in found or found[other].until < end:
                wanted[other] = max(end, wanted.get(other, 0))
    return found


def _start(
    stage: int,
    lost: Sequence[Address],
    view: View,
    refused: Collection[Source],
    until: int,
) -> _Start | Refusal:
    have = view.protection
    assert have is not None
    assert have.base is not None
    if Rung(stage, REPLAY) in view.rejected:
        return Refusal(
            f"stage {stage} is lost, and its replay did not come out as it was: whoever computes "
            "it is to be as those who did before, see checkfree doctor; recovery=checkpoint or "
            "replicas=2 would have helped"
        )
    own = [seat for seat in lost if seat.stage == stage]
    on_its_way = [seat for seat in own if seat in have.reached]
    if on_its_way:
        furthest = max(on_its_way, key=lambda seat: (have.reached[seat], seat))
        at = have.reached[furthest]
        return _Start(furthest, Recipe(REPLAY, (Source(furthest, stage, at),)), at, until)
    if until > have.since.get(stage, 0) > have.base:
        return Refusal(
            f"stage {stage} was made anew after {have.since[stage]} iterations, and no copy of it "
            "since then counts yet"
        )
    seat = view.living(stage) or next(iter(own), None)
    if seat is None:
        return Refusal(f"stage {stage} has nobody")
    source = _base(stage, have, refused)
    if isinstance(source, Refusal):
        return source
    return _Start(seat, Recipe(REPLAY, source), have.base, until)


def _base(
    stage: int, have: Protection, refused: Collection[Source]
) -> tuple[Source, ...] | Refusal:
    """What a stage begins with: an own copy, one that another seat holds, the store's, or what the
    seed makes, which needs no source."""
    assert have.base is not None
    own = [Source(seat, stage, have.base) for seat in sorted(have.clones) if seat.stage == stage]
    held = sorted(copy for copy in have.copies if copy.of == stage)
    stored = [Source(STORE, stage, have.base)] if have.stored else []
    for source in (*own, *held, *stored):
        if source not in refused:
            return (source,)
    if have.drawn:
        return ()
    more = "" if have.asked > 1 else "recovery.copies=2, "
    return Refusal(
        f"stage {stage} is lost, and with it whoever held its copy of version {have.base}: "
        f"{more}recovery=checkpoint or replicas=2 would have helped"
    )


def _lacking(
    found: Mapping[int, _Start], have: Protection, alive: Collection[Address]
) -> dict[int, int]:
    """Stages that nobody has what they sent of, up to which version, as far as ``found`` needs
    it."""
    lacking: dict[int, int] = {}
    for stage, start in found.items():
        for iteration in range(start.begins, start.until):
            for seat in senders(have.routes[iteration], stage):
                computed = found.get(seat.stage)
                if computed is not None and iteration < computed.until:
                    continue  # on its way there, or past it with its log since the base
                if seat not in alive or have.logs.get(seat, iteration + 1) > iteration:
                    lacking[seat.stage] = max(iteration + 1, lacking.get(seat.stage, 0))
    return lacking


@lru_cache(maxsize=4096)
def senders(routes: tuple[Route, ...], stage: int) -> frozenset[Address]:
    """The seats that a stage gets activations and gradients from; what it gives to itself, as at
    the turn of a V, nobody has to send."""
    return frozenset(seat for seat in _beside(routes, stage) if seat.stage != stage)


def _beside(routes: Iterable[Route], stage: int) -> Iterator[Address]:
    for route in routes:
        for hop, seat in enumerate(route):
            if seat.stage == stage:
                yield from route[max(0, hop - 1) : hop]
                yield from route[hop + 1 : hop + 2]
