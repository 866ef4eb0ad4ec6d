"""Measure what the simulator has to know of a machine: seconds of ops, and what goes beside them.

Nothing is timed apart from its surroundings: a real run in one process trains on the real data,
with a clock around each call of its stages, so caches and allocator are as training has them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from checkfree.core.config import (
    AverageConfig,
    Config,
    EveryConfig,
    FailuresConfig,
    RecoveryConfig,
    ResumeConfig,
    ValidationConfig,
)
from checkfree.core.errors import BadInput, at_least
from checkfree.core.records import IterationRecord, Record
from checkfree.pipeline import TWICE
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import Assembly, save
from checkfree.session.job import Job, of_config, versions
from checkfree.session.session import Session
from checkfree.simulator.profile import FORMAT
from checkfree.stage import Part, Stage

WARM_UP = 3
REPEATS = 20
COPIES = 5
"""Rounds of copying and of writing all states."""

Piece = Callable[[str, int], Callable[[], None]]
"""(label, iterations) -> what to call after each."""

HALVES = ("input", "weights")
"""Of a split backward."""

Name = tuple[str, str]
"""("body", "forward"): what was timed."""

Time = Callable[[], float]
"""Seconds since whenever."""


def profile(
    config: Config, repeats: int, piece: Piece, clock: Time = time.perf_counter
) -> dict[str, Any]:
    """A profile as plain data, see ``checkfree.simulator.profile``. Raises BadInput, RunFailed."""
    at_least("--repeats", repeats, 1)
    plain = _nothing_else(config)
    job = of_config(plain, Path(config.out), ())
    with settled(config.threads), _scratch(config.out) as folder:
        whole = _measure(replace(job, folder=Path(folder) / "whole"), repeats, piece, clock)
        half = replace(plain, microbatches=max(config.replicas, config.microbatches // 2))
        less = replace(job, config=half, folder=Path(folder) / "fewer")
        fewer = _measure(less, repeats, piece, clock)
        rates = _rates(whole.assembly, Path(folder) / "states")
    return {
        "format": FORMAT,
        "checkfree": versions()["checkfree"],
        "device": ",".join(config.devices),
        "precision": config.precision,
        "threads": config.threads,
        "sizes": _sizes(config, int(job.data["vocabulary"])),
        "seconds": {**whole.seconds(), "message_overhead": _slope(whole, fewer)},
        "bytes_per_second": rates,
    }


def _nothing_else(config: Config) -> Config:
    """Nothing to do but to train, with backwards that are whole: their halves are measured beside
    the run; and what they need is kept: what else becomes of that is computed from the seconds. A
    stage of two chunks is measured as one."""
    chunks, cut = TWICE.get(config.schedule), config.cut
    if chunks is not None and isinstance(cut, (list, tuple)):
        of = (chunks.of(stage, config.stages) for stage in range(1, config.stages + 1))
        cut = [sum(cut[chunk - 1] for chunk in both) for both in of]
    return replace(
        config,
        schedule="1f1b",
        cut=cut,
        stash="keep",
        recompute=False,
        failures=FailuresConfig(scenario="none"),
        recovery=RecoveryConfig(name="none"),
        validation=ValidationConfig(every=0),
        checkpoint=EveryConfig(),
        average=AverageConfig(),
        resume=ResumeConfig(0),
    )


def _scratch(out: str) -> tempfile.TemporaryDirectory[str]:
    """On the disk that a run would write to. Raises BadInput."""
    path = Path(out).absolute()
    nearest = next(p for p in (path, *path.parents) if p.is_dir())
    try:
        return tempfile.TemporaryDirectory(dir=nearest)
    except OSError as error:
        raise BadInput(f"out={out} cannot be written: {error.strerror}; give another") from None


def _sizes(config: Config, vocabulary: int) -> dict[str, int]:
    model = config.model
    return {
        "batch": config.batch,
        "context": model.context,
        "width": model.width,
        "blocks_per_stage": model.blocks // config.stages,
        "vocabulary": model.vocabulary or vocabulary,
    }


# --- a run with clocks ---------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """A clock around each op of a stage, while it trains: seconds of each call, by what it was,
    for one iteration after the other."""

    devices: Sequence[torch.device]
    """Those that compute beside the host: CUDA's."""
    clock: Time = time.perf_counter
    sheets: list[defaultdict[Name, list[float]]] = field(
        default_factory=lambda: [defaultdict(list)]
    )
    inputs: dict[Part, tuple[Any, ...]] = field(default_factory=dict)
    """What a forward of each part was last given."""

    def timed(self, name: Name | Callable[[Any], Name], call: Callable[[], Any]) -> Any:
        """The result of a call; its name may depend on that."""
        self.wait()
        start = self.clock()
        result = call()
        self.wait()
        seconds = self.clock() - start
        self.sheets[-1][name(result) if callable(name) else name].append(seconds)
        return result

    def wait(self) -> None:
        """Until a CUDA device has done what it was given."""
        for device in self.devices:
            torch.cuda.synchronize(device)

    def on(self, stage: Stage, kind: str) -> Stage:
        """The stage, with a clock around each of its ops. ``kind``: ``edge`` or ``body``."""
        forward, backward, reduced, step = stage.forward, stage.backward, stage.reduced, stage.step

        def timed_forward(key: Any, part: Part, x: Any, batch: Any, seed: int) -> Any:
            self.inputs[part] = (x, batch, seed)
            return self.timed((part.value, "forward"), lambda: forward(key, part, x, batch, seed))

        def timed_backward(key: Any, dy: Any, scale: float = 1.0, *, split: bool = False) -> Any:
            def name(dx: Any) -> Name:
                part = Part.HEAD if dy is None else Part.EMBED if dx is None else Part.BODY
                return part.value, "backward"

            return self.timed(name, lambda: backward(key, dy, scale, split=split))

        vars(stage).update(
            forward=timed_forward,
            backward=timed_backward,
            reduced=lambda: self.timed((kind, "norm"), reduced),
            step=lambda iteration, clip: self.timed((kind, "step"), lambda: step(iteration, clip)),
        )
        return stage

    def beside(self, stages: Mapping[int, Stage]) -> None:
        """What the run has not: a redundant forward of each part that a stage has, and a backward
        in halves, on what was forwarded last."""
        for number, stage in stages.items():
            for part in (Part.BODY,) if number else (Part.EMBED, Part.HEAD):
                run = partial(stage.redundant_forward, part, *self.inputs[part])
                run()  # between iterations the caches are cold, within one they are not
                self.timed((part.value, "shadow"), run)
                if part is not Part.EMBED:  # which is not split
                    self._halves(stage, part)

    def _halves(self, stage: Stage, part: Part) -> None:
        key = (0, 1)
        y = Stage.forward(stage, key, part, *self.inputs[part])  # which is not on the clock
        dy = None if part is Part.HEAD else torch.ones_like(y)
        by_input = partial(Stage.backward, stage, key, dy, split=True)
        self.timed((part.value, "input"), by_input)
        self.timed((part.value, "weights"), partial(stage.backward_weights, key))
        stage.discard()


