"""Any causal language model of ``transformers``, cut into stages; no family needs a line here.

    Edge (stage 0): tokens -> embedding -> ...        ... -> final norm -> head -> loss
    Body (stages 1 … n):                       its layers

A stage is the family's own class, built on the meta device, in which whatever another stage holds
is put ``Elsewhere`` before anything gets memory. It runs the family's own forward, which makes
masks, rotary tables, scales and softcaps as ever; hidden states are put in where the stage's first
layer is called and taken out where its last one returns, so all else that it computes is unseen.
No code of a folder is ever run: only classes that ``transformers`` has itself.

With ``router_loss`` a body stage adds the loss by which its family balances experts, over the
routers of its own layers; an uncut model takes one product of means over all of its layers, which
is no sum over stages. Stages weigh by how many of the routers they have, so that the coefficient
means the same however the model is cut, and one body stage has the very loss of the uncut model.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import hub
from .config import ModelConfig
from .exchange import KNOWN_BUFFERS
from .families import blocks_of_stage
from .folder import Folder

os.environ.setdefault("USE_HUB_KERNELS", "NO")  # else some families fetch theirs, and run them
try:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
        revert_weight_conversion,
    )
    from transformers.initialization import no_init_weights
    from transformers.utils import logging
except ImportError as error:
    raise ValueError(
        f"model.family=hf needs transformers 5 or later ({' '.join(str(error).split())[:200]}): "
        "pip install 'checkfree[hf]'"
    ) from None

LAYERED = True

NAMES: Mapping[str, str] = MappingProxyType({})
"""The family's own; see ``transformers_name``."""

TRANSPOSED: frozenset[str] = frozenset()

ROUTER_LOGITS = "output_router_logits"
"""What a family's forward is asked by for the loss that balances its experts."""

EXPERTS_USED = (
    *("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k"),
    *("top_k_experts", "num_experts_per_token"),
)
"""What a family calls the experts of a layer that a token goes through."""

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
"""What a family calls that which it multiplies this loss by."""

FLASH = ("flash_attn", "flash_attn_interface", "flash_attn_3")
"""Packages with flash attention. Without them transformers may fetch code of the Hub instead."""


def stage(config: ModelConfig, i: int, stages: int) -> Edge | Body:
    """Stage ``i`` of 0 … ``stages``, and nothing else: on the meta device if that is torch's
    default one, else with the pretrained weights of ``config.path``, or with drawn ones, of which
    each layer's depend on torch's seed and the layer's number alone, however the model is cut.
    Raises ValueError for a model that can't be cut so, and for a folder without its weights."""
    theirs, mine = _settings(config), blocks_of_stage(config, i, stages)
    sketched = torch.get_default_device().type == "meta"
    folder = None if sketched or config.weights != hub.PRETRAINED else hub.held(config)
    try:
        if sketched:
            shell = _empty(theirs, mine)
        else:
            shell = _drawn(theirs, mine) if folder is None else _loaded(folder, theirs, mine)
            check(shell, mine)
    except Exception as error:  # whatever a class makes of it that can't be built or cut so
        raise ValueError(_refused(config, error)) from error
    weight = _weight_of_router_loss(config, shell, mine)
    if weight and not sketched:
        check_router_loss(shell, mine)
    return _staged(shell, mine, weight)


def parameters_of(config: ModelConfig) -> int:
    """Parameters of the whole model; a tied head counts once."""
    with torch.device("meta"):
        parts = (stage(config, i, 1) for i in (0, 1))
        return sum(param.numel() for part in parts for param in part.parameters())


def transformers_name(config: ModelConfig, stages: int, i: int, name: str) -> str:
    """What the family calls parameter or buffer ``name`` of stage ``i``; ValueError if none is."""
    found = _names_of(config, i, stages)
    if name not in found:
        raise ValueError(f"stage {i} has no {name!r}: name one of {', '.join(sorted(found))}")
    return found[name]


