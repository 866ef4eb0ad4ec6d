"""What a run shows while it trains: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from checkfree.core.config import Config
from checkfree.core.live import LiveStatus, render_replays, render_unprotected
from checkfree.core.participants import render_differences
from checkfree.core.records import (
    APART,
    AverageRecord,
    ConfigRecord,
    EndRecord,
    FailureRecord,
    IterationRecord,
    PlanRecord,
    ProcessRecord,
    RebuiltSeat,
    Record,
    RecoveryRecord,
    ResumeRecord,
    ValidationRecord,
    render_unread,
)
from checkfree.core.text_counts import render_text
from checkfree.core.units import render_bytes, render_seconds, render_utc
from checkfree.recovery.registry import replays
from checkfree.recovery.replay.promise import promised
from checkfree.recovery.rungs import REPLAY
from checkfree.runtime.replay_lines import ReplayLines

EVENTS = 10
UNPROTECTED_FOR = 10
"""Iterations after which it is told that a stage could not be replayed: for some it is always so
after a repair, until a copy has arrived."""

NO_MEMORY = (
    "this machine has not the memory for logs and copies: nothing is replayed, lost stages are "
    "restarted from shadows (recovery.log_memory=0)"
)

UNSPLIT = (
    "{} splits backwards, which the modules of stages {} can't be: W is empty there, B has it all"
)


class Display:
    """A listener of records. Use as a context: the panel is gone, its last state printed, after.
    ``timed``: each line of what happens has the time in UTC, as several machines tell of it."""

    def __init__(
        self, config: Config, console: Console, quiet: bool = False, *, timed: bool = False
    ):
        self._config, self._console, self._quiet = config, console, quiet
        self._timed = timed
        self._events: deque[Text] = deque(maxlen=EVENTS)
        self._bar = Progress(
            TextColumn("iteration"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("", total=config.iterations)
        self._members: dict[str, int] = {}
        self._lost: tuple[int, ...] = ()
        self._figures: dict[str, str] = {}
        self._promised = ""
        self._speed: float | None = None
        self._status = LiveStatus()
        self._replays = ReplayLines(lambda line: self._event(line, "yellow"))
        self._warned = False
        live = console.is_terminal and not quiet
        self._live = Live(console=console, refresh_per_second=8) if live else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()

    def __call__(self, record: Record) -> None:
        """Take in one record."""
        match record:
            case ConfigRecord():
                told = (render_text(record.data, record.text), render_unread(record.unread))
                for line in filter(None, told):
                    self._say(Text(line, style="yellow"))
                began = record.config.get("recovery", {}).get("log_memory")
                if began == 0 != self._config.recovery.log_memory:
                    self._say(Text(NO_MEMORY, style="yellow"))
                for note in (*record.notes, *filter(None, [record.stash])):
                    self._say(Text(note, style="yellow"))
                if record.unsplit:
                    stages = ", ".join(map(str, record.unsplit))
                    self._say(Text(UNSPLIT.format(self._config.schedule, stages), style="yellow"))
                if record.init:
                    self._event(begins_from(record.init, self._config), "cyan")
            case IterationRecord():
                self._iteration(record)
            case ValidationRecord():
                self._figures["validation"] = f"{record.loss:.4f}"
                if self._live is None and not record.after_repair:
                    figures = "  ".join(f"{name} {value}" for name, value in self._figures.items())
                    self._say(Text(f"iteration {record.iteration:>6}  {figures}"))
            case FailureRecord():
                self._lost = tuple(record.stages)
                seats = ", ".join(record.seats)
                self._event(f"tick {record.tick}: lost {seats}", "bold red")
            case PlanRecord():
                self._members, self._lost = dict(record.members), ()
                self._promise(record)
            case RecoveryRecord():
                self._event(describe(record), "green")
            case ResumeRecord():
                self._bar.update(self._task, completed=record.iteration)
                self._event(f"resumed at iteration {record.iteration}", "cyan")
            case ProcessRecord() if record.differs:
                who = f"{record.seat} computes" if record.seat else "this process computes"
                self._event(f"{who} with {render_differences(record.differs)}", "yellow")
            case AverageRecord():
                loss = "" if record.loss is None else f", validation {record.loss:.4f}"
                self._event(f"average of {len(record.iterations)} states{loss}", "cyan")
            case EndRecord() if record.status != "done":  # why, the command's last line tells
                self._event(f"{record.status} at iteration {record.iteration}", "bold red")
        if self._live is not None:
            self._live.update(self._panel())

    def live(self, status: LiveStatus) -> None:
        """What goes on between two records."""
        self._status = status
        if status.goodput is not None:
            self._figures["goodput"] = f"{status.goodput:.1%}"
        if self._live is not None:
            self._live.update(self._panel())
        else:
            self._replays(status.replays)

    def _iteration(self, record: IterationRecord) -> None:
        self._bar.update(self._task, completed=record.iteration + 1)
        self._figures["loss"] = f"{record.loss:.4f}"
        self._figures["lr"] = f"{record.lr:.2e}" if record.lr is not None else "–"
        self._protection(record.iteration)
        if record.seconds and record.tokens:
            now = record.tokens / record.seconds
            self._speed = now if self._speed is None else 0.9 * self._speed + 0.1 * now
            self._figures["tokens/s"] = f"{self._speed:,.0f}"

    def _protection(self, iteration: int) -> None:
        """Once, when it has been lost for long, and when it is back."""
        since = self._status.unprotected or {}
        late = {stage: at for stage, at in since.items() if iteration - at >= UNPROTECTED_FOR}
        if late and not self._warned:
            self._event(f"no replay could give back {render_unprotected(late)}", "yellow")
        elif self._warned and not since:
            self._event("any stage that is lost could be replayed again", "cyan")
        self._warned = bool(late) or (self._warned and bool(since))

    def _promise(self, plan: PlanRecord) -> None:
        """Where lost stages are replayed: which losses come back exactly, once a wave counts. Said
        again when seats have come to stand so that it is something else."""
        recovery = self._config.recovery
        if not (plan.members and replays(recovery)):
            return
        told = promised(plan.members, plan.hosts, plan.zones, recovery.copies)
        if told != self._promised:
            self._event(f"replay gives back {told}", "cyan")
        self._promised = told

    def _event(self, text: str, style: str) -> None:
        text = f"{render_utc(time.time())} {text}" if self._timed else text
        line = Text(text, style=style, overflow="ellipsis", no_wrap=self._live is not None)
        self._events.append(line)
        if self._live is None:
            self._say(line)

    def _say(self, line: Text) -> None:
        if not self._quiet:
            self._console.print(line, soft_wrap=True)

    def _panel(self) -> Group:
        figures = Text("  ".join(f"{name} {value}" for name, value in self._figures.items()))
        replays = render_replays(self._status.replays)
        more = [Text(replays, style="yellow")] if replays else []
        return Group(self._bar, figures, self._stages(), *more, *self._events)

    def _stages(self) -> Text:
        line = Text("stages  ")
        for stage in range(self._config.stages + 1):
            alive = sum(seat.startswith(f"{stage}.") for seat in self._members)
            down = stage in self._lost or not alive
            style = "bold red" if down else "green" if alive == self._config.replicas else "yellow"
            mark = f"{stage}" if self._config.replicas == 1 else f"{stage}×{alive}"
            line.append(f"[{mark}] ", style=style)
        return line


def begins_from(init: Mapping[str, Any], config: Config) -> str:
    """One line on the run, or the model's folder, that another one begins from: "begins from runs/a
    at iteration 20 …"."""
    where = f" at iteration {init['iteration']} ({init['kind']})" if init["stages"] else ""
    text = f"begins from {init['run']}{where}: weights"
    text += " and optimizer" if init["optimizer"] else ", with a fresh optimizer"
    if init["after"]:
        text += f", training text from iteration {init['after']} on"
    if init["stages"] not in (None, config.stages):
        text += f"; {init['stages']} stages cut into {config.stages}"
        if config.optimizer.clip is not None and config.optimizer.clip_over == "stage":
            text += ", each of which clips its gradients by itself: other losses than uncut"
    return text


