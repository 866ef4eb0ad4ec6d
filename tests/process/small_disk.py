"""A disk of a few megabytes that can be filled: a tmpfs, mounted in a namespace of its own where
we may not mount one for all to see."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BALLAST = "ballast"
PATIENCE = 30.0  # seconds


class NoMount(Exception):
    """This machine lets us mount nothing; the message says what was tried."""


@dataclass(frozen=True)
class SmallDisk:
    """``path`` as the command sees it, if its words come after ``prefix``; ``view`` as we do."""

    path: Path
    view: Path
    prefix: tuple[str, ...] = ()

    def fill(self, room: int) -> None:
        """Until nothing but ``room`` bytes, in whole pages, are left."""
        status = os.statvfs(self.view)
        with open(self.view / BALLAST, "wb") as file:
            file.write(bytes(status.f_bavail * status.f_frsize - room))

    def clear(self) -> None:
        """Take the ballast away."""
        (self.view / BALLAST).unlink()


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """``size`` bytes at ``path``. Raises NoMount."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() == 0 and _succeeds(mount):
        try:
            yield SmallDisk(path, path)
        finally:
            _unmount(path)
    elif shutil.which("unshare") and shutil.which("nsenter"):
        with _holder(mount) as process:
            enter = ("nsenter", f"--target={process}", "--user", "--mount")
            yield SmallDisk(
                path,
                Path(f"/proc/{process}/root") / path.relative_to("/"),
                (*enter, "--preserve-credentials", f"--wd={path.parent}"),
            )
    else:
        raise NoMount("neither root's mount nor unshare works here")


def _unmount(path: Path) -> None:
    """As soon as nobody has a file open there: a process that was killed may still be on its way
    out."""
    deadline = time.monotonic() + PATIENCE
    while not _succeeds(["umount", str(path)]):
        assert time.monotonic() < deadline, f"{path} is still in use"
        time.sleep(0.05)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def _holder(mount: list[str]) -> Iterator[int]:
    """A process that lives in a namespace where ``mount`` was done; its number."""
    script = '"$@" && echo mounted && exec cat'
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *mount],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout and holder.stderr and holder.stdin
        try:
            if holder.stdout.readline() != "mounted\n":
                raise NoMount(f"unshare says {holder.stderr.read().strip()!r}")
            yield holder.pid
        finally:
            holder.stdin.close()
