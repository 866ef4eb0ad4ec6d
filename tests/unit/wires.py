"""Messages of every class, drawn from their annotations; and when two are the same, bit for bit."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from checkfree.core import records
from checkfree.core.ops import FAULTS, LEAD, LOG, STORE, Address, Kind, Op, Recipe, Source
from checkfree.messages import codec, control, limits, tensors
from checkfree.messages.codec import PREFIX, encode
from checkfree.messages.control import Message, Prepared, Rebuild, Ticket

DTYPES = tuple(getattr(torch, name) for name in limits.DTYPES)
"""What a default receiver takes."""


def classes(room: types.ModuleType, base: type[Any]) -> list[type[Any]]:
    """The classes of a module under ``base``, in the order in which they stand there."""
    found = [value for value in vars(room).values() if isinstance(value, type)]
    return [
        cls for cls in found if issubclass(cls, base) and cls.__module__.startswith(room.__name__)
    ]


MESSAGES = [
    cls for room in (control, tensors) for cls in classes(room, Message) if cls is not Message
]
RECORDS = [cls for cls in classes(records, records.Record) if cls is not records.Record]

counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=6)
seats = st.sampled_from((LEAD, STORE, FAULTS, LOG)) | st.builds(
    Address, st.integers(0, 99), st.integers(0, 9)
)
_HOPS = (Kind.FORWARD, Kind.BACKWARD, Kind.REDUNDANT)
ops = st.just(Op(Kind.REDUCE)) | st.builds(
    Op, st.sampled_from(_HOPS), st.integers(0, 9999), st.integers(0, 99)
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """Any bits of any dtype, 0-d and empty ones too, not always contiguous."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    high = 2 if dtype is torch.bool else 256
    size = (*shape, dtype.itemsize)
    made = torch.randint(0, high, size, dtype=torch.uint8, generator=generator)
    return (
        made.view(dtype).squeeze(-1) if draw(st.booleans()) else _turned(made.view(dtype)[..., 0])
    )


def _turned(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor


_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: counts,
    float: st.floats(),
    bool: st.booleans(),
    str: texts,
    Any: trees,
    Address: seats,
    Op: ops,
    Tensor: any_tensor(),
    Mapping[str, Any]: st.dictionaries(texts, trees, max_size=3),
}


def strategy_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is tuple and args[-1] is not Ellipsis:
        return st.tuples(*map(strategy_of, args))
    if origin in (tuple, Sequence):
        return st.lists(strategy_of(args[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(strategy_of(args[0]), strategy_of(args[1]), max_size=3)
    if origin in (typing.Union, types.UnionType):
        kinds = [st.none() if arg is type(None) else strategy_of(arg) for arg in args]
        return st.one_of(kinds)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    if issubclass(hint, tuple):
        return st.tuples(*map(strategy_of, typing.get_type_hints(hint).values())).map(hint._make)
    return built(hint)


def built(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Objects of a dataclass, with a value for every field."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{f.name: _of_field(cls, f.name, hints[f.name]) for f in fields(cls)})


def _of_field(cls: type[Any], name: str, hint: Any) -> st.SearchStrategy[Any]:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    match cls.__name__, name:
        case "Note", "record":
            return st.one_of(list(map(built, RECORDS)))
        case ("StageState", "lr_scale") | ("Recipe", "ahead"):
            return finite
        case "Rebuilt", "weights":
            return st.lists(finite, max_size=3).map(tuple)
    return strategy_of(hint)


def same(one: Any, other: Any) -> bool:
    """The same type, values and bits; mappings also in their order."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and _bits(one) == _bits(other)
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(repr(one) == repr(other))


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, flat.numpy().tobytes()


# --- by hand --------------------------------------------------------------------------------------

TICKET = Ticket(3, 7)
SEAT, NEXT = Address(2, 0), Address(3, 1)
PREPARED = Prepared(TICKET, SEAT, ((0, 1.0),), 1.0, 2, 0)
REBUILD = Rebuild(1, 1, Recipe("mean", (Source(SEAT, 2, 3),)), 4, 5)


def raw(header: Any, payload: bytes = b"") -> bytes:
    """A message with any header at all, and a right prefix."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(PREFIX + len(text)) % 64)
    size = PREFIX + len(text) + len(payload)
    return codec._PREFIX.pack(b"ckf", codec.VERSION, len(text), size) + text + payload


def header_of(message: Message) -> Any:
    return json.loads(encode(message)[0][PREFIX:])
