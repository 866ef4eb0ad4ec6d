"""Who is let in by the join server, and believed to sit where: streams without a network."""

from __future__ import annotations

import asyncio
import json
import queue
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("hivemind", reason="hivemind is not installed")

from hivemind.dht.validation import DHTRecord
from hivemind.utils import MSGPackSerializer

from checkfree.config.load import load, to_tree
from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address, Source
from checkfree.messages import codec
from checkfree.messages.control import Commit, Message, StateRequest, Ticket
from checkfree.runtime.disk_log import DiskLog
from checkfree.runtime.swarm.joining.discovery import _Signed
from checkfree.runtime.swarm.joining.handshake import application, hear, is_proven, signed
from checkfree.runtime.swarm.joining.join_sessions import JoinSessions, JoinTerms
from checkfree.runtime.swarm.joining.records import MemberRecord, run_key, sign
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.presence.peer_table import PeerTable
from checkfree.runtime.swarm.transport.frames import (
    PROTOCOL,
    BadFrame,
    Peer,
    hello,
    notice_frame,
)
from checkfree.runtime.swarm.transport.lanes import Lane
from checkfree.runtime.swarm.transport.network_thread import JoinRequest
from checkfree.runtime.swarm.transport.streams import Endpoint
from checkfree.session import log_disk
from checkfree.session.job import of_config
from checkfree.session.memory import FIRST_BYTES
from checkfree.session.swarm import member
from checkfree.session.swarm.launched import _seats_here, device_here
from checkfree.session.swarm.member import NodeOptions, StartAgain, node_of, prepared
from checkfree.worker import StageWorker
from checkfree.worker.log import SentLog
from tests.peers import id_of
from tests.process.command import prepare
from tests.unit.entrance import Entrance

SECRET, OTHER = bytes(range(16)), bytes(16)
NODE = Node("n", "host")
RELEASE = {"checkfree": "1.2", "code": "abc"}
ONE, TWO = Address(1), Address(2)


class Line:
    """A stream's writer, which the other side has left; ``reader`` gets what is written."""

    transport = SimpleNamespace(is_closing=lambda: True)

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()

    def write(self, data: bytes) -> None:
        self.reader.feed_data(data)

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.reader.feed_eof()


# --- applications --------------------------------------------------------------------------------


class LeadState:
    """What a join server has of its network thread."""

    def __init__(self) -> None:
        self.endpoint = SimpleNamespace(id="lead", refused=Counter())
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.loop = asyncio.get_running_loop()

    def visits(self) -> list[str]:
        found = []
        while not self.inbox.empty():
            visit = self.inbox.get()
            assert isinstance(visit, JoinRequest)
            found.append(visit.what)
        return found


def apply(*frames: bytes) -> tuple[list[dict[str, Any]], list[str], Mapping[str, int]]:
    """What somebody who says this, and leaves, is told; what the lead hears, and has counted."""

    async def talk() -> tuple[list[dict[str, Any]], list[str], Mapping[str, int]]:
        lead_state, line, theirs = LeadState(), Line(), asyncio.StreamReader()
        theirs.feed_data(b"".join(frames))
        theirs.feed_eof()
        terms = JoinTerms(SECRET, 1.0, RELEASE, lambda: {"config": {}})
        await JoinSessions(lead_state, terms)._serve("joiner", theirs, line)  # type: ignore[arg-type]
        line.close()
        told = []
        while not line.reader.at_eof():
            told.append(await hear(line.reader))
        return told, lead_state.visits(), lead_state.endpoint.refused

    return asyncio.run(talk())


def word(change: Mapping[str, Any], secret: bytes = SECRET) -> bytes:
    said = {**application(RELEASE, NODE), **change}
    return notice_frame(signed(secret, "joiner", "lead", said))


def test_who_belongs_here_is_told_of_the_run_and_listened_to() -> None:
    told, visits, refused = apply(word({}), notice_frame({"ready": True}))
    assert told[0]["welcome"].keys() == {"config", "clock"}
    assert is_proven(SECRET, "lead", "joiner", told[0])
    assert visits == ["ready", "left"]
    assert not refused


