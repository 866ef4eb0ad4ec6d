"""What the stages of a run are made of: a model family's, or the user's own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from torch import nn
from torch.nn.parameter import UninitializedParameter

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.units import derive
from checkfree.models.chunks import Chunks
from checkfree.models.config import ModelConfig
from checkfree.models.families import FAMILIES, Family, family
from checkfree.models.hub import HF, PRETRAINED, held
from checkfree.models.two_chunks import InTwoChunks, TwoChunks
from checkfree.pipeline import chunks_of
from checkfree.pipeline.cut import balanced
from checkfree.plugins import not_permitted
from checkfree.recovery.options import AUTO
from checkfree.session.likeness import check_equal, unequal
from checkfree.session.regroup import Layout, LayoutOf
from checkfree.session.sketch import sketched
from checkfree.session.tensors import check_tensors
from checkfree.stage import CPU, seeded

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Where torch keeps those of a parameter."""


@dataclass(frozen=True)
class Blueprint:
    """Makes one stage at a time, so that a seat never builds the rest of the model."""

    stages: int
    """Stages with stage 0: n + 1."""
    make: Callable[[int], nn.Module]
    """With its first weights, from (seed, "init", stage); the user's modules bring their own."""
    fresh: Callable[[int, int], nn.Module]
    """(stage, tick): initialised anew from (seed, "reinit", stage, tick)."""
    parameters: int
    tokens: int | None
    """Tokens per iteration, where they can be known beforehand."""
    layout: LayoutOf
    cut: tuple[int, ...] | None = None
    """Layers of each chunk of the body; None: equally many, or a user's own modules."""
    chunks: Chunks = Chunks.WHOLE
    """Of each body stage."""
    unequal: str = ""
    """Where body stages differ in shapes, in words; "": nowhere."""
    kinds: tuple[str, ...] = ()
    """What each layer is, where some of equal shapes compute in other ways; (): not known."""
    untried: tuple[int, ...] = ()
    """Body stages that show whether the model trains, if it is none of ours."""


def family_of(model: ModelConfig) -> Family:
    """One of ours, or one from outside that may run. Raises BadInput."""
    if model.family in FAMILIES:
        try:
            found = family(model.family)
        except ValueError as error:  # it needs a package that is not installed
            raise BadInput(str(error)) from None
    elif model.code is None:
        raise not_permitted("model.family", model.family, FAMILIES)
    else:
        found = cast(Family, model.code)
    return found if model.chunks is Chunks.WHOLE else InTwoChunks(found, model.chunks)


def _cut_of(
    config: Config, model: ModelConfig, body: Callable[[], nn.Module]
) -> tuple[int, ...] | None:
    """Layers of each chunk, as configured; ``body``: one with all of them, in a list. Raises
    ValueError for a family that cuts equally only."""
    chunks = chunks_of(config.schedule)
    count = config.stages * chunks.count
    if config.cut is None:
        if chunks is not Chunks.WHOLE and model.blocks % count:
            raise ValueError(
                f"stages={config.stages} of two chunks each (schedule={config.schedule}) are "
                f"{count} equal parts, which model.blocks={model.blocks} can't be cut into: set "
                f"model.blocks={count * max(1, round(model.blocks / count))}, or have unequal ones "
                "by cut=auto"
            )
        return None
    if model.family not in FAMILIES:
        raise ValueError(f"model.family={model.family} cuts into equal parts: leave out cut")
    if config.cut != AUTO:
        return tuple(config.cut)
    costs, used = config.layer_costs, experts_used(model)
    if costs is None:
        layers = next(part for part in body().children() if isinstance(part, nn.ModuleList))
        costs = [flops(layer, model, 1, used) for layer in layers]
    return balanced(costs, count)


def experts_used(model: ModelConfig) -> int | None:
    """Experts that a token goes through, of all whose matrices a parameter of three dimensions has;
    None: it has none, or its family does not say."""
    of_family: Callable[[ModelConfig], int | None] | None = getattr(
        family_of(model), "experts_used", None
    )
    return None if of_family is None else of_family(model)


def flops(body: nn.Module, model: ModelConfig, blocks: int, used: int | None) -> float:
    """Operations of a token's forward through a body stage of so many blocks: two per weight that
    it uses, and attention over half a context. ``used``: experts that a token goes through."""
    weights = 0.0
    for param in body.parameters():
        share = min(1.0, used / param.shape[0]) if used and param.ndim == 3 else 1.0
        weights += share * param.numel() * (param.ndim > 1)
    return 2.0 * weights + blocks * 2 * model.context * model.width


def check_pretrained(model: ModelConfig, mend: str) -> None:
    """Raise BadInput, with the ``mend`` in brackets, unless pretrained weights that a run begins
    with are here."""
    if model.family == HF and model.weights == PRETRAINED:
        try:
            held(model)
        except ValueError as error:
            raise BadInput(f"{error} ({mend})") from None


