"""The in-process pipeline and a plain PyTorch loop in one process, in turn, iteration by iteration.

A machine that slows down slows both, so the ratio of neighbours can be trusted where seconds can't.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.core.config import Config
from checkfree.core.records import IterationRecord
from checkfree.core.units import derive
from checkfree.messages.control import Message, Note, Outgoing, Purpose
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.blueprint import Blueprint
from checkfree.stage import Part
from checkfree.stage.optimizer import make_optimizer

Batch = Callable[[int, int], Tensor]
NOTHING_ELSE = ["failures=none", "recovery=none", "validation.every=0", "resume.every=0"]
"""Overrides that leave a run nothing to do but to train."""


class Clock:
    """Stands where the recorder stands and calls at each committed iteration."""

    def __init__(self, call: Callable[[], None]):
        self._call = call

    def deliver(self, message: Message) -> None:
        if isinstance(message, Note) and isinstance(message.record, IterationRecord):
            self._call()

    def advance(self) -> list[Outgoing] | None:
        return None


def measure(config: Config, blueprint: Blueprint, batch: Batch) -> tuple[list[float], list[float]]:
    """Seconds of each iteration: of the pipeline, and of the loop that ran right after it."""
    loop = plain_loop(config, blueprint, batch)
    ours: list[float] = []
    plain: list[float] = []
    since = time.perf_counter()

    def stop(times: list[float]) -> None:
        nonlocal since
        if config.devices[0] != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - since)
        since = now

    def turn() -> None:
        stop(ours)
        next(loop)
        stop(plain)

    with settled(config.threads), tempfile.TemporaryDirectory() as folder:
        context = make_worker_context(
            config, blueprint, {Purpose.TRAIN: batch, Purpose.VALIDATE: batch}
        )
        assembly = assemble(config, context, Store(DiskFiles(Path(folder))), Clock(turn))
        since = time.perf_counter()
        assembly.runtime.run()
    return ours, plain


def stages_loop(config: Config, blueprint: Blueprint, batch: Batch) -> Iterator[None]:
    """An iteration of the run's own stages at each step, one microbatch after the other."""
    context = make_worker_context(
        config, blueprint, {Purpose.TRAIN: batch, Purpose.VALIDATE: batch}
    )
    edge, *bodies = (context.make(place, place) for place in range(blueprint.stages))
    last, share = len(bodies) + 1, 1 / config.microbatches
    iteration = 0
    while True:
        losses = []
        for m in range(config.microbatches):
            tokens, seed = batch(iteration, m), derive(config.seed, "bench", iteration, m)
            hidden = edge.forward((m, 0), Part.EMBED, None, tokens, seed)
            for hop, body in enumerate(bodies, 1):
                hidden = body.forward((m, hop), Part.BODY, hidden, None, seed)
            losses.append(edge.forward((m, last), Part.HEAD, hidden, tokens, seed))
            back = edge.backward((m, last), None, share)
            for hop, body in reversed([*enumerate(bodies, 1)]):
                back = body.backward((m, hop), back)
            edge.backward((m, 0), back)
        for stage in (edge, *bodies):
            norm, most = stage.reduced(), config.optimizer.clip or math.inf
            stage.step(iteration, min(1.0, most / norm) if norm else 1.0)
        torch.stack(losses).tolist()
        iteration += 1
        yield


def in_turn(loops: Sequence[Iterator[None]], rounds: int, device: str) -> list[list[float]]:
    """Seconds of each step of each; who is first changes from round to round."""
    times: list[list[float]] = [[] for _ in loops]
    for number in range(rounds):
        order = [*enumerate(loops)]
        for place, loop in order if number % 2 else reversed(order):
            since = time.perf_counter()
            next(loop)
            if device != "cpu":
                torch.cuda.synchronize()
            times[place].append(time.perf_counter() - since)
    return times


def plain_loop(config: Config, blueprint: Blueprint, batch: Batch) -> Iterator[None]:
    """Gradient accumulation as everybody writes it: same stages, device, precision, optimizer."""
    device = torch.device(config.devices[0])
    modules: list[Any] = [blueprint.make(s).to(device) for s in range(blueprint.stages)]
    optimizers = [
        make_optimizer(config.optimizer, m.parameters(), edge=not place)
        for place, m in enumerate(modules)
    ]
    iteration = 0
    while True:
        total = torch.zeros((), device=device)
        for microbatch in range(config.microbatches):
            with _precision(config, device):
                tokens = batch(iteration, microbatch).to(device)
                hidden = modules[0].embed(tokens)
                for module in modules[1:]:
                    hidden = module(hidden)
                loss = modules[0].loss(hidden, tokens) / config.microbatches
            loss.backward()
            total += loss.detach()
        for module, optimizer in zip(modules, optimizers, strict=True):
            nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.clip or float("inf"))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total.item()  # whoever trains wants to see it
        iteration += 1
        yield


def _precision(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    bf16 = config.precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
