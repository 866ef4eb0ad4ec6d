"""Error feedback: the sum of what is sent is the sum of what was to be, but for the last."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from checkfree.core.formats import WIRE
from checkfree.core.ops import Address, Kind, Op
from checkfree.messages.control import Ticket
from checkfree.worker.casting import Casting
from checkfree.worker.feedback import Feedback

TO = Address(1)


def gradients(count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [1 + torch.randn(2, 16, 32, generator=generator) for _ in range(count)]


def as_read(
    casting: Casting, given: list[Tensor], to: Address = TO, owed: Feedback | None = None
) -> list[Tensor]:
    """What arrives of them at ``to``, one after the other."""
    owed = Feedback() if owed is None else owed
    made = []
    for microbatch, gradient in enumerate(given):
        op = Op(Kind.BACKWARD, microbatch, 1)
        message = casting.gradient(Ticket(0, 0), op, gradient, (Address(2), to), owed)
        made.append(casting.read(message, gradient.dtype))
    return made


@pytest.mark.parametrize("how", WIRE)
def test_the_sum_is_off_by_one_rounding_error(how: str) -> None:
    given = gradients()
    exact = torch.stack(given).sum(0)
    off = {
        feedback: (torch.stack(as_read(Casting("fp32", how, feedback), given)).sum(0) - exact)
        for feedback in (False, True)
    }
    lost = as_read(Casting("fp32", how), given[:1])[0] - given[0]
    if how == "fp32":
        assert not off[True].any() and not off[False].any()
    else:
        assert off[True].norm() < 1.5 * lost.norm()
        assert off[False].norm() > 2 * off[True].norm()


def test_it_changes_nothing_where_nothing_is_lost() -> None:
    given = [gradient.bfloat16() for gradient in gradients(3)]
    for one, other in zip(as_read(Casting("fp32", "bf16", True), given), given, strict=True):
        assert torch.equal(one, other)


def test_the_first_of_an_attempt_owes_nothing_and_links_owe_apart() -> None:
    coarse = Casting("fp32", "int4", True)
    first, second, *_ = gradients()
    plain = as_read(Casting("fp32", "int4"), [first, second])
    owed = Feedback()
    assert torch.equal(as_read(coarse, [first], TO, owed)[0], plain[0])
    assert torch.equal(as_read(coarse, [second], Address(1, 1), owed)[0], plain[1])
    assert not torch.equal(as_read(coarse, [second], TO, owed)[0], plain[1])


def test_another_shape_is_not_made_up_for() -> None:
    first, second, *_ = gradients()
    coarse, short = Casting("fp32", "int4", True), second[:, :5]
    assert torch.equal(
        as_read(coarse, [first, short])[1], as_read(Casting("fp32", "int4"), [short])[0]
    )


@pytest.mark.parametrize("how", ["fp16", "int4"])
def test_what_is_not_finite_shows_once(how: str) -> None:
    bad, good, *_ = gradients()
    bad[1, 3, 5] = math.inf
    one, other = as_read(Casting("fp32", how, True), [bad, good])
    assert not one[1, 3, 5].isfinite() and other.isfinite().all()


def test_doubles_and_halves_stay_what_they_are() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        given = [gradient.to(dtype) for gradient in gradients(3)]
        assert all(x.dtype == dtype for x in as_read(Casting("fp32", "int8", True), given))
