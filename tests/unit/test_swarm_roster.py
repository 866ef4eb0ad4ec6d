"""What a lead that is started again knows of those before it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence.roster import Roster
from checkfree.runtime.swarm.transport.frames import Peer
from tests.peers import id_of

SITS = Peer(Address(1), 2, id_of("id"), ("/ip4/10.0.0.1/tcp/1",))
KNOWN = Roster(
    "run",
    3,
    True,
    {Address(0): 0, Address(1): 2},
    (SITS,),
    (7,),
    frozenset({frozenset({"a", "b"}), frozenset({"b", "c"})}),
    frozenset({"d"}),
    {"a": 0.5},
)


def test_it_reads_back(tmp_path: Path) -> None:
    """Nodes that can't reach each other, that were drained, or that are slow, too."""
    KNOWN.save(tmp_path / "roster")
    assert Roster.load(tmp_path / "roster") == KNOWN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"incarnation": "run", "lead": 1}'])
def test_a_damaged_one_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "roster").write_text(text)
    assert Roster.load(tmp_path / "roster") is None
    assert Roster.load(tmp_path / "nowhere") is None


def test_a_launcher_is_told_where_everybody_is() -> None:
    assert KNOWN.found() == [["0.0", 0, None], ["1.0", 2, SITS.to_json()]]
