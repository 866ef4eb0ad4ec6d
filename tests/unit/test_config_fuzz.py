"""Any text for any key: a configuration, or one line that says what is wrong with it. No traceback,
nothing that the machine has not the memory for, and text stays text."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkfree.config.load import COMPARE, SHORT, build, flat, load, plain, texts
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.session.memory import check_fits
from checkfree.session.rehearsal import setting
from checkfree.session.terms import scheduler_of
from checkfree.study.options import Options, make_options

# Derandomized: the same examples each time, so that a change is judged by itself. Without that, and
# with another --hypothesis-seed, there are always others.
KEYS = sorted([*dict(flat(plain(Config()))), *SHORT, *(f"recovery.{name}" for name in ("by", "x"))])

NUMBERS = ("0", "-1", "1", "1e3", "1e400", "nan", "inf", "-inf", "1_0", "0x10", "012", ".5", "1e-9")
NUMBERS += ("9" * 30, "1000000000000", "2147483648", "3.0", "1:30", "½", "１")
WORDS = (
    "",
    " ",
    "~",
    "null",
    "none",
    "true",
    "yes",
    "[]",
    "{}",
    "[1,2]",
    "{a: 1}",
    "a: b",
    "- a",
    "&a",
)
WORDS += (
    "*a",
    "!!python/object:os.system",
    "${oc.env:HOME}",
    "${x}",
    "${",
    "'",
    '"',
    "a#b",
    "a #b",
)
WORDS += ("checkfree(", "checkfree()", "checkpoint(interval=0)", "(", ")", "a,b", "=", "==", "a=b")
WORDS += (
    "\n",
    "a\nb",
    "\t",
    "\x00",
    "\ud800",
    "🦙",
    "../..",
    "/",
    "/dev/null",
    "os:system",
    "a:b:c",
)
WORDS += (
    "-",
    "--",
    "%",
    "{name}",
    "cuda",
    "cuda:0",
    "cuda:99",
    "paper/500m",
    "hf:",
    "hf:a/b",
    "a" * 5000,
)
ANY = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.text(max_size=20),
    st.text(st.sampled_from("[]{}(),:=-.0123456789ae #'\"$&*!|>%@`~\\"), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


def checked(config: Config) -> None:
    """What is looked at before a run reads its data."""
    scheduler_of(config)
    check_fits(config)
    if config.iterations <= 1000:  # what follows takes its time for long ones
        setting(config)


def one_line(error: BadInput) -> None:
    told = str(error)
    assert told and "\n" not in told and len(told) < 1000, told


@given(st.sampled_from(KEYS), ANY)
@settings(max_examples=1500, deadline=None, derandomize=True)
@example("recovery.options", "1")
@example("recovery", "checkpoint(interval=1e400)")
@example("init", "@1")
@example("fleet.profile", "~0")
@example("failures", "~0/x.json")
@example("data.tokenizer", "~0/x.json")
@example("stages", "9" * 30)
def test_a_word(key: str, text: str) -> None:
    try:
        config = load(None, [f"{key}={text}"])
        checked(config)
    except BadInput as error:
        return one_line(error)
    if key in texts() and text[:1] not in ("'", '"', "~") and text != "null" and key != "out":
        assert dict(flat(plain(config)))[key] == text


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=3),
    ),
    max_leaves=5,
)


@given(st.sampled_from([*KEYS, *(key.partition(".")[0] for key in KEYS)]), PLAIN)
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_a_value_of_a_mapping(key: str, value: Any) -> None:
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    try:
        checked(build(tree))
    except BadInput as error:
        one_line(error)


@given(st.sampled_from([f.name for f in Options.__dataclass_fields__.values()]), PLAIN)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_value_of_a_comparison(key: str, value: Any) -> None:
    try:
        make_options({key: value}, {})
    except BadInput as error:
        one_line(error)


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
@settings(max_examples=300, deadline=None, derandomize=True)
@example(b"- 1\n")
@example(b"a: &a [*a]\n")
@example(b"? {}\n: 1\n")
@example(b"1: 2\n")
@example(b"recovery: {1: 2}\n")
@example(f"{COMPARE}: [1]\n".encode())
def test_a_file_of_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(content)
    try:
        checked(load(path))
    except BadInput as error:
        one_line(error)
    finally:
        path.unlink()
        path.parent.rmdir()


def _damaged(rng: random.Random, text: str) -> str:
    """With some letters gone, doubled or others."""
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters))
        letters[place : place + rng.randint(0, 2)] = rng.choices(
            string.printable, k=rng.randint(0, 2)
        )
    return "".join(letters)


@pytest.mark.parametrize("chunk", range(4))
def test_a_whole_file_with_some_letters_changed(tmp_path: Path, chunk: int) -> None:
    whole, rng = yaml.safe_dump(plain(Config())), random.Random(chunk)
    file = tmp_path / "run.yaml"
    for _ in range(60):
        file.write_text(_damaged(rng, whole), encoding="utf-8")
        try:
            checked(load(file))
        except BadInput as error:
            one_line(error)
