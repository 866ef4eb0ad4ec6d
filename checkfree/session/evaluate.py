"""How well a trained model tells a text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkfree.core.errors import BadInput
from checkfree.core.text_counts import TextCounts
from checkfree.data import corpora, open_data
from checkfree.data.documents import Document, mend_for
from checkfree.data.tokenizers import Tokens
from checkfree.session.export import trained
from checkfree.session.language_model import LanguageModel
from checkfree.session.saved import SavedState

BATCH_TOKENS = 1 << 13
"""About as many go through the model at once."""

MOST_LOGITS = 1 << 27
"""Or as many as have so many logits together, of which each takes 4 bytes, and its log as many."""

WINDOW = 1024
"""Tokens of a window, at most, where nobody says: models of the Hub look back on far more."""


_ELSEWHERE = "data.path= says where a run's data are now, --text FILE gives another text"


@dataclass(frozen=True)
class Evaluation:
    """``loss`` is the mean over ``tokens``, in nats. ``bytes``: of the text that these are, in
    UTF-8, without what ends documents. ``context``: tokens of a window."""

    model: str
    text: str
    loss: float
    tokens: int
    bytes: int
    context: int

    @property
    def perplexity(self) -> float:
        """The number of tokens, equally likely, that it wavers between."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Which compares models with other tokenizers; None: the tokens are no text."""
        return self.loss * self.tokens / math.log(2) / self.bytes if self.bytes else None


def evaluate(
    model: LanguageModel,
    text: Path | None = None,
    *,
    context: int | None = None,
    most: int | None = None,
    allow: Collection[str] = (),
    watch: Callable[[int], Callable[[], None]] | None = None,
) -> Evaluation:
    """On the documents of a file or folder of text; None: on the validation text of the run that it
    is of. Windows of ``context`` tokens (None: the model's, WINDOW at most) share the last token of
    one and the first of the next; each is seen without what came before. ``most``: tokens that are
    predicted; None: all. ``watch`` is told the number of batches, and called after each. Raises
    BadInput."""
    given = min(model.context, WINDOW) if model.state is None else model.context
    context = given if context is None else context
    if not 1 <= context <= model.context:
        raise BadInput(
            f"--context {context}: expected 1 … {model.context}, which the model can see"
        )
    if most is not None and most < 1:
        raise BadInput(f"--tokens {most}: expected at least 1")
    if text is not None:
        tokens, told = _of_text(model, text), str(text)
    elif model.state is not None:
        tokens, told = _of_run(model.state, allow, model.words), "validation text"
    else:
        raise BadInput(f"{model.name} is no run, and knows no text: give --text FILE or FOLDER")
    tokens = tokens if most is None else tokens[: most + 1]
    if len(tokens) < 2:
        raise BadInput(f"{told}: expected text of at least 2 tokens")
    largest = int(tokens.max())
    if largest >= model.vocabulary:
        raise BadInput(f"{told} has token {largest}, which the model does not know: give another")
    loss = _total(model, tokens, context, watch) / (len(tokens) - 1)
    return Evaluation(
        model.name, told, loss, len(tokens) - 1, model.codec.bytes_of(tokens[1:]), context
    )


def _of_text(model: LanguageModel, path: Path) -> Tokens:
    counts, found = TextCounts(), list[Tokens]()
    try:
        for item in corpora.text(str(path), 0.0).read():
            if isinstance(item, Document):
                found += model.codec.encode([item.text]).tokens
            else:
                counts.skip(item.reason, item.documents, item.bytes)
    except BadInput as error:
        raise BadInput(str(error).replace("data.path", "--text", 1)) from None
    if not found:
        raise BadInput(f"{path}: no document to evaluate; {mend_for(counts, 'give some text')}")
    return np.concatenate(found)


def _of_run(state: SavedState, allow: Collection[str], words: Sequence[str]) -> Tokens:
    config, _ = trained(state, allow, words)
    context = config.model.context
    try:
        data = open_data(config.data, context=context, batch=config.batch, seed=config.seed)
    except BadInput as error:
        raise BadInput(f"{error} ({_ELSEWHERE})") from None
    if json.loads(json.dumps(data.describe())) != state.began["data"]:
        raise BadInput(
            f"{state.told}: its data are not those any more that it was trained on: put them back; "
            f"{_ELSEWHERE}"
        )
    split = data.split
    split.checks[1](0, len(split.validation))
    return split.validation


def _total(
    model: LanguageModel,
    tokens: Tokens,
    context: int,
    watch: Callable[[int], Callable[[], None]] | None,
) -> float:
    """Nats of all tokens but the first."""
    starts = range(0, len(tokens) - 1, context)
    rows = max(1, min(BATCH_TOKENS, MOST_LOGITS // model.vocabulary) // context)
    whole = [start for start in starts if start + context < len(tokens)]
    groups = [whole[i : i + rows] for i in range(0, len(whole), rows)]
    groups += [[start] for start in starts[len(whole) :]]
    advance = watch(len(groups)) if watch is not None else lambda: None
    total = 0.0
    for group in groups:
        windows = np.stack([tokens[start : start + context + 1] for start in group])
        batch = torch.from_numpy(windows.astype(np.int64))
        with torch.inference_mode():
            logits = model.logits(batch[:, :-1])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            next_ones = batch[:, 1:].flatten().to(logits.device)
            losses = F.cross_entropy(logits.flatten(0, 1), next_ones, reduction="none")
        total += float(losses.double().sum())
        advance()
    return total
