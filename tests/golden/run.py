"""The run whose losses are golden: a cut-down demo that loses two stages on its way.

It trains on batches of its own, so that neither the text nor the data room has a part in it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import checkfree
from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.units import derive
from checkfree.models.families import family

LOSSES = Path(__file__).with_name("losses.json")

VOCABULARY = 32
CHANGES = (
    "iterations=12",
    "microbatches=4",
    "seed=1",
    "model.width=24",
    "model.heads=3",
    "model.hidden=64",
    "model.blocks=6",
    "model.context=16",
    f"model.vocabulary={VOCABULARY}",
    "validation.every=4",
    "validation.microbatches=2",
    "failures.probability=null",
)
FAILURES = {"failures": [{"iteration": 4, "stage": 3}, {"iteration": 8, "stage": 1}]}
"""One that is averaged and one that becomes a copy of its partner."""


def golden_losses(folder: Path) -> dict[str, list[float]]:
    """Train in an empty ``folder``; the losses of all steps and of all validations."""
    trace = folder / "failures.json"
    trace.write_text(json.dumps(FAILURES))
    config = load("demo", [*CHANGES, f"failures={trace}", f"out={folder / 'run'}"])
    run = checkfree.train(
        config, stages=_stages(config), batches=_count, validation=lambda _, m: _count(-1, m)
    )
    rules = {rule for r in run.records[-1]["recoveries"] for rule in r["rules"].values()}
    assert rules == {"weighted average", "partner copy"}, rules
    return {
        kind: [record["loss"] for record in run.records if record["kind"] == kind]
        for kind in ("iteration", "validation")
    }


def _stages(config: Config) -> Sequence[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        made = family(config.model.family).stage
        return [made(config.model, stage, config.stages) for stage in range(config.stages + 1)]


def _count(iteration: int, microbatch: int) -> Tensor:
    """Two rows of tokens that count up from anywhere, by 1 to 3."""
    draws = [derive(1, "golden", iteration, microbatch, row) for row in range(2)]
    rows = [[(d // 3 + (1 + d % 3) * place) % VOCABULARY for place in range(17)] for d in draws]
    return torch.tensor(rows)


def key() -> str:
    """What the bits of a run depend on beside the code (semantics 17): torch's build, the vector
    instructions it uses, and the processor, by which its libraries choose their kernels."""
    parts = (platform.machine(), torch.backends.cpu.get_cpu_capability(), _processor())
    return " ".join((*parts, f"torch {torch.__version__}"))


def _processor() -> str:
    """Vendor, family and model where Linux says so, else as Python calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    names = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    return "-".join(facts[name] for name in names if name in facts) or "unknown"
