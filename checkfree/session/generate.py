"""A text, continued by a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.units import derive
from checkfree.session.language_model import LanguageModel


def continued(
    model: LanguageModel,
    prompt: bytes,
    *,
    tokens: int = 100,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Pieces of text that go on from ``prompt``, each as soon as it is there: of at most ``tokens``
    tokens, until one ends the text. At ``temperature`` 0 the likeliest token is taken each time;
    else one is drawn among the likeliest that have ``top_p`` of the probability together. Equal
    seeds give equal texts. Raises BadInput."""
    if tokens < 1:
        raise BadInput(f"--tokens {tokens}: expected at least 1")
    if not 0.0 <= temperature < float("inf"):
        raise BadInput(f"--temperature {temperature}: expected 0 or more")
    if not 0.0 < top_p <= 1.0:
        raise BadInput(f"--top-p {top_p}: expected a probability above 0, up to 1")
    begun = model.codec.prompt(prompt)
    if max(begun) >= model.vocabulary:
        raise BadInput(
            f"{model.name} knows {model.vocabulary} tokens, and the prompt has token {max(begun)}: "
            "give the model's own tokenizer"
        )
    generator = torch.Generator().manual_seed(derive(seed, "generate"))
    drawn = _tokens(model, begun, tokens, temperature, top_p, generator)
    return model.codec.spoken(begun, drawn)


def _tokens(
    model: LanguageModel,
    begun: Sequence[int],
    most: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> Iterator[int]:
    known = list(begun)
    for _ in range(most):
        with torch.inference_mode():
            window = torch.tensor([known[-model.context :]])
            # A vocabulary may be larger than its tokenizer, for want of an odd number.
            logits = model.logits(window)[0, -1, : model.codec.vocabulary].cpu()
        token = next_token(logits, temperature, top_p, generator)
        if token in model.ends:
            return
        known.append(token)
        yield token


def next_token(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Drawn from logits (vocabulary) by nucleus sampling (arXiv 1904.09751)."""
    if temperature == 0:
        return int(logits.argmax())
    share = (logits.double() / temperature).softmax(-1)
    ordered, places = share.sort(descending=True, stable=True)
    # Whoever stands behind top_p of it all is out; the likeliest never is.
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    return int(places[torch.multinomial(ordered, 1, generator=generator)])
