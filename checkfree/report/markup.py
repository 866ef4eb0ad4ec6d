"""Small pieces of HTML. Whatever comes from outside passes through ``escape``."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from checkfree.report.looks import Fill, Look

NOTHING = "–"


def escape(text: object) -> str:
    """Text as HTML shows it, quotes included."""
    return html.escape(str(text), quote=True)


def breakable(text: object) -> str:
    """The same as ``escape``, with places where a narrow column may break it."""
    found = escape(text)
    for mark in ("(", ",", "_"):
        found = found.replace(mark, f"<wbr>{mark}" if mark == "(" else f"{mark}<wbr>")
    return found


def cell(main: str, *below: str, text: bool = False) -> str:
    """A table cell: a number and, smaller under it, what to know about it. Both are HTML."""
    rest = "".join(f"<small>{line}</small>" for line in below if line)
    return f"<td{' class=text' if text else ''}>{main}{rest}</td>"


def head(main: str, *below: str) -> str:
    """The head of a row."""
    rest = "".join(f"<small>{line}</small>" for line in below if line)
    return f'<th scope="row">{main}{rest}</th>'


def table(columns: Sequence[str], rows: Iterable[str], name: str) -> str:
    """In a box that scrolls by itself. ``columns`` are plain words, one that ends in ``|`` is of
    text; ``rows`` are whole ``<tr>``."""
    heads = "".join(
        f'<th scope="col"{" class=text" if column.endswith("|") else ""}>'
        f"{escape(column.rstrip('|'))}</th>"
        for column in columns
    )
    box = f'<div class="box" role="region" tabindex="0" aria-label="{escape(name)}">'
    return (
        f"{box}<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def divider(text: str, columns: int) -> str:
    """A row that names the rows below it."""
    span = f'<th colspan="{columns}" scope="rowgroup"><span>{escape(text)}</span></th>'
    return f'<tr class="rate">{span}</tr>'


def swatch(look: Look) -> str:
    """The line and marker of a strategy, as its plots draw them."""
    dash = f' stroke-dasharray="{",".join(f"{s:g}" for s in look.strokes)}"' if look.strokes else ""
    line = f'<line x1="0" y1="5" x2="30" y2="5" stroke="{look.color}" stroke-width="2"{dash}/>'
    return f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}{_dot(look)}</svg>'


def symbol(marker: str, color: str) -> str:
    """A marker alone."""
    drawn = f'<g fill="{color}" stroke="{color}">{_SHAPES.get(marker, _SHAPES["circle"])}</g>'
    return (
        '<svg class="swatch" style="width:14px;margin-right:5px" viewBox="8 0 14 10" '
        f'aria-hidden="true">{drawn}</svg>'
    )


def tile(fill: Fill) -> str:
    """A piece of a bar as the ledger draws it."""
    white = "rgba(255,255,255,.75)"
    lines = {
        "/": f"repeating-linear-gradient(135deg,{white} 0 1px,transparent 1px 4px)",
        "\\": f"repeating-linear-gradient(45deg,{white} 0 1px,transparent 1px 4px)",
        "-": f"repeating-linear-gradient(0deg,{white} 0 1px,transparent 1px 4px)",
        ".": f"radial-gradient({white} 1px,transparent 1.2px) 0 0/4px 4px",
        "x": f"repeating-linear-gradient(45deg,{white} 0 1px,transparent 1px 4px),"
        f"repeating-linear-gradient(135deg,{white} 0 1px,transparent 1px 4px)",
    }
    over = f"{lines[fill.shape]}," if fill.shape else ""
    ground = f"{over}linear-gradient({fill.color},{fill.color})"
    return f'<i class="tile" style="background:{ground}" aria-hidden="true"></i>'


def _dot(look: Look) -> str:
    shape = _SHAPES.get(look.marker, _SHAPES["circle"])
    return f'<g fill="{look.color}" stroke="none">{shape}</g>'


def _polygon(*points: tuple[float, float]) -> str:
    return f'<polygon points="{" ".join(f"{15 + x:g},{5 + y:g}" for x, y in points)}"/>'


def _round(corners: int, size: float, inner: float = 1.0, turn: float = -90.0) -> str:
    """A polygon about the middle; ``inner`` below 1 makes a star of it."""
    steps = corners * (2 if inner < 1 else 1)
    points = []
    for place in range(steps):
        radius = size * (inner if place % 2 and inner < 1 else 1)
        angle = math.radians(turn + 360 * place / steps)
        points.append((round(radius * math.cos(angle), 2), round(radius * math.sin(angle), 2)))
    return _polygon(*points)


_SHAPES = {
    "circle": '<circle cx="15" cy="5" r="3.6"/>',
    "square": '<rect x="11.6" y="1.6" width="6.8" height="6.8"/>',
    "diamond": _round(4, 4.6),
    "triangle-up": _round(3, 4.8),
    "triangle-down": _round(3, 4.8, turn=90),
    "pentagon": _round(5, 4.4),
    "hexagon": _round(6, 4.4),
    "star": _round(5, 5, 0.4),
    "bowtie": _polygon((-4, -4), (4, 4), (4, -4), (-4, 4)),
    "cross": '<path d="M11 5h8M15 1v8" stroke="#000" stroke-width="3" fill="none"/>',
    "x": '<path d="M12 2l6 6M18 2l-6 6" stroke-width="2.4" fill="none"/>',
}


def choice(key: str, title: str, options: Sequence[tuple[object, str]]) -> str:
    """Buttons of which one is down; nothing if there is nothing to choose."""
    if len(options) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-value="{escape(value)}" aria-pressed="false">'
        f"{escape(name)}</button>"
        for value, name in options
    )
    what = f'<span class="what">{escape(title)}</span>'
    chosen = f'<div class="choice" role="group" data-key="{key}" aria-label="{escape(title)}">'
    return f'<div class="group">{what}{chosen}{buttons}</div></div>'


def toggle(flag: str, title: str) -> str:
    return (
        f'<button type="button" class="toggle" data-flag="{flag}" aria-pressed="false">'
        f"{escape(title)}</button>"
    )


def plot(name: str, empty: str) -> str:
    """Where ``script`` draws, and what stands there if there is nothing to draw."""
    return (
        f'<div class="plot" id="{name}"></div>'
        f'<p class="empty" id="{name}-empty" hidden>{escape(empty)}</p>'
    )


def data_script(data: Any) -> str:
    """Data that a script reads; no text in it can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="data">{safe}</script>'
