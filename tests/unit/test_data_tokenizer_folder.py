"""A tokenizer by its model's folder, or by the model's name: what ends a text, and what is kept."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.errors import BadInput
from checkfree.data.tokenizer_folder import files_of, find
from checkfree.data.tokenizers import open_tokenizer
from tests.unit.test_data_tokenizers import WORDS, tokenizer_json

WORDS = {**WORDS, "</s>": 5, "<|end|>": 6, "<|im_end|>": 7}
"""Of a file by itself ``</s>`` is the likeliest to end a text."""
USUAL = 5

pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")


def model(folder: Path, **files: Any) -> Path:
    """A model's folder: by its name without suffix, the content of each file but tokenizer.json."""
    folder.mkdir(parents=True)
    rest = {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(tokenizer_json(WORDS, **rest))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return folder


CONTENT = {"content": "<|im_end|>", "lstrip": False, "special": True}
ENDS: dict[str, tuple[dict[str, Any], int]] = {
    "by name": ({"tokenizer_config": {"eos_token": "<|end|>"}}, 6),
    "by its content": ({"tokenizer_config": {"eos_token": CONTENT}}, 7),
    "by number": ({"generation_config": {"eos_token_id": 6}}, 6),
    "by the first of several": ({"generation_config": {"eos_token_id": [7, 6]}}, 7),
    "by the model's": ({"config": {"eos_token_id": 6, "model_type": "llama"}}, 6),
    "by the model's, of several": ({"config": {"eos_token_id": [7, 6]}}, 7),
    "name before number": (
        {"tokenizer_config": {"eos_token": "<|end|>"}, "config": {"eos_token_id": 7}},
        6,
    ),
    "generation before model": (
        {"generation_config": {"eos_token_id": 6}, "config": {"eos_token_id": 7}},
        6,
    ),
    "generation says nothing": (
        {"generation_config": {"top_p": 0.9, "eos_token_id": None}, "config": {"eos_token_id": 7}},
        7,
    ),
    "no name": ({"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": 7}}, 7),
    "nobody says": ({"tokenizer_config": {"bos_token": "be"}, "config": {}}, USUAL),
    "no other file": ({}, USUAL),
    "an empty list": ({"config": {"eos_token_id": []}}, USUAL),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_folder_says_what_ends_a_text(tmp_path: Path, name: str) -> None:
    files, expected = ENDS[name]
    found = open_tokenizer(str(model(tmp_path / "m", **files)))
    assert found.separator == expected
    assert found.encode([b"to be"]).tokens[0].tolist() == [1, 2, expected]


@pytest.mark.parametrize("name", ENDS)
def test_what_is_kept_of_it_says_the_same(tmp_path: Path, name: str) -> None:
    files, expected = ENDS[name]
    folder = model(tmp_path / "m", **files)
    (tmp_path / "kept").mkdir()
    for file, content in files_of(folder).items():
        assert file != "config.json", "that is the model's"
        (tmp_path / "kept" / file).write_bytes(content)
    kept, first = open_tokenizer(str(tmp_path / "kept")), open_tokenizer(str(folder))
    assert (kept.identity, kept.separator, kept.key) == (first.identity, expected, first.key)


def test_all_files_of_the_tokenizer_are_kept_as_they_are(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", tokenizer_config={"a": 1}, special_tokens_map={}, config={})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"weights")
    found = files_of(folder)
    mine = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert sorted(found) == sorted([*mine, "chat_template.jinja"])
    assert all(found[name] == (folder / name).read_bytes() for name in found)
    assert {*files_of(folder / "tokenizer.json")} == {"tokenizer.json"}


def test_a_separator_that_is_named_goes_before_all(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", tokenizer_config={"eos_token": "<|end|>"})
    assert open_tokenizer(str(folder), "not").separator == 4
    damaged = model(tmp_path / "d", tokenizer_config="{", config={"eos_token_id": -1})
    assert open_tokenizer(str(damaged), "not").separator == 4


def test_a_file_alone_is_what_it_was(tmp_path: Path) -> None:
    """Else caches of before would be others', though their tokens are these."""
    folder = model(tmp_path / "m", tokenizer_config={"eos_token": "</s>"})
    alone, whole = open_tokenizer(str(folder / "tokenizer.json")), open_tokenizer(str(folder))
    assert (alone.separator, alone.key, alone.identity) == (USUAL, "", whole.identity)
    assert whole.key == ""
    other = model(tmp_path / "o", tokenizer_config={"eos_token": "<|end|>"})
    assert open_tokenizer(str(other / "tokenizer.json")).separator == USUAL
    assert open_tokenizer(str(other)).key != ""


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer_config": {"eos_token": "<eos>"}}, "ends a text with '<eos>', and its tokeni"),
        ({"config": {"eos_token_id": 99}}, "ends a text with 99, and its tokenizer.json has no"),
        ({"tokenizer_config": "{"}, "tokenizer_config.json: not JSON"),
        ({"tokenizer_config": "[" * 100_000}, "tokenizer_config.json: not JSON"),
        ({"tokenizer_config": "[]"}, "tokenizer_config.json: not a JSON object"),
        ({"tokenizer_config": {"eos_token": 3}}, "eos_token is 3, expected text"),
        ({"tokenizer_config": {"eos_token": {"content": 3}}}, "expected text"),
        ({"generation_config": {"eos_token_id": "</s>"}}, "eos_token_id is '</s>', expected a tok"),
        ({"config": {"eos_token_id": -1}}, "eos_token_id is -1, expected a token's number"),
        ({"config": {"eos_token_id": True}}, "eos_token_id is True"),
        ({"config": {"eos_token_id": [None, 5]}}, ""),
    ],
)
def test_what_a_folder_says_wrong(tmp_path: Path, files: dict[str, Any], told: str) -> None:
    folder = model(tmp_path / "m", **files)
    if not told:
        assert open_tokenizer(str(folder)).separator == USUAL
        return
    with pytest.raises(BadInput) as refused:
        open_tokenizer(str(folder))
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("lies", "told"),
    [
        ([], "m: a folder without tokenizer.json, expected one; check the path"),
        (["model.safetensors"], "expected one; check the path"),
        (["tokenizer.model"], "only tokenizer.model, expected one; pip install transformers sente"),
        (["vocab.json", "merges.txt"], "only vocab.json, expected one; pip install transformers"),
    ],
)
def test_a_folder_without_a_tokenizer(tmp_path: Path, lies: list[str], told: str) -> None:
    (tmp_path / "m").mkdir()
    for name in lies:
        (tmp_path / "m" / name).write_bytes(b"\x0a\x0b")
    with pytest.raises(BadInput) as refused:
        open_tokenizer(str(tmp_path / "m"))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_the_command_that_makes_one_is_one(tmp_path: Path) -> None:
    """Pasted into a shell, with a name that has to be quoted there."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(BadInput) as refused:
        open_tokenizer(str(folder))
    words = shlex.split(str(refused.value).partition("makes it: ")[2])
    assert words[:2] == ["python", "-c"]
    compile(words[2], "command", "exec")
    assert f'"{folder}"' in words[2]


# --- by name -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's Hub cache, which has one model."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    repository, revision = tmp_path / "hub" / "models--org--small-1.5", "0" * 40
    model(repository / "snapshots" / revision, tokenizer_config={"eos_token": "<|end|>"})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    return repository


def test_a_name_in_the_cache(cache: Path) -> None:
    found = open_tokenizer("org/small-1.5")
    assert found.separator == 6 and found.identity.startswith("sha256:")
    assert {*files_of(find("org/small-1.5"))} == {"tokenizer.json", "tokenizer_config.json"}


def test_a_path_goes_before_a_name(cache: Path, tmp_path: Path) -> None:
    model(tmp_path / "org" / "small-1.5")
    assert open_tokenizer("org/small-1.5").separator == USUAL


def test_a_name_that_is_not_there_is_not_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr("socket.socket.connect", connected)
    with pytest.raises(BadInput, match=r"fetch it: hf download org/other token") as refused:
        open_tokenizer("org/other")
    assert "\n" not in str(refused.value)


def test_weights_alone_in_the_cache_are_told(cache: Path) -> None:
    (file,) = cache.glob("snapshots/*/tokenizer.json")
    file.unlink()
    with pytest.raises(BadInput, match=r"fetch it: hf download org/small-1.5 tokenizer.json"):
        open_tokenizer("org/small-1.5")


@pytest.mark.parametrize("name", ["texts/tokenizer.json", "./org/name", "a/b/c", "name", "/a/b"])
def test_what_is_written_like_a_path_is_one(cache: Path, name: str) -> None:
    assert find(name) == Path(name)
    with pytest.raises(BadInput, match="no such file, expected bytes or the path"):
        open_tokenizer(name)


def test_the_home_of_a_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    model(tmp_path / "models" / "m", tokenizer_config={"eos_token": "<|end|>"})
    assert open_tokenizer("~/models/m").separator == 6
