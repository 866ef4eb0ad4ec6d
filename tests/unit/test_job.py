"""A run that is to go on, and the records that it left."""

from __future__ import annotations

from checkfree.build.job import recorded_config
from checkfree.config import Config
from checkfree.load import to_tree


def test_what_an_older_version_did_not_know_has_its_default() -> None:
    tree = to_tree(Config())
    older = {key: value for key, value in tree.items() if key != "fleet"}
    assert recorded_config(older) == tree


def test_what_no_version_knows_is_left_as_it_is() -> None:
    strange = {**to_tree(Config()), "colour": "green"}
    assert recorded_config(strange) == strange
