"""checkfree: pipeline-parallel training that survives the loss of whole stages.

    import checkfree

    run = checkfree.train("demo")
    run = checkfree.train(stages=[edge, *blocks], batches=batches, config={"iterations": 100})
    compared = checkfree.compare("demo", strategies=["auto", "checkpoint(interval=25)"], seeds=3)

What is public stands in ``__all__``, and only there. Importing this package imports no torch;
using what trains, or holds tensors, does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkfree.config.load import load
    from checkfree.core.config import Config, DataConfig
    from checkfree.core.errors import BadInput, RunFailed
    from checkfree.core.ops import (
        Address,
        Kind,
        Mirror,
        Op,
        Recipe,
        Refusal,
        Repair,
        Route,
        Schedule,
        Source,
        Transfer,
        Upload,
        View,
    )
    from checkfree.core.records import read
    from checkfree.data.documents import Corpus, Document, Skipped
    from checkfree.failures import Failure
    from checkfree.failures.samplers import Setting
    from checkfree.messages.tensors import StageState
    from checkfree.pipeline.routes import neighbours
    from checkfree.recovery.average import Inexact, average_states
    from checkfree.recovery.fit.activations import BufferLimits
    from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each
    from checkfree.report.branches import Branching
    from checkfree.session.export import Exported, export
    from checkfree.session.merge import Merged, merge
    from checkfree.session.session import Run
    from checkfree.session.train import resume, train
    from checkfree.session.verify import Outcome, verify
    from checkfree.simulator.fleet import Fleet, Link
    from checkfree.study.branch import branch
    from checkfree.study.compare import Comparison, compare
    from checkfree.study.simulation import Simulation, simulate

    __version__: str

__all__ = [
    "Address",
    "BadInput",
    "Branching",
    "BufferLimits",
    "Comparison",
    "Config",
    "Corpus",
    "DataConfig",
    "Document",
    "Exported",
    "Failure",
    "Fleet",
    "Fresh",
    "Inexact",
    "Kind",
    "Link",
    "Merged",
    "Mirror",
    "Op",
    "Outcome",
    "Rebuilding",
    "Recipe",
    "Refusal",
    "Repair",
    "Route",
    "Run",
    "RunFailed",
    "Schedule",
    "Setting",
    "Simulation",
    "Skipped",
    "Source",
    "StageState",
    "Strategy",
    "Transfer",
    "Upload",
    "View",
    "__version__",
    "average_states",
    "branch",
    "compare",
    "export",
    "load",
    "merge",
    "neighbours",
    "read",
    "repair_each",
    "resume",
    "simulate",
    "train",
    "verify",
]

_MODULES = {
    "session.train": "train resume",
    "study.compare": "compare Comparison",
    "study.branch": "branch",
    "session.merge": "merge Merged",
    "session.verify": "verify Outcome",
    "session.export": "export Exported",
    "study.simulation": "simulate Simulation",
    "config.load": "load",
    "core.records": "read",
    "session.session": "Run",
    "report.branches": "Branching",
    "core.config": "Config DataConfig",
    "core.errors": "BadInput RunFailed",
    "recovery.strategy": "Strategy Rebuilding Fresh repair_each",
    "core.ops": (
        "Address Route Schedule Op Kind View Source Recipe Repair Refusal Mirror Transfer Upload"
    ),
    "recovery.fit.activations": "BufferLimits",
    "messages.tensors": "StageState",
    "recovery.average": "Inexact average_states",
    "pipeline.routes": "neighbours",
    "failures.samplers": "Setting",
    "failures": "Failure",
    "data.documents": "Corpus Document Skipped",
    "simulator.fleet": "Fleet Link",
}
"""The modules below ``checkfree`` that the public names are of."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("checkfree")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'checkfree' has no attribute {name!r}")
    return getattr(import_module(f"checkfree.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
