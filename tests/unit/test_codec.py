"""Messages cross a wire bit for bit, and nothing else comes out of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from checkfree.core.ops import Mirror, Op, Source
from checkfree.core.records import IterationRecord
from checkfree.messages.codec import (
    PREFIX,
    VERSION,
    Limits,
    Malformed,
    buffer,
    decode,
    encode,
    measure,
)
from checkfree.messages.control import Abort, Begin, Commit, Kept, Message, Note, Rebuilt
from checkfree.messages.tensors import Activation, Share, StageState, StateReply
from tests.unit.wires import (
    DTYPES,
    MESSAGES,
    NEXT,
    PREPARED,
    REBUILD,
    SEAT,
    TICKET,
    any_tensor,
    built,
    header_of,
    raw,
    same,
)


def received(message: Message, limits: Limits = Limits()) -> Message:  # noqa: B008 (frozen)
    """The message after a wire, taken in as a transport does."""
    sent = b"".join(encode(message))
    memory = buffer(measure(sent[:PREFIX], limits))
    memory[:] = sent
    return decode(memory, limits)


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_every_message_comes_back(cls: type[Message]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(built(cls))
    def check(message: Message) -> None:
        assert same(received(message), message)
        assert same(decode(b"".join(encode(message))), message)

    check()


def test_there_are_messages() -> None:
    """Else the test above could not fail."""
    names = {cls.__name__ for cls in MESSAGES}
    assert {"Begin", "Activation", "StateReply", "KeepGradient", "Note"} <= names
    assert len(names) > 20


@settings(max_examples=60, deadline=None)
@given(any_tensor())
def test_tensors_keep_their_bits(tensor: Tensor) -> None:
    message = Activation(TICKET, 0, 1, tensor)
    assert same(received(message), message)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape(dtype: torch.dtype) -> None:
    for shape in ((), (0,), (3, 0, 2), (5,), (2, 3)):
        message = Share(TICKET, SEAT, {"a": torch.ones(shape).to(dtype), "b": torch.ones(1)})
        assert same(received(message), message)


def test_a_schedule_prints_as_it_does_everywhere() -> None:
    ops = tuple(map(Op.parse, ("F0@1", "R0@1", "B0@1", "R")))
    begin = Begin(TICKET, ((SEAT, NEXT), (NEXT, SEAT)), {SEAT: ops, NEXT: ()})
    fields = header_of(begin)["fields"][1]
    assert fields["schedule"] == {"2.0": "F0@1 R0@1 B0@1 R", "3.1": ""}
    assert fields["routes"] == ["2.0 3.1", "3.1 2.0"]


def test_mappings_keep_their_order() -> None:
    """Sums of shares go by it."""
    share = Share(TICKET, SEAT, {name: torch.zeros(1) for name in "zax"})
    again = received(share)
    assert isinstance(again, Share)
    assert list(again.tensors) == ["z", "a", "x"]


def test_a_record_comes_back_as_what_it_was() -> None:
    made = IterationRecord(1, 2, 3, float("nan"), {"1.0": 0.5}, {"1": 1.0}, 4, 0, 5)
    assert same(received(Note(4, made)), Note(4, made))


# --- without copies ------------------------------------------------------------------------------


def address_of(part: bytes | memoryview) -> int:
    return torch.frombuffer(part, dtype=torch.uint8).data_ptr()


def test_sending_copies_no_tensor() -> None:
    tensor = torch.randn(4, 8)
    parts = encode(Activation(TICKET, 0, 1, tensor))
    assert [address_of(part) for part in parts[1:]] == [tensor.data_ptr()]


def test_receiving_copies_no_tensor_and_aligns_it() -> None:
    state = StageState({"a": torch.randn(3), "b": torch.randn(5, 7)}, {}, {}, 4)
    sent = b"".join(encode(StateReply(1, Source(SEAT, 2, 4), state)))
    memory = buffer(len(sent))
    memory[:] = sent
    reply = decode(memory)
    assert isinstance(reply, StateReply)
    assert reply.state is not None
    start = address_of(memory)
    for _, tensor in reply.state.tensors():
        assert start < tensor.data_ptr() < start + len(sent)
        assert tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("shift", [1, 3, 32])
def test_other_memory_is_copied_once(shift: int) -> None:
    """What is read-only, or lies askew: kernels must find tensors where torch would put them."""
    message = Activation(TICKET, 0, 1, torch.randn(4, 8))
    sent = b"".join(encode(message))
    memory = bytearray(64 + shift) + sent
    place = -address_of(memory) % 64 + shift
    memory[place : place + len(sent)] = sent
    for data in (sent, memoryview(memory)[place : place + len(sent)]):
        again = decode(data)
        assert isinstance(again, Activation)
        assert again.tensor.data_ptr() % 64 == 0
        again.tensor.zero_()
    assert memory[place : place + len(sent)] == sent


# --- what is refused -----------------------------------------------------------------------------

BARE = header_of(Abort(3))
SHARE = header_of(Share(TICKET, SEAT, {"a": torch.zeros(2), "b": torch.zeros(2)}))
TWO = bytes(64) + bytes(8)


KEPT = Kept(3, Mirror(SEAT, NEXT), 1)


def with_fields(message: Message, **fields: Any) -> dict[str, Any]:
    header: dict[str, Any] = header_of(message)
    header["fields"][1].update(fields)
    return header


def with_tensors(*specs: Any) -> dict[str, Any]:
    return {**SHARE, "tensors": list(specs)}


WRONG: dict[str, tuple[Any, bytes]] = {
    "no JSON": (b"{", b""),
    "not ASCII": ('{"fields": "é"}'.encode(), b""),
    "a list": ([], b""),
    "no fields": ({"tensors": []}, b""),
    "more keys": ({**BARE, "more": 1}, b""),
    "no such message": ({**BARE, "fields": ["Pickle", {}]}, b""),
    "a message's parent": ({**BARE, "fields": ["Message", {}]}, b""),
    "an unknown field": (with_fields(Abort(3), more=1), b""),
    "a missing field": ({**BARE, "fields": ["Abort", {}]}, b""),
    "a negative epoch": (with_fields(Abort(3), epoch=-1), b""),
    "a huge epoch": (with_fields(Abort(3), epoch=2**63), b""),
    "an epoch of many digits": (b'{"fields":["Abort",{"epoch":' + b"9" * 9999 + b"}]}", b""),
    "an epoch that is true": (with_fields(Abort(3), epoch=True), b""),
    "an epoch with a point": (with_fields(Abort(3), epoch=3.0), b""),
    "a short ticket": (with_fields(PREPARED, ticket=[1, 2]), b""),
    "an unknown purpose": (with_fields(PREPARED, ticket=[1, 2, 3]), b""),
    "no seat": (with_fields(PREPARED, sender="2"), b""),
    "a seat written oddly": (with_fields(PREPARED, sender="02.0"), b""),
    "a whole loss": (with_fields(PREPARED, losses=[[0, 1]]), b""),
    "no op": (with_fields(Begin(TICKET, (), {}), schedule={"1.0": "F1@1 X2@2"}), b""),
    "ops apart": (with_fields(Begin(TICKET, (), {}), schedule={"1.0": "F1@1  B1@1"}), b""),
    "an unknown format": (
        with_fields(Begin(TICKET, (), {}), transfers=[["1.0", "2.0", "soon"]]),
        b"",
    ),
    "a keep of no kind": (with_fields(KEPT, keep=["Loan", ["1.0", "2.0"]]), b""),
    "a keep of another kind": (with_fields(KEPT, keep=["Upload", ["1.0"]]), b""),
    "a clip of no stage": (with_fields(Commit(TICKET, {}), clip={"1.5": 1.0}), b""),
    "a weight that is NaN": (with_fields(Rebuilt(1, 1, SEAT), weights=[float("nan")]), b""),
    "a rule that is none": (with_fields(REBUILD, recipe={"rule": 3}), b""),
    "half a character": (with_fields(Rebuilt(1, 1, SEAT), problem="\ud800"), b""),
    "deep notes": (b'{"fields":["Archive",{"note":' + b"[" * 99999, b""),
    "no record": (
        with_fields(Note(1, IterationRecord(*[1] * 3, 1.0, {}, {}, 1, 1, 1)), record=[]),
        b"",
    ),
    "a tensor too few": (with_tensors(["a", "float32", [2]]), bytes(8)),
    "a tensor too many": (with_tensors(*[["a", "float32", [0]]] * 3), b""),
    "a tensor twice": (with_tensors(*[["a", "float32", [2]]] * 2), TWO),
    "an unknown dtype": (with_tensors(["a", "object", [2]], ["b", "float32", [2]]), TWO),
    "a refused dtype": (with_tensors(["a", "complex128", [4]], ["b", "float32", [2]]), TWO),
    "a negative size": (with_tensors(["a", "float32", [-2]], ["b", "float32", [2]]), TWO),
    "too many sizes": (with_tensors(["a", "float32", [1] * 9], ["b", "float32", [2]]), TWO),
    "sizes that are none": (with_tensors(["a", "float32", 2], ["b", "float32", [2]]), TWO),
    "terabytes": (with_tensors(["a", "float32", [2**40]], ["b", "float32", [2]]), TWO),
    "more than fits 64 bits": (with_tensors(["a", "float32", [2**62] * 8], []), TWO),
    "empty, yet huge": (with_tensors(["a", "float32", [0, 2**40]], ["b", "float32", [2]]), TWO),
    "bytes missing": (SHARE, TWO[:-1]),
    "bytes left": (SHARE, TWO + b"x"),
    "true as 2": (with_tensors(["a", "bool", [1]], ["b", "float32", [2]]), b"\2" + TWO[1:]),
    "a tensor where none belongs": ({**BARE, "tensors": [["", "float32", [2]]]}, bytes(8)),
}


@pytest.mark.parametrize("what", WRONG)
def test_malformed(what: str) -> None:
    with pytest.raises(Malformed) as error:
        decode(raw(*WRONG[what]))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_these_were_made_from_is_good() -> None:
    """Else they might all be refused for one silly reason."""
    decode(raw(BARE))
    decode(raw(SHARE, TWO))


def test_prefixes() -> None:
    good = raw(BARE)
    for bad in (b"", good[:9], b"GET / HTTP/1.1\r\nHost: x", b"ckf\xfe" + good[4:], good[:-1]):
        with pytest.raises(Malformed):
            decode(bad)
    with pytest.raises(Malformed, match=f"version {VERSION}"):
        measure(b"ckf\xfe" + good[4:PREFIX])


def test_limits_hold_before_anything_is_read() -> None:
    sent = b"".join(encode(Activation(TICKET, 0, 1, torch.zeros(100))))
    for limits in (
        Limits(max_message_bytes=len(sent) - 1),
        Limits(max_header_bytes=100),
    ):
        with pytest.raises(Malformed, match="at most"):
            measure(sent[:PREFIX], limits)
    for limits in (
        Limits(max_tensors=0),
        Limits(max_dims=0),
        Limits(max_values=5),
        Limits(dtypes=frozenset(("float16",))),
    ):
        with pytest.raises(Malformed):
            decode(sent, limits)


def test_a_type_without_a_form_is_refused_when_it_is_written() -> None:
    with pytest.raises(KeyError):
        encode(Activation(TICKET, 0, 1, torch.zeros(2, dtype=torch.complex128)))


@pytest.mark.parametrize("ahead", [float("nan"), float("inf")])
def test_a_restart_is_moved_on_by_a_number(ahead: float) -> None:
    order = replace(REBUILD, recipe=replace(REBUILD.recipe, ahead=ahead))
    with pytest.raises(Malformed, match=r"Recipe\.ahead: expected a finite number"):
        decode(b"".join(encode(order)))
