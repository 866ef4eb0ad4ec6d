"""How each strategy looks in every plot: a colour of Okabe and Ito, a dash and a marker of its own.

So strategies can be told apart in print, and by people with any kind of colour vision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkfree.core.cost import BYTES, SECONDS
from checkfree.report.study.model import REFERENCE


@dataclass(frozen=True)
class Style:
    """``dash`` and ``marker`` are plotly's words; the others matplotlib's and SVG's."""

    color: str
    dash: str
    marker: str
    strokes: tuple[float, ...]
    """Lengths drawn and left out, in line widths; empty: solid."""
    symbol: str
    """The marker in matplotlib's words."""


_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
_DASHES = (
    ("solid", ()),
    ("8px,3px", (8, 3)),
    ("2px,3px", (2, 3)),
    ("9px,3px,2px,3px", (9, 3, 2, 3)),
    ("14px,4px", (14, 4)),
    ("14px,3px,2px,3px,2px,3px", (14, 3, 2, 3, 2, 3)),
)
_MARKERS = (
    ("circle", "o"),
    ("square", "s"),
    ("diamond", "D"),
    ("triangle-up", "^"),
    ("triangle-down", "v"),
    ("pentagon", "p"),
    ("star", "*"),
)
_REFERENCE = Style("#000000", "solid", "cross", (), "P")


def styles_of(labels: Sequence[str]) -> Mapping[str, Style]:
    """A style for each label; the reference is black and solid. Repeats after 42 labels."""
    found = {REFERENCE: _REFERENCE}
    for place, label in enumerate(label for label in labels if label != REFERENCE):
        dash, strokes = _DASHES[place % len(_DASHES)]
        marker, symbol = _MARKERS[place % len(_MARKERS)]
        found[label] = Style(_COLORS[place % len(_COLORS)], dash, marker, strokes, symbol)
    return found


@dataclass(frozen=True)
class Fill:
    """Of a bar: colour and hatching, as plotly and as matplotlib call it."""

    color: str
    shape: str
    hatch: str


_FILLS = (
    Fill("#0072B2", "", ""),
    Fill("#D9D9D9", "", ""),
    Fill("#56B4E9", "/", "///"),
    Fill("#CC79A7", "\\", "\\\\\\"),
    Fill("#E69F00", ".", "..."),
    Fill("#000000", "", ""),
    Fill("#009E73", "x", "xxx"),
    Fill("#D55E00", "-", "---"),
    Fill("#7A6A00", "+", "++"),
)
SECONDS_FILLS = dict(zip(SECONDS, _FILLS, strict=True))
_AS_SECONDS = {"validation": "bubble"}  # of which there are no bytes
BYTES_FILLS = {kind: SECONDS_FILLS[_AS_SECONDS.get(kind, kind)] for kind in BYTES}

INK, GREY, PALE = "#1A1A1A", "#5F6368", "#E6E6E6"


def faint(color: str, share: float) -> str:
    """``#RRGGBB`` as a CSS colour of which only ``share`` covers what is behind."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"
