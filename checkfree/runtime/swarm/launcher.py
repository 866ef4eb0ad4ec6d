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
from checkfree.runtime.swarm.control import LONGEST_LINE, line
from checkfree.runtime.swarm.home import Home

STOP_WITHIN = 20.0
"""Seconds that a run gets to write its last records."""
TAIL_EVERY = 0.1
EVENTS = 50
"""So many of the last are told to whoever asks for the status."""
LEAD_SEAT = "lead"
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP, "CONT": signal.SIGCONT}


@dataclass
class Child:
    """A process at a seat."""

    seat: str
    life: int
    pid: int = 0
    alive: bool = True


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
            await self._until_ended(self._follow_nursery(), self._tail())
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
            self._ended.set()
        elif self._lead is not None:
            self._lead.write(line({"gone": child.seat, "life": child.life, "code": code}))

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

    def _answer(
        self, said: dict[str, Any], writer: asyncio.StreamWriter
    ) -> Mapping[str, Any] | None:
        match said:
            case {"listening": peer}:
                self._lead, self._peer = writer, peer
                for seat, life in self._seats:
                    self._bear(seat, life, hollow=False)
            case {"replace": seat, "life": life, "hollow": hollow}:
                self._kill(seat, signal.SIGKILL)
                self._bear(seat, life, hollow=hollow)
            case {"strike": seat, "life": life}:
                if self.children[seat].life == life:
                    self._kill(seat, signal.SIGKILL)
            case {"status": status}:
                self.status = status
            case {"event": event}:
                self.events.append(event)
                self.told(event)
            case {"ask": "status"}:
                return self._told()
            case {"ask": "kill", "seat": seat, "signal": name}:
                return self._asked_to_kill(seat, name)
        return None

    def _told(self) -> Mapping[str, Any]:
        members = {
            seat: {"life": child.life, "pid": child.pid, "process": child.alive}
            for seat, child in self.children.items()
        }
        own = {"processes": members, "launcher": os.getpid(), "events": self.events[-EVENTS:]}
        return {**self.status, **own}

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
