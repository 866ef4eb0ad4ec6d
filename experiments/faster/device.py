"""A model whose ops take as long as they do on a device beside the host, and next to nothing of the
host: several such machines fit on one of few cores, and none of them waits for another's core."""

import time

from torch import Tensor, nn
from torch.nn import functional as F

FORWARD, INPUT, WEIGHTS = 0.04, 0.04, 0.04
"""Seconds of a body stage's forward and of both halves of its backward, for a microbatch."""


def _waits(seconds: float):  # type: ignore[no-untyped-def]
    def hook(gradient: Tensor) -> None:
        time.sleep(seconds)

    return hook


class Ends(nn.Module):
    """Stage 0, which waits for nothing."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def embed(self, batch: Tensor) -> Tensor:
        return self.embedding(batch[:, :-1])

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden).flatten(0, 1), batch[:, 1:].flatten())


class Waiting(nn.Module):
    """A body stage."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.linear.weight.register_hook(_waits(WEIGHTS))

    def forward(self, hidden: Tensor) -> Tensor:
        time.sleep(FORWARD)
        out = hidden + self.linear(hidden).tanh()
        if out.requires_grad:
            out.register_hook(_waits(INPUT))
        return out


class Family:
    """As ``model.family=device:family`` has it."""

    def stage(self, config, i, stages):  # type: ignore[no-untyped-def]
        width = config.width
        return Waiting(width, config.blocks) if i else Ends(config.vocabulary, width)

    def parameters_of(self, config) -> int:  # type: ignore[no-untyped-def]
        return 2 * config.vocabulary * config.width + config.blocks * config.width**2


family = Family()
