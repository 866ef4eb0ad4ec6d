"""A machine is lost with all seats that it has: what was promised at the start comes true."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pytest
import torch

from checkfree.core.ops import FAULTS, STORE, Address, Location
from checkfree.lead import Phase
from checkfree.messages.control import Message
from checkfree.messages.tensors import KeepState
from checkfree.recovery.replay.promise import laid_out, promise
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY
from checkfree.recovery.wrappers import ReplicaFirst
from tests.chaos.everywhere import finished
from tests.chaos.takeovers import next_lead, succeed
from tests.tiny import Run, make

LAYOUTS = ("aabbab", "ababab", "aabbcc", "abcabc", "aaaaab", "abbbba", "aabcca", "abb")
"""The machine of each stage: ``a`` and ``b`` are in one zone, ``c`` is in another."""


def located(layout: str) -> dict[Address, Location]:
    zones = {"a": "east", "b": "east", "c": "west"}
    return {Address(s): Location(name, zones[name]) for s, name in enumerate(layout)}


def terms(copies: int = 1) -> ReplayTerms:
    return ReplayTerms(lag=1, every=2, copies=copies)


class Losing:
    """A run on such machines, that loses these seats together when a wave has counted and another
    is not due yet. ``told``: whether the lead knows of machines. ``again``: another lead comes
    first."""

    def __init__(
        self, layout: str, lost: Sequence[Address] = (), *, told: bool = True, again: bool = False
    ):
        self.layout = located(layout)
        self.lost, self.again = list(lost), again
        self.run = make(
            ReplicaFirst(LogAndReplay(terms())),
            stages=len(self.layout) - 1,
            terms={"iterations": 6, "microbatches": 2, "validation_every": 3},
        )
        if told:
            self.run.lead.members.locations |= self.layout
        self.pushed: set[tuple[Address, Address]] = set()
        """Owners, and who got a copy of theirs."""

    def play(self) -> Run:
        self.run.runtime.run(self._after)
        return self.run

    def _after(self, to: Address, message: Message) -> None:
        lead, runtime = self.run.lead, self.run.runtime
        if isinstance(message, KeepState) and to != STORE:
            self.pushed.add((message.keep.owner, to))
        counted = (lead._lead_state.replays.base or 0) > 0
        if not counted or lead.phase is not Phase.RUNNING:
            return
        if self.again:
            self.again = False
            return succeed(self.run, 1, sent=True, faults=runtime.actors[FAULTS])
        lost, self.lost = self.lost, []
        lives = {seat: runtime.kill(seat) for seat in lost}
        for seat, life in lives.items():
            runtime.join(seat, life + 1, lead.members.locations.get(seat))


@lru_cache
def undisturbed(stages: int) -> dict[str, object]:
    return finished(Losing("a" * stages).play())


def on(machine: str, layout: str) -> list[Address]:
    return [seat for seat, at in located(layout).items() if at.machine == machine]


CASES = [(layout, machine) for layout in LAYOUTS for machine in sorted(set(layout))]


@pytest.mark.parametrize("again", [False, True], ids=["one lead", "another lead"])
@pytest.mark.parametrize(("layout", "machine"), CASES)
def test_any_one_machine(layout: str, machine: str, again: bool) -> None:
    """And another lead knows of them, by the records."""
    torch.set_num_threads(1)
    seats = on(machine, layout)
    said = promise(laid_out(located(layout), 1, located(layout)), located(layout))
    assert said.machines[machine]
    run = Losing(layout, seats, again=again).play()
    assert run.lead.done, run.lead.failure
    (recovery,) = run.of_kind("recovery")
    assert [Address.parse(seat) for seat in recovery.rebuilds] == seats
    assert {made.recipe.rule for made in recovery.rebuilds.values()} == {REPLAY}
    assert finished(run) == undisturbed(len(layout))


def test_without_a_word_of_machines_one_of_them_takes_a_stage_with_its_copy() -> None:
    """As before: half the pipeline away, wherever that is."""
    run = Losing("abcabc", on("a", "abcabc"), told=False).play()
    assert "and with it whoever held its copy" in run.lead.failure


def test_what_was_not_promised_is_refused() -> None:
    layout = "aabbaa"
    zone = [*on("a", layout), *on("b", layout)]
    said = promise(laid_out(located(layout), 1, located(layout)), located(layout))
    assert said.zones == {"east": False}
    assert Losing(layout, zone).play().lead.failure


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_says_where_copies_go(layout: str) -> None:
    losing = Losing(layout)
    losing.play()
    copies = laid_out(located(layout), 1, located(layout)).protection
    assert copies is not None
    assert losing.pushed == {(Address(copy.of), copy.holder) for copy in copies.copies}


def test_another_lead_reads_of_machines() -> None:
    losing = Losing("abcabc")
    run = losing.play()
    assert run.of_kind("plan")[0].hosts == {str(s): at.machine for s, at in losing.layout.items()}
    assert next_lead(run, 1).members.locations == losing.layout
