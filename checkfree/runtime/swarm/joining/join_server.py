"""The lead's join server: other machines come in by it, and have the seats that are vacant.

With one, no process is ordered from the launcher: a vacancy waits for whoever applies. And a seat
can change hands while its owner lives, because that one leaves or another node has less to do::

    heir told of the seat > it says where it is called > its owner learns that
    the lead has the owner send its state there > the heir has it > the owner may go
    the seat is vacant > the heir's, who brings the state along

Who comes back with the state of a life that is over gets its seat again, whoever sits there by now
without a state of use.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from checkfree.core.ops import Address, StateId
from checkfree.messages.control import (
    Commit,
    Gone,
    HandedOn,
    Leaving,
    Message,
    Stays,
    Ticket,
)
from checkfree.runtime.swarm.joining.candidates import (
    MOST_HEIRS,
    Candidate,
    Candidates,
    heir_of,
)
from checkfree.runtime.swarm.joining.dialback import (
    ANSWER_WITHIN,
    MOST_CALLERS,
    Dialback,
    look,
    read_dialled,
    told_dial,
)
from checkfree.runtime.swarm.joining.discovery import Discovery
from checkfree.runtime.swarm.joining.invitation import Invitation, Register
from checkfree.runtime.swarm.joining.join_sessions import JoinSessions, JoinTerms
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.addresses import Place, elsewhere, listen_address
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer
from checkfree.runtime.swarm.transport.network_thread import JoinRequest, NetworkThread, Visitor

Lives = Mapping[Address, int]

Returning = Callable[[StateId, Ticket | None], tuple[StateId, Commit | None] | None]
"""What a state of a life that is over is good for: its name after the step that it has missed, and
that step, if it has missed one; None: nothing."""


Met = Callable[[Peer, Mapping[str, str]], Sequence[tuple[str, str, str]]]
"""Who took a seat, and on what it computes: in what that is not what the run began on."""


@dataclass(frozen=True)
class JoinServerConfig:
    """Where the join server is: ``identity`` is the key file that makes our libp2p id the same each
    time, ``register`` the file of where members were; ``release`` and ``run`` are what a joiner is
    compared with, and told."""

    invitation: Invitation
    identity: Path
    release: Mapping[str, str]
    run: Mapping[str, Any]
    register: Path

    @property
    def listen(self) -> str:
        """As libp2p writes it."""
        return listen_address(self.invitation.host, self.invitation.port)


@dataclass(frozen=True)
class Change:
    """A seat that changes hands. ``asked``: its owner wants to go, else others want it to. ``at``:
    where its heir is called, if it has one."""

    seat: Address
    life: int
    owner: str
    heir: str | None
    at: Address | None
    asked: bool


class JoinServer:
    """``taken`` tells who sits, ``tell`` tells the lead, ``say`` whoever watches. ``evict``: have
    whoever sits at a seat without a state of use, or is on the way there, get up. ``status`` is
    what is told of the run to whoever asks, ``links`` of its lines, ``met`` is told who takes a
    seat. In the main thread."""

    def __init__(
        self,
        frame: JoinServerConfig,
        network: NetworkThread,
        patience: float,
        taken: Callable[[], Collection[Address]],
        tell: Callable[[Message], None],
        returning: Returning,
        evict: Callable[[Address], None],
        say: Callable[[str], None],
        status: Callable[[], Mapping[str, Any]] = dict,
        met: Met = lambda peer, equipment: (),
        links: Callable[[], Mapping[str, Any]] = dict,
    ):
        self.frame = frame
        self._network, self._patience, self._taken = network, patience, taken
        self._tell, self._returning, self._evict = tell, returning, evict
        self._say, self._status, self._met, self._links = say, status, met, links
        self._me: Peer | None = None
        self._book = Register(frame.register)
        self._visitors: dict[str, Visitor] = {}
        self._dialbacks: dict[str, Dialback] = {}
        self._applicants: dict[str, Candidate] = {}
        """Those who want a seat, and may have one as soon as it is known who can call them."""
        self._called_for: dict[str, int] = {}
        """Of nodes how many processes they were asked to have."""
        self._tried: set[str] = set()
        """Nodes of which one process was tried: for the ports of the others the lead looks."""
        self._pairs: set[frozenset[str]] = set()
        """Nodes that have been tried with each other."""
        self._uncalled: dict[str, Node] = {}
        """Nodes that can call others, and can't be called."""
        self.candidates = Candidates(taken, self._told)
        self.changes: dict[Address, Change] = {}
        self._heirs = count(secrets.randbelow(MOST_HEIRS))  # an earlier lead's were others
        self._missing: dict[int, float] = {}
        """Of each stage that nobody has, since when."""

    def open(self, me: Peer) -> None:
        """Let them come."""
        self._me = me
        run = {**self.frame.run, "patience": self._patience}
        secret = self.frame.invitation.secret
        terms = JoinTerms(
            secret,
            self._patience,
            self.frame.release,
            lambda: {**run, **self._told()},
            self._status,
            self._links,
        )
        self._network.wait(JoinSessions(self._network, terms).open())
        self._network.start(self._be_found(me))

    async def _be_found(self, me: Peer) -> None:
        """Members that an earlier lead had may still be there, and look for us."""
        discovery = Discovery(self._network.endpoint, self.frame.invitation.secret)
        await discovery.join(self._book.read())
        await discovery.announce(lambda: me)

    # --- who comes and goes ----------------------------------------------------------------------

    def arrived(self, peer: Peer) -> StateId | None:
        """Somebody took its seat. The state that it brings along."""
        self.changes.pop(peer.seat, None)
        self._book.add(Place(peer.id, peer.addresses))
        visitor = self._visitors.get(peer.id)
        differs = self._met(peer, visitor.equipment) if visitor and visitor.equipment else ()
        if visitor and differs:
            visitor.tell({"differs": [*map(list, differs)]})
        found = self.candidates.arrived(peer.id, peer.seat)
        return None if found is None else found.brings

    def visited(self, visit: JoinRequest, lives: Lives) -> tuple[Address, int] | None:
        """Returns the seat and life that somebody was on the way to, who is gone."""
        visitor = visit.visitor
        if visit.what in ("looked", "left"):
            if self._visitors.get(visitor.id) is not visitor:
                return None  # it has come again since, or never said a word
        else:
            self._visitors[visitor.id] = visitor
        match visit.what:
            case "back" if visitor.was is not None:
                self._welcome_back(visitor, visitor.was, lives)
            case "ready":
                self._ready(visitor, lives)
            case "leaving":
                self._leaves(visitor.id, visit.told.get("seat"), lives)
            case "heir":
                self._heir_listens(visitor.id, visit.told.get("peer"))
            case "has":
                self._heir_has(visitor.id, visit.told.get("version"))
            case "called":
                self._call(visitor)
            case "dialled":
                found = read_dialled(visit.told.get("dialled"))
                for dialback in list(self._dialbacks.values()):
                    dialback.answered(visitor.id, found)
                    self._found(dialback)
            case "looked":
                self._looked(visitor.id, visit.told.get("why"))
            case "left":
                del self._visitors[visitor.id]
                self._dialbacks.pop(visitor.id, None)
                for dialback in list(self._dialbacks.values()):
                    dialback.left(visitor.id)
                    self._found(dialback)
                return self._left(visitor.id)
        return None

    def over(self, id: str, why: str) -> None:
        """That process has no seat any more; if it can hear us, it may apply again."""
        if id in self._visitors:
            self._visitors[id].tell({"over": why})

    def close(self, notice: Mapping[str, Any]) -> None:
        """The run is over, for those too who stand by or are on their way."""
        for visitor in self._visitors.values():
            visitor.tell(notice)

    def _left(self, id: str) -> tuple[Address, int] | None:
        found = self.candidates.left(id)
        if found is not None and found.heir_to is not None:
            self._heir_lost(found.heir_to)
            return None
        self._applicants.pop(id, None)
        return None if found is None else found.seat

    def unreached(self, heir: Peer) -> None:
        """Its owner can't send its state there: whoever is to take that seat is another."""
        change = next((c for c in self.changes.values() if c.heir == heir.id), None)
        candidate = self.candidates.standing_by.get(heir.id)
        if change is not None and candidate is not None and heir.seat == change.at:
            owner = self.candidates.seated[change.seat]
            self.candidates.apart.add(frozenset((candidate.node.id, owner.node.id)))
            candidate.heir_to = candidate.brings = None
            candidate.tell({"stale": True})
            self._heir_lost(change.seat)
            self.candidates.match()

    def _welcome_back(self, visitor: Visitor, was: tuple[Address, int], lives: Lives) -> None:
        seat, life = was
        sits = lives.get(seat) == life
        if sits:
            here = Candidate(visitor.id, visitor.node, visitor.tell, seat=was)
            self.candidates.seated[seat] = here
        visitor.tell({"sits": True} if sits else {"over": f"the life of {seat} there is over"})

    def _ready(self, visitor: Visitor, lives: Lives) -> None:
        """To take a seat; if it brings a state that counts, its own."""
        candidate = Candidate(visitor.id, visitor.node, visitor.tell)
        brings = visitor.brings
        good = None if brings is None else self._returning(brings, visitor.prepared)
        if brings is not None and good is None:
            self._tell(Gone(brings.seat, brings.life))
            visitor.tell({"stale": True})
        if brings is None or good is None:
            self._applicants[visitor.id] = candidate
            return self._call(visitor)
        candidate.brings, candidate.step = good
        self.candidates.standing_by[candidate.id] = candidate  # before anybody else can have it
        if brings.seat not in self.candidates.vacant:
            self._evict(brings.seat)
        self.candidates.came(candidate)

    # --- who can call whom -----------------------------------------------------------------------

    def _call(self, visitor: Visitor) -> None:
        """See who can call somebody, and whom it can call: one process of each node is asked, those
        with a seat first, but once a node."""
        every = self.candidates
        seated = (*every.seated.values(), *every.on_the_way.values())
        others = (*seated, *every.standing_by.values(), *self._applicants.values())
        ids = {o.node.id: o.id for o in reversed(others) if o.node.id != visitor.node.id}
        members = [self._visitors[id] for id in ids.values() if id in self._visitors]
        members = [] if visitor.node.id in self._tried else members[-MOST_CALLERS:]
        dialback = Dialback(visitor.id, {member.id: member.node for member in members})
        self._dialbacks[visitor.id] = dialback
        self._network.start(self._look(visitor))
        for member in members:
            member.tell(told_dial([Place(visitor.id, visitor.addresses)]))
        visitor.tell(told_dial([Place(member.id, member.addresses) for member in members]))

    async def _look(self, visitor: Visitor) -> None:
        """The lead's own try; and an end to waiting for what others find."""
        why = await look(elsewhere(visitor.addresses))
        self._network.inbox.put(JoinRequest("looked", visitor, {"why": why}))
        await asyncio.sleep(ANSWER_WITHIN)
        self._network.inbox.put(JoinRequest("looked", visitor))

    def _looked(self, id: str, why: str | None) -> None:
        dialback = self._dialbacks.get(id)
        if dialback is None:
            return
        if why is None:
            dialback.awaited.clear()
        else:
            dialback.answered("", {id: why})
        self._found(dialback)

    def _found(self, dialback: Dialback) -> None:
        """All who were asked have tried: now it may have a seat."""
        if not dialback.over:
            return
        del self._dialbacks[dialback.whom]
        visitor, apart = self._visitors[dialback.whom], dialback.apart()
        told = {"why": dialback.why, "apart": [node.host for node in apart]}
        visitor.tell({"called": {**told, "callers": len(dialback.members)}})
        candidate = self._applicants.pop(visitor.id, None)
        if candidate is not None:
            self._tried.add(visitor.node.id)
            self._keep_apart(visitor, dialback)
            self.candidates.came(candidate)

    def _keep_apart(self, visitor: Visitor, dialback: Dialback) -> None:
        """Whoever can't talk to each other is not seated side by side; two that nobody can call
        are taken for such, unless one of them was found to reach the other."""
        self._pairs |= {frozenset((n.id, visitor.node.id)) for n in dialback.members.values()}
        apart = {node.id: node for node in dialback.apart()}
        if dialback.why and visitor.node.id not in self._uncalled:
            self._uncalled[visitor.node.id] = visitor.node
            at = elsewhere(visitor.addresses)
            told = f"{visitor.node.host} can't be called at {', '.join(at)} ({dialback.why}): "
            self._say(f"{told}it is not seated beside another that can't")
        if visitor.node.id in self._uncalled:
            apart |= {
                id: node
                for id, node in self._uncalled.items()
                if frozenset((id, visitor.node.id)) not in self._pairs
            }
        for node in apart.values():
            pair = frozenset((node.id, visitor.node.id))
            if len(pair) == 2 and pair not in self.candidates.apart:
                self.candidates.apart.add(pair)
                told = f"{visitor.node.host} and {node.host} can't reach each other"
                self._say(f"{told}: they are not seated side by side where that can be")

    def drain(self, host: str) -> None:
        """Have all nodes of a machine hand on what they have, and end."""
        for visitor in self._visitors.values():
            if visitor.node.host == host:
                self.candidates.drained.add(visitor.node.id)
                visitor.tell({"leave": True, "drained": True, "seconds": None})

    # --- a seat that changes hands ---------------------------------------------------------------

    def _leaves(self, id: str, plain: Any, lives: Lives) -> None:
        """A process wants to go from its seat; its node takes no more of them."""
        found = next((s for s, who in self.candidates.seated.items() if who.id == id), None)
        if found is None or str(found) != plain:
            return
        self.candidates.drained.add(self.candidates.seated[found].node.id)
        self.change(found, lives[found], asked=True)

    def change(self, seat: Address, life: int, *, asked: bool, to: Candidate | None = None) -> bool:
        """Have a seat change hands. False: nobody would take it, and nothing happens unless its
        owner has ``asked`` for it."""
        owner, known = self.candidates.seated[seat], self.changes.get(seat)
        if known is not None and known.heir is not None:
            if asked and not known.asked:
                self.changes[seat] = replace(known, asked=True)
                self._tell(Leaving(seat, life, known.at, urgent=True))
            return True
        if to is not None:
            to.heir_to = seat
        apart = {id for pair in self.candidates.apart if owner.node.id in pair for id in pair}
        heir = to or self.candidates.relieve(seat, leaving={owner.node.id, *apart})
        if heir is None and not asked:
            return False
        id, at = (None, None) if heir is None else (heir.id, heir_of(seat, next(self._heirs)))
        self.changes[seat] = Change(seat, life, owner.id, id, at, asked)
        if heir is not None:
            heir.tell({"heir": {"seat": str(seat), "life": life, "at": str(at)}})
        self._tell(Leaving(seat, life, at, urgent=asked))
        return True

    def _heir_listens(self, id: str, plain: Any) -> None:
        """It can be called now: the owner has to know where."""
        change = next((c for c in self.changes.values() if c.heir == id), None)
        if change is None or change.owner not in self._visitors:
            return
        try:
            peer = Peer.from_json(plain)
        except BadFrame:
            return
        if peer.seat == change.at and peer.id == id:
            self._visitors[change.owner].tell({"heir": peer.to_json()})

    def _heir_has(self, id: str, version: Any) -> None:
        change = next((c for c in self.changes.values() if c.heir == id), None)
        heir = self.candidates.standing_by.get(id)
        if change is None or change.at is None or heir is None or type(version) is not int:
            return
        heir.brings = StateId(change.seat, change.life, version)
        self._tell(HandedOn(heir.brings, change.at))

    def _heir_lost(self, seat: Address) -> None:
        """Its owner goes on to leave, if it asked to; else it stays."""
        change = self.changes.pop(seat, None)
        if change is not None and change.at is not None:
            self._tell(Gone(change.at, 0))
        if change is None or change.owner not in self._visitors:
            return
        if change.asked:
            self.change(seat, change.life, asked=True)
        else:
            self._tell(Stays(seat, change.life))

    def call_for_more(self) -> None:
        """Have nodes keep processes ready: for the seats that are vacant, or are about to be; and
        one after the other, as starting one takes a core for a second, for as many as would be, if
        any one of the other nodes were lost. Told is how many a node is to have in all, so that it
        makes no difference which of them have got a seat on the way there."""
        every = self.candidates
        soon = sum(change.asked and change.heir is None for change in self.changes.values())
        standing = every.standing_by.values()
        free = Counter(who.node.id for who in standing if who.heir_to is None)
        heirs = Counter(who.node.id for who in standing if who.heir_to is not None)
        able = self._with_room() if every.open else {}
        load = Counter(node for node in every.placed().values() if node is not None)
        for id, who in able.items():
            others = ((node, seats) for node, seats in load.items() if node != id)
            lost = max((_share(seats, able.keys() - {node}) for node, seats in others), default=0)
            ready = max(_share(len(every.vacant) + soon, able), min(lost, free[id] + 1))
            wanted = load[id] + heirs[id] + ready
            if self._called_for.get(id, 0) != wanted:
                self._called_for[id] = wanted
                who.tell({"wanted": wanted})

    def _with_room(self) -> dict[str, Candidate]:
        """A process of each node that can have more seats; of reserves only if nobody else can."""
        every, load = self.candidates, Counter(self.candidates.placed().values())
        who = (*every.standing_by.values(), *every.on_the_way.values(), *every.seated.values())
        able = {
            one.node.id: one
            for one in who
            if one.node.id not in every.drained and load[one.node.id] < one.node.room
        }
        return {id: o for id, o in able.items() if not o.node.reserve} or able

    def has_room(self, seat: Address, host: str | None) -> bool:
        """Whether another node than the one that has a seat could have it, on that machine if one
        is given: once a process of it stands by."""
        owner = self.candidates.node_of(seat)
        nodes = (who.node for who in self._with_room().values() if who.node != owner)
        return any(n.host == (host or n.host) and (n.reads or seat.stage > 0) for n in nodes)

    # --- what is told ----------------------------------------------------------------------------

    def waiting(self, lives: Lives) -> dict[str, Any]:
        """An event: which seats are vacant, which stages have nobody, for how many "seconds", and
        who stands by. "since": by the monotonic clock, which this machine's processes share."""
        coming = (who.seat[0] for who in self.candidates.on_the_way.values() if who.seat)
        taken, now = {seat.stage for seat in (*self._taken(), *coming)}, time.monotonic()
        missing = sorted({seat.stage for seat in lives} - taken)
        self._missing = {stage: self._missing.get(stage, now) for stage in missing}
        return {
            "at": time.time(),
            "event": "waiting",
            "vacant": [str(seat) for seat in sorted(self.candidates.vacant)],
            "stages": missing,
            "since": (since := min(self._missing.values(), default=now)),
            "seconds": now - since,
            "seats": len(lives),
            "spares": len(self.candidates.standing_by),
            "nodes": len({who.node.id for who in self.candidates.seated.values()}),
        }

    def fleet(self, present: Mapping[Address, Peer]) -> list[dict[str, Any]]:
        """Every node: what it said of itself, its seats and where they are called, and how many of
        its processes stand by."""
        candidates = self.candidates
        found = {id: {**node.to_json(), "seats": {}, "spares": 0} for id, node in self._known()}
        for seat, who in sorted(candidates.seated.items()):
            if seat in present and who.node.id in found:
                found[who.node.id]["seats"][str(seat)] = [*present[seat].addresses]
        for who in candidates.standing_by.values():
            found[who.node.id]["spares"] += 1
        return list(found.values())

    def _known(self) -> list[tuple[str, Node]]:
        """Those who said who they are."""
        every = self.candidates
        who = [*every.seated.values(), *every.on_the_way.values(), *every.standing_by.values()]
        who += self._applicants.values()
        return sorted({one.node.id: one.node for one in who}.items())

    def _told(self) -> Mapping[str, Any]:
        assert self._me is not None
        return {"peer": self._me.to_json()}


def _share(seats: int, nodes: Collection[str]) -> int:
    """Of seats, for each of the nodes that are to take them."""
    return -(-seats // len(nodes))
