"""Uses an installed checkfree as a stranger would. Run it with ``-I`` outside of the checkout.

Its one argument is the checkout, only to see that no file of the package was left behind.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import checkfree

SITE = Path(sysconfig.get_path("purelib")).resolve()
SMALL = (
    "iterations=2",
    "stages=4",
    "microbatches=2",
    "batch=1",
    "model.width=16",
    "model.heads=2",
    "model.blocks=4",
    "model.context=16",
    "failures.scenario=none",
)


def check_place() -> None:
    """What is imported is what was installed, and nothing else came with it."""
    assert Path(checkfree.__file__).resolve().is_relative_to(SITE), checkfree.__file__
    for name in ("models", "configs", "tests"):
        assert importlib.util.find_spec(name) is None, f"a top-level {name} was installed"
        assert not (SITE / name).exists(), f"a top-level {name} was installed"


def check_contents(checkout: Path) -> None:
    """Every file of the package in the checkout was installed, models and configs too."""
    installed = {str(path) for path in importlib.metadata.files("checkfree") or ()}
    missing = [
        path
        for folder, _, names in os.walk(checkout / "checkfree", followlinks=True)
        for name in names
        if Path(folder).name != "__pycache__"
        if (path := str(Path(folder, name).relative_to(checkout))) not in installed
    ]
    assert not missing, f"not in the wheel: {missing}"
    assert "checkfree/models/config.py" in installed, "checkfree/models is no link to models"


def check_training(folder: Path) -> None:
    """The demo that is in the package trains."""
    demo = importlib.resources.files("checkfree.configs") / "demo.yaml"
    command = Path(sys.executable).with_name("checkfree")
    arguments = [command, "train", str(demo), f"out={folder}", *SMALL]
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, timeout=300)
    assert (folder / "records.jsonl").stat().st_size > 0


if __name__ == "__main__":
    check_place()
    check_contents(Path(sys.argv[1]))
    check_training(Path("run").resolve())
    print("the wheel works")
