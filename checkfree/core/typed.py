"""Plain data to the types of a dataclass' fields, or one line that says what was expected.

OmegaConf's own conversion says what is wrong, but neither what is expected nor how it is written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from checkfree.core.errors import BadInput


def as_config(tree: Mapping[str, Any], of: Any, prefix: str) -> Any:
    """Plain data to frozen dataclasses; what is left out keeps its default."""
    hints, values = get_type_hints(of), {}
    for name, value in tree.items():
        key, hint = f"{prefix}{name}", hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = as_config(value, hint, f"{key}.")
            continue
        try:
            values[name] = _typed(value, hint)
        except (TypeError, ValueError):
            raise BadInput(_explain(key, value, hint, getattr(of, name))) from None
    return of(**values)


def _typed(value: Any, hint: Any) -> Any:
    """``value`` as a field of type ``hint`` has it. Raises TypeError or ValueError."""
    kinds = get_args(hint)
    if hint is Any or (value is None and NoneType in kinds):
        return value
    if get_origin(hint) in (Union, UnionType):
        return _typed(value, kinds[0])
    if get_origin(hint) is not tuple:
        return _KINDS[hint][1](value)
    if isinstance(value, str) and ... in kinds:  # devices=cpu
        value = [value]
    if not isinstance(value, (list, tuple)) or (... not in kinds and len(value) != len(kinds)):
        raise TypeError
    return tuple(_typed(item, kinds[0]) for item in value)


def _explain(key: str, value: Any, hint: Any, default: Any) -> str:
    kinds = get_args(hint) or (hint,)
    is_list = get_origin(hint) is tuple
    what = _KINDS[kinds[0]][0]
    if is_list:
        what = "a list" if ... in kinds else f"a list of {len(kinds)}"
    what += " or null" if NoneType in kinds else ""
    mend = "" if default is None else f", as in {key}={written(default)}"
    return f"{key}={written(value)}: expected {what}{mend}"


def written(value: Any) -> str:
    """A value on one line, as it would be given on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return " ".join(str(value).split())


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)  # of text, too: YAML 1.1 takes 1e-3 for text


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    str(value).encode()  # or it could be written to no file: a UnicodeEncodeError is a ValueError
    return str(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_KINDS: Mapping[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a whole number", _whole),
    float: ("a number", _number),
    str: ("text", _text),
    bool: ("true or false", _switch),
}
"""What each type is called, and how a value becomes one."""
