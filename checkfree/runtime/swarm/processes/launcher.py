"""Starts, watches and ends the processes of a run on this machine. Computes nothing.

    launcher ─ fork server ┬ lead         each fork in its own process group,
                       ├ 0.0 … n.0    each with its own libp2p daemon
                       └ …

It does not judge who is lost: the lead does, and orders a replacement. It only sees to it that
what is replaced is dead, and that nothing is left when the run ends, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from checkfree.core.errors import BadInput, RunFailed
from checkfree.runtime.swarm.presence.liveness import PATIENCE, detect_failures
from checkfree.runtime.swarm.processes.children import (
    LEAD_SEAT,
    SIGNALS,
    WORKER,
    Child,
    Children,
    send_signal,
)
from checkfree.runtime.swarm.processes.control import line
from checkfree.runtime.swarm.processes.control_api import ControlApi
from checkfree.runtime.swarm.processes.fork_server import NO_ROOM, full_disk
from checkfree.runtime.swarm.processes.fork_server_client import SwarmForkClient
from checkfree.runtime.swarm.processes.logs import TRIM_EVERY, trim
from checkfree.runtime.swarm.processes.workdir import Workdir

STOP_WITHIN = 120.0
"""Seconds that a run gets to put its states aside and to write its last records."""
TAIL_EVERY = 0.1
BREATH = 1.0  # seconds
LEADS_LOST = 10
"""So many in a row may die without a step between them; one more, and it is no accident."""
LEAD_AGAIN = 4
"""Exit code of a lead that is cut off: another may do better. Any other is the run's end."""


