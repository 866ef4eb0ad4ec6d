"""checkfree: pipeline-parallel training that survives the loss of whole stages.

    import checkfree

    run = checkfree.train("configs/demo.yaml")
    run = checkfree.train(stages=[edge, *blocks], batches=batches, config={"iterations": 100})

Importing this package imports no torch; using ``train`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkfree.core.config import Config
    from checkfree.core.errors import BadInput, RunFailed
    from checkfree.session.session import Run
    from checkfree.session.train import resume, train

__all__ = ["BadInput", "Config", "Run", "RunFailed", "resume", "train"]

_HOMES = {
    "BadInput": "checkfree.core.errors",
    "Config": "checkfree.core.config",
    "Run": "checkfree.session.session",
    "RunFailed": "checkfree.core.errors",
    "resume": "checkfree.session.train",
    "train": "checkfree.session.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'checkfree' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
