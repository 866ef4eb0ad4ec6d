"""What the owner of a run may ask its launcher while it is up: how it goes, and chaos."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from checkfree.runtime.swarm.presence.survey import aged
from checkfree.runtime.swarm.processes.children import LEAD_SEAT, SIGNALS, Child, Children
from checkfree.runtime.swarm.told import waited

EVENTS = 50
"""The last of them are told to whoever asks for the status."""


@dataclass
class ControlApi:
    """``tell_lead`` hands something on to the lead, ``stop`` ends the run, on other machines too if
    ``everybody`` is to go; False: there is no lead now."""

    children: Children
    chaos: bool
    tell_lead: Callable[[Mapping[str, Any]], bool]
    stop: Callable[..., bool] = lambda *, everybody: False
    status: Mapping[str, Any] = field(default_factory=dict)
    fleet: list[dict[str, Any]] = field(default_factory=list)
    """Of a run that others join: its nodes, as the lead tells of them."""
    links: Mapping[str, Any] = field(default_factory=dict)
    """What was measured of the lines between its machines."""
    waiting: Mapping[str, Any] | None = None
    """And for what it waits, if for anything."""
    events: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    count: int = 0
    """Of all events so far; each has its number."""

    def happened(self, event: Mapping[str, Any]) -> None:
        """One more event."""
        if event["event"] == "waiting":
            self.waiting = event
        self.events.append({**event, "number": self.count})
        self.count += 1

    def answer(self, said: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """None: that is no question."""
        match said:
            case {"ask": "status"}:
                return self._told()
            case {"ask": "kill", "seat": seat, "signal": name}:
                return self._kill(seat, name)
            case {"ask": "replace", "seat": seat}:
                return self._replace(seat)
            case {"ask": "move", "seat": seat, "host": host}:
                return self._move(seat, host)
            case {"ask": "drain", "host": host}:
                return self._drain(host)
            case {"ask": "links"}:
                return aged(self.links) if self.tell_lead({"links": True}) else _no_lead()
            case {"ask": "stop", "all": bool(everybody)}:
                return {"stops": True} if self.stop(everybody=everybody) else _no_lead()
        return None

    def _told(self) -> Mapping[str, Any]:
        members = {
            seat: {"life": child.life, "pid": child.pid, "process": child.alive}
            for seat, child in self.children.by_seat.items()
        }
        own = {"processes": members, "launcher": os.getpid(), "events": [*self.events]}
        own |= {"nodes": self.fleet, "waiting": waited(self.waiting)}
        return {**self.status, **own}

    def _replace(self, seat: str) -> Mapping[str, Any]:
        """Somebody for a seat that was left empty."""
        if seat not in self.children.by_seat or seat == LEAD_SEAT:
            return self._no_such(seat)
        return {"asked": seat} if self.tell_lead({"replace": seat}) else _no_lead()

    def _move(self, seat: str, host: str | None) -> Mapping[str, Any]:
        """To a machine of the fleet, or to whichever is best."""
        origin = next((node["host"] for node in self.fleet if seat in node["seats"]), None)
        if origin is None:
            return self._no_such(seat)
        if host is not None and host not in self._hosts():
            return self._no_such_host(host)
        if host == origin:
            return {"refused": f"{seat} is on {host} already"}
        if not self.tell_lead({"move": seat, "host": host}):
            return _no_lead()
        life = self.children.by_seat[seat].life
        return {"asked": seat, "origin": origin, "life": life, "events": self.count}

    def _drain(self, host: str) -> Mapping[str, Any]:
        """All nodes of a machine."""
        if host not in self._hosts():
            return self._no_such_host(host)
        return {"asked": host} if self.tell_lead({"drain": host}) else _no_lead()

    def _hosts(self) -> list[str]:
        return sorted({node["host"] for node in self.fleet})

    def _no_such_host(self, host: str) -> Mapping[str, Any]:
        known = ", ".join(self._hosts()) or "none: nobody joined this run"
        return {"refused": f"got host {host}, expected one of {known}"}

    def _kill(self, seat: str, name: str) -> Mapping[str, Any]:
        child = self.children.by_seat.get(seat)
        if not self.chaos:
            return {"refused": "this run allows no kills: start it with --chaos"}
        if child is None:
            return self._no_such(seat)
        if name not in SIGNALS:
            return {"refused": f"got signal {name}, expected one of {', '.join(SIGNALS)}"}
        if child.alive and not child.pid and child.peer is not None:
            return self._kill_elsewhere(child, name)
        if not child.alive or not child.pid:
            return {"refused": f"nobody sits at {seat} now; its replacement is on its way"}
        at = time.time()
        self.children.kill(seat, SIGNALS[name])
        return {"killed": seat, "life": child.life, "pid": child.pid, "at": at}

    def _kill_elsewhere(self, child: Child, name: str) -> Mapping[str, Any]:
        """Whoever joined is no process of ours, but does as the lead says."""
        if name != "KILL":
            return {
                "refused": f"{child.seat} is taken by a process that joined: SIG{name} does not "
                "reach it, send it there; or give --signal KILL, which ends its life at the seat"
            }
        at = time.time()
        if not self.tell_lead({"end": child.seat, "life": child.life}):
            return _no_lead()
        return {"killed": child.seat, "life": child.life, "pid": 0, "at": at}

    def _no_such(self, seat: str) -> Mapping[str, Any]:
        return {"refused": f"got seat {seat}, expected one of {', '.join(self.children.by_seat)}"}


def _no_lead() -> Mapping[str, Any]:
    return {"refused": "the run has no lead now: ask again when the next one is there"}
