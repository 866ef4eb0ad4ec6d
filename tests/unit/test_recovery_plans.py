"""What each strategy plans, as plain data: from what a lost seat is rebuilt, what is kept, or one
line that says why not and what would have helped."""

from __future__ import annotations

import inspect
import re
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.config.check import check
from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import (
    STORE,
    Address,
    Kind,
    Mirror,
    Refusal,
    Repair,
    Source,
    Upload,
    View,
    parse_route,
)
from checkfree.pipeline import gpipe, one_f_one_b
from checkfree.pipeline.routes import in_order
from checkfree.recovery.registry import STRATEGIES
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import Wrapper, make_strategy

N, NOW = 6, 7
"""Body stages, and the iteration that is committed when something is lost."""


def strategy(name: str, net: int | None = None, **options: Any) -> Strategy:
    return make_strategy(RecoveryConfig(name=name, **options), net)


def seats(replicas: int = 1) -> list[Address]:
    return [Address(stage, replica) for stage in range(N + 1) for replica in range(replicas)]


def view(made: Strategy, lost: frozenset[Address], replicas: int, checkpoints: Any) -> View:
    """As the lead sees it once replacements sit down: keeps whose holder lives."""
    alive = frozenset(seats(replicas)) - lost
    keeps = (k for k in made.replications(NOW, seats(replicas)) if k.holder in alive)
    everybody = frozenset(seats(replicas))
    return View(alive, N + 1, NOW, frozenset(keeps), checkpoints, 0, everybody)


def plan(
    made: Strategy,
    *lost: str,
    replicas: int = 1,
    checkpoints: tuple[int, ...] = (0, 4),
    refused: tuple[Source, ...] = (),
) -> Repair | Refusal:
    gone = frozenset(map(Address.parse, lost))
    return made.repair(gone, view(made, gone, replicas, checkpoints), frozenset(refused))


def said(repair: Repair | Refusal) -> dict[str, str]:
    assert isinstance(repair, Repair), repair
    return {
        str(seat): " ".join([recipe.rule, *map(str, recipe.sources)])
        for seat, recipe in repair.rebuild.items()
    }


# --- rules ---------------------------------------------------------------------------------------

RULES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("checkfree", {}, {"3.0": "weighted average 2.0@7 4.0@7"}),
    (
        "checkfree",
        {},
        {"2.0": "weighted average 1.0@7 3.0@7", "4.0": "weighted average 3.0@7 5.0@7"},
    ),
    ("uniform", {}, {"3.0": "uniform average 2.0@7 4.0@7"}),
    ("checkfree_plus", {}, {"0.0": "embedding copy 1.0:0@7"}),
    ("checkfree_plus", {}, {"1.0": "partner copy 2.0@7"}),
    ("checkfree_plus", {}, {"2.0": "partner copy 1.0@7"}),
    ("checkfree_plus", {}, {"3.0": "weighted average 2.0@7 4.0@7"}),
    ("checkfree_plus", {}, {"5.0": "partner copy 6.0@7"}),
    ("checkfree_plus", {}, {"6.0": "partner copy 5.0@7"}),
    ("checkfree_plus", {"partner": "average"}, {"2.0": "weighted average 1.0@7 3.0@7"}),
    ("checkfree_plus", {"partner": "average"}, {"5.0": "weighted average 4.0@7 6.0@7"}),
    ("checkfree_plus", {"partner": "average"}, {"1.0": "partner copy 2.0@7"}),
    (
        "checkfree_plus",
        {},
        {"0.0": "embedding copy 6.0:0@7", "1.0": "partner copy 2.0@7"},
    ),
    ("redundant", {}, {"3.0": "redundant copy 2.0:3@7"}),
    ("redundant", {}, {"1.0": "redundant copy 0.0:1@7"}),
    ("redundant", {}, {"0.0": "redundant copy 6.0:0@7"}),
    (
        "redundant",
        {},
        {"2.0": "redundant copy 1.0:2@7", "4.0": "redundant copy 3.0:4@7"},
    ),
    ("copy", {}, {"3.0": "copy 2.0@7"}),
    ("copy", {}, {"1.0": "copy 2.0@7"}),
    ("copy", {}, {"6.0": "copy 5.0@7"}),
    ("random", {}, {"0.0": "random", "3.0": "random", "4.0": "random"}),
    ("zero", {}, {"3.0": "zero", "4.0": "zero"}),
]


