"""What a branching is asked for, and its rules; nothing trains here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkfree.config.load import build, merge, parse_words, to_tree
from checkfree.config.parts import permitted
from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Upload
from checkfree.plugins import packages
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy

GAPS = (0, 10, 50, 100, 200)


@dataclass(frozen=True)
class BranchRequest:
    """Kill each of ``stages`` alone in ``run`` at iteration ``at``, and apply each of ``rules``."""

    run: Path
    at: int
    stages: tuple[int, ...]
    rules: tuple[str, ...]
    """Strategies as on the command line: ``checkfree(exponent=1)``."""
    gaps: tuple[int, ...] = GAPS
    """Steps after the loss at which the validation loss is read, ascending; 0: right after it."""
    reinits: int = 1
    """How many initialisations the rule ``random`` is tried with."""
    out: Path | None = None
    allow: tuple[str, ...] = ()
    """Top packages that the run's strategy may be of, if it is none of checkfree's."""

    @property
    def folder(self) -> Path:
        """Where the branches go."""
        return self.out or self.run.with_name(f"{self.run.name}-at-{self.at}")

    def words(self) -> list[str]:
        """As ``checkfree branch`` takes it."""
        stages, gaps = (",".join(map(str, numbers)) for numbers in (self.stages, self.gaps))
        words = [str(self.run), f"--at={self.at}", f"--stages={stages}", f"--gaps={gaps}"]
        words += [f"--rules={','.join(self.rules)}", f"--seeds-of-reinit={self.reinits}"]
        words += [f"--out={self.folder}", *(f"--allow={package}" for package in self.allow)]
        return words


@dataclass(frozen=True)
class Rule:
    """One strategy under test, as it was asked for."""

    label: str
    config: RecoveryConfig
    strategy: Strategy


def check_request(request: BranchRequest) -> None:
    """Raise BadInput for what no run could be branched by."""
    if request.at < 0:
        raise BadInput(f"--at {request.at}: expected an iteration, 0 or more")
    gaps = request.gaps
    if not gaps or gaps[0] < 0 or list(gaps) != sorted(set(gaps)):
        given = ",".join(map(str, gaps))
        raise BadInput(f"--gaps {given}: expected ascending steps after the loss, as in 0,10,50")
    if request.reinits < 1:
        raise BadInput(f"--seeds-of-reinit {request.reinits}: expected at least 1")
    for name, asked in (("--stages", request.stages), ("--rules", request.rules)):
        if not asked:
            raise BadInput(f"{name} names none: expected at least one, separated by commas")


def check_stages(stages: Sequence[int], last: int) -> None:
    """Raise BadInput for a stage that the run has not got."""
    for stage in stages:
        if not 0 <= stage <= last:
            raise BadInput(f"--stages names stage {stage}: the run has stages 0 … {last}")


def rules_of(labels: Sequence[str], config: Config) -> tuple[Rule, ...]:
    """The rules of a run with this configuration, each label once. Raises BadInput."""
    return tuple(_rule(label, config) for label in dict.fromkeys(labels))


def _rule(label: str, config: Config) -> Rule:
    tree = to_tree(config)
    words = parse_words([f"recovery={label}"])
    if "shadow_format" in words["recovery"]:  # what suits the run's suits no other
        words["recovery"].setdefault("shadow_every", None)
    try:
        recovery = permitted(build(merge(tree, words)), packages([label])).recovery
        strategy = make_strategy(recovery)
    except BadInput as error:
        raise BadInput(f"--rules {label}: {error}") from None
    other = sorted(set(words) - {"recovery"})
    if other:
        raise BadInput(
            f"--rules {label} sets {', '.join(other)}: a rule may set only options of recovery, "
            "because all branches go on with the same state, data and optimizer"
        )
    return Rule(label, recovery, strategy)


def lead_in(strategy: Strategy, at: int, earliest: int, seats: Collection[Address]) -> int:
    """The latest iteration from which a strategy, run until ``at``, has put aside all that it ever
    would after a step (checkpoints); ``at`` for one that keeps nothing or only exact copies, which
    it makes at once. Not before ``earliest``."""
    kept = {
        iteration: owners
        for iteration in range(at, earliest - 1, -1)
        if (owners := _kept_after(strategy, iteration, seats))
    }
    missing = set().union(*kept.values()) if kept else set()
    start = at
    for iteration, owners in kept.items():
        if not missing:
            break
        missing -= owners
        start = iteration
    return start


def _kept_after(strategy: Strategy, iteration: int, seats: Collection[Address]) -> set[int]:
    keeps = strategy.replications(iteration, seats)
    return {keep.owner.stage for keep in keeps if isinstance(keep, Upload)}


Records = Sequence[Mapping[str, Any]]


def tick_at(records: Records, iteration: int) -> int | None:
    """The tick at which a run first had ``iteration`` iterations behind it; None: never."""
    if iteration == 0:
        return 0
    steps = (r for r in records if r["kind"] == "iteration" and r["iteration"] == iteration - 1)
    found = next(steps, None)
    return None if found is None else int(found["tick"]) + 1


def losses_of_seats(records: Records, before: int) -> dict[int, tuple[Address, ...]]:
    """tick -> the seats that a run lost there, for ticks below ``before``."""
    found: dict[int, tuple[Address, ...]] = {}
    for record in records:
        if record["kind"] == "failure" and record["tick"] < before:
            seats = tuple(Address.parse(seat) for seat in record["seats"])
            found[record["tick"]] = (*found.get(record["tick"], ()), *seats)
    return found


def undisturbed_from(records: Records, failures: Collection[int]) -> int:
    """The first iteration after which a run lost nothing more: what it had reached at the tick of
    its last failure, and one further."""
    last = max(failures, default=-1)
    reached = (r["iteration"] for r in records if r["kind"] == "iteration" and r["tick"] <= last)
    return max(reached, default=-1) + 1 if failures else 0
