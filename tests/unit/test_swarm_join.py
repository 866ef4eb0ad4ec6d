"""Who gets which seat, what is refused, and which records count: without processes or streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address, StateId
from checkfree.lead import note_of
from checkfree.messages.control import HANDOVER
from checkfree.messages.tensors import StageState
from checkfree.runtime.store import Store
from checkfree.runtime.swarm.joining.candidates import Candidate, Candidates
from checkfree.runtime.swarm.joining.handshake import application, is_proven, refusal, signed
from checkfree.runtime.swarm.joining.invitation import (
    Invitation,
    Register,
    given_token,
    join_line,
    parse_token,
)
from checkfree.runtime.swarm.joining.records import (
    LONGEST_TTL,
    TTL,
    BadRecord,
    MemberRecord,
    check,
    newest_lead,
    run_key,
    sign,
)
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.addresses import Place, best_first, parse_place
from checkfree.runtime.swarm.transport.frames import PROTOCOL, Peer
from checkfree.session.swarm.invitation import unused
from tests.tiny import MemoryFiles

SECRET, OTHER = bytes(range(16)), bytes(16)
ID = "QmXLUnTTk7GiZbu7rhvaDQ7R9ceX4sxKWF6z7mh37QWQH9"
RELEASE = {"checkfree": "1.2", "code": "abc"}
NODE = Node("n", "host")


# --- which seat ----------------------------------------------------------------------------------


class Pool:
    """Candidates, each a node of its own, and what each of them was told."""

    def __init__(self, taken: list[Address]):
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.candidates = Candidates(lambda: taken, lambda: {"peer": "lead"})

    def came(self, name: str, node: str = "", **more: Any) -> None:
        self.told[name] = []
        made = Node(node or name, node or name, room=3)
        tell = self.told[name].append
        self.candidates.came(Candidate(name, made, lambda notice: tell(dict(notice)), **more))

    def seat(self, name: str) -> str | None:
        assignments = [said["assignment"] for said in self.told[name] if "assignment" in said]
        return assignments[-1]["seat"] if assignments else None


def test_vacancies_are_taken_in_the_order_of_need_and_the_rest_stands_by() -> None:
    taken = [Address(0)]
    pool = Pool(taken)
    pool.candidates.order(Address(0, 1), 0, uninitialized=False)
    pool.candidates.order(Address(1), 3, uninitialized=True)
    for name in "abc":
        pool.came(name)
    assert [pool.seat(name) for name in "abc"] == ["1.0", "0.1", None]
    assignment = {"seat": "1.0", "life": 3, "uninitialized": True, "peer": "lead"}
    assert pool.told["a"] == [{"assignment": assignment}]
    pool.candidates.order(Address(1), 4, uninitialized=True)
    assert pool.seat("c") == "1.0"


def test_who_is_gone_on_the_way_is_told_and_who_stood_by_is_not() -> None:
    pool = Pool([])
    pool.came("a")
    pool.came("b")
    pool.candidates.order(Address(1), 0, uninitialized=False)
    assert pool.candidates.left("b") is None
    gone = pool.candidates.left("a")
    assert gone is not None and gone.seat == (Address(1), 0)
    pool.came("c")
    pool.candidates.order(Address(1), 1, uninitialized=False)
    pool.candidates.arrived("c", Address(1))
    assert pool.candidates.left("c") is None


def test_nobody_gets_a_seat_before_seats_are_given_away() -> None:
    pool = Pool([])
    pool.candidates.open = False
    for stage in range(3):
        pool.candidates.order(Address(stage), 0, uninitialized=False)
    for process in ("a1", "a2", "a3"):
        pool.came(process, node="a")
    pool.came("b1", node="b")
    assert pool.seat("a1") is None
    pool.candidates.started()
    seats = {name: pool.seat(name) for name in pool.told}
    assert seats["b1"] is not None
    assert len([seat for seat in seats.values() if seat]) == 3


def test_neighbours_get_machines_with_a_fast_line_between_them() -> None:
    pool = Pool([])
    pool.candidates.open = False
    pool.candidates.slow = frozenset(
        frozenset((one, other)) for one in ("a", "b") for other in ("x", "y")
    )
    for stage in range(4):
        pool.candidates.order(Address(stage), 0, uninitialized=False)
    for name in ("a", "x", "b", "y"):
        pool.came(name)
    pool.candidates.started()
    seats = {pool.seat(name): name for name in pool.told}
    assert [seats[f"{stage}.0"] for stage in range(4)] == ["a", "b", "x", "y"]


def test_who_brings_a_state_gets_its_seat() -> None:
    pool, state = Pool([Address(0)]), StateId(Address(1), 2, 7)
    pool.came("a")
    pool.candidates.standing_by["b"] = Candidate(
        "b", Node("b", "b"), pool.told.setdefault("b", []).append, state
    )
    pool.candidates.order(Address(1), 3, uninitialized=True)
    assert pool.seat("b") == "1.0" and pool.seat("a") is None
    assert pool.told["b"][-1]["assignment"]["brings"] == ["1.0", 2, 7]


def test_a_seat_of_the_fullest_node_and_its_heir() -> None:
    pool = Pool([Address(stage) for stage in range(3)])
    for stage in range(3):
        pool.candidates.order(Address(stage), 0, uninitialized=True)
        pool.came(f"a{stage}", node="a")
        pool.candidates.arrived(f"a{stage}", Address(stage))
    assert pool.candidates.better() is None
    pool.came("b")
    move = pool.candidates.better()
    assert move is not None and move.to == "b" and move.origin == "a"
    heir = pool.candidates.relieve(move.seat, leaving=["a"])
    assert heir is not None and (heir.id, heir.heir_to) == ("b", move.seat)
    pool.candidates.order(Address(2 if move.seat.stage != 2 else 1), 1, uninitialized=True)
    assert pool.seat("b") is None  # it stands by for another
    pool.candidates.order(move.seat, 1, uninitialized=True)
    assert pool.seat("b") == str(move.seat)
    late = pool.candidates.left("b")  # whoever dies now was no heir any more
    assert late is not None and (late.heir_to, late.seat) == (None, (move.seat, 1))


# --- join lines and tokens -----------------------------------------------------------------------


def test_a_join_line_reads_back() -> None:
    place = Place(ID, best_first(("/ip4/127.0.0.1/tcp/9", "/ip4/192.0.2.1/tcp/9")))
    _, _, _, address, _, token = join_line(place, SECRET).split()
    assert parse_place(address) == Place(ID, ("/ip4/192.0.2.1/tcp/9",))
    assert parse_token(token) == SECRET


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHECKFREE_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text(SECRET.hex() + "\n")
    assert given_token(None, file) == given_token(SECRET.hex(), None) == SECRET
    with pytest.raises(BadInput, match="give one of them"):
        given_token("x", file)
    with pytest.raises(BadInput, match="no token"):
        given_token(None, None)
    with pytest.raises(BadInput, match="can't be read"):
        given_token(None, tmp_path / "none")
    with pytest.raises(BadInput, match="expected 32") as error:
        given_token("secret", None)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("CHECKFREE_TOKEN", SECRET.hex())
    assert given_token(None, None) == SECRET


def test_an_invitation_and_a_register_are_read_back(tmp_path: Path) -> None:
    made = Invitation("0.0.0.0", 4001, SECRET)
    made.save(tmp_path / "invitation")
    assert (tmp_path / "invitation").stat().st_mode & 0o077 == 0
    assert Invitation.load(tmp_path / "invitation") == made
    assert Invitation.load(tmp_path / "none") is None
    register = Register(tmp_path / "members")
    assert register.read() == ()
    for port in (1, 2):
        register.add(Place(ID, (f"/ip4/192.0.2.1/tcp/{port}",)))
    assert register.read() == (Place(ID, ("/ip4/192.0.2.1/tcp/2",)),)


@pytest.mark.parametrize(
    "plain",
    [
        *({}, [], {"host": "0.0.0.0", "port": 4001}, {"host": "x", "port": 1, "secret": "00"}),
        *({"host": h, "port": p, "secret": "00"} for h, p in (("::%a", 1), ("::1", -1), (1, 1))),
    ],
)
def test_a_damaged_invitation_is_none(tmp_path: Path, plain: Any) -> None:
    (tmp_path / "invitation").write_text(json.dumps(plain))
    assert Invitation.load(tmp_path / "invitation") is None


@pytest.mark.parametrize(
    "plain",
    [
        *(
            {},
            [[ID]],
            [[ID, ["/ip4/300.1.1.1/tcp/1"]]],
            [[ID[:-1] + "O", ["/ip4/192.0.2.1/tcp/1"]]],
        ),
        *([[ID, "/ip4"]], [[1, ["/ip4/192.0.2.1/tcp/1"]]], [[ID, [1]]], 7, None),
    ],
)
def test_a_damaged_register_knows_nobody(tmp_path: Path, plain: Any) -> None:
    (tmp_path / "members").write_text(json.dumps(plain))
    assert Register(tmp_path / "members").read() == ()


# --- who may come in -----------------------------------------------------------------------------


def test_a_proof_is_good_for_one_pair_and_one_word() -> None:
    said = signed(SECRET, "a", "b", application(RELEASE, NODE))
    assert is_proven(SECRET, "a", "b", said)
    assert not is_proven(OTHER, "a", "b", said)
    assert not is_proven(SECRET, "b", "a", said)
    assert not is_proven(SECRET, "a", "c", said)
    assert not is_proven(SECRET, "a", "b", {**said, "was": ["1.0", 0]})
    assert not is_proven(SECRET, "a", "b", {**said, "proof": None})


@pytest.mark.parametrize(
    ("change", "known", "why"),
    [
        ({}, True, ""),
        ({"protocol": PROTOCOL + 1}, True, "speaks protocol"),
        ({}, False, "wrong token"),
        ({"release": {**RELEASE, "checkfree": "1.3"}}, True, "pip install checkfree==1.2"),
        ({"release": {**RELEASE, "code": "abd"}}, True, "code that trains"),
        ({"release": 7}, True, "led by checkfree"),
    ],
)
def test_who_is_refused(change: dict[str, Any], known: bool, why: str) -> None:
    told = refusal({**application(RELEASE, NODE), **change}, RELEASE, known)
    assert why in told
    assert bool(told) == bool(why)


# --- records -------------------------------------------------------------------------------------


def member(seat: Address = LEAD, life: int = 0, expires: float = 100 + TTL) -> MemberRecord:
    return MemberRecord(run_key(SECRET), Peer(seat, life, ID, ("/ip4/192.0.2.1/tcp/9",)), expires)


def test_a_record_reads_back() -> None:
    assert check(sign(member(), SECRET), SECRET, 100.0) == member()
    assert SECRET.hex() not in run_key(SECRET)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (sign(member(), OTHER), "forged"),
        (sign(member(), SECRET).replace(b"192", b"193"), "forged"),
        (sign(member(expires=99.0), SECRET), "expired"),
        (sign(member(expires=101 + LONGEST_TTL), SECRET), "expired"),
        (sign(MemberRecord("another", member().peer, 110.0), SECRET), "of another run"),
        (json.dumps([json.dumps({"run": 1}), ""]).encode(), "malformed"),
        (b"[" * 9000, "malformed"),
        (b"[" * 5000, "malformed"),
        (b"rubbish", "malformed"),
        (b"", "malformed"),
    ],
)
def test_records_that_do_not_count(data: bytes, kind: str) -> None:
    with pytest.raises(BadRecord) as error:
        check(data, SECRET, 100.0)
    assert error.value.kind == kind


@given(st.binary(max_size=200))
def test_any_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(BadRecord):
        check(data, SECRET, 100.0)


def test_the_lead_is_the_one_of_the_latest_life() -> None:
    assert newest_lead([]) is None
    assert newest_lead([member(Address(1), 7)]) is None
    last = member(life=2, expires=101.0)
    assert newest_lead([member(life=1), last, member(Address(1), 7)]) == last


# --- a lead that is started again ----------------------------------------------------------------


def test_what_was_handed_on_counts_until_its_stage_is_something_else() -> None:
    store, records = Store(MemoryFiles()), []
    for shelf, stage in ((3, 1), (5, 2)):
        handed = (StateId(Address(stage), 0, 9),)
        store.shelve(HANDOVER, shelf, {stage: state()}, note_of(handed, epoch=shelf))

    def counts() -> dict[int, int]:
        return {stage: place for stage, (_, place) in unused(store, records).items()}

    def plan(epoch: int, iteration: int = 9, **rules: str) -> None:
        rebuilds = {f"{seat[1:]}.0": {"rule": rule} for seat, rule in rules.items()}
        records.append(
            {"kind": "plan", "epoch": epoch, "iteration": iteration, "rebuilds": rebuilds}
        )

    plan(3, s1="shadow")  # when it was handed on, that had been
    plan(6, s0="shadow", s2="handover")  # another stage's loss, and the same bits
    assert counts() == {1: 3, 2: 5}
    plan(7, s1="shadow")
    assert counts() == {2: 5}
    plan(8, iteration=4, s0="checkpoint")
    assert counts() == {}


def state() -> StageState:
    """Of some stage."""
    return StageState({"w": torch.ones(2)}, {}, {}, 9)
