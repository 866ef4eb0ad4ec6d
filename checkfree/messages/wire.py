"""What stands in a message's header: every field as plain JSON, and strictly back.

A *form* says how values of one type are written and read. Forms are made from the dataclasses'
own annotations, so that a new field, or a new message, needs no line here. Words print as they
do everywhere: a seat as "2.0", a worker's ops as "F0@1 F1@1 B0@1 R".

Rule 1: reading refuses whatever writing would not have made, and raises nothing but Malformed.
Rule 2: tensors never stand in a header; their forms get them from, or add them to, a list beside.
"""

from __future__ import annotations

import enum
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from checkfree.core import records
from checkfree.core.ops import Address, Op
from checkfree.messages.limits import Malformed, check_keys, expected, is_count, is_text

MAX_DEPTH = 32
"""Of lists and mappings in free-form values: notes and records."""

Named = tuple[str, Any]
"""A tensor and what it is called in its message."""


class Form(NamedTuple):
    """How values of one type cross a wire; both sides get the tensors beside the header."""

    write: Callable[[Any, list[Named]], Any]
    read: Callable[[Any, Iterator[Named]], Any]


def form_of(hint: Any, known: Mapping[Any, Form]) -> Form:
    """The form of an annotation. ``known`` has the forms that can't be told from the type itself.

    Raises TypeError for a type that no form is known of.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in known:
        return known[hint]
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is tuple and args[-1] is not Ellipsis:
        return _fixed([form_of(arg, known) for arg in args], tuple)
    if origin in (tuple, Sequence):
        return _many(form_of(args[0], known))
    if origin is Mapping:
        return _mapping(args[0], form_of(args[1], known))
    if origin in (typing.Union, types.UnionType) and args[-1] is type(None):
        return _optional(form_of(args[0], known))
    if origin in (typing.Union, types.UnionType):
        return tagged(args, "__name__", known)
    if origin is typing.Literal:
        return _checked(lambda value: type(value) is str and value in args, f"one of {args}")
    if isinstance(hint, type) and issubclass(hint, tuple):
        members = typing.get_type_hints(hint).values()
        return _fixed([form_of(member, known) for member in members], hint._make)  # type: ignore[attr-defined]
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return _enumerated(hint)
    if is_dataclass(hint):
        return form_of_fields(hint, known)
    raise TypeError(f"no form for {hint!r}: give it one beside the others")


def form_of_fields(cls: Any, known: Mapping[Any, Form]) -> Form:
    """A dataclass as an object of all its fields. ``known`` may name a field, as in
    "Rebuilt.weights", where its type does not say enough."""
    hints = typing.get_type_hints(cls)
    forms = [
        (field.name, known.get(f"{cls.__name__}.{field.name}") or form_of(hints[field.name], known))
        for field in fields(cls)
    ]
    names = {name for name, _ in forms}

    def write(value: Any, tensors: list[Named]) -> Any:
        return {name: form.write(getattr(value, name), tensors) for name, form in forms}

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        check_keys(plain, names)
        name = ""
        try:
            found = {}
            for name, form in forms:
                found[name] = form.read(plain[name], tensors)
        except Malformed as error:
            raise Malformed(f"{cls.__name__}.{name}: {error}") from None
        return cls(**found)

    return Form(write, read)


# --- one value -----------------------------------------------------------------------------------


def _checked(
    good: Callable[[Any], bool], what: str, write: Callable[[Any], Any] | None = None
) -> Form:
    """A value that JSON has too."""

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if not good(plain):
            raise expected(what, plain)
        return plain

    return Form(lambda value, tensors: value if write is None else write(value), read)


T = TypeVar("T")


def _worded(
    parse: Callable[[str], T], what: str, longest: int, remember: int
) -> Callable[[Any], T]:
    """Read what prints, and only as it prints: "02.0" is no address. Remembers, within bounds,
    what it has read: an iteration's schedule is the last one's."""

    @lru_cache(maxsize=remember)
    def parsed(text: str) -> T:
        try:
            made = parse(text)
        except ValueError:
            raise expected(what, text) from None
        if str(made) != text:
            raise expected(what, text)
        return made

    def read(plain: Any) -> T:
        if type(plain) is not str or len(plain) > longest:
            raise expected(what, plain)
        return parsed(plain)

    return read


_seat = _worded(Address.parse, "a seat such as '2.0'", 20, 4096)
_op = _worded(Op.parse, "an op such as 'F3@1'", 24, 2**17)


def _spaced(word: Callable[[Any], T]) -> Form:
    """Words as one text: a route or a worker's ops, as they print."""

    def read(plain: Any, tensors: Iterator[Named]) -> tuple[T, ...]:
        if type(plain) is not str:
            raise expected("words with a space between each two", plain)
        # A list, for a tuple grown from an iterator leaves one more in CPython's free list.
        return tuple([word(text) for text in plain.split(" ")]) if plain else ()

    return Form(lambda words, tensors: " ".join(map(str, words)), read)


