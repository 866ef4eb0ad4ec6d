"""With ``python -O`` nothing of checkfree's is asserted, and all goes as it goes without."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import checkfree
from checkfree.messages.control import Message
from tests.tiny import Log

PACKAGE = Path(checkfree.__file__).parent


def test_what_tests_and_their_helpers_assert_is_heard() -> None:
    """Also with PYTHONOPTIMIZE=1, as ``make test-optimized`` runs them: pytest sees to it."""
    with pytest.raises(AssertionError):
        assert Log is None
    with pytest.raises(AssertionError):
        Log().deliver(Message())


def asserted() -> Iterator[tuple[str, ast.expr]]:
    """All that checkfree asserts, and where."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.test


def narrows(test: ast.expr) -> bool:
    """It tells a type checker what is known: ``x is not None``, or ``isinstance(x, Y)``."""
    match test:
        case ast.Compare(ast.Name() | ast.Attribute(), [ast.IsNot()], [ast.Constant(None)]):
            return True
        case ast.Call(ast.Name("isinstance"), [ast.Name() | ast.Attribute(), _]):
            return True
    return False


def test_only_types_are_asserted() -> None:
    """What would be decided by an assert, or have an effect in one, would be another with -O."""
    found = dict(asserted())
    assert found and [where for where, test in found.items() if not narrows(test)] == []
