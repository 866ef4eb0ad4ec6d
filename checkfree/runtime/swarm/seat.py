"""A process that hosts one worker."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from checkfree.core.ops import LEAD, Address
from checkfree.messages import codec
from checkfree.runtime.swarm.presence.liveness import beat_every
from checkfree.runtime.swarm.presence.pulses import pulse_of
from checkfree.runtime.swarm.presence.stall import Baselines
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.told import render_error, tell
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.host import Host
from checkfree.runtime.swarm.transport.links import Links
from checkfree.runtime.swarm.transport.network_thread import (
    Item,
    NetworkThread,
    PeerEvent,
    PeerMessage,
    beat,
)
from checkfree.worker import StageWorker

LEFT, CUT_OFF, BROKEN = 0, 1, 3
"""Exit codes: the run ended; lead or daemon is gone; the worker itself failed, and said why."""
_ENDS = {LEFT: "the run ended", CUT_OFF: "lead or daemon is gone", BROKEN: "its worker failed"}
FLUSH_WITHIN = 5.0  # seconds
LEAD_WITHIN = 120.0
"""Seconds that a seat keeps its state for a lead of a later life."""


class Seat:
    """Opens its streams, then does what the lead says until the lead ends the run."""

    def __init__(self, workdir: Workdir, limits: codec.Limits):
        self._network = NetworkThread(workdir.secret(), limits)
        self._network.endpoint.links = Links.of(workdir.path)
        self._network.open(workdir.sockets, workdir.identity())
        self._code: int | None = None
        self._lead = 0
        self._suspects: dict[Address, tuple[Peer, str]] = {}
        self._marks = Baselines()

    def run(
        self, assignment: Mapping[str, Any], make: Callable[[], StageWorker], patience: float
    ) -> int:
        """Host what ``make`` makes at the seat of ``assignment``. Returns the exit code."""
        seat = Address.parse(assignment["seat"])
        self._network.sit(seat, assignment["life"])
        tell(f"takes seat {seat}, life {assignment['life']}")
        lead = Peer.from_json(assignment["peer"])
        self._lead = lead.life
        self._network.learn(lead)
        try:
            worker = self._worker = make()
            watch = self._marks.watching(worker)
            self._host = Host({seat: worker}, self._network, self._handle, watch)
            self._network.start(beat(self._network.endpoint, beat_every(patience), self._pulse))
            self._host.run(lambda: self._code is not None)
        except Exception as error:
            traceback.print_exc()
            self._network.notify(LEAD, {"failed": render_error(error)})
            self._code = BROKEN
        assert self._code is not None
        if self._code == LEFT:
            self._network.notify(LEAD, self._pulse())
        tell(f"gets up: {_ENDS[self._code]}")
        if self._code != CUT_OFF:
            self._network.flush(FLUSH_WITHIN)
        self._network.close()
        return self._code

    def _handle(self, item: Item) -> None:
        match item:
            case PeerMessage(Peer(seat, life), {"end": _}) if seat == LEAD and life == self._lead:
                self._code = LEFT
            case PeerEvent("daemon"):
                self._code = CUT_OFF
            case PeerEvent("opened", Peer(seat, life)) if seat == LEAD:
                self._met(life)
            case PeerEvent("closed" | "broken", Peer(seat) as peer) if seat == LEAD:
                self._await_another(peer)
            case PeerEvent("leadless", Peer(_, life)) if life == self._lead:
                self._code = CUT_OFF
            case PeerEvent("broken", Peer() as peer, why):
                self._suspects[peer.seat] = peer, why
                self._suspect(peer, why)

    def _met(self, life: int) -> None:
        """A lead calls: the first time, or a later one, who may not know what the last one did."""
        if life > self._lead:
            self._lead = life
            tell(f"another lead calls, life {life}")
            self._network.notify(LEAD, self._pulse())
            for peer, why in self._suspects.values():
                self._suspect(peer, why)

    def _suspect(self, peer: Peer, why: str) -> None:
        tell(f"can't reach {peer.seat}: {why}")
        self._network.notify(LEAD, {"suspect": peer.to_json(), "why": why})

    def _await_another(self, lead: Peer) -> None:
        """All that is trained stays here, for a while."""
        loop, inbox = self._network.loop, self._network.inbox
        news = PeerEvent("leadless", lead, "no other lead came")
        loop.call_soon_threadsafe(loop.call_later, LEAD_WITHIN, inbox.put, news)

    def _pulse(self) -> dict[str, Any]:
        return pulse(self._host, self._network, self._worker, self._marks)


def pulse(
    host: Host, network: NetworkThread, worker: StageWorker, marks: Baselines
) -> dict[str, Any]:
    """That a member lives, what it has sent and refused so far, what it is at, and for how long it
    has computed and taken its lines."""
    doing, endpoint, sent = marks.doing(), network.endpoint, host.traffic
    return {
        "pulse": pulse_of(sent.messages, sent.bytes, endpoint.refused, worker.dropped),
        "doing": doing and doing.to_json(),
        "busy": host.busy,
        "lines": endpoint.lines(),
        "ways": endpoint.ways(),
    }
