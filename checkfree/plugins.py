"""Code from outside of checkfree that a configuration names in place of a part of ours: where it
is, whether it may run, and what it was.

It is named by the entry point of an installed package, or as ``module:name``. Installed code may
run by being installed. Of any other module a configuration alone says nothing that is acted on, for
it may be a stranger's: who runs it names the top package, and the permission travels with the
configuration (see ``parts.permitted``). No torch: a configuration is read before any is here.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from checkfree.core.errors import BadInput, one_of

T = TypeVar("T")

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "recovery.name": "checkfree.strategies",
        "schedule": "checkfree.schedules",
        "failures.scenario": "checkfree.samplers",
        "data.name": "checkfree.corpora",
        "model.family": "checkfree.families",
        "fleet.name": "checkfree.fleets",
    }
)
"""By the key that names a part: the entry points by which installed packages offer such."""

OUTSIDE = "package "
"""Before the name of a top package from outside, where versions and releases tell of it."""

_DOTTED = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*):([A-Za-z_]\w*)")


def offers() -> list[str]:
    """Where the parts are that installed packages offer."""
    every = metadata.entry_points()
    return [point.value for group in GROUPS.values() for point in every.select(group=group)]


def written_at(key: str, name: str) -> str | None:
    """Where the part of that name from outside is, as ``module:name``; None: nobody offers it."""
    if _DOTTED.fullmatch(name):
        return name
    found = [
        point.value for point in metadata.entry_points(group=GROUPS[key]) if point.name == name
    ]
    return found[0] if found and _DOTTED.fullmatch(found[0]) else None


def packages(words: Iterable[str]) -> frozenset[str]:
    """The top packages of all that is written ``module:name`` in these words."""
    return frozenset(match[1] for word in words for match in _DOTTED.finditer(word))


def known(key: str, name: str, ours: Collection[str]) -> bool:
    """It is one of ours, or may be one from outside."""
    return name in ours or written_at(key, name) is not None


def check_known(key: str, name: str, ours: Collection[str]) -> None:
    """Raise BadInput for a name that nobody offers."""
    if not known(key, name, ours):
        one_of(key, name, tuple(ours))


def code_of(key: str, name: str, allow: Collection[str]) -> Any:
    """What that name from outside means, if it is installed or its top package is among those that
    are allowed; else None. Raises BadInput if it can't be imported."""
    where = written_at(key, name)
    if where is None or (where == name and not packages([where]) & {*allow}):
        return None
    return imported(key, where)


def chosen(key: str, name: str, ours: Mapping[str, T], code: Any) -> T:
    """The part of that name: ours, or the ``code`` from outside that may run. Raises BadInput for
    one that nobody has permitted, or that there is not."""
    if name in ours:
        return ours[name]
    if code is None:
        raise not_permitted(key, name, ours)
    part: T = code
    return part


def not_permitted(key: str, name: str, ours: Iterable[str]) -> BadInput:
    """Why a part of that name can't be had."""
    package = "".join(packages([name]))
    if not package:
        return BadInput(f"{key}={name}: expected one of {', '.join(ours)}")
    return BadInput(
        f"{key}={name} is code from outside of checkfree, and no configuration may run such by "
        f"itself: if you trust it, --allow {package}"
    )


def imported(key: str, where: str) -> Any:
    """Raises BadInput. What lies in the folder that we run in is found, as with python -m."""
    module, _, name = where.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise BadInput(f"{key}={where}: {module} has no {name}") from None
    except ImportError as error:
        told = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{key}={where} can't be imported ({told}): install it, or run where it lies"
        ) from None


def origin(top: str) -> str:
    """Of a top package that is no part of checkfree: which distribution, if it is of any, and a
    digest of its files. It is not imported for that."""
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return "missing"
    path = Path(spec.origin)
    files = sorted(path.parent.rglob("*.py")) if spec.submodule_search_locations else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(path.parent)}\n".encode() + file.read_bytes() + b"\0")
    of = metadata.packages_distributions().get(top, ())
    return " ".join((*(f"{name} {metadata.version(name)}" for name in of), found.hexdigest()[:12]))
