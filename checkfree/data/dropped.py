"""What a ``tokenizer.json`` takes away from text: what becomes no token at all.

Three parts of a tokenizer can: its normalizer, its pre-tokenizer, and a BPE without unknown token,
which drops characters that it has no symbol for, or single bytes of them. What they do to a
character by itself is found once, the first time that it is met. Where the tokens of a text stand
for as many bytes as its characters give one by one, there is no more to it. Where not, a pattern
took more, or spared some. Such a text is gone through again by a twin: a tokenizer with the same
normalizer and pre-tokenizer that has a token for each character which those two leave, and says
where in the text it came from.

White space does not count, but where a BPE has no symbol for it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.unsignedinteger[Any]]
"""Of tokens, or of characters."""
Span = tuple[int, int]
"""Of characters: from the first up to the last but one."""

CLOSELY = 2**16
"""Characters that the twin is given at a time: it takes some hundred bytes for each."""
_CHARACTERS = 0x110000  # of Unicode
_SPACES = "Ġ▁"  # as byte-level and as sentencepiece tokenizers write them
_SPACE_IDS = (1, 2, 3)  # of the twin
_WHITE = str.maketrans("", "", " \t\n\v\f\r" + _SPACES)
_WHITE_BYTES = str.maketrans("", "", "".join(chr(256 + ord(space)) for space in " \t\n\v\f\r"))
"""The same where every byte is written as a letter."""


class Dropped:
    """Counts bytes of texts that become no token. ``model``: a tokenizer of the ``library``, as the
    ``tree`` of its file describes it, whose tokens have the numbers ``ids``."""

    def __init__(self, library: Any, model: Any, tree: Mapping[str, Any], ids: Mapping[str, int]):
        self._library, self._model = library, model
        self._normalizer, self._splitter = model.normalizer, model.pre_tokenizer
        self._added = model.get_added_tokens_decoder()
        parts = json.dumps([tree.get("pre_tokenizer"), tree.get("normalizer")])
        self._of_bytes = '"ByteLevel"' in parts
        described = tree["model"]
        before = described.get("continuing_subword_prefix") or ""
        after = described.get("end_of_word_suffix") or ""
        bare = {name: name.removeprefix(before).removesuffix(after) for name in ids}
        self._symbols: set[str] | None = None
        drops = described.get("unk_token") is None and not described.get("byte_fallback")
        if type(model.model).__name__ == "BPE" and drops:
            self._symbols = {bare.get(name, name) for name in described["vocab"]}
            self._symbols |= {*described["vocab"]}
        # By token: the bytes that it stands for.
        self._says = np.zeros(max(ids.values()) + 1, np.int64)
        for name, number in ids.items():
            self._says[number] = self._size(bare[name])
        if described.get("byte_fallback"):
            for byte in range(256):
                name = f"<0x{byte:02X}>"
                if name in ids:
                    self._says[ids[name]] = len(chr(byte).translate(_WHITE))
        for number, token in self._added.items():
            self._says[number] = len(token.content.translate(_WHITE).encode())
        # By character, alone: whether it was met, the bytes that normalizer and pre-tokenizer
        # leave, how many of its own they take away, and how many the model drops.
        self._met = np.zeros(_CHARACTERS, bool)
        self._left, self._taken, self._missing = np.zeros((3, _CHARACTERS), np.uint8)
        self._vanishes = lru_cache(maxsize=2**14)(self._leaves_nothing)

    def of(
        self, texts: Sequence[str], tokens: Sequence[Numbers], unknown: Sequence[Sequence[Span]]
    ) -> list[int]:
        """Of each of these texts, which became these ``tokens``; [] if it is 0 of all. ``unknown``:
        the parts of each that the unknown token stands for."""
        if not any(unknown):
            codes, said = self._codes("".join(texts)), sum(self._says[of].sum() for of in tokens)
            if said == _sum(self._left[codes]) and not _sum(self._lost(codes)):
                return []
        return list(map(self._count, texts, tokens, unknown))

    def _count(self, text: str, tokens: Numbers, unknown: Sequence[Span]) -> int:
        codes = self._codes(text)
        said = self._says[tokens].sum()
        said += sum(_sum(self._left[codes[start:end]]) for start, end in unknown)
        if said == _sum(self._left[codes]):
            return _sum(self._lost(codes))
        return sum(map(self._count_closely, _cut(text)))

    def _count_closely(self, text: str) -> int:
        sizes = np.array([len(c.encode()) for c in text], np.int64)
        codes = self._codes(text)
        taken = self._taken[codes]
        lost = np.where(taken < sizes, taken, 0)
        solid = np.array([not _is_white(c) for c in text], bool)
        solid &= (self._left[codes] > 0) | (self._lost(codes) > 0)  # not what becomes a space
        twin, absent = self._twin
        encoding = twin.encode(text, add_special_tokens=False)
        starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        # A space that was put before a text has the place of the text's first character.
        put = np.isin(encoding.ids, _SPACE_IDS) & solid[np.minimum(starts, len(text) - 1)]
        missing = np.bincount(starts[np.isin(encoding.ids, absent) & ~put], minlength=len(text))
        lost = np.minimum(lost + (missing if self._of_bytes else sizes * missing), sizes)
        depth = np.bincount(starts[~put], minlength=len(text) + 1)
        depth -= np.bincount(ends[~put], minlength=len(text) + 1)
        gone = np.concatenate([[False], np.cumsum(depth)[:-1] == 0, [False]])
        (edges,) = np.nonzero(gone[1:] != gone[:-1])
        for start, end in edges.reshape(-1, 2).tolist():
            around = text[max(0, start - 1) : start], text[start:end], text[end : end + 1]
            if solid[start:end].any() and self._vanishes(*around):
                lost[start:end] = np.where(solid[start:end], sizes[start:end], 0)
        return _sum(lost)

    @cached_property
    def _twin(self) -> tuple[Any, list[int]]:
        """And those of its tokens that ours has none for."""
        numbers = {"other": 0, **dict(zip(" " + _SPACES, _SPACE_IDS, strict=True))}
        symbols = {symbol for symbol in self._symbols or () if len(symbol) == 1}
        absent = [n for name, n in numbers.items() if name not in symbols and self._symbols]
        for symbol in sorted(symbols - numbers.keys()):
            numbers[symbol] = len(numbers)
        model = self._library.models.BPE(vocab=numbers, merges=[], unk_token="other")
        twin = self._library.Tokenizer(model)
        if self._normalizer is not None:
            twin.normalizer = self._normalizer
        if self._splitter is not None:
            twin.pre_tokenizer = self._splitter
        twin.add_tokens([token for token in self._added.values() if not token.special])
        return twin, absent

    def _leaves_nothing(self, before: str, text: str, after: str) -> bool:
        """Nothing comes of this text between those: what is composed or replaced is not lost."""
        whole, rest = self._held(before + text + after), self._held(before + after)
        return whole.translate(_WHITE) == rest.translate(_WHITE)

    def _held(self, text: str) -> str:
        """What normalizer and pre-tokenizer leave."""
        text = self._normal(text)
        if self._splitter is not None:
            text = "".join(piece for piece, _ in self._splitter.pre_tokenize_str(text))
        return text

    def _normal(self, text: str) -> str:
        """What the normalizer alone leaves."""
        normal: str = text if self._normalizer is None else self._normalizer.normalize_str(text)
        return normal

    def _size(self, text: str) -> int:
        if self._of_bytes:
            return len(text.translate(_WHITE_BYTES))
        return len(text.translate(_WHITE).encode())

    # --- characters by themselves ----------------------------------------------------------------

    def _codes(self, text: str) -> Numbers:
        """The numbers of its characters, all of which are met then."""
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        for code in np.unique(codes[~self._met[codes]]).tolist():
            self._met[code] = True
            self._meet(code, chr(code))
        return codes

    def _lost(self, codes: Numbers) -> Numbers:
        return np.add(self._taken[codes], self._missing[codes])

    def _meet(self, code: int, character: str) -> None:
        held, size, known = self._held(character), len(character.encode()), self._symbols
        said = "".join(symbol for symbol in held if known is None or symbol in known)
        self._left[code] = min(self._size(said), 255)
        if character not in (" ", *_SPACES):  # then one was put before it
            held = held.removeprefix("Ġ").removeprefix("▁")
        if not held:
            normal = self._normal(character) or character
            self._taken[code] = 0 if all(map(_is_white, normal)) else size
            return
        self._taken[code] = size - len(self._bare(character).encode())
        missing = sum(known is not None and symbol not in known for symbol in held)
        self._missing[code] = min(missing, size) if self._of_bytes else size * bool(missing)

    def _bare(self, character: str) -> str:
        """Without those of its accents that the normalizer strips."""
        parts = unicodedata.normalize("NFD", character)
        kept = unicodedata.normalize("NFD", self._normal(character))
        stays = [part for part in parts if not unicodedata.combining(part) or part in kept]
        return (
            unicodedata.normalize("NFC", "".join(stays)) if len(stays) < len(parts) else character
        )


def _sum(sizes: Numbers) -> int:
    return int(sizes.sum(dtype=np.int64))


def _is_white(character: str) -> bool:
    return character.isspace() or character in _SPACES


def _cut(text: str) -> Iterator[str]:
    """The text in parts that the twin can take, behind a line end or space where there is one."""
    while len(text) > CLOSELY:
        at = max(text.rfind("\n", 0, CLOSELY), text.rfind(" ", 0, CLOSELY)) + 1 or CLOSELY
        yield text[:at]
        text = text[at:]
    yield text
