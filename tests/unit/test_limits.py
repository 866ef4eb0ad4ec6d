"""A seat takes what its run can send, and not much more."""

from __future__ import annotations

from typing import Any

import pytest

from checkfree.config.load import build
from checkfree.core.ops import Address, Upload
from checkfree.messages import codec
from checkfree.messages.control import CHECKPOINT, Purpose
from checkfree.messages.tensors import KeepState
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.swarm.limits import limits_of

SIZE: dict[str, Any] = {
    "stages": 2,
    "batch": 2,
    "recovery": "checkfree",
    "model": {"width": 64, "heads": 2, "blocks": 2, "context": 8, "vocabulary": 300},
}


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16_weights"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_every_state_fits_with_its_moments(stage: int, precision: str) -> None:
    config = build({**SIZE, "precision": precision})
    context = make_worker_context(
        config, of_family(config, 300), dict.fromkeys(Purpose, lambda i, m: None)
    )
    made = context.make(stage, stage)
    made.set_gradients({n: p.detach() for n, p in made.params.items()})
    made.step(0, 1.0)
    assert made.snapshot().moments
    keep = Upload(Address(stage))
    message = KeepState(0, keep, CHECKPOINT, 0, made.snapshot())
    data = b"".join(bytes(part) for part in codec.encode(message))
    assert codec.decode(data, limits_of(config)).epoch == 0  # type: ignore[attr-defined]


def test_what_no_stage_weighs_is_refused_by_its_first_bytes() -> None:
    config = build(SIZE)
    most = limits_of(config).max_message_bytes
    assert most < 2**24, "a run this small has no messages of gigabytes"
    prefix = codec._PREFIX.pack(b"ckf", codec.VERSION, 48, most + 1)
    with pytest.raises(codec.Malformed, match="at most"):
        codec.measure(prefix, limits_of(config))


def test_a_larger_model_may_send_more_and_so_may_one_that_is_fitted() -> None:
    plain = limits_of(build(SIZE)).max_message_bytes
    wide = {**SIZE, "model": {**SIZE["model"], "width": 128}}
    assert limits_of(build(wide)).max_message_bytes > plain
    fit = {**SIZE, "recovery": {"name": "fit", "fit_memory": 12345}}
    assert limits_of(build(fit)).max_message_bytes == plain + 12345


def test_what_is_held_of_changes_is_whole() -> None:
    """In bf16, as a rebuild is sent it, with the last change beside it."""
    most = [
        limits_of(build({**SIZE, "recovery": {"name": "shadow", "shadow_format": how}}))
        for how in ("signs", "bf16", "int8")
    ]
    signs, bf16, int8 = (limits.max_message_bytes for limits in most)
    assert signs > bf16 > int8
