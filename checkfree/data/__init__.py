"""Text to tokens, and tokens to microbatches: pure, so that a retried iteration sees the same."""

from checkfree.data.batches import Data
from checkfree.data.opening import open_data

__all__ = ["Data", "open_data"]
