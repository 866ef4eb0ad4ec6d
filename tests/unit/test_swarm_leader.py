"""Whoever comes back with its state has its seat again, whoever sits there without one."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any, cast

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.core.ops import LEAD, Address
from checkfree.lead import Lead
from checkfree.lead.membership import Membership
from checkfree.runtime.swarm.leader import LeaderProcess
from checkfree.runtime.swarm.transport.frames import Peer

SEAT, SEATS = Address(1), [Address(stage) for stage in range(3)]


def evicted(members: Membership, sits: Peer) -> list[Peer]:
    """Who has to get up from ``SEAT``, as far as the lead has heard."""
    gone: list[Peer] = []
    lead, leader_process = object.__new__(Lead), object.__new__(LeaderProcess)
    cast(Any, lead)._lead_state = SimpleNamespace(members=members)
    parts: dict[str, Any] = {
        "host": SimpleNamespace(actors={LEAD: lead}),
        "peer_table": SimpleNamespace(present={SEAT: sits}),
        "join_server": SimpleNamespace(candidates=SimpleNamespace(on_the_way={})),
        "_gone": lambda peer, why: gone.append(peer),
    }
    vars(leader_process).update(parts)
    cast(Any, leader_process)._evict(SEAT)
    return gone


@pytest.mark.parametrize("heard", ["nothing", "lost", "joined", "filled"])
def test_who_has_just_sat_down_gets_up_as_who_is_known_to_be_uninitialized(heard: str) -> None:
    """The lead hears of it a moment later than the network thread."""
    members, sits = Membership(SEATS), Peer(SEAT, 1, "id", ())
    if heard != "nothing":
        members.lose(SEAT, 0, silent=True)
    if heard in ("joined", "filled"):
        members.join(SEAT, 1)
    if heard == "filled":
        members.fill([SEAT])
    assert evicted(members, sits) == ([] if heard == "filled" else [sits])
