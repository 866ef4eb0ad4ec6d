"""Body stages of two chunks are the model that as many stages of one chunk are: trained, taken over
cut another way, exported, evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import checkfree
from checkfree.session.evaluate import evaluate
from checkfree.session.export import export
from checkfree.session.language_model import open_model
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
        ({"model": {"blocks": 4}}, "does not cut model.blocks 4 into equal parts"),
    ],
)
def test_what_no_stage_of_two_chunks_can_be(change: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(checkfree.BadInput, match=told):
        checkfree.train(small(tmp_path / "run", SIZE, text(tmp_path / "text"), TWO, change))


def test_chunks_of_unequal_layers(tmp_path: Path) -> None:
    shared = text(tmp_path / "text")
    cut = {"cut": [1, 2, 1, 1, 1, 2]}
    one = small(tmp_path / "one", SIZE, shared, cut, {"stages": 6})
    two = small(tmp_path / "two", SIZE, shared, cut, {"stages": 3, "schedule": "v_half"})
    assert checkfree.train(one).losses == checkfree.train(two).losses
