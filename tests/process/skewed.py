"""Machines whose clocks on the wall are wrong: what ``skewed.c`` starts."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class NoSkew(Exception):
    """This machine does not let us; the message says why."""


@dataclass(frozen=True)
class Skewed:
    """A clock: whoever starts with its ``prefix`` goes by it, and all that it starts."""

    program: Path
    file: Path

    @property
    def prefix(self) -> tuple[str, str]:
        return str(self.program), str(self.file)

    def set(self, seconds: int) -> None:
        """So many ahead of the right time from now on."""
        with open(self.file, "r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))


def compile_skewed(folder: Path) -> Path:
    """The program. Raises NoSkew where it does not work."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NoSkew("skewed.c is for Linux on x86_64")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoSkew("no C compiler")
    program = folder / "skewed"
    source = Path(__file__).with_name("skewed.c")
    subprocess.run([compiler, "-O1", "-o", program, source], check=True, capture_output=True)
    clock = Skewed(program, folder / "tried")
    clock.set(86400 * 365)
    date = ["date", "+%s"]
    made = subprocess.run([*clock.prefix, *date], capture_output=True, text=True, timeout=30)
    right = int(subprocess.run(date, capture_output=True, text=True, timeout=30).stdout)
    if made.returncode or int(made.stdout or 0) < right + 86400 * 364:
        raise NoSkew(f"nobody is deceived: {made.stderr.strip()!r}")
    return program
