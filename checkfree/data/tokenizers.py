"""Text to tokens: bytes, or any Hugging Face ``tokenizer.json``.

A separator ends every document. For bytes it is 0, a byte that text does not use, so the vocabulary
stays 256. A ``tokenizer.json`` has no say in it: the first usual name of an end-of-text token that
its vocabulary has is taken, and without one documents run together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkfree.core.errors import BadInput
from checkfree.data.tables import one_line, optional

Tokens = npt.NDArray[np.unsignedinteger[Any]]

SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True)
class Tokenizer:
    """How documents become tokens."""

    identity: str
    """``bytes``, or ``sha256:`` and the hash of the tokenizer file."""
    vocabulary: int
    """Every token is below it."""
    separator: int | None
    """The token after each document; None: there is none."""
    encode: Callable[[Sequence[bytes]], list[Tokens]]
    """UTF-8 texts to one array of ``dtype`` each, separator included."""

    @property
    def dtype(self) -> str:
        """The smallest of uint8, uint16 and uint32 that holds the vocabulary."""
        return _smallest_dtype(self.vocabulary)


def _smallest_dtype(vocabulary: int) -> str:
    return "uint8" if vocabulary <= 2**8 else "uint16" if vocabulary <= 2**16 else "uint32"


def open_tokenizer(name: str) -> Tokenizer:
    """``bytes`` or the path of a ``tokenizer.json``.

    Raises BadInput if there is no such file, it is none, or the package tokenizers is missing.
    """
    return _bytes() if name == "bytes" else _from_file(Path(name).expanduser())


def _bytes() -> Tokenizer:
    def encode(texts: Sequence[bytes]) -> list[Tokens]:
        return [np.frombuffer(text + b"\0", np.uint8) for text in texts]

    return Tokenizer("bytes", 256, 0, encode)


def _from_file(path: Path) -> Tokenizer:
    if not path.is_file():
        raise BadInput(
            f"data.tokenizer {path}: no such file, expected bytes or the path of a tokenizer.json"
        )
    library = optional("tokenizers", "a tokenizer.json")
    content = path.read_bytes()
    model = _parse(library, content, path)
    ids: dict[str, int] = model.get_vocab(with_added_tokens=True)
    if not ids:
        raise BadInput(f"data.tokenizer {path}: its vocabulary is empty; take a trained tokenizer")
    separator = next((ids[name] for name in SEPARATORS if name in ids), None)
    identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
    vocabulary = max(ids.values()) + 1
    encode = _encoder(model, separator, np.dtype(_smallest_dtype(vocabulary)))
    return Tokenizer(identity, vocabulary, separator, encode)


def _parse(library: Any, content: bytes, path: Path) -> Any:
    try:
        model = library.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more particular
        raise BadInput(
            f"data.tokenizer {path}: not a tokenizer ({one_line(error)}), expected the "
            "tokenizer.json of the Hugging Face tokenizers library"
        ) from error
    model.no_truncation()  # files of fine-tuned models cut at a length and pad to it
    model.no_padding()
    return model


def _encoder(
    model: Any, separator: int | None, dtype: np.dtype[Any]
) -> Callable[[Sequence[bytes]], list[Tokens]]:
    end = [] if separator is None else [separator]

    def encode(texts: Sequence[bytes]) -> list[Tokens]:
        encodings = model.encode_batch([t.decode() for t in texts], add_special_tokens=False)
        return [np.array(encoding.ids + end, dtype) for encoding in encodings]

    return encode
