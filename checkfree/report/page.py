"""The page: one HTML file with its data, its script and plotly inside. It loads nothing."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from plotly.offline import get_plotlyjs

from checkfree.report import figures
from checkfree.report.bars import MEASURES, ledger, spent
from checkfree.report.groups import Book, rate_name
from checkfree.report.happenings import legend, panels
from checkfree.report.looks import BYTES_FILLS, SECONDS_FILLS, looks
from checkfree.report.markup import choice, data_script, escape, plot, swatch, symbol, tile, toggle
from checkfree.report.script import SCRIPT
from checkfree.report.study import REFERENCE
from checkfree.report.style import STYLE
from checkfree.report.summary import Summary
from checkfree.report.tables import headline, recoveries, runs, storage
from checkfree.report.told import configurations, versions
from checkfree.report.tracks import AXES, missed

_AXIS_NAMES = {
    "iterations": "iterations",
    "tokens": "tokens",
    "hours": "simulated hours",
    "seconds": "real seconds",
    "cost": "cost",
}


def page(book: Book, summary: Summary) -> str:
    """The whole file."""
    title = escape(book.study.title)
    sections = _sections(book, summary)
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{text}</section>'
        for key, name, text in sections
    )
    data = page_data(book)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{_lead(book, summary)}{_notes(book)}<nav>{links}</nav>{body}"
        f"<footer>{_FOOTER}</footer></main>{data_script(data)}"
        f"<script>{_plotly()}</script><script>{SCRIPT}</script></body></html>\n"
    )


_FOOTER = (
    "Made by <code>checkfree report</code> from the records of the runs alone. Intervals are 95 % "
    "t-intervals over seeds. Colours are those of Okabe and Ito; every line has a dash and a "
    "marker of its own too."
)


@cache
def _plotly() -> str:
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def page_data(book: Book) -> dict[str, Any]:
    """All that the script draws from."""
    found = panels(book)
    loss, gap = "loss (nats per token)", f"loss − loss of {REFERENCE} (nats per token)"
    bars = figures.layout("", "", 300) | {"barmode": "stack"}
    bars["yaxis"] |= {"autorange": "reversed", "ticks": "", "gridcolor": "rgba(0,0,0,0)"}
    return {
        "curves": figures.curves(book),
        "gaps": figures.gaps(book),
        "ledger": ledger(book),
        "panels": found,
        "layouts": {
            "curves": figures.layout("", loss, 460),
            "gaps": figures.layout("iteration", gap, 380),
            "ledger": bars,
        },
        "axes": figures.AXIS_TITLES,
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
    return f'<p class="lead">{escape(text)}</p>'


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _notes(book: Book) -> str:
    notes = [*book.study.notes]
    if not book.references:
        notes.append(f"There is no run of {REFERENCE}, so no differences to it are told.")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _sections(book: Book, summary: Summary) -> list[tuple[str, str, str]]:
    return [
        ("summary", "Summary", headline(book, summary) + _how(book, summary)),
        ("losses", "Loss", _curves(book)),
        ("differences", "Difference to no failures", _gaps(book)),
        ("failures", "Failures and repairs", _timeline(book)),
        ("recoveries", "What a loss costs", recoveries(book) + _CURE_NOTE),
        ("ledger-section", "Where time and bytes went", _ledger(book)),
        ("storage", "What is stored and sent", storage(book) + _STORE_NOTE),
        ("runs", "Every run", _runs(book, summary)),
        ("again", "Do it again", _again(book)),
    ]


def _runs(book: Book, summary: Summary) -> str:
    count = sum(len(group.runs) for group in book.groups)
    shown = runs(book, summary.target)
    return f"<details><summary>{_many(count, 'run')}</summary>{shown}</details>"


def _how(book: Book, summary: Summary) -> str:
    noise = (
        f"One validation reading varies by {summary.noise:.2g} nats: the standard deviation of the "
        "changes between successive readings in the second half of the reference's runs, over √2. "
        if math.isfinite(summary.noise)
        else "The reference has too few readings to tell how much one varies. "
    )
    text = (
        f"A gap is the validation loss minus that of {REFERENCE} with the same seed at the same "
        "iteration, so a gap above zero is worse; over the run it is the mean over all validation "
        "points after iteration 0. ± is half of a 95 % t-interval over n seeds; one seed has none. "
        "“Seeds vary by” is the standard deviation over seeds. "
        f"{noise}Means stop where the first seed ended. Seconds per iteration are those of the "
        "simulated fleet for each iteration kept, repairs and replays included; “undisturbed” "
        "leaves detection, rebuilding and replays out. Goodput is the share of useful seconds."
    )
    return f'<p class="note">{escape(text)}</p>'


def _rates(book: Book) -> str:
    return choice("rate", "failures", [(i, rate_name(r)) for i, r in enumerate(book.rates)])


def _controls(*parts: str) -> str:
    shown = "".join(parts)
    return f'<div class="controls">{shown}</div>' if shown else ""


def _labels(book: Book, reference: bool = True) -> str:
    styles = looks(book.labels)
    chips = "".join(
        f'<button type="button" data-label="{escape(label)}" aria-pressed="true" '
        f'title="show or hide">{swatch(styles[label])}{escape(book.name(label))}</button>'
        for label in book.labels
        if reference or label != REFERENCE
    )
    return f'<div class="legend">{chips}</div>'


def _curves(book: Book) -> str:
    every = [run for group in book.groups for run in group.runs]
    axes = [(axis, _AXIS_NAMES[axis]) for axis in AXES if not missed(every, axis)]
    several = any(len(group.runs) > 1 for group in book.groups)
    controls = _controls(
        choice("axis", "against", axes),
        _rates(book),
        choice("kind", "loss", [("validation", "validation"), ("training", "training")]),
        toggle("seeds", "single seeds") if several else "",
        toggle("near", "close up"),
    )
    note = (
        "Lines are means over seeds, bands their 95 % intervals; a cross marks a run that could "
        "not be saved. After a rollback the line against iterations shows the last reading of "
        "each; against all else it shows what happened, in its order. Training loss is smoothed. "
        "Drag to zoom, double-click to go back."
    )
    return (
        controls
        + _labels(book)
        + plot("curves", "No loss was recorded.")
        + f'<p class="missing" id="curves-missing"></p><p class="note">{escape(note)}</p>'
    )


def _gaps(book: Book) -> str:
    empty = f"Nothing can be paired: a gap needs {REFERENCE} and a strategy with the same seed."
    note = (
        f"Validation loss minus that of {REFERENCE} with the same seed, mean over seeds with its "
        "95 % interval. Above zero is worse. It stops where the first seed ended."
    )
    return (
        _controls(_rates(book))
        + _labels(book, reference=False)
        + plot("gaps", empty)
        + f'<p class="note">{escape(note)}</p>'
    )


def _timeline(book: Book) -> str:
    seeds = sorted({panel["keys"]["seed"] for panel in panels(book)})
    chips = "".join(
        f"<span>{symbol(marker, color)}{escape(rule)}</span>"
        for rule, marker, color in legend(book)
    )
    note = (
        "Each mark is a lost stage, its shape what was done about it. Grey: ticks that trained "
        "again what a rollback had thrown away. Dotted: where the run ended."
    )
    return (
        _controls(_rates(book), choice("seed", "seed", [(seed, str(seed)) for seed in seeds]))
        + f'<div class="legend">{chips}</div>'
        + plot("timeline", "No stage was lost here.")
        + f'<p class="note">{escape(note)}</p>'
    )


_CURE_NOTE = (
    '<p class="note">Jump: validation loss right after a repair minus the last one before the '
    "loss, with a 95 % t-interval over repairs (which share runs, so it is narrower than one over "
    "seeds). Back: the first validation at or below what it was before; repairs that never came "
    "back count as later than all others in the median.</p>"
)
_STORE_NOTE = (
    '<p class="note">Kept: the most extra bytes held at once. Sent: all bytes over the iterations '
    "that the run kept, mean over seeds, but those of validation, which measures and is no cost. "
    "Extra: beyond the reference of the same seed.</p>"
)


def _ledger(book: Book) -> str:
    note = (
        "Mean over seeds. Useful: work that was kept; bubble: waiting for another stage; transfer: "
        "waiting for bytes; replay: all that was done and done again. Validation takes no time on "
        "this clock: it measures, it is no cost."
    )
    return (
        _controls(choice("measure", "show", [(name, name) for name in MEASURES]), _rates(book))
        + _classes(book)
        + plot("ledger", "No run was priced on a fleet.")
        + f'<p class="note">{escape(note)}</p>'
    )


def _classes(book: Book) -> str:
    """What the colours of the ledger's bars mean, of those that occur."""
    shown = {
        kind: fill
        for measure, fills in (("seconds", SECONDS_FILLS), ("bytes", BYTES_FILLS))
        for kind, fill in fills.items()
        if any(spent(group, measure).get(kind) for group in book.groups)
    }
    chips = "".join(f"<span>{tile(fill)}{kind}</span>" for kind, fill in shown.items())
    return f'<div class="legend">{chips}</div>'


def _again(book: Book) -> str:
    command = book.study.command
    shown = f"<pre>{escape(command)}</pre>" if command else "<p>No command is recorded.</p>"
    return (
        f"<h3>Command</h3>{shown}<h3>Configurations</h3>"
        '<p class="note">Lines in colour differ between strategies or rates.</p>'
        f"{configurations(book)}<h3>Versions and data</h3>{versions(book)}"
    )
