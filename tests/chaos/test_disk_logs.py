"""Logs on a disk, in runs that lose stages: the same as in memory, and the same bits where the disk
fails too."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from checkfree.core.ops import LEAD, Address
from checkfree.messages.control import Message, Unlogged
from checkfree.runtime.disk_log import DiskLog
from tests.chaos import SOAK
from tests.chaos.replays import Losing, Terms

SEEDS = 400 if SOAK else 8
FAILING = 1000 if SOAK else 20


def terms_of(seed: int, replicas: int) -> Terms:
    """Whole stages are lost with a machine where there are replicas."""
    return replace(Terms.of(seed, replicas), machines=0 if replicas == 1 else 2)


def on_disk(folder: Path) -> partial[DiskLog]:
    return partial(DiskLog, folder, lambda told: None)


@pytest.mark.parametrize("replicas", [*[1] * SOAK, 2])
def test_a_run_is_the_same_with_its_logs_on_a_disk(replicas: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    replays = 0
    for seed in range(SEEDS):
        terms = terms_of(seed, replicas)
        memory, disk = Losing(terms), Losing(terms, sent=on_disk(tmp_path))
        memory.play()
        disk.play()
        disk.check_end()
        assert memory.run.log.records == disk.run.log.records, seed
        assert memory.run.runtime.delivered == disk.run.runtime.delivered, seed
        assert not list(tmp_path.iterdir())
        replays += disk.seen["replays"]
    assert replays >= SEEDS // 2, replays


class Watched(Losing):
    """That counts who loses a log, and what the lead is at then."""

    def _after(self, to: Address, message: Message) -> None:
        if to == LEAD and isinstance(message, Unlogged):
            self.seen["unlogged"] += 1
            self.seen[f"unlogged: {self.run.lead.phase.name}"] += 1
        super()._after(to, message)


@pytest.mark.parametrize("replicas", [1, *[2] * SOAK])
def test_a_disk_that_fails_changes_no_bit(
    replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is kept; of what it does not give back the lead is told, and has it
    computed once more."""
    torch.set_num_threads(1)
    write, read = os.pwrite, os.preadv
    seen: Counter[str] = Counter()
    for seed in range(FAILING):
        rng = random.Random(seed)
        full, broken = rng.choice((0.0, 0.1, 0.5)), rng.choice((0.05, 0.5))

        def pwrite(*given: Any, rng: random.Random = rng, full: float = full) -> int:
            if rng.random() < full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*given)

        def preadv(*given: Any, rng: random.Random = rng, broken: float = broken) -> int:
            if rng.random() < broken:
                raise OSError(errno.EIO, "Input/output error")
            return read(*given)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "preadv", preadv)
        losing = Watched(terms_of(seed, replicas), sent=on_disk(tmp_path))
        losing.play()
        losing.check_end()
        seen += losing.seen
    assert seen["unlogged"] > FAILING // 2, seen
    assert seen["done"] >= 0.3 * FAILING, seen  # as many as with logs in memory, of such losses
