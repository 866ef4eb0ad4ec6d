"""Seeds, seconds and bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.units import derive, parse_bytes, render_bytes, render_seconds

calls = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["init", "reinit", "forward", "train"]),
    st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
)


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive(0, "init", 3) == 2252789267471770932
    assert derive(7, "forward", 2, 1, 0) == derive(7, "forward", 2, 1, 0)


@given(calls, calls)
def test_any_other_argument_gives_another_seed(one: tuple, other: tuple) -> None:
    seeds = [derive(seed, purpose, *parts) for seed, purpose, parts in (one, other)]
    assert (seeds[0] == seeds[1]) == (one == other)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**30, "1.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_bytes_as_people_say_them(count: int, text: str) -> None:
    assert render_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (1.0, "1.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (95.0, "1 min 35 s"),
        (3599, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (2 * 3600 + 125, "2 h 2 min"),
    ],
)
def test_seconds_as_people_say_them(seconds: float, text: str) -> None:
    assert render_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("1024", 1024), ("64GiB", 64 << 30), ("1.5 KiB", 1536), ("80 gb", 80 * 10**9), ("7B", 7)],
)
def test_bytes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "1 PiB", "inf", "0", "0.2B", "١"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="byte"):
        parse_bytes(text)
