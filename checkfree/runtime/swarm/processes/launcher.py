"""Starts, watches and ends the processes of a run on this machine. Computes nothing.

    launcher ─ nursery ┬ lead         each fork in its own process group,
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
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from checkfree.errors import BadInput, RunFailed
from checkfree.runtime.swarm.presence.liveness import PATIENCE, keep_vigil
from checkfree.runtime.swarm.processes.control import LONGEST_LINE, line
from checkfree.runtime.swarm.processes.home import Home

STOP_WITHIN = 20.0
"""Seconds that a run gets to write its last records."""
TAIL_EVERY = 0.1
EVENTS = 50
"""So many of the last are told to whoever asks for the status."""
LEAD_SEAT = "lead"
WORKER = "worker-"
"""What local processes of a run that others may join are called: ``worker-0`` …"""
BREATH = 1.0  # seconds
LEADS_LOST = 10
"""So many in a row may die without a step between them; one more, and it is no accident."""
LEAD_AGAIN = 4
"""Exit code of a lead that is cut off: another may do better. Any other is the run's end."""
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP, "CONT": signal.SIGCONT}


@dataclass
class Child:
    """A process at a seat."""

    seat: str
    life: int
    pid: int = 0
    alive: bool = True
    peer: Any = None
    """Where its streams are opened, once the lead has seen it."""

    @property
    def is_none(self) -> bool:
        """It is the lead, or a worker that has no seat of its own."""
        return self.seat == LEAD_SEAT or self.seat.startswith(WORKER)


