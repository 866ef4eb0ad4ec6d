"""Values that no run can take, each refused with one line: what, got, expected, and the mend."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import fields

from checkfree.config.stash import stash_of
from checkfree.core.config import Config, DataConfig, InitConfig
from checkfree.core.errors import BadInput, at_least, one_of, within
from checkfree.core.formats import PRECISIONS, WIRE, bytes_of
from checkfree.core.links import parse_links
from checkfree.core.rates import check_optimizer
from checkfree.core.typed import written
from checkfree.failures import target_stages, tick_probability
from checkfree.models.config import ModelConfig
from checkfree.models.families import FAMILIES
from checkfree.models.hub import HF
from checkfree.pipeline import SCHEDULES, TWICE, chunks_of
from checkfree.pipeline.flow import ROUTES
from checkfree.pipeline.routes import check_swap
from checkfree.plugins import check_known
from checkfree.recovery.options import AUTO, check_recovery
from checkfree.recovery.registry import STRATEGIES
from checkfree.simulator.fleet import check_fleet

MOST = {
    "iterations": 10_000_000,
    "stages": 1000,
    "microbatches": 100_000,
    "batch": 1_000_000,
    "replicas": 1000,
    "threads": 1024,
}
"""Above these a value is a slip of the hand. What memory they take is looked at once the model is
known."""
MOST_OPS = 1_000_000
"""Forwards of an iteration: a schedule is made of them, and kept."""
MOST_OF_MODEL = {
    "width": 1_000_000,
    "heads": 100_000,
    "kv_heads": 100_000,
    "hidden": 10_000_000,
    "blocks": 10_000,
    "context": 100_000_000,
    "vocabulary": 100_000_000,
}

_TOKENIZED = {"tokenizer", "separator", "documents"}
_COLUMN = {"text_field", *_TOKENIZED}
DATA_KEYS: Mapping[str, Collection[str]] = {
    "stdlib": _TOKENIZED,
    "text": {"path", *_TOKENIZED},
    "jsonl": {"path", *_COLUMN},
    "parquet": {"path", *_COLUMN},
    "bin": {"path"},
    "tinystories": _COLUMN,
    "openwebtext": _COLUMN,
    "hf:OWNER/NAME": _COLUMN,
}
"""By data.name, the keys of ``data`` that not all of them read, and it does. A corpus from outside
may read any."""


def check(config: Config) -> None:
    """Raise BadInput for the first value out of range."""
    _counts(config)
    check_known("schedule", config.schedule, (*SCHEDULES, AUTO))
    one_of("routes", config.routes, ROUTES)
    one_of("precision", config.precision, PRECISIONS)
    one_of("wire.activations", config.wire.activations, WIRE)
    one_of("wire.gradients", config.wire.gradients, WIRE)
    _links(config)
    if config.microbatches < config.replicas:
        raise BadInput(
            f"microbatches={config.microbatches} is fewer than replicas={config.replicas}: a "
            f"replica without a microbatch trains nothing; set microbatches={config.replicas}"
        )
    _devices(config.devices)
    _stash(config)
    _model(config.model)
    _cut(config)
    share = config.data.validation_share
    if not 0.0 < share < 1.0:
        raise BadInput(f"data.validation_share={share}: expected a share between 0 and 1")
    documents = config.data.documents
    if documents is not None and not 1 <= documents <= sys.maxsize:
        raise BadInput(f"data.documents={documents}: expected at least 1, or null for all")
    _init(config.init)
    check_fleet(config.fleet)
    tick_probability(config.failures)
    if config.failures.scenario != "none":
        target_stages(config.failures.stages, config.stages)
    check_known("recovery.name", config.recovery.name, STRATEGIES)
    check_recovery(config.recovery)
    check_optimizer(config.optimizer)
    spec = STRATEGIES.get(config.recovery.name)
    if spec is None:
        return  # its options are looked at once it may run
    if {*(config.recovery.options or {})} - spec.apart:
        raise BadInput(
            f"recovery.options={written(config.recovery.options)}: those of "
            f"{config.recovery.name} stand beside its name, as in recovery.{min(spec.options)}=…"
            if spec.options
            else f"recovery.options: {config.recovery.name} has none"
        )
    if spec.mirrors and config.schedule in TWICE:
        raise BadInput(
            f"recovery={config.recovery.name} has each stage computed by the one before it, too, "
            f"which is not the same one for both of its chunks (schedule={config.schedule}): take "
            f"another schedule, or recovery=replay"
        )
    if spec.swaps(config.recovery):
        check_swap(config.stages, config.recovery.share)
    every = config.recovery.shadow_every
    if spec.pushes and type(every) is int and every <= config.stages:
        raise BadInput(
            f"recovery.shadow_every={every}: expected at least {config.stages + 1} iterations, one "
            f"for each of the stages 0 … {config.stages}, so that no two push at once"
        )


def check_data_keys(data: DataConfig, keys: Collection[str] | None = None) -> None:
    """Raise BadInput for the first of ``keys`` (None: all) that is not as by default and that
    ``data.name`` has no use for: whoever gives it means other data. A run that goes on may have one
    of an older version, which took it."""
    read = DATA_KEYS.get("hf:OWNER/NAME" if data.name.startswith("hf:") else data.name)
    if read is None:
        return
    for field in fields(data):
        name, value = field.name, getattr(data, field.name)
        readers = [reader for reader, known in DATA_KEYS.items() if name in known]
        given = value != field.default and (keys is None or name in keys)
        if given and readers and name not in read:
            raise BadInput(
                f"data.{name}={written(value)}: data.name {data.name} has no use for it, only "
                f"{', '.join(readers)}; set data.name to one of these, or leave it out: "
                f"data.{name}={written(field.default)}"
            )


def _counts(config: Config) -> None:
    for key, most in MOST.items():
        within(key, getattr(config, key), 1, most)
    ops = config.microbatches * (config.stages + 1) * (2 if config.schedule in TWICE else 1)
    if ops > MOST_OPS:
        raise BadInput(
            f"microbatches={config.microbatches} through {config.stages + 1} stages are {ops} "
            f"forwards an iteration: expected at most {MOST_OPS}; raise batch and lower "
            "microbatches"
        )
    at_least("validation.every", config.validation.every, 0)
    within("validation.microbatches", config.validation.microbatches, 1, MOST["microbatches"])
    at_least("resume.every", config.resume.every, 0)
    at_least("resume.keep", config.resume.keep, 1)
    at_least("average.last", config.average.last, 1)
    if config.average.every is not None:
        at_least("average.every", config.average.every, 1)
    if config.checkpoint.every is not None:
        at_least("checkpoint.every", config.checkpoint.every, 1)


def _init(init: InitConfig) -> None:
    number = type(init.data) is int and init.data >= 0
    if init.data not in ("start", "continue") and not number:
        raise BadInput(
            f"init.data={written(init.data)}: expected start, continue, or the tokens after which "
            "the training text begins"
        )
    if init.run == "":
        raise BadInput("init is empty: give init=RUN or init=RUN@ITERATION, or leave it out")
    given = init.optimizer is not None or init.data == "continue"
    if init.run is None and given:
        key = "optimizer" if init.optimizer is not None else "data"
        raise BadInput(
            f"init.{key} goes with a run to begin from: give init=RUN, or init=RUN@ITERATION"
        )


def _devices(devices: tuple[str, ...]) -> None:
    if not devices:
        raise BadInput("devices=[]: expected at least one, as in devices=[cpu]")
    for device in devices:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
            raise BadInput(f"devices: {device!r} is none: expected cpu, cuda or cuda:0")


def _links(config: Config) -> None:
    """Coarser than the others: what is planned for all is enough for them, then."""
    wire = config.wire
    try:
        links = parse_links(wire.links)
    except ValueError as error:
        raise BadInput(
            f"wire.links={written(wire.links)}: {error}: expected auto, or links as in "
            "0.0>1.0=int4, each once; for all links there are wire.activations and wire.gradients"
        ) from None
    finest = min(bytes_of((1, 1024), how) for how in (wire.activations, wire.gradients))
    for (one, other), how in links.items():
        one_of(f"wire.links: {one}>{other}", how, WIRE)
        for seat in (one, other):
            if not (0 <= seat.stage <= config.stages and 0 <= seat.replica < config.replicas):
                raise BadInput(
                    f"wire.links: {one}>{other}: there is no seat {seat}, expected 0.0 … "
                    f"{config.stages}.{config.replicas - 1}"
                )
        if bytes_of((1, 1024), how) > finest:
            raise BadInput(
                f"wire.links: {one}>{other}={how} is finer than wire.activations="
                f"{wire.activations} or wire.gradients={wire.gradients}: expected a coarser one"
            )


def _cut(config: Config) -> None:
    cut, costs = config.cut, config.layer_costs
    if costs is not None:
        if cut != AUTO:
            raise BadInput("layer_costs is for cut=auto: set that too, or leave it out")
        numbers = isinstance(costs, (list, tuple)) and all(
            type(cost) in (int, float) and 0 <= cost < math.inf for cost in costs
        )
        if not numbers or len(costs) != config.model.blocks:
            raise BadInput(
                f"layer_costs={written(costs)}: expected {config.model.blocks} numbers of 0 or "
                "more, one a layer"
            )
    if cut is None or cut == AUTO:
        return
    if not isinstance(cut, (list, tuple)) or not all(type(count) is int for count in cut):
        told = written(cut)
        raise BadInput(f"cut={told}: expected auto, or layers of each stage as in [4, 4, 3]")
    if config.schedule == AUTO:
        raise BadInput("cut has layers by chunk, and schedule=auto may take one or two: name one")
    chunks = chunks_of(config.schedule).count
    if len(cut) != chunks * config.stages or min(cut) < 1 or sum(cut) != config.model.blocks:
        each = f"stages={config.stages}" + (
            f" of two chunks each (schedule={config.schedule})" if chunks > 1 else ""
        )
        raise BadInput(
            f"cut={written(cut)}: expected {chunks * config.stages} whole numbers of 1 or more, "
            f"for {each}, whose sum is the model's {config.model.blocks} layers"
        )


def _stash(config: Config) -> None:
    stash_of(config)
    if config.stash_path == "":
        raise BadInput("stash_path is empty: expected a folder on a local disk, as in /mnt/nvme")
    if config.stash_room is not None:
        at_least("stash_room", config.stash_room, 0)


def _model(model: ModelConfig) -> None:
    check_known("model.family", model.family, FAMILIES)
    for key, most in MOST_OF_MODEL.items():
        if getattr(model, key) is not None:
            within(f"model.{key}", getattr(model, key), 1, most)
    if not 0.0 <= model.dropout < 1.0 or math.isnan(model.dropout):
        raise BadInput(f"model.dropout={model.dropout}: expected a probability in [0, 1)")
    if model.family != HF and model.width % model.heads:
        raise BadInput(
            f"model.width={model.width} is no multiple of model.heads={model.heads}: "
            f"set model.width={model.heads * max(1, round(model.width / model.heads))}"
        )
