"""What has to be equal in all processes of a run, so that they train the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import checkfree
from checkfree.build.job import versions

TRAINING = (
    *("models", "stage", "worker", "recovery", "data"),
    *("optimizer.py", "quantize.py", "units.py", "build/blueprint.py"),
)
"""The code that a stage's numbers come of: files, and folders with all that is in them."""


def release() -> dict[str, str]:
    """Our version, and a digest of the code that trains."""
    return {"checkfree": versions()["checkfree"], "code": code_digest()}


def code_digest() -> str:
    """Twelve hexadecimal digits."""
    root, found = Path(checkfree.__file__).parent, hashlib.sha256()
    for path in _sources(root):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _sources(root: Path) -> Iterator[Path]:
    for name in TRAINING:
        path = root / name
        yield from sorted(path.glob("*.py")) if path.is_dir() else (path,)