def of_family(config: Config, vocabulary: int) -> Blueprint:
    """A built-in model. Raises BadInput if it cannot be cut as configured."""
    model = config.model
    if model.vocabulary is not None and model.vocabulary < vocabulary:
        raise BadInput(
            f"model.vocabulary={model.vocabulary} is smaller than the tokenizer's {vocabulary}: "
            f"set model.vocabulary={vocabulary} or leave it out"
        )
    model = replace(model, vocabulary=model.vocabulary or vocabulary)
    made, chunks = family_of(model), chunks_of(config.schedule)
    layered = getattr(made, "LAYERED", False)

    def build(stage: int, purpose: str, *parts: int) -> nn.Module:
        """Each chunk is drawn by itself: as the stage that it were, were it a seat's only one."""
        numbers = chunks.of(stage, config.stages) if stage else (0,)
        made_of = []
        for chunk in numbers:
            number = () if layered else (chunk,)
            with seeded(derive(config.seed, purpose, *number, *parts), CPU):
                try:
                    made_of.append(made.stage(parted, chunk, config.stages * chunks.count))
                except ValueError as error:  # of a folder, or of what only weights show
                    raise BadInput(str(error)) from error
        return TwoChunks(*made_of) if len(made_of) > 1 else made_of[0]

    @cache
    def sketches(
        stages: int, cut: tuple[int, ...] | None, chunks: Chunks = Chunks.WHOLE
    ) -> Sequence[nn.Module]:
        """All stages; where body stages are alike, one for all of them."""
        alike, so_cut = not layered and cut is None, replace(model, cut=cut, chunks=chunks)
        with sketched():
            kind = family_of(so_cut)
            found = [kind.stage(so_cut, i, stages) for i in range((1 if alike else stages) + 1)]
        return [*found, *found[1:] * (stages - 1)] if alike else found

    try:
        cut = _cut_of(config, model, lambda: sketches(1, None)[1])
        parted = replace(model, cut=cut)
        shapes = sketches(config.stages, cut, chunks)
        for stage, module in enumerate(shapes[: None if layered else 2]):
            check_tensors(stage, module)
    except ValueError as error:
        raise BadInput(str(error)) from None
    except (RuntimeError, TypeError, OverflowError):
        raise BadInput(
            f"model of width {model.width}, hidden {model.hidden}, vocabulary {model.vocabulary}: "
            "no tensor can be that large; give smaller sizes"
        ) from None

    other = unequal(shapes)
    check_equal(config.recovery, other)
    kinds_of = getattr(made, "kinds_of_layers", None)

    def layout(
        stages: int, cut: Sequence[int] | None = None, chunks: Chunks = Chunks.WHOLE
    ) -> Layout:
        so_cut = replace(model, cut=None if cut is None else tuple(cut), chunks=chunks)
        try:
            modules = sketches(stages, so_cut.cut, chunks)
        except ValueError as error:
            raise BadInput(str(error)) from None
        named = getattr(made, "transformers_name", None)
        name = None if named is None else family_of(so_cut).transformers_name
        if name is None and (stages, chunks) != (config.stages, chunks_of(config.schedule)):
            raise BadInput(
                f"model.family={model.family} has no transformers_name, which tells how a "
                f"parameter is called however the model is cut: keep stages={stages}, and the "
                "schedule's chunks"
            )

        def whole(stage: int, param: str) -> str:
            return f"{stage}.{param}" if name is None else str(name(so_cut, stages, stage, param))

        return Layout(modules, whole, config.precision == "fp64", chunks)

    return Blueprint(
        stages=config.stages + 1,
        make=lambda stage: build(stage, "init"),
        fresh=lambda stage, tick: build(stage, "reinit", tick),
        parameters=made.parameters_of(model),
        tokens=config.microbatches * config.batch * model.context,
        layout=layout,
        cut=cut,
        unequal=other,
        kinds=() if kinds_of is None else tuple(kinds_of(model)),
        chunks=chunks,
        untried=(1,) if layered or model.family not in FAMILIES or config.compile else (),
    )


def of_modules(stages: Sequence[nn.Module], config: Config) -> Blueprint:
    """The user's own stages. Raises BadInput unless stage 0 has ``embed`` and ``loss`` and the
    body stages have parameters of equal names and shapes."""
    check_modules(stages)

    def fresh(stage: int, tick: int) -> nn.Module:
        module = copy.deepcopy(stages[stage])
        with seeded(derive(config.seed, "reinit", stage, tick), CPU):
            reset(module, stage)
        return module

    def layout(
        count: int, cut: Sequence[int] | None = None, chunks: Chunks = Chunks.WHOLE
    ) -> Layout:
        if (count, chunks) != (len(stages) - 1, chunks_of(config.schedule)):
            raise BadInput(
                f"it had {count} body stages, these are {len(stages) - 1}, or other chunks: only a "
                "built-in model can be cut anew"
            )
        double = config.precision == "fp64"
        return Layout(stages, lambda i, param: f"{i}.{param}", double, chunks)

    return Blueprint(
        stages=len(stages),
        make=lambda stage: copy.deepcopy(stages[stage]),
        fresh=fresh,
        parameters=sum(p.numel() for module in stages for p in module.parameters()),
        tokens=None,
        layout=layout,
        chunks=chunks_of(config.schedule),
        untried=tuple(range(1, len(stages))),
    )


