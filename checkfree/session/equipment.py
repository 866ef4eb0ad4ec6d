"""On what this process computes: all that its bits depend on beside a run's configuration
(semantics 17), and nothing that tells whose machine it is."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from checkfree.core.config import Config
from checkfree.core.participants import RULE
from checkfree.runtime.forking import device_names
from checkfree.session.job import versions_of
from checkfree.session.swarm.release import of_strategy, release
from checkfree.stage.compiled import find_compiler

FLAGS = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables of the environment by which libraries compute otherwise, beside ATEN_CPU_CAPABILITY,
which torch tells of."""
USUAL = "as usual"


def equipment(config: Config, devices: Sequence[str] = ()) -> dict[str, str]:
    """Facts of a process that trains this configuration, by name: of its ``devices``, if those are
    not the configuration's. Forks share them, but for what a fork sets itself."""
    wanted = devices or config.devices
    named = dict.fromkeys(device_names(wanted))
    versions, code = versions_of(config), release(config)
    rule = of_strategy(config.recovery.name)
    return {
        **versions,
        "code": _digits({k: v for k, v in code.items() if k != rule and k not in versions}),
        RULE: _digits({rule: code.get(rule, "")}),
        "system": platform.system(),
        "processor": _processor(),
        "threads": str(config.threads),
        "devices": ", ".join(named),
        "math": _math(),
        **(
            {"compiler": _compiler({torch.device(name).type for name in wanted})}
            if config.compile
            else {}
        ),
    }


def _digits(code: Mapping[str, str]) -> str:
    """Twelve, of what of ours trains a run."""
    return hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:12]


@cache
def _processor() -> str:
    """What it calls itself, as in "AMD EPYC 9R14": libraries choose their loops by that."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())[:80]


def _compiler(kinds: Collection[str]) -> str:
    """What torch.compile has for devices of these types."""
    told = []
    for kind in sorted(kinds):
        path = find_compiler(kind)
        told.append(_version_of(path) if kind == "cpu" else f"triton {version('triton')}")
    return ", ".join(told)


@cache
def _version_of(compiler: str) -> str:
    """The first line that it says of itself."""
    try:
        command = [compiler, "--version"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        told = ""
    return next(iter(told.splitlines()), Path(compiler).name)[:80]


def _math() -> str:
    found = [f"{name}={os.environ[name]:.40}" for name in FLAGS if name in os.environ]
    if torch.are_deterministic_algorithms_enabled():
        found.append("deterministic algorithms")
    if torch.get_float32_matmul_precision() != "highest":
        found.append(f"matmul precision {torch.get_float32_matmul_precision()}")
    if not torch.backends.mkldnn.enabled:
        found.append("no oneDNN")
    return ", ".join(found) or USUAL
