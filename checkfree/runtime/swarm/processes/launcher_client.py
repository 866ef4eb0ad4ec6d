"""The lead's end of its launcher's socket: what it orders, reports and is told there."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from checkfree.core.ops import Address
from checkfree.runtime.swarm.processes.control import line
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.told import tell
from checkfree.runtime.swarm.transport.network_thread import NetworkThread, Order


class LauncherClient:
    """The launcher, as the lead knows it. What it says goes to its inbox."""

    def __init__(self, workdir: Workdir, network: NetworkThread):
        self._workdir, self._network = workdir, network
        self._writer: asyncio.StreamWriter | None = None

    def meet(self) -> None:
        """Call it. Raises OSError."""
        self._network.wait(self._meet())

    async def _meet(self) -> None:
        reader, writer = await asyncio.open_unix_connection(os.fspath(self._workdir.control))
        self._writer = writer
        writer.write(line({"secret": self._workdir.secret().hex()}))
        self._network.start(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while said := await reader.readline():
            self._network.inbox.put(Order(json.loads(said)))
        self._network.inbox.put(Order({"orphaned": True}))

    def tell(self, said: Mapping[str, Any]) -> None:
        """Thread-safe; in order. Nothing, if it was never met."""
        self._network.loop.call_soon_threadsafe(self._write, line(said))

    def report(self, what: str, seat: Address, life: int, why: str = "") -> None:
        """An event; in our own log, too."""
        tell(f"{what} {seat}, life {life}{f': {why}' if why else ''}")
        event = {"at": time.time(), "event": what, "seat": str(seat), "life": life, "why": why}
        self.tell({"event": event})

    async def beat(self, life: int, every: float) -> None:
        """Tell that this lead lives, and have it look who gets on."""
        while True:
            self._write(line({"beat": life}))
            self._network.inbox.put(Order({"look": True}))
            await asyncio.sleep(every)

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            with suppress(OSError):  # it is gone, and we hear so
                self._writer.write(data)
