"""How much of a run's time went into training."""

from __future__ import annotations

from typing import Any

import pytest

from checkfree.core.goodput import Goodput, goodput

Records = list[dict[str, Any]]


def steps(*seconds: float, start: int = 0) -> Records:
    found = enumerate(seconds, start)
    return [{"kind": "iteration", "iteration": i, "seconds": spent} for i, spent in found]


def of(kind: str, seconds: float | None = None) -> dict[str, Any]:
    return {"kind": kind, "iteration": 0} | ({} if seconds is None else {"seconds": seconds})


BEGIN = [of("config"), of("plan", 0.0)]
LOSS = [of("failure", 1.0), of("plan"), of("recovery", 5.0)]


def test_a_run_that_nothing_disturbs_trains_all_the_time() -> None:
    assert goodput([*BEGIN, *steps(2.0, 2.0, 2.0)]) == 1.0


def test_what_was_broken_off_and_repaired_was_no_training() -> None:
    """Nor is that the first step after it takes longer: it counts as any other."""
    records = [*BEGIN, *steps(2.0, 2.0, 2.0), *LOSS, *steps(4.0, 2.0, start=3)]
    assert goodput(records) == pytest.approx(5 * 2.0 / (12.0 + 6.0))


def test_validations_and_the_time_before_the_first_plan_are_no_training() -> None:
    records = [of("config"), of("plan", 3.0), *steps(2.0, 2.0), of("validation", 3.0)]
    assert goodput([*records, *steps(2.0, start=2)]) == pytest.approx(6.0 / 12.0)


def test_iterations_that_are_trained_again_count_once() -> None:
    records = [*BEGIN, *steps(2.0, 2.0, 2.0, 2.0), *LOSS, *steps(2.0, 2.0, 2.0, start=2)]
    assert goodput(records) == pytest.approx(5 * 2.0 / (14.0 + 6.0))


def test_the_iteration_after_a_resume_tells_nothing_of_what_one_takes() -> None:
    records = [*BEGIN, *steps(2.0, 2.0), of("resume"), *steps(9.0, start=2)]
    assert goodput(records) == pytest.approx(3 * 2.0 / 13.0)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [*BEGIN, *steps(2.0)],  # the first tells nothing
        [{**record, "seconds": None} for record in steps(2.0, 2.0)],  # taken from another run
        [{"kind": "iteration"}, {"kind": "iteration"}],
        [{"kind": "replay", "iteration": 3, "seconds": {"copy": 1.0}}],
    ],
    ids=["empty", "one iteration", "no times", "no fields", "phases"],
)
def test_where_nothing_is_known_nothing_is_told(records: Records) -> None:
    assert goodput(records) is None


def test_it_is_never_more_than_all() -> None:
    """Later iterations may be slower, and the median is theirs."""
    assert goodput([*BEGIN, *steps(1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0)]) == 1.0


def test_one_by_one_it_is_the_same() -> None:
    records = [*BEGIN, *steps(2.0, 2.5, 2.0), *LOSS, *steps(4.0, 2.0, start=3)]
    live = Goodput()
    for place, record in enumerate(records, 1):
        live.add(record["kind"], record)
        assert live.share == goodput(records[:place])
