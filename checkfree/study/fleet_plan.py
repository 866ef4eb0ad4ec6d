"""Which strategy, and which of its values, finish first on a fleet: searched by simulated runs.

Exact strategies end with the same weights, so their time is all there is to compare. Each interval
is looked for among rehearsals on the same losses, around what the closed forms of
``checkfree.simulator.intervals`` say. Where these would meet too few losses to tell anything apart,
the closed forms are all there is, of single losses that are rehearsed. Inexact strategies cost nats
as well, which no rehearsal knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from checkfree.config.load import source_of
from checkfree.core.config import Config
from checkfree.core.cost import Priced
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.core.units import render_bytes
from checkfree.failures import poisson_rate_per_hour, target_stages
from checkfree.plugins import packages
from checkfree.session.auto_schedule import with_schedule
from checkfree.session.memory import seat_bytes
from checkfree.session.rehearsal import rehearse, setting
from checkfree.session.sizes import log_bytes, own_sizes, recovery_of
from checkfree.simulator.failure_schedule import TickStrikes
from checkfree.simulator.intervals import (
    MeasuredTimes,
    between_waves,
    daly,
    seconds_with_checkpoints,
    seconds_with_restarts,
    seconds_with_waves,
    young,
)
from checkfree.simulator.rehearse import RehearsalSetting
from checkfree.simulator.rehearse import rehearse as rehearse_setting
from checkfree.study.costs import LossCosts
from checkfree.study.options import make_options
from checkfree.study.plan import base, plan, seeded

UNDISTURBED = "no_failure"
INEXACT = ("auto(log_memory=0)", "shadow", "fit", "checkfree", "checkfree_plus")
"""Those that are listed if no study says what they cost."""
LONGEST = 1000
"""Iterations of a rehearsal; a longer run is expected to go on as it began."""
SHORTEST = 20
HOPELESS = 8
"""A rehearsal that has trained so many times its iterations is not followed any further."""
NEVER = 1000
"""A run that takes so many times an undisturbed one does not finish."""
FEW = 30
"""With fewer losses over all seeds, two intervals differ more by chance than by themselves."""
PERIODS = 8
"""Waves or checkpoints of a rehearsal that nothing is lost in."""


@dataclass(frozen=True)
class PlanChoice:
    """A strategy with its values, as it would be typed, on the fleet. Seconds and bytes are means
    over simulated runs."""

    label: str
    exact: bool
    memory: int
    """Bytes that a node takes."""
    log_memory: int = 0
    """Of them, for what it has sent."""
    iteration: float = math.nan
    """Seconds for each iteration that the run keeps."""
    hours: float = math.inf
    """Expected until all iterations are trained, begun anew where a loss ended the run."""
    ended: int = 0
    """Of its runs, by a loss that it could not recover."""
    runs: int = 0
    met: int = 0
    """Stages lost, over all runs."""
    losses: float = math.nan
    """Of stages, per iteration that the run keeps."""
    sent: float = math.nan
    """Bytes per iteration that the run keeps."""
    cost: float | None = None
    """Of all nodes for those hours; None without a price."""
    gap: float | None = None
    """Expected over the run, in nats; None: nobody knows."""
    out: str = ""
    """Why it is out of the question, or has no rank; empty: it has."""


@dataclass(frozen=True)
class Interval:
    """Between two checkpoints or waves, in iterations. ``forms``: what closed forms say, by
    name."""

    forms: Mapping[str, float]
    taken: int


@dataclass(frozen=True)
class FleetPlan:
    """What was found. ``choices``: the best of each strategy, ranked ones first; ``tried``: all
    that was simulated."""

    fleet: str
    nodes: int
    rate: float
    """Losses per stage and hour, in percent."""
    stages: tuple[int, ...]
    """That may be lost."""
    iterations: int
    simulated: int
    """Iterations of each rehearsal."""
    seeds: int
    searched: bool
    """By simulated runs; False: by closed forms, for they would meet too few losses."""
    undisturbed: PlanChoice
    choices: tuple[PlanChoice, ...]
    waves: Interval | None
    checkpoints: Interval | None
    lag: int
    """Iterations until a wave counts."""
    noise: float | None
    """Nats below which a gap is none; None: gaps are not known."""
    tried: tuple[PlanChoice, ...]

    @property
    def fastest(self) -> PlanChoice | None:
        """Of the exact strategies."""
        return min(self._exact(), key=lambda choice: choice.hours, default=None)

    @property
    def cheapest(self) -> PlanChoice | None:
        """Of the exact strategies; None without a price."""
        priced = [choice for choice in self._exact() if choice.cost is not None]
        return min(priced, key=lambda choice: choice.cost or 0.0, default=None)

    def _exact(self) -> list[PlanChoice]:
        return [c for c in self.choices if c.exact and not c.out and math.isfinite(c.hours)]


def plan_fleet(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    rate: float,
    memory: int | None = None,
    costs: LossCosts | None = None,
    seeds: int = 3,
    words: Sequence[str] = (),
    allow: Collection[str] = (),
    watch: Callable[[str], object] = bool,
) -> FleetPlan:
    """The plan for ``config`` with ``words`` over it, on its ``fleet``. ``rate``: losses per stage
    and hour, in percent; ``memory``: bytes that a node has; ``costs``: of inexact strategies;
    ``watch`` is called with what is tried next. Raises BadInput."""
    if not 0 < rate < 100:
        raise BadInput(
            f"--rate {rate:g}: expected percent per stage and hour, above 0 and below 100, as in 5"
        )
    tree = base(source_of(config), words)
    search = FleetSearch(tree, rate, memory, seeds, {*allow, *packages(words)}, watch)
    waves, replayed = search.waves()
    checkpoints, rolled_back = search.checkpoints()
    exact = [*replayed, rolled_back, search.tell("redundant")]
    labels = INEXACT if costs is None else [label for label in costs.nats if is_inexact(label)]
    inexact = [_inexact(search, label, costs) for label in labels]
    noise = None if costs is None else costs.noise
    return FleetPlan(
        search.fleet,
        search.nodes,
        rate,
        search.stages,
        search.iterations,
        search.simulated,
        seeds,
        search.by_runs,
        search.undisturbed,
        ranked([*exact, *inexact], noise or 0.0),
        waves,
        checkpoints,
        search.lag,
        noise,
        tuple(search.tried.values()),
    )


def is_inexact(label: str) -> bool:
    """Whether a strategy's repairs may change the weights."""
    name = label.partition("(")[0]
    return name not in (UNDISTURBED, "none", "checkpoint", "replay", "redundant")


