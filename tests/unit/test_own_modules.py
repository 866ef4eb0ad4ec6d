"""A list of modules of your own: what trains, what is refused, and what stays as it was."""

from __future__ import annotations

import copy
import io
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import checkfree
from checkfree.cli.display import Display
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.session.job import of_config
from checkfree.session.trial import try_out
from tests.contract.small import small, text
from tests.tiny import WIDTH, Body, Edge, batches

TRAIN, HELD_OUT = batches(0, "train"), batches(0, "validation")


def pipeline(body: int = 4) -> list[nn.Module]:
    torch.manual_seed(0)
    return [Edge(), *(Body() for _ in range(body))]


def train(out: Path, stages: Any, words: Mapping[str, Any] | None = None, **more: Any) -> Any:
    config = {"iterations": 4, "microbatches": 4, "out": str(out), "failures": {"scenario": "none"}}
    return checkfree.train({**config, **(words or {})}, stages=stages, **{"batches": TRAIN, **more})


def lose(folder: Path, *ticks_and_stages: tuple[int, int]) -> dict[str, Any]:
    """Failures at these ticks of these stages."""
    trace = folder / "lost.json"
    failures = [{"iteration": tick, "stage": stage} for tick, stage in ticks_and_stages]
    trace.write_text(json.dumps({"failures": failures}))
    return {"scenario": str(trace)}


# --- what trains ---------------------------------------------------------------------------------


def test_it_learns(tmp_path: Path) -> None:
    def one_batch(iteration: int, microbatch: int) -> Tensor:
        return TRAIN(0, microbatch)

    words = {"iterations": 40, "optimizer": {"lr": 0.02}, "resume": {"every": 0}}
    run = train(tmp_path, pipeline(), words, batches=one_batch)
    assert run.status == "done" and len(run.losses) == 40
    assert run.losses[-1] < run.losses[0] / 4


def test_it_neither_heeds_nor_moves_the_callers_generator(tmp_path: Path) -> None:
    stages = pipeline()
    one = train(tmp_path / "1", stages)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    two = train(tmp_path / "2", stages)
    assert one.losses == two.losses
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("recovery", ["checkfree_plus", "checkpoint", "redundant", "random"])
def test_it_trains_through_failures(tmp_path: Path, recovery: str) -> None:
    words = {"recovery": {"name": recovery}, "failures": lose(tmp_path, (1, 2), (2, 4))}
    run = train(tmp_path / "run", pipeline(), words)
    assert run.status == "done" and run.reason == ""
    assert [r["seats"] for r in of_kind(run.records, "failure")] == [["2.0"], ["4.0"]]
    assert len(of_kind(run.records, "recovery")) == 2
    assert [type(module) for module in run.stages] == [Edge, Body, Body, Body, Body]


class Reentrant(Body):
    """Its weights get their gradient where autograd does not see it."""

    def forward(self, hidden: Tensor) -> Tensor:
        made: Tensor = checkpoint(super().forward, hidden, use_reentrant=True)
        return made


def test_what_cannot_be_split_trains_whole_and_is_told(tmp_path: Path) -> None:
    stages: list[nn.Module] = [*pipeline(2), Reentrant(), Body()]
    runs = []
    for schedule in ("1f1b", "zb_h1"):
        text = io.StringIO()
        config = checkfree.Config(schedule=schedule, stages=4)
        with Display(config, Console(file=text, width=300)) as display:
            words = {"schedule": schedule}
            runs.append(train(tmp_path / schedule, stages, words, listeners=[display]))
        told = "zb_h1 splits backwards, which the modules of stages 3 can't be"
        assert (told in text.getvalue()) is (schedule == "zb_h1")
    plain, split = runs
    assert split.losses == plain.losses
    assert [of_kind(run.records, "config")[0].get("unsplit", []) for run in runs] == [[], [3]]


