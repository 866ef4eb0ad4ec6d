"""The page: one HTML file with its data, its script and plotly inside. It loads nothing."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from checkfree.report.study import traces
from checkfree.report.study.bars import MEASURES, ledger, spent
from checkfree.report.study.config_section import configurations, differences, versions
from checkfree.report.study.failure_timeline import legend, panels
from checkfree.report.study.frontier import AXES as SPENDS
from checkfree.report.study.frontier import frontier, frontier_layout, frontier_traces
from checkfree.report.study.groups import Book, rate_name
from checkfree.report.study.model import REFERENCE
from checkfree.report.study.run_series import AXES, missed
from checkfree.report.study.style import BYTES_FILLS, SECONDS_FILLS, Fill, styles_of
from checkfree.report.study.summary import Summary
from checkfree.report.study.tables import (
    frontier_table,
    headline,
    promises,
    recoveries,
    runs,
    storage,
)

_TEMPLATES = Path(__file__).parent / "templates"
_AXIS_NAMES = {
    "iterations": "iterations",
    "tokens": "tokens",
    "hours": "simulated hours",
    "seconds": "real seconds",
    "cost": "cost",
}


def page(book: Book, summary: Summary) -> str:
    """The whole file."""
    every, styles = [run for group in book.groups for run in group.runs], styles_of(book.labels)
    notes = [*book.study.notes]
    if not book.references:
        notes.append(f"There is no run of {REFERENCE}, so no differences to it are told.")
    return _render(
        "page.html",
        title=book.study.title,
        lead=_lead(book, summary),
        notes=notes,
        reference=REFERENCE,
        headline=headline(book, summary),
        noise=f"{summary.noise:.2g}" if math.isfinite(summary.noise) else "",
        axes=[(axis, _AXIS_NAMES[axis]) for axis in AXES if not missed(every, axis)],
        rates=[(place, rate_name(rate)) for place, rate in enumerate(book.rates)],
        several=any(len(group.runs) > 1 for group in book.groups),
        chips=[
            {"label": label, "style": styles[label], "name": book.name(label)}
            for label in book.labels
        ],
        seeds=[(seed, seed) for seed in sorted({p["keys"]["seed"] for p in panels(book)})],
        marks=list(legend(book)),
        recoveries=recoveries(book),
        promises=promises(book),
        measures=[(name, name) for name in MEASURES],
        fills=_fills(book),
        storage=storage(book),
        spends=[("sent", "bytes sent"), ("held", "memory")],
        frontier=frontier_table(book, frontier(book, summary)),
        count=_many(len(every), "run"),
        runs=runs(book, summary.target),
        command=book.study.command,
        differences=differences(book),
        configurations=configurations(book),
        versions=versions(book),
        data=page_data(book, summary),
    )


def page_data(book: Book, summary: Summary) -> dict[str, Any]:
    """All that the script draws from."""
    found = panels(book)
    loss, gap = "loss (nats per token)", f"loss − loss of {REFERENCE} (nats per token)"
    bars = traces.layout("", "", 300) | {"barmode": "stack"}
    bars["yaxis"] |= {"autorange": "reversed", "ticks": "", "gridcolor": "rgba(0,0,0,0)"}
    return {
        "curves": traces.curves(book),
        "gaps": traces.gaps(book),
        "ledger": ledger(book),
        "frontier": frontier_traces(book, frontier(book, summary)),
        "panels": found,
        "layouts": {
            "curves": traces.layout("", loss, 460),
            "gaps": traces.layout("iteration", gap, 380),
            "ledger": bars,
            "frontier": frontier_layout(),
        },
        "spends": SPENDS,
        "axes": traces.AXIS_TITLES,
        "labels": book.labels,
        "names": {label: book.name(label) for label in book.labels},
        "start": {
            "rate": 0,
            "axis": "iterations",
            "kind": "validation",
            "seeds": False,
            "near": False,
            "seed": found[0]["keys"]["seed"] if found else 0,
            "measure": "seconds",
            "spend": "sent",
        },
    }


def _lead(book: Book, summary: Summary) -> str:
    seeds = {run.entry.seed for group in book.groups for run in group.runs}
    count = sum(len(group.runs) for group in book.groups)
    words = [_many(count, "run"), _many(len(book.labels), "strategy", "strategies")]
    if book.rates != (None,):
        words.append(_many(len(book.rates), "failure rate"))
    words.append(_many(len(seeds), "seed"))
    text = ", ".join(words) + "."
    lost = sum(len(group.lost) for group in book.groups)
    if lost:
        text += f" {_many(lost, 'run')} could not be saved."
    if summary.target is not None:
        text += f" Target: a validation loss of {summary.target:.4f} ({summary.target_from})."
    return text


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _fills(book: Book) -> list[tuple[str, Fill]]:
    """What the colours of the ledger's bars mean, of those that occur."""
    shown = {
        kind: fill
        for measure, fills in (("seconds", SECONDS_FILLS), ("bytes", BYTES_FILLS))
        for kind, fill in fills.items()
        if any(spent(group, measure).get(kind) for group in book.groups)
    }
    return list(shown.items())


# --- HTML -----------------------------------------------------------------------------------------


def _render(name: str, **values: Any) -> str:
    """A template with these values. Whatever is put in is escaped; the page's own style and script,
    and plotly, are put in as they are."""
    return (
        _environment()
        .get_template(name)
        .render(
            **values,
            style=_as_it_is("page.css"),
            script=_as_it_is("page.js"),
            plotly=Markup(str(get_plotlyjs()).replace("</script", "<\\/script")),
        )
    )


@cache
def _environment() -> Environment:
    """Where templates are made. What a template names and isn't given is an error."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["breakable"] = _breakable
    made.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    return made


def _breakable(text: object) -> Markup:
    """Text with places where a narrow column may break it."""
    found = escape(text)
    for mark, broken in (("(", "<wbr>("), (",", ",<wbr>"), ("_", "_<wbr>")):
        found = Markup(found.replace(mark, Markup(broken)))
    return found


def _as_it_is(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
