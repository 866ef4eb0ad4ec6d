"""Where a new run may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS
from checkfree.runtime.folder import CONFIG, create


def test_a_new_one_is_empty(tmp_path: Path) -> None:
    """Also of what was written to see whether it can be."""
    assert list(create(tmp_path / "deep" / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"), [(RECORDS, "holds a run already"), (CONFIG, "would overwrite")]
)
def test_what_is_there_is_kept(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=why):
        create(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_is_no_place_for_one(tmp_path: Path) -> None:
    (tmp_path / "odd" / RECORDS).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "odd", tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match=r"cannot be written: .*; give another") as caught:
            create(path)
        assert "\n" not in str(caught.value)
