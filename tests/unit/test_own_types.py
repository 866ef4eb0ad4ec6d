"""Modules of your own with parameters and buffers of any type and size: what trains is lost and
repaired by every strategy, and what never trains stays as it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import checkfree
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.core.units import derive
from checkfree.recovery.registry import STRATEGIES
from checkfree.session import session

BODY, WIDTH = 4, 8


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a hundred runs take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)


class Ends(nn.Module):
    """Stage 0 of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inward = nn.Linear(8, WIDTH, dtype=dtype)
        self.outward = nn.Linear(WIDTH, 4, dtype=dtype)

    def embed(self, batch: Tensor) -> Tensor:
        y: Tensor = self.inward(batch.to(self.inward.weight.dtype))
        return y

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        y = self.outward(hidden.to(self.outward.weight.dtype))
        return (y - batch[:, :4].to(y.dtype)).square().mean()


class Block(nn.Module):
    """A body stage of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH, dtype=dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.relu(self.inner(hidden.to(self.inner.weight.dtype)))


SIZES = {"large": 5e3, "larger": 1e6, "huge": 1e30, "small": 1e-8, "subnormal": 1e-42}
COUNTS = ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool", "float8_e4m3fn")
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Everything(Block):
    """A body stage with parameters and buffers of all types, and numbers of all sizes."""

    def __init__(self) -> None:
        super().__init__(torch.float32)
        for name in COUNTS:  # each stage has its own
            values = torch.randint(0, 100, (3, 5)).to(getattr(torch, name))
            self.register_parameter(f"fixed_{name}", nn.Parameter(values, requires_grad=False))
            self.register_buffer(f"kept_{name}", torch.randint(0, 9, (3, 5)).to(values.dtype))
        for name in FLOATS:
            values = torch.randn(3, 5).to(getattr(torch, name))
            self.register_parameter(f"of_{name}", nn.Parameter(values))
        for name, size in SIZES.items():
            self.register_parameter(f"one_{name}", nn.Parameter(torch.tensor(size)))
            self.register_parameter(f"all_{name}", nn.Parameter(torch.full((3, 5), size)))
        mask = torch.full((WIDTH, WIDTH), -torch.inf).triu(torch.randint(1, 5, ()).item())
        self.register_parameter("mask", nn.Parameter(mask, requires_grad=False))
        self.register_buffer("kept_mask", mask.clone())
        self.register_buffer("turns", torch.polar(torch.ones(5), torch.randn(5)))
        self.register_buffer("places", torch.arange(5).expand(3, 5))
        self.turned = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))
        self.turn = nn.Parameter(torch.randn((), dtype=torch.complex64))
        self.none, self.nothing = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0, 5))

    def forward(self, hidden: Tensor) -> Tensor:
        made: Tensor = super().forward(hidden)
        for name in FLOATS:
            made = made + 0.01 * getattr(self, f"of_{name}").sum().to(made.dtype)
        for name, size in SIZES.items():
            one, several = getattr(self, f"one_{name}"), getattr(self, f"all_{name}")
            made = made + 0.01 * (one / max(1.0, size) + (several / max(1.0, size)).mean())
        return made + 0.01 * (self.turn * self.turned * self.turns).sum().real

    def reset_parameters(self) -> None:
        """Of those that train and are not of a layer's."""
        with torch.no_grad():
            for param in self.parameters(recurse=False):
                if param.requires_grad:
                    param.mul_(0.5)


