"""A fixed run gives the losses that it always gave: to the bit on a machine that is known, to
1e-5 on any other (semantics 17). A change that is meant to change them: see ``regenerate``."""

from __future__ import annotations

import json

import pytest
import torch

from tests.golden.regenerate import alike
from tests.golden.run import LOSSES, golden_losses, key


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    return golden_losses(tmp_path_factory.mktemp("golden"))


def test_losses_are_those_that_are_stored(found: dict[str, list[float]]) -> None:
    stored = json.loads(LOSSES.read_text())
    if key() in stored:
        assert found == stored[key()]
    else:
        assert any(alike(golden, found) for golden in stored.values()), found


def test_the_golden_run_learns_and_loses(found: dict[str, list[float]]) -> None:
    """Else it would guard nothing."""
    losses = found["iteration"]
    assert losses[-1] < losses[0] - 0.2
    assert len(found["validation"]) == 4 + 2, "regular ones, and one after each repair"


def test_a_difference_beyond_rounding_is_none(found: dict[str, list[float]]) -> None:
    moved = {kind: [loss * (1 + 2e-5) for loss in losses] for kind, losses in found.items()}
    assert alike(found, found)
    assert not alike(moved, found)
    assert not alike({**found, "validation": found["validation"][:-1]}, found)
