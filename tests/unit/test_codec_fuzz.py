"""Broken messages, by the thousand: Malformed, or a message all the same; and in bounded memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.ops import Mirror, Op, Source, Transfer, Upload
from checkfree.core.records import IterationRecord
from checkfree.messages import codec
from checkfree.messages.codec import PREFIX, Limits, Malformed, buffer, decode, encode
from checkfree.messages.control import (
    Archive,
    Begin,
    Commit,
    Copy,
    Note,
    Purpose,
    Rebuilt,
    Rollcall,
    Standing,
    Struck,
    Ticket,
)
from checkfree.messages.tensors import (
    Activation,
    KeepShadow,
    KeepState,
    Share,
    StageState,
    StateReply,
)
from tests.unit.wires import NEXT, PREPARED, REBUILD, SEAT, TICKET, raw, same

FUZZED = 20_000
"""Broken messages per run of the tests; 100,000 when something here has changed."""


def samples() -> list[bytes]:
    """Messages of every sort of field."""
    state = StageState({"a": torch.randn(3, 2)}, {"b": torch.ones(2, dtype=torch.bool)}, {}, 4)
    codes = torch.ones(3, dtype=torch.uint8)
    keep = Upload(SEAT)
    ops = tuple(map(Op.parse, ("F0@1", "B0@1", "R")))
    copies = (Copy(1, 3, 2),)
    record = IterationRecord(1, 2, 3, 1.5, {"1.0": 0.5}, {"1": 1.0}, 4, 0, 5)
    messages = (
        Begin(Ticket(1, 2, Purpose.VALIDATE), ((SEAT, NEXT),), {SEAT: ops}, (Mirror(SEAT, NEXT),)),
        PREPARED,
        Commit(TICKET, {0: 0.5, 1: 1.0}, record),
        Rollcall(1),
        Standing(1, SEAT, 0, False, 3, 4, Commit(TICKET, {0: 0.5}, record), TICKET, copies),
        Archive(1, "resume", 3, (SEAT,), (1, 2), {"progress": {"tick": 1, "loss": None}}),
        REBUILD,
        Rebuilt(1, 2, SEAT, (0.5, 0.5), 10, "", (Source(SEAT, 1, 2),)),
        Struck(1, 2, ((SEAT, 0),), ((SEAT, 1),)),
        Note(3, record),
        Activation(TICKET, 0, 1, torch.randn(2, 3)),
        Share(TICKET, SEAT, {"a": torch.randn(4), "b": torch.randn(2).bfloat16()}),
        KeepState(1, keep, "resume", 3, state),
        KeepShadow(1, Transfer(SEAT, NEXT, "signs"), replace(state, packed="signs"), 3),
        StateReply(1, Source(SEAT, 2, 4), state),
        StateReply(1, Source(SEAT, 2, 4), replace(state, heading={"a/codes": codes}, since=2)),
        StateReply(1, Source(SEAT, 2, 4), None, "gone"),
    )
    return [b"".join(encode(message)) for message in messages]


JUNK: tuple[Any, ...] = (
    *(None, True, -1, 2**63, 2**70, 1.5, float("nan"), float("inf"), "", "0.0", "lead", "F0@1"),
    *([], {}, [[]], {"a": 1}, "\ud800", "x" * 999, [0] * 99, 0, 1, 3),
)


def broken(good: list[bytes], draw: random.Random) -> bytes:
    """A message with something wrong, anywhere, and often a prefix that fits again."""
    one = bytearray(draw.choice(good))
    match draw.randrange(5):
        case 0:  # bits
            for _ in range(draw.choice((1, 1, 2, 8))):
                one[draw.randrange(len(one))] ^= 1 << draw.randrange(8)
        case 1:  # cut, or spliced with another
            other = draw.choice((b"", draw.choice(good), draw.randbytes(draw.randrange(99))))
            one[draw.randrange(len(one)) :] = other[draw.randrange(len(other) + 1) :]
        case 2:  # letters of the header
            end = one.rindex(b"}")
            place = draw.randrange(PREFIX, end)
            one[place : place + draw.randrange(3)] = bytes(draw.choices(b'"0129.,:[]{}-e ', k=2))
        case 3:
            return draw.randbytes(draw.randrange(200))
        case 4:
            return _with_junk(bytes(one), draw)
    return bytes(one)


def _with_junk(one: bytes, draw: random.Random) -> bytes:
    """Some value of the header exchanged for one of another kind."""
    size = codec._PREFIX.unpack(one[:PREFIX])[2]
    header = json.loads(one[PREFIX : PREFIX + size])
    places = list(_places(header))
    holder, key = draw.choice(places)
    holder[key] = draw.choice(JUNK)
    return raw(header, one[PREFIX + size :])


def _places(tree: Any) -> Any:
    """Every (container, key) in plain data."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in list(keys):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def outcome(data: bytes, limits: Limits) -> str:
    """What became of it. Anything but Malformed or a message that can be sent on is a bug."""
    try:
        message = decode(data, limits)
    except Malformed as error:
        assert len(str(error)) < 500
        return "malformed"
    assert same(decode(b"".join(encode(message))), message)
    return type(message).__name__


def test_broken_messages_are_malformed_or_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(codec, "buffer", lambda size: taken.append(size) or buffer(size))
    good, draw = samples(), random.Random(0)
    found: Counter[str] = Counter()
    for _ in range(FUZZED):
        data = broken(good, draw)
        taken.clear()
        found[outcome(data, Limits(max_message_bytes=2**16))] += 1
        assert sum(taken) <= 2 * len(data)  # `outcome` decodes twice
    assert found["malformed"] > 0.5 * FUZZED
    assert len(found) > 8, found  # some are still messages: the broken place was a number, say


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_bytes_behind_a_good_prefix(header: bytes, payload: bytes) -> None:
    outcome(raw(header or b"x", payload), Limits())


@pytest.mark.parametrize(
    "unit", [b"[],", b'{"a":', b'"\\u1234",', b"1 ", b"R ", b"[", b"1e9,", b'{"1":{}},']
)
def test_memory_is_bounded_by_the_limits(unit: bytes) -> None:
    """Headers whose parts take far more memory than they take bytes."""
    limits = Limits(max_header_bytes=2**20, max_values=2**14)
    prefix = b'{"tensors":[],"fields":["Begin",{"schedule":{"1.0":"'
    data = [raw((start + unit * 2**20)[: 2**20 - 80]) for start in (b"[", prefix)]
    tracemalloc.start()
    for header in data:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        outcome(header, limits)
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak < 4 * limits.max_header_bytes + 256 * limits.max_values
    tracemalloc.stop()
