"""What holds for all tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import settings

# pytest makes statements of its own of what these assert, as of what tests do, so that they are
# heard with ``PYTHONOPTIMIZE=1`` too, where checkfree's own asserts are not.
_helpers = {path.stem for path in Path(__file__).parent.iterdir()} - {"conftest", "__init__"}
pytest.register_assert_rewrite(*sorted(f"tests.{name}" for name in _helpers))

settings.register_profile("patient", deadline=None)  # nothing is asserted of time, load or not
settings.load_profile("patient")

if importlib.util.find_spec("xdist") is not None:
    from xdist.scheduler import LoadFileScheduling

    class ModulesWhole(LoadFileScheduling):
        """Gives each worker whole modules, for what they train once for all their tests is trained
        twice otherwise; and all that has a swarm to the first of them: the many processes of two
        swarms at once would only wait for each other."""

        def _split_scope(self, nodeid: str) -> str:
            module = super()._split_scope(nodeid)
            return "swarms" if has_swarm(module) else module

    @pytest.hookimpl(optionalhook=True)  # with -p no:xdist nobody asks
    def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ModulesWhole | None:
        """For ``-n``, unless a ``--dist`` says otherwise."""
        config.option.loadscopereorder = False
        return ModulesWhole(config, log) if config.option.dist == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left with it at the end. What tests Muon
    says so in its name, and is left out where torch has none, which came with 2.9."""
    items.sort(key=lambda item: not has_swarm(item.nodeid.partition("::")[0]))
    import torch  # only now: not all that have this file test with it

    if not hasattr(torch.optim, "Muon"):
        lacks = pytest.mark.skip(reason=f"torch {torch.__version__} has no Muon")
        for item in items:
            if "muon" in item.name and "without" not in item.name:
                item.add_marker(lacks)


def has_swarm(module: str) -> bool:
    """Whether most tests of a module start a swarm."""
    path = PurePath(module)
    swarms = ("test_swarm", "test_soak", "test_spot")
    return path.parent.name == "process" and path.name.startswith(swarms)
