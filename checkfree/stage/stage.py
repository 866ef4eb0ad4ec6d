"""A module that trains by microbatches: forward, backward, step, snapshot, restore, destroy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.core.errors import BadInput
from checkfree.messages.tensors import StageState
from checkfree.models.two_chunks import TwoChunks
from checkfree.stage.compiled import compile_blocks, leave_uncompiled, refusing
from checkfree.stage.conditions import Conditions, Part
from checkfree.stage.digest import digest
from checkfree.stage.learnt import COMPUTED
from checkfree.stage.masters import rounded
from checkfree.stage.offload import Offloading, Parcel, mover_of
from checkfree.stage.running import (
    check_output,
    in_type,
    owned,
    recomputed,
    seeded,
    spread,
    to_device,
)
from checkfree.stage.split import WeightsBackward, input_backward
from checkfree.stage.state_fit import strange_moment, unlike

Key = tuple[int, int]
"""(microbatch, hop): what a stash is kept under."""


class Stage:
    """A module that trains by microbatches. Raises BadInput if forward changes a buffer or a
    parameter: what a retried microbatch computes must not depend on how often it was tried
    (semantics 18).

    A body that adds a loss of its own, as one that balances experts, has an attribute
    ``own_loss_scale``: in a backward it is set to what the loss at the end of the model is
    multiplied by then, and it is 0 at all other times."""

    def __init__(self, module: nn.Module, conditions: Conditions):
        self.module = spread(module.to(conditions.device))
        """What computes; see ``trained``."""
        self._conditions = conditions
        # Found once: walking all layers at each forward costs more than a small op.
        self._buffered = [layer for layer in module.modules() if layer._buffers]
        self._names = [name for name, _ in module.named_parameters()]
        self._params = [param for _, param in module.named_parameters()]
        self.constants = frozenset(n for n, p in module.named_parameters() if not p.requires_grad)
        """Names of the parameters that never train: they are as the stage was made with."""
        self._masters = None
        if conditions.weights is not None:
            self._masters = rounded(module, conditions.weights, getattr(module, "in_fp32", ()))
        if conditions.compile:
            compile_blocks(module)
        self._computing = [*module.parameters()]
        self.dtype = _most_usual(self._computing)
        """What it computes with."""
        persistent = module.state_dict(keep_vars=True)
        self._buffers = {n: b for n, b in module.named_buffers() if n in persistent}
        self._adds_loss = hasattr(module, "own_loss_scale")
        # torch refuses an optimizer of nothing, and an embedding may have nothing to learn.
        self._optimizer = conditions.optimizer(self._params or [nn.Parameter(torch.empty(0))])
        self._stash: dict[Key, tuple[Tensor | None, Tensor, Callable[[], Tensor]]] = {}
        self._halves: dict[Key, WeightsBackward] = {}
        how = conditions.offload
        self._mover = None if how is None else mover_of(how, conditions.device)
        self._parcels: dict[Key, tuple[Parcel, Callable[[], Tensor]]] = {}
        self.moving: Collection[Key] | None = None
        """What of its stash is moved away until the backward, where it offloads; None: all."""
        self.gradient_norm = 0.0
        self.clipped_norm = 0.0
        self.lr_scale = 1.0
        self.version = 0
        self.reduced_norm = 0.0
        self.chunks = 2 if isinstance(module, TwoChunks) else 1
        """How often a microbatch visits it, if it is none of stage 0."""

    @property
    def tolerance(self) -> float:
        """By what share norms of gradients may differ where the same is computed on another kind of
        processor: in fp32 roundings of sums make millionths; in bf16 on a GPU, which sums in no
        fixed order, thousandths, and so do coarse steps, some tens of them."""
        narrow = self._conditions.autocast is not None or self.dtype.itemsize < 4
        coarse = self._conditions.coarse_steps
        return 1e-2 if coarse or (narrow and self._conditions.device.type == "cuda") else 1e-4

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """All that it is, by name: of rounded weights their masters."""
        return dict(zip(self._names, self._params, strict=True))

    # --- a microbatch ------------------------------------------------------------------------

    def forward(self, key: Key, part: Part, x: Any, batch: Any, seed: int) -> Tensor:
        """Run one part and stash what its backward needs.

        ``x`` is the activation (batch, sequence, width), unused by EMBED; ``batch`` what the
        pipeline was fed, used by EMBED and HEAD. Returns an activation, or HEAD's mean loss ().
        """
        entry = None
        if part is not Part.EMBED:
            entry = x = x.detach().to(self._conditions.device).requires_grad_()
        again = partial(self._compute, part, x, batch, seed, keep=True)
        if entry is None or not self._moves(key):
            y = self._compute(part, x, batch, seed)
        else:
            y = self._put_away(key, entry, again)
        if entry is not None and not y.requires_grad:
            raise BadInput(_no_gradient_of(self.module))
        self._stash[key] = (entry, y, again if self._conditions.recompute else lambda: y)
        return owned(y.detach())

    @torch.no_grad()
    def redundant_forward(self, part: Part, x: Any, batch: Any, seed: int) -> Tensor:
        """The same forward with nothing stashed: what a redundant neighbour computes."""
        return self._compute(part, x, batch, seed)

    @torch.no_grad()
    def evaluate(self, part: Part, x: Any, batch: Any, seed: int) -> Tensor:
        """Forward as a user of the finished model would run it: no dropout, nothing changed. Each
        layer is in the mode that it was in, after: its user may have some that never train."""
        modes = [(layer, layer.training) for layer in self.module.modules()]
        self.module.eval()
        try:
            return owned(self._compute(part, x, batch, seed))
        finally:
            for layer, training in modes:
                layer.training = training

    def predict(self, part: Part, x: Tensor, seed: int) -> Tensor:
        """A body's forward with gradients and nothing stashed: for steps of its own, on ``x``."""
        return self._compute(part, x, None, seed)

    def backward(
        self, key: Key, dy: Tensor | None, scale: float = 1.0, *, split: bool = False
    ) -> Tensor | None:
        """Add to the gradients. ``dy``: gradient by this part's output; None at the loss, whose
        gradient is ``scale``, as is that of a loss of the module's own. Returns the gradient by the
        part's input, None for EMBED. Raises BadInput if there is none: nothing before it would
        learn.

        ``split``: leave the gradients of the weights to ``backward_weights``. What is recomputed
        is computed again here, and kept until then. An EMBED, and what can't be split, does all
        here.
        """
        entry, y, again = self._brought_back(key)
        if dy is None:
            dy = torch.full_like(y, scale)
        dy = dy.to(y.device, y.dtype)
        if split and entry is not None:
            with self._scaled(scale), self._compiling():
                halves = input_backward(y := again(), entry, dy, self._computing)
            if halves is not None:
                dx, self._halves[key] = halves
                if dx is None:
                    raise BadInput(_no_gradient_of(self.module))
                return owned(dx)
        if entry is not None or y.requires_grad:  # a frozen embedding has nothing to learn
            with self._scaled(scale), self._compiling():
                y.backward(dy)  # type: ignore[no-untyped-call]
        if entry is not None and entry.grad is None:
            raise BadInput(_no_gradient_of(self.module))
        return None if entry is None else entry.grad

    # --- what is moved away meanwhile --------------------------------------------------------

    @property
    def offloads(self) -> Offloading | None:
        """How it moves what it has stashed, if it does."""
        return self._conditions.offload

    def read_ahead(self, key: Key) -> None:
        """Its backward comes soon after what is computed now."""
        if self._mover is not None and key in self._parcels:
            self._mover.ahead(self._parcels[key][0])

    def _moves(self, key: Key) -> bool:
        return self._mover is not None and (self.moving is None or key in self.moving)

    def _put_away(self, key: Key, entry: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """What a forward makes; of what that saves, all that is not held anyway leaves."""
        assert self._mover is not None
        buffers = (b for layer in self._buffered for b in layer._buffers.values() if b is not None)
        parcel = Parcel(entry, [*self._computing, *self._params, *buffers])
        try:
            with parcel.saving():
                y = run()
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            raise BadInput(
                f"{type(self.module).__name__} differentiates within its forward, by torch.func, "
                "and then torch does not tell what it saves: have its stage keep its stash"
            ) from error
        parcel.close(y)
        self._parcels[key] = parcel, run
        self._mover.put(parcel)
        return y

    def _brought_back(self, key: Key) -> tuple[Tensor | None, Tensor, Callable[[], Tensor]]:
        """What was stashed, as if it had never been away; lost, it is computed again."""
        entry, y, again = self._stash.pop(key)
        parcel, run = self._parcels.pop(key, (None, again))
        if self._mover is not None and parcel is not None and not self._mover.fetch(parcel):
            y = run()
            return entry, y, lambda: y
        return entry, y, again

    # --- a backward ----------------------------------------------------------------------------

    @contextmanager
    def _scaled(self, scale: float) -> Iterator[None]:
        if not self._adds_loss:
            yield
            return
        module: Any = self.module
        module.own_loss_scale = scale
        try:
            yield
        finally:
            module.own_loss_scale = 0.0

    def backward_weights(self, key: Key) -> bool:
        """Add to the gradients what a split backward left. Returns whether it was the one to
        compute any: not where the backward did it all."""
        half = self._halves.pop(key, None)
        if half is not None:
            half.run()
            if self._masters is not None:
                self._masters.add_up()
        return half is not None and half.computes

    def shape_of(self, key: Key) -> torch.Size:
        """Of what the forward made whose backward is next, and of the gradient by it."""
        return self._stash[key][1].shape

    def _compute(self, part: Part, x: Any, batch: Any, seed: int, *, keep: bool = False) -> Tensor:
        """``keep``: what a backward needs, even if the conditions are to recompute it."""
        device, autocast = self._conditions.device, self._conditions.autocast
        run, inputs = self._call(part, x, batch)
        if self._conditions.recompute and torch.is_grad_enabled() and not keep:
            inputs, run = (run, *inputs), recomputed
        before = self._versions()
        casting = torch.autocast(device.type, autocast) if autocast else nullcontext()
        with seeded(seed, device), casting, self._compiling():
            y: Tensor = run(*inputs)
        if before != (after := self._versions()):
            raise BadInput(self._changed(before, after))
        check_output(type(self.module).__name__, part, y)
        return y

    def _compiling(self) -> AbstractContextManager[None]:
        return refusing(self.module) if self._conditions.compile else nullcontext()

    def _call(
        self, part: Part, x: Any, batch: Any
    ) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        module: Any = self.module
        if isinstance(x, Tensor):
            x = x.to(self._conditions.device)
        if not part.ends:
            run = module if part is Part.BODY else getattr(module, part.value)
            return run, (x,)
        batch = to_device(batch, self._conditions.device)
        if part is Part.HEAD:
            return module.loss, (x, batch)
        return module.embed, (batch if self._masters is None else in_type(batch, self.dtype),)

    def _versions(self) -> list[tuple[int, int]]:
        """What changes when a parameter or buffer is written to, or a buffer replaced."""
        found = (b for layer in self._buffered for b in layer._buffers.values() if b is not None)
        return [(id(tensor), tensor._version) for tensor in (*self._computing, *found)]

    def _changed(self, before: list[tuple[int, int]], after: list[tuple[int, int]]) -> str:
        changed = {which for which, _ in {*before} ^ {*after}}
        weights = [n for n, p in zip(self._names, self._computing, strict=True) if id(p) in changed]
        what, without = ("parameters", "max_norm") if weights else ("buffers", "running statistics")
        names = weights or [name for name, _ in self.module.named_buffers()]  # not all are counted
        return (
            f"forward of {type(self.module).__name__} changes some of its {what} "
            f"({', '.join(names)}); a microbatch that is retried would train on other numbers: use "
            f"a layer without {without}"
        )

    # --- a step --------------------------------------------------------------------------------

    def discard(self) -> None:
        """Forget an iteration that will be started over."""
        self._stash.clear()
        self._parcels.clear()
        self._halves.clear()
        self._optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> dict[str, Tensor]:
        """The summed gradients, by parameter; without those that got none."""
        pairs = zip(self._names, self._params, strict=True)
        return {name: param.grad for name, param in pairs if param.grad is not None}

    def set_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Take these as the reduced gradients. The stage may change them in place later."""
        for name, param in zip(self._names, self._params, strict=True):
            gradient = gradients.get(name)
            param.grad = None if gradient is None else gradient.to(param.device)

    def reduced(self) -> float:
        """The gradients are whole: their norm, which the step will remember."""
        found = [p.grad for p in self._params if p.grad is not None]
        self.reduced_norm = float(torch.nn.utils.get_total_norm(found)) if found else 0.0
        return self.reduced_norm

    def step(self, iteration: int, clip: float) -> None:
        """One optimizer step with the gradients times ``clip``."""
        found = [p.grad for p in self._params if p.grad is not None]
        if clip != 1.0 and found:
            torch._foreach_mul_(found, clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._conditions.lr(iteration) * self.lr_scale
        self._optimizer.step()
        self.recast()
        self._optimizer.zero_grad(set_to_none=True)
        self.gradient_norm, self.clipped_norm = self.reduced_norm, self.reduced_norm * clip
        self.lr_scale = 1.0 + (self.lr_scale - 1.0) * self._conditions.lr_scale_decay
        self.version = iteration + 1

    def recast(self) -> None:
        """Compute with what the parameters are by now, once somebody has changed them."""
        if self._masters is not None:
            self._masters.round()

    # --- states --------------------------------------------------------------------------------

    def snapshot(self, *, moments: bool = True) -> StageState:
        """A copy of all that the stage is, or all but its optimizer's ``moments``; it shares no
        memory with the stage."""
        state = {
            f"{name}/{key}": value.detach().clone()
            for name, param in zip(self._names, self._params, strict=True)
            for key, value in self._optimizer.state.get(param, {}).items()
            if moments
        }
        return StageState(
            {n: _copied(p) for n, p in zip(self._names, self._params, strict=True)},
            {n: _copied(b) for n, b in self._buffers.items()},
            state,
            self.version,
            self.gradient_norm,
            self.clipped_norm,
            self.lr_scale,
        )

    def digest(self) -> int:
        """A sum over all that ``snapshot`` copies, see :mod:`checkfree.stage.digest`."""
        tensors: list[tuple[str, Tensor]] = [*self.params.items(), *self._buffers.items()]
        for name, param in zip(self._names, self._params, strict=True):
            kept = self._optimizer.state.get(param, {})
            tensors += [(f"{name}/{key}", value) for key, value in kept.items()]
        numbers = (self.version, self.gradient_norm, self.clipped_norm, self.lr_scale)
        return digest(tensors, numbers)

    def is_whole(self, state: StageState) -> bool:
        """It has all parameters and buffers, as a snapshot has."""
        own = self.params.keys(), self._buffers.keys()
        return (state.params.keys(), state.buffers.keys()) == own

    @torch.no_grad()
    def restore(self, state: StageState) -> None:
        """Become ``state``; one without constants, buffers or moments leaves the stage its own, and
        a fresh optimizer. Raises ValueError, changing nothing, if it does not fit."""
        params = self.params
        why = unlike(state.params, params, self.constants)
        why = why or (unlike(state.buffers, self._buffers) if state.buffers else "")
        if why := why or strange_moment(state.moments, params):
            raise ValueError(f"the state does not fit the stage: {why}")
        self.discard()
        for name, tensor in state.params.items():
            params[name].copy_(tensor)
        for name, buffer in state.buffers.items():
            self._buffers[name].copy_(buffer)
        self._optimizer.state.clear()
        for key, value in state.moments.items():
            name, moment = key.rsplit("/", 1)
            param = params[name]
            self._optimizer.state[param][moment] = value.to(param.device, copy=True)
        self.recast()
        self.gradient_norm, self.clipped_norm = state.gradient_norm, state.clipped_norm
        self.lr_scale, self.version = state.lr_scale, state.version

    @torch.no_grad()
    def take_constants(self, state: StageState) -> None:
        """Have what never trains as ``state`` has it, which may be no more than that."""
        params = self.params
        for name in self.constants:
            params[name].copy_(state.params[name])
        for name, buffer in state.buffers.items():
            self._buffers[name].copy_(buffer)
        self.recast()

    def trained(self) -> nn.Module:
        """The module with its parameters as they are, once the stage computes no more."""
        if self._masters is not None:
            self._masters.put_back(self.module)
        if self._conditions.compile:
            leave_uncompiled(self.module)
        return self.module

    @torch.no_grad()
    def destroy(self) -> None:
        """Overwrite every tensor with NaN, in place: lost means lost."""
        self._stash.clear()
        self._parcels.clear()
        self._halves.clear()
        doomed = [*self._params, *(p.grad for p in self._params), *self.module.buffers()]
        doomed += self._computing
        doomed += [v for kept in self._optimizer.state.values() for v in kept.values()]
        for tensor in doomed:
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)


def _no_gradient_of(module: nn.Module) -> str:
    return (
        f"{type(module).__name__} returns what has no gradient by its input: it detaches, or "
        "computes without gradients, so nothing before it learns"
    )


def _most_usual(params: Iterable[Tensor]) -> torch.dtype:
    """The type of most of their numbers, where they are of several."""
    counts: Counter[torch.dtype] = Counter()
    for param in params:
        if param.dtype in COMPUTED:
            counts[param.dtype] += param.numel()
    return max(counts, key=counts.__getitem__, default=torch.float32)


def _copied(tensor: Tensor) -> Tensor:
    """Contiguous, and its own memory."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
