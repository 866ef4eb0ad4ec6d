"""Records back from their lines, and rebuilt seats by the forms that messages are read by: a new
field of Recipe needs no line here."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from checkfree.core.ops import Address, Recipe, Source
from checkfree.core.records import RebuiltSeat, Record
from checkfree.messages.limits import expected
from checkfree.messages.wire import RECORDS, form_of

_SOURCE = {"holder": Address, "stage": int, "version": int}
_KINDS = {cls.kind: cls for cls in RECORDS}


def read_record(plain: Mapping[str, Any]) -> Record:
    """One line of ``records.jsonl`` that this version wrote; a loss that was no number is one again
    that is none."""
    kind, floats = _KINDS[plain["kind"]], _floats_of(plain["kind"])
    fields_of = {
        name: math.nan if value is None and name in floats else value
        for name, value in plain.items()
        if name != "kind"
    }
    if "rebuilds" in plain:
        made = plain["rebuilds"].items()
        fields_of["rebuilds"] = {seat: read_rebuilt(how) for seat, how in made}
    return kind(**fields_of)


@cache
def _floats_of(kind: str) -> frozenset[str]:
    """Fields of such a record that have a number always."""
    hints = typing.get_type_hints(_KINDS[kind])
    return frozenset(name for name, hint in hints.items() if hint is float)


def read_rebuilt(plain: Mapping[str, Any]) -> RebuiltSeat:
    """Of one seat, in a plan or a recovery. Raises KeyError, TypeError or ValueError for what no
    such record holds."""
    left, hints = dict(plain), typing.get_type_hints(Recipe)
    sources = tuple(
        Source(*(_read(source[name], hint) for name, hint in _SOURCE.items()))
        for source in left.pop("sources")
    )
    weights = _read(left.pop("weights", []), tuple[float, ...])
    count = _read(left.pop("bytes", 0), int)
    check = _read(left.pop("check", {}), Mapping[str, float | None])
    rejected = tuple(
        (_read(rung["rule"], str), _read(rung["why"], str)) for rung in left.pop("rejected", ())
    )
    found = {
        f.name: _read(left.pop(f.name), hints[f.name]) for f in fields(Recipe) if f.name in left
    }
    if left:
        raise expected("a recipe as this version makes it", sorted(left))
    figures = {name: math.nan if figure is None else figure for name, figure in check.items()}
    return RebuiltSeat(Recipe(sources=sources, **found), weights, count, figures, rejected)


def _read(plain: Any, hint: Any) -> Any:
    form = _RECORDED.get(hint) or form_of(hint, {})
    return form.read(plain, iter(()))


_RECORDED = {tuple[Address, ...]: form_of(Sequence[Address], {})}
"""Written in another way than on the wire: seats as a list."""
