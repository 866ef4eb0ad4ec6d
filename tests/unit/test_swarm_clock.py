"""The time that a run's members agree upon, whatever their own clocks say."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.runtime.swarm.joining.clock import CLOCK_PROTOCOL, SwarmClock
from checkfree.runtime.swarm.joining.records import TTL
from checkfree.runtime.swarm.transport.addresses import Place
from checkfree.session.swarm.member import render_clock
from tests.peers import id_of


class Line:
    """A writer whose other end is read at once."""

    def __init__(self, reader: asyncio.StreamReader):
        self.write, self._eof = reader.feed_data, reader.feed_eof

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class Net:
    """Endpoints that call each other by their ids; ``lies`` answers instead of a clock."""

    def __init__(self) -> None:
        self.served: dict[str, Callable[..., Any]] = {}
        self.lies: dict[str, bytes] = {}

    async def call(self, id: str, addresses: Sequence[str], name: str) -> tuple[Any, Any]:
        assert name == CLOCK_PROTOCOL
        reader = asyncio.StreamReader()
        if id in self.lies:
            reader.feed_data(self.lies[id])
            reader.feed_eof()
        elif id not in self.served:
            raise ConnectionRefusedError
        else:
            await self.served[id]("", None, Line(reader))
        return reader, Line(reader)


class End:
    def __init__(self, net: Net, name: str):
        self.net, self.place = net, Place(id_of(name), ("/ip4/192.0.2.1/tcp/1",))
        self.call = net.call

    async def offer(self, name: str, serve: Callable[..., Any]) -> None:
        assert name == CLOCK_PROTOCOL
        self.net.served[self.place.id] = serve


@pytest.fixture
def walls(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock on the wall, so many seconds ahead of the right one."""
    right = time.time

    def set_ahead(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: right() + seconds)

    return set_ahead


def made(net: Net, name: str) -> tuple[SwarmClock, Place]:
    end = End(net, name)
    clock = SwarmClock(end)  # type: ignore[arg-type]
    asyncio.run(clock.serve())
    return clock, end.place


@pytest.mark.parametrize("ahead", [45, -45, 600, -600, 86400, -86400])
def test_whoever_comes_takes_the_time_that_it_finds(
    walls: Callable[[float], None], ahead: float
) -> None:
    net = Net()
    first, place = made(net, "first")
    walls(ahead)
    clock, second = made(net, "second")
    assert abs(clock.now() - first.now()) > TTL
    asyncio.run(clock.agree([place]))
    assert abs(clock.now() - first.now()) < 0.5
    walls(0)  # it is put right in the middle of the run
    assert abs(clock.now() - first.now()) < 0.5
    third, _ = made(net, "third")
    asyncio.run(third.agree([second]))  # by a member
    assert abs(third.now() - first.now()) < 0.5


def test_where_nobody_answers_it_stays(walls: Callable[[float], None]) -> None:
    clock, _ = made(Net(), "alone")
    before = clock.now()
    asyncio.run(clock.agree([]))
    asyncio.run(clock.agree([Place(id_of("nobody"), ("/ip4/192.0.2.1/tcp/1",))]))
    assert abs(clock.now() - before) < 0.5
    assert abs(clock.now() - time.time()) < 0.5


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 7, *(struct.pack(">d", t) for t in (math.nan, math.inf, -math.inf))]
)
def test_what_is_no_time_is_not_taken(answer: bytes) -> None:
    net = Net()
    net.lies[id_of("liar")] = answer
    clock, _ = made(net, "us")
    before = clock.now()
    asyncio.run(clock.agree([Place(id_of("liar"), ("/ip4/192.0.2.1/tcp/1",))]))
    assert abs(clock.now() - before) < 0.5


def test_one_of_several_that_is_off_does_not_count(walls: Callable[[float], None]) -> None:
    net = Net()
    places = [made(net, f"member {number}")[1] for number in range(2)]
    walls(1e6)
    places.append(made(net, "off")[1])
    walls(0)
    clock, _ = made(net, "us")
    asyncio.run(clock.agree(places))
    assert abs(clock.now() - time.time()) < 0.5


def test_hivemind_goes_by_it(walls: Callable[[float], None]) -> None:
    """Every module of its DHT that looks at a clock."""
    clock, _ = made(Net(), "us")
    walls(600)
    looks = [
        module.get_dht_time
        for name, module in list(sys.modules.items())
        if name.startswith("hivemind.dht.") or name == "hivemind.utils.timed_storage"
        if hasattr(module, "get_dht_time")
    ]
    assert len(looks) >= 4
    assert all(abs(look() - clock.now()) < 0.5 for look in looks)


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        *((0, ""), (9, ""), (-9, ""), (45.04, "45.0 s ahead of the lead's")),
        *((-600.04, "10 min 0 s behind the lead's"), (86400.2, "24 h 0 min ahead of the lead's")),
    ],
)
def test_a_clock_that_is_off_is_told_of(ahead: float, told: str) -> None:
    said = render_clock({"clock": time.time() - ahead})
    assert told in said and (bool(said) == bool(told))
    assert render_clock({}) == render_clock({"clock": "noon"}) == ""
