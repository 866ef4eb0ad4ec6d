"""Ladders: which rung is taken for which losses, as plain data and in whole runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.config import RecoveryConfig
from checkfree.errors import BadInput
from checkfree.load import load
from checkfree.messages.tensors import KeepShadow, StageState
from checkfree.ops import STORE, Address, Recipe, Refusal, Repair, Rung, Shadow, Source, View
from checkfree.recovery.ahead import moved_on
from checkfree.recovery.packed import pack_state, unpack_state
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.table import make_strategy
from checkfree.worker import StageWorker
from tests.tiny import Run, make

COMMITTED = 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def strategy(name: str, net: int | None = None, **options: Any) -> Strategy:
    return make_strategy(RecoveryConfig(name=name, **options), net)


def view_after(lost: Collection[int], stages: int, **changes: Any) -> View:
    """Each stage has one seat, and each its shadow on the next."""
    alive = frozenset(Address(s) for s in range(stages) if s not in lost)
    held = (Shadow(s, Address((s + 1) % stages), 20 - s % 5) for s in range(stages))
    shadows = frozenset(shadow for shadow in held if shadow.holder in alive)
    seats = frozenset(Address(s) for s in range(stages))
    return replace(View(alive, stages, COMMITTED, seats=seats, shadows=shadows), **changes)


def repaired(name: str, lost: Collection[int], view: View, **options: Any) -> Repair | Refusal:
    seats = frozenset(Address(stage) for stage in lost)
    return strategy(name, **options).repair(seats, view, frozenset())


def rules(repair: Repair | Refusal) -> dict[int, str]:
    assert isinstance(repair, Repair), repair
    return {seat.stage: recipe.rule for seat, recipe in repair.rebuild.items()}


def possible(stage: int, view: View, tried: Collection[str]) -> bool:
    """It has its own shadow, or there is another body stage, if only as a shadow."""
    held = {shadow.stage for shadow in view.shadows}
    if stage in held and "shadow" not in tried:
        return True
    living = {seat.stage for seat in view.alive}
    return stage != 0 and bool((held | living) - {0, stage})


@settings(max_examples=200, deadline=None)
@given(data=st.data(), stages=st.integers(3, 9), swap=st.booleans())
def test_auto_names_nobody_dead_and_gives_up_only_without_anything(
    data: st.DataObject, stages: int, swap: bool
) -> None:
    lost = data.draw(st.sets(st.integers(0, stages - 1), min_size=1, max_size=stages))
    tried = data.draw(st.sets(st.sampled_from(("shadow", "partner copy", "fitted average"))))
    rejected = frozenset(Rung(stage, rule) for stage in lost for rule in tried)
    view = view_after(lost, stages, rejected=rejected)
    repair = repaired("auto", lost, view, swap=swap and stages > 4)
    if not all(possible(stage, view, tried) for stage in lost):
        assert isinstance(repair, Refusal) and "\n" not in repair.reason
        return
    assert isinstance(repair, Repair), repair
    assert {seat.stage for seat in repair.rebuild} == lost and repair.resume_at == COMMITTED
    for seat, recipe in repair.rebuild.items():
        assert Rung(seat.stage, recipe.rule) not in rejected
        assert recipe.sources
        assert {source.holder for source in recipe.sources} <= view.alive
        assert set(recipe.boundary) <= view.alive
        for source in recipe.sources:
            own = source.of == source.holder.stage
            kept = Shadow(source.of, source.holder, source.version) in view.shadows
            assert (own and source.version == COMMITTED) or kept


CHOICES = [
    # lost, changes of the view: rule by stage
    ([2], {}, {2: "shadow"}),
    ([0], {}, {0: "shadow"}),
    ([2, 3], {}, {2: "average", 3: "shadow"}),
    ([2], {"shadows": frozenset()}, {2: "fitted average"}),
    ([1], {"shadows": frozenset()}, {1: "fitted average"}),
    ([5], {"shadows": frozenset()}, {5: "fitted average"}),
    ([2, 4], {"shadows": frozenset()}, {2: "fitted average", 4: "fitted average"}),
    ([1, 2], {"shadows": frozenset()}, {1: "average", 2: "average"}),
    ([1, 2, 4, 5], {"shadows": frozenset()}, dict.fromkeys((1, 2, 4, 5), "average")),
    ([2], {"rejected": frozenset({Rung(2, "shadow")})}, {2: "fitted average"}),
]  # fmt: skip


@pytest.mark.parametrize(("lost", "changes", "expected"), CHOICES)
def test_the_best_rung_that_is_possible(
    lost: list[int], changes: dict[str, Any], expected: dict[int, str]
) -> None:
    assert rules(repaired("auto", lost, view_after(lost, 6, **changes))) == expected


def test_a_swap_partner_only_where_trained_so() -> None:
    view = view_after([1], 6, shadows=frozenset())
    assert rules(repaired("auto", [1], view, swap=True)) == {1: "partner copy"}
    assert rules(repaired("auto", [1], view)) == {1: "fitted average"}


def test_far_apart_stages_weigh_by_how_near_they_are() -> None:
    view = view_after([2, 3, 4], 7, shadows=frozenset())
    repair = repaired("auto", [2, 3, 4], view)
    assert isinstance(repair, Repair)
    assert {s.of for s in repair.rebuild[Address(2)].sources} == {1, 5}
    made = {
        stage: strategy("auto").rebuild(
            Address(stage), nothing, {s: numbers(s.of) for s in repair.rebuild[Address(2)].sources}
        )
        for stage in (2, 3, 4)
    }
    assert [tuple(map(float, made[s].weights)) for s in made] == [
        pytest.approx((0.75, 0.25)),
        pytest.approx((0.5, 0.5)),
        pytest.approx((0.25, 0.75)),
    ]
    assert float(made[2].state.params["w"][0]) == pytest.approx(2.0)


def nothing() -> StageState:
    raise AssertionError("not needed")


def numbers(value: float) -> StageState:
    return StageState({"w": torch.full((3,), float(value))}, {}, {}, COMMITTED, 1.0, 1.0)


@pytest.mark.parametrize("name", ["shadow", "fit"])
def test_stage_0_without_its_shadow_is_refused(name: str) -> None:
    refusal = repaired(name, [0], view_after([0], 6, shadows=frozenset()))
    assert isinstance(refusal, Refusal) and "stage 0" in refusal.reason


def test_a_damaged_shadow_is_passed_over() -> None:
    view = view_after([2], 6)
    bad = frozenset({Source(Address(3), 2, 18)})
    repair = strategy("auto").repair(frozenset({Address(2)}), view, bad)
    assert rules(repair) == {2: "fitted average"}


def test_the_safety_net_is_the_last_rung() -> None:
    made = strategy("auto", net=10)
    lost = frozenset(Address(s) for s in range(6))
    view = replace(view_after(range(6), 6), checkpoints=(20, 30), alive=frozenset())
    repair = made.repair(lost, view, frozenset())
    assert isinstance(repair, Repair) and repair.resume_at == 30
    assert {s.holder for r in repair.rebuild.values() for s in r.sources} == {STORE}


@pytest.mark.parametrize("how", ["int8_rows", "int4_rows", "bf16", "fp32"])
def test_a_packed_state_comes_back_nearly(how: str) -> None:
    state = replace(numbers(1), params={"a.b": torch.randn(5, 8), "bias": torch.randn(8)})
    again = unpack_state(pack_state(state, how))
    assert again.packed == "" and again.params.keys() == state.params.keys()
    for name, param in state.params.items():
        assert torch.allclose(again.params[name], param, atol=0.35 if "int4" in how else 0.02)
    recipe = Recipe("shadow")
    assert recipe.boundary == ()


def test_too_many_stages_for_a_turn_each() -> None:
    with pytest.raises(BadInput, match=r"recovery.shadow_every=6: expected at least 7 iterations"):
        load(None, ["stages=6", "recovery=auto(shadow_every=6)"])


# --- whole runs ----------------------------------------------------------------------------------


def run(name: str, losses: dict[int, list[str]], **options: Any) -> Run:
    made = prepared(name, losses, **options)
    made.runtime.run()
    return made


def prepared(
    name: str, losses: dict[int, list[str]], *, iterations: int = 14, **options: Any
) -> Run:
    """One that has not begun."""
    net, more = options.pop("net", None), options.pop("terms", {})
    return make(
        strategy(name, net, **{"shadow_every": 5, **options}),
        stages=4,
        terms={"iterations": iterations, "microbatches": 4, "validation_every": 5, **more},
        strikes=lambda tick: [Address.parse(seat) for seat in losses.get(tick, ())],
    )


def told(made: Run) -> list[dict[str, str]]:
    return [{s: m["rule"] for s, m in r.rebuilds.items()} for r in made.of_kind("recovery")]


def worker(made: Run, seat: str) -> StageWorker:
    found = made.runtime.actors[Address.parse(seat)]
    assert isinstance(found, StageWorker)
    return found


@pytest.mark.parametrize("how", ["fp32", "int8"])
def test_a_stage_goes_on_from_its_shadow_and_nobody_rolls_back(how: str) -> None:
    """In fp32 a shadow is the very weights that the stage had then."""
    calm = run("shadow", {}, iterations=3, shadow_format=how)
    struck = run("shadow", {9: ["2.0"]}, shadow_format=how, iterations=9)
    assert struck.lead.done
    struck = run("shadow", {9: ["2.0"]}, shadow_format=how, iterations=10)
    (record,) = struck.of_kind("recovery")
    made = record.rebuilds["2.0"]
    assert made["sources"] == [{"holder": "3.0", "stage": 2, "version": 3}]
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
    assert record.rebuilds["2.0"]["sources"] == [{"holder": "3.0", "stage": 2, "version": 8}]
    told = [(m.state.version, m.base) for m in sent]
    assert told == [(3, None), (8, 3), (14, 8), (19, 14), (24, 19)]


def test_a_holder_that_a_stage_did_not_restart_from_is_sent_all_of_it() -> None:
    made, sent = pushed(0, at=14)
    (record,) = made.of_kind("recovery")
    (source,) = record.rebuilds["0.0"]["sources"]
    since = [m for m in sent if m.state.version > 14]
    holders = {m.keep.holder for m in since}
    first = {h: next(m.base for m in since if m.keep.holder == h) for h in holders}
    assert first.pop(Address.parse(source["holder"])) == source["version"]
    assert list(first.values()) == [None]


@pytest.mark.parametrize("ahead", [0.0, 0.5, 1.0])
def test_a_stage_is_moved_on_by_the_age_of_its_shadow(ahead: float) -> None:
    options = {"shadow_format": "signs", "shadow_ahead": ahead}
    made = prepared("auto", {12: ["2.0"]}, iterations=13, **options)
    seen: list[StageState] = []

    def watch(to: Address, message: Any) -> None:
        if type(message).__name__ == "Rebuilt":
            seen.append(worker(made, "2.0").stage.snapshot())
            shadow = worker(made, "3.0").shadows.read(Source(Address(3), 2, 8))
            assert shadow is not None
            seen.extend((moved_on(shadow, 4 * ahead), unpack_state(shadow)))

    made.runtime.run(watch)
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"].get("ahead", 0.0) == 4 * ahead
    began, expected, there = seen
    expected = unpack_state(expected)
    for name, param in began.params.items():
        assert torch.equal(param, expected.params[name])
        moved = param.ndim > 1 and ahead > 0
        assert torch.equal(param, there.params[name]) != moved


@pytest.mark.parametrize("at", [7, 12])
def test_a_restart_has_the_configured_learning_rate(at: int) -> None:
    """From a whole copy, which says no way, and from a change."""
    options = {"shadow_format": "signs", "shadow_ahead": 1.0, "lr_scale": 1.5}
    made = prepared("auto", {at: ["2.0"]}, iterations=at + 1, **options)
    made.runtime.run()
    assert len(made.of_kind("recovery")) == 1
    assert made.states()["2.0"].lr_scale == 1.5


@pytest.mark.parametrize("how", ["int4", "int8", "bf16", "fp32"])
def test_a_format_that_says_no_way_is_taken_as_it_is(how: str) -> None:
    repair = repaired("auto", [2], view_after([2], 6), shadow_format=how, shadow_ahead=1.0)
    assert isinstance(repair, Repair)
    assert repair.rebuild[Address(2)].ahead == 0.0


def test_a_lost_holders_shadows_are_pushed_again() -> None:
    struck = run("shadow", {9: ["3.0"], 13: ["2.0"]}, shadow_every=50)
    assert told(struck) == [{"3.0": "shadow"}, {"2.0": "shadow"}]
    second = struck.of_kind("recovery")[1]
    assert second.rebuilds["2.0"]["sources"][0]["version"] == 10


def test_a_holder_and_its_owner_together_need_another_rung() -> None:
    struck = run("auto", {9: ["2.0", "3.0"]})
    assert told(struck) == [{"2.0": "average", "3.0": "shadow"}]


def test_the_embeddings_survive_with_their_first_holder_lost_too() -> None:
    struck = run("auto", {13: ["0.0", "1.0"]}, iterations=16)
    assert struck.lead.done and told(struck) == [{"0.0": "shadow", "1.0": "shadow"}]
    assert struck.of_kind("recovery")[0].rebuilds["0.0"]["sources"][0]["holder"] == "4.0"


def test_half_of_the_model_at_once() -> None:
    for lost in (["1.0", "2.0"], ["3.0", "4.0", "0.0"], ["1.0", "2.0", "3.0", "4.0"]):
        assert run("auto", {9: lost}).lead.done


def test_stage_0_with_both_its_holders_ends_the_run() -> None:
    reason = run("auto", {9: ["0.0", "1.0", "4.0"]}).lead.failure
    assert "stage 0 is lost and nothing can stand in for it (shadow: no shadow of it" in reason


@pytest.mark.parametrize("seat", ["1.0", "2.0", "4.0"])
def test_a_fit_comes_nearer_than_the_average(seat: str) -> None:
    (record,) = run("fit", {9: [seat]}, fit_steps=32).of_kind("recovery")
    check = record.rebuilds[seat]["check"]
    assert record.rebuilds[seat]["rule"] == "fitted average"
    assert check["error"] < check["unfitted"] and check["pairs"] == 32


def test_what_is_held_for_a_fit_is_bounded() -> None:
    made = run("fit", {9: ["2.0"]}, fit_memory=480)  # 48 bytes an activation: 5 each way
    (record,) = made.of_kind("recovery")
    assert record.rebuilds["2.0"]["check"]["pairs"] == 5


def test_nothing_held_and_nothing_to_fit_it_to() -> None:
    (record,) = run("fit", {9: ["2.0"]}, fit_memory=0).of_kind("recovery")
    made = record.rebuilds["2.0"]
    assert made["rule"] == "average"
    assert made["rejected"] == [
        {"rule": "fitted average", "why": "nothing is held of what went into it and came out"}
    ]


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
    assert told["rule"] == "fitted average"
    assert [entry["rule"] for entry in told["rejected"]] == ["shadow"]
    assert "not finite" in told["rejected"][0]["why"]


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
    assert record.rebuilds["2.0"]["rule"] == "fitted average"
    assert "times that of leaving the stage out" in record.rebuilds["2.0"]["rejected"][0]["why"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda part: part[:0], "it can't be moved on: signs with"),
        (lambda part: torch.full_like(part, float("nan")), "not finite"),
        (lambda part: torch.full_like(part, 1e30), "root mean square"),
    ],
)
def test_a_shadow_whose_way_was_spoilt_is_told_and_passed_over(
    wrong: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    def strikes(tick: int) -> list[Address]:
        if tick != 12:
            return []
        (state,) = (s for s in worker(made, "3.0").shadows.states() if s.version == 8)
        heading = cast(dict[str, torch.Tensor], state.heading)
        for name in [name for name in heading if name.endswith("/scales")]:
            heading[name] = wrong(heading[name])
        return [Address(2)]

    options = {"shadow_every": 5, "shadow_format": "signs", "shadow_ahead": 1.0}
    terms = {"iterations": 14, "microbatches": 4}
    made = make(strategy("auto", **options), stages=4, terms=terms, strikes=strikes)
    made.runtime.run()
    (record,) = made.of_kind("recovery")
    told = record.rebuilds["2.0"]
    assert told["rule"] == "fitted average"
    assert said in told["rejected"][0]["why"]


def test_a_rollback_takes_newer_shadows_along() -> None:
    made = run("auto", {9: [f"{s}.0" for s in range(5)], 11: ["2.0"]}, net=4)
    assert made.lead.done, made.lead.failure
    first, second = made.of_kind("recovery")
    assert first.resume_at == 8 and second.rebuilds["2.0"]["sources"][0]["version"] <= 10


@pytest.mark.parametrize(("how", "held_as"), [("int4", "int4_rows"), ("signs", "bf16")])
def test_holders_hold_parts_and_no_more_than_two(how: str, held_as: str) -> None:
    made = run("auto", {}, iterations=23, shadow_format=how)
    for stage in range(5):
        held = worker(made, f"{stage}.0")
        assert held.copies == {}
        assert 1 <= len(held.shadows.states()) <= 2
        assert {state.packed for state in held.shadows.states()} == {held_as}
        assert len(list(held.pushes.references.items())) <= 2, "stage 0 has two holders"
