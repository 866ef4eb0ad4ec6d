"""From a configuration to data: corpus, tokenizer and split, in memory or through the cache."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator
from pathlib import Path

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput, at_least
from checkfree.data import corpora, stream, tables
from checkfree.data.batches import Data
from checkfree.data.cache import cache_folder, cached_split, memory_split
from checkfree.data.documents import Corpus, Placed, place
from checkfree.data.tokenizers import open_tokenizer
from checkfree.data.tokens import Split, open_tokens, split_tail
from checkfree.plugins import not_permitted, packages

MEMORY_BYTES = 64 * 2**20
"""Up to here, bytes are kept in memory rather than in the cache."""

NAMES = ("stdlib", "text", "jsonl", "parquet", "bin", *stream.PRESETS, "hf:OWNER/NAME")


def open_data(
    config: DataConfig,
    *,
    context: int,
    batch: int,
    seed: int,
    loader: stream.Loader | None = None,
) -> Data:
    """The data of a run. Small local text as bytes stays in memory; all else is tokenized once.

    ``context``: tokens per sequence. ``batch``: sequences per microbatch. ``loader`` opens Hugging
    Face data sets, by default through ``datasets``. Raises BadInput for anything wrong with the
    configuration or the text, also where a side has no room for one window of ``context + 1``
    tokens; RunFailed if a stream breaks off or the cache cannot be written.
    """
    at_least("model.context", context, 1)
    at_least("batch", batch, 1)
    split = _open_bin(config) if config.name == "bin" else _open_text(config, loader)
    _check_room(split, context)
    source = f"Python {platform.python_version()}" if config.name == "stdlib" else None
    return Data(config.name, split, context, batch, seed, source)


def _open_bin(config: DataConfig) -> Split:
    if not config.path:
        raise BadInput("data.path is not set, expected a .bin of tokens for data.name bin")
    if config.documents is not None:
        raise BadInput(
            "data.documents is set, expected null for data.name bin; cut the file instead"
        )
    path = Path(config.path).expanduser()
    return split_tail(open_tokens(path), path, config.validation_share)


def _open_text(config: DataConfig, loader: stream.Loader | None) -> Split:
    corpus = _corpus(config, loader)
    tokenizer = open_tokenizer(config.tokenizer)

    def read() -> Iterator[Placed]:
        placed = place(corpus.read(), config.validation_share)
        return itertools.islice(placed, config.documents)

    if corpus.size is not None and corpus.size <= MEMORY_BYTES and config.tokenizer == "bytes":
        return memory_split(read(), tokenizer)
    key = (corpus.identity, tokenizer.identity, config.validation_share, config.documents)
    return cached_split(cache_folder(config.cache, config.name, *key), read, tokenizer)


def _corpus(config: DataConfig, loader: stream.Loader | None) -> Corpus:
    if stream.is_stream(config.name):
        return stream.hugging_face(config.name, config.text_field, loader)
    if config.name == "stdlib":
        return corpora.stdlib()
    if config.name == "text":
        return corpora.text(config.path, config.validation_share)
    if config.name == "jsonl":
        return tables.jsonl(config.path, config.text_field)
    if config.name == "parquet":
        return tables.parquet(config.path, config.text_field)
    if config.code is not None:
        made: Corpus = config.code(config)
        return made
    if packages([config.name]):
        raise not_permitted("data.name", config.name, NAMES)
    raise BadInput(f"data.name {config.name!r} is unknown, expected {', '.join(NAMES)}")


def _check_room(split: Split, context: int) -> None:
    of = "" if split.documents is None else f" (of {sum(split.documents)} documents)"
    mends = {
        "training": (split.train, "lower data.validation_share"),
        "validation": (split.validation, "raise data.validation_share"),
    }
    for side, (tokens, mend) in mends.items():
        if len(tokens) <= context:
            raise BadInput(
                f"the {side} text{of} has {len(tokens)} tokens, expected at least {context + 1} "
                f"(model.context + 1); give more documents, {mend} or lower model.context"
            )
