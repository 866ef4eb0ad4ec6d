"""What ``checkfree schedule`` shows is what trains."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Kind, Route, Schedule, parse_route
from checkfree.messages.control import Begin, Message, Purpose
from checkfree.pipeline import parse
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.show import show_schedule
from tests.tiny import Log, MemoryFiles

SMALL = [
    *("iterations=1", "stages=4", "microbatches=6", "failures=none", "validation.every=0"),
    *("model.width=4", "model.heads=2", "model.hidden=4", "model.blocks=4", "model.context=4"),
]
VARIANTS = [
    "recovery=none",
    "recovery=none schedule=gpipe",
    "recovery=checkfree_plus",
    "recovery=checkfree_plus(share=1) replicas=2",
    "recovery=redundant",
    "recovery=redundant schedule=gpipe replicas=2",
    "recovery=redundant schedule=zb_h1",
    "recovery=checkfree_plus schedule=zb_h2 replicas=2",
]


def trained(config: Config) -> tuple[Schedule, tuple[Route, ...]]:
    """What the lead orders when it trains as configured."""

    def batch(iteration: int, microbatch: int) -> Tensor:
        return torch.full((1, config.model.context + 1), microbatch)

    feeds = dict.fromkeys(Purpose, batch)
    context = make_worker_context(config, of_family(config, vocabulary=8), feeds)
    run = assemble(config, context, Store(MemoryFiles()), Log())
    orders: list[Begin] = []

    def note(to: Address, message: Message) -> None:
        if isinstance(message, Begin):
            orders.append(message)

    run.runtime.run(note)
    assert run.lead.done and {to.ticket.purpose for to in orders} == {Purpose.TRAIN}
    return orders[0].schedule, orders[0].routes


@pytest.mark.parametrize("words", VARIANTS)
def test_it_is_the_very_schedule_that_trains(tmp_path: Path, words: str) -> None:
    config = load(None, [*SMALL, *words.split()])
    grid, rest = show_schedule(config, tmp_path / "t.png").split("\n\n")
    schedule, routes = trained(config)
    assert parse(grid) == schedule
    shown = dict(re.findall(r"route (\d+): (.*)", rest))
    assert "0" in shown
    assert all(parse_route(route) == routes[int(m)] for m, route in shown.items())


def test_swapped_routes_are_shown_beside_the_plain_one(tmp_path: Path) -> None:
    text = show_schedule(load(None, [*SMALL, "recovery=checkfree_plus"]), tmp_path / "t.png")
    assert "route 0: 0.0 > 1.0 > 2.0 > 3.0 > 4.0 > 0.0" in text
    assert "route 1: 0.0 > 2.0 > 1.0 > 4.0 > 3.0 > 0.0" in text


def test_redundant_forwards_are_shown(tmp_path: Path) -> None:
    grid = show_schedule(load(None, [*SMALL, "recovery=redundant"]), tmp_path / "t.png")
    ops = [op for row in parse(grid.split("\n\n")[0]).values() for op in row]
    assert any(op.kind is Kind.REDUNDANT for op in ops)


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_it_draws_a_picture(tmp_path: Path, suffix: str, start: bytes) -> None:
    picture = tmp_path / f"t.{suffix}"
    text = show_schedule(load("demo"), picture)
    assert picture.read_bytes().startswith(start) and picture.stat().st_size > 1000
    assert text.endswith(f"timeline: {picture}")


def test_its_bubble_and_stash_stand_beside_the_papers(tmp_path: Path) -> None:
    words = ["model.blocks=4", "stages=4", "recovery=none", "microbatches=9"]
    for name, formula, many, stash in (
        ("gpipe", "9.0 = (p-1)(F + B + W)", 1, 9),
        ("1f1b", "9.0 = (p-1)(F + B + W)", 1, 6),
        ("zb_h1", "3.0 = (p-1)(F + B - W)", 5, 6),
        ("zb_h2", "0.0 = (p-1)(F + B - 2W)", 9, 9),
    ):
        config = load(None, [*SMALL, *words, f"schedule={name}"])
        text = show_schedule(config, tmp_path / "t.png")
        given = f"in order and given {many} or more microbatches; stash bound here: {stash}"
        assert f"by its paper {formula}, {given}\n" in text
        assert ("W0@1" in text) is name.startswith("zb_")
        assert "W is empty" not in text  # ours are seen to be split
    assert "bubble 0.0 forwards" in text


def test_modules_that_are_not_ours_may_not_be_split(
    tmp_path: Path,
) -> None:
    config = load(None, [*SMALL, "schedule=zb_h1"])
    other = replace(config, model=replace(config.model, family="hf"))
    told = "W is empty where a module can't be split"
    assert told in show_schedule(other, tmp_path / "t.png")
    assert told not in show_schedule(replace(other, schedule="1f1b"), tmp_path / "t.png")


def test_what_stays_of_what_is_offloaded(tmp_path: Path) -> None:
    words = ("microbatches=12", "stash.offload=[1,2]", "stash_room=0")
    text = show_schedule(load("demo", words), tmp_path / "t.png")
    assert "at most 11 microbatches stashed" in text
    assert "at most 2 microbatches in memory, those on their way included; that one moves" in text
    slow = [*words, "stash_room=null", "fleet.offload=1"]
    assert "moves 0 an iteration" in show_schedule(load("demo", slow), tmp_path / "t.png")


def test_its_figures(tmp_path: Path) -> None:
    """GPipe, two body stages, one microbatch: nothing overlaps, so one worker in three is busy."""
    words = ["stages=2", "microbatches=1", "schedule=gpipe", "recovery=none", "model.blocks=2"]
    text = show_schedule(load(None, [*SMALL, *words]), tmp_path / "t.png")
    assert "33% busy, at most 1 microbatches stashed" in text


@pytest.mark.parametrize("name", ["no/such/folder/t.png", "t.nonsense"])
def test_where_no_picture_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"--picture .* cannot be written") as caught:
        show_schedule(load("demo"), tmp_path / name)
    assert "\n" not in str(caught.value)
