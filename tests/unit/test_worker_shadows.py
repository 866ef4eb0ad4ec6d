"""Owner and holder of shadows of what changed: what is sent, what comes of it, what is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import LEAD, Address, Recipe, Shadow, Source, Transfer, Upload
from checkfree.messages.control import (
    RESUME,
    Begin,
    Commit,
    Kept,
    Push,
    Rebuild,
    StateRequest,
    Ticket,
)
from checkfree.messages.tensors import (
    KeepShadow,
    KeepState,
    StageState,
    StateReply,
    tensor_bytes,
)
from checkfree.recovery.shadow.format import pack_state, unpack_state
from checkfree.recovery.wrappers import make_strategy
from checkfree.worker import StageWorker
from tests.tiny import worker_context

OWNER, HOLDER = Address(2), Address(3)
KEEP = Transfer(OWNER, HOLDER, "signs")
MADE = worker_context(
    0, make_strategy(RecoveryConfig("shadow", shadow_format="signs", shadow_every=5))
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def seat(address: Address = HOLDER, life: int = 0, *, uninitialized: bool = False) -> StageWorker:
    return StageWorker(address, life, MADE, uninitialized=uninitialized)


def outcomes(worker: StageWorker) -> list[Any]:
    """All that it sends until only a message can help."""
    return [message for out in iter(worker.advance, None) for _, message in out]


def push(owner: StageWorker, version: int, *counted: int, epoch: int = 0) -> KeepShadow:
    """What it pushes after an iteration whose plan counts these versions at the holder. Its
    weights move by some noise before."""
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for param in owner.stage.module.parameters():
            param += 0.01 * torch.randn(param.shape, generator=generator)
    shadows = tuple(Shadow(OWNER.stage, HOLDER, v) for v in counted)
    ticket = Ticket(epoch, version - 1)
    owner.deliver(Begin(ticket, (), {OWNER: (), HOLDER: ()}, (), (KEEP,), shadows))
    outcomes(owner)
    owner.deliver(Commit(ticket, {OWNER.stage: 1.0}))
    (sent,) = [message for message in outcomes(owner) if isinstance(message, KeepShadow)]
    assert sent.state.version == version
    return sent


def hand(holder: StageWorker, message: KeepShadow) -> list[Any]:
    holder.deliver(message)
    return outcomes(holder)


def told(worker: StageWorker, version: int) -> StageState | None:
    """What a holder hands out of the owner's stage."""
    source = Source(HOLDER, OWNER.stage, version)
    worker.deliver(StateRequest(0, OWNER, source))
    replies = [message.state for message in outcomes(worker) if isinstance(message, StateReply)]
    return replies[0] if replies else None


def gap(owner: StageWorker, state: StageState | None) -> float:
    """Between a stage's weights and what a holder has; norms and biases are just rounded."""
    assert state is not None
    held, found = unpack_state(state).params, 0.0
    for name, param in owner.stage.module.named_parameters():
        if param.ndim < 2:
            assert torch.equal(held[name], param.detach().bfloat16().float())
        found += float((held[name] - param.detach()).square().sum())
    return found**0.5


def kept(owner: StageWorker) -> dict[Address, StageState]:
    return {holder: left.item for holder, left in owner.pushes.references.items()}


def same(one: StageState, other: StageState) -> bool:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    equal = all(a == b and torch.equal(t, u) for (a, t), (b, u) in pairs)
    return equal and (one.version, one.since) == (other.version, other.since)


def test_what_an_older_version_left_there_is_followed_by_a_whole_copy() -> None:
    """It had what never trains in it: a change can't be of that."""
    owner, holder = seat(OWNER), seat()
    hand(holder, push(owner, 1))
    (state,) = kept(owner).values()
    more = {**state.params, "table/values": torch.ones(3).bfloat16()}
    owner.pushes.references.leave(HOLDER, 1, replace(state, params=more))
    sent = push(owner, 4, 1)
    assert sent.base is None and sent.state.packed == "int4_rows"
    assert [type(answer) for answer in hand(holder, sent)] == [Kept]
    assert push(owner, 8, 4).base == 4