def to_transformers(
    config: ModelConfig, stages: int, i: int, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of stage ``i`` under the names and in the layouts in which the family is saved:
    experts apart that it computes as one, and nothing that is tied to something else. Raises
    ValueError for a name that no tensor of it has, and for a stage that lacks one."""
    mine = blocks_of_stage(config, i, stages)
    shell = _empty(_settings(config), mine)
    theirs = names(shell, mine)
    if other := theirs.keys() ^ tensors.keys():
        raise ValueError(f"stage {i} of this model and its tensors differ in {min(other)}")
    state = {theirs[name]: tensor.contiguous() for name, tensor in tensors.items()}
    found: dict[str, Tensor] = revert_weight_conversion(shell, state)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def from_transformers(
    config: ModelConfig, stages: int, i: int, folder: Folder
) -> dict[str, Tensor]:
    """The reverse: the tensors of stage ``i``. Raises ValueError if the folder lacks one."""
    whence = replace(config, path=str(folder.path), weights=hub.PRETRAINED, sha256=None)
    made = stage(whence, i, stages).state_dict()
    return {name: made[name] for name in _names_of(config, i, stages)}


def unread(config: ModelConfig, folder: Folder) -> list[str]:
    """Tensors of a folder, sorted, that no stage of the model has a place for: as layers behind the
    last one, or another head. Not those that its family says may be there, or that any may have:
    copies of what is tied, and tables that are computed. Raises ValueError."""
    theirs = _settings(config)
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(theirs)]
    with _quiet(), torch.device("meta"), no_init_weights():
        whole = family(copy.deepcopy(theirs))
    kept = whole.state_dict()
    ignored = whole._keys_to_ignore_on_load_unexpected or ()
    turned = get_model_conversion_mapping(whole)
    renamings = [one for one in turned if isinstance(one, WeightRenaming)]
    converters = [one for one in turned if isinstance(one, WeightConverter)]
    prefix = whole.base_model_prefix

    def has_a_place(name: str) -> bool:
        found, _ = rename_source_key(name, renamings, converters, prefix, kept)
        bare, _ = rename_source_key(name, [], [], prefix, kept)
        known = name.endswith(KNOWN_BUFFERS) or any(re.search(one, name) for one in ignored)
        return known or found in kept or bare in kept

    return sorted(name for name in folder.names if not has_a_place(name))


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    """What stands in config.json of such a model: what stood there."""
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(_settings(config))]
    return {**config.architecture, "architectures": [family.__name__]}


def experts_used(config: ModelConfig) -> int | None:
    """Experts of a layer that a token goes through; None: its configuration says nothing of any."""
    theirs = _settings(config)
    found = (getattr(theirs, name, None) for name in EXPERTS_USED)
    return next((number for number in found if type(number) is int and number > 0), None)


def kinds_of_layers(config: ModelConfig) -> Sequence[str]:
    """What config.json says of each layer by itself, or its family makes of what it says, as
    ``sliding_attention``; "" where that is the same of all."""
    found: list[list[str]] = [[] for _ in range(config.blocks)]
    for name, values in sorted(_settings(config).to_dict().items()):
        if "layer" not in name or not isinstance(values, (list, tuple)):
            continue
        words = [str(value) if isinstance(value, str) else f"{name}={value}" for value in values]
        numbers = [value for value in values if type(value) is int]
        places = len(numbers) == len(values) and numbers == sorted(set(numbers))  # of some layers
        if len(words) == config.blocks and len(set(words)) > 1 and not places:
            for kinds, word in zip(found, words, strict=True):
                kinds.append(word)
    return [", ".join(kinds) for kinds in found]


def model_config(tree: Mapping[str, Any]) -> ModelConfig:
    """The reverse, with the longest context that it has positions for. Raises ValueError."""
    found = hub.described(ModelConfig(hub.HF, context=1, weights=hub.FRESH, architecture=tree))
    return replace(found, context=hub.longest(tree) or ModelConfig.context)


class Cut(nn.Module):
    """Holds weights of a shell, which stays outside: its tables and flags are no state of ours."""

    def __init__(self, shell: Any):
        super().__init__()
        self.outside = (shell,)  # a tuple, so that it is no submodule

    @property
    def shell(self) -> Any:
        """The family's class around these weights."""
        return self.outside[0]

    @property
    def in_fp32(self) -> frozenset[str]:
        """Names of our parameters that the family never computes with in bf16, as some routers."""
        kept = getattr(self.shell, "_keep_in_fp32_modules_strict", None) or ()
        theirs = {id(param): name for name, param in self.shell.named_parameters()}
        ours = ((name, theirs[id(param)]) for name, param in self.named_parameters())
        return frozenset(name for name, of in ours if any(part in of for part in kept))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.shell._apply(fn, recurse)
        made = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if any(param.dtype == torch.float64 for param in self.parameters()):
            self.shell.set_experts_implementation("eager")  # grouped products know no fp64
        return made


class Edge(Cut):
    """Stage 0: embeds the tokens, and takes the loss at the other end of the pipeline."""

    def __init__(self, shell: Any):
        super().__init__(shell)
        own = {name: module for name, module in shell.named_modules() if _keeps(module)}
        self.ends = nn.ModuleDict({name.replace(".", "/"): module for name, module in own.items()})

    def embed(self, batch: Tensor) -> Tensor:
        """Tokens (batch, T + 1), int64 -> hidden (batch, T, width); the last token is no input."""
        with entering(layers_of(self._in_mode())[0]) as seen:
            self.shell.base_model(input_ids=batch[:, :-1], use_cache=False)
        return seen[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden (batch, T, width) -> logits (batch, T, vocabulary)."""
        unseen = torch.zeros_like(hidden)
        with leaving(layers_of(self._in_mode())[-1], hidden):
            logits: Tensor = self.shell(inputs_embeds=unseen, use_cache=False).logits
        return logits

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        """Mean cross-entropy () in nats of tokens 1 … T of ``batch`` (batch, T + 1)."""
        logits = self.logits(hidden).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, batch[:, 1:].flatten())

    def _in_mode(self) -> Any:
        """The shell, training or not as we are: its dropout has no weights, so it is not ours."""
        if self.shell.training != self.training:
            self.shell.train(self.training)
        return self.shell


class Body(Cut):
    """A body stage. Its layers are numbered from 0, so that body stages have equal names.
    ``router_loss``: what the loss that balances its experts is multiplied by; 0: it has none."""

    def __init__(self, shell: Any, mine: range, router_loss: float = 0.0):
        super().__init__(shell.eval())
        self.layers = nn.ModuleList(layers_of(shell)[k] for k in mine).train()
        self._router_loss = router_loss
        self.own_loss_scale = 0.0
        """What a loss of its own is multiplied by in a backward: whoever trains it sets here what
        the loss at the end of the model is multiplied by then."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, T, width) -> the same shape. In the backward a loss of its own is added."""
        adds = self._router_loss > 0 and torch.is_grad_enabled()
        model = self.shell if adds else self.shell.base_model
        asked = {ROUTER_LOGITS: True} if adds else {}
        with entering(self.layers[0], hidden), leaving(self.layers[-1]) as seen:
            made = model(inputs_embeds=torch.zeros_like(hidden), use_cache=False, **asked)
        if not adds:
            return seen[0]
        apply: Callable[..., Tensor] = WithLoss.apply
        return apply(seen[0], self._router_loss * made.aux_loss, self)


class WithLoss(torch.autograd.Function):
    """Hidden states as they are, which take a loss () along: its backward begins with theirs, with
    the ``own_loss_scale`` that ``body`` has then."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, loss: Tensor, body: Body) -> Tensor:
        """(batch, T, width), () -> the first."""
        ctx.body, ctx.like = body, torch.zeros_like(loss)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """By hidden states, by the loss."""
        scale = ctx.body.own_loss_scale
        return gradient, torch.full_like(ctx.like, scale) if scale else None, None


# --- hidden states, into the family's loop over its layers and out of it -------------------------


def layers_of(model: Any) -> nn.ModuleList:
    """The list that the family's forward goes through. Raises ValueError if there is none."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise ValueError("it keeps no list of its layers")


@contextmanager
def entering(layer: nn.Module, given: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Notes what hidden states ``layer`` gets, and puts ``given`` in their place."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(args[0] if args else kwargs["hidden_states"])
        if given is None:
            return None
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

    with layer.register_forward_pre_hook(hook, with_kwargs=True):
        yield seen


@contextmanager
def leaving(layer: nn.Module, given: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Notes what hidden states ``layer`` returns, and puts ``given`` in their place."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        seen.append(_hidden(output))
        packed = isinstance(output, (tuple, list))
        return None if given is None else (given, *output[1:]) if packed else given

    with layer.register_forward_hook(hook):
        yield seen


class Elsewhere(nn.Module):
    """Stands for a module that another stage holds: knows what that knew, and has no weights.
    ``of``: the loop over layers, the ends of the model, or the embedding."""

    def __init__(self, module: nn.Module, of: str):
        super().__init__()
        self.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("_")})
        self.of = "embedding" if isinstance(module, nn.Embedding) else of

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on hidden states; where those are made, make nothing that could be added to them."""
        x = args[0] if args else next(iter(kwargs.values()))
        if self.of == "embedding":
            return torch.zeros((), device=x.device)
        return (x,) if self.of == "loop" and x.ndim < 3 else x  # a loop that takes [0] of a tuple


# --- building ------------------------------------------------------------------------------------


def cut(theirs: Any, mine: range) -> Any:
    """The family's class, with the layers ``mine`` and nothing else, or with all but layers."""
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(theirs)]

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        family.__init__(self, config, *args, **kwargs)
        layers = layers_of(self)
        self.routers = routers_of(self, layers)
        if shared := _shared(self, layers):
            raise ValueError(f"layers share {shared}")
        for k in set(range(len(layers))) - set(mine):
            layers[k] = Elsewhere(layers[k], "loop")
        around = [module for module in self.modules() if layers in module.modules()]
        for parent in around[:-1] if mine else ():
            for name, child in parent.named_children():
                if child not in around and next(child.parameters(), None) is not None:
                    setattr(parent, name, Elsewhere(child, "ends"))
        if mine:
            self.all_tied_weights_keys = {}

    # Its module, else it counts as code from outside; and no word about what others have.
    members = {"__init__": __init__, "__module__": family.__module__}
    return type(family.__name__, (family,), {**members, "_keys_to_ignore_on_load_unexpected": [""]})


def names(shell: Any, mine: range) -> dict[str, str]:
    """Our names of a stage's parameters and buffers to the family's; of what is tied, that of the
    weights which are saved."""
    kept = shell.state_dict(keep_vars=True).items()
    theirs = {id(t): name for name, t in kept if name not in shell.all_tied_weights_keys}
    ours = dict[int, str]()
    for name, tensor in _staged(shell, mine).state_dict(keep_vars=True).items():
        ours.setdefault(id(tensor), name)
    return {name: theirs[tensor] for tensor, name in ours.items()}


def _names_of(config: ModelConfig, i: int, stages: int) -> Mapping[str, str]:
    """Of a stage, as ``names`` has them."""
    told = json.dumps(config.architecture, sort_keys=True)
    return _names(told, config.blocks, config.cut, i, stages)


@lru_cache(maxsize=256)
def _names(
    told: str, blocks: int, cut: tuple[int, ...] | None, i: int, stages: int
) -> Mapping[str, str]:
    """``told``: what config.json holds. It is asked for once a parameter."""
    config = ModelConfig(hub.HF, blocks=blocks, cut=cut, architecture=json.loads(told))
    mine = blocks_of_stage(config, i, stages)
    return names(_empty(_settings(config), mine), mine)


def _settings(config: ModelConfig) -> Any:
    """The family's own configuration. Raises ValueError for one that transformers has not."""
    kind = config.architecture["model_type"]
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"transformers has no causal language model called {kind}, and code of a folder is "
            "never run: take one that it has"
        )
    how = {} if config.attention is None else {"attn_implementation": config.attention}
    if (config.attention or "").startswith("flash") and not any(map(find_spec, FLASH)):
        raise ValueError(
            f"model.attention={config.attention} needs the package flash_attn, which is not "
            "installed: take sdpa"
        )
    try:
        with _quiet():
            told = _spelled_out(config.architecture)
            theirs = CONFIG_MAPPING[kind].from_dict(told, **how)
    except Exception as error:  # its types are checked by a package that raises its own
        raise ValueError(_refused(config, error)) from error
    made = getattr(theirs, "num_hidden_layers", config.blocks)
    if made != config.blocks:  # else some of them would be in no stage
        raise ValueError(
            f"config.json of a {kind} tells of {config.blocks} layers, and its class makes {made}: "
            "mend it"
        )
    theirs.output_router_logits = False  # no stage has all that experts' auxiliary loss is made of
    theirs.layerdrop = 0.0  # a layer is there or not by chance: a retry would be another
    return theirs


