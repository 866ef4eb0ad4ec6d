"""The public names of the package, from its ``__all__``.

The package loads them when they are asked for, so each is looked up here to see what it is.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from typing import Any

import checkfree
from _ext.configuration import texts_after
from _ext.generated import add_directive

ELSEWHERE = {"Config": "Its fields are the keys of a {doc}`configuration <configuration>`."}
"""Classes whose members another page tells of, and where."""

GROUPS = {
    "autofunction": "Functions",
    "autoclass": "Classes",
    "autoexception": "Errors",
    "py:data": "Types",
}


def directive_for(name: str) -> str:
    """That of autodoc which shows a public name."""
    found = getattr(checkfree, name)
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(found) else "py:data"


def render() -> str:
    """All names as MyST text, one section for each kind of them."""
    kinds = {name: directive_for(name) for name in checkfree.__all__}
    parts = []
    for directive, title in GROUPS.items():
        names = [name for name, kind in kinds.items() if kind == directive]
        if names:
            parts += [f"## {title}\n", *(_shown(name, directive) for name in names)]
    return "\n".join(parts)


def _shown(name: str, directive: str) -> str:
    options = text = after = ""
    signature = "(**keys)" if name in ELSEWHERE else ""
    if directive == "py:data":
        options, text = f"   :value: {type_of(name)}\n", text_of(name).replace("\n", "\n   ")
    elif name in ELSEWHERE:
        after = f"\n{ELSEWHERE[name]}\n"
    elif directive == "autoclass":
        options = "   :members:\n"
    told = f"\n   {text}\n" if text else ""
    shown = f".. {directive}:: checkfree.{name}{signature}\n{options}{told}"
    return f"```{{eval-rst}}\n{shown}```\n{after}"


def type_of(name: str) -> str:
    """What a name stands for, without the rooms that its parts are of."""
    return re.sub(r"\b\w+\.(?=\w)", "", repr(getattr(checkfree, name)))


def text_of(name: str) -> str:
    """The string literal after the line that defines a name which is neither class nor function:
    what Python tells of such a one is its type's text. "" if there is none."""
    if name == "__version__":
        return "The version that is installed."
    found = getattr(checkfree, name)
    for room, module in sorted(sys.modules.items()):
        if room.startswith("checkfree.") and vars(module).get(name) is found:
            text = texts_after(ast.parse(inspect.getsource(module)).body).get(name)
            if text is not None:
                return text
    return ""


def skip(app: Any, what: str, name: str, obj: object, skipped: bool, options: Any) -> bool | None:
    """Fields of a named tuple have texts that Python made: "Alias for field number 0"."""
    made = (inspect.getdoc(obj) or "").startswith("Alias for field number")
    return True if made else None


def shorten(
    app: Any, what: str, name: str, obj: object, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """A default that is made anew each time is written so that Sphinx can read the signature."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def setup(app: Any) -> dict[str, Any]:
    """Register ``{public-names}``."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", shorten)
    return add_directive(app, "public-names", render)