def test_a_change_after_a_whole_copy_and_both_have_the_same_bits() -> None:
    owner, holder = seat(OWNER), seat()
    for version, counted in ((3, ()), (8, (3,)), (13, (8,)), (18, (13,))):
        sent = push(owner, version, *counted)
        assert sent.base == (counted[0] if counted else None)
        assert sent.state.packed == ("signs" if counted else "int4_rows")
        assert hand(holder, sent) == [Kept(0, KEEP, version)]
        there = told(holder, version)
        assert there is not None and there.packed == "bf16"
        assert same(there, kept(owner)[HOLDER])
        assert gap(owner, there) < 0.05, "it moves by 0.04 between two"
    assert tensor_bytes(sent) <= 0.5 * tensor_bytes(push(seat(OWNER), 3)), "16 weights, 4 biases"


def test_what_a_change_leaves_out_the_next_one_has() -> None:
    owner, holder = seat(OWNER), seat()
    hand(holder, push(owner, 3))
    with torch.no_grad():
        for param in owner.stage.module.parameters():
            param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(1)))
    gaps = []
    for version in range(8, 200, 5):
        hand(holder, push(owner, version, version - 5))
        gaps.append(gap(owner, told(holder, version)))
    assert gaps[0] > 1 and max(gaps[-5:]) < 0.06, "it moves by 0.04 between two"


def test_whole_again_when_the_base_does_not_count() -> None:
    """Its holder was lost, say; or it is still on its way."""
    owner = seat(OWNER)
    push(owner, 3)
    assert push(owner, 8).base is None
    assert push(owner, 13, 8).base == 8
    assert push(owner, 18, 8).base is None, "version 13 was left there, and does not count yet"


def test_whole_again_after_a_rebuild_or_a_rollback() -> None:
    owner, recipe = seat(OWNER), Recipe("shadow", (Source(HOLDER, OWNER.stage, 3),), moments=False)
    state = replace(owner.stage.snapshot(), version=3)
    push(owner, 3)
    owner.deliver(Rebuild(1, 0, recipe, 9, 9))
    outcomes(owner)
    owner.deliver(StateReply(1, recipe.sources[0], state))
    outcomes(owner)
    assert push(owner, 10, 3, epoch=1).base is None
    assert push(owner, 15, 10, epoch=1).base == 10


def test_a_replacement_of_the_owner_begins_with_a_whole_copy() -> None:
    push(seat(OWNER), 3)
    assert push(seat(OWNER, 1), 8, 3).base is None


def broken(sent: KeepShadow) -> Iterator[KeepShadow]:
    """Changes that can't be read where version 3 is held."""
    state = sent.state
    name = next(key for key in state.params if key.endswith("/codes"))
    bias = next(key for key in state.params if key.endswith("/values"))

    def with_params(**params: Tensor) -> KeepShadow:
        return replace(sent, state=replace(state, params={**state.params, **params}))

    yield replace(sent, base=2)
    yield replace(sent, base=None)
    yield replace(sent, state=replace(state, packed="int4_rows"))
    yield replace(sent, state=replace(state, params={}))
    yield with_params(**{name: state.params[name][:-1]})
    yield with_params(**{bias: state.params[bias][:-1]})
    yield with_params(**{bias: state.params[bias].double()})
    yield with_params(**{"other/codes": state.params[name]})
    yield replace(sent, state=replace(state, params={"other": state.params[name]}))


def test_what_is_no_change_of_what_is_held_is_dropped() -> None:
    owner, holder = seat(OWNER), seat()
    hand(holder, push(owner, 3))
    good = push(owner, 8, 3)
    for number, bad in enumerate(broken(good), 1):
        assert hand(holder, bad) == []
        assert holder.dropped == number
    assert told(holder, 8) is None
    assert hand(holder, good) == [Kept(0, KEEP, 8)]
    assert hand(holder, replace(push(seat(OWNER), 3), base=3)) == [], "a whole copy is no change"


