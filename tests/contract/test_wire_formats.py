"""Activations and gradients in fewer bits: fewer bytes, and nearly the same training.

That they are the same in any order of delivery, and after an exact recovery, stands with the other
strategies in ``test_determinism``; that they are priced as they are sent, in ``test_rehearsal``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

import checkfree
from checkfree.config.load import build
from checkfree.core.errors import BadInput
from checkfree.core.formats import WIRE, bytes_of
from checkfree.core.records import of_kind
from checkfree.session.blueprint import of_modules
from tests.contract.small import TREE, counting, modules, small

Train = Callable[[str, str], checkfree.Run]
NEAR = {"fp32": 0.0, "bf16": 0.02, "fp16": 0.002, "int8": 0.02, "int4": 0.1}
"""How far a loss may be off after 20 iterations, in nats; of about 3."""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A run with these activations and gradients. Trained once."""

    @cache
    def trained(activations: str, gradients: str) -> checkfree.Run:
        wire = {"wire": {"activations": activations, "gradients": gradients}}
        lr = {"optimizer": {"lr": 1e-2}}
        config = small(tmp_path_factory.mktemp("run") / "run", wire, lr)
        return checkfree.train(config, stages=modules(config), batches=counting(config))

    return trained


@pytest.mark.parametrize("how", WIRE)
def test_it_trains_almost_as_in_fp32(how: str, train: Train) -> None:
    exact, run = train("fp32", "fp32"), train(how, how)
    assert run.losses[-1] < run.losses[0] - 0.3
    pairs = list(zip(run.losses, exact.losses, strict=True))
    assert max(abs(one - other) for one, other in pairs) <= NEAR[how]
    assert all(one != other for one, other in pairs) is (how != "fp32"), "it was cast"


@pytest.mark.parametrize("how", WIRE)
def test_the_ledger_counts_the_bytes_that_travel(how: str, train: Train) -> None:
    run = train(how, "fp32")
    config = run.config
    hops = config.iterations * config.microbatches * (config.stages + 1)
    shape = (config.batch, config.model.context, config.model.width)
    (sent,) = of_kind(run.records, "ledger")
    assert sent["bytes"]["Activation"] == hops * bytes_of(shape, how)
    assert sent["bytes"]["Gradient"] == hops * bytes_of(shape, "fp32")


def test_gradients_alone_are_cast(train: Train) -> None:
    exact, run = train("fp32", "fp32").losses, train("fp32", "int8").losses
    assert run[0] == exact[0] and run[1] != exact[1]


def test_stages_of_any_precision_get_their_own(tmp_path: Path) -> None:
    """In 16 bits all along, a wire of 16 bits changes nothing."""
    losses = []
    for how in ("fp32", "bf16"):
        config = small(tmp_path / how, {"wire": {"activations": how, "gradients": how}})
        stages = [module.bfloat16() for module in modules(config)]
        assert of_modules(stages, config).stages == config.stages + 1
        losses.append(checkfree.train(config, stages=stages, batches=counting(config)).losses)
    assert losses[0] == losses[1]
    assert all(torch.tensor(losses[0]).isfinite())


@pytest.mark.parametrize("key", ["activations", "gradients"])
def test_what_is_no_format_of_the_wire_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match=rf"wire\.{key}=int4_rows: expected one of fp32, bf16"):
        build({**TREE, "wire": {key: "int4_rows"}})
