"""Public traces of spot instances, laid over a pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkfree.cli import main
from checkfree.core.errors import BadInput
from checkfree.failures import Failure, Pipeline, Trace, import_spot, read_trace

LINE = Pipeline((1, 2, 3), 1, 1, 10.0, seed=0)


def imported(folder: Path, text: str, pipeline: Pipeline = LINE, unit: str = "seconds") -> Trace:
    file = folder / "spot.csv"
    file.write_text(text)
    return import_spot(file, pipeline, unit)


# --- rows ----------------------------------------------------------------------------------------

FIVE = "".join(f"0,add,n{number}\n" for number in range(5))


def test_nodes_take_seats_in_address_order(tmp_path: Path) -> None:
    rows = FIVE + "25000,remove,n1\n31000,remove,n0\n"
    assert imported(tmp_path, rows) == (Failure(2, 2, 0), Failure(3, 1, 0))


def test_who_waits_longest_takes_a_place(tmp_path: Path) -> None:
    """n3 waits for a seat, gets n1's, and loses it; n4 gets it next."""
    rows = FIVE + "20000,remove,n1\n30000,remove,n3\n40000,remove,n4\n50000,remove,n0\n"
    ticks = [(failure.tick, failure.stage) for failure in imported(tmp_path, rows)]
    assert ticks == [(2, 2), (3, 2), (4, 2), (5, 1)]


def test_one_that_waits_is_no_loss(tmp_path: Path) -> None:
    assert imported(tmp_path, FIVE + "20000,remove,n4\n30000,remove,n3\n") == ()


def test_a_node_that_joins_takes_the_first_free_place(tmp_path: Path) -> None:
    rows = (
        "0,add,a\n0,add,b\n0,add,c\n10000,remove,c\n20000,remove,a\n"
        "30000,add,d\n40000,add,c\n50000,remove,d\n60000,remove,c\n"
    )
    ticks = [(failure.tick, failure.stage) for failure in imported(tmp_path, rows)]
    assert ticks == [(1, 3), (2, 1), (5, 1), (6, 3)]


def test_a_node_hosts_neighbouring_seats(tmp_path: Path) -> None:
    two = replace(LINE, replicas=2, seats_per_node=4)
    rows = "0,add,a\n0,add,b\n20000,remove,b\n30000,remove,a\n"
    assert imported(tmp_path, rows, two) == (
        *(Failure(2, 3, 0), Failure(2, 3, 1)),
        *(Failure(3, 1, 0), Failure(3, 1, 1), Failure(3, 2, 0), Failure(3, 2, 1)),
    )


def test_titles_comments_and_blanks(tmp_path: Path) -> None:
    rows = "# a trace\nms, event, node\n\n5000, ADD, a\n25000, Remove, a\n"
    assert imported(tmp_path, rows) == (Failure(2, 1, 0),)


# --- step functions ------------------------------------------------------------------------------


def test_a_fall_by_k_loses_k_seats(tmp_path: Path) -> None:
    trace = imported(tmp_path, "0,16\n25,14\n30,16\n55,15\n")
    assert [failure.tick for failure in trace] == [2, 2, 5]
    assert len({failure.stage for failure in trace[:2]}) == 2


def test_a_great_fall_loses_all(tmp_path: Path) -> None:
    assert {f.stage for f in imported(tmp_path, "0,99\n10,0\n")} == {1, 2, 3}


def test_a_fall_hits_the_same_whatever_falls_later(tmp_path: Path) -> None:
    long = imported(tmp_path, "0,9\n10,8\n20,7\n30,5\n40,4\n")
    assert long[:2] == imported(tmp_path, "0,9\n10,8\n20,7\n30,8\n")
    assert long[0] == Failure(1, 3, 0), "a seed gives the same seats for ever"


