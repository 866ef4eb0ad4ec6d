"""Whole runs under ladders: what is pushed, what a lost stage becomes, what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from checkfree.core.ops import Address, Source
from checkfree.messages.tensors import KeepShadow, StageState
from tests.tiny import Run, make
from tests.unit.ladders import prepared, run, strategy, told, worker


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("how", ["fp32", "int8"])
def test_a_stage_goes_on_from_its_shadow_and_nobody_rolls_back(how: str) -> None:
    """In fp32 a shadow is the very weights that the stage had then."""
    calm = run("shadow", {}, iterations=3, shadow_format=how)
    struck = run("shadow", {9: ["2.0"]}, shadow_format=how, iterations=9)
    assert struck.lead.done
    struck = run("shadow", {9: ["2.0"]}, shadow_format=how, iterations=10)
    (record,) = struck.of_kind("recovery")
    made = record.rebuilds["2.0"]
    assert made.recipe.sources == (Source(Address(3), 2, 3),)
    assert (record.lost_iterations, record.resume_at) == (0, 9)
    before = calm.states()["2.0"].params
    seen: list[StageState] = []
    again = run_until_rebuilt(how, seen)
    assert again.lead.done and seen[0].moments == {} and seen[0].lr_scale == 1.0
    for name, param in before.items():
        assert torch.allclose(seen[0].params[name], param, atol=0.0 if how == "fp32" else 0.01)


def run_until_rebuilt(how: str, seen: list[StageState]) -> Run:
    made = make(
        strategy("shadow", shadow_every=5, shadow_format=how),
        stages=4,
        terms={"iterations": 10, "microbatches": 4, "validation_every": 5},
        strikes=lambda tick: [Address(2)] if tick == 9 else [],
    )

    def watch(to: Address, message: Any) -> None:
        if type(message).__name__ == "Rebuilt":
            seen.append(worker(made, "2.0").stage.snapshot())

    made.runtime.run(watch)
    return made


@pytest.mark.parametrize("how", ["int4", "signs"])
def test_pushing_changes_nothing(how: str) -> None:
    assert run("auto", {}, shadow_format=how).losses() == run("none", {}).losses()


def pushed(stage: int, at: int) -> tuple[Run, list[KeepShadow]]:
    """A run that loses a stage, and all that was pushed of that."""
    sent: list[KeepShadow] = []
    made = prepared("shadow", {at: [f"{stage}.0"]}, iterations=24, shadow_format="signs")

    def watch(to: Address, message: Any) -> None:
        if isinstance(message, KeepShadow) and message.keep.owner.stage == stage:
            sent.append(message)

    made.runtime.run(watch)
    for holder, left in worker(made, f"{stage}.0").pushes.references.items():
        there = worker(made, str(holder)).shadows.read(Source(holder, stage, left.version))
        assert there is not None
        for name, part in there.params.items():
            assert torch.equal(part, left.item.params[name]), "owner and holder have the same"
    return made, sent


def test_a_stage_restarts_from_changes_and_goes_on_with_them() -> None:
    """What its holder made of all that came is what it begins with again, so both have that."""
    made, sent = pushed(2, at=12)
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"].recipe.sources == (Source(Address(3), 2, 8),)
    told = [(m.state.version, m.base) for m in sent]
    assert told == [(3, None), (8, 3), (14, 8), (19, 14), (24, 19)]


def test_a_holder_that_a_stage_did_not_restart_from_is_sent_all_of_it() -> None:
    made, sent = pushed(0, at=14)
    (record,) = made.of_kind("recovery")
    (source,) = record.rebuilds["0.0"].recipe.sources
    since = [m for m in sent if m.state.version > 14]
    holders = {m.keep.holder for m in since}
    first = {h: next(m.base for m in since if m.keep.holder == h) for h in holders}
    assert first.pop(source.holder) == source.version
    assert list(first.values()) == [None]


def test_a_lost_holders_shadows_are_pushed_again() -> None:
    struck = run("shadow", {9: ["3.0"], 13: ["2.0"]}, shadow_every=50)
    assert told(struck) == [{"3.0": "shadow"}, {"2.0": "shadow"}]
    second = struck.of_kind("recovery")[1]
    assert second.rebuilds["2.0"].recipe.sources[0].version == 10


def test_a_holder_and_its_owner_together_need_another_rung() -> None:
    struck = run("auto", {9: ["2.0", "3.0"]})
    assert told(struck) == [{"2.0": "average", "3.0": "shadow"}]


def test_the_embeddings_survive_with_their_first_holder_lost_too() -> None:
    struck = run("auto", {13: ["0.0", "1.0"]}, iterations=16)
    assert struck.lead.done and told(struck) == [{"0.0": "shadow", "1.0": "shadow"}]
    assert struck.of_kind("recovery")[0].rebuilds["0.0"].recipe.sources[0].holder == Address(4)


def test_half_of_the_model_at_once() -> None:
    for lost in (["1.0", "2.0"], ["3.0", "4.0", "0.0"], ["1.0", "2.0", "3.0", "4.0"]):
        assert run("auto", {9: lost}).lead.done


def test_stage_0_with_both_its_holders_ends_the_run() -> None:
    reason = run("auto", {9: ["0.0", "1.0", "4.0"]}).lead.failure
    assert "stage 0 is lost and nothing can stand in for it (shadow: no shadow of it" in reason


@pytest.mark.parametrize("seat", ["1.0", "2.0", "4.0"])
def test_a_fit_comes_nearer_than_the_average(seat: str) -> None:
    (record,) = run("fit", {9: [seat]}, fit_steps=32).of_kind("recovery")
    check = record.rebuilds[seat].check
    assert record.rebuilds[seat].recipe.rule == "fitted average"
    assert check["error"] < check["unfitted"] and check["pairs"] == 32


def test_what_is_held_for_a_fit_is_bounded() -> None:
    made = run("fit", {9: ["2.0"]}, fit_memory=480)  # 48 bytes an activation: 5 each way
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"].check["pairs"] == 5


def test_nothing_held_and_nothing_to_fit_it_to() -> None:
    (record,) = run("fit", {9: ["2.0"]}, fit_memory=0).of_kind("recovery")
    made = record.rebuilds["2.0"]
    assert made.recipe.rule == "average"
    assert made.rejected == (
        ("fitted average", "nothing is held of what went into it and came out"),
    )


def test_a_shadow_that_was_spoilt_is_told_and_passed_over() -> None:
    made = make(
        strategy("auto", shadow_every=5),
        stages=4,
        terms={"iterations": 12, "microbatches": 4},
        strikes=lambda tick: spoil(made, tick),
    )
    made.runtime.run()
    (record,) = made.of_kind("recovery")
    told = record.rebuilds["2.0"]
    assert told.recipe.rule == "fitted average"
    assert [rule for rule, _ in told.rejected] == ["shadow"]
    assert "not finite" in told.rejected[0][1]


def spoil(made: Run, tick: int) -> list[Address]:
    if tick != 9:
        return []
    for state in worker(made, "3.0").shadows.states():
        for part in state.params.values():
            if part.is_floating_point():
                part.fill_(float("nan"))
    return [Address(2)]


def test_a_shadow_of_nonsense_is_caught_by_what_neighbours_hold() -> None:
    """Finite, and of the right shape: only its outputs tell."""

    def strikes(tick: int) -> list[Address]:
        if tick != 9:
            return []
        for state in worker(made, "3.0").shadows.states():
            for part in state.params.values():
                part.copy_(part.flip(0).mul(40) if part.is_floating_point() else part.flip(0))
        return [Address(2)]

    made = make(
        strategy("auto", shadow_every=5),
        stages=4,
        terms={"iterations": 12, "microbatches": 4},
        strikes=strikes,
    )
    made.runtime.run()
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"].recipe.rule == "fitted average"
    assert "times that of leaving the stage out" in record.rebuilds["2.0"].rejected[0][1]


def test_a_rollback_takes_newer_shadows_along() -> None:
    made = run("auto", {9: [f"{s}.0" for s in range(5)], 11: ["2.0"]}, net=4)
    assert made.lead.done, made.lead.failure
    first, second = made.of_kind("recovery")
    assert first.resume_at == 8 and second.rebuilds["2.0"].recipe.sources[0].version <= 10


@pytest.mark.parametrize(("how", "held_as"), [("int4", "int4_rows"), ("signs", "bf16")])
def test_holders_hold_parts_and_no_more_than_two(how: str, held_as: str) -> None:
    made = run("auto", {}, iterations=23, shadow_format=how)
    for stage in range(5):
        held = worker(made, f"{stage}.0")
        assert held.copies == {}
        assert 1 <= len(held.shadows.states()) <= 2
        assert {state.packed for state in held.shadows.states()} == {held_as}
        assert len(list(held.pushes.references.items())) <= 2, "stage 0 has two holders"
