"""python -m tests.golden.regenerate: after a change that is meant to change the losses.

Writes this machine's, and drops those of other machines that are more than rounding away from
them: they are of code that is gone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from tests.golden.run import LOSSES, golden_losses, key

TOLERANCE = 1e-5
"""Relative, between machines (semantics 17)."""

Golden = dict[str, list[float]]


def alike(one: Golden, other: Golden) -> bool:
    """Equal but for the rounding of different machines."""
    if {kind: len(losses) for kind, losses in one.items()} != {
        kind: len(losses) for kind, losses in other.items()
    }:
        return False
    pairs = [pair for kind in one for pair in zip(one[kind], other[kind], strict=True)]
    return all(abs(a - b) <= TOLERANCE * abs(b) for a, b in pairs)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = golden_losses(Path(folder))
    known: dict[str, Golden] = json.loads(LOSSES.read_text()) if LOSSES.exists() else {}
    kept = {name: golden for name, golden in known.items() if alike(golden, found)}
    LOSSES.write_text(json.dumps(kept | {key(): found}, indent=1, sort_keys=True) + "\n")
    print(f"{key()}: {len(found['iteration'])} losses in {LOSSES.name}")
    for name in sorted(known.keys() - kept.keys() - {key()}):
        print(f"dropped: {name}")


if __name__ == "__main__":
    main()
