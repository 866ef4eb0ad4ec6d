"""The page's tables. A strategy's row stands in each, whether its runs came through or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from checkfree.core.cost import BYTES
from checkfree.core.records import of_kind
from checkfree.core.units import render_bytes, render_seconds
from checkfree.recovery.replay.promise import promised
from checkfree.report.study.bars import spent
from checkfree.report.study.cells import NOTHING, Divider, Endings, Head, Table, TableCell, TableRow
from checkfree.report.study.frontier import FrontierPoint
from checkfree.report.study.groups import Book, Group, rate_name
from checkfree.report.study.interval import Estimate, estimate
from checkfree.report.study.recovery_stats import RecoveryStats, recovery_stats
from checkfree.report.study.run_series import RunSeries
from checkfree.report.study.style import Style, styles_of
from checkfree.report.study.summary import (
    Summary,
    SummaryRow,
    extra_sent,
    mean,
    reach,
    sent_in_all,
    sent_per_iteration,
)


@dataclass(frozen=True)
class Names:
    """How strategies are named in the first column."""

    book: Book
    styles: Mapping[str, Style]

    def of(self, group: Group) -> Head:
        """With its style, whose stages may fail if not the usual ones, and whose curve it is."""
        label = group.label
        fails = self.book.may_fail.get(label)
        reused = [run for run in group.runs if run.entry.reused]
        below = (
            f"only {fails} may fail" if fails else "",
            *(
                f"seed {run.entry.seed}: curve of {run.entry.reused}; identical by construction"
                for run in reused[:1]
            ),
            f"and {len(reused) - 1} more seeds so" if len(reused) > 1 else "",
        )
        return Head(label, below, self.styles[label])


def names(book: Book) -> Names:
    return Names(book, styles_of(book.labels))


HEADLINE = (
    "Strategy",
    "Came through",
    "Gap to no_failure, whole run",
    "Gap at the end",
    "Iterations to target",
    "Simulated hours to target",
    "Simulated s per iteration",
    "Goodput",
    "Cost",
    "Stages lost per run",
)


def headline(book: Book, summary: Summary) -> Table:
    """A row a strategy and rate."""
    name = names(book)
    rows = {(line.group.label, line.group.rate): line for line in summary.rows}

    def one(group: Group) -> Iterable[TableRow]:
        yield TableRow(name.of(group), _headline(book, rows[group.label, group.rate], summary))

    return Table(HEADLINE, tuple(_by_rate(book, one)), "Summary of all strategies")


def _by_rate(
    book: Book, one: Callable[[Group], Iterable[TableRow]], groups: Sequence[Group] | None = None
) -> Iterable[TableRow | Divider | Endings]:
    """Rows with a divider for each rate, where there are several."""
    found = book.groups if groups is None else groups
    several = book.rates != (None,)
    rates = dict.fromkeys(group.rate for group in found)
    order = {label: place for place, label in enumerate(book.labels)}
    for rate in sorted(rates, key=lambda r: -1.0 if r is None else r):
        if several:
            calm = rate is None and all(g.is_reference for g in found if g.rate is None)
            yield Divider("without failures" if calm else rate_name(rate))
        those = (group for group in found if group.rate == rate)
        for group in sorted(those, key=lambda group: order[group.label]):
            yield from one(group)
            lines = tuple(_endings(group))
            if lines:
                yield Endings(lines)


def _headline(book: Book, line: SummaryRow, summary: Summary) -> tuple[TableCell, ...]:
    group = line.group
    well = sum(run.saved and run.finished for run in group.runs)
    return (
        TableCell(f"{well} of {len(group.runs)}", bad=well < len(group.runs)),
        _gap(line, line.gap, summary.noise, ""),
        _gap(line, line.gap_at_end, summary.noise, "at"),
        _target(line, [float(at.iteration) for at in line.reached], summary, "{:,.0f}"),
        _target(line, [at.hours for at in line.reached], summary, "{:,.3g}"),
        TableCell(
            number(line.seconds, "{:,.4g}"),
            (f"{line.undisturbed:,.4g} undisturbed" if line.undisturbed is not None else "",),
        ),
        TableCell(number(line.goodput, "{:.1%}")),
        TableCell(number(line.cost, "{:,.4g}")),
        TableCell(f"{line.failures:.3g}", (f"{line.recoveries:.3g} repairs",)),
    )


def _gap(line: SummaryRow, gap: Estimate | None, noise: float, where: str) -> TableCell:
    if line.group.is_reference:
        return TableCell("0", ("reference",))
    if gap is None:
        why = "ended too early" if line.group.lost else "no seed has its pair"
        return TableCell(NOTHING, (why,))
    jitter = f"a reading by {noise:.4f}" if math.isfinite(noise) else ""
    spread = f"seeds vary by {gap.deviation:.4f}" if gap.n > 1 else ""
    stop = f"{'at' if where else 'to'} iteration {line.compared_to}, n = {gap.n}"
    return TableCell(interval(gap, signed=True), (stop, spread, jitter))


def interval(found: Estimate | None, signed: bool = False, digits: int = 4) -> str:
    """``+0.0123 ± 0.0045``; one value has no interval."""
    if found is None:
        return NOTHING
    if found.mean == 0 and not found.half > 0:
        return "0 exactly"
    sign = "+" if signed else ""
    half = f" ± {found.half:.{digits}f}" if math.isfinite(found.half) else ""
    return f"{found.mean:{sign}.{digits}f}{half}".replace("-", "−")


def number(value: float | None, form: str) -> str:
    return NOTHING if value is None or not math.isfinite(value) else form.format(value)


def _target(line: SummaryRow, values: Sequence[float], summary: Summary, form: str) -> TableCell:
    if summary.target is None:
        return TableCell(NOTHING)
    reached = f"{len(line.reached)} of {len(line.group.runs)} reached"
    found = estimate(values)
    if found is None:
        return TableCell(NOTHING, (reached,))
    half = f" ± {form.format(found.half)}" if math.isfinite(found.half) else ""
    return TableCell(form.format(found.mean) + half, (reached,))


def _endings(group: Group) -> Iterable[tuple[str, str, str]]:
    """Of its runs that did not come through: which, where, why."""
    reasons: dict[tuple[int, str, bool], list[int]] = {}
    for run in (*group.lost, *(run for run in group.unfinished if run.saved)):
        reasons.setdefault((run.end, run.reason, run.saved), []).append(run.entry.seed)
    for (end, reason, saved), seeds in reasons.items():
        who = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        yield who, f"{'stopped' if saved else 'ended'} at {end}", reason or "not finished"


STORED = ("Strategy", "Kept on peers", "Kept in the store", "Sent per iteration", "Extra sent")


def storage(book: Book) -> Table:
    """What each method stores and sends."""
    name = names(book)
    shown = [kind for kind in BYTES if any(spent(g, "bytes").get(kind) for g in book.groups)]
    columns = (
        *STORED,
        *(f"of it {kind}" if kind != "validation" else "besides, validation" for kind in shown),
    )

    def one(group: Group) -> Iterable[TableRow]:
        yield TableRow(name.of(group), _storage(book, group, shown))

    return Table(columns, tuple(_by_rate(book, one)), "What is stored and sent")


def _storage(book: Book, group: Group, shown: Sequence[str]) -> tuple[TableCell, ...]:
    priced = [p for run in group.runs if (p := run.entry.priced) is not None]
    if not priced:
        return (TableCell(NOTHING),) * (len(STORED) - 1 + len(shown))
    peers, store = (mean(float(p.stored.get(key, 0)) for p in priced) for key in ("peers", "store"))
    sent = [s for run in group.runs if (s := sent_per_iteration(run)) is not None]
    extra = [e for run in group.runs if (e := extra_sent(book, run)) is not None]
    return (
        TableCell(size(peers)),
        TableCell(size(store)),
        TableCell(size(mean(sent_in_all(s) for s in sent))),
        TableCell("reference" if group.is_reference else size(mean(extra), sign=True)),
        *(TableCell(size(mean(s.get(kind, 0.0) for s in sent))) for kind in shown),
    )


def size(count: float | None, sign: bool = False) -> str:
    if not count:
        return NOTHING if count is None else "0"
    text = render_bytes(count).replace("-", "−")
    return f"+{text}" if sign and count > 0 else text


FRONTIER = (
    "Strategy",
    "Gap to no_failure, whole run",
    "Sent per parameter and iteration",
    "In memory per parameter",
)


def frontier_table(book: Book, points: Sequence[FrontierPoint]) -> Table:
    """What each point of the frontier is, and why there is none where there is none."""
    name = names(book)
    found = {(point.group.label, point.group.rate): point for point in points}
    groups = [point.group for point in points]

    def one(group: Group) -> Iterable[TableRow]:
        point = found[group.label, group.rate]
        gap = TableCell(interval(point.gap, signed=True), (point.missing,))
        yield TableRow(name.of(group), (gap, _few_bytes(point.sent), _few_bytes(point.held)))

    return Table(FRONTIER, tuple(_by_rate(book, one, groups)), "What nats cost")


def _few_bytes(count: float | None) -> TableCell:
    return TableCell(NOTHING if count is None else f"{count:,.3g} bytes".replace("-", "−"))


CURED = (
    "Strategy",
    "Stages lost",
    "Jump of validation loss",
    "Median ticks until back",
    "Back within the run",
    "Seconds of a repair on the fleet",
    "Rebuilt by rule",
)


def promises(book: Book) -> list[tuple[str, str]]:
    """Of each strategy that replays stages, which losses come back exactly, as its seats stood in
    its first run: if they stood otherwise in others, that is another line."""
    found: dict[tuple[str, str], None] = {}
    for run in (run for group in book.groups for run in group.runs):
        plans = [plan for plan in of_kind(run.entry.records, "plan") if plan["members"]]
        steps = of_kind(run.entry.records, "iteration")
        if plans and any(step.get("digests") for step in steps):
            copies = run.entry.records[0]["config"]["recovery"].get("copies", 1)
            hosts, zones = plans[0].get("hosts", {}), plans[0].get("zones", {})
            told = promised(plans[0]["members"], hosts, zones, copies)
            found[book.name(run.entry.label), told] = None
    return list(found)


def recoveries(book: Book) -> Table:
    """What losses did to each strategy."""
    name = names(book)
    found = {(stats.group.label, stats.group.rate): stats for stats in recovery_stats(book)}
    groups = [stats.group for stats in found.values()]

    def one(group: Group) -> Iterable[TableRow]:
        yield TableRow(name.of(group), _recovery_cells(found[group.label, group.rate]))

    rows = tuple(_by_rate(book, one, groups))
    return Table(CURED, rows, "Recoveries", frozenset(CURED[-1:]))


def _recovery_cells(stats: RecoveryStats) -> tuple[TableCell, ...]:
    rules = ", ".join(f"{rule} {count}" for rule, count in sorted(stats.rules.items()))
    jump = f"{stats.jump.n} repairs measured" if stats.jump else ""
    seconds = stats.seconds
    took = render_seconds(seconds.mean) if seconds else NOTHING
    return (
        TableCell(str(stats.lost)),
        TableCell(interval(stats.jump, signed=True), (jump,)),
        TableCell(
            number(stats.back, "{:g}")
            if stats.returned or not stats.measured
            else "not within the run"
        ),
        TableCell(f"{stats.returned} of {stats.measured}" if stats.measured else NOTHING),
        TableCell(took, (f"{seconds.n} repairs" if seconds else "",)),
        TableCell(rules or NOTHING, text=True),
    )


RUNS = (
    "Run",
    "Seed",
    "Last iteration",
    "Ticks",
    "Best validation",
    "Last validation",
    "Target at",
    "Goodput, real",
    "Folder",
)


def runs(book: Book, target: float | None) -> Table:
    """Every run by itself."""
    name = names(book)

    def one(group: Group) -> Iterable[TableRow]:
        for run in group.runs:
            yield TableRow(name.of(replace(group, runs=(run,))), _run(run, target))

    return Table(RUNS, tuple(_by_rate(book, one)), "Every run", frozenset(RUNS[-1:]))


def _run(run: RunSeries, target: float | None) -> tuple[TableCell, ...]:
    losses = [loss for loss in run.validation.last()[1].tolist() if math.isfinite(loss)]
    at = reach(run, target)
    return (
        TableCell(str(run.entry.seed)),
        TableCell(f"{run.end:,}"),
        TableCell(f"{run.ticks:,}"),
        TableCell(number(min(losses, default=None), "{:.4f}")),
        TableCell(number(losses[-1] if losses else None, "{:.4f}")),
        TableCell(f"{at.iteration:,}" if at else NOTHING),
        TableCell(number(run.goodput, "{:.1%}")),
        TableCell(str(run.entry.folder), code=True, text=True),
    )
