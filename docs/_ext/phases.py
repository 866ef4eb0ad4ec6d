"""The phases of the lead, from the table that it goes by."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from _ext.configuration import texts_after
from _ext.generated import add_directive
from checkfree.lead import phase
from checkfree.lead.phase import MOVES, Phase


def render() -> str:
    """Two tables as MyST text: what each phase waits for, and each way from one to the next."""
    (enum,) = (
        node
        for node in ast.parse(inspect.getsource(phase)).body
        if isinstance(node, ast.ClassDef) and node.name == Phase.__name__
    )
    texts = texts_after(enum.body)
    phases = [f"| {one.value} | {' '.join(texts[one.name].split())} |" for one in Phase]
    moves = [f"| {one.value} | {other.value} | {when} |" for (one, other), when in MOVES.items()]
    return "\n".join(
        [
            *("| phase | the lead waits until |", "|---|---|", *phases, ""),
            *("| from | to | when |", "|---|---|---|", *moves, ""),
        ]
    )


def setup(app: Any) -> dict[str, Any]:
    """Register ``{lead-phases}``."""
    return add_directive(app, "lead-phases", render)
