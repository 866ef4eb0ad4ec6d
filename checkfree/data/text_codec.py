"""Text to tokens and back, for a model that is asked something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkfree.core.errors import BadInput
from checkfree.data.reading import one_line, optional, reading
from checkfree.data.tokenizer_folder import TOKENIZER
from checkfree.data.tokenizers import BYTES, Encoded, open_tokenizer

HALF = "\ufffd"
"""What stands for bytes that are no whole letter; yet, maybe."""

PIECE = 1 << 16
"""Tokens that are turned into text at a time, where no separator parts them."""


@dataclass(frozen=True)
class TextCodec:
    """A tokenizer in both directions."""

    identity: str
    """As ``Tokenizer.identity``."""
    vocabulary: int
    """Every token is below it."""
    end: int | None
    """The token after a text; None: there is none."""
    prompt: Callable[[bytes], list[int]]
    """UTF-8 text to the tokens that a continuation begins with."""
    text: Callable[[Sequence[int]], str]
    """Tokens to text; bytes that are no letter become HALF."""
    encode: Callable[[Sequence[bytes]], Encoded]
    """Documents to tokens, as for training. Raises BadInput."""
    spells: bool = True
    """Its tokens are text."""

    def bytes_of(self, tokens: np.ndarray[Any, Any]) -> int:
        """Of the text, in UTF-8, that these are, without what ends documents; 0: they are none."""
        if not self.spells:
            return 0
        if self.identity == BYTES:
            return int(np.count_nonzero(tokens != self.end))
        ends = np.flatnonzero(tokens == (-1 if self.end is None else self.end))
        parts = (part[part != self.end] for part in np.split(tokens, ends))
        pieces = (part[i : i + PIECE] for part in parts for i in range(0, len(part), PIECE))
        return sum(len(self.text(piece.tolist()).encode()) for piece in pieces)

    def spoken(self, begun: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
        """The text of ``tokens``, behind those that are ``begun``, as soon as each letter is
        whole."""
        known = list(begun)
        said = len(self.text(known).rstrip(HALF))
        for token in tokens:
            known.append(token)
            text = self.text(known)
            whole = len(text.rstrip(HALF))
            if whole > said:
                yield text[said:whole]
                said = whole
        rest = self.text(known)[said:]
        if rest:
            yield rest


def bytes_codec() -> TextCodec:
    """Of the tokenizer ``bytes``."""
    tokenizer = open_tokenizer(BYTES)
    return TextCodec(
        tokenizer.identity,
        tokenizer.vocabulary,
        tokenizer.separator,
        lambda text: list(text) or [0],
        lambda tokens: bytes(tokens).decode("utf-8", "replace"),
        tokenizer.encode,
    )


def no_codec(identity: str, vocabulary: int, end: int | None, why: str) -> TextCodec:
    """Of tokens whose tokenizer is not at hand: what is asked of it raises BadInput, and why."""

    def refuse(_: object) -> Any:
        raise BadInput(why)

    return TextCodec(identity, vocabulary, end, refuse, refuse, refuse, spells=False)


def codec_of(path: Path, separator: str | None = None, *, begins: bool = False) -> TextCodec:
    """Of a ``tokenizer.json``, or of a folder with one; ``separator``: the token after a text, if
    not the usual one. ``begins``: a prompt has what the file puts around a text, and may name
    special tokens. Raises BadInput."""
    tokenizer = open_tokenizer(str(path), separator)
    file = path / TOKENIZER if path.is_dir() else path
    with reading(file):
        model = optional("tokenizers", "a tokenizer.json").Tokenizer.from_file(str(file))
        model.no_truncation()
        model.no_padding()
        model.encode_special_tokens = not begins

    def prompt(text: bytes) -> list[int]:
        try:
            said = model.encode(text.decode("utf-8", "replace"), add_special_tokens=begins).ids
        except Exception as error:  # of the library, which has no class of its own
            raise BadInput(f"{file}: no tokens for the prompt ({one_line(error)})") from None
        if not said and tokenizer.separator is None:
            raise BadInput("the prompt is empty, and this tokenizer has no token to begin with")
        return list(said) or [int(tokenizer.separator or 0)]

    return TextCodec(
        tokenizer.identity,
        tokenizer.vocabulary,
        tokenizer.separator,
        prompt,
        lambda tokens: str(model.decode(list(tokens), skip_special_tokens=False)),
        tokenizer.encode,
    )
