"""What a configuration may say of recovery, and that it is looked at when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

import pytest

from checkfree.config.load import build, load, to_tree
from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.recovery.registry import STRATEGIES, StrategySpec, spec_of
from checkfree.recovery.strategy import Strategy
from checkfree.session.sizes import recovery_of


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_sees_its_own_section_as_configured(name: str) -> None:
    spec = STRATEGIES[name]
    assert vars(spec.section()) == {key: getattr(RecoveryConfig(), key) for key in spec.options}
    other = {"exponent": 1.0, "interval": 7, "shadow_every": "auto", "fit_steps": 3, "swap": True}
    config = RecoveryConfig(name, **cast(Any, other))
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("checkfree.recovery.registry.imported", lambda key, where: seen.append)
        spec.make(config)
    assert vars(seen[0]) == {key: getattr(config, key) for key in spec.options}
    assert isinstance(spec.make(config), Strategy)


@dataclass(frozen=True)
class Own:
    """A section with a field that no other strategy has."""

    exponent: float = 2.0
    depth: int = 3


def test_a_new_strategy_needs_no_line_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its section is its own, and the words beside its name are found there."""
    every = {**STRATEGIES, "own": StrategySpec("nowhere:own", Own)}
    for room in ("config.load", "config.check", "config.parts", "recovery.registry"):
        monkeypatch.setattr(f"checkfree.{room}.STRATEGIES", every)
    config = load(None, ["recovery=own(depth=5)", "recovery.exponent=1"])
    seen: list[Any] = []
    monkeypatch.setattr("checkfree.recovery.registry.imported", lambda key, where: seen.append)
    spec_of(config.recovery).make(config.recovery)
    assert seen == [Own(1.0, 5)]
    assert build(to_tree(config)) == config
    with pytest.raises(BadInput, match=r"recovery\.dept"):
        load(None, ["recovery=own(dept=5)"])
    with pytest.raises(BadInput, match=r"recovery\.depth"):
        load(None, ["recovery=checkfree(depth=5)"])


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
        ("data.validation_share=0", "between 0 and 1"),
        ("data.validation_share=1", "between 0 and 1"),
        ("data.validation_share=.nan", "between 0 and 1"),
        ("data.documents=0", "at least 1, or null for all"),
    ],
)
def test_what_no_run_can_take_is_refused_as_it_is_loaded(word: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load(None, [word])


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("recovery.copies=3", "expected 1 or 2"),
        ("recovery.copies=0", "expected 1 or 2"),
        ("recovery.wave_every=0", "expected iterations, 1 to"),
        ("recovery.wave_lag=-1", "expected iterations, 1 to"),
        ("recovery.wave_lag=99999999999999999999", "expected iterations, 1 to"),
        ("recovery.log_memory=0", "expected auto, or bytes from 1 to"),
        ("recovery.log_memory=some", "expected auto, or bytes"),
        ("recovery.log_memory=1.5", "expected auto, or bytes"),
        ("recovery.log_path=", "expected a folder"),
        ("recovery.wave_budget=0", "expected a share"),
        ("recovery.wave_budget=nan", "expected a share"),
        ("recovery.wave_lag=two", "expected a whole number"),
    ],
)
def test_what_replays_are_told_is_looked_at(word: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        load("demo", ["recovery=replay", word])
    assert word.partition("=")[0] in str(error.value)


def test_a_log_that_reaches_back_over_no_wave_is_refused() -> None:
    """With what would do, for ``auto`` too."""
    for name in ("replay", "auto"):
        config = load("demo", [f"recovery={name}", "recovery.log_memory=1000"])
        with pytest.raises(BadInput, match=r"at least \d+ bytes, or a smaller recovery\.wave_lag"):
            recovery_of(config)
    two = load("demo", ["recovery=replay", "recovery.copies=2", "stages=1", "model.blocks=6"])
    with pytest.raises(BadInput, match=r"recovery\.copies=1, or more stages"):
        recovery_of(two)
    assert recovery_of(load("demo", ["recovery=auto(log_memory=0)"])).wave_lag is None
    assert recovery_of(load("demo", ["recovery=auto"])).wave_lag == 23
