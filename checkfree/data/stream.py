"""Hugging Face data sets, streamed. Nothing from the hub is ever run, only read.

``redpajama`` (v2) is known and refused: it exists only through a loading script in its repository,
and ``datasets`` 4 dropped such scripts. Below 4 it would run them, so 4 is required.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from checkfree.core.errors import BadInput, RunFailed
from checkfree.data.documents import Corpus, Document, Skipped
from checkfree.data.reading import one_line, optional
from checkfree.data.tables import row_document

PRESETS: Mapping[str, str] = {
    "tinystories": "roneneldan/TinyStories",
    "openwebtext": "Skylion007/openwebtext",
}
"""Both are plain Parquet files in their repositories."""

Loader = Callable[[str, "str | None"], Iterable[Mapping[str, Any]]]
"""``(repository, subset or None) -> rows`` of its training split, from the first row on."""


def is_stream(name: str) -> bool:
    """Whether ``data.name`` is for this file."""
    return name in PRESETS or name.startswith(("hf:", "redpajama"))


def hugging_face(name: str, field: str, loader: Loader | None = None) -> Corpus:
    """A preset, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME/SUBSET``: one document per row.

    The data set's own validation split is not used; ours is drawn from its training split, by
    content. Raises BadInput for a malformed name, RedPajama, or without ``datasets`` 4; when read,
    BadInput if it cannot be opened or has no such column, RunFailed if the stream breaks off.
    """
    repository, subset = _parse(name)
    identity = f"hf {repository} {subset or ''} {field}"
    return Corpus(
        identity, None, lambda: _read((repository, subset), field, loader or _datasets_loader())
    )


def _parse(name: str) -> tuple[str, str | None]:
    repository = PRESETS.get(name, name.removeprefix("hf:"))
    if "redpajama-data-v2" in repository.lower() or name.startswith("redpajama"):
        raise BadInput(
            f"data.name {name}: RedPajama v2 loads only by running remote code, which checkfree "
            "never does; download its .json.gz files and use data.name jsonl with data.path and "
            "data.text_field raw_content"
        )
    parts = repository.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise BadInput(
            f"data.name {name}: not the name of a data set, expected hf:OWNER/NAME or "
            "hf:OWNER/NAME/SUBSET"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def _read(
    source: tuple[str, str | None], field: str, loader: Loader
) -> Iterator[Document | Skipped]:
    repository, subset = source
    try:
        rows = iter(loader(repository, subset))
    except Exception as error:  # the library raises whatever its own libraries do
        raise BadInput(
            f"data set {repository} does not open ({one_line(error)}), expected one that needs no "
            "loading script; check its name and the network, or download it and use data.path"
        ) from error
    for number, row in enumerate(_unbroken(rows, repository), start=1):
        yield row_document(row, field, f"data set {repository} row {number}")


def _unbroken(rows: Iterator[Mapping[str, Any]], repository: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # as above
        raise RunFailed(
            f"data set {repository} broke off ({one_line(error)}); what is tokenized is kept: "
            "start again and it goes on from there"
        ) from error


def _datasets_loader() -> Loader:
    datasets = optional("datasets", "a Hugging Face data set")
    version = str(datasets.__version__)
    if int(version.partition(".")[0]) < 4:
        raise BadInput(
            f"datasets {version} may run code from the hub, expected 4 or newer; "
            "run: pip install 'checkfree[data]'"
        )

    def load(repository: str, subset: str | None) -> Iterable[Mapping[str, Any]]:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            repository, subset, split="train", streaming=True
        )
        return rows

    return load
