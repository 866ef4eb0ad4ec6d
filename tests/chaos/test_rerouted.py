"""Ways that change while a run trains: each change stands in a plan record."""

from __future__ import annotations

import json

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import FAULTS, LEAD, Address, parse_route
from checkfree.core.records import dumps
from checkfree.messages.control import Begin, Message, Purpose, Reroute
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, reroutes, script
from tests.tiny import make

SEATS = tuple(Address(stage, replica) for stage in range(4) for replica in range(2))
GONE = Address(3, 1)
TERMS = {"iterations": 6, "microbatches": 2}


def crossed(seats: tuple[Address, ...]) -> Reroute:
    """All through the first replicas of the last stage, and through the others of those before."""
    first, other = parse_route("0.0>1.1>2.1>3.0>0.0"), parse_route("0.1>1.0>2.0>3.0>0.1")
    return Reroute(seats, (first, other))


def test_ways_for_seats_that_no_longer_live_come_late_and_change_nothing_in_silence() -> None:
    strategy = make_strategy(RecoveryConfig("none"))
    run = make(strategy, stages=3, replicas=2, terms=TERMS)
    fewer = tuple(seat for seat in SEATS if seat != GONE)
    taken: dict[int, list[str]] = {}
    posts = {2: crossed(fewer), 4: crossed(SEATS)}

    def after(to: Address, message: Message) -> None:
        if isinstance(message, Begin) and message.ticket.purpose is Purpose.TRAIN:
            taken[message.ticket.iteration] = list(map(str, message.routes))
        done = run.lead.progress.committed
        if done == 1 and GONE in run.runtime.actors:
            run.runtime.kill(GONE)
        if done in posts:
            run.runtime.post(LEAD, posts.pop(done))

    run.runtime.run(after)
    told = list[tuple[int, bool]]()
    assert run.lead.done and not posts
    assert len({tuple(ways) for ways in taken.values()}) == 3
    for plan in run.of_kind("plan"):
        told.append((plan.iteration, bool(plan.routes)))
    # Other ways once those of the seats that live are told, and again when they are made void.
    assert [routes for _, routes in told] == [False, False, True, False]
    assert taken[told[-1][0]] == taken[told[1][0]] != taken[told[2][0]]

    records = [json.loads(dumps(record)) for record in run.log.records]
    steps, ways = script(records), reroutes(records, 2)
    again = make(
        RecordedRepairs(strategy, steps),
        stages=3,
        replicas=2,
        terms=TERMS,
        faults=lambda host: RecordedFaults(host, steps, ways),
    )
    again.runtime.run(again.runtime.actors[FAULTS].watch)
    assert again.losses() == run.losses()
