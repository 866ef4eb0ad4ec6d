"""A tokenizer as the files of a model's folder, so that ``AutoTokenizer`` of transformers and the
library of tokenizers read it there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.data.tokenizer_folder import CONFIG, TOKENIZER

END_OF_BYTES = "\0"
"""The byte 0, which ends documents. Its token is called as that character itself, which text holds
only where it has that byte; by the name that byte-level tokenizers have for it, the letter Ā, any
Ā in a text would become it."""


def of_bytes(context: int) -> dict[str, bytes]:
    """The tokenizer ``bytes``: tokens are the bytes of UTF-8."""
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {letter: byte for byte, letter in enumerate(_letters())},
        "merges": [],
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level |= {"use_regex": False}
    end = {"id": 0, "content": END_OF_BYTES, "special": True, "normalized": False}
    end |= {"single_word": False, "lstrip": False, "rstrip": False}
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": model,
    }
    return {TOKENIZER: _text(tree), CONFIG: _config(END_OF_BYTES, context)}


def whole(files: Mapping[str, bytes], separator: int | None, context: int) -> dict[str, bytes]:
    """The files of a tokenizer, by name, with a tokenizer_config.json, if they have none.
    ``separator``: the token after each document. Raises BadInput for a damaged tokenizer.json."""
    if CONFIG in files:
        return dict(files)
    end = None if separator is None else _spelled(files[TOKENIZER], separator)
    return {**files, CONFIG: _config(end, context)}


def _letters() -> list[str]:
    """By byte, the letter that byte-level tokenizers write it as (as those of GPT-2 do): itself, if
    it can be seen in Latin-1, else one from U+0100 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(0x100, 0x200))
    letters = [chr(byte if byte in seen else next(unseen)) for byte in range(256)]
    return [END_OF_BYTES, *letters[1:]]


def _config(end: str | None, context: int) -> bytes:
    tree: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tree |= {"model_max_length": context, "clean_up_tokenization_spaces": False}
    return _text(tree | ({} if end is None else {"bos_token": end, "eos_token": end}))


def _spelled(content: bytes, token: int) -> str | None:
    """How a ``tokenizer.json`` calls a token."""
    try:
        tree = json.loads(content)
        added = {entry["id"]: entry["content"] for entry in tree.get("added_tokens", ())}
        words = tree["model"]["vocab"]
        if not isinstance(words, Mapping):
            words = {word: number for number, (word, _) in enumerate(words)}
        return added.get(token) or next((w for w, number in words.items() if number == token), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{TOKENIZER} is none that has been trained with ({error!r})") from None


def _text(tree: Mapping[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()
