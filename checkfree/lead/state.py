"""What all parts of the lead share: who sits where, how far the run is, and what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from checkfree.core.ops import (
    LEAD,
    LOG,
    Address,
    Mirror,
    Route,
    Rung,
    Transfer,
    Upload,
    View,
    render_route,
)
from checkfree.core.records import PlanRecord, RebuiltSeat
from checkfree.lead.keeping import Keeping
from checkfree.lead.membership import Membership
from checkfree.lead.progress import Progress, Terms
from checkfree.lead.trend import falling
from checkfree.messages.control import RESUME, Commit, Message, Note, Outgoing, Reroute
from checkfree.pipeline.routes import in_order
from checkfree.recovery.replay.book import ReplayBook
from checkfree.recovery.shadow.ledger import Shadowing
from checkfree.recovery.strategy import Strategy


class LeadState:
    """``out`` are the messages that the next ``take`` hands over."""

    def __init__(self, members: Membership, strategy: Strategy, terms: Terms, progress: Progress):
        self.members, self.strategy, self.terms = members, strategy, terms
        self.progress = progress
        self.keeping, self.shadowing = Keeping(), Shadowing(progress.shadows)
        begins = RESUME if progress.committed or terms.initial else ""
        self.replays = ReplayBook(strategy.replays, progress.committed, members.alive, begins)
        self.rejected: frozenset[Rung] = frozenset()
        """What was tried for the losses of the moment and proved no good."""
        self.commit: Commit | None = None
        """The last that was decided."""
        self.out: list[Outgoing] = []
        self.planned = members.names() if progress.notes else {}
        """Members as the last plan record names them."""
        self._rerouted: Reroute | None = None
        self._told: tuple[str, ...] | None = None
        """Routes by the last plan record that this lead has written or read; None: by none."""
        self._made: Reroute | None = None
        """The routes that were made last."""

    def take(self) -> list[Outgoing]:
        """What is to be sent, once."""
        out, self.out = self.out, []
        return out

    def send(self, to: Address, message: Message) -> None:
        if to == LEAD:
            raise AssertionError(f"{message} is to ourselves")
        self.out.append((to, message))

    def note(self, record: object) -> None:
        """Have a record written down."""
        self.send(LOG, Note(self.progress.notes, record))
        self.update(notes=self.progress.notes + 1)

    def note_plan(self, rebuilds: Mapping[str, RebuiltSeat]) -> None:
        """Who trains from here on."""
        p, self.planned = self.progress, self.members.names()
        newest, found = max(p.checkpoints, default=-1), self.members.locations
        hosts = {str(s): at.machine for s, at in sorted(found.items()) if str(s) in self.planned}
        zones = {seat: found[Address.parse(seat)].zone for seat in hosts}
        zones = {seat: zone for seat, zone in zones.items() if zone}
        plan = p.epoch, p.committed, p.tick, self.planned, rebuilds, newest
        self._told = self._routes_to_tell()
        self.note(PlanRecord(*plan, hosts, zones, routes=self._told))

    def _routes_to_tell(self) -> tuple[str, ...]:
        """As a plan has them; (): in order, or a stage has nobody yet."""
        usual = self.terms.routes is in_order and not self._is_rerouted()
        if usual or len({seat.stage for seat in self.members.alive}) < self.members.num_stages:
            return ()
        return tuple(map(render_route, self.routes()))

    # --- the ways of microbatches ----------------------------------------------------------------

    def routes(self) -> tuple[Route, ...]:
        """Through those who live, before the strategy swaps any."""
        alive = tuple(sorted(self.members.alive))
        if self._rerouted is not None and self._rerouted.seats == alive:
            return self._rerouted.routes
        if self._made is None or self._made.seats != alive:
            self._made = Reroute(alive, self.terms.routes(alive, self.terms.microbatches))
        return self._made.routes

    def reroute(self, message: Reroute, *, noted: bool = False) -> None:
        """Other ways, from the next iteration on; ``noted``: a plan record tells of them."""
        self._rerouted = message
        if noted:
            self._told = tuple(map(render_route, message.routes))

    def reroutes(self) -> bool:
        """The next iteration goes other ways than the last plan record tells: than those that are
        made for who lives, where none has told any."""
        if self._told is None:
            return self._is_rerouted()
        return self._routes_to_tell() != self._told

    def _is_rerouted(self) -> bool:
        alive = tuple(sorted(self.members.alive))
        return self._rerouted is not None and self._rerouted.seats == alive

    def update(self, **changes: Any) -> None:
        """Of the run's progress."""
        self.progress = replace(self.progress, **changes)

    def advance_epoch(self) -> None:
        """Whatever is under way is over."""
        self.update(epoch=self.progress.epoch + 1)

    def due_mirrors(self) -> tuple[Mirror, ...]:
        """Copies of the committed state that the strategy wants stepped from here on."""
        return tuple(keep for keep in self._due_keeps() if isinstance(keep, Mirror))

    def due_uploads(self) -> tuple[Upload, ...]:
        """What the strategy wants archived of the committed state."""
        return tuple(keep for keep in self._due_keeps() if isinstance(keep, Upload))

    def _due_keeps(self) -> tuple[Mirror | Upload, ...]:
        return self.strategy.replications(self.progress.committed, sorted(self.members.alive))

    def due_transfers(self) -> tuple[Transfer, ...]:
        """What the strategy wants pushed when the step to come is committed."""
        return self.strategy.shadows(self.view())

    def view(self) -> View:
        """What a strategy may know."""
        p, alive = self.progress, frozenset(self.members.alive)
        keeps = frozenset(keep for keep in self.keeping.current if keep.holder in alive)
        seats = alive | self.members.uninitialized
        count = self.members.num_stages
        return View(
            alive,
            count,
            p.committed,
            keeps,
            p.checkpoints,
            p.repairs,
            seats,
            self.shadowing.counted(p.committed),
            self.shadowing.pushed(),
            None if self.terms.blind else falling(p.trend),
            self.rejected,
            self.replays.protection(p.committed, alive),
            self.terms.chunks,
        )
