"""The stage worker: messages in, messages out; hosted unchanged by every runtime."""

from checkfree.worker.casting import Casting
from checkfree.worker.context import Batches, WorkerContext
from checkfree.worker.worker import StageWorker

__all__ = ["Batches", "Casting", "StageWorker", "WorkerContext"]