@dataclass(frozen=True)
class Measured:
    """Of one configuration, with the first iterations left out."""

    assembly: Assembly
    ops: Mapping[Name, float]
    """Median seconds of a call."""
    counts: Mapping[Name, float]
    """Calls in an iteration; what is made between iterations is left out."""
    iteration: float
    """Median seconds of an iteration."""
    messages: float
    """Delivered in an iteration."""

    @property
    def overhead(self) -> float:
        """Seconds of an iteration that no op took."""
        return max(0.0, self.iteration - sum(self.ops[n] * k for n, k in self.counts.items()))

    def seconds(self) -> dict[str, Any]:
        """As a profile has it."""
        kinds = ("forward", "backward", "shadow", *HALVES)
        parts = {
            part.value: {
                kind: self.ops[part.value, kind] for kind in kinds if (part.value, kind) in self.ops
            }
            for part in (Part.EMBED, Part.BODY, Part.HEAD)
        }
        steps = {k: self.ops[k, "norm"] + self.ops[k, "step"] for k in ("edge", "body")}
        return {**parts, "step": steps, "iteration_overhead": self.overhead}


def _measure(job: Job, repeats: int, piece: Piece, clock: Time) -> Measured:
    config = replace(job.config, iterations=WARM_UP + repeats)
    advance = piece(f"{config.microbatches} microbatches", config.iterations)
    devices = [torch.device(name) for name in config.devices]
    watch = Stopwatch([device for device in devices if device.type == "cuda"], clock)
    iterations: list[float] = []
    since = clock()

    def after_each(record: Record) -> None:
        nonlocal since
        if not isinstance(record, IterationRecord):
            return
        iterations.append(clock() - since)
        watch.beside({seat.stage: w.stage for seat, w in assembly.workers.items()})
        watch.sheets.append(defaultdict(list))
        advance()
        since = clock()

    job = replace(job, config=config, listeners=(after_each,))
    clocked = replace(
        job.worker_context,
        make=lambda stage, host: watch.on(
            job.worker_context.make(stage, host), "body" if stage else "edge"
        ),
    )
    with Session.create(job) as session:
        assembly = session.assemble(clocked)
        since = clock()
        assembly.run()
    return _summed(assembly, watch.sheets[WARM_UP:-1], iterations[WARM_UP:])


def _summed(
    assembly: Assembly, sheets: Sequence[Mapping[Name, list[float]]], iterations: Sequence[float]
) -> Measured:
    calls: defaultdict[Name, list[float]] = defaultdict(list)
    for sheet in sheets:
        for name, seconds in sheet.items():
            calls[name] += seconds
    count = len(sheets)
    messages = assembly.runtime.delivered / (count + WARM_UP)
    return Measured(
        assembly,
        {name: statistics.median(seconds) for name, seconds in calls.items()},
        {n: len(made) / count for n, made in calls.items() if n[1] not in ("shadow", *HALVES)},
        statistics.median(iterations),
        messages,
    )


def _slope(whole: Measured, fewer: Measured) -> float:
    """What a message more adds, from two runs that differ in their number."""
    more = whole.messages - fewer.messages
    return max(0.0, (whole.overhead - fewer.overhead) / more) if more > 0 else 0.0


# --- states --------------------------------------------------------------------------------------


def _rates(assembly: Assembly, folder: Path) -> dict[str, float]:
    """Bytes per second of all states, copied and taken over; and written as a checkpoint is."""
    stages = [worker.stage for worker in assembly.workers.values()]
    copies, writes = [], []
    for place in range(COPIES):
        start = time.perf_counter()
        count = sum(_copied(stage) for stage in stages)
        copies.append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        save(assembly, Store(DiskFiles(folder / str(place))))
        size = sum(path.stat().st_size for path in (folder / str(place)).rglob("*.safetensors"))
        writes.append(size / (time.perf_counter() - start))
    return {"copy": statistics.median(copies), "store": statistics.median(writes)}


def _copied(stage: Stage) -> int:
    state = stage.snapshot()
    stage.restore(state)
    if any(param.is_cuda for param in state.params.values()):
        torch.cuda.synchronize()
    return sum(tensor.nbytes for _, tensor in state.tensors())
