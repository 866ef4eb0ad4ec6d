"""Join a run that another machine leads: a node, with a process for each seat that it has."""

from __future__ import annotations

import faulthandler
import json
import os
import secrets
import signal
import socket
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from checkfree.config.check import check_data_keys
from checkfree.config.parts import permitted
from checkfree.core.config import Config
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.formats import BF16_WEIGHTS
from checkfree.core.ops import Address
from checkfree.core.units import render_bytes, render_seconds
from checkfree.messages import codec
from checkfree.runtime.forking import ask_fork, count_cuda_devices, keep_for_forks
from checkfree.runtime.process import settled
from checkfree.runtime.swarm.joining.discovery import Discovery
from checkfree.runtime.swarm.joining.finder import AddressBook, Finder
from checkfree.runtime.swarm.joining.join_client import JoinClient, Unreachable
from checkfree.runtime.swarm.joining.join_server import JoinServerConfig
from checkfree.runtime.swarm.joining.join_sessions import JoinSessions, JoinTerms
from checkfree.runtime.swarm.joining.joiner_workdir import JoinerWorkdir
from checkfree.runtime.swarm.joining.notices import leave_deadline, seconds_left, watch
from checkfree.runtime.swarm.joining.remote_worker import ExitReason, RemoteWorker, RetainedStates
from checkfree.runtime.swarm.placement.nodes import LONGEST_NAME, Node
from checkfree.runtime.swarm.processes.forks import (
    AGAIN,
    ENDED,
    FAILED,
    NOT_NEEDED,
    Forks,
    Report,
)
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.told import tell
from checkfree.runtime.swarm.transport.addresses import Place, best_first, listen_address
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.network_thread import NetworkThread, Said
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import check_pretrained, of_family
from checkfree.session.equipment import equipment
from checkfree.session.job import Feeds, any_config, of_config
from checkfree.session.log_disk import IN_MEMORY, check_log_disk, log_folder, logging_to
from checkfree.session.memory import available, room_for, seat_bytes
from checkfree.session.swarm.limits import limits_of
from checkfree.session.swarm.release import PACKAGE, offered, packages_of, release
from checkfree.session.terms import seats
from checkfree.stage import body_parts
from checkfree.worker import StageWorker, WorkerContext

FIRST_WITHIN, AGAIN_WITHIN = 20.0, 600.0
"""Seconds for which the lead's address is tried: at first, and once we were a member."""
LEAVE_WITHIN = 5.0  # seconds, to leave the DHT
ASK_AT_MOST = 3  # times
ASK_EVERY = 0.5  # seconds
CLOCKS_APART = 10.0
"""Seconds that two clocks have to differ by to be told of: as long as an answer may take."""
UNTIL_KNOWN = codec.Limits(max_message_bytes=1 << 16, max_header_bytes=1 << 15)
"""Nobody has a message for who does not know the run yet."""
REFUSED = 2
"""Exit code of a fork that the lead lets in no more."""
CODES = {
    ExitReason.ENDED: ENDED,
    ExitReason.LEFT: ENDED,
    ExitReason.FAILED: FAILED,
    ExitReason.BROKEN: FAILED,
    ExitReason.LOST: AGAIN,
    ExitReason.SHORT: AGAIN,
}


class NotFound(BadInput):
    """The lead, at an address that may be right: perhaps it comes back."""


class StartAgain(Exception):
    """What is missing may be there in a while. One line. Exit code 75."""


@dataclass(frozen=True)
class NodeResources:
    """What it takes to train a stage of the run, and on what. ``reads``: the run's data are
    here."""

    context: WorkerContext
    limits: codec.Limits
    threads: int
    equipment: Mapping[str, str]
    reads: bool = True


Say = Callable[[str], None]


@dataclass(frozen=True)
class JoinOptions:
    """How a run is found and entered. ``listen`` is where others reach us, ``retry`` the seconds
    for which a lead is looked for (None: the defaults). ``notice``: seconds that we have from a
    SIGTERM on; ``watched``: who tells of our machine's end, as ``--notice`` says. ``allow``: top
    packages that a strategy of the run's own may be of. ``lead``: who answered when we asked, by
    way of ``place``, if that is a member's."""

    place: Place
    secret: bytes
    listen: str
    retry: float | None = None
    notice: float | None = None
    watched: str | None = None
    allow: tuple[str, ...] = ()
    lead: Place | None = None