@pytest.mark.parametrize("schedule, unsplit", [("zb_h2", (1, 2, 3, 4)), ("1f1b", ())])
def test_nor_can_what_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, unsplit: tuple[int, ...]
) -> None:
    """Of a family of ours one stage is tried, for all of them."""
    compiling = torch.compile
    monkeypatch.setattr(shutil, "which", lambda name: name)  # by a backend without a compiler
    monkeypatch.setattr(torch, "compile", lambda run, **how: compiling(run, backend="aot_eager"))
    changes = text(tmp_path / "text"), {"compile": True, "schedule": schedule}
    job = of_config(small(tmp_path / "run", *changes), tmp_path / "run", ())
    assert try_out(job).unsplit == unsplit


def test_a_run_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    words = {"recovery": {"name": "none"}, "failures": lose(tmp_path, (2, 3))}
    run = train(tmp_path / "run", pipeline(), words)
    assert run.status == "failed" and len(run.losses) == 2
    assert "stage 3 is lost" in run.reason and "\n" not in run.reason
    end = run.records[-1]
    assert (end["kind"], end["status"], end["reason"]) == ("end", "failed", run.reason)


def test_the_modules_passed_in_stay_as_they_are(tmp_path: Path) -> None:
    stages = pipeline()
    stages[2].eval()
    before = copy.deepcopy(stages)
    words = {"recovery": {"name": "checkfree_plus"}, "failures": lose(tmp_path, (1, 2), (2, 0))}
    run = train(tmp_path / "run", stages, words)
    for module, known, trained in zip(stages, before, run.stages, strict=True):
        assert module is not trained and module.training == known.training
        assert all(param.grad is None for param in module.parameters())
        for name, tensor in known.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor)
            assert not torch.equal(trained.state_dict()[name], tensor)


def test_a_stage_0_with_nothing_to_learn(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def embed(self, batch: Tensor) -> Tensor:
            return batch

        def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
            return ((hidden - batch.flip(-1)) ** 2).mean()

    assert train(tmp_path / "none", [Plain(), *pipeline()[1:]]).status == "done"
    frozen = [Edge().requires_grad_(False), *pipeline()[1:]]
    run = train(tmp_path / "frozen", frozen, {"recovery": {"name": "checkfree_plus"}})
    assert run.status == "done"
    assert all(
        torch.equal(old, new)
        for old, new in zip(frozen[0].parameters(), run.stages[0].parameters(), strict=True)
    )


class Scaled(Body):
    """With a constant of its own, which no neighbour shares."""

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.scales.mean() * super().forward(hidden)


def test_a_rebuilt_stage_keeps_its_own_constants(tmp_path: Path) -> None:
    scales = [[0.1], [0.2, 0.2], [0.3], [0.4]]
    stages = [Edge(), *map(Scaled, scales)]
    run = train(tmp_path / "run", stages, {"failures": lose(tmp_path, (1, 2), (2, 3))})
    assert run.status == "done"
    for module, known in zip(run.stages[1:], scales, strict=True):
        assert torch.equal(module.scales, torch.tensor(known))


class Paired(Edge):
    """Batches may be whatever embed and loss make of them."""

    def embed(self, batch: Any) -> Tensor:
        return super().embed(batch["input"][0])

    def loss(self, hidden: Tensor, batch: Any) -> Tensor:
        return super().loss(hidden, batch["input"][0]) * batch["scale"]


def test_batches_need_not_be_tensors(tmp_path: Path) -> None:
    def batch(iteration: int, microbatch: int) -> dict[str, Any]:
        return {"input": (TRAIN(iteration, microbatch), "a word"), "scale": 0.5}

    paired = train(tmp_path / "1", [Paired(), *pipeline()[1:]], batches=batch)
    assert paired.status == "done"


# --- validation ----------------------------------------------------------------------------------


def test_validation_sees_its_own_batches_and_changes_nothing(tmp_path: Path) -> None:
    seen: list[int] = []

    def held_out(iteration: int, microbatch: int) -> Tensor:
        seen.append(microbatch)
        return HELD_OUT(iteration, microbatch)

    words = {"validation": {"every": 2, "microbatches": 3}}
    run = train(tmp_path / "1", pipeline(), words, validation=held_out)
    passes = of_kind(run.records, "validation")
    assert [record["iteration"] for record in passes] == [0, 2, 4]
    assert seen.pop(0) == 0  # which is tried before it begins
    assert sorted(seen) == sorted([0, 1, 2] * 3)
    without = train(tmp_path / "2", pipeline(), words)
    assert without.losses == run.losses
    assert not of_kind(without.records, "validation")
    assert without.config.validation.every == 0


def test_validation_loss_is_that_of_the_modules(tmp_path: Path) -> None:
    words = {"validation": {"every": 2, "microbatches": 3}}
    run = train(tmp_path, pipeline(), words, validation=HELD_OUT)
    edge, *body = (module.eval() for module in run.stages)
    total = 0.0
    for microbatch in range(3):
        batch = HELD_OUT(0, microbatch)
        total += edge.loss(nn.Sequential(*body)(edge.embed(batch)), batch).item()
    last = of_kind(run.records, "validation")[-1]["loss"]
    assert last == pytest.approx(total / 3, rel=1e-6)


# --- configuration -------------------------------------------------------------------------------


def test_the_number_of_modules_goes_before_the_configuration(tmp_path: Path) -> None:
    words = {"failures": {"stages": [7], "probability": 0.0}}
    run = train(tmp_path / "mapping", pipeline(7), words)
    assert run.config.stages == 7
    config = Config(iterations=2, out=str(tmp_path / "config"))
    assert checkfree.train(config, stages=pipeline(2), batches=TRAIN).config.stages == 2
    file = tmp_path / "own.yaml"
    file.write_text(f"iterations: 2\nout: {tmp_path}/{{name}}\nfailures: {{stages: [3]}}\n")
    run = checkfree.train(file, stages=pipeline(3), batches=TRAIN)
    assert (run.config.stages, run.folder) == (3, tmp_path / "own")


def test_the_default_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkfree.train(Config(iterations=1), stages=pipeline(), batches=TRAIN).folder == Path(
        "runs/run"
    )


# --- what is refused -----------------------------------------------------------------------------


class NoReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.norm(hidden)


class LossesEach(Edge):
    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        return hidden.square().mean(-1)


class Pair(Body):
    def forward(self, hidden: Tensor) -> Any:
        return hidden, hidden


def deep(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))


