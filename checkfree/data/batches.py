"""Which tokens a microbatch holds: a pure function, so nothing has to be remembered to resume.

Training: row r of microbatch m of iteration i is the window of ``context + 1`` training tokens
that starts at ``derive(seed, "data", i, m, r) mod (tokens - context)``: a uniform draw, with
replacement, at any offset. An iteration that is tried again, or trained again after a rollback,
sees the same tokens, and a resumed run goes on with the same stream, on any machine. Windows run
over the ends of documents, which a separator marks, but never over the split.

Validation: the text is laid out in windows that share only the token that is the last target of one
and the first input of the next; microbatch m always holds the same of them. They are taken in steps
of about 0.618 of the text, so that any number of microbatches is spread over all of it, and none
comes twice before all have been taken. No seed is involved: runs with different seeds are measured
on the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.units import derive
from checkfree.data.tokenizers import Tokens
from checkfree.data.tokens import Check, Split


@dataclass(frozen=True, eq=False)
class Data:
    """A corpus, ready to be trained on. Made by ``open_data``."""

    name: str
    split: Split
    context: int
    """Tokens per sequence; a window has one more, for the last target."""
    batch: int
    """Sequences per microbatch."""
    seed: int
    """The run's."""
    source: str | None = None
    """What the text came with, such as the version of Python."""

    @property
    def vocabulary(self) -> int:
        """Every token is below it."""
        return self.split.vocabulary

    @property
    def content_hash(self) -> str:
        """SHA-256 over all documents, names and order included; not over the split."""
        return self.split.content_hash

    @property
    def train_tokens(self) -> int:
        """Tokens of the training text."""
        return len(self.split.train)

    @property
    def validation_tokens(self) -> int:
        """Tokens of the validation text."""
        return len(self.split.validation)

    def describe(self) -> dict[str, object]:
        """What a run's records say of its data: plain JSON, no path of the machine."""
        return {
            "name": self.name,
            "source": self.source,
            "content_hash": self.content_hash,
            "tokenizer": self.split.tokenizer,
            "vocabulary": self.vocabulary,
            "separator": self.split.separator,
            "train_tokens": self.train_tokens,
            "validation_tokens": self.validation_tokens,
            "documents": None if self.split.documents is None else list(self.split.documents),
        }

    def text(self) -> dict[str, object]:
        """What a run's records say of the text itself: what was read, skipped, dropped, as
        ``TextCounts`` has it; {} if nobody counted."""
        return {} if self.split.counts is None else self.split.counts.plain()

    def train(self, iteration: int, microbatch: int) -> Tensor:
        """Training tokens, int64 (batch, context + 1): inputs ``[:, :-1]``, targets ``[:, 1:]``.

        Raises BadInput if a token is not below the vocabulary, or a file of them is damaged.
        """
        span = self.train_tokens - self.context
        draws = (derive(self.seed, "data", iteration, microbatch, row) for row in range(self.batch))
        return self._windows(
            self.split.checks[0], self.split.train, [draw % span for draw in draws]
        )

    def validation(self, iteration: int, microbatch: int) -> Tensor:
        """Validation tokens, int64 (batch, context + 1), the same for every iteration.

        Raises BadInput if a token is not below the vocabulary, or a file of them is damaged.
        """
        count = (self.validation_tokens - 1) // self.context
        step = _spread(count)
        numbers = range(microbatch * self.batch, (microbatch + 1) * self.batch)
        starts = [number * step % count * self.context for number in numbers]
        return self._windows(self.split.checks[1], self.split.validation, starts)

    def _windows(self, check: Check, tokens: Tokens, starts: Sequence[int]) -> Tensor:
        for start in starts:
            check(start, start + self.context + 1)
        rows = [tokens[start : start + self.context + 1] for start in starts]
        windows = np.stack(rows).astype(np.int64)
        if windows.max() >= self.vocabulary:
            file = getattr(tokens, "filename", f"data.name {self.name}")  # of what is mapped
            mend = "mend the vocabulary in its sidecar"
            if self.name != "bin":
                mend = "delete its folder, and the text is tokenized again"
            raise BadInput(
                f"{file}: token {windows.max()} in the text, expected tokens below the vocabulary "
                f"of {self.vocabulary}; {mend}"
            )
        return torch.from_numpy(windows)


def _spread(count: int) -> int:
    """A step of about ``0.618 * count`` that visits all of ``count`` before any comes again."""
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return step
