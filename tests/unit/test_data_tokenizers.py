import json
import sys

import numpy as np
import pytest

from checkfree.core.errors import BadInput
from checkfree.data.tokenizers import open_tokenizer

WORDS = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}


def tokenizer_json(vocabulary, **fields):
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    return json.dumps({"version": "1.0", "model": model, **fields})


def write(path, vocabulary, **fields):
    pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")
    whitespace = {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}
    path.write_text(tokenizer_json(vocabulary, **(whitespace | fields)))
    return open_tokenizer(str(path))


def test_bytes_are_their_own_tokens_and_zero_separates():
    tokenizer = open_tokenizer("bytes")
    (tokens,) = tokenizer.encode(["hé".encode()])
    assert tokens.tolist() == [*"hé".encode(), 0]
    assert tokens.dtype == tokenizer.dtype == "uint8"
    assert (tokenizer.vocabulary, tokenizer.separator, tokenizer.identity) == (256, 0, "bytes")


def test_a_tokenizer_file_encodes_without_separator_if_it_has_none(tmp_path):
    tokenizer = write(tmp_path / "t.json", WORDS)
    encoded = tokenizer.encode([b"to be or not to be", b"to see"])
    assert [tokens.tolist() for tokens in encoded] == [[1, 2, 3, 4, 1, 2], [1, 0]]
    assert (tokenizer.vocabulary, tokenizer.separator) == (5, None)


def test_a_known_end_of_text_token_separates(tmp_path):
    tokenizer = write(tmp_path / "t.json", {**WORDS, "<|endoftext|>": 5})
    assert tokenizer.encode([b"to be"])[0].tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("last", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_tokens_take_the_smallest_type_that_holds_the_vocabulary(tmp_path, last, dtype):
    tokenizer = write(tmp_path / "t.json", {**WORDS, "last": last})
    (tokens,) = tokenizer.encode([b"last"])
    assert tokens.tolist() == [last] and tokens.dtype == np.dtype(dtype) == tokenizer.dtype
    assert tokenizer.vocabulary == last + 1


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    tokenizer = write(tmp_path / "t.json", WORDS, truncation=cut, padding=pad)
    assert tokenizer.encode([b"to be or"])[0].tolist() == [1, 2, 3]


def test_the_identity_is_that_of_the_file(tmp_path):
    first, same = write(tmp_path / "a.json", WORDS), write(tmp_path / "b.json", WORDS)
    other = write(tmp_path / "c.json", {**WORDS, "more": 5})
    assert first.identity == same.identity != other.identity


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        ("not json", "not a tokenizer"),
        ('{"model": 1}', "not a tokenizer"),
        (tokenizer_json({}), "its vocabulary is empty"),
    ],
)
def test_a_bad_tokenizer_file_is_refused(tmp_path, content, complaint):
    pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=complaint) as caught:
        open_tokenizer(str(path))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadInput, match=r"run: pip install 'checkfree\[data\]'"):
        open_tokenizer(str(tmp_path / "t.json"))
