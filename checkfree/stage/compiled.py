"""Blocks of a stage that torch.compile makes faster code of, one by one.

Only ``forward`` of a block is replaced, so hooks and the names of a state are what they were. A
graph is made for each kind of block and shape, never for shapes at large: what a microbatch comes
to must not depend on those before it. Dropout draws its numbers as without compiling. What runs
without gradients, as a validation does, is not compiled: it would take another graph of each.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from checkfree.core.errors import BadInput
from checkfree.models.two_chunks import TwoChunks

LISTS = ("blocks", "layers")
"""Where a body stage may keep its blocks, in an nn.ModuleList."""

MOST_GRAPHS = 1024
"""Of one block's code. torch has 8, and then goes on uncompiled without a word."""


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """A body's blocks, or the module itself where it lists none; of both chunks, if it has two."""
    if isinstance(module, TwoChunks):
        return [*blocks_of(module.first), *blocks_of(module.second)]
    for name in LISTS:
        found = getattr(module, name, None)
        if isinstance(found, nn.ModuleList) and len(found):
            return [*found]
    return [module]


def compile_blocks(module: nn.Module) -> None:
    """Have them compiled, each when it is first called with gradients."""
    for block in blocks_of(module):
        block.forward = _compiled(block.forward)


def leave_uncompiled(module: nn.Module) -> None:
    """The reverse."""
    for block in blocks_of(module):
        forward = vars(block).pop("forward").__wrapped__
        if block.forward != forward:  # its own, and not its class's
            block.forward = forward


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] | None = None

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if made is None:
            made = _compile(forward)
        return made(*args, **kwargs)

    return run


def _compile(forward: Callable[..., Any]) -> Callable[..., Any]:
    # torch's own settings, which are a process's.
    dynamo: Any = import_module("torch._dynamo.config")
    name = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
    setattr(dynamo, name, max(MOST_GRAPHS, getattr(dynamo, name)))
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:  # else a pool for each seat's process
        inductor: Any = import_module("torch._inductor.config")
        inductor.compile_threads = 1
    return torch.compile(forward, dynamic=False, options={"fallback_random": True})


def check_folder() -> None:
    """Raise BadInput unless torch's folder for compiled files can be written to."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"compile=true: torch can't write what it compiles to {folder} ({error.strerror}): "
            "have TORCHINDUCTOR_CACHE_DIR name another folder, or leave out compile"
        ) from None


def find_compiler(device: str) -> str:
    """Path of the compiler that torch.compile calls for a device of this type. Raises BadInput
    where there is none."""
    if device == "cuda":
        if find_spec("triton") is None:
            raise BadInput(
                "compile=true on a GPU needs the package triton, which is not installed: run pip "
                "install triton, or leave out compile"
            )
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
        variable, what = "CC", "C"
    else:
        names = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
        variable, what = "CXX", "C++"
    for name in names:
        if found := shutil.which(name):
            return found
    raise BadInput(
        f"compile=true needs a {what} compiler, and there is no {names[0]} on this machine: "
        f"install it, name another one in the environment's {variable}, or leave out compile"
    )


@contextmanager
def refusing(module: nn.Module) -> Iterator[None]:
    """BadInput, in one line, for what torch.compile can't do here: a folder for its files that
    can't be written to, a compiler that fails, a block that it can't compile."""
    try:
        yield
    except RuntimeError as error:
        errors: Any = import_module("torch._dynamo.exc")
        inductor: Any = import_module("torch._inductor.exc")
        theirs = (
            errors.TorchDynamoException,
            inductor.InvalidCxxCompiler,
            inductor.CppCompileError,
        )
        if not isinstance(error, theirs) or isinstance(error, errors.TorchRuntimeError):
            raise  # what a block raises by itself
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"compile=true: torch can't compile {type(module).__name__} here ({reason}): mend "
            "that, or leave out compile; TORCHINDUCTOR_CACHE_DIR is the folder for its files"
        ) from error