def describe(record: RecoveryRecord) -> str:
    """One line on what was done: "tick 9: 4.0 weighted average of 3.0 (0.44) and 5.0 (0.56) …"."""
    rules = {made.recipe.rule for made in record.rebuilds.values()}
    if record.lost_iterations or rules == {"checkpoint"}:
        text = f"all stages back to iteration {record.resume_at}"
        text += f", {record.lost_iterations} iterations to train again"
    else:
        made = record.rebuilds.items()
        text = "; ".join(f"{seat} {_recipe(how, record.iteration)}" for seat, how in made)
    cost = f" ({render_bytes(record.bytes)}, {render_seconds(record.seconds or 0.0)})"
    losses = ""
    if record.validation_after is not None:
        before = "–" if record.validation_before is None else f"{record.validation_before:.4f}"
        losses = f", validation {before} → {record.validation_after:.4f}"
    return f"tick {record.tick}: {text}{cost}{losses}"


def _recipe(made: RebuiltSeat, committed: int) -> str:
    sources = made.recipe.sources
    if made.recipe.rule == REPLAY:
        begins = sources[0].version if sources else 0
        held = f", from the copy of {sources[0].holder}" if sources else ""
        apart = made.check.get(APART)
        close = "" if apart is None else f", close to what was lost (norms within {apart:.1e})"
        return f"replay of {committed - begins} iterations, {begins} … {committed}{held}{close}"
    weights: Sequence[float | None] = made.weights or [None] * len(sources)
    named = [
        f"{source.holder} ({weight:.2f})"
        if len(sources) > 1 and weight is not None
        else str(source.holder)
        for source, weight in zip(sources, weights, strict=False)
    ]
    return f"{made.recipe.rule} of {' and '.join(named)}" if named else made.recipe.rule