@pytest.mark.parametrize(("name", "options", "expected"), RULES)
def test_a_lost_stage_is_rebuilt_by_the_stated_rule(
    name: str, options: dict[str, Any], expected: dict[str, str]
) -> None:
    repair = plan(strategy(name, **options), *expected)
    assert said(repair) == expected
    assert isinstance(repair, Repair) and repair.resume_at == NOW


@pytest.mark.parametrize("lost", [["3.0"], ["3.0", "4.0"], [f"{s}.0" for s in range(N + 1)]])
def test_a_checkpoint_rolls_everybody_back_to_its_newest(lost: list[str]) -> None:
    repair = plan(strategy("checkpoint"), *lost)
    assert said(repair) == {f"{s}.0": f"checkpoint store:{s}@4" for s in range(N + 1)}
    assert isinstance(repair, Repair) and repair.resume_at == 4


def test_a_damaged_checkpoint_gives_way_to_an_older_one() -> None:
    repair = plan(strategy("checkpoint"), "3.0", refused=(Source(STORE, 5, 4),))
    assert isinstance(repair, Repair) and repair.resume_at == 0
    assert said(repair)["3.0"] == "checkpoint store:3@0"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_living_replica_is_copied_first(name: str) -> None:
    repair = plan(strategy(name), "0.0", "3.1", replicas=2)
    assert said(repair) == {"0.0": "replica 0.1@7", "3.1": "replica 3.0@7"}
    assert isinstance(repair, Repair) and repair.resume_at == NOW


def test_a_wholly_lost_stage_gives_all_its_seats_one_recipe() -> None:
    repair = plan(strategy("checkfree"), "3.0", "3.1", "5.0", replicas=2)
    average = "weighted average 2.0@7 4.0@7"
    assert said(repair) == {"3.0": average, "3.1": average, "5.0": "replica 5.1@7"}


def test_a_rollback_takes_the_living_replicas_along() -> None:
    repair = plan(strategy("checkpoint"), "3.0", "3.1", "5.0", replicas=2)
    assert said(repair) == {
        str(seat): f"checkpoint store:{seat.stage}@4" for seat in seats(replicas=2)
    }


def test_a_safety_net_holds_what_the_strategy_refuses() -> None:
    made = strategy("checkfree", net=4)
    assert said(plan(made, "3.0")) == {"3.0": "weighted average 2.0@7 4.0@7"}
    rollback = plan(made, "3.0", "4.0")
    assert isinstance(rollback, Repair) and rollback.resume_at == 4
    refusal = plan(made, "3.0", "4.0", checkpoints=())
    assert isinstance(refusal, Refusal) and "lost together" in refusal.reason


# --- refusals ------------------------------------------------------------------------------------

REFUSALS = [
    ("none", ("3.0",), "stage 3 is lost and recovery=none: choose recovery=checkfree_plus"),
    ("checkfree", ("0.0",), "stage 0 (embedding and head) is lost and has no like neighbour"),
    ("checkfree", ("1.0",), "stage 1 is lost and stands at the edge of stages 1 … 6"),
    ("checkfree", ("6.0",), "recovery=checkfree_plus recovers edges"),
    ("checkfree", ("3.0", "4.0"), "stages 3 and 4 are lost together and stage 3 needs both"),
    ("uniform", ("2.0", "3.0"), "stages 2 and 3 are lost together"),
    ("uniform", ("6.0",), "stage 6 is lost and stands at the edge"),
    ("checkfree_plus", ("1.0", "2.0"), "stages 1 and 2 are swap partners and lost together"),
    ("checkfree_plus", ("5.0", "6.0"), "stages 5 and 6 are swap partners and lost together"),
    ("checkfree_plus", ("2.0", "3.0"), "stages 2 and 3 are lost together"),
    ("checkfree_plus", ("0.0", "1.0", "6.0"), "lost together with both holders of its copy"),
    ("redundant", ("3.0", "4.0"), "stages 3 and 4 are lost together and 3 held the only copy"),
    ("redundant", ("0.0", "1.0"), "stages 0 and 1 are lost together"),
    ("redundant", ("0.0", "6.0"), "stages 6 and 0 are lost together"),
    ("copy", ("0.0",), "stage 0 is lost and the stage that recovery=copy would copy is not there"),
    ("copy", ("2.0", "3.0"), "stage 3 is lost and the stage that recovery=copy would copy"),
    ("zero", ("0.0",), "stage 0 (embedding and head) is lost and would output nothing but zeros"),
]


@pytest.mark.parametrize(("name", "lost", "reason"), REFUSALS)
def test_what_cannot_be_rebuilt_is_refused_with_a_reason(
    name: str, lost: tuple[str, ...], reason: str
) -> None:
    refusal = plan(strategy(name), *lost)
    assert isinstance(refusal, Refusal) and reason in refusal.reason