def paired(stages: Sequence[nn.Module], config: Config) -> Sequence[nn.Module]:
    """The user's own stages, of which body stages have as many chunks as the schedule asks for, in
    the order of the model. Raises BadInput."""
    chunks, bodies = chunks_of(config.schedule), len(stages) - 1
    if chunks is Chunks.WHOLE or bodies < 1:
        return stages
    if bodies % chunks.count:
        raise BadInput(
            f"got {bodies} body modules, and schedule={config.schedule} gives each body stage two: "
            "an even number of them, or another schedule"
        )
    check_each(stages)
    count = bodies // chunks.count
    pairs = (chunks.of(stage, count) for stage in range(1, count + 1))
    return [stages[0], *(TwoChunks(stages[first], stages[second]) for first, second in pairs)]


def check_each(stages: Sequence[nn.Module]) -> None:
    """Raise BadInput for the first module that no stage, or no chunk of one, can be."""
    if len(stages) < 2:
        raise BadInput(f"got {len(stages)} stages, expected stage 0 and at least one body stage")
    for place, module in enumerate(stages):
        if not isinstance(module, nn.Module):
            got = type(module).__name__
            raise BadInput(f"stage {place} is a {got}, expected a torch.nn.Module")
    for method in ("embed", "loss"):
        if not callable(getattr(stages[0], method, None)):
            raise BadInput(
                f"stage 0 ({type(stages[0]).__name__}) has no {method}: expected a module with "
                "embed(batch) and loss(hidden, batch)"
            )
    for place, module in enumerate(stages):
        _check_layers(place, module)
        check_tensors(place, module)
    _check_nothing_shared(stages)


def check_modules(stages: Sequence[nn.Module]) -> None:
    """Raise BadInput, naming the first thing that is wrong."""
    check_each(stages)
    if other := unequal(stages):
        raise BadInput(
            f"{other}: body stages need parameters of equal names, shapes and types, else no "
            "neighbour could stand in for another"
        )


def _check_layers(place: int, module: nn.Module) -> None:
    """What a stage can't be made of, each with the mend."""
    for name, layer in module.named_modules():
        told = f"stage {place}: {name or 'the module'} ({type(layer).__name__})"
        if any(isinstance(param, UninitializedParameter) for param in layer.parameters(False)):
            raise BadInput(f"{told} has no shapes yet: run a batch through it before it trains")
        if any(tensor.is_meta for tensor in (*layer.parameters(False), *layer.buffers(False))):
            raise BadInput(f"{told} has no values (device meta): load them, or layer.to_empty()")
        learn = [(n, p) for n, p in layer.named_parameters(recurse=False) if p.requires_grad]
        hooked = [n for n, p in learn if any(getattr(p, kind, None) for kind in HOOKS)]
        if hooked:
            raise BadInput(
                f"{told}: parameter {hooked[0]} has hooks, which no copy of it has, and each seat "
                "trains a copy: hook the module instead, or freeze it with requires_grad=False"
            )
        if getattr(layer, "sparse", False) is True:
            raise BadInput(f"{told} has sparse gradients, which are not summed here: sparse=False")
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"stage {place} ({type(module).__name__}) can't be copied ({reason}), and each seat "
            "trains a copy: keep what can't be copied out of the module; torch.nn.utils."
            "parametrizations has a weight_norm that can"
        ) from error
    if not all(param.is_leaf for param in copied.parameters()):
        raise BadInput(
            f"stage {place} ({type(module).__name__}) has copies whose parameters can't train, as "
            "torch.jit.script makes them: give the module that it was made of"
        )


def _check_nothing_shared(stages: Sequence[nn.Module]) -> None:
    """A parameter is one stage's: stages are trained, lost and rebuilt each by itself."""
    owners: dict[int, tuple[int, str]] = {}
    for place, module in enumerate(stages):
        for name, param in module.named_parameters():
            first, known = owners.setdefault(id(param), (place, name))
            if first != place:
                raise BadInput(
                    f"stages {first} and {place} share a parameter ({known}, {name}), and would "
                    "each train their own: give each stage its own, as copy.deepcopy makes one"
                )


def reset(module: nn.Module, stage: int) -> None:
    """Initialise anew by each layer's ``reset_parameters``. Raises BadInput for a layer with
    parameters that train and no such method; one whose parameters don't stays as it is."""
    for name, layer in module.named_modules():
        own = list(layer.parameters(recurse=False))
        learns = any(param.requires_grad for param in own)
        anew = getattr(layer, "reset_parameters", None)
        if callable(anew) and (learns or not own):
            anew()
        elif learns:
            raise BadInput(
                f"stage {stage}: {name or 'the module'} ({type(layer).__name__}) has parameters "
                "and no reset_parameters(), so it can't be initialised anew: give it one, or use "
                "another recovery than random and zero"
            )
