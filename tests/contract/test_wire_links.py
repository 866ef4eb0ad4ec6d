"""Links that have a format of their own, given or chosen: in records, and in all that reads them.

That they are priced as they are sent stands in ``test_rehearsal``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.config.load import build, load
from checkfree.core.errors import BadInput
from checkfree.core.formats import bytes_of
from checkfree.core.links import parse_links, render_links
from checkfree.core.ops import Address, Kind, Op
from checkfree.core.records import IterationRecord, Record, of_kind
from checkfree.messages.control import Ticket
from checkfree.session.verify import verify
from checkfree.session.wired import check_given, with_links
from checkfree.worker.casting import Casting
from checkfree.worker.feedback import Feedback
from tests.contract.small import TREE, counting, modules, small

PAPER = {"fleet": {"name": "paper", "sizes": "own", "flops": 1e10}}
SLOW = {
    "replicas": 2,
    "wire": {"links": "auto", "feedback": True},
    **PAPER,
    "data": {"name": "stdlib"},
}
MODEL = {**TREE["model"], "vocabulary": None}


def tree(out: Path, **more: Any) -> dict[str, Any]:
    return {**TREE, "iterations": 6, "model": MODEL, **SLOW, "out": str(out), **more}


def test_they_are_read_as_they_are_written() -> None:
    links = {(Address(1), Address(0, 1)): "int8", (Address(0, 1), Address(1)): "int4"}
    words = render_links(links)
    assert words == ("0.1>1.0=int4", "1.0>0.1=int8")
    assert parse_links(("auto", *words)) == links


@pytest.mark.parametrize(
    ("links", "told"),
    [
        ("int8", "int8: expected auto, or links as in 0.0>1.0=int4"),
        (["1.0>2.0"], "1.0>2.0: expected auto"),
        (["1.0>2.0=int4", "1.0>2.0=int8"], "1.0>2.0=int8: expected auto"),
        (["one>2.0=int4"], "not an address"),
        (["1.0>2.0>3.0=int4"], "expected auto"),
        (["1.0>9.0=int4"], "there is no seat 9.0, expected 0.0 … 4.0"),
        (["1.0>lead=int4"], "there is no seat lead"),
        (["1.0>2.0=int4_rows"], "expected one of fp32, bf16"),
        (["1.0>2.0=int8"], r"is finer than wire\.activations=int4"),
    ],
)
def test_what_is_no_link_is_refused(links: Any, told: str) -> None:
    wire = {"activations": "int4" if "finer" in told else "fp32", "links": links}
    with pytest.raises(BadInput, match=told):
        build({**TREE, "wire": wire})


def test_what_no_link_carries_is_not_read() -> None:
    op, x = Op(Kind.FORWARD, 0, 1), torch.randn(2, 3, 64)
    link = Address(0), Address(1)
    casting = Casting("fp32", "fp32", links={link: "int8"})
    sent = casting.activation(Ticket(0, 0), op, x, link)
    assert sent.tensor.dtype == torch.int8
    assert (casting.read(sent, x.dtype) - x).abs().max() < x.abs().max() / 200
    plain = casting.activation(Ticket(0, 0), op, x, (Address(1), Address(0)))
    assert torch.equal(casting.read(plain, x.dtype), x)
    coarse = Casting("int4").activation(Ticket(0, 0), op, x, link)
    with pytest.raises(ValueError, match="int4: no link has that"):
        casting.read(coarse, x.dtype)
    owed = Feedback()
    back = casting.gradient(Ticket(0, 0), op, x, link, owed)
    assert back.tensor.dtype == torch.int8


def test_only_the_named_link_carries_fewer_bytes(tmp_path: Path) -> None:
    config = small(tmp_path / "run", {"wire": {"links": ["1.0>2.0=int4"]}, "model": MODEL})
    run = checkfree.train(config)
    shape = (config.batch, config.model.context, config.model.width)
    each, coarse = bytes_of(shape, "fp32"), bytes_of(shape, "int4")
    (sent,) = of_kind(run.records, "ledger")
    count = config.iterations * config.microbatches
    assert sent["bytes"]["Activation"] == count * (config.stages * each + coarse)
    assert sent["bytes"]["Gradient"] == count * (config.stages + 1) * each


def test_what_was_chosen_stands_in_the_records_and_is_trained_again(tmp_path: Path) -> None:
    run = checkfree.train(tree(tmp_path / "run"))
    chosen = run.records[0]["config"]["wire"]["links"]
    assert chosen[0] == "auto" and chosen[1:]
    assert {word.partition("=")[2] for word in chosen[1:]} == {"bf16", "int8", "int4"}
    assert load(tmp_path / "run" / "config.yaml").wire.links == tuple(chosen)
    found = verify(tmp_path / "run")
    assert not found.difference and found.iterations == 6
    given = checkfree.train(tree(tmp_path / "given", wire={"links": chosen[1:], "feedback": True}))
    assert given.losses == run.losses
    plain = checkfree.train(tree(tmp_path / "plain", wire={}))
    assert plain.losses != run.losses


def test_a_run_that_stopped_goes_on_with_what_was_chosen(tmp_path: Path) -> None:
    whole = checkfree.train(tree(tmp_path / "whole"))

    def stop(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(tree(tmp_path / "run", resume={"every": 2}), listeners=[stop])
    assert checkfree.resume(tmp_path / "run").losses == whole.losses


def test_a_swarm_does_not_choose() -> None:
    config = build({**TREE, "wire": "auto"})
    with pytest.raises(BadInput, match=r"this swarm's are not: have them measured"):
        check_given(config)
    check_given(with_links(build({**TREE, **SLOW, "model": MODEL})))


def test_a_study_knows_a_run_whose_links_were_chosen(tmp_path: Path) -> None:
    """By what was chosen: on another fleet, that would be other links."""
    out, data = tmp_path / "out", {"name": "stdlib"}
    more: dict[str, Any] = {"data": data, "validation": {"every": 2, "microbatches": 1}}
    config = build(tree(tmp_path / "run", iterations=3, **more))
    given: dict[str, Any] = {
        "strategies": ("no_failure", "redundant(failures=none)"),
        "seeds": 1,
        "workers": 1,
    }
    checkfree.compare(config, out=out, **given)
    again = checkfree.compare(config, out=out, **given)
    assert again
    other = replace(config, fleet=replace(config.fleet, flops=1e9))
    with pytest.raises(BadInput, match=r"was trained with wire\.links=\[auto, 0\.0>1\.0"):
        checkfree.compare(other, out=out, **given)


def test_for_modules_of_ones_own_sizes_have_to_be_given(tmp_path: Path) -> None:
    own = small(tmp_path / "run", {"wire": "auto", "fleet": {"sizes": "own"}})
    parts: dict[str, Any] = {"stages": modules(own), "batches": counting(own)}
    with pytest.raises(BadInput, match=r"your own modules are not measured: name the slow links"):
        checkfree.train(own, **parts)
    given = replace(own, fleet=replace(own.fleet, name="paper", sizes="published"))
    run = checkfree.train(given, **parts)
    assert run.records[0]["config"]["wire"]["links"][1:]