@dataclass(frozen=True)
class NodeOptions:
    """What whoever starts a node asks for. ``seats``: at most; None: what memory is good for, 0: a
    spare. ``data`` and ``model``: where the run's data and its pretrained weights are here; None:
    where the run has them. ``logs``: the folder that logs are written to here, see
    ``logging_to``."""

    seats: int | None = None
    host: str = field(default_factory=lambda: socket.gethostname()[:LONGEST_NAME])
    zone: str = ""
    data: str | None = None
    model: str | None = None
    device: str | None = None
    logs: str | None = None


# --- what a run needs here -----------------------------------------------------------------------


def prepared(
    run: Mapping[str, Any],
    options: NodeOptions,
    say: Say = lambda text: None,
    allow: Collection[str] = (),
) -> NodeResources:
    """Build what a run needs here. Only stage 0 reads data: without them a node has other seats.
    Raises BadInput, also for data that were named and are not the run's, and for a strategy that is
    neither of checkfree nor allowed here."""
    config = permitted(any_config(run["config"]), allow)
    config = replace(config, devices=(_device(config, options.device),))
    config = logging_to(config, options.logs)
    if options.logs not in (None, IN_MEMORY) and log_folder(config.recovery) is None:
        say(f"nothing is written to {options.logs}: this run keeps no logs")
    _check_log_disk(config, options.seats or 1)
    if options.data is not None:
        config = replace(config, data=replace(config.data, path=options.data))
        check_data_keys(config.data, {"path"})
    if options.model is not None:
        config = replace(config, model=replace(config.model, path=options.model))
    check_pretrained(config.model, "on this machine: --model-path gives where the weights are")
    if config.model.vocabulary is None:  # a lead tells what its tokenizer has
        raise BadInput("the run that the lead sent has no model.vocabulary: is its checkfree ours?")
    blueprint = of_family(config, config.model.vocabulary)
    try:
        feeds, reads = _feeds(config, run["data"]), True
    except BadInput as error:
        if options.data is not None:
            raise
        say(f"has every seat but stage 0, which reads data: {error}")
        feeds, reads = {}, False
    made = make_worker_context(config, blueprint, feeds)
    context = replace(made, strangers=True, shares_memory=False)
    warm_up(context, config, config.devices[0])
    facts = equipment(config)
    return NodeResources(context, limits_of(config), config.threads, facts, reads)


def _check_log_disk(config: Config, count: int) -> None:
    """Of so many seats here, if there are any. Raises BadInput."""
    check_log_disk(config, max(1, count), give="give --log-path", less="take fewer --seats")


def _feeds(config: Config, expected: Mapping[str, Any]) -> Feeds:
    """The run's data, if they are here. Raises BadInput."""
    try:
        job = of_config(config, Path(), (), whole=False)
    except BadInput as error:
        raise BadInput(f"{error} (on this machine: --data-path gives where the data are)") from None
    if json.loads(json.dumps(job.data)) != expected:
        raise BadInput(
            f"the data here are {_told(job.data)}, those of the run {_told(expected)}: copy the "
            "run's data to this machine, and give --data-path"
        )
    return job.feeds


def _told(data: Mapping[str, Any]) -> str:
    return f"{data['name']} {data['content_hash']!s:.12} of {data['train_tokens']} tokens"


def _device(config: Config, asked: str | None) -> str:
    """Devices are the node's, not the run's. Raises BadInput."""
    if asked is not None:
        try:
            device = torch.device(asked)
        except RuntimeError:
            raise BadInput(f"got --device {asked}, expected cpu or cuda:N") from None
        if device.type not in ("cpu", "cuda"):
            raise BadInput(f"got --device {asked}, expected cpu or cuda:N")
        return asked
    wanted = config.devices[0]
    if torch.device(wanted).type == "cuda" and not count_cuda_devices():
        raise BadInput(
            f"the run's devices are {', '.join(config.devices)} and there is no CUDA device here: "
            "--device cpu has this node compute on its CPU"
        )
    return wanted


