"""Small studies made by hand, for what the report makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from checkfree.core.cost import Priced
from checkfree.report.study.model import Entry, Study

Records = list[dict[str, Any]]
NAN = math.nan


def config(seed: int = 0, stages: object = "body", **recovery: object) -> dict[str, Any]:
    told = {
        "seed": seed,
        "out": f"runs/{seed}",
        "stages": 3,
        "recovery": {"name": "checkfree", "interval": 100, **recovery},
        "failures": {"stages": stages},
    }
    data = {"name": "stdlib", "content_hash": "feed" * 16}
    return {
        "kind": "config",
        "config": told,
        "versions": {"torch": "2"},
        "data": data,
        "parameters": 9,
    }


def check(iteration: int, loss: float | None, tick: int | None = None) -> dict[str, Any]:
    """A validation."""
    tick = iteration if tick is None else tick
    return {
        "kind": "validation",
        "iteration": iteration,
        "tick": tick,
        "loss": loss,
        "after_repair": False,
        "seconds": 9.0,
    }


def step(iteration: int, loss: float | None = 3.0, tick: int | None = None) -> dict[str, Any]:
    tick = iteration if tick is None else tick
    told = {"iteration": iteration, "tick": tick, "loss": loss, "tokens": 10, "seconds": 2.0}
    return {"kind": "iteration", **told}


def lost(iteration: int, stage: int, tick: int | None = None) -> dict[str, Any]:
    tick = iteration if tick is None else tick
    told = {"iteration": iteration, "tick": tick, "seats": [f"{stage}.0"], "stages": [stage]}
    return {"kind": "failure", **told}


def repair(
    iteration: int,
    stage: int,
    rule: str,
    before: float | None,
    after: float | None,
    resume_at: int | None = None,
    tick: int | None = None,
) -> dict[str, Any]:
    back = iteration if resume_at is None else resume_at
    return {
        "kind": "recovery",
        "iteration": iteration,
        "tick": iteration if tick is None else tick,
        "resume_at": back,
        "rebuilds": {f"{stage}.0": {"rule": rule, "sources": [{"holder": "1.0"}]}},
        "bytes": 8,
        "lost_iterations": iteration - back,
        "validation_before": before,
        "validation_after": after,
        "seconds": 5.0,
    }


def end(iteration: int, tick: int | None = None, reason: str = "") -> dict[str, Any]:
    tick = iteration if tick is None else tick
    status = "failed" if reason else "done"
    return {"kind": "end", "status": status, "iteration": iteration, "tick": tick, "reason": reason}


def trained(losses: Sequence[float | None], seed: int = 0, every: int = 2, **told: Any) -> Records:
    """A run that nothing happened to; ``losses`` are its validations."""
    found: Records = [config(seed, **told)]
    for place, loss in enumerate(losses):
        found.append(check(place * every, loss))
        if place < len(losses) - 1:
            found += [step(place * every + more) for more in range(every)]
    return [*found, end((len(losses) - 1) * every)]


def rolled_back() -> Records:
    """Iterations 0 to 5, back to 2 at tick 5, then to the end at 8: eleven ticks."""
    found: Records = [config(name="checkpoint")]
    for tick, iteration in enumerate([0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7]):
        if tick == 5:
            found += [lost(5, 1, 5), repair(5, 1, "checkpoint", 3.2, 3.5, 2, 5)]
        if iteration in (0, 4, 6):
            found.append(check(iteration, 4.0 - 0.2 * iteration, tick))
        found.append(step(iteration, 4.0 - 0.1 * iteration, tick))
    return [*found, check(8, 2.4, 11), end(8, 11)]


def unsaved(at: int = 3, reason: str = "stage 1 is lost: no neighbour <left>") -> Records:
    found: Records = [config()]
    for iteration in range(at):
        if iteration % 2 == 0:
            found.append(check(iteration, 4.0 - 0.1 * iteration))
        found.append(step(iteration))
    return [*found, lost(at, 1), end(at, reason=reason)]


def priced(
    iterations: Sequence[int], price: float | None = None, repairs: Sequence[float] = ()
) -> Priced:
    """Each tick takes half an hour, an hour in all of useful, bubble and rollback in turns."""
    kept = len(set(iterations))
    again = len(iterations) - kept
    seconds = {"useful": 1350.0 * kept, "bubble": 450.0 * kept, "rollback": 1800.0 * again}
    return Priced(
        "a data centre, own sizes",
        tuple(iterations),
        tuple(1800.0 * (tick + 1) for tick in range(len(iterations))),
        seconds,
        {"useful": 1000 * kept, "rollback": 1000 * again, "validation": 8 * len(iterations)},
        {},
        tuple(repairs),
        {"peers": 64, "store": 0, "own": 32},
        4,
        price,
        parameters=16,
    )


def entry(
    label: str, records: Records, seed: int = 0, rate: float | None = None, **more: Any
) -> Entry:
    return Entry(label, rate, seed, f"runs/{label}-{seed}", records, **more)


def steps_of(records: Records) -> list[int]:
    return [record["iteration"] for record in records if record["kind"] == "iteration"]


def full(price: float | None = 2.0) -> Study:
    """Three strategies, two rates, two seeds; a rollback, an end, a reused curve, odd names."""
    entries = []
    for seed in (0, 1):
        reference = trained([4.0, 3.4 + seed / 50, 3.0 + seed / 50, 2.8, 2.6], seed)
        entries.append(
            entry("no_failure", reference, seed, priced=priced(steps_of(reference), price))
        )
        reused = priced(steps_of(reference), price, [30.0])
        for rate in (5.0, 16.0):
            rolled = rolled_back()
            entries += [
                entry(
                    "checkpoint(interval=2)",
                    rolled,
                    seed,
                    rate,
                    priced=priced(steps_of(rolled), price),
                ),
                entry("checkfree", unsaved(), seed, rate, priced=priced(range(3), price)),
                entry(
                    "redundant",
                    reference,
                    seed,
                    rate,
                    priced=reused,
                    reused="no_failure, same seed",
                ),
                entry(
                    "checkfree(failures.stages=middle)",
                    [config(seed, "middle"), *_averaged(3.0 + seed / 20)[1:]],
                    seed,
                    rate,
                    priced=priced(range(8), price),
                ),
            ]
    notes = ("Sizes are <those> of the paper & not the model's.",)
    return Study(
        "Three & a <b>bold</b> title", entries, "checkfree compare demo --seeds 2", None, notes
    )


def _averaged(loss: float) -> Records:
    found = trained([4.0, 3.5, loss, 2.9, 2.7])
    place = next(i for i, r in enumerate(found) if r["kind"] == "validation" and r["tick"] == 4)
    happened = [lost(4, 2), repair(4, 2, "weighted average", loss, loss + 0.5)]
    return [*found[: place + 1], *happened, *found[place + 1 :]]