def pipeline(kind: str, seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    if kind == "everything":
        return [Ends(torch.float32), *(Everything() for _ in range(BODY))]
    dtype = getattr(torch, kind)
    return [Ends(dtype), *(Block(dtype) for _ in range(BODY))]


def feed(iteration: int, microbatch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive(0, "feed", iteration, microbatch))
    return torch.randn(4, 8, generator=generator)


ITERATIONS = 16
LOSSES: dict[str, list[tuple[int, int]]] = {
    "single": [(8, 3), (10, 3)],
    "neighbours": [(9, 3), (9, 4)],
    "edges": [(9, 1), (12, 4)],
    "stage 0": [(9, 0)],
}


def train(
    folder: Path, kind: str, lost: str | None, words: Mapping[str, Any], **more: Any
) -> checkfree.Run:
    trace = folder / "lost.json"
    failures = [{"iteration": i, "stage": stage} for i, stage in LOSSES[lost]] if lost else []
    trace.write_text(json.dumps({"failures": failures}))
    config = {
        "iterations": ITERATIONS,
        "microbatches": 2,
        "out": str(folder / "run"),
        "failures": {"scenario": str(trace)},
        "optimizer": {"lr": 0.01, "eps": 1e-4},  # fp16 holds no 1e-8
        "resume": {"every": 0},
    }
    return checkfree.train({**config, **words}, stages=pipeline(kind), batches=feed, **more)


SURVIVED = {
    "replay": "single, neighbours, edges, stage 0",
    "auto": "single, neighbours, edges, stage 0",
    "shadow": "single, edges, stage 0",
    "shadow(int8)": "single, edges, stage 0",
    "shadow(int4)": "single, edges, stage 0",
    "shadow(bf16)": "single, edges, stage 0",
    "shadow(fp32)": "single, edges, stage 0",
    "fit": "single, neighbours, edges",
    "checkfree": "single",
    "checkfree_plus": "single, edges, stage 0",
    "checkpoint": "single, neighbours, edges, stage 0",
    "redundant": "single, edges, stage 0",
    "random": "single, neighbours, edges, stage 0",
    "zero": "single, neighbours, edges",
    "copy": "single, edges",
    "uniform": "single",
}
CASES = [(name, lost) for name, told in SURVIVED.items() for lost in told.split(", ")]
TYPED = [
    ("auto", "neighbours"),
    ("fit", "edges"),
    ("checkfree_plus", "edges"),
    ("shadow", "single"),
]


def recovery(name: str) -> dict[str, Any]:
    plain, _, how = name.partition("(")
    return {"name": plain, **({"shadow_format": how[:-1]} if how else {})}


def same(one: Tensor, other: Tensor) -> bool:
    """Of one type, and bit for bit."""
    bits = [tensor.detach().flatten().view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def fixed(module: nn.Module) -> dict[str, Tensor]:
    """What of it never trains."""
    params = {name: param for name, param in module.named_parameters() if not param.requires_grad}
    return params | dict(module.named_buffers())


def test_each_strategy_has_its_losses() -> None:
    assert {name.partition("(")[0] for name in SURVIVED} == STRATEGIES.keys() - {"none"}


@pytest.mark.parametrize(
    ("kind", "name", "lost"),
    [("everything", *case) for case in CASES] + [(t, *case) for t in FLOATS for case in TYPED],
)
def test_whatever_trains_is_repaired(kind: str, name: str, lost: str, tmp_path: Path) -> None:
    """By the best rule that there is for float32 as well: none is passed over."""
    run = train(tmp_path, kind, lost, {"recovery": recovery(name)})
    assert run.status == "done", run.reason
    made = of_kind(run.records, "recovery")
    assert len(made) == len({tick for tick, _ in LOSSES[lost]})
    for record in made:
        assert not any(rebuilt.get("rejected") for rebuilt in record["rebuilds"].values()), record
    for was, module in zip(pipeline(kind), run.stages, strict=True):
        for param, now in zip(was.parameters(), module.parameters(), strict=True):
            assert param.dtype == now.dtype
            assert not now.requires_grad or bool(now.isfinite().all())
        for own, now in zip(fixed(was).values(), fixed(module).values(), strict=True):
            assert same(own, now)


@pytest.mark.parametrize("name", ["redundant", "checkpoint"])
def test_an_exact_repair_changes_no_bit(name: str, tmp_path: Path) -> None:
    words = {"recovery": {**recovery(name), **({"interval": 4} if name == "checkpoint" else {})}}
    runs = []
    for lost in (None, "edges"):
        (tmp_path / str(lost)).mkdir()
        runs.append(train(tmp_path / str(lost), "everything", lost, words))
    for one, other in zip(runs[0].stages, runs[1].stages, strict=True):
        assert all(map(same, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8", "int4"])
def test_whatever_way_activations_are_sent(wire: str, tmp_path: Path) -> None:
    words = {"wire": {"activations": wire, "gradients": wire}, "recovery": recovery("auto")}
    run = train(tmp_path, "everything", "neighbours", words)
    assert run.status == "done", run.reason


def test_a_twin_stands_in_for_whatever_was_lost(tmp_path: Path) -> None:
    trace = tmp_path / "seat.json"
    trace.write_text(json.dumps({"failures": [{"iteration": 5, "stage": 2, "replica": 1}]}))
    words = {"replicas": 2, "recovery": {"name": "none"}}
    calm = train(tmp_path, "everything", None, {**words, "out": str(tmp_path / "calm")})
    run = train(tmp_path, "everything", None, {**words, "failures": {"scenario": str(trace)}})
    assert run.status == "done" and run.losses == calm.losses
    assert of_kind(run.records, "recovery")


def test_a_resumed_run_is_the_run_whatever_its_modules_begin_with(tmp_path: Path) -> None:
    """They come with the first weights of another seed: what never trains, which a stage that is
    lost has of its own, is the run's."""

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 6:
            raise KeyboardInterrupt

    words = {"recovery": recovery("auto"), "resume": {"every": 4}, "stages": BODY}
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", "everything", "edges", words)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "everything", "edges", words, listeners=[stop])
    others = pipeline("everything", seed=1)
    run = checkfree.resume(tmp_path / "run", stages=others, batches=feed)
    assert run.status == "done" and run.losses == whole.losses
    for one, other in zip(run.stages, whole.stages, strict=True):
        assert all(map(same, one.state_dict().values(), other.state_dict().values()))


def test_a_run_does_not_go_on_in_another_type(tmp_path: Path) -> None:
    run = train(tmp_path, "float32", None, {"resume": {"every": 4}})
    with pytest.raises(BadInput) as caught:
        checkfree.resume(run.folder, stages=pipeline("bfloat16"), batches=feed)
    line = str(caught.value)
    assert line.startswith("stage 0 is not the run's") and "\n" not in line
    assert "inward.weight is float32[8, 8], expected bfloat16[8, 8]" in line


# --- what is refused -----------------------------------------------------------------------------


def with_param(value: Tensor, *, trains: bool = False) -> nn.Module:
    made = Block(torch.float32)
    made.register_parameter("extra", nn.Parameter(value, requires_grad=trains))
    return made


def with_buffer(value: Tensor, *, persistent: bool = True) -> nn.Module:
    made = Block(torch.float32)
    made.register_buffer("extra", value, persistent=persistent)
    return made


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "complex numbers of 16 bytes": (
        lambda: with_param(torch.ones(2, dtype=torch.complex128), trains=True),
        ["parameter extra is complex128", "torch.view_as_complex"],
    ),
    "a buffer of those": (
        lambda: with_buffer(torch.ones(2, dtype=torch.complex128)),
        ["buffer extra is complex128", "persistent=False"],
    ),
    "a sparse buffer": (
        lambda: with_buffer(torch.eye(3).to_sparse()),
        ["buffer extra is sparse", "make it dense", "persistent=False"],
    ),
    "bytes that train": (
        lambda: with_param(torch.ones(2).to(torch.float8_e5m2), trains=True),
        ["parameter extra trains in float8_e5m2", "bfloat16", "requires_grad=False"],
    ),
    "an infinity that trains": (
        lambda: with_param(torch.tensor([1.0, -torch.inf]), trains=True),
        ["parameter extra trains and is not finite", "requires_grad=False"],
    ),
    "more than shadows hold": (
        lambda: with_param(torch.tensor(1e300, dtype=torch.float64), trains=True),
        ["parameter extra goes to 1e+300", "3.39e+38", "checkfree_plus"],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_be_repaired_is_refused_at_once(what: str, tmp_path: Path) -> None:
    make, parts = REFUSED[what]
    stages = [Ends(torch.float32), *(make() for _ in range(BODY))]
    with pytest.raises(BadInput) as caught:
        checkfree.train({"out": str(tmp_path / "run")}, stages=stages, batches=feed)
    line = str(caught.value)
    assert line.startswith("stage 1: the module (Block): ") and "\n" not in line
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run").exists()


def test_what_is_not_kept_may_be_anything(tmp_path: Path) -> None:
    for value in (torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)):
        stages = [Ends(torch.float32), *(with_buffer(value, persistent=False) for _ in range(BODY))]
        trace = tmp_path / "lost.json"
        trace.write_text(json.dumps({"failures": [{"iteration": 1, "stage": 2}]}))
        out = tmp_path / str(value.dtype)
        config = {"iterations": 2, "out": str(out), "failures": {"scenario": str(trace)}}
        run = checkfree.train(config, stages=copy.deepcopy(stages), batches=feed)
        assert run.status == "done", run.reason


def test_a_refusal_says_what_was_found(tmp_path: Path) -> None:
    """Not that nothing is left, where all but one live: why what they have is no good."""

    class Spoilt(Block):
        """Becomes no number of its own accord, where training doesn't see it."""

        def __init__(self) -> None:
            super().__init__(torch.float32)
            self.spare = nn.Parameter(torch.zeros(2))

        def forward(self, hidden: Tensor) -> Tensor:
            self.spare.data.fill_(torch.nan)  # which is not counted as a change
            return super().forward(hidden)

    trace = tmp_path / "lost.json"
    trace.write_text(json.dumps({"failures": [{"iteration": 2, "stage": 2}]}))
    config = {"iterations": 4, "failures": {"scenario": str(trace)}}
    stages = [Ends(torch.float32), *(Spoilt() for _ in range(BODY))]
    for name in ("auto", "checkfree", "copy"):
        recovery = {"name": name, "log_memory": 0}  # a replay comes out as it was
        words = {**config, "out": str(tmp_path / name), "recovery": recovery}
        run = checkfree.train(words, stages=stages, batches=feed)
        assert run.status == "failed" and "\n" not in run.reason
        assert "iteration 2: stage 2 is lost" in run.reason and "good" in run.reason
        assert "the state from 1.0@2: spare is not finite" in run.reason