def warm_up(context: WorkerContext, config: Config, device: str) -> None:
    """Import what only a first optimizer does, and compile what is compiled, once for all forks.
    But a CUDA context would not survive a fork, nor would threads: then what is compiled stays in
    torch's folder alone, which takes a seat seconds to read. Raises BadInput."""
    here = torch.device(device).type == "cpu"
    if here:
        context.make(1, 1)
    else:
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    if not config.compile:
        return
    if here and config.threads == 1:
        compile_ahead(context, config)
    elif told := ask_fork(lambda: refusal_of(lambda: compile_ahead(context, config))):
        raise BadInput(told)


def compile_ahead(context: WorkerContext, config: Config) -> None:
    """What the first and the last body stage take: in a seat it would look like standing still.
    Raises BadInput."""
    wide = {"fp64": torch.float64, BF16_WEIGHTS: torch.bfloat16}.get(
        config.precision, torch.float32
    )
    x = torch.zeros(config.batch, config.model.context, config.model.width, dtype=wide)
    with settled(config.threads):
        for number in sorted({1, config.stages}):
            stage = context.make(number, number)
            stage.moving = ()  # by a thread, and this process is to have none
            for part in body_parts(stage.chunks):
                stage.forward((0, number), part, x, None, 0)
            stage.discard()


def refusal_of(attempt: Callable[[], None]) -> str:
    """Of the BadInput that it raises; nothing, if it raises none."""
    try:
        attempt()
    except BadInput as error:
        return str(error)
    return ""


def node_of(
    run: Mapping[str, Any],
    options: NodeOptions,
    resources: NodeResources,
    allow: Collection[str] = (),
) -> Node:
    """As we apply. Raises StartAgain if there is no memory for a seat, and BadInput if there is not
    the disk for the logs of all."""
    config = logging_to(permitted(any_config(run["config"]), allow), options.logs)
    count, reserve = options.seats, options.seats == 0
    if count is None and (options.device or config.devices[0]).startswith("cuda"):
        count = 1
    if count is None:
        free = available()
        count = min(room_for(config, free), len(seats(config)))
        if count < 1:
            raise StartAgain(
                f"{render_bytes(seat_bytes(config))} for a seat, {render_bytes(free)} available: "
                "not enough memory now; --seats 1 tries all the same"
            )
    _check_log_disk(config, count)
    name = secrets.token_hex(8)
    host, zone = options.host, options.zone
    return Node(name, host, zone, max(1, count), reserve, resources.reads)


# --- one process ---------------------------------------------------------------------------------


