"""The rules that lost stages are rebuilt by, from the table that the code goes by."""

from __future__ import annotations

from typing import Any

from _ext.generated import add_directive
from checkfree.recovery.rungs import LADDER


def render() -> str:
    """A table as MyST text: each rule in its order, what a stage becomes by it, and its needs."""
    rows = [
        f"| `{rule.name}` | {rule.gives} | {rule.needs} | {'yes' if rule.exact else 'no'} |"
        for rule in LADDER
    ]
    head = ("| rung | a lost stage becomes | needs | the same bits |", "|---|---|---|---|")
    return "\n".join([*head, *rows, ""])


def setup(app: Any) -> dict[str, Any]:
    """Register ``{ladder}``."""
    return add_directive(app, "ladder", render)
