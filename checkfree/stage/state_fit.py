"""Whether tensors are those of a stage: names, shapes and types. The first thing that is wrong, in
one line, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor


def unlike(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], may_lack: Collection[str] = ()
) -> str:
    """``may_lack``: names that are expected, and may be absent."""
    odd = (got.keys() - expected.keys()) | (expected.keys() - got.keys() - set(may_lack))
    if odd:
        name = min(odd)
        return f"{name} is {'unknown' if name in got else 'absent'}"
    for name, own in expected.items():
        tensor = got.get(name, own)
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            return f"{name} is {kind(tensor)}, expected {kind(own)}"
    return ""


def strange_moment(moments: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> str:
    """A moment is named after its parameter and has its shape and type, or is a number."""
    for key, moment in moments.items():
        own = params.get(key.rpartition("/")[0])
        if own is None or (moment.ndim and unlike({key: moment}, {key: own})):
            return f"the moment {key} {kind(moment)} is of no parameter"
    return ""


def kind(tensor: Tensor) -> str:
    """Type and shape, as in ``float32[4, 4]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
