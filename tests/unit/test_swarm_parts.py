"""What the swarm decides, without processes, streams or clocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address, Location
from checkfree.core.records import EndRecord, Record, ResumeRecord, dumps
from checkfree.messages.control import Due, Joined, Lost, Message, Struck
from checkfree.messages.recorded import read_record
from checkfree.runtime.swarm.faults import RealFaults
from checkfree.runtime.swarm.presence.liveness import RETURN, FailureDetector, wait_for_return
from checkfree.runtime.swarm.presence.peer_table import NO_SHOWS, PeerTable
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.transport.frames import (
    PROTOCOL,
    BadFrame,
    Peer,
    check_hello,
    hello,
    read_notice,
)
from checkfree.runtime.tail import Tail
from tests.peers import id_of

ONE, TWO = Address(1), Address(2)
SECRET = b"secret"


def peer(seat: Address, life: int = 0) -> Peer:
    return Peer(seat, life, id_of(f"{seat}-{life}"), ("/ip4/127.0.0.1/tcp/1",))


class TwoSeats:
    """A peer table of two seats, and all that it said."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.announced: list[dict[str, Any]] = []
        self.ordered: list[tuple[Address, int, bool]] = []
        self.peer_table = PeerTable(
            [(ONE, 0), (TWO, 0)],
            self.told.append,
            self.announced.append,
            lambda seat, life, uninitialized, why: self.ordered.append((seat, life, uninitialized)),
        )

    def start(self) -> PeerTable:
        for seat in (ONE, TWO):
            self.peer_table.arrived(peer(seat))
        assert self.peer_table.complete
        self.peer_table.started = True
        return self.peer_table


# --- peer table ----------------------------------------------------------------------------------


def test_a_loss_is_told_once_and_replaced() -> None:
    two = TwoSeats()
    peer_table = two.start()
    assert peer_table.gone(ONE, 0, "its stream ended")
    assert not peer_table.gone(ONE, 0, "it was silent")
    assert two.told == [Lost(ONE, 0)]
    assert two.ordered == [(ONE, 1, True)]
    peer_table.arrived(peer(ONE, 0))  # the dead do not come back
    assert not peer_table.complete
    peer_table.arrived(peer(ONE, 1))
    assert two.told[1:] == [Joined(ONE, 1)]
    peer_table.gone(TWO, 0, "")
    peer_table.arrived(peer(TWO, 1), at=Location("attic"))
    assert two.told[-1] == Joined(TWO, 1, at=Location("attic"))
    known = [Peer.from_json(plain) for plain in two.announced[-1]["peers"]]
    assert set(known) == {peer(ONE, 1), peer(TWO, 1)}


def test_who_dies_before_the_start_is_replaced_by_one_that_is_initialized() -> None:
    two = TwoSeats()
    two.peer_table.gone(ONE, 0, "")
    assert (two.told, two.ordered) == ([], [(ONE, 1, False)])


def test_a_seat_that_nobody_reaches_is_hopeless() -> None:
    two = TwoSeats()
    peer_table = two.start()
    for life in range(1 + NO_SHOWS):
        peer_table.gone(ONE, life, "")
        assert peer_table.hopeless() is None
    peer_table.gone(ONE, 1 + NO_SHOWS, "")
    assert peer_table.hopeless() == ONE


# --- faults --------------------------------------------------------------------------------------


def test_faults_answer_when_all_that_they_struck_are_replaced() -> None:
    two, killed = TwoSeats(), []
    peer_table = two.start()
    faults = RealFaults(
        peer_table,
        lambda tick, seats: killed.append((tick, *seats)),
        lambda tick: (ONE, TWO) if tick == 3 else (),
        struck=(2,),
    )
    faults.deliver(Due(0, 3))
    assert faults.advance() == []
    assert killed == [(3, (ONE, 0), (TWO, 0))]
    assert faults.advance() is None
    for seat in (ONE, TWO):
        peer_table.gone(seat, 0, "")
        assert faults.advance() is None
        peer_table.arrived(peer(seat, 1))
    struck = Struck(0, 3, ((ONE, 0), (TWO, 0)), ((ONE, 1), (TWO, 1)))
    assert faults.advance() == [(LEAD, struck)]
    faults.deliver(Due(2, 3))  # once a tick
    faults.advance()
    assert faults.advance() == [(LEAD, Struck(2, 3))]


def test_faults_are_asked_by_what_is_due_alone() -> None:
    faults = RealFaults(TwoSeats().start(), lambda tick, seats: None, lambda tick: (ONE,))
    faults.deliver(Struck(0, 0))
    assert faults.advance() is None


def test_a_replacement_that_dies_on_its_way_is_waited_for_again() -> None:
    two = TwoSeats()
    peer_table = two.start()
    faults = RealFaults(peer_table, lambda tick, seats: None, lambda tick: (ONE,))
    faults.deliver(Due(0, 0))
    faults.advance()
    peer_table.gone(ONE, 0, "")
    peer_table.gone(ONE, 1, "")
    peer_table.arrived(peer(ONE, 1))
    assert faults.advance() is None
    peer_table.arrived(peer(ONE, 2))
    assert faults.advance() == [(LEAD, Struck(0, 0, ((ONE, 0),), ((ONE, 2),)))]


