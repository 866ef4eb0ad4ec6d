"""A clock around each op of a stage, while it trains."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from checkfree.stage import Part, Stage

Name = tuple[str, str]
"""("body", "forward"): what was timed."""

Time = Callable[[], float]
"""Seconds since whenever."""


@dataclass
class Stopwatch:
    """Seconds of each call, by what it was, for one iteration after the other."""

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

        def timed_backward(key: Any, dy: Any, scale: float = 1.0) -> Any:
            def name(dx: Any) -> Name:
                part = Part.HEAD if dy is None else Part.EMBED if dx is None else Part.BODY
                return part.value, "backward"

            return self.timed(name, lambda: backward(key, dy, scale))

        vars(stage).update(
            forward=timed_forward,
            backward=timed_backward,
            reduced=lambda: self.timed((kind, "norm"), reduced),
            step=lambda iteration, clip: self.timed((kind, "step"), lambda: step(iteration, clip)),
        )
        return stage

    def redundant_forwards(self, stages: Mapping[int, Stage]) -> None:
        """A redundant forward of each part that a stage has, on what was forwarded last."""
        for number, stage in stages.items():
            for part in (Part.BODY,) if number else (Part.EMBED, Part.HEAD):
                run = partial(stage.redundant_forward, part, *self.inputs[part])
                run()  # between iterations the caches are cold, within one they are not
                self.timed((part.value, "shadow"), run)
