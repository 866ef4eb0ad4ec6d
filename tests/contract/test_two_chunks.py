"""Body stages of two chunks are the model that as many stages of one chunk are: trained, taken over
cut another way, exported, evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import checkfree
from checkfree.core.config import FleetConfig, WireConfig
from checkfree.core.ops import Address, Refusal, View
from checkfree.messages.tensors import StageState
from checkfree.models.chunks import Chunks
from checkfree.models.two_chunks import TwoChunks
from checkfree.pipeline.routes import swapped
from checkfree.recovery.fit.plan import witnesses
from checkfree.session.evaluate import evaluate
from checkfree.session.export import export
from checkfree.session.language_model import open_model
from checkfree.session.regroup import Layout, regrouped
from checkfree.simulator.fleet import fleet_of
from checkfree.simulator.profile import PartSeconds, Profile
from checkfree.simulator.sizes import pace_of, published
from checkfree.stage import Part
from checkfree.stage.compiled import blocks_of
from checkfree.worker.feedback import Feedback
from tests.contract.small import counting, modules, small, text

SIZE = {
    "iterations": 5,
    "model": {"blocks": 8},
    "optimizer": {"clip": None},  # it is taken stage by stage
    "validation": {"every": 3, "microbatches": 2},
}
ONE, TWO = {"stages": 8}, {"stages": 4, "schedule": "zbv"}


@pytest.fixture(scope="module", params=["llama", "gpt"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], checkfree.Run, checkfree.Run]:
    """A folder, what both runs read, and these: of one chunk a stage, and of two."""
    folder = tmp_path_factory.mktemp(request.param)
    shared = {**text(folder / "text")}
    shared["model"] = {**shared["model"], "family": request.param, "dropout": 0.1}
    runs = [
        checkfree.train(small(folder / name, SIZE, shared, how))
        for name, how in (("one", ONE), ("two", TWO))
    ]
    return folder, shared, runs[0], runs[1]


def weights(run: Path, to: Path) -> dict[str, torch.Tensor]:
    export(run, to=to)
    return {k: t for shard in sorted(to.glob("*.safetensors")) for k, t in load_file(shard).items()}


def test_the_same_model_is_trained_and_exported(trained: Any, tmp_path: Path) -> None:
    folder, _, one, two = trained
    assert two.losses == one.losses
    told = [[r["loss"] for r in run.records if r["kind"] == "validation"] for run in (one, two)]
    assert told[0] == told[1] and len(told[0]) > 1
    found = [weights(folder / name, tmp_path / name) for name in ("one", "two")]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize(
    "before, plain, after",
    [
        ("one", ONE, TWO),
        ("two", ONE, ONE),
        ("two", {"stages": 4}, {"stages": 2, "schedule": "interleaved"}),
    ],
)
def test_it_goes_on_cut_another_way(
    trained: Any, before: str, plain: Any, after: Any, tmp_path: Path
) -> None:
    folder, shared, *_ = trained
    init = {"init": {"run": str(folder / before)}}
    losses = [
        checkfree.train(small(tmp_path / name, SIZE, shared, init, how)).losses
        for name, how in (("plain", plain), ("cut", after))
    ]
    assert losses[0] == losses[1]


def test_its_text_is_as_likely(trained: Any, tmp_path: Path) -> None:
    folder, *_ = trained
    (tmp_path / "new").write_text("3 stages less 1 are 2\n" * 20)
    found = [evaluate(open_model(folder / name), tmp_path / "new") for name in ("one", "two")]
    assert found[0].loss == found[1].loss


def test_an_odd_number_of_own_modules_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path / "run", {"stages": 3, "model": {"blocks": 3}})
    own, feed = modules(config), counting(config)
    with pytest.raises(checkfree.BadInput, match="got 3 body modules, and schedule=zbv"):
        checkfree.train({"schedule": "zbv"}, stages=own, batches=feed)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"recovery": {"name": "redundant"}}, "not the same one for both of its chunks"),
        ({"cut": [2, 2, 2, 2]}, "expected 8 whole numbers .* of two chunks each"),
        (
            {"model": {"blocks": 4}},
            r"stages=4 of two chunks each \(schedule=zbv\) are 8 equal parts",
        ),
    ],
)
def test_what_no_stage_of_two_chunks_can_be(change: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(checkfree.BadInput, match=told):
        checkfree.train(small(tmp_path / "run", SIZE, text(tmp_path / "text"), TWO, change))


def test_both_chunks_are_compiled() -> None:
    chunks = [nn.Sequential(), nn.Sequential()]
    for chunk in chunks:
        chunk.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert len(blocks_of(TwoChunks(*chunks))) == 4


def test_what_rounding_took_is_owed_by_each_chunk() -> None:
    """In a loop both send to the same seat."""
    owed, to = Feedback(), Address(1)
    gradient = torch.full((2, 4), 0.3)
    owed.sent(to, Part.SECOND, gradient, gradient.half().float())
    assert torch.equal(owed.due(to, Part.FIRST, gradient), gradient)
    assert not torch.equal(owed.due(to, Part.SECOND, gradient), gradient)


@pytest.mark.parametrize("stage, seats", [(1, {0, 2, 4}), (4, {0, 1, 3}), (2, {1, 3})])
def test_who_holds_what_went_into_a_loop_s_chunks(stage: int, seats: set[int]) -> None:
    view = View(frozenset(Address(s) for s in range(5)), 5, 3, chunks=Chunks.LOOP)
    found = witnesses(stage, view, lambda routes: routes)
    assert not isinstance(found, Refusal) and {seat.stage for seat in found} == seats


def test_at_the_turn_of_a_v_nobody_else_holds_both_ends() -> None:
    view = View(frozenset(Address(s) for s in range(5)), 5, 3, chunks=Chunks.V)
    assert isinstance(witnesses(4, view, lambda routes: routes), Refusal)
    swapped_too = witnesses(4, view, swapped)
    assert not isinstance(swapped_too, Refusal)


def test_buffers_are_not_taken_over_from_other_chunks() -> None:
    stage = nn.Linear(1, 1)
    stage.register_buffer("bias_of_a_router", torch.zeros(1))
    layouts = [
        Layout([nn.Linear(1, 1), stage], lambda i, name: f"{i}.{name}", chunks=chunks)
        for chunks in (Chunks.LOOP, Chunks.V)
    ]
    state = StageState(dict(stage.named_parameters()), dict(stage.named_buffers()), {}, 0)
    with pytest.raises(checkfree.BadInput, match="stages=1, and a schedule with its chunks as the"):
        regrouped(1, layouts[0], layouts[1], lambda i: state)
    assert regrouped(1, layouts[0], layouts[0], lambda i: state).buffers


def test_a_profile_of_whole_stages_prices_chunks() -> None:
    whole = PartSeconds(2.0, 4.0, 2.0)
    profile = Profile(whole, whole, whole, 0.0, 0.0)
    sizes = replace(published(2, WireConfig()), visits=2)
    pace = pace_of(sizes, fleet_of(FleetConfig()), profile)
    assert pace.body(1).forward == 1.0 and pace.both_ways(Address(1)) == 6.0


def test_chunks_of_unequal_layers(tmp_path: Path) -> None:
    shared = text(tmp_path / "text")
    cut = {"cut": [1, 2, 1, 1, 1, 2]}
    one = small(tmp_path / "one", SIZE, shared, cut, {"stages": 6})
    two = small(tmp_path / "two", SIZE, shared, cut, {"stages": 3, "schedule": "v_half"})
    assert checkfree.train(one).losses == checkfree.train(two).losses
