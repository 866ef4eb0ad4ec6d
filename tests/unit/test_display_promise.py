"""What a terminal says of the losses that come back exactly."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from checkfree.cli.display import Display
from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.records import PlanRecord

SEATS = {f"{stage}.0": 0 for stage in range(4)}
HERE = "replay gives back any one stage, any 2 adjacent stages"


def told(recovery: RecoveryConfig, *plans: PlanRecord) -> list[str]:
    text = StringIO()
    with Display(Config(recovery=recovery), Console(file=text, width=300)) as display:
        for plan in plans:
            display(plan)
    return text.getvalue().splitlines()


def plan(hosts: str = "", zones: str = "") -> PlanRecord:
    by_seat = [dict(zip(SEATS, names, strict=False)) for names in (hosts, zones)]
    return PlanRecord(0, 0, 0, SEATS, {}, -1, *by_seat)


def test_once_and_again_where_seats_stand_otherwise() -> None:
    replay = RecoveryConfig("replay")
    alone = f"{HERE}; one machine may take all stages with their copies"
    assert told(replay, plan(), plan()) == [alone]
    assert told(replay, plan("aabb"), plan("aabb", "eeww"), plan("aabb")) == [
        f"{HERE}, any one machine",
        f"{HERE}, any one machine, any one zone",
        f"{HERE}, any one machine",
    ]


def test_only_where_stages_are_replayed() -> None:
    assert told(RecoveryConfig("auto", log_memory=0), plan()) == []
    assert len(told(RecoveryConfig("auto"), plan())) == 1
    assert told(RecoveryConfig("replay"), PlanRecord(0, 0, 0, {})) == []
