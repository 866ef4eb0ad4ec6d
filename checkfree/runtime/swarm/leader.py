"""The process that hosts lead, store, log and faults, and hears who is lost and who has come."""

from __future__ import annotations

import queue
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from checkfree.core.ops import LEAD, Address, Location, StateId
from checkfree.core.units import render_bytes
from checkfree.lead import Lead, Phase
from checkfree.messages import codec
from checkfree.messages.control import (
    BreakOff,
    Commit,
    Dismissed,
    Gone,
    Message,
    Severed,
    Stop,
    Ticket,
)
from checkfree.runtime.actor import Actor
from checkfree.runtime.swarm.joining.candidates import is_heir
from checkfree.runtime.swarm.joining.join_server import JoinServer, JoinServerConfig, Met
from checkfree.runtime.swarm.presence.deadlines import Deadlines
from checkfree.runtime.swarm.presence.liveness import (
    GRACE,
    RELAY,
    beat_every,
    detect_failures,
    wait_for_return,
)
from checkfree.runtime.swarm.presence.peer_table import PeerTable
from checkfree.runtime.swarm.presence.pulses import all_refused, all_sent, seconds_of
from checkfree.runtime.swarm.presence.roster import LeaderHandoff, Roster
from checkfree.runtime.swarm.presence.speed import Direction, Life, Speeds
from checkfree.runtime.swarm.presence.stall import Watch
from checkfree.runtime.swarm.presence.survey import LinkSurvey
from checkfree.runtime.swarm.processes.fork_server import NO_ROOM, full_disk
from checkfree.runtime.swarm.processes.launcher_client import LauncherClient
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.seat import BROKEN
from checkfree.runtime.swarm.told import waited
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer
from checkfree.runtime.swarm.transport.host import Host
from checkfree.runtime.swarm.transport.links import Links
from checkfree.runtime.swarm.transport.network_thread import (
    Item,
    JoinRequest,
    NetworkThread,
    Order,
    PeerEvent,
    PeerMessage,
    ping,
)
from checkfree.runtime.swarm.transport.streams import HERE

LEAVE_WITHIN = 3.0
"""Seconds that workers get to say what they sent, once a run ended."""
ARRIVE_WITHIN = 60.0
"""Seconds that a replacement gets to open its streams."""
RETURN_WITHIN = 5.0
"""Seconds that whoever had a seat gets to find a new lead, beside twice the patience."""
REMIND_EVERY = 30.0
"""Seconds between two lines that say for which stages is waited."""
MOVE_EVERY = 3
"""Iterations between two moves of a seat that nobody asked for."""
MOVE_WITHIN = 30.0
"""Seconds in which a node that has room makes a process ready for a seat that is asked to move: it
takes a second or two of a core, and ten where the node can't fork."""


@dataclass(frozen=True)
class AskedMove:
    """Of a seat in that life, to that machine or to wherever it is better, ``until`` then."""

    seat: Address
    life: int
    host: str | None
    until: float


@dataclass(frozen=True)
class Wait:
    """For whom is waited before the first iteration: so many nodes, or so many seconds from the
    first of them on, whatever is first; when each seat can have a node, nobody waits."""

    nodes: int = 1 << 30
    seconds: float = 5.0