class Member:
    """A process that takes one seat after the other, until the run ends or it is told to go."""

    terminal = False
    """See ``NetworkThread``."""

    def __init__(
        self,
        workdir: Workdir,
        entry: JoinOptions,
        node: Node,
        resources: NodeResources | None,
        say: Say,
        report: Report = lambda said: None,
    ):
        self._workdir, self._entry, self._node, self._resources = workdir, entry, node, resources
        self._say, self._report = say, report
        self._release = offered(PACKAGE, entry.allow)
        self._network: NetworkThread | None = None
        self._asked = self._drained = False
        self._ends_at: float | None = None
        """By the monotonic clock, this machine, if it is known."""
        self._seated = False
        self._remote: RemoteWorker | None = None
        self._book = AddressBook(entry.place)
        if entry.lead is not None:
            self._book.put_first(entry.lead)
        self._retained = RetainedStates()
        self._known = False
        self.why = ""

    def run(self) -> ExitReason:
        """Returns how it ended: any but OVER. Raises BadInput."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted)
        signal.signal(NOT_NEEDED, self._not_needed)
        try:
            while (after := self._live()) is ExitReason.OVER:
                pass
        except _Gone:
            return ExitReason.LEFT
        return after

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Hand on what we have; with nothing to hand on, go at once. Who is told twice is killed by
        its parent."""
        if self._asked:
            return  # all of a control group are told, and our parent tells us too
        self._asked = True
        left = seconds_left(self._workdir.path, self._entry.notice)
        self._ends_at = None if left is None else time.monotonic() + left
        if not (self._seated or self._retained):
            raise _Gone
        self._say("leaves as soon as its state is handed on (once more: at once)")
        if self._network is not None:
            self._leave(self._network)

    def _leave(self, network: NetworkThread) -> None:
        network.inbox.put(Said({"leave": True, "ends_at": self._ends_at}))

    def _not_needed(self, number: int, frame: FrameType | None) -> None:
        """Others stand by."""
        if not self._seated and (self._remote is None or self._remote.idle):
            raise _Gone

    def _live(self) -> ExitReason:
        """From an application to the end of a life at a seat."""
        assert self._resources is not None
        network = NetworkThread(self._workdir.secret(), UNTIL_KNOWN, terminal=self.terminal)
        self._network = network
        finder = Finder(Discovery(network.endpoint, self._entry.secret), self._book)
        try:
            self._open(network)
            join_client = self._join_client(network, finder)
            join_client.brings, join_client.prepared = self._retained.name()
            try:
                run = self._apply(network, join_client)
            except Unreachable as error:
                self._say(f"the lead is gone: {error}")
                return ExitReason.LOST
            self._known = True
            self._remote = remote = RemoteWorker(
                network, join_client, self._retained, self._say, self._report
            )
            if self._asked or self._drained:
                self._leave(network)
            join_client.follow(run["patience"], self._entry.retry or AGAIN_WITHIN)
            network.endpoint.limits = self._resources.limits
            join_client.ready()
            # Whoever calls us wants the lead; we say that we are not it.
            named = release(any_config(run["config"]))  # as the lead compares
            terms = JoinTerms(self._entry.secret, run["patience"], named, None)
            network.wait(JoinSessions(network, terms).open())
            with settled(self._resources.threads):
                return self._train(remote, self._resources, run["patience"])
        finally:
            self._network = None
            with suppress(TimeoutError):
                network.wait(finder.close(), LEAVE_WITHIN)
            network.close()

    def inquire(
        self, what: str = "", until: Callable[[Mapping[str, Any]], bool] = lambda said: True
    ) -> Mapping[str, Any]:
        """What the lead tells of its run, or says to who asks ``what``, again and again ``until``
        that is enough, without taking part. Raises NotFound, or another BadInput."""
        network = NetworkThread(self._workdir.secret(), UNTIL_KNOWN)
        finder = Finder(Discovery(network.endpoint, self._entry.secret), self._book)
        try:
            self._open(network)
            join_client = self._join_client(network, finder)
            run = self._apply(network, join_client)
            while what and not until(run := network.wait(join_client.ask(what))):
                time.sleep(ASK_EVERY)
            return run
        except (Unreachable, *BROKEN_STREAM) as error:
            raise NotFound(
                f"{self._entry.place} can't be reached ({error}): is the lead up, is its address "
                "one that this machine can call, and its port open?"
            ) from None
        finally:
            network.close()

    def _open(self, network: NetworkThread) -> None:
        try:
            network.open(self._workdir.sockets, self._workdir.identity(), self._entry.listen)
        except RunFailed as error:
            raise BadInput(str(error)) from None

    def _join_client(self, network: NetworkThread, finder: Finder) -> JoinClient:
        facts = None if self._resources is None else self._resources.equipment
        return JoinClient(network, self._entry.secret, self._release, finder, self._node, facts)

    def _apply(self, network: NetworkThread, join_client: JoinClient) -> Mapping[str, Any]:
        within = self._entry.retry or (AGAIN_WITHIN if self._known else FIRST_WITHIN)
        if self._ends_at is not None:
            within = min(within, max(0.0, self._ends_at - time.monotonic()))

        def told(why: str) -> None:
            self._say(f"no answer yet ({why}); trying for {within:g} s")

        return network.wait(join_client.take_up(within, told))

    def _train(self, remote: RemoteWorker, resources: NodeResources, patience: float) -> ExitReason:
        self._report({"standing": True, "keeps": self._retained.name()[0] is not None})
        self._say("stands by until a seat is vacant")
        assignment = remote.wait()
        if assignment is not None:
            self._say(
                f"takes seat {assignment['seat']}, life {assignment['life']}: {_origin(assignment)}"
            )
            self._seated = True
            self._report({"seated": assignment["seat"]})
            remote.run(assignment, lambda: _worker(resources, assignment), patience)
            self._seated = False
        self.why = remote.why
        why = f": {remote.why}" if remote.why not in ("", remote.after.value) else ""
        self._say(f"{remote.after.value}{why}")
        if remote.after in (ExitReason.ENDED, ExitReason.FAILED):
            self._report({"over": True})
        self._drained = self._drained or remote.drained
        if remote.after not in (ExitReason.LEFT, ExitReason.OVER):
            return remote.after
        leaves = self._asked or self._drained
        # What it has kept it is to hand on first.
        kept = remote.after is ExitReason.OVER and bool(self._retained)
        return ExitReason.LEFT if leaves and not kept else ExitReason.OVER


