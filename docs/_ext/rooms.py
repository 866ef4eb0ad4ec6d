"""The picture of the rooms: ``python docs/_ext/rooms.py`` draws ``docs/rooms.svg`` from imports.

A room stands above all that it imports from. A line is drawn where no longer way leads there: with
all of them nobody would see anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1]
PICTURE = DOCS / "rooms.svg"
PACKAGE = DOCS.parent / "checkfree"

TOLD = {
    "cli": "the commands, one a file",
    "study": "many runs: compare, branch, one pool",
    "session": "from a configuration to a run that trains",
    "runtime": "carries messages: one process, a swarm",
    "simulator": "the very lead, on described machines",
    "config": "read, checked, parts from outside",
    "worker": "computes, steps, rebuilds; no I/O",
    "lead": "begins, commits, repairs; no I/O",
    "recovery": "what becomes of a lost stage",
    "stage": "a module and its optimizer",
    "data": "text to tokens to microbatches",
    "report": "pages and pictures, from records",
    "messages": "what crosses a wire",
    "pipeline": "routes and schedules",
    "failures": "what is lost, and when",
    "plugins": "code that is not ours, permitted",
    "core": "the words that all speak",
    "models": "LLaMa and GPT",
    "configs": "configurations that ship",
}
"""Each room in five words."""

Graph = Mapping[str, frozenset[str]]
WIDE, HIGH, GAP, STEP = 226, 46, 18, 84
"""Of a box and between two of a row, and from a row to the next; in pixels."""


def imports(package: Path = PACKAGE) -> Graph:
    """Each room, and those that it imports from when it runs: types alone don't count."""
    rooms = {path.stem for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in package.glob("[a-z]*.py")}
    found = {}
    for room in rooms:
        files = sorted((package / room).rglob("*.py")) or [package / f"{room}.py"]
        used = {name for file in files for name in _named(ast.parse(file.read_text()))}
        found[room] = frozenset(used & rooms - {room})
    return found


def _named(tree: ast.AST) -> Iterator[str]:
    """The rooms of all imports, but those for type checkers."""
    match tree:
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=rest):
            for statement in rest:
                yield from _named(statement)
        case ast.ImportFrom(module=str(module)) if module.startswith("checkfree."):
            yield module.split(".")[1]
        case ast.ImportFrom(module="checkfree", names=names):
            yield from (alias.name for alias in names)
        case _:
            for child in ast.iter_child_nodes(tree):
                yield from _named(child)


def rows(graph: Graph) -> list[list[str]]:
    """The rooms from the top down: each above all that it imports from, as low as it can be."""

    @cache
    def height(room: str) -> int:
        return max((height(below) + 1 for below in graph[room]), default=0)

    top = max(map(height, graph))
    levels = [sorted(room for room in graph if height(room) == n) for n in range(top, -1, -1)]
    middle: dict[str, float] = {}
    for level in levels:  # each room about below those that lead there: fewer lines cross
        above = {
            room: [middle[one] for one, other in lines(graph) if other == room] for room in level
        }
        level.sort(key=lambda room: (sum(above[room]) / max(1, len(above[room])), room))
        middle |= {room: number - (len(level) - 1) / 2 for number, room in enumerate(level)}
    return levels


def lines(graph: Graph) -> list[tuple[str, str]]:
    """The imports that no way over another room stands for."""

    @cache
    def below(room: str) -> frozenset[str]:
        return graph[room].union(*(below(other) for other in graph[room]))

    return sorted(
        (room, other)
        for room, used in graph.items()
        for other in used
        if not any(other in below(between) for between in used - {other})
    )


def svg(graph: Graph) -> str:
    """The picture. It is legible on white and on black."""
    levels = rows(graph)
    width = max(len(level) for level in levels) * (WIDE + GAP) + GAP
    place = {
        room: (
            (width - len(level) * (WIDE + GAP) + GAP) / 2 + number * (WIDE + GAP),
            GAP + row * STEP,
        )
        for row, level in enumerate(levels)
        for number, room in enumerate(level)
    }
    height = len(levels) * STEP - STEP + HIGH + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="Rooms of checkfree">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#7a8794"/></marker></defs>',
    ]
    for room, other in lines(graph):
        (x, y), (to_x, to_y) = place[room], place[other]
        x, y, to_x = x + WIDE / 2, y + HIGH, to_x + WIDE / 2
        bend = (to_y - y) / 2
        parts.append(
            f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}" '
            'fill="none" stroke="#7a8794" stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in place.items():
        middle = x + WIDE / 2
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="7" fill="#eef4f8" '
            'stroke="#35607f"/>'
            f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle" font-size="14" '
            f'font-weight="600" fill="#12384f">{room}</text>'
            f'<text x="{middle:g}" y="{y + 36:g}" text-anchor="middle" font-size="10.5" '
            f'fill="#3c4a55">{escape(TOLD[room])}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(svg(imports()), encoding="utf-8")
