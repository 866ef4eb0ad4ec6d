"""Traces: order, what one tick loses, files, and their text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.failures import (
    Failure,
    make_trace,
    picture,
    read_trace,
    seats_hit,
    strikes,
    summary,
    write_trace,
)

failures = st.builds(
    Failure,
    tick=st.integers(0, 20),
    stage=st.integers(0, 5),
    replica=st.none() | st.integers(0, 2),
    kind=st.sampled_from(["crash", "spot"]),
)


def test_failures_sort_by_tick_stage_replica() -> None:
    ordered = [Failure(1, 2), Failure(1, 2, 0), Failure(1, 2, 1), Failure(1, 3), Failure(2, 0)]
    backwards = ordered[::-1]
    assert sorted(backwards) == ordered
    assert Failure(1, 2) <= Failure(1, 2) < Failure(1, 2, 0)


def test_failures_print_as_you_would_say_them() -> None:
    assert [str(Failure(3, 2)), str(Failure(3, 2, 1))] == ["S2 at tick 3", "2.1 at tick 3"]


def test_a_seat_is_lost_once_a_tick() -> None:
    twice = [Failure(3, 2, 1), Failure(3, 2), Failure(3, 2), Failure(3, 1, 0), Failure(3, 1, 0)]
    assert make_trace(twice) == (Failure(3, 1, 0), Failure(3, 2))


@given(st.lists(failures))
def test_make_trace_loses_no_seat(entries: list[Failure]) -> None:
    trace = make_trace(entries)
    for tick in range(21):
        here = [failure for failure in entries if failure.tick == tick]
        assert seats_hit(strikes(trace, tick), 6, 3) == seats_hit(here, 6, 3)
    assert make_trace(trace) == trace


@given(st.lists(failures), st.integers(0, 20))
def test_strikes_are_the_entries_of_the_tick(entries: list[Failure], tick: int) -> None:
    trace = make_trace(entries)
    assert strikes(trace, tick) == tuple(failure for failure in trace if failure.tick == tick)


def test_seats_hit() -> None:
    lost = (Failure(1, 2), Failure(1, 0, 1), Failure(1, 2, 1))
    assert seats_hit(lost, 3, 2) == (Address(0, 1), Address(2, 0), Address(2, 1))
    with pytest.raises(BadInput, match="stage 3, this pipeline has stages 0 … 2"):
        seats_hit((Failure(1, 3),), 3, 2)
    with pytest.raises(BadInput, match="replica 2 of stage 1, this pipeline has replicas 0 … 1"):
        seats_hit((Failure(1, 1, 2),), 3, 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(failures).map(make_trace))
def test_files_round_trip(tmp_path: Path, trace: tuple[Failure, ...]) -> None:
    path = tmp_path / "trace.json"
    write_trace(trace, path)
    assert read_trace(path, 5, 3) == trace
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_the_documented_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace((Failure(3, 2), Failure(9, 4, 1)), path)
    assert json.loads(path.read_text()) == {
        "failures": [{"iteration": 3, "stage": 2}, {"iteration": 9, "stage": 4, "replica": 1}]
    }
    assert len(path.read_text().splitlines()) == 4


def test_files_are_sorted_and_deduplicated_when_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    entries = [{"iteration": 5, "stage": 1}, {"iteration": 3, "stage": 2, "replica": None}] * 2
    path.write_text(json.dumps({"failures": entries}))
    assert read_trace(path, None, None) == (Failure(3, 2), Failure(5, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{failures: []}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", 'is an object with "failures"'),
        ("{}", 'is an object with "failures"'),
        ('{"failures": {}}', '"failures" is no list'),
        ('{"failures": [], "seed": 1}', "the file has unknown keys seed"),
        ('{"failures": [3]}', r"failures\[0\] is 3, expected an object"),
        ('{"failures": [{"stage": 1}]}', r'failures\[0\] has no "iteration"'),
        ('{"failures": [{"iteration": 1}]}', 'has no "stage"'),
        ('{"failures": [{"iteration": 1, "stage": 1, "tick": 1}]}', "unknown keys tick"),
        ('{"failures": [{"iteration": 1, "stage": 1, "stage": 2}]}', "a key stands twice"),
        ('{"failures": [{"iteration": -1, "stage": 1}]}', "iteration -1, expected a whole"),
        ('{"failures": [{"iteration": 1.0, "stage": 1}]}', "iteration 1.0, expected a whole"),
        ('{"failures": [{"iteration": true, "stage": 1}]}', "iteration True, expected a whole"),
        ('{"failures": [{"iteration": 1, "stage": "1"}]}', "stage '1', expected a whole"),
        ('{"failures": [{"iteration": 1, "stage": null}]}', "stage None, expected a whole"),
        ('{"failures": [{"iteration": 1, "stage": 1, "replica": false}]}', "replica False"),
        ('{"failures": [{"iteration": 1, "stage": 1, "replica": -1}]}', "replica -1"),
        ('{"failures": [{"iteration": 1, "stage": 1, "kind": 3}]}', "kind 3, expected a word"),
        (
            '{"failures": [{"iteration": 1, "stage": 99}]}',
            "trace names stage 99, this pipeline has stages 0 … 6: ",
        ),
        (
            '{"failures": [{"iteration": 1, "stage": 6, "replica": 2}]}',
            "trace names replica 2 of stage 6, this pipeline has replicas 0 … 1: ",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        read_trace(path, 6, 2)
    assert "\n" not in str(error.value)
    assert "trace.json" in str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the trace .*No such file"):
        read_trace(tmp_path / "none.json", 6, 1)
    (tmp_path / "latin.json").write_bytes(b'{"failures": "\xff"}')
    with pytest.raises(BadInput, match="is not JSON"):
        read_trace(tmp_path / "latin.json", 6, 1)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "trace.json"
    target.mkdir()
    with pytest.raises(BadInput, match="cannot write the trace"):
        write_trace((Failure(1, 1),), target)
    with pytest.raises(BadInput, match="cannot write the trace"):
        write_trace((), tmp_path / "missing" / "trace.json")
    assert list(tmp_path.iterdir()) == [target]


def test_summary() -> None:
    assert summary(()) == "no failures"
    assert summary((Failure(3, 2),)) == "1 failure, tick 3: S2 1"
    trace = (Failure(3, 2), Failure(7, 2), Failure(91, 4))
    assert summary(trace) == "3 failures, ticks 3 … 91: S2 2, S4 1"


def test_picture() -> None:
    trace = (Failure(0, 1), Failure(1, 1), Failure(5, 2), Failure(39, 2), Failure(99, 0))
    assert picture(trace, stages=2, ticks=40, width=26) == "\n".join(
        [
            "S2 ··x················x  2",
            "S1 2···················  2",
            "S0 ····················  0",
            "   0         20",
            "one column = 2 ticks; 1 more outside of the picture",
        ]
    )


@given(st.lists(failures).map(make_trace), st.integers(0, 5000), st.integers(20, 200))
def test_pictures_fit_and_count(trace: tuple[Failure, ...], ticks: int, width: int) -> None:
    *rows, axis, _ = picture(trace, stages=5, ticks=ticks, width=width).splitlines()
    assert max(map(len, [*rows, axis])) <= width
    counts = [int(row.split()[-1]) for row in reversed(rows)]
    inside = [failure for failure in trace if failure.tick < ticks]
    assert counts == [sum(f.stage == stage for f in inside) for stage in range(6)]


def test_a_tick_number_that_would_stick_out_is_left_away() -> None:
    assert picture((), stages=1, ticks=21).splitlines()[2] == "   0         10"
    assert picture((), stages=1, ticks=22).splitlines()[2] == "   0         10        20"


def test_crowds_are_marked() -> None:
    crowd = make_trace(Failure(tick, 1) for tick in range(12))
    assert picture(crowd, stages=1, ticks=600, width=60).splitlines()[0].startswith("S1 +")