def _origin(assignment: Mapping[str, Any]) -> str:
    """Where its state comes from."""
    if assignment.get("brings"):
        return "with the state that it has"
    return (
        "its state comes from the swarm"
        if assignment["uninitialized"]
        else "from the first weights"
    )


class _Gone(BaseException):
    """Whoever started us wants us to end now."""


def _worker(resources: NodeResources, assignment: Mapping[str, Any]) -> StageWorker:
    seat = Address.parse(assignment["seat"])
    return StageWorker(
        seat, assignment["life"], resources.context, uninitialized=assignment["uninitialized"]
    )


# --- a node --------------------------------------------------------------------------------------


def join(workdir: Workdir, entry: JoinOptions, options: NodeOptions, say: Say) -> int:
    """Be a node of a run until it ends, or we are told to go. Returns the exit code. Raises
    BadInput or StartAgain."""
    run = _asked(workdir, entry)
    if told := render_clock(run):
        say(told)
    resources = prepared(run, options, say, entry.allow)
    lead = Peer.from_json(run["peer"])
    entry = replace(entry, lead=Place(lead.id, lead.addresses))
    return serve(workdir, entry, node_of(run, options, resources, entry.allow), resources, say)


def render_clock(run: Mapping[str, Any]) -> str:
    """How far this machine's clock is from the lead's, if that shows."""
    there = run.get("clock")
    if type(there) is not float or abs(ahead := time.time() - there) < CLOCKS_APART:
        return ""
    how = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {render_seconds(abs(ahead))} {how} the lead's, and so are the "
        "times of these lines; nothing else goes by it"
    )


def serve(
    workdir: Workdir, entry: JoinOptions, node: Node, resources: NodeResources, say: Say
) -> int:
    """As ``join``, once all is at hand."""
    _listen(entry.listen, node.room - 1)
    offered(PACKAGE, entry.allow)  # of the code that we run, whatever is installed later
    keep_for_forks()

    def main(slot: int, report: Report) -> int:
        own = replace(entry, listen=_listen(entry.listen, slot))
        told = say if node.room == 1 else (lambda text: say(f"[{slot}] {text}"))
        member = Member(workdir, own, node, resources, told, report)
        try:
            return CODES[member.run()]
        except BadInput as error:
            say(str(error))
            return REFUSED

    watched = entry.watched
    warned = None if watched is None else partial(_warned, workdir, watched, say)
    return Forks(main, node.room, say, warned).run()


def _warned(workdir: Workdir, watched: str, say: Say) -> bool:
    """Whether this machine is about to end; returns once that is known."""
    found = watch(watched, say)
    if found is None:
        return False
    within = "" if found.seconds is None else f" in {found.seconds:.0f} s"
    say(f"{found.why}: this node ends{within}, and hands on what it has")
    leave_deadline(workdir.path, found.seconds)
    return True


def _listen(address: str, slot: int) -> str:
    """Each process has a port of its own: the one that was given, and those after it. Raises
    BadInput if there is none."""
    base, _, port = address.rpartition("/")
    if int(port) + slot >= 1 << 16:
        raise BadInput(
            f"port {port} of --listen and those after it are fewer than {slot + 1} seats need: "
            "give a lower one, or less --seats"
        )
    return address if port == "0" else f"{base}/{int(port) + slot}"


