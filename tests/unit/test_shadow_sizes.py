"""Bytes of shadows, foretold: each as it is sent, each as it is held, and what a budget allows."""

from __future__ import annotations

from typing import Any

import pytest

from checkfree.config.load import build
from checkfree.core.config import Config
from checkfree.core.formats import INT4_ROWS, SIGNS
from checkfree.messages.control import Purpose
from checkfree.messages.tensors import StageState
from checkfree.recovery.options import SHADOW_FORMATS
from checkfree.recovery.shadow import changes
from checkfree.recovery.shadow.format import pack_state
from checkfree.recovery.shadow.references import WHOLE, held_as
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.sizes import own_sizes, recovery_of

VOCABULARY = 101


def config(precision: str = "fp32", **recovery: Any) -> Config:
    model = {"width": 20, "heads": 2, "hidden": 33, "blocks": 4, "context": 8}
    tree = {"stages": 2, "precision": precision, "model": {**model, "vocabulary": VOCABULARY}}
    return build({**tree, "recovery": {"name": "shadow", **recovery}})


def weight(state: StageState) -> int:
    return sum(tensor.nbytes for _, tensor in state.tensors())


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16_weights"])
@pytest.mark.parametrize("stage", [0, 1])
def test_what_is_sent_and_held_is_as_large_as_foretold(stage: int, precision: str) -> None:
    made = config(precision)
    sizes, blueprint = own_sizes(made), of_family(made, VOCABULARY)
    context = make_worker_context(made, blueprint, dict.fromkeys(Purpose, lambda i, m: None))
    state = context.make(stage, stage).snapshot(moments=False)
    for how in set(SHADOW_FORMATS.values()) - {SIGNS}:
        assert weight(pack_state(state, how)) == sizes.packed[how][stage]
    whole = changes.whole(state)
    held = changes.held(whole, None)
    assert weight(whole) == sizes.packed[WHOLE][stage]
    assert weight(held) == sizes.packed[held_as(SIGNS)][stage]
    change = changes.change(state, held)
    assert weight(change) == sizes.packed[SIGNS][stage]
    assert weight(changes.held(change, held)) == weight(held) + weight(change)


def test_as_often_as_the_budget_allows() -> None:
    """By the bytes of a change, not of the whole copies that come before and after losses."""
    least = {
        how: recovery_of(config(shadow_every="auto", shadow_format=how)).shadow_least
        for how in ("signs", "int4", "int8")
    }
    sizes = own_sizes(config())
    times = sum(sizes.packed[INT4_ROWS]) / sum(sizes.packed[SIGNS])
    assert 3 < times < 4.5
    assert least["int4"] == pytest.approx(times * least["signs"], abs=times)
    assert least["signs"] < least["int4"] < least["int8"]
    assert recovery_of(config(shadow_every=8, shadow_format="signs")).shadow_least == 1