@pytest.mark.parametrize(
    ("said", "why"),
    [
        pytest.param(
            word({"protocol": PROTOCOL + 1}),
            f"speaks protocol {PROTOCOL}, not {PROTOCOL + 1}",
            id="protocol",
        ),
        pytest.param(word({}, OTHER), "wrong token", id="token"),
        pytest.param(word({"release": {**RELEASE, "checkfree": "1.3"}}), "==1.2", id="version"),
        pytest.param(word({"release": {**RELEASE, "code": "x"}}), "code that trains", id="code"),
    ],
)
def test_who_does_not_is_told_why_and_the_lead_hears_nothing(said: bytes, why: str) -> None:
    told, visits, refused = apply(said)
    assert [why in answer["refused"] for answer in told] == [True]
    assert visits == []
    assert refused == {"application": 1}


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x02" * 40, b"\xff" * 9000])
def test_rubbish_is_counted_and_not_answered(said: bytes) -> None:
    assert apply(said) == ([], [], {"application": 1})


@pytest.mark.parametrize(
    "facts",
    [
        *(None, [], {"cpu": 1}, {"cpu": "x" * 201}, {"cpu": "a\nb"}, {"\x1b": "a"}),
        {str(number): "a" for number in range(65)},
    ],
)
def test_what_is_no_fact_of_a_machine_is_no_application(facts: Any) -> None:
    assert apply(word({"equipment": facts})) == ([], [], {"application": 1})


def test_an_application_of_the_longest_kind_is_heard() -> None:
    """It has every address and every fact that one may have, as they are in practice."""
    many = {f"fact {number}": "x" * 60 for number in range(20)}
    at = [f"/ip6/2001:db8:1111:2222:3333:4444:5555:{n:x}/tcp/65535" for n in range(1, 17)]
    named = {f"model.family={number}": "0123456789ab" for number in range(40)}
    said = word({"equipment": many, "addresses": at, "release": {**named, **RELEASE}})
    told, visits, refused = apply(said, notice_frame({"ready": True}))
    assert "welcome" in told[0] and visits == ["ready", "left"] and not refused


def test_who_sits_down_is_told_what_sets_it_apart() -> None:
    entrance = Entrance()
    met: list[tuple[str, Mapping[str, str]]] = []

    def meet(peer: Peer, facts: Mapping[str, str]) -> list[tuple[str, str, str]]:
        met.append((peer.id, facts))
        return [("cpu", "AVX512", facts["cpu"])] if facts["cpu"] != "AVX512" else []

    entrance.join_server._met = meet
    for name, cpu in (("a", "AVX512"), ("b", "DEFAULT")):
        visitor = entrance.comes(name)
        entrance.join_server._visitors[name] = replace(visitor, equipment={"cpu": cpu})
        entrance.sits(name)
    assert met == [("a", {"cpu": "AVX512"}), ("b", {"cpu": "DEFAULT"})]
    assert {"differs": [["cpu", "AVX512", "DEFAULT"]]} in entrance.told["b"]
    assert not any("differs" in said for said in entrance.told["a"])


# --- other data ----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and its text."""
    monkeypatch.chdir(prepare(tmp_path))
    return tmp_path


@pytest.fixture
def run(here: Path) -> dict[str, Any]:
    """What the lead tells of its run."""
    config = load("small.yaml", [])
    job = of_config(config, Path(), ())
    config = replace(config, model=replace(config.model, vocabulary=job.vocabulary))
    return {"config": to_tree(config), "data": json.loads(json.dumps(job.data))}


def test_the_run_s_data_wherever_they_are(run: dict[str, Any]) -> None:
    Path("text.txt").rename("elsewhere.txt")
    resources = prepared(run, NodeOptions(data="elsewhere.txt"))
    assert (resources.threads, resources.reads) == (1, True)


def test_a_run_has_a_vocabulary(run: dict[str, Any]) -> None:
    run["config"]["model"]["vocabulary"] = None
    with pytest.raises(BadInput, match=r"no model\.vocabulary"):
        prepared(run, NodeOptions())


OTHERS = [("other words " * 500, "the data here are text"), (None, "text.txt")]


@pytest.mark.parametrize(("text", "why"), OTHERS)
def test_without_the_run_s_data_a_node_has_every_seat_but_stage_0(
    run: dict[str, Any], text: str | None, why: str
) -> None:
    Path("text.txt").unlink()
    if text is not None:
        Path("text.txt").write_text(text)
    told: list[str] = []
    resources = prepared(run, NodeOptions(), told.append)
    assert not resources.reads and why in told[0] and "--data-path" in told[0]
    assert not node_of(run, NodeOptions(seats=1), resources).reads
    with pytest.raises(BadInput, match="--data-path"):  # those that are named have to be
        prepared(run, NodeOptions(data="text.txt" if text else "nowhere.txt"))


def test_devices_are_the_node_s(run: dict[str, Any]) -> None:
    run["config"]["devices"] = ["cuda"]
    with pytest.raises(BadInput, match="--device cpu") as error:
        prepared(run, NodeOptions())
    assert "\n" not in str(error.value)
    assert prepared(run, NodeOptions(device="cpu")).reads
    with pytest.raises(BadInput, match="expected cpu or cuda:N"):
        prepared(run, NodeOptions(device="tpu"))


