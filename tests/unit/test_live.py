"""What is seen of a run while it goes on: how far replays are, since when a stage is unprotected,
and when each phase of a replay ended."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from checkfree.cli.display import UNPROTECTED_FOR, Display
from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.live import LiveStatus, ReplayProgress, render_replays, render_unprotected
from checkfree.core.ops import Address, Recipe
from checkfree.core.records import (
    IterationRecord,
    PlanRecord,
    RebuiltSeat,
    Record,
    ReplayRecord,
    read,
)
from checkfree.messages.control import Note, Underway
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.recorder import Recorder
from checkfree.runtime.replay_lines import EVERY, ReplayLines
from checkfree.runtime.replay_times import ReplayTimes
from tests import tiny

TWO, THREE = Address(2), Address(3)
MADE = PlanRecord(1, 14, 14, {}, {"2.0": RebuiltSeat(Recipe("replay"), bytes=7)})


def replay(at: int | None, seat: Address = TWO, **more: Any) -> ReplayProgress:
    return ReplayProgress(seat, 10, 14, at, **more)


def step(iteration: int) -> IterationRecord:
    return IterationRecord(iteration, iteration, 1, 2.5, {}, {}, 12, 0, 3)


def replaying(*replays: ReplayProgress) -> Underway:
    return Underway(False, replays, {})


# --- as plain data, and in words ------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        LiveStatus(),
        LiveStatus((), {}, 0.5),
        LiveStatus((replay(None), replay(12, THREE, checked=True, seconds=1.5)), {3: 498, 0: 2}),
    ],
    ids=["nothing", "all is well", "much"],
)
def test_a_status_comes_back_from_json(status: LiveStatus) -> None:
    plain = json.loads(json.dumps(status.to_json()))
    assert LiveStatus.from_json({"iteration": 3, **plain}) == status


def test_a_status_of_before_has_nothing_to_tell() -> None:
    assert LiveStatus.from_json({"iteration": 3}) == LiveStatus()


def test_replays_in_a_line() -> None:
    assert render_replays([]) == ""
    assert render_replays([replay(None)]) == "replays stage 2 (waits for its copy of 10)"
    one, other = replay(11, seconds=6.1), replay(12, THREE, seconds=2.0)
    ours, theirs = "stage 2 (1 of 4 iterations since 10)", "stage 3 (2 of 4 iterations since 10)"
    assert render_replays([one, other]) == f"replays {ours}, {theirs}, about 6.1 s to go"
    assert render_replays([replay(11), other]) == f"replays {ours}, {theirs}"  # who knows
    assert render_unprotected({}) == ""


# --- times ----------------------------------------------------------------------------------------


def test_a_replay_has_to_go_what_it_took_so_far_for_each_iteration() -> None:
    times = ReplayTimes()
    told = [
        times.follow(replaying(replay(at)), now)[0].seconds
        for at, now in ((None, 1.0), (10, 5.0), (11, 8.0), (12, 9.0), (14, 12.0))
    ]
    assert told == [None, None, 9.0, 4.0, 0.0]


def phases(*told: tuple[float, Underway], plan: PlanRecord = MADE) -> list[ReplayRecord]:
    """When all stepped at 20."""
    times = ReplayTimes()
    for now, underway in told:
        times.follow(underway, now)
    times.planned(plan)
    return times.stepped(14, 20.0)


def test_each_phase_of_a_replay_has_its_seconds() -> None:
    lost = Underway(False, (), {})
    told = [(1.0, lost), (3.0, lost), *((t, replaying(replay(at, checked=True))) for t, at in ON)]
    (found,) = phases(*told, (13.0, Underway(True, (), {})))
    assert found == ReplayRecord(
        14, 14, "2.0", 10, 10, 7, True, {"seat": 3.0, "copy": 2.0, "replay": 6.0, "step": 8.0}
    )


ON: list[tuple[float, int | None]] = [(4.0, None), (6.0, 10), (8.0, 12), (12.0, 14)]


def test_one_that_goes_on_after_another_loss_keeps_what_it_has_done() -> None:
    told = [(t, replaying(replay(at))) for t, at in [*ON[:3], (9.0, 12), (12.0, 14)]]
    lost = (8.5, Underway(False, (), {}))
    (found,) = phases(*told[:3], lost, *told[3:])
    assert found.start == 10
    assert found.seconds == {"seat": 0.0, "copy": 2.0, "replay": 6.0, "step": 8.0}


def test_one_that_begins_anew_waits_for_its_copy_until_it_is_there() -> None:
    """And not once less than it took: the phases add up to all seconds since the loss."""
    again: list[tuple[float, int | None]] = [(9.0, None), (11.0, 10), (15.0, 14)]
    (found,) = phases(*((t, replaying(replay(at))) for t, at in [*ON, *again]))
    assert found.seconds == {"seat": 0.0, "copy": 7.0, "replay": 4.0, "step": 5.0}


def test_another_lead_begins_with_what_it_hears() -> None:
    (found,) = phases((9.0, replaying(replay(12))), (12.0, replaying(replay(14))))
    assert (found.start, found.exact) == (12, False)
    assert sum(found.seconds.values()) == 20.0 - 9.0


def test_only_what_was_replayed_in_the_end_is_written_down() -> None:
    other = PlanRecord(1, 14, 14, {}, {"2.0": RebuiltSeat(Recipe("shadow"))})
    assert phases((4.0, replaying(replay(10))), plan=other) == []


def test_lines_come_now_and_then_and_only_of_long_replays() -> None:
    said: list[str] = []
    now = [0.0]
    lines = ReplayLines(said.append, lambda: now[0])
    for second in (0.0, EVERY - 1, EVERY, EVERY + 1):
        now[0] = second
        lines([replay(11)])
    assert said == [render_replays([replay(11)])]
    lines([])
    now[0] += EVERY
    lines([replay(12)])
    assert len(said) == 1


# --- told by the recorder, and shown --------------------------------------------------------------


class Watching:
    """A listener that sees both."""

    def __init__(self) -> None:
        self.heard: list[Record | LiveStatus] = []

    def __call__(self, record: Record) -> None:
        self.heard.append(record)

    def live(self, status: LiveStatus) -> None:
        self.heard.append(status)


def test_the_recorder_tells_at_once_and_writes_a_replay_after_its_first_step(
    tmp_path: Path,
) -> None:
    watching, plain = Watching(), list[Record]()
    recorder = Recorder(tmp_path / "records.jsonl", lambda i: 0.1, [watching, plain.append])
    lost = [replaying(replay(at)) for at in (None, 10, 14)]
    for message in (Note(0, step(12)), Note(1, step(13)), *lost, Note(2, MADE)):
        recorder.deliver(message)
    recorder.deliver(Underway(True, (), {3: 14}))
    recorder.deliver(Note(3, step(14)))
    recorder.close()
    told = [found for found in watching.heard if isinstance(found, LiveStatus)]
    assert [[known.at for known in status.replays] for status in told[2:5]] == [[None], [10], [14]]
    assert told[-1].unprotected == {3: 14} and told[-1].replays == ()
    assert 0 < (told[-1].goodput or 0.0) <= 1
    assert not any(isinstance(found, LiveStatus) for found in plain)
    records = read(tmp_path / "records.jsonl")
    kinds = [record["kind"] for record in records]
    assert kinds == ["iteration", "iteration", "plan", "iteration", "replay"]
    assert (records[-1]["seat"], records[-1]["bytes"]) == ("2.0", 7)


def shown(*events: Record | LiveStatus) -> list[str]:
    text = StringIO()
    with Display(Config(), Console(file=text, width=200)) as display:
        for event in events:
            (display.live if isinstance(event, LiveStatus) else display)(event)  # type: ignore[operator]
    return text.getvalue().splitlines()


def test_protection_that_is_lost_for_long_is_told_once_and_that_it_is_back() -> None:
    late = 5 + UNPROTECTED_FOR
    lost, back = LiveStatus((), {3: 5}), LiveStatus((), {})
    assert shown(lost, step(5), step(late - 1), back, step(late)) == []  # a copy was on its way
    assert shown(lost, step(late), step(late + 1), back, step(late + 2), step(late + 3)) == [
        "no replay could give back stage 3 (unprotected since iteration 5)",
        "any stage that is lost could be replayed again",
    ]


def test_a_panel_has_a_line_of_what_is_replayed() -> None:
    text = StringIO()
    with Display(Config(), Console(file=text, width=200, force_terminal=True)) as display:
        display.live(LiveStatus((replay(11, seconds=6.1),), {}, 0.5))
    assert "replays stage 2 (1 of 4 iterations since 10), about 6.1 s to go" in text.getvalue()
    assert "goodput 50.0%" in text.getvalue()


# --- told by the lead -----------------------------------------------------------------------------


def test_the_lead_tells_what_is_lost_and_how_far_its_replay_is() -> None:
    """From the moment of the loss to the last iteration of the replay, and that it is over."""
    run = tiny.make(
        LogAndReplay(ReplayTerms(1, 2)),
        terms={"iterations": 6},
        strikes=lambda tick: [TWO, THREE] if tick == 3 else (),
    )
    run.runtime.run()
    assert run.lead.done
    told = run.log.underway
    assert [found.whole for found in told if not found.replays][:1] == [True]
    seen = [found for found in told if found.replays]
    assert all(not found.whole for found in seen)
    assert {known.seat for found in seen for known in found.replays} == {TWO, THREE}
    for place in range(2):
        ats = [found.replays[place].at for found in seen]
        base = seen[0].replays[place].base
        assert list(dict.fromkeys(ats)) == [None, *range(base, 4)]
        assert all(found.replays[place].checked for found in seen)
    assert told[-1].whole and told[-1].replays == ()


def test_a_run_that_replays_nothing_has_nothing_told() -> None:
    strategy = make_strategy(RecoveryConfig(name="checkfree"))
    run = tiny.make(strategy, strikes=lambda tick: [TWO] if tick == 1 else ())
    run.runtime.run()
    assert run.lead.done and not run.log.underway


def test_since_when_a_stage_is_unprotected_is_told() -> None:
    """Logs that have no room for one more iteration are begun anew, and then nobody is protected
    before the next wave counts."""
    run = tiny.make(LogAndReplay(ReplayTerms(2, None, log_memory=1)), terms={"iterations": 5})
    run.runtime.run()
    assert run.lead.done
    told = [dict(found.unprotected or {}) for found in run.log.underway]
    assert told[0] == {}
    since = {stage: at for found in told for stage, at in found.items()}
    assert since.keys() == set(range(5)) and len(set(since.values())) == 1
