"""What becomes no token: by a character alone, and by patterns that take more than one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.text_counts import Amount
from checkfree.data import dropped
from checkfree.data.tokenizers import open_tokenizer

library = pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
N, P = library.normalizers, library.pre_tokenizers

CORPUS = [
    "the quick brown fox jumps over the lazy dog afoxb é e\u0301 ü \u0301 ☃ 0123456789 中文",
    "É\u200b ``quoted'' <think> red fox jackdaws love my big sphinx of quartz",
]
KINDS = ["byte-level", "bpe", "bpe with unknown", "unigram", "wordpiece", "wordlevel"]


def trained(
    folder: Path, kind: str, *, normalizer: Any = None, splitter: Any = None, added: Any = ()
) -> Any:
    """A tokenizer of that kind that knows all of the corpus; normalizer and pre-tokenizer, white
    space if not another, are put in after."""
    models, trainers = library.models, library.trainers
    how = {"special_tokens": ["[UNK]", "<|endoftext|>"], "show_progress": False}
    letters = {"initial_alphabet": P.ByteLevel.alphabet()}
    model, trainer = {
        "byte-level": (models.BPE(), trainers.BpeTrainer(vocab_size=600, **letters, **how)),
        "bpe": (models.BPE(), trainers.BpeTrainer(vocab_size=300, **how)),
        "bpe with unknown": (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer(**how)),
        "unigram": (models.Unigram(), trainers.UnigramTrainer(unk_token="[UNK]", **how)),
        "wordpiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(**how)),
        "wordlevel": (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(**how)),
    }[kind]
    raw = library.Tokenizer(model)
    splitter = splitter or P.WhitespaceSplit()
    if kind == "byte-level":
        splitter = P.Sequence([splitter, P.ByteLevel(add_prefix_space=False)])
    raw.pre_tokenizer = splitter
    raw.train_from_iterator(CORPUS, trainer)
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.add_tokens(list(added))
    path = folder / "tokenizer.json"
    path.write_text(raw.to_str())
    return open_tokenizer(str(path))


def bytes_dropped(tokenizer: Any, texts: list[str]) -> int:
    changed = tokenizer.encode([text.encode() for text in texts]).counts.changed
    amount: Amount = changed.get("dropped", Amount())
    return amount.bytes


FOXES = ["a fox b", "afoxb fox", "brown"]
ACCENTS = ["é e\u0301 the"]

CASES: dict[str, tuple[list[str], int, Callable[[], dict[str, Any]]]] = {
    # what is dropped of which texts, in bytes, by what
    "a word, replaced by nothing": (FOXES, 9, lambda: {"normalizer": N.Replace("fox", "")}),
    "the same within sequences": (
        FOXES,
        9,
        lambda: {
            "normalizer": N.Sequence([N.Lowercase(), N.Sequence([N.Strip(), N.Replace("fox", "")])])
        },
    ),
    "a word, split off and removed": (
        FOXES,
        9,
        lambda: {"splitter": P.Sequence([P.WhitespaceSplit(), P.Split("fox", "removed")])},
    ),
    "two words": (["a red fox b"], 6, lambda: {"normalizer": N.Replace(" red fox", "")}),
    "two words, split off": (
        ["a red fox b"],
        6,
        lambda: {"splitter": P.Sequence([P.Split("red fox", "removed"), P.WhitespaceSplit()])},
    ),
    "an expression": (
        ["the 12 34567 fox"],
        3,
        lambda: {"normalizer": N.Replace(library.Regex(r"\d{3}"), "")},
    ),
    "what is not matched": (
        ["the fox 12 é"],
        4,
        lambda: {
            "splitter": P.Split(library.Regex(r"[a-z ]+"), behavior="removed", invert=True),
        },
    ),
    "a word but not the token that has it": (
        ["the <fox> fox"],
        3,
        lambda: {
            "normalizer": N.Replace("fox", ""),
            "added": [library.AddedToken("<fox>", normalized=False)],
        },
    ),
    "accents": (ACCENTS, 3, lambda: {"normalizer": N.Sequence([N.NFD(), N.StripAccents()])}),
    "what BERT strips": (["the É fox\u200b 中文"], 4, lambda: {"normalizer": N.BertNormalizer()}),
    # nothing is dropped
    "nothing": (["the fox é", "", " \n"], 0, dict),
    "accents that are part of a letter by then": (
        ACCENTS,
        0,
        lambda: {"normalizer": N.Sequence([N.NFC(), N.StripAccents()])},
    ),
    "what is composed": (ACCENTS, 0, lambda: {"normalizer": N.NFC()}),
    "what is replaced": (FOXES, 0, lambda: {"normalizer": N.Replace("fox", "dog")}),
    "what is replaced by less": (FOXES, 0, lambda: {"normalizer": N.Replace("fox", "f")}),
    "white space": (
        ["  the  fox\n\n\u3000"],
        0,
        lambda: {
            "normalizer": N.Sequence([N.Strip(), N.Replace(library.Regex(r"\s+"), " ")]),
        },
    ),
    "what becomes a space": (
        ["the\ufefffox \ufeff"],
        0,
        lambda: {"normalizer": N.Sequence([N.Nmt(), N.Replace("zz", "")])},
    ),
    "a space that is put before": (
        ["fox the"],
        0,
        lambda: {"splitter": P.Metaspace(), "normalizer": N.Replace("zz", "")},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_what_is_dropped_is_counted(tmp_path: Path, case: str, kind: str) -> None:
    texts, expected, parts = CASES[case]
    assert bytes_dropped(trained(tmp_path, kind, **parts()), texts) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_words_beside_what_is_dropped(tmp_path: Path, kind: str) -> None:
    tokenizer = trained(tmp_path, kind, normalizer=N.Replace("fox", ""))
    knows_none = {"byte-level": {"dropped": Amount(1, 3)}, "bpe": {"dropped": Amount(1, 9)}}
    both = {"unknown": Amount(1, 6), "dropped": Amount(1, 3)}
    found = tokenizer.encode(["the ♞♞ fox".encode()]).counts.changed
    assert found == knows_none.get(kind, both)


def test_only_texts_that_a_pattern_touches_are_gone_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    closely = dropped.Dropped._count_closely
    monkeypatch.setattr(
        dropped.Dropped,
        "_count_closely",
        lambda self, text: seen.append(text) or closely(self, text),
    )
    tokenizer = trained(tmp_path, "byte-level", normalizer=N.Replace("fox", ""))
    assert bytes_dropped(tokenizer, ["the quick", "a fox b", "é ☃ brown"]) == 3
    assert seen == ["a fox b"]


@pytest.mark.parametrize("word", ["fox ", "fox"])
def test_a_long_text_is_gone_through_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    tokenizer = trained(tmp_path, "byte-level", normalizer=N.Replace("fox", ""))
    monkeypatch.setattr(dropped, "CLOSELY", 90)
    assert bytes_dropped(tokenizer, [word * 100]) == 300