def ranked(choices: Sequence[PlanChoice], noise: float) -> tuple[PlanChoice, ...]:
    """By nats, where gaps within the noise of a reading are none, then by hours; what has no rank
    comes last."""

    def place(choice: PlanChoice) -> tuple[bool, float, float]:
        gap = choice.gap if choice.gap is not None and choice.gap > noise else 0.0
        return bool(choice.out), gap, choice.hours

    return tuple(sorted(choices, key=place))


def best_interval(tell: Callable[[int], float], start: float, least: int, most: int) -> int:
    """The best of a grid around ``start`` and of the ``least``, and of what lies half-way to the
    best's neighbours. ``tell``: what is to be small."""
    grid = {_within(start * factor, least, most) for factor in (0.25, 0.5, 1, 2, 4)} | {least}
    found = {interval: tell(interval) for interval in sorted(grid)}
    best = min(found, key=lambda interval: (found[interval], interval))
    tried = sorted(found)
    beside = tried[max(0, tried.index(best) - 1) : tried.index(best) + 2]
    for other in beside:
        between = _within(math.sqrt(best * other), least, most)
        if between not in found:
            found[between] = tell(between)
    return min(found, key=lambda interval: (found[interval], interval))


def _within(interval: float, least: int, most: int) -> int:
    return max(least, min(most, round(min(interval, float(most)))))


def _inexact(search: FleetSearch, label: str, costs: LossCosts | None) -> PlanChoice:
    """With its gap; a study may have had strategies that can't be made here."""
    if costs is None:
        choice = search.tell(label)
        return replace(choice, out=choice.out or "not ranked")
    try:
        choice = search.tell(label)
    except BadInput as error:
        return PlanChoice(label, False, 0, out=str(error))
    return replace(choice, gap=costs.gap(label, choice.losses))


