"""Modules that are not of checkfree, in a folder to run in and as an installed distribution."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def module(folder: Path, name: str, text: str) -> Iterator[Path]:
    """The folder, which is where we run then, with a module of that name."""
    with pytest.MonkeyPatch.context() as patch:
        (folder / f"{name}.py").write_text(text)
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    sys.modules.pop(name, None)


def install(folder: Path, name: str, version: str, offers: Mapping[str, str]) -> Path:
    """Beside checkfree, the module as a distribution that ``offers``: by entry point (group and
    name) what of the module it is. Returns what has to be on the path."""
    site = folder / "site"
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").rename(site / f"{name}.py")
    known = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    (about / "METADATA").write_text(known)
    (about / "top_level.txt").write_text(f"{name}\n")
    points = "".join(
        f"[{group}]\n{point} = {name}:{what}\n"
        for (group, point), what in ((key.split("/"), value) for key, value in offers.items())
    )
    (about / "entry_points.txt").write_text(points)
    return site
