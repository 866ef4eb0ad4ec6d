"""What a lead says of its fleet while it waits, and how a broken terminal is taken."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from checkfree.cli.swarm.lead import Teller
from checkfree.cli.swarm.move import _refusal
from checkfree.runtime.swarm.told import render_waiting, tell
from tests.peers import id_of


def waiting(**changes: Any) -> dict[str, Any]:
    event = {"event": "waiting", "vacant": [], "stages": [], "since": 100.0, "seconds": 0.0}
    return {**event, "seats": 5, "spares": 0, "nodes": 2, **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "every seat is taken"),
        ({"spares": 2}, "every seat is taken; 2 stand by"),
        (
            {"vacant": ["4.0", "3.0"], "stages": [4], "seconds": 40.0},
            "vacant: 4.0, 3.0; nobody has stage 4: it waits since 40 s; 3 of 5 seats on 2 nodes",
        ),
        ({"vacant": ["4.1"], "nodes": 1}, "vacant: 4.1; 4 of 5 seats on 1 node"),
    ],
)
def test_for_what_is_waited_and_since_when(changes: dict[str, Any], told: str) -> None:
    assert render_waiting(waiting(**changes)) == told


def test_a_line_has_its_time_and_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(lambda: b"", quiet=False)
    teller(waiting())
    teller(waiting(seconds=1.0))
    gap = {"vacant": ["4.0"], "stages": [4]}
    for seconds in (2.0, 3.0, 10.0, 31.0, 40.0):
        teller(waiting(seconds=seconds, **gap))
    teller({"event": "lost", "seat": "1.0", "life": 0, "why": "silent for 4 s"})
    first, *waits, second = capsys.readouterr().err.splitlines()
    assert [line.partition("waits since ")[2][:4] for line in waits] == ["2 s;", "31 s"]
    time = r"checkfree: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
    assert re.fullmatch(time + "every seat is taken", first)
    assert re.fullmatch(time + r"1\.0 is lost: silent for 4 s", second)


def test_one_that_is_quiet_says_the_join_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(lambda: bytes(16), quiet=True)
    teller(waiting())
    teller({"event": "left", "seat": "1.0", "life": 0, "why": ""})
    teller({"event": "listening", "peer": ["lead", 0, id_of("lead"), ["/ip4/192.0.2.1/tcp/4001"]]})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "--token" in captured.out


def test_where_nobody_is_invited_there_is_no_join_line(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(lambda: bytes(16), quiet=False, invites=False)
    teller({"event": "listening", "peer": ["lead", 0, id_of("lead"), ["/ip4/192.0.2.1/tcp/4001"]]})
    teller({"event": "lost", "seat": "1.0", "life": 0, "why": "its process ended (-9)"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("1.0 is lost: its process ended (-9)\n")


def test_a_terminal_that_went_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    tell("something")


def test_only_what_was_said_since_it_was_asked_refuses_a_move() -> None:
    events = [
        {"number": 1, "event": "stays", "seat": "2.0", "life": 0, "why": "nobody of b stands by"},
        {"number": 3, "event": "stays", "seat": "1.0", "life": 0, "why": "another seat"},
    ]
    assert _refusal({"events": events}, "2.0", 1) == "nobody of b stands by"
    assert _refusal({"events": events}, "2.0", 2) == ""
