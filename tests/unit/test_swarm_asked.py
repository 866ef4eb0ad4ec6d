"""What a launcher answers to whoever asks for a kill, without processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from checkfree.runtime.swarm.processes.asked import Asked
from checkfree.runtime.swarm.processes.children import Child, Children


def asked(*children: Child, chaos: bool = True, lead: bool = True) -> tuple[Asked, list[Any]]:
    """With what it told the lead."""
    told: list[Any] = []

    def tell(said: Mapping[str, Any]) -> bool:
        told.append(said)
        return lead

    return Asked(Children({child.seat: child for child in children}), chaos, tell), told


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
