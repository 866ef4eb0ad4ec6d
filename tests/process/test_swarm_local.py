"""What two processes of one machine say to each other past their libp2p daemons: real daemons, real
sockets, real kills."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("hivemind")

from checkfree.core.ops import Address
from checkfree.messages import codec
from checkfree.messages.control import Ticket
from checkfree.messages.tensors import Activation, Share
from checkfree.runtime.swarm.transport import local
from checkfree.runtime.swarm.transport.frames import FIRST_LANE, Peer, notice_frame, piece_frame
from checkfree.runtime.swarm.transport.lanes import LARGEST_PIECE, MOST_BEHIND, Lane
from checkfree.runtime.swarm.transport.links import Links
from checkfree.runtime.swarm.transport.network_thread import Delivered, NetworkThread, PeerEvent
from checkfree.runtime.swarm.transport.outbound import Opened
from tests.process.command import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux' sockets without a file")

SECRET = b"secret"
WITHIN = 60.0  # seconds
ONE, TWO = Address(1), Address(2)
LARGE = 1 << 26  # bytes: more than any socket holds


def message(number: int, count: int = 1 << 18) -> Activation:
    """1 MB, of which every number tells whose it is."""
    return Activation(Ticket(0, 0), number, 1, torch.arange(float(count)) * (number + 1))


@contextmanager
def opened(folder: Path, seat: Address, life: int = 0) -> Iterator[tuple[NetworkThread, Peer]]:
    folder.mkdir(exist_ok=True)
    network = NetworkThread(SECRET, codec.Limits())
    try:
        network.open(folder, folder / f"id-{life}")
        yield network, network.sit(seat, life)
    finally:
        network.close()


Pair = tuple[NetworkThread, NetworkThread, Peer]
"""Who sends, who receives, and what that is called."""
LIVES = itertools.count()


@pytest.fixture(scope="module")
def networks(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[NetworkThread, NetworkThread]]:
    folder = tmp_path_factory.mktemp("networks")
    with opened(folder / "1", ONE) as (one, _), opened(folder / "2", TWO) as (two, _):
        yield one, two


@pytest.fixture
def pair(networks: tuple[NetworkThread, NetworkThread]) -> Pair:
    """In a life of the receiver that is new to both."""
    one, two = networks
    two.endpoint.refused.clear()
    return one, two, two.sit(TWO, next(LIVES))


def wanted(network: NetworkThread, good: Callable[[Any], bool]) -> Any:
    """The first that is, of what comes in. Raises queue.Empty."""
    while not good(item := network.inbox.get(timeout=WITHIN)):
        pass
    return item


def delivered(network: NetworkThread) -> Any:
    return wanted(network, lambda item: isinstance(item, Delivered)).message


def is_event(item: Any, what: str) -> bool:
    return isinstance(item, PeerEvent) and item.what == what


def holds_message(network: NetworkThread) -> bool:
    """One has come and was not taken yet."""
    items = []
    while not network.inbox.empty():
        items.append(network.inbox.get())
    return any(isinstance(item, Delivered) for item in items)


def is_local(network: NetworkThread) -> bool:
    return network.endpoint._links[TWO]._data.flow.local


def exchange(one: NetworkThread, two: NetworkThread, second: Peer) -> None:
    """Ten messages, in order and as they were sent, between which nothing is twice."""
    one.learn(second)
    for number in range(10):
        one.send(TWO, message(number))
    for number in range(10):
        came = delivered(two)
        assert came.microbatch == number
        assert torch.equal(came.tensor, message(number).tensor)
    assert not two.endpoint.refused


def test_two_of_one_machine_need_no_daemon_for_what_is_large(pair: Pair) -> None:
    exchange(*pair)
    assert is_local(pair[0])
    assert not pair[1].endpoint._local._expected  # nobody may come with that token again


class Forgetful(dict[bytes, Peer]):
    """A server that answers, and lets nobody in."""

    def __setitem__(self, key: bytes, value: Peer) -> None:
        pass


@pytest.mark.parametrize(
    ("which", "attribute", "value"),
    [
        pytest.param(0, "endpoint._machine", "another", id="another machine"),
        pytest.param(0, "endpoint._machine", "", id="no such sockets"),
        pytest.param(0, "endpoint.links", Links.parse("3 4 latency=1ms"), id="emulated links"),
        pytest.param(1, "endpoint._local._name", b"", id="no server"),
        pytest.param(1, "endpoint._local._name", b"checkfree-of-nobody", id="nobody there"),
        pytest.param(1, "endpoint._local._expected", Forgetful(), id="not let in"),
    ],
)
def test_what_is_no_way_leaves_that_of_libp2p(
    which: int, attribute: str, value: Any, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    *owners, name = attribute.split(".")
    owner: Any = pair[which]
    for part in owners:
        owner = getattr(owner, part)
    monkeypatch.setattr(owner, name, value)
    exchange(*pair)
    assert not is_local(pair[0])


@pytest.mark.parametrize(
    ("name", "found"),
    [("getuid", lambda: 12345), ("stat", lambda path: SimpleNamespace(st_dev=1, st_ino=2))],
)
def test_another_user_or_network_is_another_machine(
    name: str, found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = local.machine(SECRET)
    assert ours == local.machine(SECRET) != local.machine(b"another run")
    with monkeypatch.context() as changed:
        changed.setattr(os, name, found)
        theirs = local.machine(SECRET)
    assert theirs and theirs != ours


# --- strangers -----------------------------------------------------------------------------------


def name_of(network: NetworkThread) -> bytes:
    return b"\0" + network.endpoint._local._name


def hung_up(caller: socket.socket) -> bool:
    try:
        while caller.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_who_was_told_no_token_is_nobody(pair: Pair) -> None:
    _, two, _ = pair
    for said in (bytes(local.TOKEN), os.urandom(local.TOKEN) + b"more"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(WITHIN)
            caller.connect(name_of(two))
            caller.sendall(said)
            assert hung_up(caller)


def malformed() -> Iterator[tuple[str, bytes]]:
    """Why each is refused, and what it says."""
    good = b"".join(map(bytes, codec.encode(message(0, 4))))
    yield "frame", piece_frame(Lane.DATA, TWO, LARGEST_PIECE + 1)
    yield "frame", piece_frame(Lane.DATA, TWO, 5) + good[:5]
    yield "frame", bytes([FIRST_LANE + len(Lane)]) + piece_frame(Lane.DATA, TWO, 20)[1:]
    yield "frame", notice_frame({})[:-2] + b"[]"
    yield "frame", piece_frame(Lane.DATA, TWO, len(good) + 1) + good + b"x"
    endless = bytearray(good)
    endless[8:16] = (1 << 62).to_bytes(8, "little")  # nobody takes memory for that
    yield "malformed", piece_frame(Lane.DATA, TWO, len(good)) + bytes(endless)
    wrong = good.replace(b'"float32",[4]', b'"float64",[4]')
    assert wrong != good
    yield "malformed", piece_frame(Lane.DATA, TWO, len(good)) + wrong


@pytest.mark.parametrize(("why", "said"), list(malformed()))
def test_what_is_malformed_is_refused(why: str, said: bytes, pair: Pair) -> None:
    one, two, second = pair

    async def say() -> None:
        stream: Opened = await one.endpoint.dial(second, "data")
        assert stream.local
        stream.writer.write(said)
        stream.writer.write_eof()
        await asyncio.wait_for(stream.reader.read(), WITHIN)  # until it is hung up on
        stream.writer.close()

    one.wait(say(), WITHIN)
    assert two.endpoint.refused[why] and not holds_message(two)


# --- kills ---------------------------------------------------------------------------------------


def large() -> Share:
    return Share(Ticket(0, 0), ONE, {"w": torch.ones(LARGE // 4)})


OTHER = """
import sys
from pathlib import Path
from checkfree.runtime.swarm.transport.frames import Peer
from tests.process.test_swarm_local import ONE, TWO, delivered, is_local, large, message, opened

