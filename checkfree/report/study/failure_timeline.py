"""The failure timeline as plotly understands it: a lane a strategy, ticks across, stages upward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkfree.core.records import of_kind
from checkfree.report.loss_marks import finite, rolled_back
from checkfree.report.study.groups import Book, config_of
from checkfree.report.study.run_series import RunSeries
from checkfree.report.study.style import GREY, PALE
from checkfree.report.study.summary import lost_stages
from checkfree.report.study.traces import FONT, Trace, layout, plain, wrapped

_SHAPES = (
    "diamond",
    "square",
    "circle",
    "triangle-up",
    "star",
    "hexagon",
    "triangle-down",
    "bowtie",
)
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#000000")
_UNSAVED = {"symbol": "x", "color": "#000000"}
_UNSAVED_NAME = "not recovered"
_TWIN = "seat lost, its twin lived"
_LANE, _STAGE, _BELOW = 40, 15, 60  # pixels


def panels(book: Book) -> list[dict[str, Any]]:
    """One a rate and seed: ``keys`` (``rate``, ``seed``), ``traces`` and ``layout``."""
    rules = _rules(run for group in book.groups for run in group.runs)
    found = []
    for place, rate in enumerate(book.rates):
        groups = [group for group in book.at(rate) if not group.is_reference]
        for seed in sorted({run.entry.seed for group in groups for run in group.runs}):
            lanes = [run for group in groups for run in group.runs if run.entry.seed == seed]
            lanes = [run for run in lanes if lost_stages(run) or not run.saved]
            if lanes:
                keys = {"rate": place, "seed": seed}
                found.append({"keys": keys, **_panel(lanes, rules)})
    return found


def legend(book: Book) -> list[tuple[str, str, str]]:
    """Rule, symbol, colour of all that the panels may show."""
    rules = _rules(run for group in book.groups for run in group.runs)
    return [(rule, mark["symbol"], mark["color"]) for rule, mark in rules.items()]


def _rules(runs: Iterable[RunSeries]) -> dict[str, dict[str, str]]:
    names: dict[str, None] = {}
    unsaved = False
    for run in runs:
        for _, _, rule, _ in _events(run):
            unsaved |= rule == _UNSAVED_NAME
            names.setdefault(rule)
    names.pop(_UNSAVED_NAME, None)
    marks = {
        rule: {"symbol": _SHAPES[i % len(_SHAPES)], "color": _COLORS[i % len(_COLORS)]}
        for i, rule in enumerate(names)
    }
    return marks | ({_UNSAVED_NAME: _UNSAVED} if unsaved else {})


def _events(run: RunSeries) -> list[tuple[int, int, str, str]]:
    """Tick, stage, rule and what to tell of each lost stage, in order.

    A repair ends what was lost since the repair before it.
    """
    found: list[tuple[int, int, str, str]] = []
    waiting: list[tuple[int, int, str]] = []
    for record in run.entry.records:
        if record["kind"] == "failure":
            waiting += [(int(finite(record.get("tick")) or 0), s, t) for s, t in _places(record)]
        elif record["kind"] == "recovery":
            made = record.get("rebuilds") or {}
            found += [(tick, s, *_told(tick, seat, made, record)) for tick, s, seat in waiting]
            waiting = []
    why = f"<br>{wrapped(run.reason)}" if run.reason else ""
    for tick, stage, seat in waiting:
        text = f"tick {tick}: {_name(seat)} lost, not recovered{why}"
        found.append((tick, stage, _UNSAVED_NAME, text))
    return found


def _places(failure: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Stage and seat of all that was lost; one seat for a stage that is gone whole."""
    seats = [str(seat) for seat in failure.get("seats") or ()]
    whole = [int(stage) for stage in failure.get("stages") or ()]
    single = [(int(s.split(".")[0]), s) for s in seats if int(s.split(".")[0]) not in whole]
    return [(stage, f"{stage}.0") for stage in whole] + single


