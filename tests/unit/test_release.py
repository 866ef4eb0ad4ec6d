"""What joiners must have equal with the lead: the code that trains, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkfree.config.load import build
from checkfree.core.config import Config, RecoveryConfig
from checkfree.models.families import FAMILIES
from checkfree.recovery.registry import STRATEGIES
from checkfree.session.swarm.release import PACKAGE, closure, digest, offered, release

FILES = {
    "__init__.py": "from ours.everything import a\n",
    "alone.py": "import os\n",
    "work/__init__.py": "",
    "work/a.py": "from . import b\nfrom .b import x\nfrom ..alone import y\n",
    "work/b.py": "def f():\n    from ours.late import z\n",
    "late.py": "import ours.work.a\n",
    "types_only.py": "",
    "typed.py": "if TYPE_CHECKING:\n    import ours.types_only\nelse:\n    from ours import late\n",
    "everything.py": "",
}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "ours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "ours"


def test_the_closure_of_imports(ours: Path) -> None:
    assert closure(ours, ["alone"]) == {"alone"}
    assert closure(ours, ["work.a"]) == {"work.a", "work", "work.b", "alone", "late"}
    assert closure(ours, ["typed"]) == {"typed"} | closure(ours, ["work.a"])
    with pytest.raises(ValueError, match="no module"):
        closure(ours, ["missing"])


def test_a_digest_tells_what_is_imported_and_nothing_else(ours: Path) -> None:
    before = digest(ours, ["work.a"])
    (ours / "everything.py").write_text("changed = True\n")
    assert digest(ours, ["work.a"]) == before
    (ours / "late.py").write_text("import ours.work.a  # changed\n")
    assert digest(ours, ["work.a"]) != before


def test_all_that_a_run_may_name_is_offered_and_what_it_names_is_compared() -> None:
    every = offered()
    assert len(every) == 2 + len(STRATEGIES) + len(FAMILIES)
    config = build({"recovery": "checkpoint", "model": {"family": "gpt"}})
    names = {"checkfree", "code", "recovery.name=checkpoint", "model.family=gpt"}
    assert release(config) == {key: every[key] for key in names}


def test_no_stage_s_numbers_come_of_the_lead_commands_or_reports() -> None:
    found = closure(PACKAGE, ["worker", "session.blueprint", "recovery.auto", "models.gpt"])
    rooms = {module.partition(".")[0] for module in found}
    assert not rooms & {"lead", "cli", "report", "study", "simulate", "runtime", "display"}


@pytest.mark.parametrize(
    ("changed", "differ"),
    [
        ("cli/train.py", set()),
        ("lead/lead.py", set()),
        ("report/study/page.py", set()),
        ("worker/compute.py", {"code"}),
        ("recovery/registry.py", {"code"}),
        ("recovery/wrappers.py", {"code"}),
        ("session/assemble.py", {"code"}),
        ("models/gpt.py", {"model.family=gpt"}),
        ("recovery/redundant.py", {"recovery.name=redundant"}),
    ],
)
def test_who_has_other_code_for_something_else_may_join(
    tmp_path: Path, changed: str, differ: set[str]
) -> None:
    pytest.importorskip("hivemind", reason="hivemind is not installed")
    from checkfree.runtime.swarm.joining.handshake import application, refusal
    from checkfree.runtime.swarm.placement.nodes import Node

    copy = tmp_path / "checkfree"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / changed
    path.write_text(path.read_text().replace('"""', '"""Otherwise: ', 1))
    ours, theirs = offered(), offered(copy)
    assert {key for key in ours if ours[key] != theirs[key]} == differ
    said = application(theirs, Node("n", "host"))
    assert bool(refusal(said, release(Config()), True)) == ("code" in differ)
    for name in ("auto", "redundant"):
        config = build({"recovery": name, "model": {"family": "gpt"}})
        named = {"code", f"recovery.name={name}", "model.family=gpt"}
        told = refusal(said, release(config), True)
        assert bool(told) == bool(differ & named)
        assert all(key in told for key in differ & named - {"code"})


def test_strategies_have_code_of_their_own() -> None:
    every = offered()
    plain, other = (every[f"recovery.name={name}"] for name in ("checkfree", "redundant"))
    assert plain != other
    assert RecoveryConfig().name in STRATEGIES
