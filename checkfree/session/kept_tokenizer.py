"""A run's own copy of its tokenizer: made as it begins, and read as it goes on, so that the files
which it was of may be gone or others by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkfree.config.load import load_saved
from checkfree.config.parts import running
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS, read
from checkfree.data.tokenizer_folder import TOKENIZER, files_of, find, identity_of
from checkfree.data.tokenizers import BYTES
from checkfree.runtime import folder as folders
from checkfree.runtime.files import write_whole


def keep_tokenizer(config: Config, data: Mapping[str, Any], folder: Path) -> None:
    """Write the files of the tokenizer into a run's folder. ``data``: what the run's records say of
    its data. Nothing, where those have no tokenizer but bytes. Raises BadInput if it has changed
    since the run's tokens were made, RunFailed."""
    named = config.data.kept or config.data.tokenizer
    if named == BYTES or data.get("tokenizer") is None or data["name"] == "bin":
        return
    files = files_of(find(named))
    if identity_of(files[TOKENIZER]) != data["tokenizer"]:
        raise BadInput(
            f"data.tokenizer {named} was changed while the run was about to begin: start again"
        )
    for name, content in files.items():
        write_whole(folder / folders.TOKENIZER / name, content)


def with_kept_tokenizer(config: Config, folder: Path) -> Config:
    """The configuration of a run that goes on in ``folder``, if it does, with its own tokenizer: if
    it has a whole copy, and nobody has named another place since. Raises BadInput."""
    copy = folder / folders.TOKENIZER
    file = copy / TOKENIZER
    if not (
        file.is_file() and (folder / RECORDS).is_file() and (folder / folders.CONFIG).is_file()
    ):
        return config
    began = read(folder)[:1]
    was = load_saved(folder / folders.CONFIG, running(config))
    if not began or was.data.tokenizer != config.data.tokenizer:
        return config
    try:
        if identity_of(file.read_bytes()) != began[0].get("data", {}).get("tokenizer"):
            return config
    except OSError:  # as where there is none
        return config
    return replace(config, data=replace(config.data, kept=str(copy)))
