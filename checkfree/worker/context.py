"""What every worker of a run is built with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from checkfree.messages.control import Purpose
from checkfree.messages.tensors import StageState
from checkfree.models.chunks import Chunks
from checkfree.recovery.strategy import Strategy
from checkfree.stage import Stage
from checkfree.worker.casting import Casting
from checkfree.worker.log import Log, SentLog

Batches = Callable[[int, int], Any]
"""(iteration, microbatch) -> a batch. Pure, so a retried iteration sees the same data."""


@dataclass(frozen=True)
class WorkerContext:
    """The same for all seats of a run."""

    seed: int
    make: Callable[[int, int], Stage]
    """(stage, host): a stage with its first weights, from (seed, "init", stage), where stage
    ``host`` stands."""
    fresh: Callable[[int, int], StageState]
    """(stage, tick): a stage's state initialised anew."""
    strategy: Strategy
    batches: Mapping[Purpose, Batches]
    casting: Casting = field(default_factory=Casting)
    """How activations and gradients are sent."""
    strangers: bool = False
    """What arrives may be somebody else's mistake, as in a swarm: then it is dropped, and whoever
    sent it is asked again. In one process nobody else is to blame for what a stage raises."""
    shares_memory: bool = True
    """What is sent is the receiver's memory too, as in one process: so a copy is sent of what dies
    with its seat. Between processes it is read once, and arrives in other memory."""
    log: Callable[[], Log] = SentLog
    """Makes the log of what a seat sends, where its strategy has stages replayed."""
    body_stages: int = 0
    """Of the whole run; only who has two chunks asks."""
    chunks: Chunks = Chunks.WHOLE
    """Of each body stage."""
    fit_lr: float = 2e-3
    """Of the local steps of a rebuilt stage."""