def _asked(workdir: Workdir, entry: JoinOptions) -> Mapping[str, Any]:
    """What the lead tells of its run. Raises BadInput, or StartAgain if there is no lead now, or
    whoever was to ask it was killed each time."""
    for _ in range(ASK_AT_MOST):
        found = _asked_by_fork(workdir, entry)
        if found is not None:
            break
    else:
        raise StartAgain("the lead could not be asked: the process that was to ask it was killed")
    if "bad" in found:
        raise BadInput(found["bad"])
    if "missing" in found:
        raise StartAgain(found["missing"])
    run: dict[str, Any] = found["run"]
    return run


def _asked_by_fork(workdir: Workdir, entry: JoinOptions) -> dict[str, Any] | None:
    """Its answer: {"run": what}, {"bad": why not}, or {"missing": why it is not there}; None if it
    was killed. Whoever forks later must have no thread, and so leaves the talking to another."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        said: dict[str, Any] = {"bad": "the lead could not be asked"}
        try:
            faulthandler.enable()
            node = Node("asks", "asks")
            said = {"run": Member(workdir, entry, node, None, tell).inquire()}
        except NotFound as error:
            said = {"missing": str(error)}
        except BadInput as error:
            said = {"bad": str(error)}
        except KeyboardInterrupt:
            os._exit(0)  # whoever asked is told, too, or will be
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError), open(writer, "w", encoding="utf-8") as out:
                json.dump(said, out)
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def inquire(workdir: Workdir, entry: JoinOptions, options: NodeOptions) -> str:
    """That we could join, in words: the lead answers, and its run's data are here. Raises
    BadInput if not."""
    run = Member(workdir, entry, Node("asks", "asks"), None, lambda text: None).inquire()
    told: list[str] = []
    clock = f"; {found}" if (found := render_clock(run)) else ""
    resources = prepared(run, options, told.append, entry.allow)
    if not resources.reads:
        return f"its lead answers; this node {told[0]}{clock}"
    return f"its lead answers, and the data are here: {_told(run['data'])}{clock}"


def called_back(workdir: Workdir, entry: JoinOptions) -> str:
    """That others of the run can call us where we listen, in words. Raises BadInput if not."""
    member = Member(workdir, entry, Node("asks", "asks"), None, lambda text: None)
    found = member.inquire("called")
    apart = ", ".join(map(str, found["apart"]))
    if found["why"]:
        raise BadInput(
            f"the run can't call this machine ({found['why']}): a node here calls others, and is "
            "not seated beside another that can't be called; give --listen HOST:PORT with a port "
            "that is open to them"
        )
    callers = f"the lead and {found['callers']} members" if found["callers"] else "the lead"
    if apart:
        raise BadInput(f"{callers} tried; {apart} and this machine can't reach each other")
    return f"{callers} can call it"


def status(workdir: Workdir, entry: JoinOptions) -> Mapping[str, Any]:
    """How the run goes, as its lead says. Raises BadInput."""
    return Member(workdir, entry, Node("asks", "asks"), None, lambda text: None).inquire("status")


def links(
    workdir: Workdir, entry: JoinOptions, until: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """What the lines between the run's machines carry, measured now. Raises BadInput, or what
    ``until`` raises."""
    member = Member(workdir, entry, Node("asks", "asks"), None, lambda text: None)
    return member.inquire("links", until)


def join_here(
    workdir: Workdir,
    assignment: Mapping[str, Any],
    resources: NodeResources,
    frame: JoinServerConfig,
    count: int,
) -> int:
    """A fork on the lead's own machine, that is a node as any joiner: assignment["node"] says with
    how many seats at most (0: all, of which there are ``count``). Its exit code."""
    lead, host = Peer.from_json(assignment["peer"]), frame.invitation.host
    place = Place(lead.id, best_first(lead.addresses)[-1:] or lead.addresses)
    own = tuple(sorted(packages_of(frame.release)))
    entry = JoinOptions(place, frame.invitation.secret, listen_address(host, 0), allow=own)
    folder = JoinerWorkdir(workdir.path, frame.invitation.secret)
    asked = assignment["node"]
    host, room = asked["host"] or NodeOptions().host, asked["room"] or count
    node = Node(secrets.token_hex(8), host, room=room, reserve=asked["reserve"])
    return serve(folder, entry, node, resources, tell)
