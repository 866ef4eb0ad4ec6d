"""A backward in two halves: the gradient by a stage's input first, that by its weights later.

As the schedules of "Zero Bubble Pipeline Parallelism" (Qi et al., arXiv 2401.10241) want it: a
neighbour waits for the former, nobody for the latter. Autograd computes only what it is asked for,
so an operation that leads to both (a product of activations and weights) is run twice, each time
for one of its inputs. Asked for the input's gradient, it also tells what gradient arrived at each
of these operations; from there, and no further up, the second half goes on.

The kernels and their inputs are those of a whole backward, so on CPU its bits come out.

Where such operations lie one behind the other, the second half must not run through the upper one
into the lower one. It asks for those of one *height* at a time, which never lead to each other: a
layer's projections of one input, say. What can't be had so is computed in the first half:

- gradients of vectors (norms, biases), which take next to nothing,
- of weights that several operations share (tied layers),
- of weights that an autograd function written in Python reads: it computes all of its gradients
  whenever it runs.

A graph with such a function that may hide weights from autograd, as reentrant checkpoints do, is
not split; nor is one of torch.compile, whose backwards can be run once only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

COMPILED = "CompiledFunctionBackward"
"""As torch calls all that it compiles, whatever the backend."""


@dataclass
class _Level:
    """Operations of one height, the gradients that arrived at them, and the weights they lead to.

    ``edges``: (operation, number of its output) whose gradients these are.
    """

    edges: list[GradientEdge] = field(default_factory=list)
    weights: list[nn.Parameter] = field(default_factory=list)


@dataclass(frozen=True)
class WeightsBackward:
    """The second half of a backward: it holds what that takes, until it has run."""

    levels: Sequence[_Level]
    arrived: Sequence[Sequence[Tensor | None]]
    """By level and edge."""
    early: Sequence[nn.Parameter]
    """Those whose gradient the first half computed."""
    computed: Sequence[Tensor | None]

    @property
    def computes(self) -> bool:
        """Some gradients are still to be computed, not only to be added."""
        return bool(self.levels)

    def run(self) -> None:
        """Adds to the gradients of the weights, once: the graph is gone afterwards."""
        _add(self.early, self.computed)
        for level, arrived in zip(self.levels, self.arrived, strict=True):
            there = [(e, dy) for e, dy in zip(level.edges, arrived, strict=True) if dy is not None]
            if there:
                edges, dys = zip(*there, strict=True)
                # Kept: an operation between weights and product may be run for several levels.
                found = torch.autograd.grad(
                    edges, level.weights, dys, retain_graph=True, allow_unused=True
                )
                _add(level.weights, found)


def input_backward(
    y: Tensor, x: Tensor, dy: Tensor, weights: Iterable[nn.Parameter]
) -> tuple[Tensor | None, WeightsBackward] | None:
    """The gradient by ``x``, of the shape of ``x``, for ``dy`` by ``y``, and what adds to those of
    the weights; None, with nothing computed, where ``y`` can't be split. ``weights``: all that may
    be in its graph."""
    if y.grad_fn is None:
        return None
    found = _Graph(y.grad_fn, y.output_nr, x)
    if found.is_compiled:
        return None
    trained = {weight for weight in weights if weight.requires_grad}
    if found.has_custom and not trained <= found.weights:
        return None
    early, levels = found.early, found.levels
    edges = [edge for level in levels for edge in level.edges]
    wanted: list[Any] = [x, *early, *edges]
    dx, *others = torch.autograd.grad([y], wanted, [dy], retain_graph=True, allow_unused=True)
    computed, arrived = others[: len(early)], iter(others[len(early) :])
    by_level = [[next(arrived) for _ in level.edges] for level in levels]
    return dx, WeightsBackward(levels, by_level, early, computed)


class _Graph:
    """What leads from an output to ``x``, and where ways to weights leave it."""

    def __init__(self, root: Node, output: int, x: Tensor):
        self.has_custom = False
        """A function written in Python is in it."""
        self.is_compiled = False
        """One that torch.compile has made."""
        self.weights: set[Tensor] = set()
        """All leaves but ``x``."""
        self._heights: dict[Node, int] = {}
        self._below: dict[Node, dict[nn.Parameter, None]] = {}
        self._leaves: dict[Node, dict[nn.Parameter, None]] = {}
        self._outputs: defaultdict[Node, set[int]] = defaultdict(set, {root: {output}})
        for node, edges in _from_below(root):
            self._visit(node, edges, x)
        self.early, self.levels = self._sorted()

    def _visit(self, node: Node, edges: Sequence[tuple[Node, int]], x: Tensor) -> None:
        """Above ``x``, a node has a height: one more than the highest below it. Elsewhere, it has
        the weights below it."""
        if isinstance(node, BackwardCFunction):
            self.has_custom = True
            self.is_compiled = self.is_compiled or node.name() == COMPILED
        leaf = getattr(node, "variable", None) if not edges else None
        if leaf is x:
            self._heights[node] = 0
        elif leaf is not None:
            self.weights.add(leaf)
            self._below[node] = {leaf: None}
        height, below = -1, dict[nn.Parameter, None]()
        for other, number in edges:
            self._outputs[other].add(number)
            above_x = self._heights.get(other)
            if above_x is None:
                below |= self._below.get(other, {})
            else:
                height = max(height, above_x)
        if height >= 0:
            self._heights[node] = height + 1
            if below:
                self._leaves[node] = below
        elif below:
            self._below[node] = below

    def _sorted(self) -> tuple[list[nn.Parameter], list[_Level]]:
        """Weights whose gradients are computed early; and all others, by height."""
        readers = Counter(weight for below in self._leaves.values() for weight in below)
        early: dict[nn.Parameter, None] = {}
        levels: dict[int, _Level] = {}
        for node, below in self._leaves.items():
            custom = isinstance(node, BackwardCFunction)
            for weight in below:
                if custom or weight.ndim < 2 or readers[weight] > 1:
                    early[weight] = None
                    continue
                level = levels.setdefault(self._heights[node], _Level())
                level.weights.append(weight)
                if not level.edges or level.edges[-1].node is not node:
                    numbers = sorted(self._outputs[node])
                    level.edges += [GradientEdge(node, number) for number in numbers]
        return [*early], [*levels.values()]


def _from_below(root: Node) -> Iterable[tuple[Node, Sequence[tuple[Node, int]]]]:
    """Each node under ``root`` with the edges to those that it leads to, these first."""
    seen: set[Node] = set()
    stack: list[tuple[Node, Sequence[tuple[Node, int]] | None]] = [(root, None)]
    while stack:
        node, edges = stack.pop()
        if edges is not None:
            yield node, edges
        elif node not in seen:
            seen.add(node)
            edges = [(below, nr) for below, nr in node.next_functions if below is not None]
            stack.append((node, edges))
            stack.extend((other, None) for other, _ in edges if other not in seen)


def _add(weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """In place, but for the first: that may be of another's memory, or laid out otherwise."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            continue
        if weight.grad is None:
            weight.grad = gradient.clone(memory_format=torch.contiguous_format)
        else:
            weight.grad += gradient