def test_a_node_that_lacks_the_disk_for_logs_has_no_seat(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine has its own folder of that name."""
    run["config"]["recovery"] = {"name": "replay", "log_path": "logs"}
    with pytest.raises(BadInput, match=r"recovery.log_path=logs: .*\(on this machine\)") as error:
        prepared(run, NodeOptions())
    assert "\n" not in str(error.value)
    Path("logs").mkdir()
    resources = prepared(run, NodeOptions())
    assert node_of(run, NodeOptions(seats=2), resources).room == 2
    monkeypatch.setattr(log_disk, "most_bytes", lambda log: 1 << 60)
    with pytest.raises(BadInput, match="for the logs of 2 seats"):
        node_of(run, NodeOptions(seats=2), resources)
    run["config"]["recovery"] = {"name": "auto", "log_memory": 0, "log_path": "nowhere"}
    assert prepared(run, NodeOptions()).reads


def test_a_node_has_its_logs_where_it_says(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another disk than the run's folder of that name, on none, or on one where the run has
    none; and what is wrong there names the option that mends it."""
    Path("here").mkdir()
    seat = Address(1)
    for theirs, ours, kind in (
        ("logs", "here", DiskLog),
        (None, "here", DiskLog),
        ("logs", "null", SentLog),
        ("here", None, DiskLog),
    ):
        run["config"]["recovery"] = {"name": "replay", "log_path": theirs}
        options = NodeOptions(seats=2, logs=ours)
        resources = prepared(run, options)
        assert node_of(run, options, resources).room == 2
        assert type(StageWorker(seat, 0, resources.context).replayable.log) is kind
    for gone in ("gone", "text.txt"):
        with pytest.raises(BadInput, match=rf"recovery.log_path={gone}: .*: give --log-path a f"):
            prepared(run, NodeOptions(logs=gone))
    monkeypatch.setattr(log_disk, "most_bytes", lambda log: 1 << 60)
    with pytest.raises(BadInput, match=r"=here: .* 2 seats.*give --log-path a folder on a larger"):
        node_of(run, NodeOptions(seats=2, logs="here"), resources)


def test_a_run_without_logs_needs_no_folder_for_them(run: dict[str, Any]) -> None:
    told: list[str] = []
    resources = prepared(run, NodeOptions(logs="gone"), told.append)
    assert told == ["nothing is written to gone: this run keeps no logs"]
    assert type(StageWorker(Address(1), 0, resources.context).replayable.log) is SentLog


def test_a_node_counts_its_seats_by_where_its_logs_are(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk they take no memory but an iteration."""
    Path("here").mkdir()
    run["config"] |= {"recovery": {"name": "replay", "log_memory": 1 << 40}, "iterations": 10**7}
    monkeypatch.setattr(member, "available", lambda: 1 << 34)
    monkeypatch.setattr(log_disk, "most_bytes", lambda log: 0)
    resources = prepared(run, NodeOptions())
    with pytest.raises(StartAgain, match="not enough memory now"):
        node_of(run, NodeOptions(), resources)
    assert node_of(run, NodeOptions(logs="here"), resources).room == 5


def test_a_lead_needs_no_disk_for_logs_but_those_of_its_own_nodes() -> None:
    assert _seats_here({}, 5) == 5
    for rooms, count in (((), 0), ((1, 1), 2), ((0,), 5), ((3, 3), 5)):
        order = {"join_server": {"host": None}, "workers": [{"room": room} for room in rooms]}
        assert _seats_here(order, 5) == count


def test_a_lead_needs_no_device_of_its_run(here: Path) -> None:
    """Its nodes bring their own; the run's configuration says what the run was asked for."""
    config = load("small.yaml", ["devices=[cuda]"])
    job = of_config(config, Path(), ())
    if not torch.cuda.device_count():
        with pytest.raises(BadInput, match="CUDA devices"):
            job.worker_context.make(1, 1)
        assert device_here(config) == "cpu"
    assert device_here(load("small.yaml", [])) == "cpu"
    local = replace(job, devices=("cpu",))
    assert next(local.worker_context.make(1, 1).module.parameters()).device.type == "cpu"
    assert local.config.devices == ("cuda",)


def test_one_seat_on_a_gpu(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resources = prepared(run, NodeOptions())
    monkeypatch.setattr(member, "available", lambda: 1 << 50)
    run["config"]["devices"] = ["cuda:1"]
    assert node_of(run, NodeOptions(), resources).room == 1
    assert node_of(run, NodeOptions(device="cpu"), resources).room > 1


def test_how_many_seats_a_node_takes(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resources = prepared(run, NodeOptions())
    assert node_of(run, NodeOptions(seats=0), resources).reserve
    assert node_of(run, NodeOptions(seats=3, host="h", zone="z"), resources).room == 3
    for free, room in ((1 << 50, 5), (FIRST_BYTES + (400 << 20), 1)):
        monkeypatch.setattr(member, "available", lambda free=free: free)
        assert node_of(run, NodeOptions(), resources).room == room
    monkeypatch.setattr(member, "available", lambda: 1 << 20)
    with pytest.raises(StartAgain, match="not enough memory now"):
        node_of(run, NodeOptions(), resources)


# --- records -------------------------------------------------------------------------------------


def test_records_that_prove_nothing_are_counted() -> None:
    refused: Counter[str] = Counter()
    member = MemberRecord(run_key(SECRET), peer(ONE), 100.0)
    for value in (sign(member, OTHER), b"rubbish", sign(member, SECRET)):
        record = DHTRecord(b"key", b"", MSGPackSerializer.dumps(value), 100.0)
        _Signed(SECRET, refused).validate(record)
    assert not _Signed(SECRET, refused).validate(DHTRecord(b"key", b"", b"\xc1", 100.0))
    assert refused == {"record forged": 1, "record malformed": 2}


# --- who sits where ------------------------------------------------------------------------------


def peer(seat: Address, life: int = 0, name: str = "") -> Peer:
    return Peer(seat, life, id_of(name or f"{seat}-{life}"), ("/ip4/127.0.0.1/tcp/1",))


class Ear:
    """What an endpoint tells."""

    def __init__(self) -> None:
        self.opened_by: list[Peer] = []

    def opened(self, peer: Peer) -> None:
        self.opened_by.append(peer)

    def _nothing(self, *said: object) -> None:
        pass

    heard = closed = answered = message = notice = broken = drained = _nothing


def greet(
    prepare: Callable[[Endpoint], None], *callers: Peer
) -> tuple[dict[Address, Peer], Endpoint, Ear]:
    """After these have called an endpoint in turn: where it sends what is for a seat."""

    async def talk() -> tuple[dict[Address, Peer], Endpoint, Ear]:
        ear = Ear()
        endpoint = Endpoint(SECRET, ear, codec.Limits())  # type: ignore[arg-type]
        endpoint.me = peer(Address(3), name="us")
        prepare(endpoint)
        for caller in callers:
            reader = asyncio.StreamReader()
            reader.feed_data(notice_frame(hello(caller, id_of("us"), SECRET)))
            reader.feed_eof()
            info = SimpleNamespace(peer_id=SimpleNamespace(to_base58=lambda c=caller: c.id))
            await endpoint._serve(info, reader, Line())  # type: ignore[arg-type]
        known = {seat: link.peer for seat, link in endpoint._links.items()}
        await endpoint.close()
        return known, endpoint, ear

    return asyncio.run(talk())


def test_a_member_believes_the_lead_alone_of_who_sits_where() -> None:
    """Whoever claims a later life of a seat is heard, and sent nothing."""
    lead, claims = peer(LEAD, 0, "lead"), peer(ONE, 9, "mallory")
    known, _, ear = greet(lambda endpoint: endpoint.learn(peer(ONE)), lead, claims)
    assert known == {LEAD: lead, ONE: peer(ONE)}
    assert ear.opened_by == [lead, claims]


def test_a_lead_with_one_name_has_no_successor_with_another() -> None:
    lead, next_, claims = peer(LEAD, 0, "lead"), peer(LEAD, 1, "lead"), peer(LEAD, 2, "mallory")

    def named(endpoint: Endpoint) -> None:
        endpoint.lead_id = id_of("lead")

    known, endpoint, _ = greet(named, lead, claims, next_)
    assert known == {LEAD: next_}
    assert endpoint.refused == {"stranger": 1}
    known, _, _ = greet(lambda endpoint: None, lead, claims)
    assert known == {LEAD: claims}


def test_the_lead_believes_who_is_awaited() -> None:
    def ignore(*said: object) -> None:
        pass

    peer_table = PeerTable([(ONE, 0), (TWO, 4)], ignore, ignore, ignore)
    peer_table.arrived(peer(ONE))

    def lead(endpoint: Endpoint) -> None:
        endpoint.vouched = peer_table.awaits
        endpoint.learn(peer(ONE))

    mallory = [peer(ONE, 7, "m"), replace(peer(ONE), id="m"), peer(TWO, 3, "m"), peer(TWO, 5, "m")]
    known, _, _ = greet(lead, *mallory, peer(TWO, 4))
    assert known == {ONE: peer(ONE), TWO: peer(TWO, 4)}
    peer_table.gone(ONE, 0, "killed")
    assert peer_table.awaits(peer(ONE, 1))
    assert not peer_table.awaits(peer(ONE, 0))


# --- who can't reach whom ------------------------------------------------------------------------


class Link:
    """To a peer; what is put there, by where it is for."""

    def __init__(self, to: Peer):
        self.peer, self.put_there = to, list[tuple[Address, Message]]()

    def put(self, lane: Lane, to: Address, parts: Any) -> None:
        self.put_there.append((to, codec.decode(b"".join(parts))))

    def notify(self, frame: bytes) -> None:
        pass

    def cancel(self) -> None:
        pass


def linked(me: Address, *others: Peer) -> tuple[Endpoint, dict[Address, Link], list[Message]]:
    """An endpoint with links to these, and what is heard there."""
    heard: list[Message] = []
    ear = SimpleNamespace(
        message=lambda to, message: heard.append(message),
        **dict.fromkeys(("notice", "broken", "drained"), print),
    )
    endpoint = Endpoint(SECRET, ear, codec.Limits())  # type: ignore[arg-type]
    endpoint.me = peer(me)
    links = {other.seat: Link(other) for other in others}
    endpoint._links = links  # type: ignore[assignment]
    return endpoint, links, heard


def encoded(message: Message) -> memoryview:
    return memoryview(bytearray(b"".join(codec.encode(message))))


def test_a_lead_passes_on_what_two_say_to_each_other_and_nothing_else() -> None:
    one, two, three = peer(ONE), peer(TWO), peer(Address(3))
    endpoint, links, heard = linked(LEAD, one, two, three)
    endpoint.relay(one, two)
    said = StateRequest(1, ONE, Source(TWO, 2, 5))
    endpoint.delivered(one, TWO, encoded(said))
    assert links[TWO].put_there == [(TWO, said)]
    assert list(endpoint.relays.values()) == [len(encoded(said))]
    endpoint.delivered(three, TWO, encoded(said))  # these two can reach each other
    endpoint.delivered(
        one, TWO, encoded(Commit(Ticket(0, 0), {}))
    )  # nobody but a lead may say that
    assert len(links[TWO].put_there) == 1
    assert heard == [said]
    assert endpoint.refused == {"impostor": 1}


def test_who_cant_be_reached_is_sent_what_it_is_sent_by_the_lead() -> None:
    """As long as it is of that life, and only if the lead says so."""
    lead, one, two = peer(LEAD), peer(ONE), peer(TWO)
    endpoint, links, _ = linked(Address(3), lead, one, two)
    said = StateRequest(1, Address(3), Source(TWO, 2, 5))
    endpoint.noticed(one, {"relay": two.to_json()})
    endpoint.noticed(lead, {"relay": peer(TWO, 7).to_json()})
    for plain in ("rubbish", ["2.0"], None):
        with pytest.raises(BadFrame):
            endpoint.noticed(lead, {"relay": plain})
    endpoint.send(TWO, Lane.CONTROL, codec.encode(said))
    assert [len(links[seat].put_there) for seat in (LEAD, TWO)] == [0, 1]
    endpoint.noticed(lead, {"relay": two.to_json()})
    endpoint.send(TWO, Lane.CONTROL, codec.encode(said))
    assert links[LEAD].put_there == [(TWO, said)]
    links[TWO].peer = peer(TWO, 1)
    endpoint.send(TWO, Lane.CONTROL, codec.encode(said))
    assert len(links[TWO].put_there) == 2


def test_who_is_known_not_to_be_reached_is_sent_nothing_from_the_first_word_on() -> None:
    """Also what was to be sent before anybody knew where it sits."""
    lead, two = peer(LEAD), peer(TWO)
    endpoint, links, _ = linked(Address(3), lead)
    said = StateRequest(1, Address(3), Source(TWO, 2, 5))

    async def work() -> None:
        endpoint.send(TWO, Lane.CONTROL, codec.encode(said))
        endpoint.noticed(lead, {"relay": two.to_json()})
        endpoint.learn(two)
        endpoint.send(TWO, Lane.CONTROL, codec.encode(said))

    asyncio.run(work())
    assert links[LEAD].put_there == [(TWO, said)] * 2
    assert endpoint.goes_by_lead(two)
    assert not endpoint.goes_by_lead(peer(TWO, 1))