@pytest.mark.parametrize(
    ("checkpoints", "tried"), [((), "none was complete yet"), ((0, 4), "all of [0, 4] are damaged")]
)
def test_without_a_good_checkpoint_there_is_no_rollback(
    checkpoints: tuple[int, ...], tried: str
) -> None:
    bad = tuple(Source(STORE, 3, version) for version in checkpoints)
    refusal = plan(strategy("checkpoint"), "3.0", checkpoints=checkpoints, refused=bad)
    assert isinstance(refusal, Refusal)
    assert "stage 3 is lost and there is no good checkpoint: " + tried in refusal.reason


def helps(reason: str) -> bool:
    return bool(re.search(r"(recovery(\.\w+)?|replicas|checkpoint(\.\w+)?|failures\.\w+)=", reason))


every_name = st.sampled_from(sorted(STRATEGIES))
any_loss = st.sets(st.sampled_from([str(seat) for seat in seats(2)]), min_size=1)


@given(every_name, any_loss, st.sampled_from([1, 2]), st.sampled_from([(), (0, 4)]), st.data())
def test_any_loss_is_repaired_from_the_living_or_refused_in_one_line(
    name: str, lost: set[str], replicas: int, checkpoints: tuple[int, ...], data: st.DataObject
) -> None:
    lost = {seat for seat in lost if Address.parse(seat) in seats(replicas)} or {"3.0"}
    made = strategy(name, net=data.draw(st.sampled_from([None, 4])))
    repair = plan(made, *lost, replicas=replicas, checkpoints=checkpoints)
    if isinstance(repair, Refusal):
        assert "\n" not in repair.reason and helps(repair.reason), repair.reason
        return
    assert set(map(Address.parse, lost)) <= repair.rebuild.keys()
    for recipe in repair.rebuild.values():
        for source in recipe.sources:
            assert str(source.holder) not in lost
            assert source.version == repair.resume_at
            assert source.holder != STORE or source.version in checkpoints
    assert repair.resume_at in (NOW, *checkpoints)


FALLBACKS = [
    ("checkfree_plus", None, ("0.0",), 1, "1.0:0", "embedding copy 6.0:0@7"),
    ("redundant", 4, ("3.0",), 1, "2.0:3", "checkpoint store:3@4"),
    ("checkfree", 4, ("3.0",), 1, "2.0", "checkpoint store:3@4"),
    ("none", None, ("3.0",), 3, "3.1", "replica 3.2@7"),
]


@pytest.mark.parametrize(("name", "net", "lost", "replicas", "bad", "expected"), FALLBACKS)
def test_a_source_that_proved_no_good_gives_way_to_the_next(
    name: str, net: int | None, lost: tuple[str, ...], replicas: int, bad: str, expected: str
) -> None:
    holder, _, of = bad.partition(":")
    seat = Address.parse(holder)
    refused = Source(seat, int(of or seat.stage), NOW)
    repair = plan(strategy(name, net), *lost, replicas=replicas, refused=(refused,))
    assert said(repair)[lost[0]] == expected


# --- routes, ops and keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_checkfree_plus_swaps(name: str) -> None:
    plain = in_order(seats(), 4)
    odd = parse_route("0.0 > 2.0 > 1.0 > 3.0 > 4.0 > 6.0 > 5.0 > 0.0")
    swapped = (plain[0], odd, plain[2], odd) if name == "checkfree_plus" else plain
    assert strategy(name).routes(plain) == swapped


def test_the_share_of_swapped_microbatches_can_be_chosen() -> None:
    plain = in_order(seats(), 4)
    assert strategy("checkfree_plus", share=0.0).routes(plain) == plain
    assert strategy("checkfree_plus", share=0.25).routes(plain)[:3] == plain[:3]


@pytest.mark.parametrize("make", [gpipe, one_f_one_b])
@pytest.mark.parametrize("name", STRATEGIES)
def test_only_redundant_adds_ops_and_those_are_the_successors_forwards(
    name: str, make: Any
) -> None:
    routes = in_order(seats(), 4)
    schedule = make(routes)
    ops = strategy(name).ops(schedule, routes)
    own = {w: tuple(op for op in of if op.kind is not Kind.REDUNDANT) for w, of in ops.items()}
    assert own == dict(schedule)
    shadows = [(worker, op) for worker, of in ops.items() for op in of if op.kind is Kind.REDUNDANT]
    if name != "redundant":
        assert shadows == []
        return
    assert len(shadows) == len(set(shadows)) == 4 * (N + 1)
    for worker, op in shadows:
        assert routes[op.microbatch][op.hop - 1] == worker
        place = ops[worker].index(op)
        assert str(ops[worker][place - 1]) == f"F{op.microbatch}@{op.hop - 1}"


