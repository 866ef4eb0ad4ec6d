"""Several hosts on one machine: network namespaces on a bridge, each with an address of its own,
and links that can be cut. Needs the right to make them."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.process.command import environment, opened

Process = subprocess.Popen[str]
SUBNET = "10.83.{}.{}"
_NUMBERS = itertools.count()


def ip(*words: str) -> None:
    """Raises subprocess.CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def may() -> bool:
    """We have the right to make network namespaces, and links in them."""
    try:
        with network(1):
            return True
    except (OSError, subprocess.SubprocessError):
        return False


class Network:
    """``count`` hosts, numbered from 0."""

    def __init__(self, count: int):
        self.count = count
        self._name = f"cf{os.getpid() % 100000}n{next(_NUMBERS)}"

    def address(self, host: int) -> str:
        return SUBNET.format(os.getpid() % 250, host + 1)

    def space(self, host: int) -> str:
        """Its network namespace."""
        return f"{self._name}h{host}"

    def build(self) -> None:
        ip("netns", "add", self._name)
        ip("-n", self._name, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._name, "link", "set", "bridge", "up")
        for host in range(self.count):
            space, port = self.space(host), f"port{host}"
            ip("netns", "add", space)
            ip(*("-n", space, "link", "add", "eth0", "type", "veth"), *("peer", "name", port))
            ip("-n", space, "link", "set", port, "netns", self._name)
            ip("-n", self._name, "link", "set", port, "master", "bridge", "up")
            ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def link(self, host: int, state: str) -> None:
        """``down`` cuts the host off, ``up`` mends that."""
        ip("-n", self._name, "link", "set", f"port{host}", state)

    def narrow(self, host: int, rate: float, queue: float) -> None:
        """From now on its line takes so many Mbit/s each way, and lets wait what is due within
        ``queue`` seconds; what comes beyond is dropped."""
        shape = ("root", "tbf", "rate", f"{rate}mbit", "burst", "64kb", "latency", f"{queue}s")
        for space, device in ((self.space(host), "eth0"), (self._name, f"port{host}")):
            words = ("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", device, *shape)
            subprocess.run(words, check=True, capture_output=True, timeout=30)

    def received(self, host: int) -> int:
        """Bytes that came over its line."""
        path = "/sys/class/net/eth0/statistics/rx_bytes"
        words = ("ip", "netns", "exec", self.space(host), "cat", path)
        return int(subprocess.run(words, check=True, capture_output=True, timeout=30).stdout)

    def part(self, one: int, other: int) -> None:
        """These two can't reach each other any more; all others can."""
        for here, there in ((one, other), (other, one)):
            ip("-n", self.space(here), "route", "add", "blackhole", f"{self.address(there)}/32")

    def on(self, host: int, cwd: Path, command: Sequence[str], log: Path) -> Process:
        """Start a command on a host; what it says goes to ``log``."""
        with open(log, "a") as out:
            return opened(
                command,
                space=self.space(host),
                cwd=cwd,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def remove(self) -> None:
        for space in (*map(self.space, range(self.count)), self._name):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=30)


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Gone when the context ends. Raises OSError or subprocess.SubprocessError."""
    made = Network(count)
    try:
        made.build()
        yield made
    finally:
        made.remove()
