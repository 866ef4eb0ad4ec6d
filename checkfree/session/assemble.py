"""Put a run together: configuration and blueprint -> stages, workers, lead, runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from checkfree.config.stash import RECOMPUTE, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.formats import BF16_WEIGHTS
from checkfree.core.links import parse_links
from checkfree.core.ops import FAULTS, LEAD, LOG, STORE, Address, Upload
from checkfree.core.rates import MUON, lr_at
from checkfree.lead import Lead, Progress, Terms
from checkfree.lead.membership import Membership
from checkfree.messages.control import RESUME, Archive, Purpose
from checkfree.messages.tensors import KeepState, StageState
from checkfree.recovery.registry import spec_of
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.actor import Actor
from checkfree.runtime.faults import Faults, Strikes
from checkfree.runtime.forking import count_cuda_devices
from checkfree.runtime.inprocess import InProcess, OnDelivery
from checkfree.runtime.store import Store
from checkfree.session.blueprint import Blueprint
from checkfree.session.due import DueFailures
from checkfree.session.log_disk import log_maker
from checkfree.session.sizes import recovery_of
from checkfree.session.snapshot import Snapshot
from checkfree.session.stash import offloadings
from checkfree.session.terms import devices_of, seats, terms_of
from checkfree.stage import Conditions, Stage
from checkfree.stage.compiled import check_folder, find_compiler
from checkfree.stage.learnt import constants_of
from checkfree.stage.optimizer import find_muon, for_muon, make_optimizer
from checkfree.worker import Batches, Casting, StageWorker, WorkerContext


@dataclass(frozen=True)
class Assembly:
    """A run that has not begun."""

    runtime: InProcess
    lead: Lead
    workers: Mapping[Address, StageWorker]
    """Those that it begins with."""

    def run(self, on_delivery: OnDelivery | None = None) -> None:
        """Train, until the lead is done or has failed."""
        self.runtime.run(on_delivery)
        if not (self.lead.done or self.lead.failure):
            raise AssertionError(f"nothing moves: {self.lead.phase}")

    def let_go(self) -> None:
        """Of what was sent: nobody will ask for it, and it may stand on a disk."""
        for actor in self.runtime.actors.values():
            if isinstance(actor, StageWorker):
                actor.replayable.log.trim(None)

    def living(self) -> dict[int, StageWorker]:
        """Of each stage the first replica that has a state."""
        found: dict[int, StageWorker] = {}
        for seat in sorted(self.lead.members.alive):
            worker = self.runtime.actors.get(seat)
            if isinstance(worker, StageWorker):
                found.setdefault(seat.stage, worker)
        return found


def assemble(
    config: Config,
    context: WorkerContext,
    store: Store,
    log: Actor,
    start: Snapshot | None = None,
    *,
    tokens: int | None = None,
    terms: Terms | None = None,
    strikes: Strikes | None = None,
) -> Assembly:
    """All actors of a run in one process, in the state of ``start`` (None: the first weights).
    ``tokens``: of an iteration, if known; ``terms`` and ``strikes``: the configuration's, if none
    are given. Raises BadInput for a state that does not fit."""
    start = start or Snapshot(Progress(), dict.fromkeys(seats(config), 0), {})
    terms = terms or terms_of(config, tokens)
    lead = Lead(Membership(start.lives, start.lives), context.strategy, terms, start.progress)
    workers = {seat: StageWorker(seat, life, context) for seat, life in start.lives.items()}
    constants = {
        seat.stage: constants_of(start.states[seat.stage], worker.stage.constants)
        for seat, worker in workers.items()
        if start.states
    }

    def sit_down(seat: Address, life: int) -> StageWorker:
        worker = StageWorker(seat, life, context, uninitialized=True)
        if seat.stage in constants:  # the run's, whatever the modules have by now
            worker.stage.take_constants(constants[seat.stage])
        return worker

    runtime = InProcess({**workers, LEAD: lead, STORE: store, LOG: log}, sit_down)
    runtime.actors[FAULTS] = Faults(runtime, strikes or DueFailures(config).struck)
    for seat, life in start.absent.items():
        runtime.join(seat, life)
    if start.states:
        for worker in workers.values():
            restore(worker, start)
    return Assembly(runtime, lead, workers)


def restore(worker: StageWorker, start: Snapshot) -> None:
    """Have a worker go on from a snapshot. Raises BadInput for a state that does not fit."""
    stage = worker.address.stage
    try:
        worker.stage.restore(start.states[stage])
        worker.hold(start.held)
    except ValueError as error:
        raise BadInput(
            f"stage {stage} is not the run's: {error}: give the modules that it began with"
        ) from None


def save(assembly: Assembly, store: Store) -> None:
    """Put the state of a run that has stopped on the shelf of its tick. Raises RunFailed."""
    lead, progress = assembly.lead, assembly.lead.progress
    living = assembly.living()
    owners = tuple(worker.address for worker in living.values())
    note = {"progress": progress.to_json(), "lives": lead.members.names()}
    store.deliver(Archive(progress.epoch, RESUME, progress.tick, owners, (), note))
    for worker in living.values():
        keep = Upload(worker.address)
        state = worker.stage.snapshot()
        store.deliver(KeepState(progress.epoch, keep, RESUME, progress.tick, state))
    while store.advance() is not None:
        pass


def make_worker_context(
    config: Config,
    blueprint: Blueprint,
    batches: Mapping[Purpose, Batches],
    at_risk: Collection[int] = (),
) -> WorkerContext:
    """What every worker of a run is built with; ``at_risk``: stages that will be lost. Raises
    BadInput."""
    known = blueprint.tokens is not None  # else the modules are the user's, and of any size
    recovery = recovery_of(config) if known else config.recovery
    strategy: Strategy = make_strategy(recovery, config.checkpoint.every)
    devices = _devices(config)
    ways, offloading = stash_of(config), offloadings(config, measured=known)

    if config.optimizer.name == MUON:
        find_muon()  # what torch has not got is refused now
    if config.compile:
        check_folder()
        for kind in {device.type for device in devices}:
            find_compiler(kind)

    def wrap(module: nn.Module, stage: int, host: int) -> Stage:
        if config.precision == "fp64":
            module = module.double()
        matrices = {id(p) for name, p in module.named_parameters() if stage and for_muon(name, p)}
        how = _conditions(config, devices[host], ways[host], matrices, edge=stage == 0)
        how = replace(how, offload=offloading.get(host))
        return Stage(module, how)

    def fresh(stage: int, tick: int) -> StageState:
        return wrap(blueprint.fresh(stage, tick), stage, stage).snapshot()

    if spec_of(config.recovery).reinitialises:
        for stage in {1, *at_risk}:
            blueprint.fresh(stage, 0)  # what can't be initialised anew is refused now
    return WorkerContext(
        seed=config.seed,
        make=lambda stage, host: wrap(blueprint.make(stage), stage, host),
        fresh=fresh,
        strategy=strategy,
        batches=batches,
        casting=Casting(
            config.wire.activations,
            config.wire.gradients,
            config.wire.feedback,
            parse_links(config.wire.links),
        ),
        log=log_maker(config.recovery),
        body_stages=config.stages,
        chunks=blueprint.chunks,
        fit_lr=config.recovery.fit_lr,
    )


def _conditions(
    config: Config,
    device: torch.device,
    stash: str,
    matrices: Collection[int],
    *,
    edge: bool,
) -> Conditions:
    """``matrices``: ``id`` of each parameter that Muon would step."""
    half_life = config.recovery.lr_scale_half_life
    return Conditions(
        optimizer=partial(make_optimizer, config.optimizer, matrices=matrices),
        lr=lambda iteration: lr_at(config.optimizer, iteration, config.iterations),
        device=device,
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
        weights=torch.bfloat16 if config.precision == BF16_WEIGHTS else None,
        recompute=stash == RECOMPUTE,
        compile=config.compile and not edge,
        lr_scale_decay=1.0 if half_life is None else 0.5 ** (1 / half_life),
        coarse_steps=config.optimizer.name == MUON and bool(matrices),
    )


def _devices(config: Config) -> list[torch.device]:
    """The device of each stage: runs of neighbours share one. Raises BadInput if one is absent."""
    devices = [torch.device(name) for name in config.devices]
    used = [device.index or 0 for device in devices if device.type == "cuda"]
    present = count_cuda_devices() if used else 0
    for device in devices:
        if device.type == "cuda" and (device.index or 0) >= present:
            raise BadInput(
                f"devices names {device} and torch sees {present} CUDA devices: use devices=[cpu]"
                + (f" or cuda:0 … cuda:{present - 1}" if present else "")
            )
    return [torch.device(name) for name in devices_of(config)]