def _told(
    tick: int, seat: str, made: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[str, str]:
    rebuild = made.get(seat) or {}
    rule = str(rebuild.get("rule") or _TWIN)
    lines = [f"tick {tick}: {_name(seat)} lost", f"<b>{plain(rule)}</b>{_sources(rebuild)}"]
    again = record.get("lost_iterations")
    if again:
        lines.append(f"back to iteration {record.get('resume_at')}: {again} to train again")
    before, after = finite(record.get("validation_before")), finite(record.get("validation_after"))
    if before == before and after == after:
        lines.append(f"validation {before:.4f} → {after:.4f}")
    return rule, "<br>".join(lines)


def _name(seat: str) -> str:
    stage, _, replica = seat.partition(".")
    return f"S{stage}" if replica in ("", "0") else f"seat {seat}"


def _sources(rebuild: Mapping[str, Any]) -> str:
    named = []
    weights = rebuild.get("weights") or ()
    for place, source in enumerate(rebuild.get("sources") or ()):
        holder = source.get("holder") if isinstance(source, Mapping) else source
        weight = f" × {weights[place]:.2f}" if len(weights) > 1 and place < len(weights) else ""
        named.append(f"{plain(str(holder))}{weight}")
    return f" from {', '.join(named)}" if named else ""


def _panel(lanes: Sequence[RunSeries], rules: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    stages = [_stages(run) for run in lanes]
    heights = [_LANE + _STAGE * count for count in stages]
    total = sum(heights)
    shown = layout("tick (rollbacks included)", "", total + _BELOW)
    width = max(run.ticks for run in lanes)
    # Every lane is as wide as the longest run, with room for a marker at either end.
    shown["xaxis"] |= {"range": [-0.03 * width - 0.5, 1.03 * width + 0.5], "anchor": "free"}
    shown["xaxis"] |= {"position": 0.0}
    shown |= {"annotations": [], "shapes": []}
    traces: list[Trace] = []
    top = 1.0
    for place, (run, count, height) in enumerate(zip(lanes, stages, heights, strict=True)):
        number = "" if place == 0 else str(place + 1)
        bottom = top - height / total
        low, high = bottom + 8 / total, top - 26 / total
        shown[f"yaxis{number}"] = _stage_axis(shown["yaxis"], count, low, high)
        shown["annotations"].append(_title(run, high))
        shown["shapes"] += _background(run, number, count)
        traces += _marks(run, number, rules)
        top = bottom
    return {"traces": traces, "layout": shown}


def _stages(run: RunSeries) -> int:
    """How many there are, stage 0 among them."""
    stages = config_of(run.entry).get("stages")
    seen = [stage for _, stage, _, _ in _events(run)]
    return max([int(stages) if isinstance(stages, int) else 0, *seen]) + 1


def _stage_axis(like: Mapping[str, Any], count: int, low: float, high: float) -> dict[str, Any]:
    step = 1 + count // 17
    shown = list(range(0, count, step))
    return {
        **like,
        "title": {"text": ""},
        "domain": [max(0.0, low), min(1.0, high)],
        "range": [-0.6, count - 0.4],
        "fixedrange": True,
        "tickvals": shown,
        "ticktext": [f"S{stage}" for stage in shown],
        "tickfont": {"size": 10},
        "ticks": "",
        "zeroline": False,
        "gridcolor": "#F1F1F1",
    }


def _title(run: RunSeries, at: float) -> dict[str, Any]:
    lost = lost_stages(run)
    word = f"{lost} lost" + ("" if run.saved else f", ended at {run.end}")
    return {
        "text": f"<b>{plain(run.entry.label)}</b>  {word}",
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": at,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 12, "family": FONT},
    }


def _background(run: RunSeries, number: str, count: int) -> list[dict[str, Any]]:
    """What was trained again in grey, and where the run ended as a line."""
    again = {"type": "rect", "fillcolor": PALE, "line": {"width": 0}, "layer": "below"}
    where = {"xref": "x", "yref": f"y{number}", "y0": -0.6, "y1": count - 0.4}
    steps = of_kind(run.entry.records, "iteration")
    shapes = [
        {**again, **where, "x0": start - 0.5, "x1": end - 0.5} for start, end in rolled_back(steps)
    ]
    line = {"type": "line", "line": {"color": GREY, "width": 1.2, "dash": "dot"}}
    return [*shapes, {**line, **where, "x0": run.ticks, "x1": run.ticks}]


def _marks(run: RunSeries, number: str, rules: Mapping[str, Mapping[str, str]]) -> list[Trace]:
    events = _events(run)
    found = []
    for rule in dict.fromkeys(rule for _, _, rule, _ in events):
        those = [(tick, stage, text) for tick, stage, named, text in events if named == rule]
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": plain(rule),
            "x": [tick for tick, _, _ in those],
            "y": [stage for _, stage, _ in those],
            "text": [text for _, _, text in those],
            "hovertemplate": "%{text}<extra></extra>",
            "yaxis": f"y{number}",
            "marker": {**rules[rule], "size": 9, "line": {"color": "white", "width": 1}},
        }
        found.append(trace)
    # A lane without events would have no axis.
    return found or [{"type": "scatter", "x": [None], "y": [None], "yaxis": f"y{number}"}]
