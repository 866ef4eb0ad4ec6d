"""A run keeps the files of its tokenizer, and goes on with them when the others are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.config.load import load, merge
from checkfree.core.errors import BadInput
from checkfree.data.tokenizer_folder import identity_of
from checkfree.session.evaluate import evaluate
from checkfree.session.export import export
from checkfree.session.language_model import open_model
from checkfree.session.verify import recording, verify_recording
from tests.contract.small import small, text

pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")

WORDS = {"[UNK]": 0, "stages": 1, "less": 2, "are": 3, "</s>": 4, "<|end|>": 5}
SIZES = {"iterations": 6, "resume": {"every": 2}, "recovery": {"name": "checkfree"}}


def tokenizer(folder: Path, words: dict[str, int] = WORDS) -> Path:
    """A model's folder with one that knows some words, and digits."""
    folder.mkdir()
    vocabulary = {**words, **{str(digit): 10 + digit for digit in range(200)}}
    tree = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [5], "model_type": "llama"}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def settings(home: Path, **data: Any) -> dict[str, Any]:
    shared = text(home / "a.txt")
    more = {"tokenizer": str(home / "model"), "cache": str(home / "cache"), **data}
    return merge(merge(SIZES, shared), {"data": more})


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A home with a tokenizer and a run that was stopped on its way; what it would have come to."""
    home = tmp_path_factory.mktemp("home")
    tokenizer(home / "model")
    whole = checkfree.train(small(home / "whole", settings(home)))

    def stop(record: object) -> None:
        if getattr(record, "iteration", 0) >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(small(home / "run", settings(home)), listeners=[stop])
    return home, whole.losses


Change = Callable[[Path], Any]


@pytest.fixture
def run(once: tuple[Path, list[float]]) -> Any:
    """That run, with its home as it was before each test."""
    home, _ = once
    before = home.with_name(home.name + "-before")
    shutil.copytree(home, before)
    yield home / "run"
    shutil.rmtree(home)
    before.rename(home)


def test_its_files_are_in_the_run_folder(once: tuple[Path, list[float]]) -> None:
    home, _ = once
    kept = home / "whole" / "tokenizer"
    names = {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert {path.name for path in kept.iterdir()} == names
    assert json.loads((kept / "generation_config.json").read_text()) == {"eos_token_id": 5}
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (kept / name).read_bytes() == (home / "model" / name).read_bytes()


def test_bytes_have_none(tmp_path: Path) -> None:
    shared = text(tmp_path / "a.txt")
    checkfree.train(small(tmp_path / "run", shared, {"iterations": 1}))
    assert not (tmp_path / "run" / "tokenizer").exists()


def gone(home: Path) -> None:
    shutil.rmtree(home / "model")


def another(home: Path) -> None:
    shutil.rmtree(home / "model")
    tokenizer(home / "model", {**WORDS, "and": 6})


def another_end(home: Path) -> None:
    (home / "model" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')


def no_copy(home: Path) -> None:
    shutil.rmtree(home / "run" / "tokenizer")


def torn_copy(home: Path) -> None:
    (home / "run" / "tokenizer" / "tokenizer.json").write_text("{")


@pytest.mark.parametrize("change", [gone, another, another_end, no_copy, torn_copy])
def test_it_goes_on_whatever_became_of_the_files(
    run: Path, once: tuple[Path, list[float]], change: Change
) -> None:
    home, expected = once
    before = (run / "config.yaml").read_text()
    change(home)
    assert checkfree.resume(run).losses == expected
    assert (run / "config.yaml").read_text() == before
    assert checkfree.verify(run).difference == ""


@pytest.mark.parametrize("change", [no_copy, torn_copy])
def test_a_run_that_goes_on_without_a_good_copy_gets_one(
    run: Path, once: tuple[Path, list[float]], change: Change
) -> None:
    """As one of an older version, which kept none."""
    home, _ = once
    change(home)
    checkfree.resume(run)
    gone(home)
    told = checkfree.read(run)[0]["data"]["tokenizer"]
    assert identity_of((run / "tokenizer" / "tokenizer.json").read_bytes()) == told
    assert (run / "tokenizer" / "chat_template.jinja").is_file()
    assert open_model(run).codec.identity == told


@pytest.mark.parametrize("change", [gone, another, no_copy, torn_copy])
def test_it_is_asked_and_exported_whatever_became_of_them(
    run: Path, once: tuple[Path, list[float]], change: Change
) -> None:
    home, _ = once
    checkfree.resume(run)
    told = checkfree.read(run)[0]["data"]["tokenizer"]
    expected = evaluate(open_model(run)).loss
    (home / "a.txt").rename(home / "moved.txt")
    file = run / "config.yaml"
    file.write_text(file.read_text().replace(str(home / "a.txt"), str(home / "moved.txt")))
    change(home)
    model = open_model(run)
    assert model.codec.identity == told
    assert evaluate(model).loss == expected
    export(run, to=home / "out")
    assert identity_of((home / "out" / "tokenizer.json").read_bytes()) == told


def test_a_run_that_is_trained_again_has_them_too(run: Path, once: tuple[Path, Any]) -> None:
    home, _ = once
    checkfree.resume(run)
    gone(home)
    verify_recording(recording(run), home / "again")
    for path in (run / "tokenizer").iterdir():
        assert (home / "again" / "tokenizer" / path.name).read_bytes() == path.read_bytes()


def test_without_either_it_is_told(run: Path, once: tuple[Path, list[float]]) -> None:
    home, _ = once
    gone(home)
    no_copy(home)
    with pytest.raises(BadInput, match=r"data.tokenizer .*model: no such file"):
        checkfree.resume(run)


def test_who_names_a_place_means_it(run: Path, once: tuple[Path, list[float]]) -> None:
    home, expected = once
    other = tokenizer(home / "other", {**WORDS, "and": 6})
    with pytest.raises(BadInput, match="the data are not those that the run began with"):
        checkfree.resume(run, [f"data.tokenizer={other}"])
    moved = (home / "model").rename(home / "moved")
    assert checkfree.resume(run, [f"data.tokenizer={moved}"]).losses == expected
    assert load(run / "config.yaml").data.tokenizer == str(moved)
    shutil.rmtree(moved)
    assert checkfree.verify(run).difference == ""


def test_a_new_run_takes_the_folder_of_an_old_one(run: Path, once: tuple[Path, Any]) -> None:
    home, _ = once
    gone(home)
    begun = settings(home, tokenizer=str(run / "tokenizer"))
    child = checkfree.train(small(home / "child", begun, {"init": {"run": str(run)}}))
    assert child.records[0]["data"] == checkfree.read(run)[0]["data"]


def test_a_tokenizer_that_changes_as_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checkfree.session import kept_tokenizer

    tokenizer(tmp_path / "model")
    found = {"tokenizer.json": b"{}"}
    monkeypatch.setattr(kept_tokenizer, "files_of", lambda path: found)
    with pytest.raises(BadInput, match="was changed while the run was about to begin"):
        checkfree.train(small(tmp_path / "run", settings(tmp_path)))
    assert not (tmp_path / "run" / "records.jsonl").exists()
