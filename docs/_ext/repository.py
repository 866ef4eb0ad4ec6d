"""Markdown of the repository that is shown on the site too: the experiments, CONTRIBUTING.md.

Each file becomes a page that git does not see, written when the site is built. Only its links
change: to another page where there is one, else to the file itself, which Sphinx then offers as a
download. A folder that is no page has nothing to offer: its path is told instead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?)\[((?:`[^`]*`|[^\[\]])*)\]\(([^()\s]+)\)")
"""An image or a link, its text and its target."""


def pages() -> dict[Path, Path]:
    """Each file that is shown, and the page that it becomes."""
    experiments = ROOT / "experiments"
    folders = {
        file: DOCS / "experiments" / f"{file.parent.name}.md"
        for file in sorted(experiments.glob("*/README.md"))
    }
    return {
        experiments / "README.md": DOCS / "experiments" / "index.md",
        **folders,
        experiments / "LOG.md": DOCS / "experiments" / "log.md",
        ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    }


def relinked(text: str, file: Path, page: Path) -> str:
    """The text of a file, with links that hold from the page."""

    def shown_from(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, _, part = target.partition("#")
        if not path or ":" in path:
            return link[0]
        found = Path(os.path.normpath(file.parent / path))
        if not found.exists():
            raise FileNotFoundError(f"{file.relative_to(ROOT)} links to {target}: no such file")
        index = found / "README.md"
        shown = pages().get(index if index.is_file() else found, found)
        if shown.is_dir():
            return f"{text} (`{found.relative_to(ROOT)}`)"
        away = os.path.relpath(shown, page.parent)
        return f"{image}[{text}]({away}{'#' + part if part else ''})"

    return LINK.sub(shown_from, text)


def rendered(file: Path, page: Path) -> str:
    """What stands on the page of a file."""
    text = relinked(file.read_text(encoding="utf-8"), file, page)
    listed = [shown.stem for shown in pages().values() if shown.parent == page.parent]
    if page.name != "index.md":
        return text
    return f"{text}\n```{{toctree}}\n:hidden:\n\n" + "\n".join(listed[1:]) + "\n```\n"


def write(app: Any = None) -> None:
    """Write each page that is new or has changed, and remove those of files that are gone."""
    shown = pages()
    for old in set((DOCS / "experiments").glob("*.md")) - set(shown.values()):
        old.unlink()
    for file, page in shown.items():
        text = rendered(file, page)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text, encoding="utf-8")


def read(app: Any, name: str, content: list[str]) -> None:
    """Have links of the site's own pages, which hold in the repository, lead to pages."""
    page = DOCS / f"{name}.md"
    if page not in pages().values():
        content[0] = relinked(content[0], page, page)


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
