"""Emulated lines, on a clock that the test moves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address
from checkfree.runtime.swarm.transport.links import FILE, EmulatedLine, EmulatedLink, Links, asked

A, B, C = Address(1), Address(2), Address(2, 1)


def test_a_message_leaves_at_its_bandwidth_and_arrives_a_latency_later() -> None:
    passage = EmulatedLine(EmulatedLink(latency=0.5, bandwidth=10.0)).enter(now=100.0, count=20)
    assert passage.due(20) == 102.5
    assert passage.due(5) == 101.0, "its first quarter is there before the rest has left"


def test_messages_follow_each_other_and_pay_the_latency_once() -> None:
    line = EmulatedLine(EmulatedLink(latency=3.0, bandwidth=10.0))
    arrivals = [line.enter(now=0.0, count=10).due(10) for _ in range(3)]
    assert arrivals == [4.0, 5.0, 6.0]


def test_an_idle_line_begins_at_once() -> None:
    line = EmulatedLine(EmulatedLink(latency=1.0, bandwidth=10.0))
    line.enter(now=0.0, count=10)
    assert line.enter(now=50.0, count=10).begins == 50.0


def test_latency_alone_and_bandwidth_alone() -> None:
    assert EmulatedLine(EmulatedLink(latency=0.25)).enter(1.0, 10**9).due(10**9) == 1.25
    assert EmulatedLine(EmulatedLink(bandwidth=4.0)).enter(1.0, 2).due(2) == 1.5


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1000)), min_size=1, max_size=20),
    st.floats(0, 5),
    st.floats(1, 1e6),
)
@settings(deadline=None)
def test_nothing_overtakes_and_nothing_is_too_fast(
    sends: list[tuple[float, int]], latency: float, bandwidth: float
) -> None:
    line, now, last, total = EmulatedLine(EmulatedLink(latency, bandwidth)), 0.0, -math.inf, 0
    for wait, count in sends:
        now += wait
        total += count
        passage = line.enter(now, count)
        assert passage.begins >= now
        assert passage.due(0) >= last - latency
        assert passage.due(count) >= max(last, now + latency)
        last = passage.due(count)
    assert last >= total / bandwidth + latency - 1e-6


@pytest.mark.parametrize(
    ("text", "latency", "bandwidth"),
    [
        ("latency=40ms,bandwidth=100Mb", 0.04, 12.5e6),
        ("bandwidth=1.5GB", 0.0, 1.5e9),
        ("latency=250us", 250e-6, math.inf),
        ("bandwidth=64kb,latency=1s", 1.0, 8e3),
    ],
)
def test_a_link_is_read(text: str, latency: float, bandwidth: float) -> None:
    assert EmulatedLink.parse(text) == EmulatedLink(
        pytest.approx(latency), pytest.approx(bandwidth)
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "fast", "latency", "latency=40", "latency=-1ms", "latency=1h", "bandwidth=100mb"),
        *("bandwidth=0Mb", "latency=1ms,latency=2ms", "latency=nanms", "delay=1ms", "latency=1ms,"),
    ],
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"as in latency=40ms,bandwidth=100Mb$") as caught:
        EmulatedLink.parse(text)
    assert "\n" not in str(caught.value)


def test_the_last_rule_that_fits_decides_in_both_directions() -> None:
    links = Links.parse(
        "# all\n* * latency=1ms\n\n1 2 latency=2ms  # both replicas\n2.1 1.0 latency=3ms\n"
        "lead * latency=4ms\n"
    )
    expected = {(A, B): 2, (B, A): 2, (A, C): 3, (C, A): 3, (B, C): 1, (LEAD, A): 4, (C, LEAD): 4}
    for (one, other), milliseconds in expected.items():
        line = links.line(one, other)
        assert line is not None
        assert line.enter(0.0, 9).due(9) == pytest.approx(milliseconds / 1000), (one, other)


def test_without_a_rule_nothing_waits() -> None:
    assert Links().line(A, B) is None
    assert Links.parse("1 3 latency=1ms").line(A, B) is None


@pytest.mark.parametrize("text", ["1.0 latency=1ms", "1 2 3 latency=1ms", "x * latency=1ms"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected"):
        Links.parse(text)


def test_an_option_is_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1 2 latency=1ms")
    assert asked("") == ""
    assert asked("latency=1ms") == "latency=1ms"
    assert asked(str(tmp_path / "lines")) == "1 2 latency=1ms"
    with pytest.raises(BadInput, match="--link nowhere: no file of links"):
        asked("nowhere")
    with pytest.raises(BadInput, match="expected latency"):
        asked("latency=soon")


def test_they_are_read_from_a_folder(tmp_path: Path) -> None:
    assert Links.of(tmp_path) == Links()
    (tmp_path / FILE).write_text("latency=1ms")
    assert Links.of(tmp_path) == Links.parse("* * latency=1ms")
