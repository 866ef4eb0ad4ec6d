"""Bring your own model: a convolutional network learns to read noisy glyphs and loses stages.

python experiments/own_model.py [FOLDER]
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import checkfree

GLYPHS = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Ends(nn.Module):  # stage 0: the way in, and the way out to the loss
    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 8 * 8, 10)

    def embed(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.inward(batch[0])

    def loss(self, hidden: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.outward(hidden.flatten(1)), batch[1])


class Residual(nn.Conv2d):  # a body stage: whatever maps hidden to hidden
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.relu(super().forward(hidden))


def batches(iteration: int, microbatch: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000 * iteration + microbatch)
    labels = torch.randint(10, (16,), generator=draw)
    return GLYPHS[labels] + 3 * torch.randn(16, 1, 8, 8, generator=draw), labels


torch.manual_seed(0)
stages = [Ends(), *(Residual(16, 16, 3, padding=1) for _ in range(5))]
config = {
    "iterations": 40,
    "out": sys.argv[1] if len(sys.argv) > 1 else "runs/own_model",
    "recovery": {"name": "checkfree_plus"},
    "failures": {"probability": 0.01, "first": 10},
}
run = checkfree.train(stages=stages, batches=batches, config=config)
for record in run.records:
    match record:
        case {"kind": "iteration", "iteration": i, "loss": loss} if i % 10 == 0:
            print(f"iteration {i:2}  loss {loss:.3f}")
        case {"kind": "recovery", "iteration": i, "rebuilds": made}:
            print(f"iteration {i:2}  lost and rebuilt:", {s: made[s]["rule"] for s in made})
print(f"{run.status}: loss {run.losses[-1]:.3f}, and its curve in {run.folder / 'loss.png'}")
