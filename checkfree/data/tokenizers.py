"""Text to tokens: bytes, or any Hugging Face ``tokenizer.json``, by itself or in a model's folder.

A separator ends every document. For bytes it is 0, a byte that text hardly uses, so the vocabulary
stays 256. Of a ``tokenizer.json`` it is the token that is asked for, else the one that the folder's
configuration ends a text with, else the one that the file itself puts after a text, else the first
usual name of an end-of-text token that it has; without any, documents run together.

Text is text: what is written like a special token, ``<|endoftext|>``, is tokenized like any other
text, and counted. So is what a tokenizer has no token for.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput
from checkfree.core.text_counts import DROPPED, UNKNOWN, TextCounts
from checkfree.data.dropped import Dropped, Span
from checkfree.data.reading import existing_file, one_line, optional, reading
from checkfree.data.recognise import recognise
from checkfree.data.tokenizer_folder import (
    FILE_BYTES,
    TOKENIZER,
    end_of_text,
    file_in,
    find,
    identity_of,
    is_folder,
)

Tokens = npt.NDArray[np.unsignedinteger[Any]]

FIRST_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
"""Those that were known when caches did not yet name the separator."""
SEPARATORS = (
    *FIRST_SEPARATORS,
    *("<|eot_id|>", "<|eot|>", "<|eos|>", "<|eod|>", "<|end|>", "<|end_of_turn|>", "<|EOS|>"),
    *("<|end_of_document|>", "<|endofdocument|>", "<｜end▁of▁sentence｜>", "<|end_of_sentence|>"),
    *("<EOS>", "<eot>", "<EOT>", "<eod>", "<EOD>", "<EOS_TOKEN>", "<|EOS_TOKEN|>", "<end_of_text>"),
    *("<end_of_turn>", "<end>", "[EOS]", "[EOT]", "[EOD]", "[END]", "<sep>", "<SEP>", "<|sep|>"),
)
"""Usual names of a token that ends a text, the likeliest first."""

BYTES = "bytes"
VOCABULARY = 2**18
"""Above it, a vocabulary with more holes than tokens is no vocabulary but a damaged number."""
_HIDDEN = "\ufdd0{}\ufdd1"  # noncharacters, which no text holds


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens: an array for each, its separator included, and what became of the text."""

    tokens: list[Tokens]
    counts: TextCounts


@dataclass(frozen=True)
class Tokenizer:
    """How documents become tokens."""

    identity: str
    """``bytes``, or ``sha256:`` and the hash of the tokenizer file."""
    vocabulary: int
    """Every token is below it."""
    separator: int | None
    """The token after each document; None: there is none."""
    encode: Callable[[Sequence[bytes]], Encoded]
    """UTF-8 texts to tokens of ``dtype``. Raises BadInput for what can't be encoded."""
    key: str = ""
    """What tokens in a cache depend on beside the identity; "" if older caches hold the same."""

    @property
    def dtype(self) -> str:
        """The smallest of uint8, uint16 and uint32 that holds the vocabulary."""
        return _smallest_dtype(self.vocabulary)


def _smallest_dtype(vocabulary: int) -> str:
    return "uint8" if vocabulary <= 2**8 else "uint16" if vocabulary <= 2**16 else "uint32"


def tokenizer_of(data: DataConfig) -> Tokenizer:
    """The one that is configured; of a run that goes on its own copy. Raises BadInput."""
    return open_tokenizer(data.kept or data.tokenizer, data.separator)


def open_tokenizer(name: str, separator: str | None = None) -> Tokenizer:
    """``bytes``, the path of a ``tokenizer.json`` or of a folder with one, or a model's name in the
    Hub cache; ``separator``: the token between documents, if not the usual one.

    Raises BadInput if there is no such file, it is none or has no such token, or the package
    tokenizers is missing.
    """
    if name != BYTES:
        path, where = find(name), f"data.tokenizer {name}"
        if not is_folder(path):
            return _from_file(path, where, separator)
        return _from_file(file_in(path, where), where, separator, path)
    if separator is not None:
        raise BadInput(
            f"data.separator {separator!r}: bytes have no such token, their separator is the byte "
            "0; leave it out, or name a tokenizer.json that has it"
        )
    return Tokenizer(BYTES, 256, 0, _encode_bytes)


def _encode_bytes(texts: Sequence[bytes]) -> Encoded:
    zeros = sum(text.count(b"\0") for text in texts)
    tokens: list[Tokens] = [np.frombuffer(text + b"\0", np.uint8) for text in texts]
    return Encoded(tokens, TextCounts(separators=zeros))