class FleetSearch:
    """Simulated runs of one configuration, each strategy on the same losses."""

    def __init__(
        self,
        tree: Mapping[str, Any],
        rate: float,
        memory: int | None,
        seeds: int,
        allow: Collection[str],
        watch: Callable[[str], object],
    ):
        self._tree, self._rate, self._allow = dict(tree), rate, allow
        self._memory, self._seeds, self._watch = memory, seeds, watch
        self.tried: dict[str, PlanChoice] = {}
        self._configs: dict[str, Config] = {}
        make_options({}, {"seeds": seeds})
        reference = self._config(UNDISTURBED)
        self.iterations = reference.iterations
        if self.iterations < SHORTEST:
            raise BadInput(
                f"iterations={self.iterations}: expected at least {SHORTEST}: losses would hardly "
                "come"
            )
        self.simulated = min(self.iterations, LONGEST)
        self._tree["iterations"] = self.simulated
        self._configs.clear()
        self._stage_count, self._replicas = reference.stages, reference.replicas
        watch(UNDISTURBED)
        calm = rehearse(self._config(UNDISTURBED), until=SHORTEST).priced
        self.fleet, self.nodes, self._price = calm.fleet, calm.nodes, calm.price
        self._serial = calm.nodes == 1
        self.iteration = calm.total / SHORTEST
        self.undisturbed = self._choice(UNDISTURBED, reference, [calm], 0)
        probe = self._config("redundant")
        self.stages = target_stages(probe.failures.stages, probe.stages)
        self.losses = poisson_rate_per_hour(rate / 100) * len(self.stages) / 3600
        self.by_runs = self.losses * self.iteration * self.simulated * seeds >= FEW
        self.lag = recovery_of(self._config("replay")).wave_lag or 0

    # --- one choice ------------------------------------------------------------------------------

    def tell(self, label: str) -> PlanChoice:
        """What runs of it take, each simulated once."""
        if label not in self.tried:
            self.tried[label] = self._told(label)
        return self.tried[label]

    def _told(self, label: str) -> PlanChoice:
        needed = self._fits(label)
        if needed.out:
            return needed
        self._watch(label)
        config = self._config(label)
        if not self.by_runs:
            return self._by_form(needed, setting(config))
        configs = [seeded(config, number) for number in range(self._seeds)]
        made = [rehearse(config, until=HOPELESS * self.simulated) for config in configs]
        return self._choice(
            label, configs[0], [run.priced for run in made], sum(len(run.trace) for run in made)
        )

    def _config(self, label: str) -> Config:
        """Of its first seed."""
        if label not in self._configs:
            given = {"strategies": [label], "rates": [] if label == UNDISTURBED else [self._rate]}
            cells = plan(self._tree, make_options({}, given), Path("planned"), self._allow)
            self._configs |= {
                cell.label: with_schedule(cell.config) for cell in cells if cell.label == label
            }
        return self._configs[label]

    def _needed(self, label: str, config: Config) -> PlanChoice:
        """Nothing but its memory."""
        whole = replace(config, iterations=self.iterations)
        seats = self._replicas * (self._stage_count + 1) if self._serial else 1
        return PlanChoice(
            label,
            not is_inexact(label),
            seats * seat_bytes(whole),
            seats * log_bytes(whole, own_sizes(whole)),
        )

    def _choice(self, label: str, config: Config, runs: Sequence[Priced], lost: int) -> PlanChoice:
        kept = sum(len(set(run.iterations)) for run in runs)
        needed, ended = self._needed(label, config), sum(bool(run.reason) for run in runs)
        if not kept:
            return replace(needed, ended=ended, runs=len(runs), out="no run trains an iteration")
        iteration = sum(run.total for run in runs) / kept
        told = replace(
            needed,
            iteration=iteration,
            ended=ended,
            runs=len(runs),
            met=lost,
            losses=lost / kept,
            sent=sum(sum(run.bytes.values()) for run in runs) / kept,
        )
        return self._expected(told, seconds_with_restarts(iteration, self.iterations, ended / kept))

    def _by_form(self, needed: PlanChoice, made: RehearsalSetting) -> PlanChoice:
        """Of a strategy that has the same to do after any loss."""
        calm = rehearse_setting(made, TickStrikes({}), until=min(self.simulated, 60)).priced
        spent = [self._struck(made, SHORTEST // 2, stage) for stage in self.stages]
        recovered = [run.recoveries[0] for run in spent if run.recoveries]
        each = calm.total / len(calm.ends)
        measured = MeasuredTimes(each, 0.0, fmean(recovered) if recovered else 0.0, 0.0)
        fatal = fmean(bool(run.reason) for run in spent)
        iteration = seconds_with_waves(measured, 1, self.losses)
        return self._formed(needed, calm, iteration, self.losses * fatal)

    def _formed(
        self, needed: PlanChoice, calm: Priced, iteration: float, ends: float
    ) -> PlanChoice:
        """By a closed form; ``ends``: losses a second that end the run."""
        finite = iteration if math.isfinite(iteration) else 0.0
        seconds = seconds_with_restarts(iteration, self.iterations, ends * finite)
        return self._expected(
            replace(
                needed,
                iteration=iteration,
                losses=self.losses * iteration,
                sent=sum(calm.bytes.values()) / len(calm.ends),
            ),
            seconds,
        )

    def _expected(self, told: PlanChoice, seconds: float) -> PlanChoice:
        """With the seconds that the whole run is expected to take."""
        if not seconds <= NEVER * self.iteration * self.iterations:
            return replace(told, hours=math.inf, out="losses end it sooner than it finishes")
        price = None if self._price is None else self._price * self.nodes * seconds / 3600
        return replace(told, hours=seconds / 3600, cost=price)

    # --- intervals -------------------------------------------------------------------------------

    def waves(self) -> tuple[Interval | None, list[PlanChoice]]:
        """Of replays; and the best choice for each number of copies."""
        measured = self.measured_waves()
        forms = {"closed form": between_waves(measured, self.losses)}
        found: list[tuple[Interval | None, PlanChoice]] = []
        for copies in (1, 2)[: self._stage_count]:
            label = f"replay(wave_every={{}},copies={copies})"

            def expected(interval: int) -> float:
                return seconds_with_waves(measured, interval, self.losses)

            found.append(self._interval(label, forms, self.lag + 1, expected))
        best = min(found, key=lambda one: (one[0] is None, one[1].hours))
        return best[0], [choice for _, choice in found]

    def checkpoints(self) -> tuple[Interval | None, PlanChoice]:
        """Of rollbacks; and the best choice."""
        measured = self.measured_checkpoints()
        forms = {
            name: max(1.0, form(measured.aside, self.losses) / measured.iteration)
            for name, form in (("Young", young), ("Daly", daly))
        }

        def expected(interval: int) -> float:
            return seconds_with_checkpoints(measured, interval, self.losses)

        return self._interval("checkpoint(interval={})", forms, 1, expected)

    def _interval(
        self,
        label: str,
        forms: Mapping[str, float],
        least: int,
        expected: Callable[[int], float],
    ) -> tuple[Interval | None, PlanChoice]:
        """Searched among what fits into memory; ``expected``: seconds of an iteration with an
        interval, by a closed form."""
        *_, start = forms.values()
        most = max(least, self.simulated)
        shortest = self._fits(label.format(least))
        if shortest.out:
            return None, shortest
        while most > least and self._fits(label.format(most)).out:
            most = (least + most) // 2
        if self.by_runs:
            best = best_interval(lambda n: self.tell(label.format(n)).hours, start, least, most)
            return Interval(dict(forms), best), self.tell(label.format(best))
        taken = _within(start, least, most)
        name = label.format(taken)
        until = min(self.simulated, PERIODS * taken)
        calm = rehearse_setting(setting(self._config(name)), TickStrikes({}), until=until)
        choice = self._formed(self._fits(name), calm.priced, expected(taken), 0.0)
        self.tried[name] = choice
        return Interval(dict(forms), taken), choice

    def _fits(self, label: str) -> PlanChoice:
        """Nothing but its memory, and whether a node has that."""
        needed = self._needed(label, self._config(label))
        if self._memory is None or needed.memory <= self._memory:
            return needed
        return replace(needed, out=f"needs {render_bytes(needed.memory)} of memory a node")

    # --- what the closed forms know --------------------------------------------------------------

    def measured_waves(self) -> MeasuredTimes:
        """From rehearsals: of one without losses, and of single losses of each stage one iteration
        apart."""
        lag = self.lag
        often = self._config(f"replay(wave_every={lag + 1})")
        until = min(self.simulated, PERIODS * (lag + 1))
        calm = rehearse_setting(setting(often), TickStrikes({}), until=until).priced
        waits = (calm.total - len(calm.ends) * self.iteration) / max(1, until // (lag + 1))
        every = 2 * lag + 4
        # Before the first wave a replay begins with what the seed makes.
        waved = every + lag + 2 <= self.simulated
        at, age = (every + lag, lag) if waved else (2, 2)
        rarely = setting(self._config(f"replay(wave_every={every})"))
        spent = [
            [self._struck(rarely, at + more, stage).recoveries[0] for more in (0, 1)]
            for stage in self.stages
        ]
        again = fmean(later - sooner for sooner, later in spent)
        fixed = max(0.0, fmean(sooner for sooner, _ in spent) - age * again)
        return MeasuredTimes(self.iteration, max(0.0, waits), fixed, again, lag)

    def measured_checkpoints(self) -> MeasuredTimes:
        """From rehearsals: of one without losses, and of one loss."""
        each = setting(self._config("checkpoint(interval=1)"))
        calm = rehearse_setting(each, TickStrikes({}), until=SHORTEST).priced
        aside = calm.seconds.get("checkpoint", 0.0) / SHORTEST
        (fixed, *_) = self._struck(each, SHORTEST // 2, self.stages[0]).recoveries
        return MeasuredTimes(self.iteration, aside, fixed, self.iteration)

    def _struck(self, made: RehearsalSetting, tick: int, stage: int) -> Priced:
        """A run that loses one stage before a tick."""
        seats = tuple(Address(stage, replica) for replica in range(self._replicas))
        return rehearse_setting(made, TickStrikes({tick: seats}), until=tick + 1).priced


def to_json(found: FleetPlan) -> str:
    """All figures, for other programs; what is infinite or unknown is null."""
    fastest, cheapest = found.fastest, found.cheapest
    told = {
        **asdict(found),
        "fastest": None if fastest is None else fastest.label,
        "cheapest": None if cheapest is None else cheapest.label,
    }
    return json.dumps(_finite(told), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