def test_another_seed_hits_others(tmp_path: Path) -> None:
    wide = replace(LINE, stages=tuple(range(1, 50)))
    rows = "0,9\n10,8\n20,7\n30,5\n40,4\n"
    assert imported(tmp_path, rows, wide) != imported(tmp_path, rows, replace(wide, seed=1))


@pytest.mark.parametrize("rows", ["1.0,3\n1.02,2\n", "hours,available\n1,3\n1.02,2\n"])
def test_hours(tmp_path: Path, rows: str) -> None:
    """Time counts from the first row: 72 s are 7 ticks."""
    unit = "seconds" if rows[0] == "h" else "hours"
    assert [f.tick for f in imported(tmp_path, rows, unit=unit)] == [7]


def test_dates(tmp_path: Path) -> None:
    rows = "timestamp,count\n2021-07-26T18:42:00Z,8\n2021-07-26T18:43:00Z,7\n"
    assert [f.tick for f in imported(tmp_path, rows)] == [6]


def test_no_failure_before_the_first_tick_that_may(tmp_path: Path) -> None:
    rows = "0,9\n10,8\n20,7\n"
    late = imported(tmp_path, rows, replace(LINE, first=2))
    assert late == imported(tmp_path, rows)[1:]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "line", "told"),
    [
        ("", 0, "no rows"),
        ("time,available\n", 0, "no rows"),
        ("0,1,2,3\n", 1, "4 columns"),
        ("0,3\n5\n", 2, "2 as in the lines above"),
        ("0,3\n5,2.5\n", 2, "whole number"),
        ("0,3\n5,-1\n", 2, "whole number"),
        ("0,3\nsoon,1\n", 2, "time 'soon'"),
        ("0,3\nnan,1\n", 2, "time 'nan'"),
        ("-1,3\n", 1, "time '-1'"),
        ("0,3\n1e300,1\n", 2, "1e300"),
        ("9,3\n5,2\n", 2, "in order of time"),
        ("0,add,a\n\n5,drop,a\n", 3, "add or remove"),
        ("0,add,\n", 1, "no node"),
        ("0,add,a\n1,add,a\n", 2, "added twice"),
        ("0,add,a\n1,remove,b\n", 2, "added before"),
        ("0,add,a\n1,remove,a\n2,remove,a\n", 3, "added before"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, rows: str, line: int, told: str) -> None:
    with pytest.raises(BadInput) as error:
        imported(tmp_path, rows)
    assert told in str(error.value)
    assert f"spot.csv:{line}:" in str(error.value) or not line
    assert "\n" not in str(error.value)


def test_a_unit_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--unit is 'days'"):
        imported(tmp_path, "0,3\n1,2\n", unit="days")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(BadInput, match="cannot read"):
            import_spot(path, LINE)
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(BadInput, match="no text"):
        import_spot(tmp_path / "picture.csv", LINE)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.lists(st.sampled_from(["0", "1", "9", "add", "a", "", '"']), max_size=4)))
def test_any_rows_are_a_trace_or_bad_input(tmp_path: Path, rows: list[list[str]]) -> None:
    try:
        trace = imported(tmp_path, "".join(",".join(cells) + "\n" for cells in rows))
    except BadInput:
        return
    assert list(trace) == sorted(trace)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spot.csv").write_text("0,9\n100,8\n300,6\n")
    Path("c.yaml").write_text("{stages: 4, iterations: 9}")
    words = ["failures", "import", "spot.csv", "c.yaml", "failures.seconds_per_iteration=50"]
    assert main([*words, "--to", "trace.json"]) == 0
    assert "3 failures, ticks 2 … 6" in capsys.readouterr().out
    trace = read_trace("trace.json", 4, 1)
    assert [failure.tick for failure in trace] == [2, 6, 6]
    assert main(words) == 0
    assert capsys.readouterr().out == Path("trace.json").read_text()
    assert main([*words[:-1], "failures.seconds_per_iteration=0"]) == 2
    assert main([*words, "--unit=days"]) == 2
