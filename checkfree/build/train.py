"""Train, and go on training: the calls behind ``checkfree train`` and ``checkfree.train``."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkfree.build.assemble import Assembly, assemble, equip
from checkfree.build.blueprint import Blueprint, of_family, of_modules
from checkfree.checks import check
from checkfree.config import Config
from checkfree.data import open_data
from checkfree.errors import BadInput, RunFailed
from checkfree.failures import sample, write_trace
from checkfree.lead import Progress
from checkfree.load import build as build_config
from checkfree.load import load, to_tree, to_yaml
from checkfree.messages.control import CHECKPOINT, RESUME, Purpose
from checkfree.messages.tensors import StageState
from checkfree.ops import Address
from checkfree.optimizer import lr_at
from checkfree.record import (
    RECORDS,
    ConfigRecord,
    EndRecord,
    LedgerRecord,
    ResumeRecord,
    of_kind,
    read,
    recoveries,
)
from checkfree.report.curves import draw_run
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles, write_whole
from checkfree.runtime.recorder import Listener, Recorder
from checkfree.store import Damaged, Store
from checkfree.worker import Batches


@dataclass(frozen=True)
class Run:
    """What a run left behind. ``status`` is "done" or "failed", and then ``reason`` says why."""

    folder: Path
    config: Config
    status: str
    reason: str
    stages: tuple[nn.Module, ...]
    """The trained stages 0 … n; of the last state if the run failed."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """All of ``records.jsonl``."""
        return read(self.folder)

    @property
    def losses(self) -> list[float]:
        """The loss of every committed step, in order."""
        return [record["loss"] for record in of_kind(self.records, "iteration")]


@dataclass(frozen=True)
class _Job:
    """A run that is about to start, or to go on."""

    config: Config
    folder: Path
    blueprint: Blueprint
    batches: Mapping[Purpose, Batches]
    described: Mapping[str, Any]
    listeners: Sequence[Listener]


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Train as configured, through the failures that are configured, into a new run folder.

    ``config``: a Config, a YAML file, nested mappings of its keys, or None for the defaults.

    With ``stages`` your own modules train instead of a built-in model: stage 0 has
    ``embed(batch)`` and ``loss(hidden, batch)`` (a mean), stages 1 … n map hidden to hidden and
    have parameters of equal names and shapes. Then ``batches(iteration, microbatch)`` gives what
    stage 0 is fed, and ``validation`` the same for text that is not trained on; both have to be
    pure, because a microbatch that is tried again must be the same one. The modules passed in
    stay as they are: the trained ones are in ``Run.stages``.

    Raises BadInput, RunFailed (a full disk, for example: what was saved stays good) and whatever
    a user's module raises. A run that its strategy could not save returns with status "failed".
    """
    made = _config(config)
    if stages is not None:
        made = _for_modules(made, len(stages), validated=validation is not None)
    job = _job(made, Path(made.out), stages, batches, validation, listeners)
    path = folders.create(job.folder)
    with _writing(job):
        write_whole(path / folders.CONFIG, to_yaml(made).encode())
        folders.write_json(path / folders.VERSIONS, versions())
        write_trace(_trace(made), path / folders.TRACE)
    return _run(job, fresh=True)


