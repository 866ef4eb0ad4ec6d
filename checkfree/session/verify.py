"""Train a recorded run again in process, from its plans, and see that the same losses come out.

Not from its trace: who joined late, left, or was the source of a repair stands in the plans alone
(semantics 19). A swarm's run and one of one process leave the same records, so either is verified.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkfree.config.load import load_saved
from checkfree.core.config import Config, FailuresConfig, ResumeConfig
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.ops import FAULTS, Address
from checkfree.core.participants import apart, participants, render_cause
from checkfree.core.records import (
    APART,
    AverageRecord,
    IterationRecord,
    Record,
    ValidationRecord,
    of_kind,
    read,
)
from checkfree.failures import render_trace
from checkfree.lead import Progress
from checkfree.pipeline.routes import in_order
from checkfree.runtime import folder as folders
from checkfree.runtime.files import temporary_folder
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, Step, reroutes, script
from checkfree.session.assemble import Assembly, make_worker_context
from checkfree.session.equipment import equipment
from checkfree.session.job import Job, check_same, of_config
from checkfree.session.session import Session, begin, draw
from checkfree.session.snapshot import Snapshot
from checkfree.session.terms import terms_of

Loss = tuple[str, int, int, float | None]
"""Kind of record, tick, iteration, loss; None: it was no number."""

Records = Sequence[Mapping[str, Any]]

CLOSE = 1e-2
"""By what share of theirs, or of a nat, losses may differ after a replay that was close: roundings
grow as training goes on, yet what has learnt the same has about the same loss."""


@dataclass(frozen=True)
class Recording:
    """A run to be trained again."""

    folder: Path
    config: Config
    records: Records
    lives: Mapping[Address, int]
    """Who sat where at the start."""
    steps: tuple[Step, ...]

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Of steps, validations and the average, in order."""
        return tuple(_losses(self.records))

    @property
    def close(self) -> tuple[int, int] | None:
        """Of the first replay that came out with other bits than were lost, if there was one: how
        many ``losses`` were recorded before it, and the iteration that came next."""
        for place, plan in enumerate(self.records):
            if plan["kind"] == "plan" and any(
                APART in how.get("check", {}) for how in plan["rebuilds"].values()
            ):
                return len([*_losses(self.records[:place])]), plan["iteration"]
        return None

    @property
    def done(self) -> bool:
        """The run came to its end."""
        ends = of_kind(self.records, "end")
        return bool(ends) and ends[-1]["status"] == "done"


@dataclass(frozen=True)
class Outcome:
    """What came of training a run again."""

    iterations: int
    """How many were the same, from the first on."""
    difference: str = ""
    """What was not, in words; "": nothing."""
    cause: str = ""
    """What that most likely comes from, in words."""
    apart: tuple[str, ...] = ()
    """In what those who took part computed on something else than this process, in words."""
    close_since: int | None = None
    """The iteration since which losses are ``within`` a share of those of then, for the run went on
    with a replay that was close to what had been lost; None: they are equal bit for bit."""
    within: float = 0.0


def recording(run: Path, allow: Collection[str] = ()) -> Recording:
    """What a run folder tells; ``allow`` as in :func:`checkfree.resume`. Raises BadInput if it
    can't be trained again."""
    path = folders.existing(run)
    records = read(path)
    began, plans = of_kind(records, "config"), of_kind(records, "plan")
    if began and began[0]["data"].get("name") == "user":
        raise BadInput(f"{path} trained modules of your own, which a command has not got")
    if not began or not plans:
        raise BadInput(f"{path} has no plans yet, expected a run that has begun: train it first")
    try:
        lives = {Address.parse(seat): int(n) for seat, n in plans[0]["members"].items()}
        steps = script(records)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{path} has a plan that can't be read ({error!r}): verify a run with whole records"
        ) from None
    return Recording(path, load_saved(path / folders.CONFIG, allow), records, lives, steps)


def verify(
    run: str | Path,
    *,
    out: str | Path | None = None,
    allow: Collection[str] = (),
    watch: Callable[[], None] | None = None,
) -> Outcome:
    """Train a recorded run again in this process: the same members, losses and repairs, from its
    plans; and see whether every loss comes out the same, bit for bit. Where the run went on with a
    replay that was only close to what had been lost, losses after that are to come out within a
    hundredth, and the ``Outcome`` tells by how much they differ.

    ``out``: keeps what is trained as a run; ``allow`` as :func:`checkfree.resume` takes it;
    ``watch`` is called after each iteration. A run that an ``Outcome`` tells no difference of is
    the same. Raises BadInput for a run that can't be trained again, or whose data are not here.
    """
    path = None if out is None else Path(out)
    return verify_recording(recording(Path(run), allow), path, watch)


def verify_recording(
    run: Recording, out: Path | None = None, watch: Callable[[], None] | None = None
) -> Outcome:
    """Train the run again, as far as it came, into the new folder ``out`` if one is given.

    ``watch`` is called after each iteration. Stops at the first loss that is another.
    Raises BadInput for an ``out`` that holds something and for data that are not the run's.
    """
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(temporary_folder("checkfree-verify-")))
        else:
            folder = out
        comparison = _Comparison(run, watch or (lambda: None))
        job = _job(run, folder, comparison)
        folders.create(folder)
        stack.enter_context(folders.locked(folder))
        trace = run.folder / folders.TRACE
        begin(job, trace.read_text(encoding="utf-8") if trace.is_file() else render_trace(()))
        session = stack.enter_context(Session.open(job, Snapshot(Progress(), run.lives, {})))
        assembly = _assembled(run, session)
        _train(run, session, comparison)
        if out is not None:
            status = "done" if assembly.lead.done else "interrupted"
            ends = "" if assembly.lead.done else "the recorded run ends here"
            session.end(status, comparison.difference or ends)
            draw(folder)
    here, difference = equipment(run.config), comparison.difference
    cause = render_cause(run.records, here, comparison.at) if difference else ""
    others = tuple(apart(participants(run.records), here))
    since = None if run.close is None else run.close[1]
    return Outcome(comparison.iterations, difference, cause, others, since, comparison.within)


