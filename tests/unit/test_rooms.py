"""Rooms without tensors import where there is no torch: a config can be checked, a schedule
printed, a trace sampled and a report drawn without it."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import checkfree

ROOT = Path(__file__).parents[2]

ROOMS = (
    "checkfree",
    "checkfree.config.check",
    "checkfree.cli",
    "checkfree.core.config",
    "checkfree.configs",
    "checkfree.core.errors",
    "checkfree.failures",
    "checkfree.lead",
    "checkfree.config.load",
    "checkfree.lead.membership",
    "checkfree.messages.control",
    "checkfree.messages.limits",
    "checkfree.messages.wire",
    "checkfree.models.config",
    "checkfree.models.families",
    "checkfree.core.ops",
    "checkfree.core.cost",
    "checkfree.core.records",
    "checkfree.recovery.strategy",
    "checkfree.report",
    "checkfree.pipeline.routes",
    "checkfree.pipeline",
    "checkfree.simulator",
    "checkfree.core.units",
)
WHOLE = ("failures", "lead", "pipeline", "report", "simulator")
"""Packages of which every module counts, also those that are yet to come."""

WITHOUT_TORCH = """
import importlib, json, sys
sys.modules["torch"] = None  # from here on, `import torch` raises ImportError
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def failed_without_torch(names: Sequence[str]) -> dict[str, str]:
    """Those that do not import, and why. In a process of its own, for this one has torch."""
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    failed: dict[str, str] = json.loads(child.stdout)
    return failed


def modules_of(package: str) -> list[str]:
    folder = Path(checkfree.__file__).parent / package
    return [f"checkfree.{package}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]


def test_rooms_without_tensors_import_without_torch() -> None:
    inner = [name for package in WHOLE for name in modules_of(package)]
    assert "checkfree.report.run" in inner, "the folders were not found"
    assert failed_without_torch([*ROOMS, *inner]) == {}


def test_rooms_with_tensors_do_not() -> None:
    """Else the test above could not fail."""
    rooms = ("checkfree.stage", "checkfree.messages.tensors", "checkfree.session.train")
    assert set(failed_without_torch(rooms)) == set(rooms)