class LeaderProcess:
    """``reason`` says why the run was given up, ``stopped`` that it ends before it has begun."""

    def __init__(
        self,
        workdir: Workdir,
        seats: Iterable[tuple[Address, int]],
        patience: float,
        limits: codec.Limits,
        frame: JoinServerConfig | None = None,
    ):
        self._workdir, self._patience = workdir, patience
        self.reason, self.stopped = "", False
        self.life, self.cut_off = 0, False
        """Which lead this is, of how many before it; and whether nobody can reach it."""
        self.measured = False
        """Whoever is far is granted more silence than the patience."""
        self.resumes = False
        """The run goes on where another launcher's ended, and its members may have to find us."""
        self.met: Met = lambda peer, equipment: ()
        """Told who takes a seat that others may have."""
        self._for_good = False
        """Whoever wants the run to end wants that of all."""
        self.handoff = LeaderHandoff()
        self._network = NetworkThread(workdir.secret(), limits)
        self._network.endpoint.links = Links.of(workdir.path)
        self.host = Host({}, self._network, self._handle, sent=self._sent)
        self.peer_table = PeerTable(
            seats, partial(self.host.post, LEAD), self._announce, self._replace
        )
        self._network.endpoint.vouched = self.peer_table.awaits
        self.launcher = LauncherClient(workdir, self._network)
        self.watch = Watch(patience, self._network.pulses, self._stalls)
        self.join_server: JoinServer | None = None
        if frame is not None:
            self.join_server = JoinServer(
                frame,
                self._network,
                patience,
                self.peer_table.present.keys,
                partial(self.host.post, LEAD),
                self._returning,
                self._evict,
                self._say,
                lambda: {**self._told, "waiting": waited(self._told.get("waiting"))},
                lambda peer, equipment: self.met(peer, equipment),
                self._links_asked,
            )
            self.join_server.candidates.open = False
        self.grace, self.wait, self.relay = GRACE, Wait(), RELAY
        self._moved_at, self._first_at = 0, 0.0
        self._asked_moves: list[AskedMove] = []
        """That nobody stands by for yet."""
        self._struck: list[int] = []
        self._postponed: list[JoinRequest] = []
        self._reminded_at = self._committed_at = 0.0
        self._deadlines = Deadlines()
        self._told: dict[str, Any] = {}
        """Replaced, never changed: the network thread reads it."""
        self.first_stored = False
        """The states that the run begins with are in the lead's store, and nowhere else."""
        self.speeds, self._slow = Speeds(), set[Peer]()
        self._survey = LinkSurvey()
        self._surveyed: Mapping[str, Any] = {}
        """Replaced, never changed: the network thread reads it."""
        self._relayed = set[frozenset[Peer]]()

    @property
    def inbox(self) -> queue.SimpleQueue[Item]:
        """What came in, for whoever has something to say to the actors here."""
        return self._network.inbox

    def gather(self) -> bool:
        """Open for business, and wait until somebody sits at every seat. False: told to stop.
        Raises RunFailed if nobody could reach us."""
        self._listen_for_peers()
        me = self._network.sit(LEAD, self.life)
        self.launcher.meet()
        silence = detect_failures(
            self._patience, lambda: self._network.heard_at, self._fell_silent, self._granted
        )
        self._network.start(silence)
        self._network.start(ping(self._network, beat_every(self._patience)))
        self.launcher.tell({"listening": me.to_json()})
        self._network.start(self.launcher.beat(self.life, beat_every(self._patience)))
        if self.life:
            self._find()
        if self.join_server is not None:
            self._open_door(self.join_server, me)
        self.host.run(lambda: self._gathered() or self._over())
        self.peer_table.started = True
        if self.join_server is not None:
            self.join_server.candidates.started()
        self.launcher.tell({"started": True})  # before anybody trains
        self._remember()
        return not self._over()

    def _gathered(self) -> bool:
        """All have come who can; whoever else has to is on the way."""
        if self.handoff.started:
            return not self.handoff.missing(self.peer_table)
        if self.join_server is None:
            return self.peer_table.complete
        stages = {seat.stage for seat in self.peer_table.present}
        return self.join_server.candidates.open and stages == {
            s.stage for s in self.peer_table.lives
        }

    def _give_seats(self) -> None:
        """Once there are so many nodes, or some had so much time, that the first of them doesn't
        get all seats only because it was the first."""
        assert self.join_server is not None
        candidates, now = self.join_server.candidates, time.monotonic()
        nodes = {c.node.id for c in candidates.standing_by.values() if not c.node.reserve}
        if candidates.open or not candidates.standing_by:
            return
        self._first_at = self._first_at or now
        enough = len(nodes) >= min(self.wait.nodes, len(self.peer_table.lives))
        if enough or now - self._first_at >= self.wait.seconds:
            candidates.open = True
            candidates.match()

    def _find(self) -> None:
        """Call all that the launcher knows; send for others where it knows nobody."""
        self.host.run(lambda: self.handoff.told is not None or self._over())
        self.peer_table.started = self.handoff.started
        found = list(self.handoff.found())
        for seat, life, _ in found:
            self.peer_table.lives[seat] = life
        for seat, life, peer in found:
            if peer is None:
                self._lost(seat, life, "its lead died before it came")
                continue
            self.handoff.expect(seat, life)
            self._network.learn(peer)
            self._network.notify(seat, {"lead": self.life})
            within = RETURN_WITHIN + 2 * self._patience
            if self.resumes and self.wait.seconds < float("inf"):
                within = max(within, self.wait.seconds)
            news = PeerEvent("late", peer, "it has not found the new lead")
            self._later(within, news)

    def run(self, actors: Mapping[Address, Actor], done: Callable[[], bool]) -> None:
        """Host these until they are ``done``, or the run is given up or stopped."""
        self.host.actors.update(actors)
        self.host.run(lambda: done() or self._over())

    def dismiss(self, status: str, why: str) -> tuple[dict[str, int], dict[str, int]]:
        """Tell everybody how it ended; what all together sent, as the ledger counts: messages,
        bytes. Members of a run that was only interrupted wait for the next lead."""
        pauses = status == "interrupted" and self.join_server is not None and not self._for_good
        notice = {"paused": True} if pauses else {"end": status, "why": why}
        self._leaving = set() if pauses else set(self.peer_table.present.values())
        for seat in self.peer_table.present:
            self._network.notify(seat, notice)
        if self.join_server is not None:
            self.join_server.close(notice)
        if pauses:
            self._network.flush(LEAVE_WITHIN)
        late = time.monotonic() + LEAVE_WITHIN
        self._later(LEAVE_WITHIN, Order({}))  # so that the host sees how late it is
        self.peer_table.present.clear()  # nobody is lost any more
        self.peer_table.lives.clear()
        self.host.actors.clear()
        self.host.run(lambda: not self._leaving or time.monotonic() > late)
        ours = self.host.traffic
        return all_sent(self._network.pulses.values(), ours.messages, ours.bytes)

    def tell_status(self, told: Mapping[str, Any]) -> None:
        """To whoever asks, here or from elsewhere, beside what was told before. And who is here,
        for how long each computes and has its line taken, and what was dropped."""
        peers = [peer.to_json() for peer in self.peer_table.present.values()]
        busy = {str(seat): round(seconds, 4) for seat, seconds in self.speeds.seconds.items()}
        lines = {node: round(seconds, 4) for node, seconds in self.speeds.lines.items()}
        ours = {"peers": peers, "dropped": self.dropped(), "busy": busy, "lines": lines}
        self._told = {**self._told, **told, **ours}
        self.launcher.tell({"status": self._told})

    def timed(self, iteration: int, seconds: float) -> None:
        """An iteration was committed: who holds the others up, if anybody does?"""
        self.watch.pace.measured(seconds)
        self._committed_at = time.monotonic()
        present = self.peer_table.present
        busy, crossed = dict[Life, float](), dict[Direction, float]()
        travels = dict[Direction, float]()
        for seat, peer in present.items():
            spent, life = seconds_of(self._network.pulses.get(peer, {}), present), (seat, peer.life)
            if spent.busy is not None:
                busy[life] = spent.busy
            crossed |= {(life, other): seconds for other, seconds in spent.lines.items()}
            travels |= {(life, other): seconds for other, seconds in spent.ways.items()}
        by = self.nodes()
        found = self.speeds.measured(iteration, self._committed_at, busy, crossed, by, travels)
        for measured in found:
            peer = self.peer_table.present[measured.seat]
            if measured.slow and peer not in self._slow:
                self._slow.add(peer)
                self.launcher.report("slow", peer.seat, peer.life, str(measured))
        if self.join_server is not None and self.join_server.candidates.measured(found, by):
            self._remember()

    def _links_asked(self) -> Mapping[str, Any]:
        """From elsewhere, on the network thread: what is known of the lines between machines, of
        which more is known soon."""
        self._network.inbox.put(Order({"links": True}))
        return self._surveyed

    def _measure_links(self) -> None:
        """Have the next member measure its lines, if that is asked for and nobody does."""
        ask = self._survey.next(time.monotonic())
        if ask is not None:
            self._network.notify(ask[0], {"measure": ask[1]})
        told = self._survey.to_json()
        if told != self._surveyed:
            self._surveyed = told
            self.launcher.tell({"surveyed": told})

    def _machines(self) -> dict[Address, str]:
        """Of each seat that somebody has; two of one name are told apart."""
        if self.join_server is None:
            return {seat: str(seat) for seat in self.peer_table.present}
        found, named = dict[Address, str](), dict[str, list[str]]()
        for seat in sorted(self.peer_table.present):
            node = self.join_server.candidates.node_of(seat)
            if node is None:
                continue
            alike = named.setdefault(node.host, [])
            if node.id not in alike:
                alike.append(node.id)
            number = alike.index(node.id)
            found[seat] = f"{node.host}#{number + 1}" if number else node.host
        return found

    def nodes(self) -> dict[Address, str]:
        """Who has which seat, of a run that others join."""
        nodes = {} if self.join_server is None else self.join_server.candidates.placed()
        return {seat: node for seat, node in nodes.items() if node is not None}

    def locations(self) -> dict[Address, Location]:
        """Where each seat is that somebody has, of a run that others join, if that one has told."""
        found = {seat: self._location(seat) for seat in sorted(self.peer_table.present)}
        return {seat: at for seat, at in found.items() if at is not None}

    def _location(self, seat: Address) -> Location | None:
        node = None if self.join_server is None else self.join_server.candidates.node_of(seat)
        return None if node is None else Location(node.host, node.zone)

    def dropped(self) -> dict[str, int]:
        """What all together have refused to read, or could not use."""
        return all_refused(list(self._network.pulses.values()), self._network.endpoint.refused)

    def close(self) -> None:
        self._network.close()

    def _over(self) -> bool:
        return bool(self.reason) or self.stopped

    def _handle(self, item: Item) -> None:
        match item:
            case PeerEvent("opened", Peer() as peer) if self.peer_table.awaits(peer):
                self.launcher.tell({"here": peer.to_json()})
                self.launcher.report("here", peer.seat, peer.life)
                brings = None if self.join_server is None else self.join_server.arrived(peer)
                self._relay_apart(peer)
                self.peer_table.arrived(peer, brings, self._location(peer.seat))
                if self.join_server is not None:
                    self._tell_missing()
                    self._remember()
            case PeerEvent("closed", Peer() as peer, why):
                self._leaving.discard(peer)
                self._gone(peer, why, returns_within=self._return_of(peer))
            case PeerEvent("silent", Peer() as peer, why):
                self._gone(peer, why, returns_within=self.grace)
            case PeerEvent("away", Peer(seat, life)):
                self.host.post(LEAD, Gone(seat, life))
            case PeerEvent("broken", Peer() as peer, why):
                why = f"the lead cannot reach it: {why}"
                self._unheard(peer, why, returns_within=self._return_of(peer))
            case PeerEvent("late", Peer(seat, life) as peer, why):
                if seat not in self.peer_table.present and life == self.peer_table.lives.get(seat):
                    self._unheard(peer, why)
            case PeerEvent("daemon", _, why):
                self.cut_off, self.reason = True, self.reason or f"the lead: {why}"
            case PeerMessage(peer, notice):
                self._noticed(peer, notice)
            case Order(said):
                self._ordered(said)
            case JoinRequest():
                self._visited(item)

    _leaving: set[Peer] = set()  # noqa: RUF012 (replaced, never changed, until somebody leaves)

    def _listen_for_peers(self) -> None:
        identity, listen = self._workdir.identity(), HERE
        if self.join_server is not None:
            identity, listen = self.join_server.frame.identity, self.join_server.frame.listen
        self._network.open(self._workdir.sockets, identity, listen)

    def _open_door(self, join_server: JoinServer, me: Peer) -> None:
        """From now on they may come in; all seats are vacant, but those that an earlier lead had
        somebody at, whose nodes are as that one knew them."""
        known = Roster.load(self._workdir.roster) if self.life else None
        if known is not None:
            join_server.candidates.apart |= known.apart
            join_server.candidates.drained |= known.drained
            join_server.candidates.speed |= known.speed
        if not self.life:
            for seat, life in self.peer_table.lives.items():
                self._replace(seat, life, False, "")
        join_server.open(me)
        self._tell_missing()

    def _visited(self, visit: JoinRequest) -> None:
        assert self.join_server is not None
        lead = self._lead()
        unknown = self.peer_table.started and (lead is None or lead.phase is Phase.ROLLCALL)
        if unknown and visit.what == "ready" and visit.visitor.brings:
            return self._postponed.append(visit)  # what it is good for nobody can say yet
        if visit.what == "leaving":
            self._will_be_killed(visit)
        if visit.what == "left":
            gone = visit.visitor.id
            self._postponed = [other for other in self._postponed if other.visitor.id != gone]
        late = self.join_server.visited(visit, self.peer_table.lives)
        if late is not None:
            self._lost(*late, "it left on its way there")
        if visit.what == "back":
            self._tell_fleet()
        elif visit.what not in ("called", "dialled"):
            self._tell_missing()

    def _tell_missing(self) -> None:
        """Those who watch want to know who else has to come."""
        assert self.join_server is not None
        if not self._over():
            self.join_server.call_for_more()
            self._reminded_at = time.monotonic()
            event = self.join_server.waiting(self.peer_table.lives)
            self._told = {**self._told, "waiting": event}
            self._tell_who_sits()
            self._tell_fleet()
            self.launcher.tell({"event": event})

    def _tell_fleet(self) -> None:
        """Which nodes there are, with their seats: of a lead that goes on, as they come back."""
        assert self.join_server is not None
        fleet = self.join_server.fleet(self.peer_table.present)
        self._told = {**self._told, "nodes": fleet}
        self.launcher.tell({"fleet": fleet})

    def _tell_who_sits(self) -> None:
        """A status is told after commits, and who is lost commits nothing. What could be replayed
        is not known before the next one."""
        if "seats" in self._told:
            here = {str(seat) for seat in self.peer_table.present}
            seats = {s: how if s in here else "nobody" for s, how in self._told["seats"].items()}
            self.tell_status({"seats": seats, "replayable": None, "fatal": []})

    def _noticed(self, peer: Peer, notice: Mapping[str, Any]) -> None:
        match notice:
            case {"failed": str(reason)} if self.join_server is not None:
                self._gone(peer, reason)  # another machine may do better
            case {"failed": str(reason)}:
                self.reason = self.reason or f"worker {peer.seat}: {reason}"
            case {"suspect": plain, "why": str(why)}:
                self._suspect(peer, plain, why)
            case {"measured": told}:
                self._survey.heard(peer.seat, told)
                self._measure_links()

    def _suspect(self, witness: Peer, plain: Any, why: str) -> None:
        """Somebody cannot reach another. Whoever is dead will be noticed to be; if not, what was
        lost between the two would be waited for in vain."""
        try:
            peer = Peer.from_json(plain)
        except BadFrame:
            return
        found = {"apart": [witness.to_json(), peer.to_json()], "why": why}
        self._later(self._patience, Order(found))

    def _stalls(self, peer: Peer, why: str, waiter: Peer | None) -> None:
        """Before somebody is given up for what hasn't arrived, it may go another way."""
        if waiter is None or not self._passed_on(waiter, peer, why):
            self._gone(peer, why)

    def _apart(self, one: Peer, other: Peer, why: str) -> None:
        """The one cannot reach the other, and neither is one of the dead that were noticed."""
        if self.join_server is not None and is_heir(other.seat):
            return self.join_server.unreached(other)
        here = all(self.peer_table.present.get(p.seat) == p for p in (one, other))
        if not here or frozenset((one, other)) in self._relayed:
            return  # what somebody thinks whose own line was cut says nothing about others
        if not self._passed_on(one, other, f"{one.seat} cannot reach it ({why})"):
            self._gone(other, f"{one.seat} cannot reach it: {why}", returns_within=self.grace)

    def _passed_on(self, one: Peer, other: Peer, why: str) -> bool:
        """Whether the lead passes on what two say to each other, who both live and are in touch
        with it, from now on: not if it did so before, and that was of no use. Their nodes are not
        made neighbours again, and a seat of theirs is moved as soon as somebody can take it."""
        known = self.peer_table.present.get(one.seat) == one
        if self.join_server is None or not known or frozenset((one, other)) in self._relayed:
            return False
        candidates = self.join_server.candidates
        nodes = [candidates.node_of(peer.seat) for peer in (one, other)]
        candidates.apart.add(frozenset(node.id for node in nodes if node is not None))
        self._relay(one, other)
        self._remember()
        if self.peer_table.started:
            self.host.post(LEAD, Severed(one.seat, other.seat))
        told = f"{why}: the lead passes on what they say, up to {render_bytes(self.relay)}"
        self.launcher.report("apart", other.seat, other.life, told)
        return True

    def _relay_apart(self, peer: Peer) -> None:
        """What somebody says to others that it is known not to reach is passed on from the first
        word: before it hears of them, or they of it."""
        node = None if self.join_server is None else self.join_server.candidates.node_of(peer.seat)
        if self.join_server is None or node is None:
            return
        for seat, other in self.peer_table.present.items():
            there = self.join_server.candidates.node_of(seat)
            if (
                there is not None
                and frozenset((node.id, there.id)) in self.join_server.candidates.apart
            ):
                self._relay(peer, other)

    def _relay(self, one: Peer, other: Peer) -> None:
        self._relayed.add(frozenset((one, other)))
        self._network.loop.call_soon_threadsafe(self._network.endpoint.relay, one, other)

    def _limit_relays(self) -> None:
        """Whoever takes more of the lead's line than it may have hands its seat on, to somebody
        who can do without if there is one."""
        for pair, count in list(self._network.endpoint.relays.items()):
            seat, life = max(pair)
            join_server, sits = self.join_server, self.peer_table.present.get(seat)
            if count <= self.relay or join_server is None or sits is None or sits.life != life:
                continue
            if seat in join_server.candidates.seated and seat not in join_server.changes:
                told = f"the lead has passed on {render_bytes(count)} for it"
                self.launcher.report("moves", seat, life, told)
                join_server.change(seat, life, asked=True)

    def _gone(self, peer: Peer, why: str, *, returns_within: float = 0.0) -> None:
        if self.peer_table.present.get(peer.seat) == peer:
            self._lost(peer.seat, peer.life, why, returns_within=returns_within)
            if self.join_server is not None:
                self.join_server.over(peer.id, why)

    def _unheard(self, peer: Peer, why: str, *, returns_within: float = 0.0) -> None:
        """It may live, and reach us over its join stream alone: then it can come back."""
        if self.peer_table.lives.get(peer.seat) == peer.life:
            self._lost(peer.seat, peer.life, why, returns_within=returns_within)
            if self.join_server is not None:
                self.join_server.over(peer.id, why)

    def _lost(self, seat: Address, life: int, why: str, *, returns_within: float = 0.0) -> None:
        """``returns_within``: it may live, and so many seconds are waited for its state. Whoever is
        of this machine is killed before it is replaced."""
        silent = self.join_server is not None and returns_within > 0
        if self.peer_table.gone(seat, life, why, silent=silent):
            self.launcher.report("lost", seat, life, why)
            if silent:
                self._later(returns_within, PeerEvent("away", Peer(seat, life, "", ())))
            if self.join_server is not None:
                self._tell_missing()
                self._remember()
        hopeless = self.peer_table.hopeless()
        if hopeless is not None and not self.reason and self.join_server is None:
            self.reason = f"nobody could take seat {hopeless} ({why}): see {self._workdir.logs}"

    def _granted(self, peer: Peer) -> float:
        """Seconds, for how far it is."""
        return self._network.granted(peer) if self.measured else 0.0

    def _return_of(self, peer: Peer) -> float:
        """Seconds for whoever's streams ended."""
        return min(self.grace, wait_for_return(self._patience, self._granted(peer)))

    def _fell_silent(self, peer: Peer) -> None:
        seconds = self._patience + self._granted(peer)
        self._network.inbox.put(PeerEvent("silent", peer, f"silent for {seconds:.3g} s"))

    def _ordered(self, said: Mapping[str, Any]) -> None:
        match said:
            case {"look": _}:
                self.watch.look(list(self.peer_table.present.values()))
                if self.join_server is not None and not self.peer_table.started:
                    self._give_seats()
                self._consider_moves()
                moves, self._asked_moves = self._asked_moves, []
                for move in moves:
                    self._move(move)
                self._remind()
                self._break_off()
                self._limit_relays()
                self._measure_links()
                postponed, self._postponed = self._postponed, []
                for visit in postponed:
                    self._visited(visit)
            case {"links": True}:
                self._survey.begin(self._machines())
                self._measure_links()
            case {"stop": how}:
                self._for_good = how == "all"
                if self._lead() is None:
                    self.stopped = True
                else:
                    self.host.post(LEAD, Stop())  # what is trained is put aside first
            case {"orphaned": _}:  # another may lead: nobody is told that the run ended
                self.cut_off, self.reason = True, self.reason or "the launcher is gone"
            case {"found": _, "started": _, "struck": _}:
                self.handoff.told = said
            case {"replace": plain}:
                seat, lives = Address.parse(plain), self.peer_table.lives
                vacant = seat in lives and seat not in self.peer_table.present
                if vacant and not self.peer_table.replacing:  # else somebody comes by itself
                    replace = {"replace": plain, "life": lives[seat], "uninitialized": True}
                    self.launcher.tell(replace)
            case {"apart": [one, other], "why": str(why)}:
                self._apart(Peer.from_json(one), Peer.from_json(other), why)
            case {"move": plain, "host": host}:
                seat, until = Address.parse(plain), time.monotonic() + MOVE_WITHIN
                self._move(AskedMove(seat, self.peer_table.lives.get(seat, 0), host, until))
            case {"drain": host} if self.join_server is not None:
                self.join_server.drain(host)
            case {"end": seat, "life": life}:
                self._network.notify(Address.parse(seat), {"die": life})
            case {"gone": seat, "life": life, "code": code} if code == BROKEN:
                if self.peer_table.lives.get(Address.parse(seat)) == life and not self.reason:
                    where = f"see {self._workdir.logs}"
                    self.reason = f"worker {seat} ended with exit code {code}: {where}"
            case {"gone": _, "code": code} if code == NO_ROOM:
                self.reason = self.reason or full_disk(self._workdir.run)
            case {"gone": seat, "life": life, "code": code}:
                self._lost(Address.parse(seat), life, f"its process ended ({code})")

    def _remember(self) -> None:
        """For a lead that is started again."""
        if self.join_server is None or not self.peer_table.started or self._over():
            return
        candidates = self.join_server.candidates
        Roster(
            self.join_server.frame.run["incarnation"],
            self.life,
            True,
            self.peer_table.lives,
            tuple(self.peer_table.present.values()),
            (*self.handoff.struck, *self._struck),
            frozenset(candidates.apart),
            frozenset(candidates.drained),
            candidates.speed,
        ).save(self._workdir.roster)

    def strike(
        self, tick: int, seats: Collection[tuple[Address, int]], hung: Collection[Address] = ()
    ) -> None:
        """Have processes killed, or hung, as a trace wants it; on other machines, they let go of
        all. The launcher remembers the tick: whoever leads next must not strike it again."""
        names = {seat: "STOP" if seat in hung else "KILL" for seat, _ in seats}
        listed = [[str(seat), life, names[seat]] for seat, life in seats]
        self.launcher.tell({"strike": [] if self.join_server is not None else listed, "tick": tick})
        self._struck.append(tick)
        self._remember()
        for seat, life in seats:
            if self.join_server is not None:
                self._network.notify(seat, {"die": life})
            self.launcher.report("strike", seat, life)

    def _announce(self, notice: dict[str, Any]) -> None:
        for seat in self.peer_table.present:
            self._network.notify(seat, notice)

    def _replace(self, seat: Address, life: int, uninitialized: bool, why: str) -> None:
        if self.join_server is not None:
            self.launcher.tell({"vacant": str(seat), "life": life})
            bare = uninitialized or self.first_stored
            return self.join_server.candidates.order(seat, life, bare)
        if uninitialized and not self.peer_table.replacing:
            return self._left_empty(seat, why)
        self.launcher.tell({"replace": str(seat), "life": life, "uninitialized": uninitialized})
        self._later(ARRIVE_WITHIN, PeerEvent("late", Peer(seat, life, "", ()), "it never arrived"))

    def _left_empty(self, seat: Address, why: str) -> None:
        """Microbatches go round it, if another has its stage."""
        self.launcher.tell({"bury": str(seat)})
        others = [*self.peer_table.present, *self.handoff.missing(self.peer_table)]
        if all(other.stage != seat.stage for other in others) and not self.reason:
            self.reason = (
                f"nobody is left at stage {seat.stage} ({why}) and --no-replacements sends nobody: "
                f"go on with checkfree swarm up --resume {shlex.quote(str(self._workdir.run))}"
            )

    # --- seats that change hands -----------------------------------------------------------------

    def _lead(self) -> Lead | None:
        """That of a run that has begun."""
        lead = self.host.actors.get(LEAD)
        return lead if isinstance(lead, Lead) else None

    def _returning(
        self, state: StateId, prepared: Ticket | None
    ) -> tuple[StateId, Commit | None] | None:
        lead = self._lead()
        return None if lead is None else lead.returning(state, prepared)

    def _evict(self, seat: Address) -> None:
        """Whoever sits there has no state of use, and its own has come back. The lead may not have
        heard yet of one who sat down a moment ago."""
        lead, why = self._lead(), "its own state has come back"
        peer = self.peer_table.present.get(seat)
        assert self.join_server is not None
        if peer is not None and lead is not None and not lead.members.has_state(seat, peer.life):
            return self._gone(peer, why)
        coming = [who for who in self.join_server.candidates.on_the_way.values() if who.seat]
        for candidate in coming:
            if candidate.seat is not None and candidate.seat[0] == seat:
                self._lost(*candidate.seat, why)
                self.join_server.over(candidate.id, why)

    def _sent(self, to: Address, message: Message) -> None:
        """What an actor here sends: whoever may go has left its seat, whenever its stream ends."""
        if not isinstance(message, Dismissed) or self.join_server is None:
            return
        if self.peer_table.gone(message.worker, message.life, "it left"):
            self.launcher.report("left", message.worker, message.life)
            self._tell_missing()
            self._remember()

    def _consider_moves(self) -> None:
        """A node without a seat, or with less to do, takes one of another's: when all is well, and
        not too often."""
        lead, join_server = self._lead(), self.join_server
        if lead is None or join_server is None or join_server.changes:
            return
        committed = lead.progress.committed
        if not lead.well or committed < self._moved_at + MOVE_EVERY:
            return
        move = join_server.candidates.better()
        if move is not None and move.seat in join_server.candidates.seated:
            life, to = self.peer_table.lives[move.seat], join_server.candidates.of(move.to)
            if to is not None and join_server.change(move.seat, life, asked=False, to=to):
                self._moved_at = committed
                self.launcher.report("moves", move.seat, life, f"to {to.node.host}")

    def _move(self, move: AskedMove) -> None:
        """As somebody asks; later, if whoever is to have it is only being made ready."""
        join_server, seat, host = self.join_server, move.seat, move.host
        if join_server is None:
            return
        if (
            self.peer_table.lives.get(seat) != move.life
            or seat not in join_server.candidates.seated
        ):
            return self.launcher.report("stays", seat, move.life, "can't move: it has been lost")
        to = join_server.candidates.of_host(host, seat) if host is not None else None
        if (host is None or to is not None) and join_server.change(
            seat, move.life, asked=False, to=to
        ):
            return
        if time.monotonic() < move.until and join_server.has_room(seat, host):
            self._asked_moves.append(move)
            return
        who = "nobody else can have it"
        who = who if host is None else f"nobody of {host} stands by with room for it"
        self.launcher.report("stays", seat, move.life, f"can't move: {who}")

    def _will_be_killed(self, visit: JoinRequest) -> None:
        """Whoever leaves, in so many seconds if it says so."""
        assert self.join_server is not None
        for seat, who in self.join_server.candidates.seated.items():
            if who.id == visit.visitor.id and seat in self.peer_table.lives:
                life = seat, self.peer_table.lives[seat]
                self._deadlines.asked(life, visit.told.get("seconds"), time.monotonic())

    def _break_off(self) -> None:
        """An iteration that can't end before somebody is killed."""
        self._deadlines.gone(self.peer_table.lives)
        now, usual = time.monotonic(), self.watch.pace.usual or 0.0
        remains = max(0.0, self._committed_at + usual - now)
        for seat, life in self._deadlines.late(now, remains):
            self.host.post(LEAD, BreakOff(seat, life))

    def _remind(self) -> None:
        """That a stage is waited for."""
        if self.join_server is None or time.monotonic() - self._reminded_at < REMIND_EVERY:
            return
        if self.join_server.waiting(self.peer_table.lives)["stages"]:
            self._tell_missing()

    def _say(self, why: str) -> None:
        self.launcher.tell({"event": {"at": time.time(), "event": "notice", "why": why}})

    def _later(self, seconds: float, item: Item) -> None:
        loop, inbox = self._network.loop, self._network.inbox
        loop.call_soon_threadsafe(loop.call_later, seconds, inbox.put, item)