def _from_file(path: Path, where: str, named: str | None, folder: Path | None = None) -> Tokenizer:
    """``folder``: the one that it is taken from, with the rest of its model, if it is."""
    found = existing_file(path, where, "bytes or the path of a tokenizer.json")
    if found.st_size > FILE_BYTES:
        raise BadInput(f"{where}: {found.st_size} bytes, expected a tokenizer.json; check the path")
    library = optional("tokenizers", "a tokenizer.json")
    with reading(path):
        content = path.read_bytes()
    other = recognise(content)
    if other is not None:
        raise BadInput(f"{where}: {other.what}, expected a tokenizer.json; {other.mend}")
    model, tree = _parse(library, content.removeprefix(codecs.BOM_UTF8), where)
    ids: dict[str, int] = model.get_vocab(with_added_tokens=True)
    if not ids:
        raise BadInput(f"{where}: its vocabulary is empty; take a trained tokenizer")
    vocabulary = max(ids.values()) + 1
    if vocabulary > max(VOCABULARY, 2 * len(ids)):
        raise BadInput(
            f"{where}: its largest token is {vocabulary - 1} and it has {len(ids)} tokens, "
            "expected most numbers in use; get the file again"
        )
    added = model.get_added_tokens_decoder().values()
    special = [token.content for token in added if token.special]
    if named is None and folder is not None:
        named = _configured(folder, where, ids)
    separator = _separator(where, tree, ids, special, named)
    unknown = _unknown(tree["model"], ids)
    reserved = special
    if separator in {*SEPARATORS, *(token.content for token in added)} - {*special}:
        reserved = [*special, separator]  # any other is a word that texts may need
    leaks = _leaks(model, ids, [name for name in reserved if ids[name] != unknown])
    if leaks:
        model, _ = _parse(library, json.dumps(_without(tree, leaks)).encode(), where)
    encoder = _Encoder(
        where,
        model,
        Dropped(library, model, tree, ids),
        dtype=np.dtype(_smallest_dtype(vocabulary)),
        separator=None if separator is None else ids[separator],
        unknown=unknown,
        spellings=_patterns(reserved),
    )
    before = next((name for name in FIRST_SEPARATORS if name in ids), None)
    random = tree["model"].get("dropout")
    as_before = separator == before and not (special or leaks or random)
    return Tokenizer(
        identity=identity_of(content),
        vocabulary=vocabulary,
        separator=encoder.separator,
        encode=encoder,
        key="" if as_before else f"text is text, separator {encoder.separator}",
    )


def _parse(library: Any, content: bytes, where: str) -> tuple[Any, Mapping[str, Any]]:
    expected = "expected the tokenizer.json of the Hugging Face tokenizers library"
    with _native(f"{where}: not a tokenizer", expected):
        model = library.Tokenizer.from_buffer(content)
        tree: Mapping[str, Any] = json.loads(content)
        # Files of fine-tuned models cut at a length and pad to it; some of training are random.
        model.no_truncation()
        model.no_padding()
        if getattr(model.model, "dropout", None):
            model.model.dropout = None
        model.encode_special_tokens = True
    return model, tree


@contextmanager
def _native(what: str, expected: str) -> Iterator[None]:
    """Raise BadInput for whatever the library raises."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise BadInput(f"{what} ({one_line(error)}), {expected}") from error


def _configured(folder: Path, where: str, ids: Mapping[str, int]) -> str | None:
    """The token that a model's folder ends a text with. Raises BadInput if its tokenizer has no
    such token."""
    said = end_of_text(folder)
    if isinstance(said, int):
        name = next((name for name, number in ids.items() if number == said), None)
    else:
        name = said if said in ids else None
    if said is not None and name is None:
        raise BadInput(
            f"{where}: its configuration ends a text with {said!r}, and its {TOKENIZER} has no "
            "such token; name one that it has with data.separator"
        )
    return name


def _separator(
    where: str,
    tree: Mapping[str, Any],
    ids: Mapping[str, int],
    special: Collection[str],
    named: str | None,
) -> str | None:
    """The token that is asked for, else that of the file, else a usual one, special ones first."""
    if named is not None:
        if named in ids:
            return named
        has = ", ".join([*special][:8]) or "no special ones"
        raise BadInput(
            f"data.separator {named!r}: {where} has no such token, it has {has}; name one of its "
            "tokens, or leave it out"
        )
    said = _put_after_text(tree.get("post_processor"))
    if said in ids:
        return said
    usual = (name for pool in (special, ids) for name in SEPARATORS if name in pool)
    return next(usual, None)


def _put_after_text(processor: Any) -> str | None:
    """The token that a file's post-processor puts behind a single text, if it does."""
    match processor:
        case {"type": "Sequence", "processors": [*several]}:
            found = [_put_after_text(one) for one in several]
            return next((name for name in found if name is not None), None)
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": [str(name), _]}:
            return name
        case {"type": "TemplateProcessing", "single": [*pieces]}:
            kinds = [next(iter(piece)) for piece in pieces]
            after = pieces[kinds.index("Sequence") + 1 :] if "Sequence" in kinds else []
            return after[0].get("SpecialToken", {}).get("id") if after else None
    return None