def _enumerated(cls: type[enum.IntEnum]) -> Form:
    members = {member.value: member for member in cls}

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if type(plain) is not int or plain not in members:
            raise expected(f"one of {sorted(members)}", plain)
        return members[plain]

    return Form(lambda value, tensors: int(value), read)


def _optional(inner: Form) -> Form:
    return Form(
        lambda value, tensors: None if value is None else inner.write(value, tensors),
        lambda plain, tensors: None if plain is None else inner.read(plain, tensors),
    )


# --- several values ------------------------------------------------------------------------------


def _fixed(forms: Sequence[Form], make: Callable[[Any], Any]) -> Form:
    """A tuple that has one form per place."""

    def write(values: Any, tensors: list[Named]) -> Any:
        return [form.write(value, tensors) for form, value in zip(forms, values, strict=True)]

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if type(plain) is not list or len(plain) != len(forms):
            raise expected(f"a list of {len(forms)}", plain)
        return make([form.read(item, tensors) for form, item in zip(forms, plain, strict=True)])

    return Form(write, read)


def _many(form: Form) -> Form:
    """A tuple of any length."""

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if type(plain) is not list:
            raise expected("a list", plain)
        return tuple([form.read(item, tensors) for item in plain])

    return Form(lambda values, tensors: [form.write(value, tensors) for value in values], read)


def _mapping(key: Any, form: Form) -> Form:
    """A mapping in its own order, which sums may depend on."""
    read_key = _KEYS[key]

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if type(plain) is not dict:
            raise expected("an object", plain)
        return {read_key(name): form.read(item, tensors) for name, item in plain.items()}

    return Form(
        lambda value, tensors: {str(k): form.write(item, tensors) for k, item in value.items()},
        read,
    )


def _text_key(plain: str) -> str:
    if not is_text(plain):
        raise expected("text", plain)
    return plain


_KEYS: Mapping[Any, Callable[[str], Any]] = {
    str: _text_key,
    int: _worded(int, "a whole number", 19, 4096),
    Address: _seat,
}


# --- free-form values ----------------------------------------------------------------------------


def _tree(value: Any, tensors: object = None) -> Any:
    """Plain data of whatever a note holds."""
    if isinstance(value, Mapping):
        return {str(key): _tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tree(item) for item in value]
    return value


def _read_tree(plain: Any, tensors: Iterator[Named], depth: int = MAX_DEPTH) -> Any:
    if depth == 0:
        raise Malformed(f"more than {MAX_DEPTH} lists and objects in one another")
    if type(plain) is dict:
        return {_text_key(k): _read_tree(item, tensors, depth - 1) for k, item in plain.items()}
    if type(plain) is list:
        return [_read_tree(item, tensors, depth - 1) for item in plain]
    if type(plain) is str:
        return _text_key(plain)
    return plain


_SCALARS: Mapping[Any, Form] = {
    int: _checked(is_count, "a whole number from 0"),
    float: _checked(lambda plain: type(plain) is float, "a number with a point", float),
    bool: _checked(lambda plain: type(plain) is bool, "true or false"),
    str: _checked(is_text, "text"),
    Any: Form(_tree, _read_tree),
    Address: Form(lambda seat, tensors: str(seat), lambda plain, tensors: _seat(plain)),
    tuple[Address, ...]: _spaced(_seat),
    tuple[Op, ...]: _spaced(_op),
}
"""NaN and inf are numbers too: a run that diverges reports the same losses over any wire."""


FINITE = _checked(
    lambda plain: type(plain) is float and math.isfinite(plain), "a finite number", float
)
"""For a factor that something will be multiplied by."""


def tagged(classes: Collection[type[Any]], tag: str, known: Mapping[Any, Form]) -> Form:
    """One of several classes, told apart by the attribute ``tag``."""
    forms = {getattr(cls, tag): form_of(cls, known) for cls in classes}
    tag_of = operator.attrgetter(tag)

    def write(value: Any, tensors: list[Named]) -> Any:
        return [tag_of(type(value)), forms[tag_of(type(value))].write(value, tensors)]

    def read(plain: Any, tensors: Iterator[Named]) -> Any:
        if type(plain) is not list or len(plain) != 2:
            raise expected("a name and its fields", plain)
        if type(plain[0]) is not str or plain[0] not in forms:
            raise expected(f"one of {len(forms)} known names", plain[0])
        return forms[plain[0]].read(plain[1], tensors)

    return Form(write, read)


RECORDS = tuple(
    cls
    for cls in vars(records).values()
    if isinstance(cls, type) and issubclass(cls, records.Record) and cls is not records.Record
)
"""Of every kind."""

FIELDS: Mapping[Any, Form] = {
    "Note.record": tagged(RECORDS, "kind", {}),
    "Rebuilt.weights": _many(FINITE),
    "Recipe.ahead": FINITE,
    "StageState.lr_scale": FINITE,
}
"""Fields whose types don't say enough."""
