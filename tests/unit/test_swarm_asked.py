"""What a launcher answers to whoever asks for a kill, without processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from checkfree.runtime.swarm.processes.children import Child, Children
from checkfree.runtime.swarm.processes.control_api import ControlApi


def asked(*children: Child, chaos: bool = True, lead: bool = True) -> tuple[ControlApi, list[Any]]:
    """With what it told the lead."""
    told: list[Any] = []

    def tell(said: Mapping[str, Any]) -> bool:
        told.append(said)
        return lead

    return ControlApi(Children({child.seat: child for child in children}), chaos, tell), told


def kill(seat: str, name: str = "KILL") -> Mapping[str, Any]:
    return {"ask": "kill", "seat": seat, "signal": name}


def test_whoever_joined_is_ended_by_the_leads_word() -> None:
    ask, told = asked(Child("2.0", 3, peer=["2.0", 3, "Qm", []]))
    answer = ask.answer(kill("2.0"))
    assert answer is not None
    assert (answer["killed"], answer["life"], answer["pid"]) == ("2.0", 3, 0)
    assert told == [{"end": "2.0", "life": 3}]


@pytest.mark.parametrize(
    ("child", "name", "chaos", "lead", "why"),
    [
        (Child("2.0", 0, peer=["there"]), "STOP", True, True, "does not reach it"),
        (Child("2.0", 0, peer=["there"]), "KILL", True, False, "no lead now"),
        (Child("2.0", 0, peer=["there"]), "KILL", False, True, "--chaos"),
        (Child("2.0", 0, peer=["there"]), "HUP", True, True, "expected one of KILL"),
        (Child("2.0", 0, alive=False), "KILL", True, True, "nobody sits at 2.0"),
        (Child("1.0", 0, peer=["there"]), "KILL", True, True, "expected one of 1.0"),
    ],
)
def test_kills_that_are_refused(child: Child, name: str, chaos: bool, lead: bool, why: str) -> None:
    ask, _ = asked(child, chaos=chaos, lead=lead)
    answer = ask.answer(kill("2.0", name))
    assert answer is not None
    assert why in answer["refused"]


def test_what_is_no_question_has_no_answer() -> None:
    ask, _ = asked()
    assert ask.answer({"asks": "status"}) is None


def fleet(*hosts: str) -> list[dict[str, Any]]:
    """A node a host, with one seat each."""
    return [
        {"host": host, "seats": {f"{stage}.0": ["there"]}, "spares": 0}
        for stage, host in enumerate(hosts)
    ]


@pytest.mark.parametrize(
    ("question", "lead", "answer", "said"),
    [
        (
            {"ask": "move", "seat": "1.0", "host": "a"},
            True,
            {"asked": "1.0", "origin": "b", "life": 4, "events": 0},
            [{"move": "1.0", "host": "a"}],
        ),
        (
            {"ask": "move", "seat": "1.0", "host": None},
            True,
            {"asked": "1.0", "origin": "b", "life": 4, "events": 0},
            [{"move": "1.0", "host": None}],
        ),
        ({"ask": "drain", "host": "b"}, True, {"asked": "b"}, [{"drain": "b"}]),
        ({"ask": "move", "seat": "1.0", "host": "c"}, True, "expected one of a, b", []),
        ({"ask": "move", "seat": "7.0", "host": "a"}, True, "expected one of 1.0", []),
        ({"ask": "move", "seat": "1.0", "host": "b"}, True, "on b already", []),
        ({"ask": "drain", "host": "c"}, True, "expected one of a, b", []),
        ({"ask": "drain", "host": "b"}, False, "no lead now", [{"drain": "b"}]),
    ],
)
def test_seats_change_hands_on_request(
    question: Mapping[str, Any], lead: bool, answer: Any, said: list[Any]
) -> None:
    ask, told = asked(Child("1.0", 4, peer=["there"]), lead=lead)
    ask.fleet = fleet("a", "b")
    found = ask.answer(question)
    assert found is not None
    assert told == said
    if isinstance(answer, str):
        assert answer in found["refused"]
    else:
        assert found == answer


def test_a_run_that_nobody_joins_has_no_machine_to_drain() -> None:
    ask, _ = asked(Child("1.0", 0))
    found = ask.answer({"ask": "drain", "host": "b"})
    assert found is not None
    assert "nobody joined this run" in found["refused"]
