"""Train from a state to an iteration, with losses at given ticks; and keep whole states on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from checkfree.build.assemble import Assembly
from checkfree.build.job import Job
from checkfree.build.snapshot import Snapshot
from checkfree.build.terms import seats, terms
from checkfree.errors import BadInput
from checkfree.lead import Lead, Progress
from checkfree.membership import Membership
from checkfree.messages.control import RESUME, Archive
from checkfree.messages.tensors import KeepState
from checkfree.ops import FAULTS, LEAD, LOG, STORE, Address, Keep
from checkfree.recovery.strategy import Strategy
from checkfree.runtime.faults import Faults
from checkfree.runtime.inprocess import InProcess
from checkfree.runtime.recorder import Recorder
from checkfree.store import Damaged, Store
from checkfree.worker import StageWorker

Strikes = Callable[[int], Collection[Address]]


@dataclass(frozen=True)
class Leg:
    """A piece of a run: from a state (None: from first weights) until ``stop`` iterations."""

    job: Job
    stop: int
    strikes: Strikes
    start: Snapshot | None = None
    strategy: Strategy | None = None
    """None: the configuration's."""


def walk(leg: Leg, store: Store, recorder: Recorder) -> Assembly:
    """Train one leg. The assembly that comes back has stopped; its lead says how it ended."""
    assembly = _assembly(leg, store, recorder)
    assembly.runtime.run()
    lead = assembly.lead
    assert lead.done or lead.failure, f"nothing moves: {lead.phase}"
    return assembly


def _assembly(leg: Leg, store: Store, recorder: Recorder) -> Assembly:
    config, blueprint = leg.job.config, leg.job.blueprint
    equipment = leg.job.equipment
    if leg.strategy is not None:
        equipment = replace(equipment, strategy=leg.strategy)
    start = leg.start or Snapshot(Progress(), dict.fromkeys(seats(config), 0), {})
    rules = replace(terms(config, blueprint.tokens), iterations=leg.stop)
    lead = Lead(Membership(start.lives, start.lives), equipment.strategy, rules, start.progress)
    workers = {seat: StageWorker(seat, life, equipment) for seat, life in start.lives.items()}
    for seat, worker in workers.items():
        if seat.stage in start.states:
            worker.stage.restore(start.states[seat.stage])
            worker.hold(start.held)
    runtime = InProcess(
        {**workers, LEAD: lead, STORE: store, LOG: recorder},
        lambda seat, life: StageWorker(seat, life, equipment, hollow=True),
    )
    runtime.actors[FAULTS] = Faults(runtime, leg.strikes)
    return Assembly(runtime, lead, workers)


# --- states --------------------------------------------------------------------------------------


def save(assembly: Assembly, store: Store) -> None:
    """Put the state of a run that has stopped on the shelf of its tick. Raises RunFailed."""
    lead, progress = assembly.lead, assembly.lead.progress
    living: dict[int, StageWorker] = {}
    for seat in sorted(lead.members.alive):
        worker = assembly.runtime.actors[seat]
        assert isinstance(worker, StageWorker)
        living.setdefault(seat.stage, worker)
    owners = tuple(worker.address for worker in living.values())
    note = {"progress": progress.to_json(), "lives": lead.members.names()}
    store.deliver(Archive(progress.epoch, RESUME, progress.tick, owners, (), note))
    for worker in living.values():
        keep = Keep(worker.address, STORE, "state", "after")
        state = worker.stage.snapshot()
        store.deliver(KeepState(progress.epoch, keep, RESUME, progress.tick, state))
    while store.advance() is not None:
        pass


def fetch(store: Store, tick: int, where: object) -> Snapshot:
    """The state of a tick, as a run that starts there, holds nothing for others yet and writes
    records of its own has it.

    Raises BadInput if it is damaged.
    """
    try:
        note = store.note(RESUME, tick)
        progress = Progress.from_json(note["progress"])
        lives = {Address.parse(seat): int(life) for seat, life in note["lives"].items()}
        states = {s: store.load(RESUME, tick, s) for s in {seat.stage for seat in lives}}
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{where} has a damaged state ({error}): remove it and run again") from None
    return Snapshot(replace(anew(progress), shadows=()), lives, states)


def anew(progress: Progress) -> Progress:
    """Of a run that goes on from there with records, readings and checkpoints of its own."""
    return replace(progress, notes=0, checkpoints=(), validation=None, validated_at=-1)


def struck(failures: Mapping[int, Collection[Address]]) -> Strikes:
    """Losses at the ticks of a mapping, and none elsewhere."""
    return lambda tick: failures.get(tick, ())
