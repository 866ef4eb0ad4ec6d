"""Join a run that another machine leads: one process, one seat at a time."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from checkfree.build.assemble import equip
from checkfree.build.job import any_config, of_config
from checkfree.build.limits import limits_of
from checkfree.build.release import release
from checkfree.errors import BadInput, RunFailed
from checkfree.messages import codec
from checkfree.ops import Address
from checkfree.runtime.process import settled
from checkfree.runtime.swarm.joining.camp import Camp
from checkfree.runtime.swarm.joining.discovery import Discovery
from checkfree.runtime.swarm.joining.door import Frame
from checkfree.runtime.swarm.joining.finder import AddressBook, Finder
from checkfree.runtime.swarm.joining.guest import After, Guest
from checkfree.runtime.swarm.joining.invitation import Place, best_first, listen_address
from checkfree.runtime.swarm.joining.lifeline import Lifeline, Unreachable
from checkfree.runtime.swarm.joining.reception import Reception, Terms
from checkfree.runtime.swarm.processes.home import Home
from checkfree.runtime.swarm.transport.courier import Courier, Said
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.worker import Equipment, StageWorker

FIRST_WITHIN, AGAIN_WITHIN = 20.0, 600.0
"""Seconds for which the lead's address is tried: at first, and once we were a member."""
LEAVE_WITHIN = 5.0  # seconds, to leave the DHT
UNTIL_KNOWN = codec.Limits(max_message_bytes=1 << 16, max_header_bytes=1 << 15)
"""Nobody has a message for who does not know the run yet."""


@dataclass(frozen=True)
class Means:
    """What it takes to train a stage of the run."""

    equipment: Equipment
    limits: codec.Limits
    threads: int


Prepare = Callable[[Mapping[str, Any]], Means]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pass:
    """How a run is found and entered. ``listen`` is where others reach us, ``retry`` the seconds
    for which a lead is looked for (None: the defaults)."""

    place: Place
    secret: bytes
    listen: str
    retry: float | None = None


def prepared(run: Mapping[str, Any], data_path: str | None) -> Means:
    """Build what a run needs here, and see that its data are ours. Raises BadInput."""
    config = any_config(run["config"])
    if data_path is not None:
        config = replace(config, data=replace(config.data, path=data_path))
    try:
        job = of_config(config, Path(), ())
    except BadInput as error:
        raise BadInput(f"{error} (on this machine: --data-path gives where the data are)") from None
    if json.loads(json.dumps(job.data)) != run["data"]:
        raise BadInput(
            f"the data here are {_told(job.data)}, those of the run {_told(run['data'])}: copy the "
            "run's data to this machine, and give --data-path"
        )
    equipment = equip(config, job.blueprint, job.feeds)
    equipment.make(1, 1)  # what only a first optimizer imports
    return Means(equipment, limits_of(config), config.threads)


def _told(data: Mapping[str, Any]) -> str:
    return f"{data['name']} {data['content_hash']!s:.12} of {data['train_tokens']} tokens"


