"""What a machine's profile says, and what is no profile."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.errors import BadInput
from checkfree.session.profile import Measured, _slope, profile
from checkfree.simulator.profile import PartSeconds, Profile, parse_profile, read_profile
from tests.process.command import prepare

PART = {"forward": 1e-3, "backward": 2e-3, "shadow": 9e-4}
GOOD: dict[str, Any] = {
    "format": 1,
    "checkfree": "0.1.0",
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "sizes": {"batch": 1, "context": 16, "width": 16, "blocks_per_stage": 1, "vocabulary": 256},
    "seconds": {
        "embed": dict(PART),
        "body": {**PART, "forward": 5e-3},
        "head": dict(PART),
        "step": {"edge": 1e-3, "body": 2e-3},
        "iteration_overhead": 0,
        "message_overhead": 1e-5,
    },
    "bytes_per_second": {"copy": 1e9, "store": 1e8},
}


def changed(value: Any, *keys: str) -> Any:
    """The good profile with another value at a place; Ellipsis: with none."""
    tree = copy.deepcopy(GOOD)
    inner = tree
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    if value is ...:
        del inner[keys[-1]]
    return tree


def test_a_profile_is_read() -> None:
    found = parse_profile(GOOD)
    assert isinstance(found, Profile)
    assert found.body == PartSeconds(forward=5e-3, backward=2e-3, shadow=9e-4)
    assert found.body.halves is None
    assert (found.step_edge, found.step_body, found.iteration_overhead) == (1e-3, 2e-3, 0.0)
    assert (found.copy, found.store, found.sizes["width"]) == (1e9, 1e8, 16)


def test_halves_of_a_backward_are_read() -> None:
    both = {**PART, "input": 1.5e-3, "weights": 1e-3}
    assert parse_profile(changed(both, "seconds", "body")).body.halves == (1.5e-3, 1e-3)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (changed({**PART, "input": 1e-3}, "seconds", "body"), "no seconds.body.weights"),
        ([], "the file is \\[\\]"),
        ({}, "no format"),
        (changed(2, "format"), "format is 2, expected 1"),
        (changed(..., "seconds", "body"), "no seconds.body"),
        (changed(3, "seconds", "body"), "seconds.body is 3, expected an object"),
        (changed(..., "seconds", "head", "shadow"), "no seconds.head.shadow"),
        (changed("fast", "seconds", "embed", "forward"), "'fast', expected a finite number"),
        (changed(True, "seconds", "embed", "forward"), "True, expected a finite number"),
        (changed(float("nan"), "seconds", "embed", "forward"), "nan"),
        (changed(-1e-9, "seconds", "step", "edge"), "seconds.step.edge is -1e-09"),
        (changed(0, "bytes_per_second", "copy"), "expected a rate above 0"),
        (changed(1.5, "threads"), "threads is 1.5"),
        (changed(0, "sizes", "width"), "sizes.width is 0"),
        (changed(7, "device"), "device is 7, expected text"),
    ],
)
def test_what_is_no_profile(tmp_path: Path, tree: Any, said: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(tree))
    with pytest.raises(BadInput, match=said) as error:
        read_profile(file)
    assert str(file) in str(error.value)
    assert "checkfree profile CONFIG" in str(error.value)


@pytest.mark.parametrize("write", [lambda f: None, lambda f: f.mkdir()])
def test_what_is_no_file(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "profile.json")
    with pytest.raises(BadInput, match="cannot be read"):
        read_profile(tmp_path / "profile.json")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "profile.json").write_bytes(text)
    with pytest.raises(BadInput, match="no profile"):
        read_profile(tmp_path / "profile.json")


# --- measuring -----------------------------------------------------------------------------------


def measured(iteration: float, messages: float) -> Measured:
    """Of an iteration with ten ops of a tenth of a second each."""
    ops, counts = {("body", "forward"): 0.1}, {("body", "forward"): 10.0}
    return Measured(None, ops, counts, iteration, messages)  # type: ignore[arg-type]


def test_what_is_left_beside_the_ops() -> None:
    assert measured(1.3, 100).overhead == pytest.approx(0.3)
    assert measured(0.9, 100).overhead == 0.0


def test_what_a_message_adds() -> None:
    assert _slope(measured(1.3, 100), measured(1.1, 50)) == pytest.approx(0.004)
    assert _slope(measured(1.1, 100), measured(1.3, 50)) == 0.0
    assert _slope(measured(1.3, 100), measured(1.3, 100)) == 0.0


def test_a_machine_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    before, threads = sorted(tmp_path.iterdir()), torch.get_num_threads()
    assert main(["profile", "small.yaml", "--to", "p.json", "--repeats", "2", "--quiet"]) == 0
    found = read_profile(Path("p.json"))
    for part in (found.embed, found.body, found.head):
        assert min(part.forward, part.backward, part.shadow) > 0
    assert found.embed.halves is None
    assert min(*(found.body.halves or (0,)), *(found.head.halves or (0,))) > 0
    assert min(found.step_edge, found.step_body, found.iteration_overhead) > 0
    assert found.sizes == {**GOOD["sizes"], "vocabulary": 256}
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "p.json"])
    assert torch.get_num_threads() == threads


def test_every_op_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    pieces = {}

    def piece(label: str, iterations: int) -> Callable[[], None]:
        pieces[label] = iterations
        return lambda: None

    profile(load("small.yaml", ["recovery=redundant", "replicas=2", "schedule=zb_h1"]), 2, piece)
    assert pieces == {"4 microbatches": 5, "2 microbatches": 5}


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--repeats", "0"], "--repeats"), (["--to", "missing/p.json"], "missing/p.json")],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    assert main(["profile", "small.yaml", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
