"""A process between two lives at a seat, that is told to leave: not with an exact state in hand."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.core.ops import Address, StateId
from checkfree.messages.tensors import KeepState
from checkfree.runtime.swarm.joining.candidates import HEIR
from checkfree.runtime.swarm.joining.remote_worker import ExitReason, RemoteWorker, RetainedStates
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.network_thread import Delivered, Said
from tests.peers import id_of

LEAVE, STALE, ASSIGNMENT = (
    {"leave": True, "ends_at": None},
    {"stale": True},
    {"assignment": {"seat": "1.0"}},
)


def waits(
    retained: RetainedStates, *heard: Mapping[str, Any]
) -> tuple[RemoteWorker, Mapping[str, Any] | None]:
    """A remote worker that hears this, and its assignment."""
    inbox: queue.SimpleQueue[Said] = queue.SimpleQueue()
    for notice in heard:
        inbox.put(Said(notice))
    network, join_client = SimpleNamespace(inbox=inbox), SimpleNamespace(welcome={"incarnation": 0})
    said: list[str] = []
    remote = RemoteWorker(network, join_client, retained, said.append, lambda told: None)  # type: ignore[arg-type]
    return remote, remote.wait()


def test_who_has_lost_the_lead_says_so_to_its_node() -> None:
    """Which may hear from another of its processes that the run has ended."""
    peer = Peer(Address.parse("lead"), 0, id_of("lead"), ("/ip4/127.0.0.1/tcp/1",))
    again = {"incarnation": 0, "peer": peer.to_json()}
    network = SimpleNamespace(learn=lambda peer: None)
    join_client = SimpleNamespace(welcome={"incarnation": 0})
    told: list[Mapping[str, Any]] = []
    remote = RemoteWorker(network, join_client, RetainedStates(), lambda said: None, told.append)  # type: ignore[arg-type]
    for notice in ({"cut": "gone"}, {"again": again}):
        remote._handle(Said(notice))
    assert told == [{"adrift": True}, {"adrift": False}]


def test_who_computes_on_something_else_says_so() -> None:
    said: list[str] = []
    remote = RemoteWorker(
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(welcome={"incarnation": 0}),  # type: ignore[arg-type]
        RetainedStates(),
        said.append,
        lambda told: None,
    )
    for plain in ([["cpu", "AVX512", "DEFAULT"]], [["cpu"]], ["cpu"], [1], "cpu"):
        remote._handle(Said({"differs": plain}))
    assert said == ["this node computes with cpu DEFAULT (AVX512 at first): bits may differ"]


def handed() -> RetainedStates:
    """What an heir was sent."""
    return RetainedStates(handed=(StateId(Address(1), 0, 3), SimpleNamespace()))  # type: ignore[arg-type]


def test_nothing_in_hand_leaves_at_once() -> None:
    remote, assignment = waits(RetainedStates(), LEAVE)
    assert (remote.after, assignment) == (ExitReason.LEFT, None)


def test_a_state_in_hand_waits_for_its_seat() -> None:
    remote, assignment = waits(handed(), LEAVE, ASSIGNMENT)
    assert assignment == ASSIGNMENT["assignment"]
    assert remote.retained and not remote.idle


@pytest.mark.parametrize("heard", [(LEAVE, STALE), (STALE, LEAVE)])
def test_a_state_that_is_of_no_use_holds_nobody(heard: tuple[Mapping[str, Any], ...]) -> None:
    remote, assignment = waits(handed(), *heard)
    assert (remote.after, assignment, bool(remote.retained)) == (ExitReason.LEFT, None, False)


def test_drained_is_told_from_asked() -> None:
    remote, _ = waits(RetainedStates(), {**LEAVE, "drained": True})
    assert remote.drained


def test_what_an_heir_was_sent_has_a_name() -> None:
    """Whoever leads later has to hear of it."""
    assert handed().name() == (StateId(Address(1), 0, 3), None)
    assert RetainedStates().name() == (None, None)


def test_only_what_is_for_this_attempt_is_taken() -> None:
    """What an owner sent to an heir of an earlier life is no state of the later one."""
    one, other = Address(1, HEIR), Address(1, 2 * HEIR)
    state = SimpleNamespace(version=3)

    def sent(to: Address) -> Delivered:
        keep = SimpleNamespace(owner=Address(1), holder=to)
        return Delivered(to, KeepState(0, keep, "handover", 1, state))  # type: ignore[arg-type]

    told: list[Mapping[str, Any]] = []
    retained, inbox = RetainedStates(), queue.SimpleQueue[Any]()
    heir = {"heir": {"seat": "1.0", "life": 2, "at": str(other)}}
    for item in (Said(heir), sent(one), sent(other), Said({"assignment": {}})):
        inbox.put(item)
    network = SimpleNamespace(inbox=inbox, sit=lambda at, life: Peer(at, life, "me", ()))
    join_client = SimpleNamespace(welcome={"incarnation": 0}, tell=told.append)
    remote = RemoteWorker(network, join_client, retained, told.append, told.append)  # type: ignore[arg-type]
    remote.wait()
    assert [said for said in told if "has" in said] == [{"has": True, "version": 3}]
    assert retained.name()[0] == StateId(Address(1), 2, 3)
