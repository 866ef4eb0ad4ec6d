"""The running average of a run: the mean of its weights every so many iterations, over the last so
many of them, as "Early Weight Averaging meets High Learning Rates for LLM Pre-training" (LAWA,
arXiv 2306.03241) takes it.

The store keeps those weights (the area ``average``), so the mean is taken at the end alone: it is
the same whoever died on the way, and no bit of the training knows of it.
"""

from __future__ import annotations

from dataclasses import replace

from checkfree.core.records import AverageRecord
from checkfree.messages.control import Purpose
from checkfree.runtime.store import Store
from checkfree.session.job import Job
from checkfree.session.merging.averages import PipelineLoss, combined
from checkfree.session.merging.rules import UNIFORM, uniform
from checkfree.session.merging.states import keep, of_course, reader

RUNNING = "average"
"""How it is called: ``RUN@average``."""


def keep_average(job: Job, store: Store, devices: tuple[str, ...] = ()) -> AverageRecord | None:
    """Write that of a run which has come to its end, and measure it as the run's validations do, on
    ``devices``, if not the run's; None: there is none. Raises BadInput for a damaged state,
    RunFailed."""
    config, every = job.config, job.config.average.every
    if every is None:
        return None
    wanted = range(every, config.iterations + 1, every)[-config.average.last :]
    states = [state for state in of_course(job.folder) if state.iteration in wanted]
    if not states:
        return None
    shares, stages = uniform(len(states)), job.blueprint.stages
    weights = combined([reader(job.folder, store, state) for state in states], shares)
    loss = None
    if config.validation.every:
        context = replace(job, devices=devices or job.devices).worker_context
        feed, count = job.feeds[Purpose.VALIDATE], config.validation.microbatches
        batches = [feed(config.iterations, microbatch) for microbatch in range(count)]
        loss = PipelineLoss(context, stages).losses([weights], batches)[0]
    note = {
        "rule": UNIFORM,
        "states": [
            {"iteration": state.iteration, "kind": state.kind, "weight": share}
            for state, share in zip(states, shares, strict=True)
        ],
        "loss": loss,
        "archives": [store.digest(state.area, state.shelf) for state in states],
        "progress": {"committed": states[-1].iteration, "tick": states[-1].tick},
    }
    keep(store, RUNNING, weights, stages, note)
    return AverageRecord([state.iteration for state in states], loss)