def resume(
    folder: Path | str,
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Go on with a run that was stopped, from its newest good snapshot, bit for bit as if it had
    never stopped. A run of your own modules needs them again. Raises BadInput, RunFailed."""
    path = folders.existing(Path(folder))
    config = load(path / folders.CONFIG)
    job = _job(config, path, stages, batches, validation, listeners)
    return _run(job, fresh=False)


# --- preparing -----------------------------------------------------------------------------------


def _config(config: Config | str | Path | Mapping[str, Any] | None) -> Config:
    if isinstance(config, Config):
        check(config)
        return config
    if isinstance(config, Mapping):
        config = build_config(config)
        return replace(config, out=config.out.replace("{name}", "run"))
    return load(config)


def _for_modules(config: Config, count: int, *, validated: bool) -> Config:
    config = replace(config, stages=max(1, count - 1))
    if not validated:
        config = replace(config, validation=replace(config.validation, every=0))
    check(config)
    return config


def _job(
    config: Config,
    folder: Path,
    stages: Sequence[nn.Module] | None,
    batches: Batches | None,
    validation: Batches | None,
    listeners: Sequence[Listener],
) -> _Job:
    if stages is None:
        if batches is not None or validation is not None:
            raise BadInput("batches and validation go with stages=[…]: give your modules too")
        data = open_data(
            config.data, context=config.model.context, batch=config.batch, seed=config.seed
        )
        feeds = {Purpose.TRAIN: data.train, Purpose.VALIDATE: data.validation}
        blueprint = of_family(config, data.vocabulary)
        return _Job(config, folder, blueprint, feeds, data.describe(), listeners)
    if batches is None:
        raise BadInput("stages=[…] needs batches=FUNCTION of (iteration, microbatch)")
    feeds = {Purpose.TRAIN: batches, Purpose.VALIDATE: validation or batches}
    blueprint = of_modules(stages, config.seed)
    return _Job(config, folder, blueprint, feeds, {"name": "user"}, listeners)


def _trace(config: Config) -> Any:
    size = {"stages": config.stages, "replicas": config.replicas}
    return sample(config.failures, seed=config.seed, ticks=config.iterations, **size)


def versions() -> dict[str, str]:
    """What the bits of a run depend on beside its configuration (semantics 17)."""
    names = ("checkfree", "torch", "numpy", "safetensors")
    found = {name: _version(name) for name in names}
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


# --- running -------------------------------------------------------------------------------------


def _run(job: _Job, *, fresh: bool) -> Run:
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_threads(job.config.threads))
        stack.enter_context(folders.locked(job.folder))
        stack.enter_context(_writing(job))
        equipment = equip(job.config, job.blueprint, job.batches)
        store = Store(DiskFiles(job.folder))
        snapshot = None if fresh else _snapshot(job.folder, store)
        recorder = Recorder(job.folder / RECORDS, _lr(job.config), job.listeners)
        stack.callback(recorder.close)
        if snapshot is None:
            assembly = assemble(job.config, equipment, store, recorder, tokens=job.blueprint.tokens)
            recorder.write(_config_record(job))
        else:
            assembly = assemble(
                job.config,
                equipment,
                store,
                recorder,
                snapshot.progress,
                snapshot.lives,
                job.blueprint.tokens,
            )
            for seat, worker in assembly.workers.items():
                worker.stage.restore(snapshot.states[seat.stage])
            recorder.write(ResumeRecord(snapshot.progress.committed, snapshot.progress.tick))
        status = "interrupted"
        try:
            assembly.runtime.run()
            lead = assembly.lead
            assert lead.done or lead.failure, f"nothing moves and the lead is {lead}"
            status = "done" if lead.done else "failed"
        finally:
            _end(job, assembly, recorder, status, time.perf_counter() - started)
    modules = tuple(
        assembly.runtime.actors[Address(stage)].stage.module  # type: ignore[attr-defined]
        for stage in range(job.blueprint.stages)
        if Address(stage) in assembly.runtime.actors
    )
    return Run(job.folder, job.config, status, assembly.lead.failure, modules)


def _config_record(job: _Job) -> ConfigRecord:
    return ConfigRecord(to_tree(job.config), versions(), job.described, job.blueprint.parameters)


def _lr(config: Config) -> Callable[[int], float]:
    return lambda iteration: lr_at(config.optimizer, iteration, config.iterations)


def _end(job: _Job, assembly: Assembly, recorder: Recorder, status: str, seconds: float) -> None:
    """The last two records and the picture; after an error too, if the disk still takes them."""
    progress, reason = assembly.lead.progress, assembly.lead.failure
    runtime = assembly.runtime
    recorder.write(
        LedgerRecord(*map(dict, (recorder.ops, runtime.messages, runtime.bytes, recorder.seconds)))
    )
    made = recoveries(read(job.folder))
    recorder.write(EndRecord(status, progress.committed, progress.tick, reason, made, seconds))
    draw(job.folder)


def draw(folder: Path) -> Path:
    """The loss curve of a run folder, with its failures marked."""
    records = read(folder)
    kinds = ("iteration", "validation", "failure", "recovery")
    path = folder / folders.PICTURE
    config = of_kind(records, "config")[0]["config"]
    title = f"{config['recovery']['name']}, {folder.name}"
    draw_run(*(of_kind(records, kind) for kind in kinds), path=path, title=title)
    return path


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _writing(job: _Job) -> Iterator[None]:
    """A disk that takes no more ends the run with one line; what it took stays good."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write to {job.folder}: {error.strerror or error}; all that was written before "
            f"is good: make room, then checkfree train --resume {job.folder}"
        ) from error


# --- resuming ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Snapshot:
    progress: Progress
    lives: Mapping[Address, int]
    states: Mapping[int, StageState]


def _snapshot(folder: Path, store: Store) -> _Snapshot | None:
    """The newest good snapshot, with the folder taken back to it; None: begin anew."""
    for shelf in reversed(store.offered(RESUME)):
        try:
            found = _load(store, shelf)
        except Damaged:
            continue
        store.drop(RESUME, shelf)
        _drop_later(store, found.progress)
        folders.rewind(folder, found.progress.notes)
        return found
    store.drop(CHECKPOINT, -1)
    folders.rewind(folder, 0)
    (folder / RECORDS).unlink()
    return None


def _load(store: Store, shelf: int) -> _Snapshot:
    note = store.note(RESUME, shelf)
    try:
        values = dict(note["progress"])
        values["checkpoints"] = tuple(values["checkpoints"])
        progress = Progress(**values)
        lives = {Address.parse(seat): int(life) for seat, life in note["lives"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"snapshot {shelf}: {error!r}") from None
    stages = sorted({seat.stage for seat in lives})
    return _Snapshot(progress, lives, {s: store.load(RESUME, shelf, s) for s in stages})


def _drop_later(store: Store, progress: Progress) -> None:
    """Checkpoints that the snapshot did not know: the run will write them again."""
    for shelf in store.offered(CHECKPOINT):
        if shelf not in progress.checkpoints:
            store.forget(CHECKPOINT, shelf)