def test_a_change_in_a_plan_that_is_over_is_nobodys_fault() -> None:
    owner = seat(OWNER)
    push(owner, 3)
    late = push(owner, 8, 3)
    replacement = seat(life=1, uninitialized=True)
    survivor = seat()
    survivor.deliver(Begin(Ticket(1, 8), (), {HOLDER: ()}))
    outcomes(survivor)
    for worker in (replacement, survivor):
        assert hand(worker, late) == []
        assert worker.dropped == 0


def test_a_seat_that_is_lost_takes_what_it_knew_along() -> None:
    owner, holder = seat(OWNER), seat()
    hand(holder, push(owner, 3))
    known = kept(owner)[HOLDER]
    owner.destroy()
    assert all(tensor.isnan().all() for tensor in known.params.values())
    there = told(holder, 3)
    assert there is not None and all(t.isfinite().all() for t in there.params.values())


def test_what_others_hold_is_in_the_snapshot_once_and_comes_back() -> None:
    owner, holder = seat(OWNER), seat()
    for version, counted in ((3, ()), (8, (3,))):
        hand(holder, push(owner, version, *counted))
    held = {worker.address: snapshot(worker) for worker in (owner, holder)}
    assert sum(tensor.nbytes for tensor in held[OWNER].values()) == 8, "a version"
    owner_again, holder_again = seat(OWNER), seat()
    for worker in (owner_again, holder_again):
        worker.hold(held.__getitem__)
    owner_again.stage.restore(owner.stage.snapshot())
    assert same(kept(owner_again)[HOLDER], kept(owner)[HOLDER])
    assert holder_again.shadows.standing() == holder.shadows.standing()
    there, again = told(holder, 8), told(holder_again, 8)
    assert there is not None and again is not None and same(again, there)
    assert again.heading and again.since == 3
    one, other = push(owner, 13, 8), push(owner_again, 13, 8)
    assert (one.base, other.base) == (8, 8) and same(one.state, other.state)
    assert hand(holder_again, other) == [Kept(0, KEEP, 13)]


def test_a_snapshot_from_before_shadows_said_their_way_is_read() -> None:
    holder, again = seat(), seat()
    hand(holder, push(seat(OWNER), 3))
    held = snapshot(holder)
    (numbers,) = (name for name in held if name.endswith("/"))
    again.hold(lambda address: {**held, numbers: held[numbers][:3]})
    one, other = told(holder, 3), told(again, 3)
    assert one is not None and other is not None and same(one, other)


def test_a_whole_copy_has_nothing_beside_it() -> None:
    holder, keep = seat(), KEEP._replace(what="int4_rows")
    whole = pack_state(seat(OWNER).stage.snapshot(moments=False), "int4_rows")
    strange = replace(whole, heading=dict(whole.params), held=dict(whole.params), since=1)
    assert hand(holder, KeepShadow(0, keep, replace(strange, version=3))) == [Kept(0, keep, 3)]
    there = told(holder, 3)
    assert there is not None and same(there, replace(whole, version=3))


def test_without_its_holder_a_version_is_forgotten() -> None:
    owner = seat(OWNER)
    push(owner, 3)
    own, again = snapshot(owner), seat(OWNER)
    again.hold(lambda address: own if address == OWNER else {})
    assert kept(again) == {}


def snapshot(worker: StageWorker) -> dict[str, Tensor]:
    keep = Upload(worker.address)
    worker.deliver(Push(0, keep, worker.stage.version, RESUME, 0))
    (message,) = outcomes(worker)
    assert isinstance(message, KeepState)
    return dict(message.state.held)


def test_the_lead_is_who_hears_of_it() -> None:
    holder = seat()
    holder.deliver(push(seat(OWNER), 3))
    out = holder.advance()
    assert out == [(LEAD, Kept(0, KEEP, 3))]