def tied(module: Body, other: Body) -> Body:
    module.inner.weight = other.inner.weight
    return module


class Held(Body):
    """Holds what can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.source = (n for n in range(3))


def old_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


class Sparse(Edge):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, WIDTH, sparse=True)


class Detached(Body):
    def forward(self, hidden: Tensor) -> Tensor:
        y: Tensor = super().forward(hidden).detach()
        return y


class Deaf(Body):
    def forward(self, hidden: Tensor) -> Tensor:
        y: Tensor = super().forward(hidden.detach())
        return y


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))


def spectral_of_old() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH))


class Scaling(Edge):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, WIDTH, max_norm=0.1)

    def embed(self, batch: Tensor) -> Tensor:
        y: Tensor = self.table(torch.zeros(len(batch), dtype=torch.long))
        return y


class Counted(Edge):
    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        return (hidden > 0).float().mean()


class OnlyEmbeds(nn.Module):
    def embed(self, batch: Tensor) -> Tensor:
        return batch


def hooked(kind: str) -> nn.Module:
    body = Body()
    getattr(body.inner.weight, kind)(lambda what: None)
    return body


def without_values() -> nn.Module:
    with torch.device("meta"):
        return Body()


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.jit.script(nn.Linear(WIDTH, WIDTH))
    return made


WRONG: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "hook": (
        lambda: [Edge(), Body(), hooked("register_hook")],
        ["stage 2", "inner", "weight has hooks"],
    ),
    "hook after": (
        lambda: [Edge(), hooked("register_post_accumulate_grad_hook")],
        ["stage 1", "weight has hooks", "requires_grad=False"],
    ),
    "meta": (lambda: [Edge(), without_values()], ["stage 1", "inner", "no values", "to_empty"]),
    "scripted": (lambda: [Edge(), scripted()], ["stage 1", "torch.jit.script"]),
    "no body": (lambda: [Edge()], ["1 stages", "at least one body stage"]),
    "no module": (lambda: [Edge(), Body(), torch.tanh], ["stage 2", "expected a torch.nn.Module"]),
    "no embed": (lambda: [nn.Linear(4, 4), Body()], ["stage 0 (Linear)", "no embed", "loss("]),
    "no loss": (lambda: [OnlyEmbeds(), Body()], ["stage 0 (OnlyEmbeds)", "no loss"]),
    "other shape": (
        lambda: [Edge(), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(4, 4)],
        ["body stage 2", "weight [5, 4]", "weight [4, 4]", "equal"],
    ),
    "other names": (lambda: [Edge(), Body(), nn.Linear(4, 4)], ["stage 2", "inner.weight"]),
    "one layer more": (
        lambda: [Edge(), deep(1), deep(2)],
        ["body stage 2", "1.weight [4, 4]", "nothing"],
    ),
    "other type": (lambda: [Edge(), Body(), Body().double()], ["stage 2", "float64", "float32"]),
    "running statistics": (
        lambda: [Edge(), Normed(), Normed()],
        ["Normed", "buffers", "running_mean", "without running statistics"],
    ),
    "loss that is no mean": (
        lambda: [LossesEach(), Body(), Body()],
        ["loss of LossesEach", "[3]", "mean"],
    ),
    "one module twice": (
        lambda: (lambda body: [Edge(), body, Body(), body])(Body()),
        ["stages 1 and 3 share a parameter (inner.weight", "copy.deepcopy"],
    ),
    "one parameter twice": (
        lambda: (lambda one, two: [Edge(), one, tied(two, one)])(Body(), Body()),
        ["stages 1 and 2 share a parameter", "each train their own"],
    ),
    "lazy": (
        lambda: [Edge(), Body(), nn.Sequential(nn.LazyLinear(4))],
        ["stage 2: 0 (LazyLinear) has no shapes yet", "run a batch through it"],
    ),
    "not to be copied": (
        lambda: [Edge(), Held(), Held()],
        ["stage 1 (Held) can't be copied", "generator"],
    ),
    "weight norm of old": (
        lambda: [Edge(), old_norm(), old_norm()],
        ["stage 1 (Linear) can't be copied", "parametrizations"],
    ),
    "sparse gradients": (
        lambda: [Sparse(), Body(), Body()],
        ["stage 0: table (Embedding) has sparse gradients", "sparse=False"],
    ),
    "a body that detaches": (
        lambda: [Edge(), Detached(), Detached()],
        ["stage 1: Detached returns what has no gradient"],
    ),
    "a loss without gradient": (
        lambda: [Counted(), Body(), Body()],
        ["stage 0: Counted returns what has no gradient"],
    ),
    "a body that detaches its input": (
        lambda: [Edge(), Body(), Deaf()],
        ["stage 2: Deaf returns what has no gradient by its input"],
    ),
    "two outputs": (lambda: [Edge(), Pair(), Pair()], ["stage 1: Pair", "tuple", "Tensor"]),
    "spectral norm": (
        lambda: [Edge(), spectral(), spectral()],
        ["stage 1: forward of ParametrizedLinear changes some of its buffers", "_u"],
    ),
    "spectral norm of old": (
        lambda: [Edge(), spectral_of_old(), spectral_of_old()],
        ["stage 1: forward of Linear changes some of its buffers", "weight_u"],
    ),
    "an embedding that scales itself": (
        lambda: [Scaling(), Body(), Body()],
        ["stage 0: forward of Scaling changes some of its parameters", "table.weight", "max_norm"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_modules_that_cannot_train(tmp_path: Path, what: str) -> None:
    stages, parts = WRONG[what]
    with pytest.raises(BadInput) as caught:
        train(tmp_path / "run", stages(), {"recovery": {"name": "none"}})
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line
    assert not (tmp_path / "run").exists()


def test_they_do_not_go_on_with_another_run_either(tmp_path: Path) -> None:
    """What was begun stays as it was."""
    words = {"recovery": {"name": "none"}}
    run = train(tmp_path / "run", [Edge(), nn.Linear(WIDTH, WIDTH)], words)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="changes some of its buffers"):
        checkfree.resume(run.folder, stages=[Edge(), spectral_of_old()], batches=TRAIN)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_what_is_wrong_with_the_validation_too(tmp_path: Path) -> None:
    def other(iteration: int, microbatch: int) -> Tensor:
        return TRAIN(iteration, microbatch)[:, :-1]

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(tmp_path / "run", pipeline(), validation=other)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="Normed"):
        train(tmp_path, [Edge(), Normed(), Normed()], {"recovery": {"name": "none"}})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_module_is_refused_with_its_stage(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^stage 2: Detached returns what has no gradient"):
        train(tmp_path / "run", [Edge(), Body(), Detached()], {"recovery": {"name": "none"}})


@pytest.mark.parametrize("feed", ["batches", "validation"])
def test_what_is_wrong_with_data_is_no_fault_of_a_stage(tmp_path: Path, feed: str) -> None:
    def damaged(iteration: int, microbatch: int) -> Tensor:
        raise BadInput("texts.bin: damaged from byte 0 on")

    words = {"validation": {"every": 2}}
    with pytest.raises(BadInput, match=r"^texts.bin: damaged from byte 0 on$"):
        train(tmp_path / "run", pipeline(), words, **{feed: damaged})


@pytest.mark.parametrize("recovery", ["random", "zero"])
def test_what_cannot_be_initialised_anew_is_refused_at_once(tmp_path: Path, recovery: str) -> None:
    stages = [Edge(), *(NoReset() for _ in range(3))]
    with pytest.raises(BadInput, match=r"stage 1: .*NoReset.* reset_parameters") as caught:
        train(tmp_path / "run", stages, {"recovery": {"name": recovery}})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    assert train(tmp_path / "run", stages, {"recovery": {"name": "checkfree"}}).status == "done"


def test_stage_0_too_if_it_will_be_lost(tmp_path: Path) -> None:
    class Weighted(Edge):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    stages = [Weighted(), *pipeline()[1:]]
    words = {"recovery": {"name": "random"}, "failures": lose(tmp_path, (2, 0))}
    with pytest.raises(BadInput, match=r"stage 0: .*Weighted.* reset_parameters"):
        train(tmp_path / "run", stages, words)
    assert not (tmp_path / "run").exists()


def test_too_few_stages_for_swaps(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least 4 body stages, got 3"):
        train(tmp_path / "run", pipeline(3), {"recovery": {"name": "checkfree_plus"}})


def test_a_clock_needs_sizes(tmp_path: Path) -> None:
    clock = {"failures": {"scenario": "clock", "rate_per_hour": 0.99}}
    words = {**clock, "fleet": {"name": "home"}, "recovery": "redundant"}
    with pytest.raises(BadInput, match=r"give fleet\.sizes, as in published"):
        train(tmp_path, pipeline(), words)
    words["fleet"] = {"name": "home", "sizes": "published"}
    run = train(tmp_path, pipeline(), words)
    assert of_kind(run.records, "failure")


@pytest.mark.parametrize("given", [None, [1, 2]])
def test_batches_must_be_a_function(tmp_path: Path, given: Any) -> None:
    with pytest.raises(BadInput, match="batches=FUNCTION"):
        train(tmp_path / "run", pipeline(), batches=given)


def test_validation_must_be_a_function(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="validation=FUNCTION"):
        train(tmp_path / "run", pipeline(), validation=[1, 2])


def test_batches_need_modules() -> None:
    with pytest.raises(BadInput, match=r"stages=\[…\]"):
        checkfree.train(None, batches=TRAIN)


def test_what_a_module_raises_comes_through(tmp_path: Path) -> None:
    class Broken(Body):
        def forward(self, hidden: Tensor) -> Tensor:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tmp_path / "run", [Edge(), Broken(), Broken()])
    assert not (tmp_path / "run").exists()


# --- going on ------------------------------------------------------------------------------------


class Picky(Body):
    """Raises for a batch of another size than the first."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 3:
            raise RuntimeError(f"a batch of {len(x)} is none of mine")
        y: Tensor = super().forward(x)
        return y