what, folder = sys.argv[1], Path(sys.argv[2])
with opened(folder, ONE if what == "sends" else TWO, life=7) as (network, me):
    print(*me.addresses, me.id, flush=True)
    if what == "sends":
        network.learn(Peer(TWO, 0, sys.stdin.readline().strip(), tuple(sys.argv[3:])))
        network.notify(TWO, {"lives": True})  # its end is what tells of ours
        network.send(TWO, message(0))
        sys.stdin.readline()
        assert is_local(network)
        network.send(TWO, large())
        print("sent", flush=True)
    else:
        delivered(network)
        print("got it", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another(what: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OTHER, what, str(folder), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


@contextmanager
def held(network: NetworkThread) -> Iterator[None]:
    """Nobody reads what comes."""
    goes_on, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        goes_on.wait(WITHIN)

    network.loop.call_soon_threadsafe(hold)
    assert begun.wait(WITHIN)
    try:
        yield
    finally:
        goes_on.set()


def test_who_is_killed_in_the_middle_of_a_message_has_sent_none(tmp_path: Path) -> None:
    """And its stream ends, as it does by libp2p."""
    with (
        opened(tmp_path / "2", TWO) as (two, me),
        another("sends", tmp_path / "1", *me.addresses) as other,
    ):
        line(other)
        tell(other, me.id)
        assert delivered(two).microbatch == 0
        with held(two):
            tell(other, "go")
            assert line(other) == ["sent"]
            other.kill()
            other.wait()
        ended = wanted(two, lambda item: isinstance(item, Delivered) or is_event(item, "closed"))
        assert ended.peer.seat == ONE and ended.peer.life == 7
        assert not holds_message(two) and not two.endpoint.refused


async def sent_at_once(network: NetworkThread, count: int) -> None:
    """Nothing has left when this returns."""
    for _ in range(count):
        network.endpoint.send(TWO, Lane.DATA, codec.encode(large()))


async def begun(network: NetworkThread) -> None:
    """The first of two that were sent leaves."""
    while network.endpoint.behind()[0] >= 2 * LARGE:
        await asyncio.sleep(0.001)


def test_who_has_too_much_to_send_is_told_when_there_is_room(pair: Pair) -> None:
    one, two, second = pair
    exchange(*pair)
    with held(two):
        one.wait(sent_at_once(one, 2))
        one.wait(begun(one))
        assert one.endpoint.behind() > (MOST_BEHIND, TWO)  # the second, behind the first
        holds_message(one)  # the first had to wait too, for a moment
    assert wanted(one, lambda item: is_event(item, "drained")).peer == second
    for _ in range(2):
        assert torch.equal(delivered(two).tensors["w"], large().tensors["w"])
    assert one.endpoint.behind()[0] == 0


def test_a_link_that_is_over_is_not_full(pair: Pair) -> None:
    one, _, second = pair

    async def send_and_replace() -> None:
        one.endpoint.learn(second)
        await sent_at_once(one, 2)
        assert one.endpoint.behind() > (MOST_BEHIND, TWO)
        one.endpoint.learn(replace(second, life=next(LIVES)))
        assert one.endpoint.behind()[0] == 0

    one.wait(send_and_replace())
    assert wanted(one, lambda item: is_event(item, "drained")).peer == second


def test_whoever_sends_to_the_killed_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "1", ONE) as (one, _), another("takes", tmp_path / "2") as other:
        *addresses, name = line(other)
        peer = Peer(TWO, 7, name, tuple(addresses))
        one.learn(peer)
        one.send(TWO, message(0))
        assert line(other) == ["got", "it"]
        assert is_local(one)
        other.send_signal(signal.SIGSTOP)
        one.send(TWO, large())
        other.kill()
        assert wanted(one, lambda item: is_event(item, "broken")).peer == peer
        one.send(TWO, message(1))  # to the dead: dropped
        one.flush(WITHIN)