def test_what_is_kept_where() -> None:
    embedding, holders = Address(0), (Address(1), Address(N))
    assert strategy("checkfree_plus").replications(NOW, seats()) == tuple(
        Mirror(embedding, holder) for holder in holders
    )
    assert set(strategy("redundant").replications(NOW, seats())) == {
        Mirror(Address((stage + 1) % (N + 1)), Address(stage)) for stage in range(N + 1)
    }
    for name in ("none", "checkfree", "uniform", "random", "zero", "copy"):
        assert strategy(name).replications(NOW, seats()) == ()


def test_checkpoints_are_due_every_interval_and_of_one_seat_a_stage() -> None:
    made = strategy("checkpoint", interval=5)
    due = [version for version in range(12) if made.replications(version, seats(2))]
    assert due == [0, 5, 10]
    assert made.replications(5, seats(2)) == tuple(Upload(Address(stage)) for stage in range(N + 1))


def test_a_safety_net_is_kept_beside_what_the_strategy_keeps() -> None:
    made = strategy("checkfree_plus", net=5)
    assert len(made.replications(4, seats())) == 2
    assert len(made.replications(5, seats())) == 2 + N + 1
    assert len(strategy("checkpoint", net=5, interval=5).replications(5, seats())) == N + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "magic"}, "recovery.name=magic: expected one of auto, shadow, fit, none, chec"),
        ({"shadow_every": 0}, "recovery.shadow_every=0: expected auto or iterations, as in 50"),
        ({"shadow_every": "often"}, "recovery.shadow_every=often: expected auto or iterations"),
        ({"shadow_every": True}, "recovery.shadow_every=True: expected auto"),
        ({"shadow_format": "int3"}, "recovery.shadow_format=int3: expected one of int8, int4"),
        ({"shadow_budget": 0.0}, "recovery.shadow_budget=0.0: expected a share"),
        ({"shadow_ahead": -1.0}, "recovery.shadow_ahead=-1.0: expected 0 to 10"),
        ({"shadow_ahead": float("nan")}, "recovery.shadow_ahead=nan: expected 0 to 10"),
        ({"fit_steps": 0}, "recovery.fit_steps=0: expected at least 1 step"),
        ({"fit_memory": -1}, "recovery.fit_memory=-1: expected bytes, 0 or more"),
        ({"fit_lr": 0.0}, "recovery.fit_lr=0.0: expected a positive number"),
        ({"gradient": "during"}, "recovery.gradient=during: expected one of before, after"),
        ({"optimizer": "kept"}, "recovery.optimizer=kept: expected one of fresh, average"),
        ({"partner": "both"}, "recovery.partner=both: expected one of copy, average"),
        ({"exponent": 3.0}, "recovery.exponent=3.0: expected 1 or 2"),
        ({"share": 1.5}, r"recovery.share=1.5: expected a share .* in \[0, 1\]"),
        ({"share": float("nan")}, "recovery.share=nan"),
        ({"interval": 0}, "recovery.interval=0: expected at least 1 iteration"),
        ({"lr_scale": 0.0}, "recovery.lr_scale=0.0: expected a positive factor"),
        ({"lr_scale": float("inf")}, "recovery.lr_scale=inf"),
        ({"lr_scale_half_life": 0.0}, "recovery.lr_scale_half_life=0.0: expected a positive"),
        ({"lr_scale_half_life": float("nan")}, "recovery.lr_scale_half_life=nan"),
    ],
)
def test_values_that_no_strategy_takes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        check(Config(recovery=RecoveryConfig(**change)))
    assert "\n" not in str(refused.value)


# --- wrappers ------------------------------------------------------------------------------------

PROTOCOL = sorted(name for name in vars(Strategy) if not name.startswith("_"))


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_wrapper_passes_on_all_that_a_strategy_is_asked(name: str) -> None:
    """Else what the protocol says by itself would count for a strategy that says otherwise."""
    asked, inner = inspect.getattr_static(Strategy, name), Mock(spec=Strategy)
    wrapper = Wrapper(inner)
    if isinstance(asked, property):
        assert getattr(wrapper, name) is getattr(inner, name)
        return
    given = [object() for _ in list(inspect.signature(asked).parameters)[1:]]
    assert getattr(wrapper, name)(*given) is getattr(inner, name).return_value
    getattr(inner, name).assert_called_once_with(*given)
