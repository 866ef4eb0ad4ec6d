"""Every message as bytes and back, without pickle::

    "ckf" version:u8 header:u32 total:u64    the prefix, 16 bytes, little endian
    {"fields":["Share",{…}],"tensors":[["w","float32",[3,4]],…]}      JSON in ASCII, then spaces
    raw bytes of each tensor, in that order

Every tensor begins at a multiple of 64 bytes, as torch has them: kernels may sum in another
order where memory is aligned in another way, and then a transport would have changed bits.

To receive without a copy: read ``PREFIX`` bytes, ``measure`` them, read the whole message into a
``buffer`` of that size, and ``decode`` that. The tensors are views of it, so never touch it again.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from checkfree.messages import control, tensors
from checkfree.messages.control import Message
from checkfree.messages.limits import (
    DTYPES,
    Limits,
    Malformed,
    check_keys,
    expected,
    is_count,
    is_text,
)
from checkfree.messages.wire import FIELDS, Form, Named, tagged

__all__ = ["PREFIX", "VERSION", "Limits", "Malformed", "buffer", "decode", "encode", "measure"]

VERSION = 8
PREFIX = 16
"""Bytes that tell the size of the message that they begin."""

_MAGIC, _ALIGN = b"ckf", 64
_PREFIX = struct.Struct("<3sBIQ")
_NAMES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
_DTYPES = {dtype: name for name, dtype in _NAMES.items()}
_DEFAULT = Limits()


def encode(message: Message) -> list[bytes | memoryview]:
    """The parts of a message, in order: the header, then each tensor's memory as it lies there.

    Only what is not contiguous on the CPU is copied; the rest has to stay as it is until sent.
    """
    beside: list[Named] = []
    fields = _MESSAGE.write(message, beside)
    parts: list[bytes | memoryview] = [b""]
    specs, total = [], 0
    for name, tensor in beside:
        specs.append([name, _DTYPES[tensor.dtype], tuple(tensor.shape)])
        padding = -total % _ALIGN
        if padding:
            parts.append(bytes(padding))
        flat = tensor.detach().cpu().contiguous().view(-1)
        parts.append(flat.view(torch.uint8).numpy().data)
        total += padding + tensor.nbytes
    header = _dumps({"fields": fields, "tensors": specs}).encode("ascii")
    header += b" " * (-(PREFIX + len(header)) % _ALIGN)
    size = PREFIX + len(header) + total
    parts[0] = _PREFIX.pack(_MAGIC, VERSION, len(header), size) + header
    return parts


def decode(data: bytes | bytearray | memoryview, limits: Limits = _DEFAULT) -> Message:
    """The message that ``data`` is, whole. Raises Malformed for anything else.

    The tensors are views of ``data`` if that can be written to and lies as torch would have it
    (``buffer``), and then nobody else may have it; else of one copy.
    """
    view = memoryview(data).cast("B")
    if measure(view[:PREFIX], limits) != len(view):
        raise Malformed(
            f"the message is not of {len(view)} bytes, as it says: cut short, or mixed up"
        )
    start = PREFIX + _PREFIX.unpack(view[:PREFIX])[2]
    header = _header(bytes(view[PREFIX:start]), limits)
    specs = _specs(header["tensors"], len(view) - start, limits)
    beside = iter(_views(specs, view, start)) if specs else iter(())
    message: Message = _MESSAGE.read(header["fields"], beside)
    if next(beside, None) is not None:
        raise Malformed("there are more tensors than the message has fields for")
    return message


def measure(prefix: bytes | memoryview, limits: Limits = _DEFAULT) -> int:
    """Bytes of the whole message, these included. Raises Malformed if it is none for us."""
    if len(prefix) < PREFIX:
        raise expected(f"at least {PREFIX} bytes", bytes(prefix))
    magic, version, header, total = _PREFIX.unpack(prefix[:PREFIX])
    if magic != _MAGIC:
        raise expected(f"a message, which begins with {_MAGIC!r}", magic)
    if version != VERSION:
        raise expected(f"version {VERSION} of the messages (is checkfree the same?)", version)
    if not 0 < header <= min(limits.max_header_bytes, total - PREFIX):
        raise expected(f"a header of at most {limits.max_header_bytes} bytes", header)
    if total > limits.max_message_bytes:
        raise expected(f"at most {limits.max_message_bytes} bytes", total)
    if (PREFIX + header) % _ALIGN:
        raise expected(f"tensors at a multiple of {_ALIGN} bytes", PREFIX + header)
    return int(total)


def buffer(size: int) -> memoryview:
    """Memory to receive ``size`` bytes into, aligned for ``decode``; untouched pages cost none."""
    return torch.empty(size, dtype=torch.uint8).numpy().data


# --- the header ----------------------------------------------------------------------------------


def _whole_number(digits: str) -> int:
    if len(digits) > 20:  # parsing takes the square of their number
        raise expected("at most 20 digits", digits)
    return int(digits)


_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_loads = json.JSONDecoder(parse_int=_whole_number).decode


def _header(raw: bytes, limits: Limits) -> dict[str, Any]:
    if sum(map(raw.rstrip().count, (b",", b" ", b"[", b"{"))) > limits.max_values:
        raise Malformed(f"more than {limits.max_values} values in the header")
    try:
        found = _loads(raw.decode("ascii"))
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the header is no JSON in ASCII: {type(error).__name__}") from None
    check_keys(found, {"fields", "tensors"})
    assert isinstance(found, dict)
    return found


_Spec = tuple[str, torch.dtype, tuple[int, ...], int, int]
"""Name, dtype, shape, place in the payload and number of elements."""


def _specs(plain: Any, payload: int, limits: Limits) -> list[_Spec]:
    """The tensors that a payload of so many bytes has to be. Raises Malformed for any other."""
    if type(plain) is not list or len(plain) > limits.max_tensors:
        raise expected(f"a list of at most {limits.max_tensors} tensors", plain)
    specs, end = [], 0
    for item in plain:
        name, dtype, shape = _spec(item, limits)
        place, count = end + -end % _ALIGN, math.prod(shape)
        end = place + count * dtype.itemsize
        if max(end, math.prod(max(1, size) for size in shape)) > limits.max_message_bytes:
            raise expected(f"tensors of at most {limits.max_message_bytes} bytes", shape)
        specs.append((name, dtype, shape, place, count))
    if end != payload:
        raise Malformed(f"the header tells of {end} bytes of tensors, {payload} follow it")
    return specs


def _spec(item: Any, limits: Limits) -> tuple[str, torch.dtype, tuple[int, ...]]:
    if type(item) is not list or len(item) != 3:
        raise expected("a tensor's name, dtype and shape", item)
    name, dtype, shape = item
    if not is_text(name):
        raise expected("a tensor's name", name)
    if type(dtype) is not str or dtype not in _NAMES or dtype not in limits.dtypes:
        raise expected(f"one of {', '.join(sorted(limits.dtypes))}", dtype)
    if type(shape) is not list or len(shape) > limits.max_dims or not all(map(is_count, shape)):
        raise expected(f"at most {limits.max_dims} sizes", shape)
    return name, _NAMES[dtype], tuple(shape)


# --- tensors -------------------------------------------------------------------------------------


def _views(specs: Sequence[_Spec], view: memoryview, start: int) -> list[Named]:
    """The tensors that lie from ``start`` on, as views of one memory that is fit for them."""
    if len(view) > start and not _fit(view):
        copy = buffer(len(view) - start)
        copy[:] = view[start:]
        view, start = copy, 0
    found = []
    for name, dtype, shape, place, count in specs:
        if count == 0:
            found.append((name, torch.empty(shape, dtype=dtype)))
            continue
        flat = torch.frombuffer(view, dtype=dtype, count=count, offset=start + place)
        if dtype is torch.bool and int(flat.view(torch.uint8).max()) > 1:
            raise Malformed(f"tensor {name!r} is of dtype bool and has bytes above 1")
        found.append((name, flat.view(shape)))
    return found


def _fit(view: memoryview) -> bool:
    """It may be written to, and lies as torch's own memory does."""
    return not view.readonly and torch.frombuffer(view, dtype=torch.uint8).data_ptr() % _ALIGN == 0


