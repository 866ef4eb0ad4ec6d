"""A run that is to go on, and the records that it left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkfree.config.load import to_tree
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.session.job import Job, check_same, recorded_config


def test_what_an_older_version_did_not_know_has_its_default() -> None:
    tree = to_tree(Config())
    older = {key: value for key, value in tree.items() if key != "fleet"}
    assert recorded_config(older) == tree


def older(**recovery: object) -> dict[str, Any]:
    """Of a version that did not move shadows on."""
    tree = to_tree(Config())
    known = {key: value for key, value in tree["recovery"].items() if key != "shadow_ahead"}
    return {**tree, "recovery": {**known, **recovery}}


@pytest.mark.parametrize("name", ["auto", "shadow"])
def test_a_run_that_moved_no_shadow_on_goes_on_so(name: str) -> None:
    assert recorded_config(older(name=name))["recovery"]["shadow_ahead"] == 0.0
    with pytest.raises(BadInput, match="put it back"):
        check_same(
            cast(Job, SimpleNamespace(config=Config(), data=None, folder=Path())),
            [{"kind": "config", "config": older(), "data": None}],
        )


@pytest.mark.parametrize(
    "recovery", [{"name": "checkfree"}, {"name": "auto", "shadow_format": "int4"}]
)
def test_a_run_that_had_none_to_move_on_is_the_same_now(recovery: dict[str, object]) -> None:
    assert recorded_config(older(**recovery))["recovery"]["shadow_ahead"] == 1.0


def test_what_no_version_knows_is_left_as_it_is() -> None:
    strange = {**to_tree(Config()), "colour": "green"}
    assert recorded_config(strange) == strange
