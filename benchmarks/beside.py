"""The in-process pipeline and a plain PyTorch loop in one process, in turn, iteration by iteration.

A machine that slows down slows both, so the ratio of neighbours can be trusted where seconds can't.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.core.config import Config
from checkfree.core.records import IterationRecord
from checkfree.messages.control import Message, Note, Outgoing, Purpose
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.blueprint import Blueprint
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