def _spelled_out(told: Any) -> Any:
    """What config.json holds, with the numbers that JSON has not, as transformers writes them:
    ``{"__float__": "Infinity"}``."""
    if isinstance(told, Mapping):
        if told.keys() == {"__float__"}:
            return float(told["__float__"])
        return {key: _spelled_out(value) for key, value in told.items()}
    return [_spelled_out(value) for value in told] if isinstance(told, (list, tuple)) else told


def _refused(config: ModelConfig, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if not isinstance(error, (ValueError, ImportError, OSError)):
        told = f"{type(error).__name__}: {reason}"
        reason = f"its class does not run so, or not without the layers of other stages ({told})"
    return f"a {config.architecture['model_type']} can't be cut into stages: {reason}"


def _shared(model: Any, layers: nn.ModuleList) -> str | None:
    """A weight that two layers have, or a layer and something else."""
    path = next(name for name, module in model.named_modules() if module is layers)
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    owners: dict[int, str] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        twice = owners.setdefault(id(param), name) != name
        if name.startswith(path) and (twice or name in tied):
            return str(name)
    return None


def _keeps(module: nn.Module) -> bool:
    """It has a parameter or a buffer of its own that is part of a state."""
    return bool(module._parameters or module._buffers.keys() - module._non_persistent_buffers_set)


def _staged(shell: Any, mine: range, router_loss: float = 0.0) -> Edge | Body:
    return Body(shell, mine, router_loss) if mine else Edge(shell)


def _empty(theirs: Any, mine: range) -> Any:
    """Names and shapes without memory."""
    with _quiet(), torch.device("meta"), no_init_weights():
        shell = cut(theirs, mine)(copy.deepcopy(theirs))
    if not mine:
        shell.tie_weights()
    return shell


def _loaded(folder: Path, theirs: Any, mine: range) -> Any:
    """From a folder's safetensors, of which only this stage's tensors are read: one after the other
    where the family is saved as it is computed, else as transformers turns them into that."""
    shell = _empty(theirs, mine)
    tied, kept = shell.all_tied_weights_keys, shell.state_dict()
    wanted = {name: tensor.shape for name, tensor in kept.items() if name not in tied}
    found = Folder(folder)
    for name in tied.keys() & found.names:
        _check_tied(found, name, tied[name])
    if not get_model_conversion_mapping(shell, add_legacy=False) and wanted.keys() <= found.names:
        return _read(shell, found, wanted, not mine)
    how: Any = {"config": theirs, "dtype": torch.float32, "output_loading_info": True}
    how["local_files_only"] = True
    with _quiet():
        shell, info = cut(theirs, mine).from_pretrained(folder, use_safetensors=True, **how)
    if info["missing_keys"]:  # transformers would draw them, and warn
        raise ValueError(f"{folder} has no {min(info['missing_keys'])}: give a folder that has")
    return shell._apply(torch.clone).train()  # it maps the files, to which someone may write


def _check_tied(folder: Folder, name: str, to: str) -> None:
    """Raise ValueError for a folder in which what config.json ties are two: transformers, too,
    would then have two."""
    if to in folder.names and not torch.equal(folder.read(name), folder.read(to)):
        raise ValueError(
            f"config.json ties {name} to {to}, and {folder.path} has another one: set "
            "tie_word_embeddings=false there, or take it out"
        )


@torch.no_grad()
def _read(shell: Any, folder: Folder, wanted: Mapping[str, torch.Size], edge: bool) -> Any:
    """With these tensors of a folder, in fp32, and whatever else the family makes of nothing."""
    for name, shape in wanted.items():
        if folder.shape(name) != tuple(shape):
            raise ValueError(
                f"{folder.path}: {name} has shape {list(folder.shape(name))}, expected "
                f"{list(shape)}: config.json is that of another model"
            )
        if not folder.dtype(name).is_floating_point:
            raise ValueError(
                f"{folder.path}: {name} is {folder.dtype(name)}, and only floating-point numbers "
                "can train: get the model that it was quantized from"
            )
    shell.to_empty(device="cpu")
    if edge:
        shell.tie_weights()
    kept = shell.state_dict(keep_vars=True)
    for name in wanted:
        folder.read_into(name, kept[name].detach())
        kept[name]._is_hf_initialized = True
    shell.initialize_weights()  # buffers that no file has
    return shell.train()


def _drawn(theirs: Any, mine: range) -> Any:
    """As the family draws them: each layer from a seed of its own, and the edge from another."""
    shell, seed = _empty(theirs, mine).to_empty(device="cpu"), torch.initial_seed()
    for k in mine:
        with _seeded(f"{seed}/layer/{k}"):
            layers_of(shell)[k].apply(shell.base_model._initialize_weights)
    with _seeded(f"{seed}/edge"):
        shell.initialize_weights()  # what is left: stage 0's weights, and buffers
    if not mine:
        shell.tie_weights()
    return shell.train()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress of its own, and without warnings of what is refused here or not asked."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _seeded(text: str) -> Iterator[None]:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
        yield


# --- experts -------------------------------------------------------------------------------------


def routers_of(model: Any, layers: nn.ModuleList) -> Sequence[int]:
    """How many modules of each layer are routers, of all whose logits the family tells."""
    told = (getattr(model.base_model, "_can_record_outputs", None) or {}).get("router_logits", [])
    kinds = [
        (getattr(one, "target_class", one), (getattr(one, "layer_name", None) or "").strip("."))
        for one in (told if isinstance(told, (list, tuple)) else [told])
    ]

    def is_router(path: str, module: nn.Module) -> bool:
        return any(
            isinstance(kind, type)
            and isinstance(module, kind)
            and (not at or f".{at}." in f".{path}.")
            for kind, at in kinds
        )

    return [sum(is_router(*named) for named in layer.named_modules()) for layer in layers]


def _weight_of_router_loss(config: ModelConfig, shell: Any, mine: range) -> float:
    """What a stage multiplies the loss that balances its experts by. Raises ValueError for a model
    that has no such loss."""
    if not config.router_loss:
        return 0.0
    kind = config.architecture["model_type"]
    given = f"model.router_loss={config.router_loss}, and"
    if ROUTER_LOGITS not in signature(type(shell).forward).parameters:
        raise ValueError(f"{given} transformers has no such loss for {kind}: leave it out")
    if not any(shell.routers):
        raise ValueError(f"{given} {kind} has no experts, as config.json has it: leave it out")
    found = config.router_loss
    if found == hub.AS_CONFIGURED:
        told = (getattr(shell, name, None) for name in COEFFICIENTS)
        found = next((one for one in told if isinstance(one, (int, float)) and one >= 0), None)
    if found is None:
        raise ValueError(f"{given} config.json has no coefficient for it: give a number")
    routers: Sequence[int] = shell.routers
    return float(found) * sum(routers[k] for k in mine) / sum(routers)


# --- checking ------------------------------------------------------------------------------------


Call = tuple[Tensor, Any, Any]
"""Of a layer: hidden states that it was given, all else that it was, and what it returned."""


@torch.no_grad()
def check(shell: Any, mine: range) -> None:
    """Raises ValueError for a family in which hidden states aren't all that a layer needs of those
    before it. Runs the stage on two inputs: all else that its layers are called with must be equal,
    and what each returns must be what the next one gets. For the second its own layers need not
    be run: whatever they return, with other numbers, does as well, and takes no time."""
    one = _calls(shell, mine, 1)
    with suppress(Exception):  # of a family whose layers do more than return
        if _problem(one, _calls(shell, mine, 2, {k: one[k][2] for k in mine}), mine) is None:
            return
    if problem := _problem(one, _calls(shell, mine, 2), mine):
        raise ValueError(problem)


def _problem(one: Sequence[Call], other: Sequence[Call], mine: range) -> str | None:
    """Why what layers were called with can't be all that they need."""
    for k, ((_, rest, output), (_, same, _)) in enumerate(zip(one, other, strict=True)):
        if not _equal(rest, same):
            return f"layer {k} needs more than hidden states of what came before"
        left = _hidden(output)
        after = one[k + 1][0] if k + 1 < len(one) and k + 1 not in mine[:1] else left
        if after.data_ptr() != left.data_ptr():
            return f"something happens between layers {k} and {k + 1}"
    return None


@torch.no_grad()
def check_router_loss(shell: Any, mine: range) -> None:
    """Raises ValueError for a family that makes no loss which balances experts, or one of other
    routers than the stage has. Runs the stage once."""
    was, generator = shell.training, torch.Generator().manual_seed(1)
    hidden = torch.rand((3, 4, shell.config.hidden_size), generator=generator).to(shell.dtype)
    shell.eval()
    with entering(layers_of(shell)[mine[0]], hidden):
        given = {"inputs_embeds": torch.zeros_like(hidden), ROUTER_LOGITS: True}
        made = shell(**given, use_cache=False)
    shell.train(was)
    if not isinstance(getattr(made, "aux_loss", None), Tensor):
        raise ValueError("model.router_loss, and its family makes no such loss: leave it out")
    count, wanted = len(made.router_logits or ()), sum(shell.routers[k] for k in mine)
    if count != wanted:
        raise ValueError(
            f"model.router_loss, and its family tells of {count} routers where a stage has "
            f"{wanted}, so what it would balance is not known: leave it out"
        )


def _calls(
    shell: Any, mine: range, number: int, instead: Mapping[int, Any] = MappingProxyType({})
) -> list[Call]:
    """By layer, for one of some small inputs. ``instead``: of layers that aren't run, what they
    return, but for its numbers, which are drawn. Raises ValueError unless each is called once."""
    calls: list[Call] = []

    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        calls.append((hidden, {**kwargs, "hidden_states": None, "args": args[1:]}, output))

    layers, was = layers_of(shell), shell.training
    generator = torch.Generator().manual_seed(number)
    hidden = torch.rand((3, 4, shell.config.hidden_size), generator=generator).to(shell.dtype)
    given = {"inputs_embeds": hidden} if mine else {"input_ids": torch.full((3, 4), number)}
    shell.eval()
    with ExitStack() as stack:
        if mine:
            stack.enter_context(entering(layers[mine[0]], hidden))
        for k, layer in enumerate(layers):
            stack.enter_context(layer.register_forward_hook(hook, with_kwargs=True))
            if k in instead:
                layer.forward = partial(_redrawn, instead[k], generator)
                stack.callback(delattr, layer, "forward")
        shell.base_model(**given, use_cache=False)
    shell.train(was)
    if len(calls) != len(layers):
        raise ValueError(f"its {len(layers)} layers get {len(calls)} calls")
    return calls


def _hidden(output: Any) -> Any:
    """Of what a layer returned."""
    return output[0] if isinstance(output, (tuple, list)) else output


def _redrawn(output: Any, generator: torch.Generator, *_: Any, **__: Any) -> Any:
    """The like of what a layer returned, with other numbers."""
    if isinstance(output, (tuple, list)):
        drawn = [_redrawn(each, generator) for each in output]
        return drawn if isinstance(output, list) else tuple(drawn)
    if not isinstance(output, Tensor):
        return output
    if not output.is_floating_point():
        return output + 1
    return torch.rand(output.shape, generator=generator, dtype=output.dtype)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return True