def _job(run: Recording, folder: Path, comparison: _Comparison) -> Job:
    job = of_config(
        run.config,
        run.folder,
        (comparison,),
        logs=False,
        instead=lambda: "verify it on a machine that has more",
    )
    check_same(job, run.records)
    return replace(job, folder=folder)


def _assembled(run: Recording, session: Session) -> Assembly:
    """The run's actors, but for who strikes and what is repaired; both are in the plans."""
    job = session.job
    quiet = replace(job.config, failures=FailuresConfig("none"), resume=ResumeConfig(0))
    context = make_worker_context(quiet, job.blueprint, job.feeds)
    return session.assemble(
        replace(context, strategy=RecordedRepairs(context.strategy, run.steps)),
        terms=replace(terms_of(quiet, job.blueprint.tokens), routes=in_order),
        strikes=lambda tick: (),
    )


def _train(run: Recording, session: Session, comparison: _Comparison) -> None:
    assembly = session.assembly
    ways = reroutes(run.records, run.config.microbatches)
    faults = RecordedFaults(assembly.runtime, run.steps, ways)
    assembly.runtime.actors[FAULTS] = faults
    try:
        comparison.begin()
        assembly.runtime.run(faults.watch)
        if assembly.lead.done:
            session.keep_average()
    except _Enough:
        return
    comparison.ended(assembly.lead.failure or f"nothing moves: {assembly.lead.phase}")


# --- the same, or not ----------------------------------------------------------------------------


class _Enough(Exception):
    """All that there is to compare has been."""


class _Comparison:
    """A listener of the records that are made, beside those of the run."""

    def __init__(self, run: Recording, watch: Callable[[], None]):
        self._left, self._done, self._watch = deque(run.losses), run.done, watch
        self.iterations = 0
        self.difference = ""
        self.at: int | None = None
        self._equal = len(run.losses) if run.close is None else run.close[0]
        """Losses that are to be the same bit for bit; of those after them it is enough to be
        close."""
        self.within = 0.0

    def __call__(self, record: Record) -> None:
        if not isinstance(record, (IterationRecord, ValidationRecord, AverageRecord)):
            return
        (made,) = _losses([{"kind": record.kind, **vars(record)}])
        self._compare(made)
        if isinstance(record, IterationRecord):
            self.iterations += 1
            self._watch()
        self.begin()

    def begin(self) -> None:
        """Raise _Enough if the run recorded nothing more, and did not come to its end."""
        if not self._left and not self._done:
            raise _Enough

    def ended(self, reason: str) -> None:
        """Nothing moves any more: it should have made all that the run did."""
        if self._left and not self.difference:
            self.at = self._left[0][2]
            self.difference = f"{_name(self._left[0])} was recorded; now it ended: {reason}"

    def _compare(self, made: Loss) -> None:
        was = self._left.popleft() if self._left else None
        self._equal -= 1
        if was == made or (was is not None and self._equal < 0 and self._is_close(was, made)):
            return
        self.at = made[2]
        told = "nothing more" if was is None else f"{_name(was)}, loss {was[3]!r},"
        self.difference = f"{told} was recorded; now it is {_name(made)}, loss {made[3]!r}"
        raise _Enough

    def _is_close(self, was: Loss, made: Loss) -> bool:
        """Of the same step, which the run made of other bits. Notes by how much."""
        *step, then = was
        *same, now = made
        if then is None or now is None or step != same:
            return False
        by = abs(now - then) / max(1.0, abs(then), abs(now))
        self.within = max(self.within, by)
        return by <= CLOSE


def _losses(records: Records) -> Iterator[Loss]:
    for record in records:
        if record["kind"] in ("iteration", "validation", AverageRecord.kind):
            loss = record["loss"]
            number = loss if loss is not None and abs(loss) < float("inf") else None
            if record["kind"] == AverageRecord.kind:
                last = record["iterations"][-1]
                yield record["kind"], last, last, number
            else:
                yield record["kind"], record["tick"], record["iteration"], number


def _name(loss: Loss) -> str:
    kind, tick, iteration, _ = loss
    if kind == AverageRecord.kind:
        return f"the average until {iteration}"
    at = f" (tick {tick})" if tick != iteration else ""
    return f"{'iteration' if kind == 'iteration' else 'validation before'} {iteration}{at}"


def failed(run: Recording, outcome: Outcome) -> RunFailed:
    """The error of a run that was not the same: one line, with what may be the reason."""
    return RunFailed(
        f"{run.folder} after {outcome.iterations} equal iterations: "
        f"{outcome.difference} ({outcome.cause})"
    )


def equal(outcome: Outcome) -> str:
    """The verdict on a run that is the same: one line, with what was not."""
    though = f", though {'; '.join(outcome.apart)}" if outcome.apart else ""
    how = "losses equal bit for bit"
    if outcome.close_since is not None and outcome.within:
        how += f" until {outcome.close_since}, where a replay was close to what had been lost, and "
        how += f"since then to {outcome.within:.1e} of them"
    return f"{outcome.iterations} iterations, {how}{though}"
