"""What a swarm needs of this machine, looked at before a run depends on it.

Each finding is one line: what was looked at, and what was found or is to be mended. Looking at
one thing never hides another: a check that can't be made says so and the next one follows.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.units import render_bytes
from checkfree.runtime.swarm.processes.sockets import clear_sockets, make_sockets
from checkfree.runtime.swarm.processes.workdir import SOCKETS, Workdir
from checkfree.session.auto_schedule import with_schedule
from checkfree.session.job import of_config
from checkfree.session.log_disk import check_log_disk, log_folder
from checkfree.session.memory import FIRST_BYTES, available, seat_bytes
from checkfree.session.sizes import own_sizes
from checkfree.session.terms import seats

PACKAGES = ("torch", "numpy", "hivemind", "uvloop", "safetensors")
FILES_WANTED = 256
"""Open files of one process: streams to every other seat, sockets, records."""


@dataclass(frozen=True)
class Finding:
    """``problem`` says what is wrong and how to mend it ("": nothing), ``told`` what is there."""

    name: str
    told: str = ""
    problem: str = ""


Check = tuple[str, Callable[[], str]]
"""A name, and what returns what was found, or raises BadInput."""


def look(checks: Iterator[Check]) -> Iterator[Finding]:
    """Make one check after the other."""
    for name, check in checks:
        try:
            yield Finding(name, check())
        except BadInput as error:
            yield Finding(name, problem=str(error))


def of_machine() -> Iterator[Check]:
    """What every process of a swarm needs."""
    yield "system", _system
    yield "packages", _packages
    yield "open files", _open_files


def of_run(config: Config, here: int | None = None) -> Iterator[Check]:
    """What a configuration needs, with ``here`` of its seats on this machine (None: all)."""
    count = len(seats(config)) if here is None else here
    yield "data", lambda: _data(config)
    yield "memory", lambda: _memory(with_schedule(config), count)
    yield "run folder", lambda: _run_folder(config)
    yield "disk", lambda: _disk(with_schedule(config))
    if log_folder(config.recovery) is not None:
        yield "log", lambda: check_log_disk(config, count)


def _system() -> str:
    if not sys.platform.startswith("linux"):
        raise BadInput(f"{platform.system()}: a swarm needs Linux; checkfree train runs here too")
    return f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores"


def _packages() -> str:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise BadInput(f"{', '.join(missing)} missing: pip install 'checkfree[swarm]'")
    return ", ".join(found)


def _open_files() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        raise BadInput(f"{soft} allowed, expected {FILES_WANTED}: ulimit -n {FILES_WANTED}")
    return "any number" if soft == resource.RLIM_INFINITY else str(soft)


def _data(config: Config) -> str:
    about = of_config(config, Path(config.out), (), whole=False).data
    tokens = f"{about['train_tokens']:,} tokens, {about['validation_tokens']:,} for validation"
    return f"{about['name']}, {tokens}"


def _memory(config: Config, count: int) -> str:
    wanted, free = FIRST_BYTES + count * seat_bytes(config), available()
    told = f"{render_bytes(wanted)} for {count} seats, {render_bytes(free)} available"
    if wanted > free:
        raise BadInput(f"{told}: fewer seats on this machine, or a smaller model")
    return told


def _run_folder(config: Config) -> str:
    """Where lead and workers would keep what is theirs: made as they make it, and taken away."""
    workdir = Workdir.of(Path(config.out))
    if workdir.alive:
        raise BadInput(f"{workdir.run} is being trained by a swarm: give another out=FOLDER")
    try:
        with _for_a_moment(workdir.path):
            TemporaryFile(dir=workdir.run).close()
            made = make_sockets(workdir.path / SOCKETS)
            clear_sockets(workdir.path / SOCKETS)
    except OSError as error:
        raise BadInput(
            f"out={workdir.run} cannot be written: {error.strerror}; give another out=FOLDER"
        ) from None
    return f"{workdir.run} can be written; local sockets in {made.parent}"


@contextmanager
def _for_a_moment(folder: Path) -> Iterator[None]:
    """What is not there of a folder. Raises OSError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):
                path.rmdir()


def _disk(config: Config) -> str:
    sizes, folder = own_sizes(config), Path(config.out).absolute()
    while not folder.exists():
        folder = folder.parent
    one = sum(sizes.params) + sum(sizes.moments)
    wanted, free = (config.resume.keep + 1) * one, shutil.disk_usage(folder)  # one being written
    if config.average.every is not None:
        wanted += (config.average.last + 1) * sum(sizes.params)
    told = f"{render_bytes(wanted)} for snapshots, {render_bytes(free.free)} free in {folder}"
    if wanted > free.free:
        raise BadInput(f"{told}: give an out=FOLDER on a larger disk, or resume.every=0")
    return told
