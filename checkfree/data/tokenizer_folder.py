"""A tokenizer by the folder of its model, which may lie in this machine's Hub cache: where that is,
the token that it says ends a text, and its files, as a run keeps them.

=============================  ===================================================================
``tokenizer.json``             what text becomes; all that is needed
``tokenizer_config.json``      ``eos_token``, a string or ``{"content": …}``
``generation_config.json``     ``eos_token_id``, a number or a list of them; so has ``config.json``
``special_tokens_map.json``,   for who loads the folder with transformers
``chat_template.jinja``, …
=============================  ===================================================================
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.data.reading import existing_file, local_path, look_at, one_line, optional, reading

TOKENIZER = "tokenizer.json"
CONFIG, GENERATION, MODEL = "tokenizer_config.json", "generation_config.json", "config.json"
BESIDE = (
    *(CONFIG, GENERATION, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
)
"""What else is the tokenizer's in a model's folder."""
OLDER = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Tokenizers of other formats, which transformers makes a tokenizer.json of."""

FILE_BYTES = 2**30
CONFIG_BYTES = 2**26
"""The largest tokenizer_config.json have some megabytes: they list all added tokens."""

_OF_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.json)")


def find(name: str) -> Path:
    """The file or folder that ``data.tokenizer`` names: a path, else the model of that name in the
    Hub cache. Nothing is downloaded. Raises BadInput for such a name that isn't there."""
    path = local_path("data.tokenizer", name)
    if look_at(path) is not None or not _OF_HUB.fullmatch(name):
        return path
    hub = optional("huggingface_hub", "the name of a model on the Hub")
    with suppress(OSError, ValueError):  # it isn't there
        folder = Path(hub.snapshot_download(name, local_files_only=True))
        if any(look_at(folder / file) is not None for file in (TOKENIZER, *OLDER)):
            return folder
    raise BadInput(
        f"data.tokenizer {name}: no such file or folder, and no tokenizer of a model of that name "
        f"in this machine's Hub cache; fetch it: hf download {name} {TOKENIZER} {CONFIG} "
        f"{GENERATION}"
    )


def is_folder(path: Path) -> bool:
    """A folder lies there. Raises BadInput if that can't be told."""
    found = look_at(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def file_in(folder: Path, where: str) -> Path:
    """Its tokenizer.json; errors call the folder ``where``. Raises BadInput, with how to make one,
    if it has none."""
    if look_at(folder / TOKENIZER) is not None:
        return folder / TOKENIZER
    older = next((name for name in OLDER if look_at(folder / name) is not None), None)
    if older is None:
        raise BadInput(
            f"{where}: a folder without {TOKENIZER}, expected one; check the path, or take bytes"
        )
    raise BadInput(
        f"{where}: a folder without {TOKENIZER}, only {older}, expected one; pip install "
        "transformers sentencepiece makes it: python -c 'from transformers import AutoTokenizer as "
        f't; t.from_pretrained("{folder}").save_pretrained("{folder}")\''
    )


def identity_of(content: bytes) -> str:
    """What tells a tokenizer.json from any other."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def end_of_text(folder: Path) -> str | int | None:
    """The token that its configuration says ends a text, by name or number; None: it says none.
    Raises BadInput for files that are damaged."""
    said = _object(folder / CONFIG).get("eos_token")
    content = said.get("content") if isinstance(said, Mapping) else said
    if content is not None:
        if isinstance(content, str):
            return content
        raise BadInput(f"{folder / CONFIG}: eos_token is {said!r}, expected text; mend it")
    return _end_by_number(folder)


def _end_by_number(folder: Path) -> int | None:
    for name in (GENERATION, MODEL):
        said = _object(folder / name).get("eos_token_id")
        first = next(iter(said), None) if isinstance(said, list) else said
        if first is None:
            continue
        if type(first) is int and first >= 0:
            return first
        raise BadInput(
            f"{folder / name}: eos_token_id is {said!r}, expected a token's number; mend it"
        )
    return None


def files_of(path: Path) -> dict[str, bytes]:
    """The files of the tokenizer at ``path``, a file or a folder, by the names that they have in a
    folder: one with nothing else says the same. Raises BadInput if they can't be read."""
    if not is_folder(path):
        return {TOKENIZER: _content(path, FILE_BYTES)}
    found = {TOKENIZER: _content(path / TOKENIZER, FILE_BYTES)}
    beside = (name for name in BESIDE if look_at(path / name) is not None)
    found |= {name: _content(path / name, FILE_BYTES) for name in beside}
    said, end = _object(path / GENERATION), _end_by_number(path)
    if end is not None and said.get("eos_token_id") in (None, []):  # the model's own config says it
        found[GENERATION] = json.dumps({**said, "eos_token_id": end}, indent=2).encode()
    return found


def _object(path: Path) -> Mapping[str, Any]:
    """A JSON object; an empty one, if there is no file."""
    if look_at(path) is None:
        return {}
    content = _content(path, CONFIG_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({one_line(error)}); get the file again") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: not a JSON object, expected one; get the file again")
    return found


def _content(path: Path, most: int) -> bytes:
    found = existing_file(path, str(path), "a file of a tokenizer; check data.tokenizer")
    if found.st_size > most:
        raise BadInput(f"{path}: {found.st_size} bytes, expected a file of a tokenizer")
    with reading(path):
        return path.read_bytes()
