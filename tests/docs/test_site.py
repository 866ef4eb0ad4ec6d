"""The site's pages: what they show runs, their links lead somewhere, and what is generated of the
code leaves nothing out. Without Sphinx, which ``make docs`` has: a warning fails it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from _ext import commands as listed
from _ext import configuration, ladder, phases, python_names, repository, rooms

import checkfree
from checkfree.cli import main
from checkfree.cli.entry import parse
from checkfree.config.load import COMPARE, plain
from checkfree.core.config import Config
from checkfree.lead.phase import MOVES, Phase
from checkfree.recovery.rungs import LADDER
from checkfree.study.options import Options
from tests.docs.commands import ROOT, commands, run_as_shown, targets

DOCS = ROOT / "docs"
GENERATED = set(repository.pages().values())
PAGES = sorted(page for page in DOCS.rglob("*.md") if page not in GENERATED)
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]

OF_A_SWARM = "spot-fleet.md"
OF_SWARMS = (OF_A_SWARM, "hub.md")
"""What they show is done with a swarm's run, which tests/process has."""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    found = {target: (page.parent / target).resolve() for target in targets(page)}
    assert not [t for t, path in found.items() if not (path.exists() or path in GENERATED)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_understood(page: Path) -> None:
    for words in commands(page):
        assert callable(parse(words).run), words


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in OF_SWARMS and commands(page)]
)
def test_commands_run_in_the_order_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_shown(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=["README.md", *NAMES])
def test_calls_from_python_are_understood(page: Path) -> None:
    """Whatever a block calls of checkfree is public, and takes what it is given."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for node in ast.walk(ast.parse("\n".join(blocks))):
        if isinstance(node, ast.ImportFrom) and node.module == "checkfree":
            assert {alias.name for alias in node.names} <= set(checkfree.__all__)
        match node:
            case ast.Call(ast.Attribute(ast.Name("checkfree"), name), args, keywords):
                assert name in checkfree.__all__
                given = {keyword.arg: None for keyword in keywords if keyword.arg}
                inspect.signature(getattr(checkfree, name)).bind(*args, **given)


def test_a_page_shows_a_swarm() -> None:
    shown = {words[1] for words in commands(DOCS / OF_A_SWARM) if words[0] == "swarm"}
    assert shown == set(choices(["swarm"]))


# --- the architecture ----------------------------------------------------------------------------


def test_the_picture_is_of_the_rooms_as_they_are() -> None:
    """Drawn by ``python docs/_ext/rooms.py``."""
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.svg(rooms.imports())


def test_a_room_stands_above_what_it_imports_from() -> None:
    graph = rooms.imports()
    assert {"cli", "session", "core"} <= graph.keys() == rooms.TOLD.keys()
    level = {room: number for number, row in enumerate(rooms.rows(graph)) for room in row}
    assert all(level[room] < level[other] for room, used in graph.items() for other in used)
    drawn = set(rooms.lines(graph))
    assert drawn < {(room, other) for room, used in graph.items() for other in used}


def test_the_map_names_what_there_is() -> None:
    """Each room has its row, and each file that a row names stands where it says."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([\w./]+)` \| (.*) \|$", text, re.MULTILINE)
    assert {room.rstrip("/").removesuffix(".py") for room, _ in table} >= rooms.TOLD.keys() - {
        "configs"
    }
    package, missing = ROOT / "checkfree", []
    for room, told in table:
        for file in re.findall(r"`([\w/]+\.py)`", told):
            missing += [] if (package / room / file).is_file() else [f"{room}{file}"]
    changes = re.search(r"\| you want \| go to \|\n(.*?)\n\n", text, re.DOTALL)
    assert changes is not None
    for row in changes[1].splitlines()[1:]:
        at = package
        for file in re.findall(r"`([\w/]+\.py|[\w/]+/)`", row.split("|")[2]):
            found = next((p for p in (package / file, at.parent / file) if p.exists()), None)
            missing += [file] if found is None else []
            at = found or at
    assert not missing


def test_the_ladder_is_that_of_the_code() -> None:
    page = ladder.render()
    assert all(f"`{rule.name}`" in page for rule in LADDER)
    assert page.index("`replay`") < page.index("`shadow`") < page.index("`checkpoint`")


def test_the_phases_are_those_of_the_lead() -> None:
    page = phases.render()
    assert all(f"| {one.value} | {other.value} | " in page for one, other in MOVES)
    assert page.count("\n| ") >= len(MOVES) + len(Phase)


# --- what is generated ---------------------------------------------------------------------------


def keys(tree: Any, prefix: str) -> Iterator[str]:
    """The names of all values of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_key_has_a_text() -> None:
    page, told = configuration.render(), list(configuration.sections())
    accepted = [*keys(plain(Config()), ""), *keys(plain(Options()), f"{COMPARE}.")]
    texts = {key.name: key.text for section in told for key in section.keys}
    assert sorted(texts) == sorted(accepted)
    assert all(f"```{{confval}} {key}\n" in page for key in accepted)
    assert not [key for key, text in texts.items() if not text.strip()]
    assert not [section.name for section in told if not section.text.strip()]


def choices(words: list[str]) -> list[str]:
    """The commands that ``checkfree … --help`` lists."""
    return re.findall(r"^    ([a-z]\w*)", helped(words), re.MULTILINE)


def helped(words: list[str]) -> str:
    """What ``checkfree … --help`` prints."""
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        main([*words, "--help"])
    return printed.getvalue()


def test_every_command_and_option_is_listed() -> None:
    found = {command.name: command for command in listed.commands()}
    names = choices([])
    inner = [f"{name} {action}" for name in names for action in choices([name])]
    assert "swarm up" in inner
    assert sorted(found) == sorted(f"checkfree {name}" for name in [*names, *inner])
    for name, command in found.items():
        shown = set(re.findall(r"^  (--[a-z-]+)", helped(name.split()[1:]), re.MULTILINE))
        assert {argument.written.split()[0] for argument in command.arguments} >= shown
        assert all(argument.text for argument in command.arguments), name
        assert f"# {name}\n" in listed.render()


@pytest.mark.parametrize("hidden", ["--workdir", "--only"])
def test_hidden_options_are_not(hidden: str) -> None:
    assert f"{hidden} " not in listed.render()


def test_every_public_name_is_shown_and_has_a_text() -> None:
    page = python_names.render()
    for name in checkfree.__all__:
        assert f":: checkfree.{name}" in page
        is_type = python_names.directive_for(name) == "py:data"
        found = getattr(checkfree, name)
        assert python_names.text_of(name) if is_type else inspect.getdoc(found), name


def test_pages_of_the_repository_keep_their_links() -> None:
    for file, page in repository.pages().items():
        text = repository.rendered(file, page)
        for _, _, target in repository.LINK.findall(text):
            path = (page.parent / target.partition("#")[0]).resolve()
            assert ":" in target or path.is_file() or path in GENERATED, (file, target)
