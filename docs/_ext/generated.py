"""A directive whose content is generated when the site is built.

What generates it returns MyST text and imports nothing of Sphinx, so that tests can read the same
text without a build.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def add_directive(app: Any, name: str, render: Callable[[], str]) -> dict[str, Any]:
    """Register ``name`` with the Sphinx application, and say what its extension may do. A ``#``
    heading of the text becomes a section of the page that the directive stands on."""
    from docutils.nodes import Node
    from sphinx.util.docutils import SphinxDirective

    class Generated(SphinxDirective):
        def run(self) -> list[Node]:
            return self.parse_text_to_nodes(render(), allow_section_headings=True)

    app.add_directive(name, Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
