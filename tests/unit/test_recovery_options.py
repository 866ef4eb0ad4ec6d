"""What a configuration may say of recovery, and that it is looked at when it is loaded."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import pytest

from checkfree.config.load import load
from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.recovery.registry import STRATEGIES


class Watched:
    """Options that remember which of them were read."""

    def __init__(self, **changes: Any):
        self.config = RecoveryConfig(**changes)
        self.read = set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.config, name)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_made_of_the_options_that_are_told_of_it(name: str, swap: bool) -> None:
    watched = Watched(name=name, swap=swap, shadow_every="auto")
    STRATEGIES[name].make(cast(RecoveryConfig, watched))
    assert watched.read <= STRATEGIES[name].options


def test_each_option_is_some_strategy_s() -> None:
    known = {field.name for field in fields(RecoveryConfig)} - {"name", "options", "code"}
    assert frozenset().union(*(spec.options for spec in STRATEGIES.values())) == known


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("recovery=foo", "expected one of auto, shadow"),
        ("recovery.exponent=3", "expected 1 or 2"),
        ("recovery.shadow_format=int3", "expected one of int8"),
        ("recovery.interval=0", "at least 1"),
        ("optimizer.name=lion", "expected one of adam"),
        ("optimizer.lr=-1", "expected a number in"),
        ("fleet.name=moon", "expected one of paper"),
    ],
)
def test_what_no_run_can_take_is_refused_as_it_is_loaded(word: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load(None, [word])