def _read_tensor(plain: Any, beside: Iterator[Named]) -> Tensor:
    name, tensor = next(beside, (None, None))
    if plain != "" or name != "" or not isinstance(tensor, Tensor):
        raise expected("one tensor without a name", name)
    return tensor


def _write_tensor(tensor: Tensor, beside: list[Named]) -> str:
    beside.append(("", tensor))
    return ""


def _write_tensors(found: Mapping[str, Tensor], beside: list[Named]) -> int:
    beside.extend(found.items())
    return len(found)


def _read_tensors(plain: Any, beside: Iterator[Named]) -> dict[str, Tensor]:
    if not is_count(plain):
        raise expected("a number of tensors", plain)
    found: dict[str, Tensor] = {}
    while len(found) < plain:
        name, tensor = next(beside, (None, None))
        if tensor is None or name is None or name in found:
            raise expected(f"{plain} tensors, each with its own name", name)
        found[name] = tensor
    return found


# --- the table of messages -----------------------------------------------------------------------


_MESSAGES = {
    cls
    for room in (control, tensors)
    for cls in vars(room).values()
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}
_TENSORS: Mapping[Any, Form] = {
    Tensor: Form(_write_tensor, _read_tensor),
    Mapping[str, Tensor]: Form(_write_tensors, _read_tensors),
}
_MESSAGE = tagged(
    sorted(_MESSAGES, key=lambda cls: cls.__name__), "__name__", {**FIELDS, **_TENSORS}
)
