"""The report of a comparison: its numbers from studies made by hand, and that any study at all
becomes a page."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.cost import Priced
from checkfree.report.study.config_section import differing, flat
from checkfree.report.study.failure_timeline import panels
from checkfree.report.study.frontier import frontier, frontier_traces, squeezed
from checkfree.report.study.groups import book
from checkfree.report.study.interval import estimate, reading_noise, t_quantile
from checkfree.report.study.model import Entry, Study
from checkfree.report.study.page import page_data
from checkfree.report.study.recovery_stats import recovery_stats
from checkfree.report.study.run_series import AXES, run_of
from checkfree.report.study.seed_means import POINTS, gap_curve, kept, mean_curve
from checkfree.report.study.style import styles_of
from checkfree.report.study.summary import (
    SummaryRow,
    extra_sent,
    sent_per_iteration,
    summarize,
)
from checkfree.report.study.tables import frontier_table, interval, promises
from checkfree.report.study.traces import numbers, wrapped
from checkfree.report.study.write import write_report
from tests.studies import (
    NAN,
    check,
    config,
    end,
    entry,
    full,
    lost,
    priced,
    repair,
    rolled_back,
    step,
    steps_of,
    trained,
    unsaved,
)


def study(*entries: Entry, **more: Any) -> Study:
    return Study("a study", entries, **more)


def rows(*entries: Entry, **more: Any) -> dict[str, SummaryRow]:
    return {row.group.label: row for row in summarize(book(study(*entries, **more))).rows}


def test_an_interval_over_seeds_is_that_of_student() -> None:
    found = estimate([1.0, 2.0, 3.0, None, NAN])
    assert found is not None and (found.mean, found.n, found.deviation) == (2.0, 3, 1.0)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3))
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    alone = estimate([5.0])
    assert alone is not None and alone.mean == 5.0 and math.isnan(alone.half)
    assert estimate([]) is None and estimate([NAN, None]) is None


def test_quantiles_of_student() -> None:
    # From the tables in any textbook.
    known = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 10: 2.228, 20: 2.086, 30: 2.042, 120: 1.980}
    for freedom, value in known.items():
        assert t_quantile(freedom) == pytest.approx(value, abs=1e-3)
    assert t_quantile(10**6) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-4)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.floats(-10, 10))
def test_shifting_all_seeds_shifts_the_mean_and_not_its_width(
    values: list[float], by: float
) -> None:
    one, two = estimate(values), estimate([value + by for value in values])
    assert one is not None and two is not None
    assert two.mean == pytest.approx(one.mean + by, abs=1e-9)
    assert two.half == pytest.approx(one.half, abs=1e-6)


def test_the_noise_of_a_reading_takes_the_trend_out() -> None:
    falling = [10.0 - place for place in range(12)]
    assert reading_noise([falling]) == pytest.approx(0.0, abs=1e-12)
    jumping = [*[9.0] * 6, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2]
    steps = [0.2, -0.2, 0.2, -0.2, 0.2]
    middle = fmean(steps)
    squares = sum((change - middle) ** 2 for change in steps)
    assert reading_noise([jumping]) == pytest.approx(math.sqrt(squares / 4 / 2))
    assert math.isnan(reading_noise([[1.0, 2.0]]))


def test_gaps_are_paired_by_seed_and_leave_iteration_0_out() -> None:
    found = rows(
        entry("no_failure", trained([9.0, 3.0, 2.0], 0), 0),
        entry("no_failure", trained([9.0, 5.0, 4.0], 1), 1),
        entry("checkfree", trained([8.0, 3.1, 2.3], 0), 0),
        entry("checkfree", trained([8.0, 5.3, 4.5], 1), 1),
    )["checkfree"]
    per_seed = [0.2, 0.4]
    assert found.gap is not None and found.gap_at_end is not None
    assert found.gap.mean == pytest.approx(0.3) and found.gap.n == 2
    assert found.gap.half == pytest.approx(12.706205 * stdev(per_seed) / math.sqrt(2))
    assert found.gap_at_end.mean == pytest.approx(0.4)
    assert found.compared_to == 4


def test_means_stop_where_the_first_seed_ended() -> None:
    entries = [
        entry("no_failure", trained([9.0, 3.0, 2.0, 1.0]), 0),
        entry("no_failure", trained([9.0, 3.0, 2.0, 1.0]), 1),
        entry("checkfree", trained([9.0, 3.1, 2.1, 1.5]), 0),
        entry("checkfree", unsaved(3), 1),
    ]
    found = book(study(*entries))
    row = rows(*entries)["checkfree"]
    assert row.compared_to == 2 and row.gap is not None and row.gap.n == 2
    group = next(group for group in found.groups if group.label == "checkfree")
    curve, gap = mean_curve(group, "validation", "iterations"), gap_curve(found, group)
    assert curve is not None and curve.x.tolist() == [0, 2]
    assert gap is not None and gap.x.tolist() == [2]
    assert [run.end for run in group.lost] == [3]


def test_a_run_that_ended_at_once_has_its_row_and_no_gap() -> None:
    found = rows(
        entry("no_failure", trained([9.0, 3.0])), entry("none", [config(), end(0, reason="gone")])
    )["none"]
    assert found.gap is None and found.compared_to is None and not found.reached
    assert [run.reason for run in found.group.lost] == ["gone"]


def test_a_gap_of_nothing_is_told_as_exact() -> None:
    assert interval(estimate([0.0, 0.0]), signed=True) == "0 exactly"
    assert interval(estimate([0.1, -0.1]), signed=True) == "+0.0000 ± 1.2706"
    assert interval(estimate([-0.25]), signed=True) == "−0.2500"
    assert interval(None) == "–"


def test_without_a_reference_there_are_no_gaps_and_no_target() -> None:
    found = summarize(book(study(entry("checkfree", trained([9.0, 3.0])))))
    assert found.rows[0].gap is None and found.target is None and math.isnan(found.noise)


def test_the_reference_of_a_rate_goes_before_the_one_for_all() -> None:
    shared = entry("no_failure", trained([9.0, 3.0]))
    own = entry("no_failure", trained([9.0, 2.0]), rate=5.0)
    tried = entry("checkfree", trained([9.0, 3.5]), rate=5.0)
    assert rows(shared, tried)["checkfree"].gap_at_end.mean == pytest.approx(0.5)  # type: ignore[union-attr]
    assert rows(shared, own, tried)["checkfree"].gap_at_end.mean == pytest.approx(1.5)  # type: ignore[union-attr]


def test_target_is_the_worst_of_the_references_best() -> None:
    entries = [
        entry("no_failure", trained([9.0, 3.0, 3.2]), 0, priced=priced(range(4))),
        entry("no_failure", trained([9.0, 4.0, 2.5]), 1, priced=priced(range(4))),
        entry("checkfree", trained([9.0, 3.0, 2.9]), 0, priced=priced(range(4))),
        entry("checkfree", trained([9.0, 3.6, 3.5]), 1, priced=priced(range(4))),
    ]
    found = summarize(book(study(*entries)))
    assert found.target == 3.0
    row = next(row for row in found.rows if row.group.label == "checkfree")
    # Two ticks of half an hour end before the reading at iteration 2.
    assert [(at.iteration, at.hours) for at in row.reached] == [(2, 1.0)]
    assert summarize(book(study(*entries, target=3.55))).target == 3.55
    assert len(rows(*entries, target=3.55)["checkfree"].reached) == 2


def test_seconds_goodput_and_cost_of_a_run_with_rollbacks() -> None:
    records = rolled_back()
    row = rows(entry("checkpoint", records, priced=priced(steps_of(records), price=2.0)))[
        "checkpoint"
    ]
    assert row.seconds == pytest.approx(11 * 1800 / 8)
    assert row.undisturbed == pytest.approx(1800)
    assert row.goodput == pytest.approx(1350 * 8 / (11 * 1800))
    assert row.cost == pytest.approx(2.0 * 4 * 5.5)
    assert (row.failures, row.recoveries) == (1, 1)


def test_a_rollback_shows_its_last_reading_by_iteration_and_all_by_time() -> None:
    run = run_of(entry("checkpoint", rolled_back(), priced=priced(range(11), price=1.0)))
    assert (run.end, run.ticks, run.finished) == (8, 11, True)
    by_iteration, by_hours = run.validation.on("iterations"), run.validation.on("hours")
    assert by_iteration is not None and by_iteration[0].tolist() == [0, 4, 6, 8]
    assert by_hours is not None and by_hours[0].tolist() == [0, 2, 3.5, 4.5, 5.5]
    tokens, seconds = run.validation.clocks["tokens"], run.validation.clocks["seconds"]
    assert tokens.tolist() == [0, 40, 70, 90, 110]
    # Two seconds a step, five for the repair at tick 5, none for validations.
    assert seconds.tolist() == [0, 8, 19, 23, 27]
    assert run.validation.clocks["cost"].tolist() == [hours * 4 for hours in by_hours[0]]


def test_a_reading_right_after_a_repair_is_no_point_of_the_curve() -> None:
    repaired = {**check(2, 7.0), "after_repair": True}
    run = run_of(entry("checkfree", [*trained([9.0, 3.0]), repaired]))
    assert run.validation.losses.tolist() == [9.0, 3.0]


def test_what_is_unknown_has_no_axis() -> None:
    plain = run_of(entry("checkfree", trained([9.0, 3.0])))
    assert set(plain.validation.clocks) == {"tokens", "seconds"}
    reused = run_of(entry("redundant", trained([9.0, 3.0]), priced=priced(range(2)), reused="x"))
    assert set(reused.validation.clocks) == {"tokens", "hours"}
    bare = {"kind": "validation", "iteration": 0, "tick": 0, "loss": None}
    assert not run_of(entry("checkfree", [bare])).validation.clocks


def test_means_on_a_clock_meet_between_the_seeds_points() -> None:
    late = [*trained([9.0, 3.0, 1.0])]
    found = book(
        study(
            entry("checkfree", trained([9.0, 3.0, 1.0]), 0, priced=priced(range(4))),
            entry("checkfree", late, 1, priced=_slow(priced(range(4)))),
        )
    )
    curve = mean_curve(found.groups[0], "validation", "hours")
    assert curve is not None and curve.n == 2
    assert curve.x.tolist() == [0, 1, 2]  # the first seed ends at hour 2
    assert curve.y.tolist() == pytest.approx([9.0, (3.0 + 6.0) / 2, (1.0 + 3.0) / 2])


def _slow(made: Priced) -> Priced:
    return replace(made, ends=tuple(2 * end for end in made.ends))


def test_recoveries_count_those_that_never_came_back_as_last() -> None:
    def lossy(after: float, later: float) -> list[dict[str, Any]]:
        happened = [lost(4, 2), repair(4, 2, "weighted average", 3.0, after)]
        return [*trained([9.0, 5.0, 3.0])[:-1], *happened, step(4), check(6, later), end(6)]

    entries = [
        entry("checkfree", lossy(3.5, 2.9), 0, priced=priced(range(6), repairs=[30.0])),
        entry("checkfree", lossy(3.1, 2.9), 1, priced=priced(range(6), repairs=[34.0])),
        entry("checkfree", lossy(3.3, 3.2), 2),
    ]
    (stats,) = recovery_stats(book(study(*entries)))
    assert stats.jump is not None and stats.jump.mean == pytest.approx(0.3) and stats.jump.n == 3
    assert (stats.back, stats.returned, stats.measured, stats.lost) == (2, 2, 3, 3)
    assert stats.seconds is not None and stats.seconds.mean == 32.0
    assert stats.rules == {"weighted average": 3}
    (never,) = recovery_stats(book(study(entries[2])))
    assert never.back is None and never.returned == 0


def test_bytes_are_told_per_kept_iteration_and_beside_the_reference() -> None:
    records = rolled_back()
    found = book(
        study(
            entry("no_failure", trained([4.0] * 5), priced=priced(range(8))),
            entry("checkpoint", records, priced=priced(steps_of(records))),
        )
    )
    run = found.groups[1].runs[0]
    assert sent_per_iteration(run) == {"useful": 1000, "rollback": 375, "validation": 11}
    assert extra_sent(found, run) == 375


def test_the_frontier_is_nats_against_bytes_a_parameter() -> None:
    """16 parameters; 375 bytes an iteration more than the reference, 64 + 32 bytes in memory."""
    records = [config(name="checkpoint"), *rolled_back()[1:]]
    found = book(
        study(
            entry("no_failure", trained([4.0] * 5), priced=priced(range(8))),
            entry("checkpoint", records, priced=priced(steps_of(records))),
        )
    )
    (point,) = frontier(found, summarize(found))
    assert (point.sent, point.held, point.missing) == (375 / 16, 6.0, "")
    assert point.gap is not None
    sent, held = frontier_traces(found, [point])
    assert [trace["keys"]["spend"] for trace in (sent, held)] == ["sent", "held"]
    assert sent["x"] == numbers([math.log10(1 + 375 / 16 / 0.01)])
    assert sent["y"] == numbers([point.gap.mean]) and sent["customdata"] == ["23.4 bytes"]
    assert squeezed(0.0) == 0.0


def test_what_is_not_known_is_not_on_the_frontier_and_the_table_says_so() -> None:
    known, records = priced(range(8)), trained([4.0] * 5)
    unsized, before = replace(known, parameters=0), replace(known, stored={"peers": 64})
    found = book(
        study(
            entry("no_failure", records, priced=known),
            entry("unpriced", records),
            entry("unsized", records, priced=unsized),
            entry("before", records, priced=before),
            entry("early", unsaved(0), priced=priced(())),
        )
    )
    points = frontier(found, summarize(found))
    assert frontier_traces(found, points) == []
    table = frontier_table(found, points)
    rows = {row.head.label: row.cells[0].below for row in table.rows if row.kind == "row"}
    unknown = ("not drawn: its bytes are not known",)
    assert rows == {
        **dict.fromkeys(("unpriced", "unsized", "before"), unknown),
        "early": ("not drawn: its gap is not known",),
    }


def test_what_replays_promise_is_told_where_there_were_any() -> None:
    seats = {f"{stage}.0": 0 for stage in range(4)}
    plan = {"kind": "plan", "iteration": 0, "tick": 0, "members": seats, "hosts": {}}
    apart = {**plan, "hosts": {seat: f"node-{seat}" for seat in seats}}
    summed = {**step(0), "digests": [1, 2, 3, 4]}
    found = book(
        study(
            entry("no_failure", trained([4.0] * 5)),
            entry("replay", [config(name="replay", copies=2), apart, summed]),
            entry("auto", [config(name="auto"), plan, summed]),
            entry("auto(log_memory=0)", [config(name="auto"), plan, step(0)]),
        )
    )
    told = dict(promises(found))
    assert told.keys() == {"replay", "auto"}
    assert told["replay"].endswith("any two stages, any one machine")
    assert told["auto"].startswith("any one stage")


def test_a_variant_that_fails_elsewhere_is_named_so() -> None:
    found = book(full())
    assert set(found.may_fail) == {"checkfree(failures.stages=middle)"}
    assert "only middle may fail" in found.name("checkfree(failures.stages=middle)")
    assert found.name("checkfree") == "checkfree"
    assert found.labels[0] == "no_failure" and found.rates == (5.0, 16.0)
    assert [group.label for group in found.at(16.0)] == list(found.labels)


def test_configurations_differ_in_what_strategies_do_not_in_seeds() -> None:
    configs = [flat(config(0)["config"]), flat(config(1, "middle", interval=5)["config"])]
    assert configs[1]["recovery.interval"] == "5"
    assert differing(configs) == ("recovery.interval", "failures.stages")


def test_every_lost_stage_is_in_the_timeline_with_what_was_done() -> None:
    found = panels(book(full()))
    assert {(p["keys"]["rate"], p["keys"]["seed"]) for p in found} == {
        (rate, seed) for rate in (0, 1) for seed in (0, 1)
    }
    texts = [text for trace in found[0]["traces"] for text in trace.get("text", [])]
    assert any("weighted average" in text and "3.0000 → 3.5000" in text for text in texts)
    assert any("back to iteration 2: 3 to train again" in text for text in texts)
    assert any("not recovered" in text and "&lt;left&gt;" in text for text in texts)
    again = [s for s in found[0]["layout"]["shapes"] if s["type"] == "rect"]
    assert [(shape["x0"], shape["x1"]) for shape in again] == [(4.5, 7.5)]


def test_plotly_knows_every_word_of_the_plots() -> None:
    found = book(full())
    data = page_data(found, summarize(found))
    traces = [*data["curves"], *data["gaps"], *data["ledger"], *data["frontier"]]
    assert data["frontier"]
    go.Figure([{k: v for k, v in trace.items() if k != "keys"} for trace in traces])
    for panel in data["panels"]:
        go.Figure(panel["traces"], panel["layout"])
    for layout in data["layouts"].values():
        go.Figure([], layout)
    assert {trace["keys"]["axis"] for trace in data["curves"]} == set(AXES)
    parts = {trace["keys"]["part"] for trace in data["curves"]}
    assert parts == {"mean", "band", "seed", "end"}


def test_strategies_look_different() -> None:
    found = styles_of([f"strategy {place}" for place in range(42)])
    assert len({(style.color, style.dash) for style in found.values()}) == 43


@given(st.integers(0, 5000))
def test_long_lines_are_thinned_and_keep_their_ends(count: int) -> None:
    found = kept(count).tolist()
    assert len(found) == min(count, POINTS) and found == sorted(set(found))
    assert not count or (found[0], found[-1]) == (0, count - 1)


def test_text_in_plots_is_no_markup() -> None:
    assert wrapped("<b>x</b> %{y}") == "&lt;b&gt;x&lt;/b&gt; % {y}"
    assert numbers([NAN, math.inf, 1.23456789]) == [None, None, 1.23457]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(full(), tmp_path_factory.mktemp("report") / "new" / "folder")


def test_a_report_has_its_files(report: Path) -> None:
    path = report
    assert path.name == "report.html"
    names = {file.name for file in path.parent.iterdir()}
    tables = {"summary.csv", "curves.csv", "recoveries.csv", "ledger.csv"}
    assert names == {"report.html", "loss.png", "gap.png", "ledger.png", "frontier.png"} | tables
    for picture in path.parent.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")

    summary = read(path.parent / "summary.csv")
    assert len(summary) == 1 + 2 * 4
    ended = next(line for line in summary if line["label"] == "checkfree")
    assert (ended["lost_seeds"], ended["ended_at"], ended["rate"]) == ("0 1", "3 3", "5")
    curves = read(path.parent / "curves.csv")
    rolled = [line for line in curves if line["label"].startswith("checkpoint")][:12]
    assert [line["tick"] for line in rolled] == [str(tick) for tick in range(12)]
    assert rolled[7]["iteration"] == "4" and rolled[7]["simulated_seconds"] == "12600"
    assert rolled[7]["validation_loss"] == "3.2" and rolled[1]["validation_loss"] == ""
    recoveries = read(path.parent / "recoveries.csv")
    assert any(line["ended"].startswith("stage 1 is lost") for line in recoveries)
    ledger = read(path.parent / "ledger.csv")
    assert {line["unit"] for line in ledger} == {"seconds", "bytes"}


def test_the_page_escapes_all_text_and_says_what_it_must(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert "<b>bold</b>" not in text.split("<script>")[0]
    assert "Three &amp; a &lt;b&gt;bold&lt;/b&gt; title" in shown
    assert "&lt;those&gt; of the paper &amp; not" in shown
    assert "no neighbour &lt;left&gt;" in shown and "ended at 3" in shown
    assert "identical by construction" in shown and "only middle may fail" in shown
    assert "checkfree compare demo --seeds 2" in shown and "feed" * 16 in shown
    assert shown.count("ended at 3") >= 2 * 4  # in every table of strategies, at both rates
    data = re.search(r'id="data">(.*?)</script>', text, flags=re.S)
    assert data is not None and json.loads(data[1])["start"]["axis"] == "iterations"


ODD = {
    "nothing": (),
    "no records": (entry("checkfree", []),),
    "no reference": (entry("checkfree", trained([4.0, 3.0])),),
    "no losses": (entry("no_failure", trained([None, None])), entry("x", trained([NAN, None]))),
    "one seed": (entry("no_failure", trained([4.0, 3.0])), entry("x", trained([4.0, 3.1]))),
    "ended at once": (
        entry("no_failure", trained([4.0, 3.0])),
        entry("none", [config(), lost(0, 1), end(0, reason="gone")]),
    ),
    "not finished": (entry("no_failure", trained([4.0, 3.0])[:-1]),),
    "unequal": (
        entry("no_failure", trained([4.0, 3.0, 2.0]), 0),
        entry("no_failure", trained([4.0]), 1),
        entry("x", trained([4.0, 3.0]), 0, priced=priced(range(1))),
        entry("x", trained([4.0, 3.0, 2.0, 1.0]), 2),
    ),
    "half priced": (
        entry("x", trained([4.0, 3.0]), 0, 5.0, priced=priced(range(2), 1.0)),
        entry("x", trained([4.0, 3.0]), 1, 5.0),
    ),
    "priced and empty": (entry("x", [config()], priced=priced(())),),
    "strange names": (entry("</script><b>$x_y$ %{x}", unsaved(reason="$5 </script>")),),
    "bare records": (
        entry(
            "x",
            [
                {"kind": "validation", "tick": 0, "iteration": 0, "loss": 3.0},
                {"kind": "failure", "tick": 1, "iteration": 1},
                {"kind": "recovery", "tick": 1, "iteration": 1},
                {"kind": "iteration", "tick": 0, "iteration": 0, "loss": None},
            ],
        ),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_any_study_becomes_a_report(name: str, tmp_path: Path) -> None:
    path = write_report(Study(name, ODD[name]), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 3
    data = re.search(r'id="data">(.*?)</script>', text, flags=re.S)
    assert data is not None and json.loads(data[1])


def test_a_study_without_a_reference_says_so(tmp_path: Path) -> None:
    text = write_report(Study("x", ODD["no reference"]), tmp_path).read_text(encoding="utf-8")
    assert "There is no run of no_failure" in text


def test_an_entry_given_twice_counts_once_as_given_last() -> None:
    found = book(study(entry("x", trained([4.0, 3.0])), entry("x", trained([4.0, 2.0]))))
    ((run,),) = [group.runs for group in found.groups]
    assert run.validation.losses.tolist() == [4.0, 2.0]
