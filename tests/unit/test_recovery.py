"""Whole runs of a tiny pipeline that lose stages, one strategy after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address
from checkfree.messages.tensors import StageState
from checkfree.recovery.wrappers import make_strategy
from checkfree.worker import StageWorker
from tests.tiny import MemoryFiles, Run, make
from tests.unit.states import same

STAGES, MICROBATCHES, ITERATIONS = 4, 4, 7
EVERYBODY = tuple(f"{stage}.0" for stage in range(STAGES + 1))
Losses = dict[int, Collection[str]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(
    name: str,
    losses: Losses | None = None,
    *,
    net: int | None = None,
    replicas: int = 1,
    before: Callable[[int], None] = lambda tick: None,
    files: MemoryFiles | None = None,
    terms: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """A finished run. ``losses``: tick -> seats; ``before`` is called before each tick."""

    def strikes(tick: int) -> list[Address]:
        before(tick)
        return [Address.parse(seat) for seat in (losses or {}).get(tick, ())]

    made = make(
        make_strategy(RecoveryConfig(name=name, **options), net),
        stages=STAGES,
        replicas=replicas,
        terms={"iterations": ITERATIONS, "microbatches": MICROBATCHES, **(terms or {})},
        strikes=strikes,
        files=files,
    )
    made.runtime.run()
    return made


def curve(made: Run) -> list[float]:
    """The loss of every iteration, as last trained."""
    last = {iteration: loss for _, iteration, loss in made.losses()}
    return [last[iteration] for iteration in range(ITERATIONS)]


def rules(made: Run) -> list[dict[str, str]]:
    return [
        {seat: how.recipe.rule for seat, how in record.rebuilds.items()}
        for record in made.of_kind("recovery")
    ]


def identical(one: dict[str, StageState], other: dict[str, StageState]) -> bool:
    """ω and the rate too: the next average weighs by it."""
    return one.keys() == other.keys() and all(same(one[seat], other[seat]) for seat in one)


# --- exact ---------------------------------------------------------------------------------------

EXACT = [
    ("none", 2, {3: ["2.1"]}, "replica"),
    ("none", 2, {3: ["0.0"], 4: ["0.1", "1.0", "4.1"]}, "replica"),
    ("checkfree", 3, {3: ["2.0", "2.2"]}, "replica"),
    ("checkfree_plus", 1, {3: ["0.0"]}, "embedding copy"),
    ("checkfree_plus", 1, {0: ["0.0"], 1: ["0.0"]}, "embedding copy"),
    *[("redundant", 1, {3: [seat]}, "redundant copy") for seat in EVERYBODY],
    ("redundant", 1, {3: ["1.0", "3.0"], 4: ["0.0", "2.0"]}, "redundant copy"),
    ("redundant", 1, {0: ["2.0"], 1: ["2.0"], 2: ["1.0"]}, "redundant copy"),
    ("redundant", 2, {3: ["2.0", "2.1"]}, "redundant copy"),
]


@pytest.mark.parametrize(("name", "replicas", "losses", "rule"), EXACT)
def test_an_exact_recovery_changes_no_bit(
    name: str, replicas: int, losses: Losses, rule: str
) -> None:
    calm, struck = run(name, replicas=replicas), run(name, losses, replicas=replicas)
    assert struck.lead.done and struck.losses() == calm.losses()
    assert identical(struck.states(), calm.states())
    assert [set(made.values()) for made in rules(struck)] == [{rule}] * len(losses)
    for record in struck.of_kind("recovery"):
        assert record.lost_iterations == 0 and record.resume_at == record.iteration


def test_the_tests_above_would_see_a_difference() -> None:
    calm, struck = run("copy"), run("copy", {3: ["2.0"]})
    assert struck.losses()[:3] == calm.losses()[:3]
    assert all(
        one != other for one, other in zip(struck.losses()[3:], calm.losses()[3:], strict=True)
    )
    assert not identical(struck.states(), calm.states())


def test_redundant_computation_computes_one_forward_more_per_microbatch_and_stage() -> None:
    plain, redundant = run("none"), run("redundant", {2: ["3.0"]})
    hops = STAGES + 2  # stage 0 embeds and takes the loss
    for record in plain.of_kind("iteration"):
        assert (record.forwards, record.redundant_forwards) == (MICROBATCHES * hops, 0)
    for record in redundant.of_kind("iteration"):
        shadows = MICROBATCHES * (STAGES + 1)
        assert (record.forwards, record.redundant_forwards) == (MICROBATCHES * hops, shadows)
    assert redundant.losses() == plain.losses()
    assert identical(redundant.states(), plain.states())


HELD = {
    "checkfree_plus": {("1.0", 0), ("4.0", 0)},
    "redundant": {("0.0", 1), ("1.0", 2), ("2.0", 3), ("3.0", 4), ("4.0", 0)},
}


@pytest.mark.parametrize("losses", [{}, {3: ["0.0"]}, {3: ["2.0"], 4: ["0.0"]}])
@pytest.mark.parametrize("name", HELD)
def test_exact_copies_are_their_owners_bit_for_bit(name: str, losses: Losses) -> None:
    made = run(name, losses)
    states, held = made.states(), set()
    for seat in states:
        worker = made.runtime.actors[Address.parse(seat)]
        assert isinstance(worker, StageWorker)
        for stage, copy in worker.copies.items():
            held.add((seat, stage))
            assert identical({"": copy.snapshot()}, {"": states[f"{stage}.0"]})
    assert held == HELD[name]


# --- rollback ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [["2.0"], ["0.0"], ["2.0", "3.0"], EVERYBODY])
def test_a_checkpoint_rolls_back_and_trains_the_lost_iterations_again(lost: list[str]) -> None:
    """After the loss of every worker too: nothing but the store has their states then."""
    calm = run("checkpoint", interval=3)
    struck = run("checkpoint", {5: lost}, interval=3)
    assert struck.lead.done
    assert [(tick, i) for tick, i, _ in struck.losses()] == list(
        enumerate([0, 1, 2, 3, 4, 3, 4, 5, 6])
    )
    again = [loss for _, _, loss in struck.losses()]
    assert again[5:7] == again[3:5]
    assert curve(struck) == curve(calm) and identical(struck.states(), calm.states())
    (record,) = struck.of_kind("recovery")
    assert (record.resume_at, record.lost_iterations) == (3, 2)
    assert set(record.rebuilds) == set(EVERYBODY)


def test_a_second_loss_rolls_back_to_what_was_saved_meanwhile() -> None:
    calm, struck = (
        run("checkpoint", interval=2),
        run("checkpoint", {3: ["1.0"], 6: ["4.0"]}, interval=2),
    )
    assert [i for _, i, _ in struck.losses()] == [0, 1, 2, 2, 3, 4, 4, 5, 6]
    assert curve(struck) == curve(calm) and identical(struck.states(), calm.states())


def flip(data: bytes) -> bytes:
    return data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]


PART, MANIFEST = "stage-3.safetensors", "manifest.json"
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "one flipped byte": (PART, flip),
    "cut short": (PART, lambda data: data[:100]),
    "empty": (PART, lambda data: b""),
    "missing": (PART, lambda data: None),
    "missing manifest": (MANIFEST, lambda data: None),
    "manifest cut short": (MANIFEST, lambda data: data[:50]),
}


def damage(files: MemoryFiles, shelves: Collection[int], kind: str) -> Callable[[int], None]:
    """Before tick 5, spoil these archives."""
    name, spoil = DAMAGES[kind]

    def before(tick: int) -> None:
        for shelf in shelves if tick == 5 else ():
            path = f"checkpoint/{shelf:08d}/{name}"
            spoilt = spoil(files.data.pop(path))
            if spoilt is not None:
                files.data[path] = spoilt

    return before


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize(("shelves", "resume_at"), [([4], 2), ([4, 2], 0)])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_good_one(
    kind: str, shelves: list[int], resume_at: int
) -> None:
    files = MemoryFiles()
    before = damage(files, shelves, kind)
    struck = run("checkpoint", {5: ["2.0"]}, interval=2, files=files, before=before)
    assert struck.lead.done, struck.lead.failure
    assert [record.resume_at for record in struck.of_kind("recovery")] == [resume_at]
    assert curve(struck) == curve(run("checkpoint", interval=2))


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_any_good_checkpoint_the_run_ends_with_a_reason(kind: str) -> None:
    files = MemoryFiles()
    before = damage(files, [0, 2, 4], kind)
    struck = run("checkpoint", {5: ["2.0"]}, interval=2, files=files, before=before)
    assert not struck.lead.done
    assert "there is no good checkpoint: all of [0, 2, 4] are damaged" in struck.lead.failure


def test_a_safety_net_catches_what_the_strategy_refuses() -> None:
    struck = run("checkfree", {4: ["2.0"], 5: ["2.0", "3.0"]}, net=3)
    assert struck.lead.done
    assert rules(struck)[0] == {"2.0": "weighted average"}
    assert set(rules(struck)[1].values()) == {"checkpoint"}
    assert [i for _, i, _ in struck.losses()] == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert curve(struck) == curve(run("none"))  # the checkpoint is from before both losses


# --- inexact -------------------------------------------------------------------------------------

INEXACT = [
    ("checkfree", {3: ["2.0"]}, {"2.0": "weighted average"}),
    ("checkfree_plus", {3: ["1.0"]}, {"1.0": "partner copy"}),
    ("checkfree_plus", {3: ["0.0", "4.0"]}, {"0.0": "embedding copy", "4.0": "partner copy"}),
    ("uniform", {3: ["3.0"]}, {"3.0": "uniform average"}),
    ("copy", {3: ["4.0"]}, {"4.0": "copy"}),
    ("zero", {3: ["2.0", "3.0"]}, {"2.0": "zero", "3.0": "zero"}),
    ("random", {3: EVERYBODY}, dict.fromkeys(EVERYBODY, "random")),
]


@pytest.mark.parametrize(("name", "losses", "expected"), INEXACT)
def test_training_goes_on_with_the_current_iteration(
    name: str, losses: Losses, expected: dict[str, str]
) -> None:
    struck = run(name, losses)
    assert struck.lead.done and rules(struck) == [expected]
    assert [(tick, i) for tick, i, _ in struck.losses()] == [(i, i) for i in range(ITERATIONS)]
    assert run(name, losses).losses() == struck.losses()


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_neighbours_weigh_by_the_gradients_of_the_last_step(exponent: float) -> None:
    struck = run("checkfree", {3: ["2.0"]}, exponent=exponent)
    norms = struck.of_kind("iteration")[2].gradient_norms
    one, other = norms["1"] ** exponent, norms["3"] ** exponent
    (record,) = struck.of_kind("recovery")
    found = record.rebuilds["2.0"].weights
    assert found == pytest.approx([one / (one + other), other / (one + other)])


def test_before_the_first_step_neighbours_weigh_the_same() -> None:
    (record,) = run("checkfree", {0: ["2.0"]}).of_kind("recovery")
    assert record.rebuilds["2.0"].weights == (0.5, 0.5)


def test_replicas_of_a_rebuilt_stage_are_one_stage() -> None:
    states = run("checkfree", {3: ["2.0", "2.1"]}, replicas=2).states()
    assert identical({"": states["2.0"]}, {"": states["2.1"]})


def test_a_rebuilt_stage_learns_faster_and_two_failures_do_not_compound() -> None:
    states = run("checkfree", {2: ["2.0"], 4: ["3.0"], 6: ["2.0"]}).states()
    assert [states[seat].lr_scale for seat in EVERYBODY] == [1.0, 1.0, 1.1, 1.1, 1.0]
    plain, faster = (run("checkfree", {2: ["2.0"]}, lr_scale=scale) for scale in (1.0, 1.1))
    assert plain.losses()[:3] == faster.losses()[:3]
    assert plain.losses()[3:] != faster.losses()[3:]


def test_a_rate_that_a_stage_has_goes_with_its_exact_copy() -> None:
    """Rebuilt at tick 2, both replicas; then one of them is copied from the other."""
    states = run("checkfree", {2: ["2.0", "2.1"], 4: ["2.1"]}, replicas=2).states()
    assert states["2.0"].lr_scale == states["2.1"].lr_scale == 1.1


# --- what ends a run -----------------------------------------------------------------------------

ENDS = [
    ("none", ["2.0"], "stage 2 is lost and recovery=none: choose recovery=checkfree_plus"),
    ("checkfree", ["2.0", "3.0"], "stages 2 and 3 are lost together"),
    ("checkfree", ["4.0"], "stage 4 is lost and stands at the edge of stages 1 … 4"),
    ("checkfree", ["0.0"], "stage 0 (embedding and head) is lost"),
    ("checkfree_plus", ["1.0", "2.0"], "stages 1 and 2 are swap partners and lost together"),
    ("checkfree_plus", ["0.0", "1.0", "4.0"], "together with both holders of its copy"),
    ("redundant", ["2.0", "3.0"], "stages 2 and 3 are lost together and 2 held the only copy"),
    ("redundant", EVERYBODY, "are lost together"),
    ("copy", ["0.0"], "stage 0 is lost"),
]


@pytest.mark.parametrize(("name", "lost", "reason"), ENDS)
def test_a_loss_that_nothing_can_mend_ends_the_run(name: str, lost: list[str], reason: str) -> None:
    struck = run(name, {3: lost})
    assert not struck.lead.done and len(struck.losses()) == 3
    assert struck.lead.failure.startswith("iteration 3: ") and reason in struck.lead.failure
    assert "\n" not in struck.lead.failure
    assert [list(record.seats) for record in struck.of_kind("failure")] == [list(lost)]
    assert struck.of_kind("recovery") == []
