"""What members have counted, summed up and told."""

from __future__ import annotations

import pytest

from checkfree.runtime.swarm.presence.pulses import (
    all_refused,
    all_sent,
    pulse_of,
    render_dropped,
)


def test_sums() -> None:
    pulses = [
        {"pulse": pulse_of({"Begin": 2}, {"Begin": 8}, {"malformed": 1}, 0)},
        {"pulse": pulse_of({"Begin": 1}, {"Commit": 3}, {"malformed": 2, "stranger": 1}, 5)},
    ]
    sent = {"Begin": 4, "Commit": 1}, {"Begin": 8, "Commit": 3}
    assert all_sent(pulses, {"Begin": 1, "Commit": 1}, {}) == sent
    refused = all_refused(pulses, {"application": 2})
    assert refused == {"malformed": 3, "stranger": 1, "unusable": 5, "application": 2}
    told = "dropped: 2 application, 3 malformed, 1 stranger, 5 unusable"
    assert render_dropped(refused) == told
    assert render_dropped({"malformed": 0}) == render_dropped({}) == ""


@pytest.mark.parametrize(
    "pulse", [{}, {"pulse": 7}, {"pulse": [{}]}, {"pulse": [1, 2, 3]}, {"pulse": [{"x": "y"}] * 3}]
)
def test_rubbish_counts_nothing(pulse: dict[str, object]) -> None:
    assert all_sent([pulse], {"Begin": 1}, {}) == ({"Begin": 1}, {})
    assert all_refused([pulse], {"frame": 1}) == {"frame": 1}
