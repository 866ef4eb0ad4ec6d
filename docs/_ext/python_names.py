"""The public names of the package, from its ``__all__``.

The package loads them when they are asked for, so each is looked up here to see what it is.
"""

from __future__ import annotations

import inspect
from typing import Any

import checkfree
from _ext.generated import add_directive

ELSEWHERE = {"Config": "Its fields are the keys of a {doc}`configuration <configuration>`."}
"""Classes whose members another page tells of, and where."""

GROUPS = {
    "autofunction": "Functions",
    "autoclass": "Classes",
    "autoexception": "Errors",
    "autodata": "Types",
}


def directive_for(name: str) -> str:
    """That of autodoc which shows a public name."""
    found = getattr(checkfree, name)
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(found) else "autodata"


def render() -> str:
    """All names as MyST text, one section for each kind of them."""
    kinds = {name: directive_for(name) for name in checkfree.__all__}
    parts = []
    for directive, title in GROUPS.items():
        names = [name for name, kind in kinds.items() if kind == directive]
        if names:
            parts += [f"# {title}\n", *(_shown(name, directive) for name in names)]
    return "\n".join(parts)


def _shown(name: str, directive: str) -> str:
    signature = "(**keys)" if name in ELSEWHERE else ""
    options = "   :members:\n" if directive == "autoclass" and not signature else ""
    shown = f"```{{eval-rst}}\n.. {directive}:: checkfree.{name}{signature}\n{options}```\n"
    return f"{shown}\n{ELSEWHERE[name]}\n" if signature else shown


def skip(app: Any, what: str, name: str, obj: object, skipped: bool, options: Any) -> bool | None:
    """Fields of a named tuple have texts that Python made: "Alias for field number 0"."""
    made = (inspect.getdoc(obj) or "").startswith("Alias for field number")
    return True if made else None


def setup(app: Any) -> dict[str, Any]:
    """Register ``{public-names}``."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", skip)
    return add_directive(app, "public-names", render)
