"""A process that joined from elsewhere, at its seat: like a Seat, but nobody on its machine minds
it. Its join stream tells whether its life is over; then it can apply again, with the state that it
has: whatever became of its line, that state is as good as it was.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from checkfree.core.ops import LEAD, Address, StateId
from checkfree.core.participants import render_differences
from checkfree.messages.control import Commit, Ticket, Underway
from checkfree.messages.tensors import KeepState, StageState
from checkfree.runtime.replay_lines import ReplayLines
from checkfree.runtime.replay_times import ReplayTimes
from checkfree.runtime.swarm.joining.candidates import is_heir
from checkfree.runtime.swarm.joining.handshake import state_id
from checkfree.runtime.swarm.joining.join_client import JoinClient
from checkfree.runtime.swarm.presence.liveness import beat_every
from checkfree.runtime.swarm.presence.stall import Baselines
from checkfree.runtime.swarm.seat import FLUSH_WITHIN, pulse
from checkfree.runtime.swarm.told import render_error
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer
from checkfree.runtime.swarm.transport.host import Host
from checkfree.runtime.swarm.transport.network_thread import (
    Delivered,
    Item,
    NetworkThread,
    PeerEvent,
    PeerMessage,
    Said,
    beat,
)
from checkfree.worker import StageWorker

ASK_EVERY = 2.0  # seconds


class ExitReason(Enum):
    """What comes after a life at a seat."""

    ENDED = "the run ended"
    FAILED = "the run failed"
    LEFT = "left, with its state handed on"
    OVER = "its life is over"
    LOST = "the lead is gone for good"
    BROKEN = "the worker failed"
    SHORT = "there is not enough memory now"


def after_error(error: Exception) -> ExitReason:
    """What comes after a worker that ended with this. What torch says of the CPU's memory has no
    class of its own."""
    short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return ExitReason.SHORT if short or "can't allocate memory" in str(error) else ExitReason.BROKEN


@dataclass
class RetainedStates:
    """What a process has left of a life that is over, or was sent by a leaver whose heir it is."""

    worker: StageWorker | None = None
    handed: tuple[StateId, StageState] | None = None

    def name(self) -> tuple[StateId | None, Ticket | None]:
        """The state that there is, and what it was prepared for."""
        if self.worker is None:
            return (None if self.handed is None else self.handed[0]), None
        name, standing = self.worker.exact_name(), self.worker.standing
        return name, (None if name is None else standing.prepared)

    def state(self, wanted: StateId, step: Commit | None) -> StageState | None:
        """The state of that name, after the step that it has missed."""
        if self.handed is not None and self.handed[0] == wanted:
            return self.handed[1]
        if self.worker is None:
            return None
        if step is not None:
            self.worker.deliver(step)
            while self.worker.advance() is not None:
                pass
        exact = self.worker.exact()
        return None if exact is None or exact[0] != wanted else exact[1]

    def drop(self) -> None:
        """It is of no use any more."""
        self.worker = self.handed = None

    def __bool__(self) -> bool:
        return self.name()[0] is not None


class _ReplayWatch:
    """Says how far the replay of a worker's seat is; call it before each op."""

    def __init__(self, worker: StageWorker, say: Callable[[str], None]):
        self._worker, self._lines = worker, ReplayLines(say)
        self._times = ReplayTimes()

    def __call__(self) -> None:
        found = self._worker.replaying
        if found is None:
            self._times = ReplayTimes()
            return self._lines(())
        self._lines(self._times.follow(Underway(False, (found,), None), time.monotonic()))


