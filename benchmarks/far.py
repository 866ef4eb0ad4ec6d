"""Hosts that are far from each other, on one machine: network namespaces, and a process that hands
every packet on only when it has been under way for some time. For kernels that can't delay packets
themselves. Needs root, and /dev/net/tun."""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tests.process.hosts import ip

SUBNET = "10.84.{}.{}"
MTU = 60_000
"""Few and large packets: what is measured is how long they take, not how many a second one process
of Python can hand on."""
_TUNSETIFF, _TUN, _BARE = 0x400454CA, 0x0001, 0x1000
_DESTINATION = slice(16, 20)  # of an IPv4 packet


class FarHosts:
    """So many, numbered from 0."""

    def __init__(self, hosts: int):
        self.hosts, self._pid = hosts, os.getpid()  # that of whoever made it, also in its forks
        self._lines: list[int] = []

    def address(self, host: int) -> str:
        return SUBNET.format(self._pid % 250, host + 1)

    def space(self, host: int) -> str:
        """Its network namespace."""
        return f"far{self._pid % 100000}h{host}"

    def build(self) -> None:
        for host in range(self.hosts):
            line, device, space = os.open("/dev/net/tun", os.O_RDWR), f"far{host}", self.space(host)
            self._lines.append(line)
            fcntl.ioctl(line, _TUNSETIFF, struct.pack("16sH", device.encode(), _TUN | _BARE))
            ip("netns", "add", space)
            ip("link", "set", device, "netns", space)
            ip("-n", space, "link", "set", device, "name", "eth0")
            ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "mtu", str(MTU), "up")
            ip("-n", space, "link", "set", "lo", "up")

    def carry(self, seconds: float) -> None:
        """Every packet, which is under way for so long; never returns."""
        places = {self.address(host): line for host, line in enumerate(self._lines)}
        under_way: list[tuple[float, int, int, bytes]] = []
        numbers = count()
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select(self._lines, [], [], wait)
            now = time.monotonic()
            for line in ready:
                packet = os.read(line, MTU + 100)
                to = places.get(".".join(map(str, packet[_DESTINATION])))
                if to is not None:
                    heapq.heappush(under_way, (now + seconds, next(numbers), to, packet))
            while under_way and under_way[0][0] <= now:
                _, _, to, packet = heapq.heappop(under_way)
                os.write(to, packet)

    def remove(self) -> None:
        for line in self._lines:
            os.close(line)
        for host in range(self.hosts):
            ip("netns", "delete", self.space(host))


@contextmanager
def far_hosts(hosts: int, seconds: float) -> Iterator[FarHosts]:
    """Gone when the context ends. Raises OSError or subprocess.SubprocessError."""
    made = FarHosts(hosts)
    made.build()
    carrier = os.fork()
    if not carrier:
        try:
            made.carry(seconds)
        finally:
            os._exit(1)
    try:
        yield made
    finally:
        os.kill(carrier, signal.SIGKILL)
        os.waitpid(carrier, 0)
        made.remove()