@dataclass
class Launcher:
    """``order`` is what the nursery is to prepare; ``tail`` is called ten times a second, ``told``
    with each event: who was lost and why, who is there again."""

    home: Home
    command: list[str]
    order: Mapping[str, Any]
    tail: Callable[[], None] = lambda: None
    chaos: bool = False
    children: dict[str, Child] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    told: Callable[[Mapping[str, Any]], None] = lambda event: None
    interrupted: bool = False

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
        self._leads_lost = 0
        self._patience = float(self.order.get("patience", PATIENCE))
        self._started = False
        self._struck: list[int] = []
        self._lead_heard: dict[str, float] = {}
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        self._nursery = await self._start_nursery()
        try:
            await self._train()
        finally:
            await self._end()

    async def _start_nursery(self) -> asyncio.subprocess.Process:
        one_thread = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {"HIVEMIND_LOGLEVEL": "ERROR", **os.environ} | dict.fromkeys(one_thread, "1")
        return await asyncio.create_subprocess_exec(
            *self.command,
            str(os.getpid()),
            os.fspath(self.home.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=env,
            limit=LONGEST_LINE,
            start_new_session=True,  # Ctrl-C in a terminal is ours to pass on
        )

    async def _train(self) -> None:
        self._tell_nursery(self.order)
        if await self._until_ended(self._get_ready()):
            return
        server = await asyncio.start_unix_server(self._serve, path=os.fspath(self.home.control))
        async with server:
            self._bear(LEAD_SEAT, 0)
            watch = keep_vigil(self._patience, self._lead_heard, self._lead_hangs)
            await self._until_ended(self._follow_nursery(), self._tail(), watch)
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
        ready = await self._hear_nursery()
        if ready is None:
            raise RunFailed("the swarm could not start: its nursery died; see above")
        if "bad" in ready:
            raise BadInput(ready["bad"])
        if "failed" in ready:
            raise RunFailed(ready["failed"])
        self._seats = ready["seats"]
        for why in ready["told"]:
            self._happened({"at": time.time(), "event": "notice", "why": why})

    def _interrupt(self) -> None:
        """Once: let the lead write its last records. Twice: at once."""
        if self.interrupted or self._lead is None:
            self._ended.set()
        else:
            self._lead.write(line({"stop": "interrupted"}))
            asyncio.get_running_loop().call_later(STOP_WITHIN, self._ended.set)
        self.interrupted = True

    async def _end(self) -> None:
        """Nothing of ours stays."""
        with suppress(ProcessLookupError):
            self._nursery.kill()  # and with it, all its forks
        await self._nursery.wait()
        self.home.sweep()

    async def _tail(self) -> None:
        while True:
            self.tail()
            await asyncio.sleep(TAIL_EVERY)

    # --- the nursery -----------------------------------------------------------------------------

    def _tell_nursery(self, value: Mapping[str, Any]) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(line(value))

    async def _hear_nursery(self) -> dict[str, Any] | None:
        assert self._nursery.stdout is not None
        said = await self._nursery.stdout.readline()
        return json.loads(said) if said else None

    async def _follow_nursery(self) -> None:
        while (said := await self._hear_nursery()) is not None:
            child = self.children[said.get("born") or said["died"]]
            if child.life != said["life"]:  # replaced before it was even born
                if "born" in said:
                    _signal(said["pid"], signal.SIGKILL)
            elif "born" in said:
                child.pid = said["pid"]
            else:
                child.alive = False
                self._died(child, said["code"])
        self._ended.set()

    def _died(self, child: Child, code: int) -> None:
        if child.seat == LEAD_SEAT:
            self._lead_died(child, code)
        elif child.seat.startswith(WORKER):
            self._bear_again(child)
        elif self._lead is not None:
            self._lead.write(line({"gone": child.seat, "life": child.life, "code": code}))

    # --- the lead --------------------------------------------------------------------------------

    def _lead_died(self, child: Child, code: int) -> None:
        self._lead_heard.clear()
        self._leads_lost += 1
        over = self.interrupted or (code >= 0 and code != LEAD_AGAIN)
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
            self._bear(LEAD_SEAT, life)

    @property
    def _open(self) -> bool:
        """Others may join: seats are theirs, and local workers take them as any."""
        return bool(self.order.get("door"))

    def _bear_again(self, child: Child) -> None:
        """A local worker; not at once, it may have died of something that lasts."""

        def bear() -> None:
            if not self._ended.is_set():
                self._bear(child.seat, child.life + 1)

        asyncio.get_running_loop().call_later(BREATH, bear)

    def _lead_hangs(self, lead: str) -> None:
        """It is alone on its machine, or stopped: nobody could tell it from a dead one."""
        self._lead_heard.clear()
        self._kill(lead, signal.SIGKILL)

    def _lead_listens(self, writer: asyncio.StreamWriter, peer: Any) -> Mapping[str, Any]:
        """It may be the first, or one that has to know what was before it."""
        self._lead, self._peer = writer, peer
        self._happened({"at": time.time(), "event": "listening", "peer": peer})
        seats = [child for child in self.children.values() if not child.is_none]
        if not seats and self._open:
            self.children |= {seat: Child(seat, life, alive=False) for seat, life in self._seats}
            for number in range(int(self.order["workers"])):
                self._bear(f"{WORKER}{number}", 0)
        elif not seats:
            for seat, life in self._seats:
                self._bear(seat, life, hollow=False)
        found = [[c.seat, c.life, c.peer if c.alive else None] for c in seats]
        return {"found": found, "started": self._started, "struck": self._struck}

    def _happened(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))
        self.told(event)

    def _bear(self, seat: str, life: int, **more: Any) -> None:
        self.children[seat] = Child(seat, life)
        self._tell_nursery({"seat": seat, "life": life, "peer": self._peer, **more})

    def _kill(self, seat: str, number: int) -> None:
        """The whole process group: a libp2p daemon may outlive its owner."""
        child = self.children.get(seat)
        if child is not None and child.alive and child.pid:
            _signal(child.pid, number)

    # --- the control socket ----------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = json.loads(await reader.readline())
            if bytes.fromhex(hello["secret"]) != self.home.secret():
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
                self.children[seat] = Child(seat, life, peer=peer)
            case {"vacant": str(seat), "life": int(life)}:
                self.children[seat] = Child(seat, life, alive=False)
            case {"here": [str(seat), int(life), *_] as peer}:
                child = self.children.get(seat)
                if child is not None and child.life == life:
                    child.peer = peer
            case {"started": True}:
                self._started = True
            case {"bury": seat}:
                self._kill(seat, signal.SIGKILL)
            case {"replace": seat, "life": life, "hollow": hollow}:
                self._kill(seat, signal.SIGKILL)
                self._bear(seat, life, hollow=hollow)
            case {"strike": seats, "tick": tick}:
                self._struck.append(tick)
                for seat, life, name in seats:
                    child = self.children.get(seat)
                    if child is not None and child.life == life:
                        self._kill(seat, SIGNALS[name])
            case {"status": status}:
                self.status, self._leads_lost = status, 0
            case {"event": event}:
                self._happened(event)
            case {"ask": "status"}:
                return self._told()
            case {"ask": "kill", "seat": seat, "signal": name}:
                return self._asked_to_kill(seat, name)
            case {"ask": "replace", "seat": seat}:
                return self._asked_to_replace(seat)
        return None

    def _told(self) -> Mapping[str, Any]:
        members = {
            seat: {"life": child.life, "pid": child.pid, "process": child.alive}
            for seat, child in self.children.items()
        }
        own = {"processes": members, "launcher": os.getpid(), "events": self.events[-EVENTS:]}
        return {**self.status, **own}

    def _asked_to_replace(self, seat: str) -> Mapping[str, Any]:
        """Somebody for a seat that was left empty."""
        if seat not in self.children or seat == LEAD_SEAT:
            return {"refused": f"got seat {seat}, expected one of {', '.join(self.children)}"}
        if self._lead is None:
            return {"refused": "the run has no lead now: ask again when the next one is there"}
        self._lead.write(line({"replace": seat}))
        return {"asked": seat}

    def _asked_to_kill(self, seat: str, name: str) -> Mapping[str, Any]:
        child = self.children.get(seat)
        if not self.chaos:
            return {"refused": "this run allows no kills: start it with --chaos"}
        if child is None:
            return {"refused": f"got seat {seat}, expected one of {', '.join(self.children)}"}
        if name not in SIGNALS:
            return {"refused": f"got signal {name}, expected one of {', '.join(SIGNALS)}"}
        if not child.alive or not child.pid:
            return {"refused": f"nobody sits at {seat} now; its replacement is on its way"}
        at = time.time()
        self._kill(seat, SIGNALS[name])
        return {"killed": seat, "life": child.life, "pid": child.pid, "at": at}


def _signal(pid: int, number: int) -> None:
    """A fork and its group, which it leads as soon as it runs."""
    for send in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            send(pid, number)


def nursery_command(module: str) -> list[str]:
    """A Python like ours that runs ``module``."""
    return [sys.executable, "-m", module]
