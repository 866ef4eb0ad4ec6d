import json

import numpy as np
import pytest

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput
from checkfree.data import open_data
from checkfree.data.tokens import index_path, sidecar_path


def write_bin(path, count=1000, width=2, ends=None, **sidecar):
    (np.arange(count) % 500).astype(f"<u{width}").tofile(path)
    fields = {"dtype": f"uint{8 * width}", "vocabulary": 500, "tokens": count} | sidecar
    sidecar_path(path).write_text(json.dumps(fields))
    if ends is not None:
        np.array(ends, "<u8").tofile(index_path(path))
    return path


def open_bin(path, share=0.1, context=8, **config):
    config = DataConfig("bin", str(path), validation_share=share, **config)
    return open_data(config, context=context, batch=2, seed=0)


def refusal(path, **config):
    with pytest.raises(BadInput) as caught:
        open_bin(path, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("width", [2, 4])
def test_the_tail_is_validation(tmp_path, width):
    data = open_bin(write_bin(tmp_path / "x.bin", width=width))
    assert (data.train_tokens, data.validation_tokens, data.vocabulary) == (900, 100, 500)
    assert data.split.train[-1] + 1 == data.split.validation[0] == 400
    assert data.describe()["documents"] is None


def test_with_an_index_the_cut_is_at_the_end_of_a_document(tmp_path):
    data = open_bin(write_bin(tmp_path / "x.bin", ends=[300, 850, 930, 1000]))
    assert (data.train_tokens, data.validation_tokens) == (930, 70)
    assert data.describe()["documents"] == [3, 1]


def test_the_last_document_stays_whole_however_long(tmp_path):
    data = open_bin(write_bin(tmp_path / "x.bin", ends=[300, 500, 1000]))
    assert (data.train_tokens, data.validation_tokens) == (500, 500)


def test_the_hash_is_that_of_the_sidecar_else_of_the_tokens(tmp_path):
    a, b = write_bin(tmp_path / "a.bin"), write_bin(tmp_path / "b.bin")
    assert open_bin(a).content_hash == open_bin(b).content_hash
    assert open_bin(a).content_hash != open_bin(write_bin(tmp_path / "c.bin", 1001)).content_hash
    write_bin(a, content_hash="abc", tokenizer="mine", separator=7)
    said = open_bin(a).describe()
    assert (said["content_hash"], said["tokenizer"], said["separator"]) == ("abc", "mine", 7)


@pytest.mark.parametrize(
    ("size", "state"), [(1999, "truncated"), (0, "truncated"), (2001, "longer")]
)
def test_a_file_of_another_size_is_refused(tmp_path, size, state):
    path = write_bin(tmp_path / "x.bin")
    content = path.read_bytes()
    path.write_bytes((content + b"\0")[:size])
    message = refusal(path)
    assert state in message and f"got {size} bytes, expected 2000" in message


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("dtype", 16, "dtype is 16, expected str"),
        ("dtype", "float32", "dtype is 'float32', expected one of uint8, uint16, uint32"),
        ("vocabulary", 0, "expected vocabulary in"),
        ("vocabulary", "500", "vocabulary is '500', expected int"),
        ("tokens", -1, "no negative count"),
        ("tokens", True, "tokens is True, expected int"),
        ("tokens", 10**18, "truncated"),
        ("content_hash", 3, "content_hash is 3, expected str"),
        ("tokenizer", None, "tokenizer is None, expected str"),
    ],
)
def test_a_bad_field_of_the_sidecar_is_refused(tmp_path, field, value, complaint):
    assert complaint in refusal(write_bin(tmp_path / "x.bin", **{field: value}))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "x.bin.json: no such file, expected a sidecar like"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"dtype": "uint16"}', "vocabulary is missing"),
        (" " * 2**21, "over 1 MiB"),
    ],
)
def test_a_bad_sidecar_is_refused(tmp_path, content, complaint):
    path = write_bin(tmp_path / "x.bin")
    sidecar_path(path).unlink()
    if content is not None:
        sidecar_path(path).write_text(content)
    assert complaint in refusal(path)


@pytest.mark.parametrize("ends", [[500, 999], [600, 500, 1000], []])
def test_an_index_that_does_not_fit_is_refused(tmp_path, ends):
    assert "not where the documents end" in refusal(write_bin(tmp_path / "x.bin", ends=ends))


def test_half_an_index_entry_is_refused(tmp_path):
    path = write_bin(tmp_path / "x.bin", ends=[1000])
    index_path(path).write_bytes(index_path(path).read_bytes() + b"123")
    assert "x.bin.index: longer" in refusal(path)


def test_a_token_beyond_the_vocabulary_is_refused_when_met(tmp_path):
    data = open_bin(write_bin(tmp_path / "x.bin", vocabulary=100))
    with pytest.raises(BadInput, match="expected tokens below the vocabulary of 100"):
        data.validation(0, 0)


def test_a_bin_that_is_not_there_is_refused(tmp_path):
    assert "x.bin: no such file" in refusal(tmp_path / "x.bin")
    with pytest.raises(BadInput, match=r"data\.path is not set"):
        open_data(DataConfig("bin"), context=8, batch=2, seed=0)