# --- liveness ------------------------------------------------------------------------------------


def test_two_that_end_one_after_the_other_are_waited_for_within_what_one_loss_may_cost() -> None:
    assert 2 * wait_for_return(1.5, 0.0) <= 1.5
    assert wait_for_return(1.5, 0.6) == pytest.approx(1.35)  # a way of a tenth of a second
    assert wait_for_return(4.0, 0.0) == wait_for_return(20.0, 0.0) == RETURN


def test_who_is_far_or_slow_is_waited_for_longer() -> None:
    assert wait_for_return(1.5, 6.0) == pytest.approx(6.75)  # a round trip of a second, not cut off
    assert wait_for_return(60.0, 0.0) == pytest.approx(6.0)  # machines that stall for seconds


def test_silence_is_noticed() -> None:
    detector, heard = FailureDetector(1.0, 0.0), {peer(ONE): 0.0, peer(TWO): 0.0}
    for tenth in range(1, 11):
        heard[peer(TWO)] = tenth / 10
        assert detector.silent(heard, tenth / 10) == []
    assert detector.silent(heard, 1.1) == [peer(ONE)]


def test_time_that_we_were_away_is_nobodys_silence() -> None:
    detector, heard = FailureDetector(1.0, 0.0), {peer(ONE): 0.0}
    assert detector.silent(heard, 0.1) == []
    assert detector.silent(heard, 3600.0) == []
    assert detector.silent(heard, 3600.5) == []
    for tenth in (6, 7, 8, 9, 10):
        assert detector.silent(heard, 3600 + tenth / 10) == []
    assert detector.silent(heard, 3601.1) == [peer(ONE)]


# --- frames --------------------------------------------------------------------------------------


def test_a_hello_proves_itself_to_one_peer() -> None:
    told = hello(peer(ONE), "me", SECRET)
    assert check_hello(told, id_of("1.0-0"), "me", SECRET) == (peer(ONE), "control")
    told = hello(peer(ONE), "me", SECRET, "data")
    assert check_hello(told, id_of("1.0-0"), "me", SECRET)[1] == "data"


@pytest.mark.parametrize(
    ("change", "sender", "receiver"),
    [
        ({}, "1.0-0", "another"),
        ({}, "2.0-0", "me"),
        ({"proof": "0" * 64}, "1.0-0", "me"),
        ({"proof": None}, "1.0-0", "me"),
        ({"stream": "data"}, "1.0-0", "me"),
        ({"proof": "é"}, "1.0-0", "me"),
        ({"hello": replace(peer(ONE), life=1).to_json()}, "1.0-0", "me"),
        ({"hello": None}, "1.0-0", "me"),
        ({"hello": [1, 2, 3, 4]}, "1.0-0", "me"),
        ({"protocol": PROTOCOL + 1}, "1.0-0", "me"),
    ],
)
def test_a_hello_that_proves_nothing(change: dict[str, Any], sender: str, receiver: str) -> None:
    told = {**hello(peer(ONE), "me", SECRET), **change}
    with pytest.raises(BadFrame):
        check_hello(told, id_of(sender), receiver, SECRET)
    with pytest.raises(BadFrame):
        check_hello(hello(peer(ONE), "me", b"guess"), id_of("1.0-0"), "me", SECRET)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 10000])
def test_what_is_no_notice(data: bytes) -> None:
    with pytest.raises(BadFrame):
        read_notice(data)


# --- workdir -------------------------------------------------------------------------------------


def test_one_launcher_at_a_time(tmp_path: Path) -> None:
    workdir = Workdir.of(tmp_path / "run")
    assert not workdir.alive
    with workdir.owned():
        assert workdir.alive
        with pytest.raises(BadInput, match="being trained"), Workdir.of(tmp_path / "run").owned():
            pass
        workdir.create()
        assert workdir.secret() != b""
        assert workdir.path.stat().st_mode & 0o77 == 0
        workdir.clear(keep_logs=False)
    assert not workdir.alive
    assert not (tmp_path / "run").exists()


# --- tail ----------------------------------------------------------------------------------------


def test_records_are_handed_on_once_and_whole(tmp_path: Path) -> None:
    seen: list[Record] = []
    tail, path = (
        Tail(tmp_path, lambda record: seen.append(read_record(record))),
        tmp_path / "records.jsonl",
    )
    one, two = ResumeRecord(3, 4), EndRecord("done", 1, 1, recoveries=[])
    tail()
    first, second = (dumps(record).encode() + b"\n" for record in (one, two))
    path.write_bytes(first + second[:9])
    tail()
    assert seen == [one]
    path.write_bytes(first + second)
    tail()
    tail()
    assert seen == [one, two]
