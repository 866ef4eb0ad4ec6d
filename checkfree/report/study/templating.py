"""HTML of the page, from ``templates/``. Whatever is put in is escaped; the page's own style and
script, and plotly, are put in as they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

FOLDER = Path(__file__).parent / "templates"


def render(name: str, **values: Any) -> str:
    """A template with these values."""
    return (
        environment()
        .get_template(name)
        .render(
            **values,
            style=_as_it_is("page.css"),
            script=_as_it_is("page.js"),
            plotly=Markup(str(get_plotlyjs()).replace("</script", "<\\/script")),
        )
    )


@cache
def environment() -> Environment:
    """Where templates are made. What a template names and isn't given is an error."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["breakable"] = breakable
    made.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    return made


def breakable(text: object) -> Markup:
    """Text with places where a narrow column may break it."""
    found = escape(text)
    for mark, broken in (("(", "<wbr>("), (",", ",<wbr>"), ("_", "_<wbr>")):
        found = Markup(found.replace(mark, Markup(broken)))
    return found


def _as_it_is(name: str) -> Markup:
    return Markup((FOLDER / name).read_text(encoding="utf-8"))
