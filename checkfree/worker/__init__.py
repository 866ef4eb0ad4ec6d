"""The stage worker: messages in, messages out; hosted unchanged by every runtime."""

from checkfree.worker.casting import Casting
from checkfree.worker.equipment import Batches, Equipment
from checkfree.worker.worker import StageWorker

__all__ = ["Batches", "Casting", "Equipment", "StageWorker"]
