"""From a configuration to data: corpus, tokenizer and split, in memory or through the cache."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput, at_least
from checkfree.core.text_counts import TextCounts, render_counts
from checkfree.data import corpora, stream, tables
from checkfree.data.batches import Data
from checkfree.data.cache import cache_folder, cached_split, memory_split
from checkfree.data.documents import Corpus, Document, Placed, Skipped, mend_for, place
from checkfree.data.reading import local_path
from checkfree.data.tokenizers import BYTES, tokenizer_of
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
    _check_room(config, split, context)
    source = f"Python {platform.python_version()}" if config.name == "stdlib" else None
    return Data(config.name, split, context, batch, seed, source)


def _open_bin(config: DataConfig) -> Split:
    if not config.path:
        raise BadInput("data.path is not set, expected a .bin of tokens for data.name bin")
    path = local_path("data.path", config.path)
    return split_tail(open_tokens(path), path, config.validation_share)


def _open_text(config: DataConfig, loader: stream.Loader | None) -> Split:
    corpus = _corpus(config, loader)
    tokenizer = tokenizer_of(config)

    def read(counts: TextCounts) -> Iterator[Placed]:
        placed = place(_checked(corpus.read(), config.name), config.validation_share, counts)
        return itertools.islice(placed, config.documents)

    if corpus.size is not None and corpus.size <= MEMORY_BYTES and config.tokenizer == BYTES:
        return memory_split(read, tokenizer)
    key = [corpus.identity, tokenizer.identity, config.validation_share, config.documents]
    key += [tokenizer.key] if tokenizer.key else []
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
        made = config.code(config)
        if not isinstance(made, Corpus):
            raise BadInput(f"data.name {config.name}: gave {_a(made)}, expected a Corpus")
        return made
    if packages([config.name]):
        raise not_permitted("data.name", config.name, NAMES)
    raise BadInput(f"data.name {config.name!r} is unknown, expected {', '.join(NAMES)}")


def _checked(given: Iterator[Document | Skipped], name: str) -> Iterator[Document | Skipped]:
    """What a corpus from outside gives is looked at."""
    for item in given:
        if not isinstance(item, (Document, Skipped)):
            raise BadInput(f"data.name {name}: gave {_a(item)}, expected a Document")
        if isinstance(item, Document) and not isinstance(item.text, bytes):
            raise BadInput(
                f"data.name {name}: a Document of {_a(item.text)}, expected bytes of UTF-8 text"
            )
        yield item


def _a(value: object) -> str:
    return f"a {type(value).__name__}"


def _check_room(config: DataConfig, split: Split, context: int) -> None:
    of = "" if split.documents is None else f" (of {sum(split.documents)} documents)"
    where = "" if config.path is None else f"data.path {config.path}: "
    counts = split.counts
    if counts is not None and not counts.read.documents:
        raise BadInput(
            f"{where}no document to train on, expected text; {mend_for(counts, 'give some')}"
        )
    told = render_counts(counts) if counts is not None else ""
    mends = {
        "training": (split.train, "lower data.validation_share"),
        "validation": (split.validation, "raise data.validation_share"),
    }
    for side, (tokens, mend) in mends.items():
        if len(tokens) <= context:
            raise BadInput(
                f"{where}the {side} text{of} has {len(tokens)} tokens, expected at least "
                f"{context + 1} (model.context + 1); give more documents, {mend} or lower "
                f"model.context{f' ({told})' if told else ''}"
            )
