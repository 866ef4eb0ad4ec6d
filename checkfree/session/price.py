"""What a run took on a fleet: rehearsed with the failures that it met, and held against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from checkfree.core.config import Config, FleetConfig
from checkfree.core.cost import Priced
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.core.records import of_kind
from checkfree.failures import CLOCK
from checkfree.session.rehearsal import setting, strikes
from checkfree.simulator.failure_schedule import FailureSchedule, TickStrikes
from checkfree.simulator.rehearse import rehearse

Records = Sequence[Mapping[str, Any]]


def price(
    config: Config, records: Records | None = None, fleet: FleetConfig | None = None
) -> Priced:
    """The run that ``records`` tell of, on ``fleet`` (None: the configuration's own); without
    records the run that ``config`` would make.

    Raises BadInput for a fleet that is none, and for records that the configuration does not
    lead to, because then nothing can be said of their cost.
    """
    asked = config if fleet is None else replace(config, fleet=fleet)
    if records is None:
        return rehearse(setting(asked), strikes(asked)).priced
    trained = [int(record["iteration"]) for record in of_kind(records, "iteration")]
    # What else than its end stopped a run, as an interruption or a loss that is no number, comes
    # from outside of what is rehearsed: such a run is priced as far as it trained.
    ends = of_kind(records, "end")
    until = None if ends and ends[-1]["status"] == "done" else len(trained)
    found = rehearse(setting(asked), _met(asked, config, records), until=until).priced
    if list(found.iterations) != trained:
        pairs = enumerate(zip(found.iterations, trained, strict=False))
        shorter = min(len(found.iterations), len(trained))
        at = next((tick for tick, (one, other) in pairs if one != other), shorter)
        raise BadInput(
            f"the records go another way than their configuration at tick {at}: they cannot be "
            "priced; a run whose sources were damaged is one such"
        )
    return found


def _met(asked: Config, config: Config, records: Records) -> FailureSchedule:
    """On the clock that drew them, failures strike in the midst of an iteration; else by tick."""
    if config.failures.scenario == CLOCK and asked.fleet == config.fleet:
        return strikes(asked)
    met: defaultdict[int, set[Address]] = defaultdict(set)
    for failure in of_kind(records, "failure"):
        met[int(failure["tick"])] |= {Address.parse(seat) for seat in failure["seats"]}
    return TickStrikes(met)