class Member:
    """A process that takes one seat after the other, until the run ends or it is told to go."""

    terminal = False
    """See ``Courier``."""

    def __init__(self, home: Home, entry: Pass, prepare: Prepare, say: Say):
        self._home, self._pass, self._prepare, self._say = home, entry, prepare, say
        self._release = release()
        self._means: Means | None = None
        self._courier: Courier | None = None
        self._asked = 0
        self._seated = False
        self._book = AddressBook(entry.place)

    def run(self) -> After:
        """Returns how it ended: ENDED, LEFT or BROKEN. Raises BadInput or RunFailed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted)
        try:
            while (after := self._live()) is After.OVER:
                pass
        except _Gone:
            return After.LEFT
        return after

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Once: hand on what we have. Twice, or with nothing to hand on: at once."""
        self._asked += 1
        if not self._seated or self._courier is None or self._asked > 1:
            raise _Gone
        self._say("leaves as soon as its state is handed on (once more: at once)")
        self._courier.inbox.put(Said({"leave": True}))

    def _live(self) -> After:
        """From an application to the end of a life at a seat."""
        courier = Courier(self._home.secret(), UNTIL_KNOWN, terminal=self.terminal)
        self._courier = courier
        finder = Finder(Discovery(courier.post, self._pass.secret), self._book)
        try:
            self._open(courier)
            lifeline = Lifeline(courier, self._pass.secret, self._release, finder)
            run = self._apply(courier, lifeline)
            guest = Guest(courier, lifeline, self._say)
            lifeline.follow(run["patience"], self._pass.retry or AGAIN_WITHIN)
            means = self._means = self._means or self._prepare(run)
            courier.post.limits = means.limits
            lifeline.ready()
            courier.wait(Reception(courier, self._terms(run["patience"])).open())
            with settled(means.threads):
                return self._train(guest, means, run["patience"])
        finally:
            self._courier = None
            with suppress(TimeoutError):
                courier.wait(finder.close(), LEAVE_WITHIN)
            courier.close()

    def inquire(self) -> Mapping[str, Any]:
        """What the lead tells of its run, without taking part. Raises BadInput."""
        courier = Courier(self._home.secret(), UNTIL_KNOWN)
        finder = Finder(Discovery(courier.post, self._pass.secret), self._book)
        try:
            self._open(courier)
            lifeline = Lifeline(courier, self._pass.secret, self._release, finder)
            return self._apply(courier, lifeline)
        finally:
            courier.close()

    def _open(self, courier: Courier) -> None:
        try:
            courier.open(self._home.sockets, self._home.identity(), self._pass.listen)
        except RunFailed as error:
            raise BadInput(str(error)) from None

    def _terms(self, patience: float) -> Terms:
        """Whoever calls us wants the lead; we say that we are not it."""
        return Terms(self._pass.secret, patience, self._release, None)

    def _apply(self, courier: Courier, lifeline: Lifeline) -> Mapping[str, Any]:
        within = self._pass.retry or (AGAIN_WITHIN if self._means else FIRST_WITHIN)

        def told(why: str) -> None:
            self._say(f"no answer yet ({why}); trying for {within:g} s")

        try:
            return courier.wait(lifeline.take_up(within, told))
        except Unreachable as error:
            if self._means is not None:
                raise RunFailed(f"the lead is gone: {error}; join again when it is back") from None
            raise BadInput(
                f"{self._pass.place} can't be reached ({error}): is the lead up, is its address "
                "one that this machine can call, and its port open?"
            ) from None

    def _train(self, guest: Guest, means: Means, patience: float) -> After:
        self._say("stands by until a seat is vacant")
        birth = guest.wait()
        if birth is not None:
            what = "its state comes from the swarm" if birth["hollow"] else "from the first weights"
            self._say(f"takes seat {birth['seat']}, life {birth['life']}: {what}")
            self._seated = True
            guest.run(birth, lambda: _worker(means, birth), patience)
            self._seated = False
        why = f": {guest.why}" if guest.why not in ("", guest.after.value) else ""
        self._say(f"{guest.after.value}{why}")
        if guest.after is After.LOST:
            raise RunFailed(f"the lead is gone: {guest.why}; join again when it is back")
        if self._asked:
            return After.LEFT
        return guest.after


class _Gone(BaseException):
    """Whoever started us wants us to end now."""


def _worker(means: Means, birth: Mapping[str, Any]) -> StageWorker:
    seat = Address.parse(birth["seat"])
    return StageWorker(seat, birth["life"], means.equipment, hollow=birth["hollow"])


def join(home: Home, entry: Pass, data_path: str | None, say: Say) -> After:
    """Be a member of a run until it ends, or we are told to go. Raises BadInput or RunFailed."""
    member = Member(home, entry, lambda run: prepared(run, data_path), say)
    member.terminal = True
    return member.run()


def inquire(home: Home, entry: Pass, data_path: str | None) -> str:
    """That we could join, in words: the lead answers, and its run's data are here. Raises
    BadInput if not."""
    run = Member(home, entry, lambda run: prepared(run, data_path), lambda text: None).inquire()
    prepared(run, data_path)
    return f"its lead answers, and the data are here: {_told(run['data'])}"


def join_here(home: Home, birth: Mapping[str, Any], means: Means, frame: Frame) -> int:
    """A fork on the lead's own machine, that takes seats as any joiner does. Its exit code."""
    lead, host = Peer.from_json(birth["peer"]), frame.invitation.host
    place = Place(lead.id, best_first(lead.addresses)[-1:] or lead.addresses)
    entry = Pass(place, frame.invitation.secret, listen_address(host, 0))
    camp = Camp(home.path, frame.invitation.secret)
    return 3 if Member(camp, entry, lambda run: means, to_stderr).run() is After.BROKEN else 0


def to_stderr(text: str) -> None:
    """The default way to say what happens."""
    print(f"checkfree: {text}", file=sys.stderr, flush=True)
