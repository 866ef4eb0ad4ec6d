"""Damaged files of every format that data are read from, two hundred each: what is opened is data,
or refused in one line that names the file."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput
from checkfree.core.text_counts import TextCounts
from checkfree.data import open_data, opening
from checkfree.data.tokenizers import VOCABULARY, open_tokenizer

DAMAGED = 200
"""Files of each format."""
CONTEXT = 8
ROWS = [f"row {number} has some text, é and ☃ <|endoftext|>" for number in range(60)]


def flipped(draw: random.Random, content: bytearray) -> None:
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def cut_off(draw: random.Random, content: bytearray) -> None:
    del content[draw.randrange(len(content)) :]


def longer(draw: random.Random, content: bytearray) -> None:
    at = draw.randrange(len(content) + 1)
    content[at:at] = draw.randbytes(draw.randint(1, 9))


def overwritten(draw: random.Random, content: bytearray) -> None:
    at, size = draw.randrange(len(content)), draw.randint(1, 16)
    content[at : at + size] = draw.randbytes(size)


def renumbered(draw: random.Random, content: bytearray) -> None:
    """A digit is another; where there is none, as flipped."""
    digits = [at for at, byte in enumerate(content) if chr(byte).isdigit()]
    if not digits:
        return flipped(draw, content)
    at = draw.choice(digits)
    content[at : at + 1] = draw.choice([b"0", b"7", b"99999999", b"-1", b"", b"2.5"])


def rewritten(draw: random.Random, content: bytearray) -> None:
    """As another program would have it: packed, in another encoding, with other line ends, …"""
    was = bytes(content)
    content[:] = draw.choice(
        [
            gzip.compress(was, mtime=0),
            bz2.compress(was),
            lzma.compress(was),
            was.decode("latin-1").encode(draw.choice(["utf-16", "utf-16-be", "utf-32-le"])),
            was.replace(b"\n", b"\r"),
            b"[" + was.replace(b"\n", b",\n") + b"]",
            was.replace(b"\n", b"\n" + codecs.BOM_UTF8, 3),
        ]
    )


def emptied(draw: random.Random, content: bytearray) -> None:
    content.clear()


WAYS = (flipped, flipped, cut_off, longer, overwritten, renumbered, rewritten)


def damaged(content: bytes, seed: int) -> bytes:
    """The content damaged in a way that only the seed decides; the first: emptied."""
    draw, found = random.Random(seed), bytearray(content)
    (draw.choice(WAYS) if seed else emptied)(draw, found)
    return bytes(found)


def outcomes(
    files: list[Path],
    opened: Callable[[], object],
    named: Callable[[Path], str] = str,
    exact: bool = False,
) -> Counter[str]:
    """How opening went, over all damages of these files: one at a time is damaged. ``exact``: such
    have checksums, so that what is opened at all is what it was."""
    whole, expected = {path: path.read_bytes() for path in files}, opened()
    found: Counter[str] = Counter()
    for seed in range(DAMAGED):
        path = files[seed % len(files)]
        path.write_bytes(damaged(whole[path], seed))
        try:
            given = opened()
            assert given == expected or not exact, seed
            found["data"] += 1
        except BadInput as error:
            message = str(error)
            assert named(path) in message and "\n" not in message, (seed, message)
            found["refused"] += 1
        path.write_bytes(whole[path])
    assert opened() == expected
    return found


def windows(config: DataConfig) -> object:
    """Open and read: what the records say, and a few windows, all tokens of which are tokens."""
    data = open_data(config, context=CONTEXT, batch=2, seed=0)
    read = []
    for microbatch in range(3):
        for side in (data.train, data.validation):
            tokens = side(0, microbatch)
            assert tokens.shape == (2, CONTEXT + 1)
            assert tokens.min() >= 0 and tokens.max() < data.vocabulary
            read.append(tokens.tolist())
    counts: Any = data.text()
    assert not counts or sum(data.split.documents or ()) == counts["read"]["documents"]
    return data.describe(), read


def jsonl_rows() -> bytes:
    return "".join(json.dumps({"text": row}) + "\n" for row in ROWS).encode()


def write_text(folder: Path) -> list[Path]:
    (folder / "a.txt").write_text("\n".join(ROWS))
    return [folder / "a.txt"]


def write_texts(folder: Path) -> list[Path]:
    for number in range(0, 60, 5):
        (folder / f"{number}.txt").write_text("\n".join(ROWS[number : number + 5]))
    return [folder / "5.txt", folder / "50.txt"]


def write_jsonl(folder: Path) -> list[Path]:
    (folder / "a.jsonl").write_bytes(jsonl_rows())
    return [folder / "a.jsonl"]


def write_gzip(folder: Path) -> list[Path]:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl_rows(), mtime=0))
    return [folder / "a.jsonl.gz"]


def write_parquet(folder: Path) -> list[Path]:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    files = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [*ROWS, None], "number": list(range(len(ROWS) + 1))})
    options: list[dict[str, Any]] = [
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy"},
        {"compression": "zstd", "write_page_checksum": True},
        {"compression": "gzip"},
    ]
    made = []
    for number, how in enumerate(options):
        made.append(folder / f"{number}.parquet")
        files.write_table(table, made[-1], row_group_size=20, **how)
    return made


FORMATS = {
    "text": (write_text, "text"),
    "texts": (write_texts, "text"),
    "jsonl": (write_jsonl, "jsonl"),
    "gzip": (write_gzip, "jsonl"),
    "parquet": (write_parquet, "parquet"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_text(tmp_path: Path, kind: str) -> None:
    write, name = FORMATS[kind]
    files = write(tmp_path)
    path = tmp_path if len(files) > 1 else files[0]
    config = DataConfig(name, str(path), cache=str(tmp_path), validation_share=0.2)
    found = outcomes(files, lambda: windows(config), exact=kind == "gzip")
    assert found["refused"] > DAMAGED / 20 and found["data"] > 0
    if kind in ("gzip", "parquet"):  # most of a damage shows
        assert found["refused"] > DAMAGED / 2


def write_tokenizers(folder: Path) -> list[Path]:
    library = pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
    models, trainers, split = library.models, library.trainers, library.pre_tokenizers
    how = {"special_tokens": ["[UNK]", "<|endoftext|>"], "show_progress": False}
    made = []
    for model, trainer, splitter in (
        (models.BPE(), trainers.BpeTrainer(vocab_size=120, **how), split.ByteLevel()),
        (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=60, unk_token="[UNK]", **how),
            split.Metaspace(),
        ),
        (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(**how), split.Whitespace()),
        (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=100, **how),
            split.BertPreTokenizer(),
        ),
    ):
        raw = library.Tokenizer(model)
        raw.pre_tokenizer, raw.normalizer = splitter, library.normalizers.NFKC()
        raw.train_from_iterator(ROWS, trainer)
        made.append(folder / f"{type(model).__name__}.json")
        made[-1].write_text(raw.to_str())
    return made


def test_damaged_tokenizers(tmp_path: Path) -> None:
    paths = write_tokenizers(tmp_path)
    texts = [row.encode() for row in ROWS[:9]]

    def opened() -> None:
        for path in paths:
            tokenizer = open_tokenizer(str(path))
            assert tokenizer.vocabulary <= VOCABULARY
            for tokens in tokenizer.encode(texts).tokens:
                assert not len(tokens) or tokens.max() < tokenizer.vocabulary

    found = outcomes(paths, opened)
    assert found["refused"] > DAMAGED / 4 and found["data"] > DAMAGED / 20


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataConfig]:
    """Data whose tokens are in a cache."""
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    (path,) = write_jsonl(tmp_path)
    config = DataConfig("jsonl", str(path), cache=str(tmp_path / "cache"), validation_share=0.3)
    windows(config)
    yield config


def test_damaged_caches(cached: DataConfig) -> None:
    (folder,) = Path(cached.cache).iterdir()
    files = sorted(path for path in folder.iterdir() if path.name != "lock")
    assert len(files) == 9
    # Sidecars that don't fit each other, or a window over the damaged token, may name the other.
    found = outcomes(files, lambda: windows(cached), lambda path: str(folder), exact=True)
    assert found["refused"] > DAMAGED / 4 and found["data"] > 0


def test_damaged_progress(cached: DataConfig, tmp_path: Path) -> None:
    (folder,) = Path(cached.cache).iterdir()
    whole = open_data(cached, context=CONTEXT, batch=2, seed=0)
    sides = {
        side: {"tokens": len(tokens), "documents": documents}
        for side, tokens, documents in zip(
            ("train", "validation"),
            (whole.split.train, whole.split.validation),
            whole.split.documents or (),
            strict=True,
        )
    }
    progress = {"documents": len(ROWS), "corpus_hash": whole.content_hash, **sides}
    progress["counts"] = TextCounts().plain()
    content = json.dumps(progress).encode()
    for seed in range(DAMAGED // 10):
        other = replace(cached, cache=str(tmp_path / f"damaged-{seed}"))
        half = Path(other.cache) / folder.name
        shutil.copytree(folder, half)
        (half / "progress.json").write_bytes(damaged(content, seed))
        again = open_data(other, context=CONTEXT, batch=2, seed=0)
        assert again.describe() == whole.describe()
        assert again.train(0, 0).equal(whole.train(0, 0))


def test_damaged_token_files(cached: DataConfig, tmp_path: Path) -> None:
    (folder,) = Path(cached.cache).iterdir()
    files = [folder / f"train.bin{suffix}" for suffix in ("", ".json", ".index")]
    config = DataConfig("bin", str(files[0]), validation_share=0.3)
    found = outcomes(files, lambda: windows(config), lambda path: str(files[0]))
    assert found["refused"] > DAMAGED / 4 and found["data"] > 0
