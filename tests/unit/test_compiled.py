"""Stages whose blocks are compiled. A compiler takes seconds, so that there is one graph for all:
of the tiny body, whose shapes are those of all tests here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checkfree.config.load import build
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.messages.control import Purpose
from checkfree.runtime.forking import count_threads
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.equipment import equipment
from checkfree.session.swarm import member
from checkfree.session.swarm.member import warm_up
from checkfree.stage import Part, Stage
from checkfree.stage.compiled import MOST_GRAPHS, blocks_of, check_folder, find_compiler
from checkfree.worker import WorkerContext
from tests.chaos import SOAK
from tests.tiny import WIDTH
from tests.unit.states import body, conditions, same, tensor, train

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """How torch.compile is called; nothing is compiled."""
    calls: list[dict[str, Any]] = []

    def compile(forward: Any, **how: Any) -> Any:
        calls.append(how)
        return forward

    monkeypatch.setattr(torch, "compile", compile)
    yield calls


class Blocks(nn.Module):
    """A body of several blocks with a hook on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(body(seed=k) for k in range(3))
        self.seen: list[Tensor] = []
        self.blocks[0].register_forward_hook(lambda m, x, y: self.seen.append(y))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_each_block_is_compiled_once_it_trains(told: list[dict[str, Any]]) -> None:
    module = Blocks()
    names = list(module.state_dict())
    made = Stage(module, conditions(compile=True))
    made.evaluate(Part.BODY, tensor(0), None, 0)
    made.redundant_forward(Part.BODY, tensor(0), None, 0)
    assert not told
    for iteration in range(2):
        train(made, iteration)
    assert told == 3 * [{"dynamic": False, "options": {"fallback_random": True}}]
    assert list(module.state_dict()) == names == list(made.params)
    assert len(module.seen) == 6, "hooks of a block are called as ever"
    assert int(torch._dynamo.config.recompile_limit) >= MOST_GRAPHS
    assert made.trained() is module
    assert not any("forward" in vars(block) for block in module.blocks)


def test_a_body_without_a_list_of_blocks_is_one(told: list[dict[str, Any]]) -> None:
    module = body()
    assert blocks_of(module) == [module]
    made = Stage(module, conditions(compile=True))
    train(made, 0)
    assert len(told) == 1
    made.trained()
    assert "forward" not in vars(module)


def test_a_forward_of_its_own_is_given_back(told: list[dict[str, Any]]) -> None:
    module = body()
    own = module.forward = lambda x: 2 * x  # type: ignore[method-assign]
    made = Stage(module, conditions(compile=True))
    y = made.forward((0, 1), Part.BODY, tensor(0), None, 0)
    assert torch.equal(y, 2 * tensor(0)) and len(told) == 1
    assert made.trained().forward is own


def test_a_process_that_forks_seats_compiles_for_them(told: list[dict[str, Any]]) -> None:
    """Itself, which leaves it without threads."""
    running = count_threads()
    warm_up(*_small_run(threads=1))
    assert len(told) == 4, "two blocks, of the first stage and the last"
    assert count_threads() == running


def test_and_in_a_fork_if_threads_were_left(
    told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For torch's folder alone. This process has had threads, and none of torch's outlives a fork:
    what the fork would do is not run."""
    asked: list[Any] = []
    monkeypatch.setattr(member, "ask_fork", lambda work: asked.append(work) or "")
    warm_up(*_small_run(threads=2))
    assert len(asked) == 1 and not told


def _small_run(threads: int) -> tuple[WorkerContext, Config, str]:
    sizes = {"width": 8, "heads": 2, "blocks": 6, "context": 4, "vocabulary": 16}
    config = build({"stages": 3, "compile": True, "threads": threads, "model": sizes})
    blueprint = of_family(config, 16)
    context = make_worker_context(config, blueprint, dict.fromkeys(Purpose, lambda i, m: None))
    return context, config, "cpu"


@needs_compiler
@pytest.mark.parametrize("dropout", [*[0.0] * SOAK, 0.5])
def test_it_computes_what_it_did_uncompiled(dropout: float) -> None:
    """Dropout's numbers, too; and recomputed in the backward."""
    states = []
    for how in ({}, {"compile": True}, {"compile": True, "recompute": True}):
        made = Stage(body(dropout), conditions(**how))
        for iteration in range(3):
            train(made, iteration)
        states.append(made.snapshot())
    plain, compiled, recomputed = states
    for name, param in plain.params.items():
        torch.testing.assert_close(compiled.params[name], param, rtol=0, atol=1e-5)
    assert compiled.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-5)
    assert same(compiled, recomputed)


@needs_compiler
def test_weights_of_16_bits(tmp_path: Path) -> None:
    narrow = conditions(weights=torch.bfloat16)
    plain, compiled = (Stage(body(), replace(narrow, compile=c)) for c in (False, True))
    for each in (plain, compiled):
        y = each.forward((0, 1), Part.BODY, tensor(0).bfloat16(), None, 0)
        each.backward((0, 1), torch.ones_like(y))
        assert y.dtype == torch.bfloat16
    for name, gradient in plain.gradients().items():
        torch.testing.assert_close(compiled.gradients()[name], gradient, rtol=0.05, atol=0.05)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1  # type: ignore[operator]
        return x * self.weight


@needs_compiler
def test_a_buffer_that_changes_is_still_found() -> None:
    made = Stage(Counting(), conditions(compile=True))
    with pytest.raises(BadInput, match=r"changes some of its buffers \(count\)"):
        made.forward((0, 1), Part.BODY, tensor(0), None, 0)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.view(2, 2)


def test_what_a_block_raises_by_itself_is_no_compilers_fault() -> None:
    made = Stage(Failing(), conditions(compile=True))
    with pytest.raises(RuntimeError) as caught:
        made.forward((0, 1), Part.BODY, tensor(0), None, 0)
    assert not isinstance(caught.value, BadInput)


def test_a_folder_that_takes_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "new" / "cache"))
    check_folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"can't write what it compiles to .*file/cache \(Not a dir"):
        check_folder()


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadInput, match=r"needs a C\+\+ compiler, and there is no no-such-compiler"):
        find_compiler("cpu")
    monkeypatch.setattr("checkfree.stage.compiled.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="on a GPU needs the package triton"):
        find_compiler("cuda")


@needs_compiler
def test_a_record_names_the_compiler() -> None:
    facts = equipment(build({"compile": True}))
    assert "g++" in facts["compiler"] or "GCC" in facts["compiler"] or "CXX" in os.environ
    assert "compiler" not in equipment(build({}))
