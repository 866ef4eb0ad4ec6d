"""What a seat takes, and what a machine has left: beside what autograd keeps, and from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from checkfree.config.load import load, source_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.models.families import family
from checkfree.session import memory
from checkfree.session.memory import (
    HALF_HELD,
    available,
    check_fits,
    least_bytes,
    room_for,
    seat_bytes,
    within_memory,
)
from checkfree.session.sizes import log_bytes, logged_bytes, own_sizes
from checkfree.stage.split import input_backward
from checkfree.study.check import check_buildable
from checkfree.study.options import make_options
from checkfree.study.plan import base, plan

GiB = 1 << 30
MEMINFO = f"MemTotal: {16 * GiB // 1024} kB\nMemAvailable: {8 * GiB // 1024} kB\n"


def demo(*words: str) -> Config:
    made = load("demo", [*words])
    return replace(made, model=replace(made.model, vocabulary=512))


def kept_by_autograd(stage: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that a forward keeps for its backward, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        run()
    return sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16_weights"])
@pytest.mark.parametrize("name", ["llama", "gpt"])
def test_what_is_stashed_is_about_what_autograd_keeps(name: str, precision: str) -> None:
    config = demo(f"model.family={name}", f"precision={precision}")
    edge, body = (family(name).stage(config.model, stage, config.stages) for stage in (0, 1))
    hidden = torch.randn(config.batch, config.model.context, config.model.width).requires_grad_()
    if precision == "bf16_weights":
        hidden = hidden.detach().bfloat16().requires_grad_()
        edge, body = edge.bfloat16(), body.bfloat16()
    tokens = torch.randint(0, 512, (config.batch, config.model.context + 1))
    loss = kept_by_autograd(edge, lambda: edge.loss(hidden, tokens))  # type: ignore[operator]
    blocks = kept_by_autograd(body, lambda: body(hidden))
    told = own_sizes(config).stashed
    assert 0.8 < told[1] / blocks < 1.15  # in bf16 least: LLaMa's norms compute in fp32
    assert 1.0 < told[0] / loss < 2.5  # the logits are not kept, but are there for a moment


def test_a_schedule_that_holds_more_a_stage_that_recomputes_less() -> None:
    plain = seat_bytes(demo("recovery=none"))
    assert seat_bytes(demo("recovery=none", "schedule=gpipe")) > plain
    assert seat_bytes(demo("recovery=none", "recompute=true")) < plain
    assert seat_bytes(demo("recovery=none", "wire.feedback=true")) > plain
    deep = demo("recovery=none", "microbatches=64")
    assert seat_bytes(deep) == seat_bytes(replace(deep, microbatches=128))  # 1F1B's bound


def test_rounded_weights_are_there_beside_those_that_train() -> None:
    """And hidden states are half as wide."""
    wide, narrow = (demo("recovery=none", f"precision={p}") for p in ("fp32", "bf16_weights"))
    both = own_sizes(wide), own_sizes(narrow)
    for one, other in zip(*((s.params, s.moments, s.buffers) for s in both), strict=True):
        assert one == other
    assert both[0].activation == 2 * both[1].activation
    again = sum(both[0].params) // 2
    assert least_bytes(narrow) == least_bytes(wide) + again
    shallow = [replace(c, batch=1, model=replace(c.model, context=1)) for c in (wide, narrow)]
    more = seat_bytes(shallow[1]) - seat_bytes(shallow[0])
    assert more == pytest.approx(max(both[0].params) / 2, rel=0.2)
    assert seat_bytes(narrow) < seat_bytes(wide)


@pytest.mark.parametrize("name", ["llama", "gpt"])
def test_what_waits_between_the_halves_of_a_backward(name: str) -> None:
    """Beside the stash: the gradients that arrived at each product."""
    config = demo(f"model.family={name}")
    body = family(name).stage(config.model, 1, config.stages)
    hidden = torch.randn(config.batch, config.model.context, config.model.width).requires_grad_()
    y = body(hidden)
    halves = input_backward(y, hidden, torch.randn_like(y), body.parameters())
    assert halves is not None
    arrived = [dy for level in halves[1].arrived for dy in level if dy is not None]
    waiting = {dy.untyped_storage().data_ptr(): dy.untyped_storage().nbytes() for dy in arrived}
    told = own_sizes(config).stashed[1]
    assert 0.7 * HALF_HELD < sum(waiting.values()) / told <= HALF_HELD


def test_a_split_backward_holds_more() -> None:
    plain = seat_bytes(demo("recovery=none", "microbatches=64"))
    first, second = (
        seat_bytes(demo("recovery=none", "microbatches=64", f"schedule={name}"))
        for name in ("zb_h1", "zb_h2")
    )
    assert plain < first < second
    again = ("recovery=none", "microbatches=64", "recompute=true")
    assert seat_bytes(demo(*again)) < seat_bytes(demo(*again, "schedule=zb_h1"))


def test_what_is_held_for_others_counts() -> None:
    plain, sizes = seat_bytes(demo("recovery=none")), own_sizes(demo())
    signs, whole = (
        seat_bytes(demo("recovery=shadow", f"recovery.shadow_format={how}"))
        for how in ("signs", "int4")
    )
    assert plain < whole < signs < seat_bytes(demo("recovery=redundant"))
    assert seat_bytes(demo("recovery=redundant")) - plain <= max(
        sizes.state(stage, moments=True) for stage in (0, 1)
    )


def reading(files: Mapping[str, str]) -> Callable[[Path], str]:
    def read(path: Path) -> str:
        try:
            return files[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    return read


V2, V1 = "/sys/fs/cgroup/{}memory.{}", "/sys/fs/cgroup/memory/{}memory.{}"


def group(where: str, at: str, names: tuple[str, str, str], most: str) -> dict[str, str]:
    """The files of a control group that uses 1 GiB, of which a half can be dropped."""
    limit, used, idle = names
    return {
        where.format(at, limit): most,
        where.format(at, used): str(GiB),
        where.format(at, "stat"): f"anon 5\n{idle} {GiB // 2}\n",
    }


SECOND, FIRST = (
    ("max", "current", "inactive_file"),
    ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8.0),
        (group(V2, "", SECOND, str(4 * GiB)), 3.5),  # a container that sees itself as the root
        (group(V2, "", SECOND, "max"), 8.0),
        (group(V1, "", FIRST, str(3 * GiB)), 2.5),
        (group(V1, "", FIRST, str((1 << 63) - 4096)), 8.0),
        (group(V2, "a.slice/train.service/", SECOND, str(2 * GiB)), 1.5),
        (group(V2, "a.slice/", SECOND, str(2 * GiB)), 1.5),  # what it is in
        (group(V1, "docker/7/", FIRST, str(2 * GiB)), 1.5),
        (group(V2, "b.slice/", SECOND, str(2 * GiB)), 8.0),  # somebody else's
    ],
)
def test_what_control_groups_leave(files: dict[str, str], left: float) -> None:
    own = "7:memory:/docker/7\n3:cpu:/docker/7\n0::/a.slice/train.service\n"
    read = reading({"/proc/meminfo": MEMINFO, "/proc/self/cgroup": own, **files})
    assert available(read) == left * GiB


def test_a_little_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = demo()
    monkeypatch.setattr(memory, "seat_bytes", lambda config: GiB)
    assert room_for(config, 4 * GiB) == 3
    assert room_for(config, GiB // 4) == 0


def test_what_replays_keep_is_counted() -> None:
    """Logs, own copies and held ones; no more of a log than the run has iterations."""
    plain, on = (load("demo", [f"recovery={name}"]) for name in ("none", "replay"))
    two = load("demo", ["recovery=replay", "recovery.copies=2"])
    sizes = own_sizes(on)
    states = sum(sizes.state(stage, moments=True) for stage in range(on.stages + 1))
    assert least_bytes(on) - least_bytes(plain) > 4 * states
    assert least_bytes(two) - least_bytes(on) == 2 * states
    endless = load("demo", ["recovery=replay", f"recovery.log_memory={2**60}", "iterations=3"])
    assert least_bytes(endless) < 2 * least_bytes(on)
    with_log = load("demo", [f"recovery=auto(log_memory={2**28})"])
    assert least_bytes(with_log) > least_bytes(load("demo", ["recovery=auto(log_memory=0)"]))


def test_a_log_on_a_disk_takes_no_memory_but_an_iteration_s() -> None:
    """And the number that is found for it is the same."""
    memory, disk = (
        load("demo", ["recovery=replay", f"recovery.log_path={path}"]) for path in ("null", "/tmp")
    )
    sizes, seats = own_sizes(memory), memory.stages + 1
    log, under_way = log_bytes(memory, sizes), logged_bytes(disk, sizes)
    assert log_bytes(disk, sizes) == log == logged_bytes(memory, sizes)
    assert under_way == disk.microbatches * (sizes.activation + sizes.gradient) < log / 2
    assert least_bytes(memory) - least_bytes(disk) == seats * (log - under_way)
    assert seat_bytes(memory) - seat_bytes(disk) == log - under_way
    short = load("demo", ["recovery=replay", "recovery.log_path=/tmp", "iterations=1"])
    assert logged_bytes(short, sizes) == under_way


@pytest.mark.parametrize(
    ("recovery", "what"),
    [
        ("auto", "available: give recovery.log_memory=0, or lower batch"),
        ("replay", "available: lower recovery.log_memory, batch"),
        ("shadow", "available: lower batch"),
    ],
)
def test_what_does_not_fit_says_what_to_do_without(
    recovery: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1 << 20)
    with pytest.raises(BadInput, match=what):
        check_fits(load("demo", [f"recovery={recovery}"]))


def test_auto_does_without_replays_where_only_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    on, off = (load("demo", [f"recovery={how}"]) for how in ("auto", "auto(log_memory=0)"))
    told = load("demo", ["recovery=auto(log_memory=67108864)"])
    for free, kept in (
        (least_bytes(on), "auto"),
        (least_bytes(on) - 1, 0),
        (least_bytes(off) - 1, "auto"),  # it is refused, with all that it was to have
    ):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        assert within_memory(on).recovery.log_memory == kept
        assert within_memory(told) == told


def test_logs_of_stages_on_a_gpu_are_in_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own memory is no business of ours."""
    gpu, on, off = "devices=[cuda]", "recovery=auto", "recovery=auto(log_memory=0)"
    assert 0 == least_bytes(load("demo", [gpu, off])) < least_bytes(load("demo", [gpu, on]))
    assert least_bytes(load("demo", [gpu, on])) < least_bytes(load("demo", [on]))
    monkeypatch.setattr(memory, "available", lambda: 1 << 20)
    assert within_memory(load("demo", [gpu, on])).recovery.log_memory == 0
    check_fits(load("demo", [gpu, off]))
    with pytest.raises(BadInput, match=r"lower recovery\.log_memory"):
        check_fits(load("demo", [gpu, "recovery=replay"]))


def test_a_comparison_has_memory_for_each_of_its_strategies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not for the first alone: else a run would begin, hours later, as something else."""
    tree = base(source_of("demo"), [])
    options = make_options({}, {"strategies": ["auto"], "seeds": 1})
    cells = plan(tree, options, tmp_path)
    plain = next(cell.config for cell in cells if cell.label == "no_failure")
    assert cells[0].config == plain
    monkeypatch.setattr(memory, "available", lambda: least_bytes(plain))
    with pytest.raises(BadInput, match=r"^auto: at least"):
        check_buildable(cells, 1)