@dataclass
class Launcher:
    """``order`` is what the fork server is to prepare; ``tail`` is called ten times a second,
    ``told`` with each event: who was lost and why, who is there again; ``status`` with what the
    lead tells whoever asks, whenever that changes."""

    workdir: Workdir
    command: list[str]
    order: Mapping[str, Any]
    tail: Callable[[], None] = lambda: None
    chaos: bool = False
    children: Children = field(default_factory=Children)
    told: Callable[[Mapping[str, Any]], None] = lambda event: None
    status: Callable[[Mapping[str, Any]], None] = lambda status: None
    interrupted: bool = False
    stopped: bool = False
    """Somebody asked for the end, and what is trained was put aside."""
    reason: str = ""
    """Why the run ended early, as its last lead has told."""

    def run(self) -> None:
        """Until the run ended. Raises BadInput, RunFailed, or KeyboardInterrupt if stopped."""
        asyncio.run(self._run())
        if self.interrupted:
            raise KeyboardInterrupt

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        self._lead: asyncio.StreamWriter | None = None
        self._peer: Any = None
        self._fallen: Child | None = None
        self._asked = ControlApi(self.children, self.chaos, self._tell_lead, self._stop)
        self._leads_lost = 0
        self._patience = float(self.order.get("patience", PATIENCE))
        self._helped = False
        self._lead_heard: dict[str, float] = {}
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        self._fork_server = await SwarmForkClient.start(self.command, self.workdir)
        try:
            await self._train()
        finally:
            await self._fork_server.end()
            self.workdir.kill_leftovers()  # nothing of ours stays

    async def _train(self) -> None:
        self._fork_server.tell(self.order)
        if await self._until_ended(self._get_ready()):
            return
        server = await asyncio.start_unix_server(self._serve, path=os.fspath(self.workdir.control))
        async with server:
            self._spawn(LEAD_SEAT, self._first_lead)
            watch = detect_failures(self._patience, lambda: self._lead_heard, self._lead_hangs)
            more = self._tail(), self._keep_logs_small()
            await self._until_ended(self._follow_fork_server(), *more, watch)
        self.tail()

    async def _until_ended(self, *work: Coroutine[Any, Any, None]) -> bool:
        """Do this until all of it is done, or fails, or the run is over (then True)."""
        ended = asyncio.create_task(self._ended.wait())
        tasks = asyncio.gather(*work)
        await asyncio.wait((ended, tasks), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if tasks.done():
            tasks.result()
            return False
        tasks.cancel()
        with suppress(asyncio.CancelledError):
            await tasks
        return True

    async def _get_ready(self) -> None:
        ready = await self._fork_server.hear()
        if ready is None:
            raise RunFailed("the swarm could not start: its fork server died; see above")
        if "bad" in ready:
            raise BadInput(ready["bad"])
        if "failed" in ready:
            raise RunFailed(ready["failed"])
        self._seats = ready["seats"]
        self._first_lead = int(ready.get("lead", 0))
        for seat, life, peer in ready.get("found", ()):  # of a launcher that is gone
            self.children.put(Child(seat, life, alive=peer is not None, peer=peer))
        self._started, self._struck = ready.get("started", False), list(ready.get("struck", ()))
        for why in ready["told"]:
            self._happened({"at": time.time(), "event": "notice", "why": why})

    def _interrupt(self) -> None:
        """Once: let the lead write its last records. Twice: at once."""
        if self.interrupted or not self._tell_lead({"stop": "interrupted"}):
            self._ended.set()
        else:
            asyncio.get_running_loop().call_later(STOP_WITHIN, self._ended.set)
        self.interrupted = True

    def _stop(self, *, everybody: bool) -> bool:
        """As asked for. False: there is no lead now."""
        if self.stopped or not self._tell_lead({"stop": "all" if everybody else "asked"}):
            return self.stopped
        asyncio.get_running_loop().call_later(STOP_WITHIN, self._ended.set)
        self.stopped = True
        return True

    async def _tail(self) -> None:
        while True:
            self.tail()
            await asyncio.sleep(TAIL_EVERY)

    async def _keep_logs_small(self) -> None:
        while True:
            trim(self.workdir.logs)
            await asyncio.sleep(TRIM_EVERY)

    # --- the fork server -------------------------------------------------------------------------

    async def _follow_fork_server(self) -> None:
        while (said := await self._fork_server.hear()) is not None:
            child = self.children.at(said.get("spawned") or said["died"], said["life"])
            if child is None:  # replaced before it was even spawned
                if "spawned" in said:
                    send_signal(said["pid"], signal.SIGKILL)
            elif "spawned" in said:
                child.pid = said["pid"]
            else:
                child.alive = False
                self._died(child, said["code"])
        self._ended.set()

    def _died(self, child: Child, code: int) -> None:
        if child.seat == LEAD_SEAT:
            self._lead_died(child, code)
        elif child.seat.startswith(WORKER):
            if code != 0:  # else the run is over, or the node was drained
                self._spawn_again(child)
        else:
            self._tell_lead({"gone": child.seat, "life": child.life, "code": code})

    # --- the lead --------------------------------------------------------------------------------

    def _tell_lead(self, value: Mapping[str, Any]) -> bool:
        """False: there is none now."""
        if self._lead is not None:
            self._lead.write(line(value))
        return self._lead is not None

    def _lead_died(self, child: Child, code: int) -> None:
        self._lead_heard.clear()
        self._leads_lost += 1
        if code == NO_ROOM:
            self.reason = full_disk(self.workdir.run)
        over = self.interrupted or self.stopped or (code >= 0 and code != LEAD_AGAIN)
        if over or self._leads_lost > LEADS_LOST:
            self._ended.set()
            return
        why = f"its process ended ({code})"
        event = {"event": "lost", "seat": LEAD_SEAT, "life": child.life, "why": why}
        self._happened({"at": time.time(), **event})
        self._fallen = child
        self._succeed()

    def _succeed(self) -> None:
        """Another lead, once all that the last one said was heard."""
        if self._fallen is not None and self._lead is None:
            life, self._fallen = self._fallen.life + 1, None
            self._spawn(LEAD_SEAT, life)

    @property
    def _open(self) -> bool:
        """Others may join: seats are theirs, and local workers take them as any."""
        return bool(self.order.get("join_server"))

    def _spawn_node(self, number: int, life: int) -> None:
        """A node of this machine."""
        self._spawn(f"{WORKER}{number}", life, node=self.order["workers"][number])

    def _spawn_again(self, child: Child) -> None:
        """A local worker; not at once, it may have died of something that lasts."""

        def spawn() -> None:
            if not self._ended.is_set():
                self._spawn_node(int(child.seat.removeprefix(WORKER)), child.life + 1)

        asyncio.get_running_loop().call_later(BREATH, spawn)

    def _lead_hangs(self, lead: str) -> None:
        """It is alone on its machine, or stopped: nobody could tell it from a dead one."""
        self._lead_heard.clear()
        self.children.kill(lead)

    def _lead_listens(self, writer: asyncio.StreamWriter, peer: Any) -> Mapping[str, Any]:
        """It may be the first, or one that has to know what was before it."""
        self._lead, self._peer = writer, peer
        self._happened({"at": time.time(), "event": "listening", "peer": peer})
        seats = self.children.seated()
        if self._open and not self._helped:
            self._helped = True
            for seat, life in () if seats else self._seats:
                self.children.put(Child(seat, life, alive=False))
            for number in range(len(self.order["workers"])):
                self._spawn_node(number, 0)
        elif not seats:
            for seat, life in self._seats:
                self._spawn(seat, life, uninitialized=False)
        found = [[c.seat, c.life, c.peer if c.alive else None] for c in seats]
        return {"found": found, "started": self._started, "struck": self._struck}

    def _happened(self, event: Mapping[str, Any]) -> None:
        self._asked.happened(event)
        self.told(event)

    def _spawn(self, seat: str, life: int, **more: Any) -> None:
        self.children.put(Child(seat, life))
        self._fork_server.tell({"seat": seat, "life": life, "peer": self._peer, **more})

    # --- the control socket ----------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = json.loads(await reader.readline())
            if bytes.fromhex(hello["secret"]) != self.workdir.secret():
                raise ValueError
            while said := await reader.readline():
                answer = self._answer(json.loads(said), writer)
                if answer is not None:
                    writer.write(line(answer))
        except (ValueError, KeyError, TypeError, OSError, BadInput, asyncio.CancelledError):
            pass  # none of ours, or we end
        finally:
            writer.close()
            if writer is self._lead:
                self._lead = None
                self._succeed()

    def _answer(
        self, said: dict[str, Any], writer: asyncio.StreamWriter
    ) -> Mapping[str, Any] | None:
        if writer is self._lead:
            self._lead_heard[LEAD_SEAT] = time.monotonic()
        match said:
            case {"listening": peer}:
                return self._lead_listens(writer, peer)
            case {"here": [str(seat), int(life), *_] as peer} if self._open:
                self.children.put(Child(seat, life, peer=peer))
            case {"vacant": str(seat), "life": int(life)}:
                self.children.put(Child(seat, life, alive=False))
            case {"here": [str(seat), int(life), *_] as peer}:
                child = self.children.at(seat, life)
                if child is not None:
                    child.peer = peer
            case {"started": True}:
                self._started = True
            case {"bury": seat}:
                self.children.kill(seat)
            case {"replace": seat, "life": life, "uninitialized": uninitialized}:
                self.children.kill(seat)
                self._spawn(seat, life, uninitialized=uninitialized)
            case {"strike": seats, "tick": tick}:
                self._struck.append(tick)
                for seat, life, name in seats:
                    if self.children.at(seat, life) is not None:
                        self.children.kill(seat, SIGNALS[name])
            case {"fleet": list(nodes)}:
                self._asked.fleet = nodes
            case {"surveyed": dict(links)}:
                self._asked.links = links
            case {"status": status}:
                if "iteration" in status:  # this lead has committed one
                    self._leads_lost = 0
                self._asked.status = {**self._asked.status, **status}
                self.status(status)
            case {"event": event}:
                self._happened(event)
            case {"ended": str(reason)}:
                self.reason = reason
            case _:
                return self._asked.answer(said)
        return None