def test_it_comes_through_for_a_batch_of_another_size_too(tmp_path: Path) -> None:
    """In one process nobody else can have sent it wrongly."""

    def growing(iteration: int, microbatch: int) -> Tensor:
        found = TRAIN(iteration, microbatch)
        return found if iteration < 2 else torch.cat((found, found))

    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="a batch of 6 is none of mine"):
        train(tmp_path, [Edge(), *(Picky() for _ in range(4))], batches=growing)
    end = of_kind(checkfree.read(tmp_path), "end")[-1]
    assert (end["status"], end["iteration"]) == ("failed", 2) and "none of mine" in end["reason"]


class Whole(Edge):
    """Embeds to whole numbers."""

    def embed(self, batch: Tensor) -> Tensor:
        return super().embed(batch).long()


def test_what_is_no_floating_point_number_is_refused_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(BadInput, match=r"Whole returns torch.int64 for embed"):
        train(tmp_path, [Whole(), *(Body() for _ in range(4))])


def test_a_stopped_run_goes_on_with_the_same_modules(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 2:
            raise KeyboardInterrupt

    words = {"resume": {"every": 2}}
    whole = train(tmp_path / "whole", pipeline(), words)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", pipeline(), words, listeners=[stop])
    run = checkfree.resume(tmp_path / "run", stages=pipeline(), batches=TRAIN)
    assert run.status == "done" and run.losses == whole.losses
    assert of_kind(run.records, "resume")
    for one, other in zip(whole.stages, run.stages, strict=True):
        assert all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize(
    ("others", "part"),
    [
        (lambda: pipeline(3), "stages=3, the run began with 4"),
        (lambda: [Edge(), *(nn.Linear(4, 4) for _ in range(4))], "stage 1 is not the run's"),
    ],
    ids=["fewer", "other shapes"],
)
def test_a_run_does_not_go_on_with_others(tmp_path: Path, others: Any, part: str) -> None:
    train(tmp_path, pipeline())
    with pytest.raises(BadInput, match=part):
        checkfree.resume(tmp_path, stages=others(), batches=TRAIN)


class Across(Body):
    """Its weight is laid out the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.inner.weight = nn.Parameter(self.inner.weight.detach().clone().t())


class Pictures(nn.Module):
    """A convolution, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, hidden: Tensor) -> Tensor:
        y: Tensor = self.inner(hidden.view(-1, 2, 2, 1))
        return hidden + y.reshape(hidden.shape)


@pytest.mark.parametrize("body", [Across, Pictures])
@pytest.mark.parametrize("recovery", ["auto", "checkpoint(interval=1)", "redundant"])
def test_a_weight_in_another_layout(tmp_path: Path, body: type[nn.Module], recovery: str) -> None:
    torch.manual_seed(0)
    stages = [Edge(), *(body() for _ in range(4))]
    words = {"recovery": recovery, "resume": {"every": 1}, "failures": lose(tmp_path, (2, 2))}
    run = train(tmp_path / "run", stages, words)
    assert run.status == "done" and len(of_kind(run.records, "recovery")) == 1
    again = checkfree.train(
        {"iterations": 1, "init": {"run": f"{run.folder}@3"}, "out": str(tmp_path / "again")},
        stages=stages,
        batches=TRAIN,
    )
    assert again.status == "done"


def test_what_is_wrong_at_the_first_forward_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"stage 2: Pair returns a tuple for body"):
        train(tmp_path, [Edge(), Body(), Pair()])