class RemoteWorker:
    """``say`` is told what happens, in words, and ``report`` what our node's parent has to know;
    ``remains`` outlive us."""

    def __init__(
        self,
        network: NetworkThread,
        join_client: JoinClient,
        retained: RetainedStates,
        say: Callable[[str], None],
        report: Callable[[Mapping[str, Any]], None],
    ):
        self._network, self._join_client, self._say = network, join_client, say
        self.retained, self._report = retained, report
        self._after: ExitReason | None = None
        self._incarnation = join_client.welcome["incarnation"]
        self._suspects: dict[Address, tuple[Peer, str]] = {}
        self._marks = Baselines()
        self._heir_to: tuple[Address, int] | None = None
        self._heir_at: Address | None = None
        self._struck = False
        self._leaving: Mapping[str, Any] | None = None
        self.drained = False
        """Our machine is to have no part in the run any more."""
        self.why = ""

    def wait(self) -> Mapping[str, Any] | None:
        """Until there is a seat for us; None: ``after`` says what else. Who is to leave, and has a
        state, waits for the seat that it is of."""
        assignment: list[Mapping[str, Any]] = []
        while not assignment and self._after is None:
            match item := self._network.inbox.get():
                case Said({"assignment": dict(found)}):
                    assignment.append(found)
                case Said({"leave": _} as notice):
                    self.drained = self.drained or "drained" in notice
                    self._leaving = notice
                case Said({"again": _}):
                    self._after = ExitReason.OVER  # whoever leads now has not heard of us
                case Said({"stale": True}):
                    self._heir_to = None
                    self.retained.drop()
                    self._report({"standing": True})
                case Said({"heir": {"seat": str(seat), "life": int(life), "at": str(at)}}):
                    self._listen_as_heir(Address.parse(seat), life, Address.parse(at))
                case Delivered(_, KeepState() as message):
                    self._inherit(message)
                case _:
                    self._handle(item)
            if self._leaving is not None and not self.retained:
                self._after = self._after or ExitReason.LEFT  # else it hands that on, from its seat
        return assignment[0] if assignment else None

    @property
    def idle(self) -> bool:
        """It stands by, and has no state to lose nor awaits one."""
        return self._heir_to is None and not self.retained

    @property
    def after(self) -> ExitReason:
        assert self._after is not None
        return self._after

    def _listen_as_heir(self, seat: Address, life: int, at: Address) -> None:
        """Be called by whoever leaves that seat."""
        self._heir_to, self._heir_at = (seat, life), at
        self._report({"standing": True, "keeps": True})
        me = self._network.sit(at, life)
        self._join_client.tell({"heir": True, "peer": me.to_json()})

    def _inherit(self, message: KeepState) -> None:
        if self._heir_to is None or message.keep.holder != self._heir_at:
            return  # what an earlier owner, or for an earlier attempt, has sent
        name = StateId(*self._heir_to, message.state.version)
        self.retained.worker, self.retained.handed = None, (name, message.state)
        self._join_client.tell({"has": True, "version": name.version})

    def run(
        self, assignment: Mapping[str, Any], make: Callable[[], StageWorker], patience: float
    ) -> ExitReason:
        """Sit down, and do what the lead says."""
        seat, life = Address.parse(assignment["seat"]), assignment["life"]
        self._seat, self._life = seat, life
        wanted = state_id(assignment.get("brings"))
        state = None if wanted is None else self.retained.state(wanted, _step(assignment))
        self.retained.drop()
        if wanted is not None and state is None:
            self._over(
                ExitReason.OVER, f"it has no state of {seat} after {wanted.version} iterations"
            )
            return self.after
        me = self._network.sit(seat, life)
        lead = Peer.from_json(assignment["peer"])
        self._network.learn(lead)
        self._network.endpoint.lead_id = lead.id
        self._network.start(self._join_client.finder.stay_known(lambda: me))
        self._join_client.was = (str(seat), life)
        try:
            worker = self._worker = make()
            if wanted is not None and state is not None:
                worker.bring(wanted, state)
            watch, lines = self._marks.watching(worker), _ReplayWatch(worker, self._say)

            def look(full: Address | None) -> None:
                watch(full)
                lines()

            self._host = Host({seat: worker}, self._network, self._handle, look)
            self._network.start(beat(self._network.endpoint, beat_every(patience), self._pulse))
            self._network.start(self._network.watch_neighbours(patience))
            if self._leaving is not None:
                self._said(self._leaving)
            self._host.run(lambda: self._after is not None or worker.dismissed)
            self._after = self._after or ExitReason.LEFT
            worker.replayable.log.trim(None)  # nobody asks a life that is over what it sent
            self.retained.worker = None if self._struck else worker
        except Exception as error:
            traceback.print_exc()
            self.why = render_error(error)
            self._network.notify(LEAD, {"failed": self.why})
            self._after = after_error(error)
        self._say_goodbye()
        return self.after

    def _say_goodbye(self) -> None:
        if self._after in (ExitReason.ENDED, ExitReason.FAILED, ExitReason.LEFT):
            self._network.notify(LEAD, self._pulse())
        if self._after in (
            ExitReason.ENDED,
            ExitReason.FAILED,
            ExitReason.LEFT,
            ExitReason.BROKEN,
            ExitReason.SHORT,
        ):
            self._network.flush(FLUSH_WITHIN)

    def _handle(self, item: Item) -> None:
        match item:
            case PeerMessage(Peer(seat), {"end": _} as notice) if seat == LEAD:
                self._ended(notice)
            case PeerMessage(Peer(seat), {"die": life}) if seat == LEAD and life == self._life:
                self._over(ExitReason.OVER, "struck, as the run's trace wants it")
                self._struck = True
                self._worker.destroy()  # lost means lost
            case PeerEvent("daemon", _, why):
                self._over(ExitReason.OVER, why)
            case PeerEvent("opened", Peer(seat)) if seat == LEAD:
                for peer, why in self._suspects.values():  # another lead may not know
                    self._network.notify(LEAD, {"suspect": peer.to_json(), "why": why})
            case PeerMessage(Peer(seat), {"relay": plain}) if seat == LEAD:
                peer = Peer.from_json(plain)  # another lead may not know, and is told
                self._suspects[peer.seat] = peer, "they can't reach each other"
            case PeerEvent("broken" | "silent", Peer() as peer, why) if peer.seat != LEAD:
                self._suspects[peer.seat] = peer, why
                self._network.notify(LEAD, {"suspect": peer.to_json(), "why": why})
            case Said(notice):
                self._said(notice)

    def _said(self, notice: Mapping[str, Any]) -> None:
        match notice:
            case {"end": _}:
                self._ended(notice)
            case {"over": str(why)}:
                self._over(ExitReason.OVER, why)
            case {"lost": str(why)}:
                self._over(ExitReason.LOST, why)
            case {"paused": _}:
                self._say("the run is paused: keeps its state, and looks for the next lead")
            case {"cut": str(why)}:
                self._say(f"the lead is out of reach ({why}); looking for it")
                self._report({"adrift": True})
            case {"again": dict(welcome)} if welcome["incarnation"] != self._incarnation:
                self._over(ExitReason.OVER, "the run was started again from a snapshot")
            case {"again": dict(welcome)}:
                self._say("the lead is there again")
                self._report({"adrift": False})
                self._network.learn(Peer.from_json(welcome["peer"]))
            case {"heir": list(plain)}:
                self._learn_heir(plain)
            case {"wanted": int()}:
                self._report(notice)
            case {"differs": list(plain)}:
                if all(isinstance(fact, list) and len(fact) == 3 for fact in plain):
                    self._say(f"this node computes with {render_differences(plain)}"[:400])
            case {"called": dict(found)}:
                self._say_called(found)
            case {"leave": _}:
                self.drained = self.drained or "drained" in notice
                self._network.start(self._ask_to_leave(notice.get("ends_at")))

    def _say_called(self, found: Mapping[str, Any]) -> None:
        if found.get("why"):
            self._say(
                f"nobody can call this node ({found['why']!s:.200}): it calls others, and is not "
                "seated beside another that can't be called; an open port, given as --listen "
                "HOST:PORT, would mend that"
            )
        for host in found.get("apart", ()):
            self._say(f"this node and {host!s:.80} can't reach each other")

    def _ended(self, notice: Mapping[str, Any]) -> None:
        """``end`` says how."""
        failed = notice["end"] == "failed"
        after = ExitReason.FAILED if failed else ExitReason.ENDED
        why = notice.get("why")
        self._over(after, why if isinstance(why, str) and why else after.value)

    def _learn_heir(self, plain: Any) -> None:
        """Where our state is to go, once the lead says so."""
        try:
            peer = Peer.from_json(plain)
        except BadFrame:
            return
        if is_heir(peer.seat, self._seat):
            self._network.forget(
                lambda at: is_heir(at, self._seat) and at != peer.seat  # what they had dies with us
            )
            self._network.learn(peer)

    async def _ask_to_leave(self, ends_at: float | None) -> None:
        """Until it is granted: the lead that was asked may die, and the next one is deaf to it
        until it has gathered all."""
        while True:
            seconds = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            words = {"leaving": True, "seat": str(self._seat), "seconds": seconds}
            self._join_client.tell(words)
            await asyncio.sleep(ASK_EVERY)

    def _over(self, after: ExitReason, why: str) -> None:
        self._after, self.why = self._after or after, self.why or why

    def _pulse(self) -> dict[str, Any]:
        return pulse(self._host, self._network, self._worker, self._marks)


def _step(assignment: Mapping[str, Any]) -> Commit | None:
    """The step that the state which we bring has missed."""
    if assignment.get("step") is None:
        return None
    (epoch, iteration, _), factors = assignment["step"]
    clip = {int(stage): float(factor) for stage, factor in factors.items()}
    return Commit(Ticket(epoch, iteration), clip)
