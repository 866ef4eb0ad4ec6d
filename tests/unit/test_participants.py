"""Who took part in a run, on what each computed, and what is said of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from checkfree.cli.display import Display
from checkfree.core.config import Config
from checkfree.core.ops import Address
from checkfree.core.participants import (
    Company,
    apart,
    differences,
    has_strangers,
    participants,
    render_cause,
    render_differences,
    unequal,
)
from checkfree.core.records import ProcessRecord, dumps
from checkfree.messages.recorded import read_record

FIRST = {"torch": "2.13", "cpu": "AVX512", "threads": "1", "devices": "cpu"}
OTHER = {**FIRST, "cpu": "DEFAULT"}

CONFIG = {
    "kind": "config",
    "versions": {"torch": "2.13", "cpu": "AVX512"},
    "config": {"threads": 1},
}
PLAN = {"kind": "plan"}
RESUME = {"kind": "resume", "iteration": 8}


def took_part(since: int, facts: Mapping[str, str] = FIRST, seat: str = "") -> dict[str, Any]:
    """As it is read back."""
    record: dict[str, Any] = json.loads(dumps(ProcessRecord(since, facts, seat)))
    return record


# --- who took part -------------------------------------------------------------------------------


def test_the_first_and_whoever_went_on() -> None:
    records = [CONFIG, took_part(0), PLAN, took_part(8, OTHER), RESUME, PLAN]
    assert [(who.since, who.facts) for who in participants(records)] == [(0, FIRST), (8, OTHER)]
    assert not has_strangers(records)
    assert [str(who) for who in participants(records)] == ["at first", "from iteration 8 on"]


def test_of_whose_work_nothing_is_left_is_none_of_them() -> None:
    """It was killed before its first snapshot, or its successor went back to where it began."""
    records = [CONFIG, took_part(0), PLAN, took_part(0, OTHER), RESUME, took_part(8), RESUME]
    assert [who.facts for who in participants(records)] == [OTHER, FIRST]
    records += [took_part(8, OTHER), RESUME]
    assert [who.facts for who in participants(records)] == [OTHER, OTHER]


def test_members_are_told_by_their_seats() -> None:
    members = [took_part(0, FIRST, "1.0"), took_part(0, OTHER, "2.0"), took_part(9, OTHER, "1.0")]
    records = [CONFIG, *members, PLAN]
    assert [str(who) for who in participants(records)] == [
        "at seat 1.0 from iteration 0 on",
        "at seat 2.0 from iteration 0 on",
        "at seat 1.0 from iteration 9 on",
    ]


def test_an_older_run_tells_of_its_first_process_alone() -> None:
    known = {"torch": "2.13", "cpu": "AVX512", "threads": "1"}
    records = [CONFIG, PLAN]
    assert [who.facts for who in participants(records)] == [known]
    assert not has_strangers(records)
    records += [RESUME, PLAN]
    assert has_strangers(records)
    records += [took_part(8, OTHER), RESUME]
    assert [who.facts for who in participants(records)] == [known, OTHER]
    assert has_strangers(records)


def test_whoever_led_an_older_fleet_computed_nothing() -> None:
    records = [CONFIG, {"kind": "plan", "hosts": {"1.0": "attic"}}]
    assert participants(records) == [] and has_strangers(records)


@pytest.mark.parametrize("records", [[], [CONFIG], [PLAN]])
def test_a_run_that_tells_of_nobody(records: list[Mapping[str, Any]]) -> None:
    assert participants(records) == [] and not has_strangers(records)


# --- who is held against whom --------------------------------------------------------------------


def test_who_joins_is_held_against_the_first() -> None:
    company = Company([CONFIG])
    first = company.joined(0, OTHER, Address(1), 0)
    assert first is not None and (first.seat, first.differs) == ("1.0", ())
    late = company.joined(7, FIRST, Address(2), 3)
    assert late is not None and late.differs == (("cpu", "DEFAULT", "AVX512"),)
    assert (late.iteration, late.seat, late.life) == (7, "2.0", 3)
    assert company.joined(9, FIRST, Address(2), 3) is None  # it is back, and known
    assert company.joined(9, FIRST, Address(2), 4) is not None
    alike = company.joined(9, OTHER)
    assert alike is not None and (alike.seat, alike.differs) == ("", ())


def test_the_next_lead_knows_who_is_there() -> None:
    company = Company([CONFIG, took_part(0, OTHER, "0.0"), took_part(0, FIRST, "1.0"), PLAN])
    assert company.joined(5, OTHER, Address(0)) is None
    late = company.joined(5, FIRST, Address(1), 1)
    assert late is not None and late.differs == (("cpu", "DEFAULT", "AVX512"),)


def test_nothing_is_concluded_from_what_is_not_known() -> None:
    assert differences({"cpu": "AVX2"}, {"threads": "2"}) == ()
    assert differences({}, FIRST) == differences(FIRST, {}) == ()
    record = Company([CONFIG, PLAN]).joined(8, {**FIRST, "math": "no oneDNN"})
    assert record is not None and record.differs == ()


def test_the_likeliest_comes_first() -> None:
    then = dict.fromkeys(("python", "zlib", "threads", "cpu", "devices"), "a")
    now = dict.fromkeys(then, "b")
    assert [name for name, _, _ in differences(then, now)] == [
        *("devices", "cpu", "threads", "python", "zlib")
    ]


# --- what is said --------------------------------------------------------------------------------


def test_a_difference_is_one_line() -> None:
    told = render_differences(differences(FIRST, {**OTHER, "threads": "2"}))
    assert told == "cpu DEFAULT (AVX512 at first), threads 2 (1 at first): bits may differ"


def test_what_verifies_is_held_against_all() -> None:
    records = [CONFIG, took_part(0), PLAN, took_part(8, OTHER), RESUME, PLAN]
    assert apart(participants(records), FIRST) == [
        "cpu was DEFAULT from iteration 8 on, and is AVX512 here"
    ]
    assert apart(participants(records), {**FIRST, "cpu": "AVX2"}) == [
        "cpu was AVX512 at first and DEFAULT from iteration 8 on, and is AVX2 here"
    ]
    assert apart(participants(records[:3]), FIRST) == []


def test_the_cause_of_other_losses_took_part_by_then() -> None:
    records = [CONFIG, took_part(0), PLAN, took_part(8, {**OTHER, "threads": "2"}), RESUME, PLAN]
    assert render_cause(records, FIRST, 12) == (
        "most likely because cpu was DEFAULT from iteration 8 on, and is AVX512 here; also, "
        "threads was 2 from iteration 8 on, and is 1 here"
    )
    assert "all that took part had the same" in render_cause(records, FIRST, 7)
    assert "nothing is known" in render_cause([CONFIG, PLAN, RESUME, PLAN], FIRST)
    assert "all that took part had the same" in render_cause([CONFIG, PLAN], FIRST)


def test_what_not_all_runs_were_trained_on() -> None:
    one, other = [CONFIG, took_part(0), PLAN], [CONFIG, took_part(0, OTHER), PLAN]
    assert unequal([one, one]) == []
    assert unequal([one, other]) == ["cpu"]
    assert unequal([[*one, took_part(8, OTHER), RESUME]]) == ["cpu"]
    assert unequal([[CONFIG, PLAN], other]) == ["cpu"]
    assert unequal([[CONFIG, PLAN], one]) == []


def test_the_display_warns_once_and_only_of_a_difference() -> None:
    text = StringIO()
    company = Company([CONFIG, took_part(0), PLAN])
    with Display(Config(), Console(file=text, width=300)) as display:
        for facts, seat in ((FIRST, None), (OTHER, None), (OTHER, Address(2))):
            record = company.joined(8, facts, seat)
            assert record is not None
            display(read_record(json.loads(dumps(record))))
    assert text.getvalue().splitlines() == [
        "this process computes with cpu DEFAULT (AVX512 at first): bits may differ",
        "2.0 computes with cpu DEFAULT (AVX512 at first): bits may differ",
    ]
