"""Runs of a comparison in forks of one process: as trained alone, and what is killed is told of."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.study.pool import Ended, Pool
from tests.process.command import DEADLINE, end_of, last_tick, numbers, run

LONG = ("iterations=100000", "validation.every=0")


@pytest.fixture
def pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.chdir(folder)
    with Pool([{"OMP_NUM_THREADS": "1"}] * 2) as made:
        yield made


def ended(pool: Pool, count: int) -> dict[str, Ended]:
    found, until = dict[str, Ended](), time.monotonic() + DEADLINE
    while len(found) < count:
        found |= {end.key: end for end in pool.ended()}
        assert time.monotonic() < until, "nothing ended"
        time.sleep(0.02)
    return found


def comes_to(folder: Path, tick: int) -> None:
    until = time.monotonic() + DEADLINE
    while last_tick(folder) < tick:
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def forks() -> list[int]:
    """What trains, by age: the server is our child."""
    return [pid for server in children(os.getpid()) for pid in sorted(children(server))]


def children(pid: int) -> list[int]:
    """Of those that this pool has started; the tests' own zygote is another's."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if pid != os.getpid():
        return [int(child) for child in found]
    named = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
    return [pid for pid, line in named.items() if b"checkfree.study.fork_server" in line]


def test_they_train_as_alone(pool: Pool, folder: Path) -> None:
    for name in ("a", "b"):
        pool.start(name, ["train", "small.yaml", f"out={name}", "--quiet"])
    assert (pool.free, pool.keys) == (0, ("a", "b"))
    assert {end.code for end in ended(pool, 2).values()} == {0}
    run(folder, "train", "small.yaml", "out=alone", "--quiet")
    assert numbers(folder / "a") == numbers(folder / "b") == numbers(folder / "alone")
    assert (folder / "a" / "loss.png").is_file()


def test_what_is_wrong_is_told(pool: Pool) -> None:
    """In its last words; another may train meanwhile, and after."""
    pool.start("absent", ["train", "absent.yaml"])
    pool.start("strange", ["train", "--strange"])
    found = ended(pool, 2)
    assert found["absent"].code == found["strange"].code == 2
    assert found["absent"].last.startswith("checkfree: absent.yaml: no such file")
    assert "--strange" in found["strange"].last


def test_a_child_or_the_server_is_killed(pool: Pool, folder: Path) -> None:
    for name in ("a", "b"):
        pool.start(name, ["train", "small.yaml", f"out={name}", *LONG, "--quiet"])
        comes_to(folder / name, 2)
    first, second = forks()
    os.kill(first, signal.SIGKILL)
    assert ended(pool, 1)["a"].code == -signal.SIGKILL
    (server,) = children(os.getpid())
    os.kill(server, signal.SIGKILL)
    assert ended(pool, 1)["b"].code == -signal.SIGKILL
    until = time.monotonic() + DEADLINE
    while Path(f"/proc/{second}").exists():
        assert time.monotonic() < until, "it outlived what started it"
        time.sleep(0.01)
    pool.start("c", ["train", "small.yaml", "out=c", "--quiet"])
    assert ended(pool, 1)["c"].code == 0


def test_a_pool_that_stops_has_them_save_what_they_have(pool: Pool, folder: Path) -> None:
    pool.start("a", ["train", "small.yaml", "out=a", *LONG, "--quiet"])
    comes_to(folder / "a", 2)
    (server,) = children(os.getpid())
    pool.stop()
    assert end_of(folder / "a")["status"] == "interrupted"
    assert not Path(f"/proc/{server}").exists()
    assert not pool.keys
