"""What has to be equal in all processes of a run, so that they train the same: the code that a
worker imports, and that of the strategy and the model which the run names. Nothing of the lead,
the commands or a report is among it: those may differ.

Who joins tells the digests of all that a run may name, for it doesn't know yet which run that is;
the lead compares those that its run names.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from checkfree.config.parts import origins
from checkfree.core.config import Config
from checkfree.models.families import FAMILIES
from checkfree.plugins import OUTSIDE, offers, origin, packages
from checkfree.recovery.registry import STRATEGIES
from checkfree.session.job import versions

WORKER = ("worker", "session.blueprint", "stage.optimizer", "pipeline", "data", "recovery.wrappers")
"""What a worker is made of, whatever it trains: modules of ours."""
MAKERS = ("session.assemble",)
"""What makes a worker of a configuration; it imports lead and runtime too, which count for
nothing."""
ONLY_FOR_TYPES = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
"""What is tested before an import that never runs."""
PACKAGE = Path(__file__).parents[2]


def release(config: Config) -> dict[str, str]:
    """Our version, and digests of the code that trains this run."""
    named = {"checkfree", "code", of_strategy(config.recovery.name), _model(config.model.family)}
    outside = tuple(sorted(packages(origins(config))))
    named |= {_package(top) for top in outside}
    return {key: value for key, value in offered(PACKAGE, outside).items() if key in named}


@cache
def offered(package: Path = PACKAGE, allow: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Our version, and digests of the code that trains any run, as it stands in that folder; and of
    packages from outside of checkfree that offer parts of runs, or are allowed to be of use."""
    found = {"checkfree": versions()["checkfree"], "code": digest(package, WORKER, MAKERS)}
    for name, spec in STRATEGIES.items():
        within = spec.module.partition(".")[2]  # its name within our package
        found[of_strategy(name)] = digest(package, (within,))
    for name in FAMILIES:
        found[_model(name)] = digest(package, (f"models.{name}",))
    found |= {_package(top): origin(top) for top in {*allow, *packages(offers())}}
    return found


def packages_of(named: Iterable[str]) -> set[str]:
    """The top packages from outside that a release names."""
    return {key.removeprefix(OUTSIDE) for key in named if key.startswith(OUTSIDE)}


def _package(top: str) -> str:
    return f"{OUTSIDE}{top}"


def of_strategy(name: str) -> str:
    """The key of what a strategy is made of."""
    return f"recovery.name={name}"


def _model(family: str) -> str:
    return f"model.family={family}"


def digest(package: Path, roots: Iterable[str], alone: Iterable[str] = ()) -> str:
    """Twelve hexadecimal digits of all files that the ``roots`` among a package's modules import,
    and of those ``alone``."""
    found = hashlib.sha256()
    for module in sorted(closure(package, roots) | set(alone)):
        path = _file(package, module)
        assert path is not None
        found.update(f"{module}\n".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def closure(package: Path, roots: Iterable[str]) -> set[str]:
    """These modules of a package, and all of it that they import, directly or not, at once or when
    they need it; but what they import for a type checker alone. Its own ``__init__`` is none of
    them: it has what callers want from outside."""
    found, left = set[str](), list(roots)
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += _imports(package, module)
    return found


@cache
def _imports(package: Path, module: str) -> tuple[str, ...]:
    """With the packages that they are in. Raises ValueError if there is no such module."""
    path = _file(package, module)
    if path is None:
        raise ValueError(f"{module} is no module in {package}")
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree, found = ast.parse(path.read_bytes()), list[str]()
    for name in _named(tree.body, f"{package.name}.{inside}".rstrip(".")):
        top, _, own = name.partition(".")
        parts = own.split(".") if top == package.name and own else []
        found += (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return tuple(part for part in found if _file(package, part) is not None)


def _file(package: Path, module: str) -> Path | None:
    path = package.joinpath(*module.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _named(nodes: Iterable[ast.AST], inside: str) -> Iterator[str]:
    """What is imported, by whole names; ``inside``: of which package a relative one is."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ONLY_FOR_TYPES:
            yield from _named(node.orelse, inside)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside.split(".")[: len(inside.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from _named(ast.iter_child_nodes(node), inside)