def _unknown(model: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
    """The token that stands for what a model has no token for."""
    name, number = model.get("unk_token"), model.get("unk_id")
    return ids.get(name) if name is not None else number


def _leaks(model: Any, ids: Mapping[str, int], names: Sequence[str]) -> list[str]:
    """Of these tokens those that plain text, written like them, would still become."""
    found = []
    for name in names:
        with suppress(BadInput), _native(name, "a token"):  # no token for it: it leaks nothing
            if ids[name] in model.encode(name, add_special_tokens=False).ids:
                found.append(name)
    return found


def _without(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A tokenizer file in which these tokens keep their numbers, and are written in a way that no
    text is."""
    hidden = {name: _HIDDEN.format(number) for number, name in enumerate(names)}
    model = dict(tree["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        model["vocab"] = {hidden.get(name, name): number for name, number in vocabulary.items()}
    else:
        model["vocab"] = [[hidden.get(name, name), score] for name, score in vocabulary]
    if "merges" in model:
        model["merges"] = [
            pair
            for pair in model["merges"]
            if not {*(parts := _parts(pair)), "".join(parts)} & hidden.keys()
        ]
    added = [
        {**token, "content": hidden.get(token["content"], token["content"])}
        for token in tree.get("added_tokens", ())
    ]
    return {**tree, "model": model, "added_tokens": added}


def _parts(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _patterns(names: Sequence[str]) -> list[re.Pattern[bytes]]:
    """What finds these in text, the longest first; one for each first byte, which is quicker."""
    spelled = sorted((name.encode() for name in names if name), key=lambda s: (s[:1], -len(s), s))
    return [
        re.compile(
            re.escape(first) + b"(?:" + b"|".join(re.escape(name[1:]) for name in group) + b")"
        )
        for first, group in groupby(spelled, key=lambda name: name[:1])
    ]


class _Encoder:
    """Encodes with a model of the library, and counts what is not as it was written."""

    def __init__(
        self,
        where: str,
        model: Any,
        dropped: Dropped,
        *,
        dtype: np.dtype[Any],
        separator: int | None,
        unknown: int | None,
        spellings: Sequence[re.Pattern[bytes]],
    ):
        self._where, self._model, self._dropped, self._dtype = where, model, dropped, dtype
        self.separator, self._unknown, self._spellings = separator, unknown, spellings

    def __call__(self, texts: Sequence[bytes]) -> Encoded:
        """As ``Tokenizer.encode``."""
        strings = [self._decoded(text) for text in texts]
        encodings = self._encodings(strings)
        said: list[Tokens] = [np.array(found.ids, self._dtype) for found in encodings]
        end = np.array([] if self.separator is None else [self.separator], self._dtype)
        tokens: list[Tokens] = [np.concatenate([found, end]) for found in said]
        counts, whole = TextCounts(), np.concatenate([np.zeros(0, self._dtype), *tokens])
        if len(end):
            counts.separators = int(np.count_nonzero(whole == self.separator)) - len(tokens)
        unknown: list[list[Span]] = [[] for _ in said]
        if self._unknown is not None and (whole == self._unknown).any():
            for place, (string, encoding) in enumerate(zip(strings, encodings, strict=True)):
                (at,) = np.nonzero(said[place] == self._unknown)
                unknown[place] = _spans(encoding, at.tolist())
                counts.change(UNKNOWN, _bytes_of(string, unknown[place]))
        with _native(f"{self._where}: can't normalize", "expected a whole tokenizer; take another"):
            dropped = self._dropped.of(strings, said, unknown)
        for size in dropped:
            counts.change(DROPPED, size)
        for pattern in self._spellings:
            spelled = Counter(name for text in texts for name in pattern.findall(text))
            counts.add(TextCounts(spellings={name.decode(): n for name, n in spelled.items()}))
        return Encoded(tokens, counts)

    def _decoded(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError as error:  # only a corpus from outside has such
            raise BadInput(
                f"{self._where}: byte 0x{text[error.start]:02x} is not UTF-8, expected documents "
                f"in UTF-8, not one that begins {text[:40]!r}; mend the corpus"
            ) from error

    def _encodings(self, strings: Sequence[str]) -> list[Any]:
        with suppress(BadInput), _native("a batch", "nothing"):
            found: list[Any] = self._model.encode_batch(strings, add_special_tokens=False)
            return found
        found = []  # which text is to blame is not told
        for string in strings:
            expected = f"expected some for the text that begins {string[:40]!r}"
            with _native(f"{self._where}: no tokens", f"{expected}; take another tokenizer"):
                found.append(self._model.encode(string, add_special_tokens=False))
        return found


def _spans(encoding: Any, at: Sequence[int]) -> list[Span]:
    """The parts of its text that these tokens stand for."""
    if 4 * len(at) > len(encoding):
        offsets = encoding.offsets
        return [offsets[number] for number in at]
    return [encoding.token_to_chars(number) or (0, 0) for number in at]


def _bytes_of(text: str, spans: Sequence[Span]) -> int:
    if text.isascii():
        return sum(end - start for start, end in spans)
    return sum(len(text[start:end].encode()) for start, end in spans)
