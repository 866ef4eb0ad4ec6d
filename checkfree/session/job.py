"""A run that is about to start, or to go on: everything checked, nothing written yet."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkfree.config.check import check
from checkfree.config.load import as_recorded, flat, load, load_saved, placed, to_tree, to_yaml
from checkfree.config.load import build as build_config
from checkfree.config.parts import origins, permitted, running
from checkfree.config.places import INIT_RUN, PLACES, moved, moves
from checkfree.config.stash import stash_of
from checkfree.core.config import Config, DataConfig, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS, ConfigRecord, read
from checkfree.core.typed import written
from checkfree.data import open_data
from checkfree.data.tokenizer_files import of_bytes
from checkfree.failures import CLOCK, is_trace_file
from checkfree.messages.control import Purpose
from checkfree.models.folder import Folder
from checkfree.models.hub import HF, PRETRAINED, held, own_tokenizer
from checkfree.pipeline import SCHEDULES
from checkfree.plugins import OUTSIDE, origin, packages
from checkfree.recovery.options import AUTO
from checkfree.recovery.registry import spec_of
from checkfree.runtime.files import write_whole
from checkfree.runtime.folder import CONFIG
from checkfree.runtime.recorder import Listener
from checkfree.session.assemble import make_worker_context
from checkfree.session.auto_schedule import with_schedule
from checkfree.session.auto_stash import with_stash
from checkfree.session.blueprint import (
    Blueprint,
    check_pretrained,
    family_of,
    of_family,
    of_modules,
    paired,
)
from checkfree.session.due import DueFailures
from checkfree.session.initial import FOLDER, Initial, digest_of, first_batch, kept, taken_over
from checkfree.session.kept_tokenizer import with_kept_tokenizer
from checkfree.session.likeness import check_equal, mixed
from checkfree.session.memory import check_fits, without_logs
from checkfree.session.saved import USER
from checkfree.session.sizes import OWN, named_sizes
from checkfree.session.tensors import check_range
from checkfree.session.terms import scheduler_of
from checkfree.session.wired import with_links
from checkfree.worker import Batches, WorkerContext

Feeds = Mapping[Purpose, Batches]

PER_STAGE = (
    "model.router_loss is taken by each stage over its own layers, not over all as by the uncut "
    "model; the losses that are told are without it"
)


@dataclass(frozen=True)
class Job:
    """What to train, on what, where to."""

    config: Config
    folder: Path
    blueprint: Blueprint
    feeds: Feeds
    data: Mapping[str, Any]
    """What the records say of the data: content hash, sizes."""
    listeners: Sequence[Listener]
    vocabulary: int | None = None
    """Of the tokenizer, where there is one."""
    devices: tuple[str, ...] = ()
    """Of this machine, if not the configuration's."""
    initial: Initial | None = None
    """What it begins with, if that is another run's."""
    text: Mapping[str, Any] = field(default_factory=dict)
    """What the records say of their text: what was read, skipped, dropped."""
    unsplit: tuple[int, ...] = ()
    """Stages whose backwards its schedule would split, and can't."""
    stash: str = ""
    """What ``stash=auto`` has become, in a line."""

    @cached_property
    def due(self) -> DueFailures:
        """The failures that are configured. Raises BadInput."""
        return DueFailures(self.config)

    @cached_property
    def worker_context(self) -> WorkerContext:
        """What every worker is built with. Raises BadInput."""
        config = replace(self.config, devices=self.devices or self.config.devices)
        return make_worker_context(config, self.blueprint, self.feeds, self.due.stages)

    def config_record(self) -> ConfigRecord:
        """The first record of the run."""
        return ConfigRecord(
            to_tree(self.config),
            versions_of(self.config),
            self.data,
            self.blueprint.parameters,
            {} if self.initial is None else self.initial.about,
            self.text,
            self.notes(self.config.recovery),
            self.unread,
            self.unsplit,
            self.stash,
        )

    def notes(self, recovery: RecoveryConfig) -> tuple[str, ...]:
        """What there is to say, a line each, of these stages and of a strategy for them. Raises
        BadInput for one that they are too unequal for."""
        check_equal(recovery, self.blueprint.unequal)
        chunks = self.blueprint.chunks.count * (self.blueprint.stages - 1)
        told = mixed(recovery, self.blueprint.kinds, chunks)
        balanced = PER_STAGE if self.config.model.router_loss and chunks > 1 else ""
        return tuple(filter(None, (told, balanced)))

    @cached_property
    def unread(self) -> Sequence[str]:
        """Tensors in the folder of the model that it begins with which that has no place for.
        Raises BadInput."""
        model, init = self.config.model, self.initial
        if model.family != HF:
            return ()  # the others refuse such folders; your own modules have none
        try:
            if init is not None and init.about["kind"] == FOLDER:
                folder = Path(init.about["run"])
            elif init is None and model.weights == PRETRAINED:
                folder = held(model)
            else:
                return ()
            return family_of(model).unread(model, Folder(folder))
        except ValueError as error:
            raise BadInput(str(error)) from None


def any_config(
    config: Config | str | Path | Mapping[str, Any] | None, body_stages: int | None = None
) -> Config:
    """A checked Config of whatever a caller gave; ``body_stages``: of the modules that came with
    it, if any did. Raises BadInput."""
    forced = {} if body_stages is None else {"stages": body_stages}
    if isinstance(config, (str, Path)) or config is None:
        return load(config, [f"{key}={value}" for key, value in forced.items()])
    tree = to_tree(config) if isinstance(config, Config) else config
    made = build_config({**tree, **forced})
    if isinstance(config, Config):  # and may run what that may
        made = permitted(made, running(config))
    return replace(made, out=placed(made.out, "run"))


def of_config(
    config: Config,
    folder: Path,
    listeners: Sequence[Listener],
    *,
    whole: bool = True,
    logs: bool = True,
    instead: Callable[[], str] | None = None,
) -> Job:
    """A built-in model on configured data. ``whole``: this machine trains all of its stages;
    ``logs``: it keeps what replays would need; ``instead``: what to do if it has not the memory,
    see ``check_fits``. Raises BadInput, also for a Config made by hand that no run can take."""
    check(config)
    config = with_schedule(config)
    scheduler_of(config)  # before anything is written
    config = with_kept_tokenizer(config, folder)
    if whole:
        check_fits(config if logs else without_logs(config), instead=instead)
    check_pretrained(config.model, "a run that goes on takes model.path=, where they are now")
    _check_tokens(config)
    context, batch = config.model.context, config.batch
    data = open_data(config.data, context=context, batch=batch, seed=config.seed)
    blueprint, about = of_family(config, data.vocabulary), data.describe()
    if config.cut == AUTO:  # what a run was cut into is in its records
        config = replace(config, cut=blueprint.cut, layer_costs=None)
    config, stash = with_stash(with_links(config), alone=not whole)
    initial = _initial(config, folder, blueprint, about)
    after = first_batch(config, initial)
    feeds: Feeds = {
        Purpose.TRAIN: lambda iteration, microbatch: data.train(after + iteration, microbatch),
        Purpose.VALIDATE: data.validation,
    }
    return Job(
        config,
        folder,
        blueprint,
        feeds,
        about,
        listeners,
        data.vocabulary,
        initial=initial,
        text=data.text(),
        stash=stash,
    )


def _check_tokens(config: Config) -> None:
    """Raise BadInput for bytes where the weights know other tokens."""
    data, model = config.data, config.model
    own = own_tokenizer(model)
    if own is None or data.name == "bin" or data.tokenizer != DataConfig.tokenizer:
        return
    if own.read_bytes() != of_bytes(model.context)[own.name]:  # as a run on bytes is exported
        raise BadInput(
            f"data.tokenizer=bytes, and the weights of model.path={model.path} know the tokens of "
            f"its own tokenizer.json: data.tokenizer={model.path}, or model.weights=fresh"
        )


def _initial(
    config: Config, folder: Path, blueprint: Blueprint, data: Mapping[str, Any]
) -> Initial | None:
    """Of a run that has begun, what it began with. Raises BadInput."""
    if config.init.run is None:
        return None
    began = read(folder)[:1] if (folder / RECORDS).is_file() else []
    if began and began[0].get("init"):
        return kept(folder, blueprint.stages, began[0]["init"])
    return taken_over(config, data, blueprint.layout)


def of_users(
    config: Config,
    folder: Path,
    stages: Sequence[nn.Module],
    batches: Batches | None,
    validation: Batches | None,
    listeners: Sequence[Listener],
) -> Job:
    """The user's own modules and batches. Raises BadInput."""
    for name, feed in (("batches", batches), ("validation", validation or batches)):
        if not callable(feed):
            got = "nothing" if feed is None else f"a {type(feed).__name__}"
            raise BadInput(
                f"got {got} for {name}: stages=[…] needs {name}=FUNCTION of (iteration, microbatch)"
            )
    if config.failures.scenario == CLOCK and named_sizes(config.fleet) == OWN:
        raise BadInput(
            "failures.scenario clock needs to know what stages weigh, and your own modules are not "
            "measured: give fleet.sizes, as in published or paper/500m"
        )
    if config.cut is not None:
        raise BadInput("cut is for layers of a model family, and your stages are cut: leave it out")
    if config.wire.links == (AUTO,) and named_sizes(config.fleet) == OWN:
        raise BadInput(
            "wire.links=auto needs to know how much stages compute and send, and your own modules "
            "are not measured: name the slow links, as in wire.links=[0.0>1.0=int8], or give "
            "fleet.sizes, as in published or paper/500m"
        )
    if config.schedule == AUTO:
        raise BadInput(
            "schedule=auto needs to know how much stages compute and hold, and your own modules "
            f"are not measured: name one of {', '.join(SCHEDULES)}"
        )
    if AUTO in stash_of(config):
        raise BadInput(
            "stash=auto needs to know what stages hold, and your own modules are not measured: "
            "choose among keep, recompute and offload"
        )
    stages = paired(stages, config)
    blueprint = of_modules(stages, config)
    if spec_of(config.recovery).pushes:
        for place, module in enumerate(stages):
            check_range(place, module)
    config = replace(config, stages=len(stages) - 1)
    if config.recovery.name == AUTO and config.recovery.log_memory == AUTO:
        # What they send is not known, nor whether there is the memory for it.
        config = replace(config, recovery=replace(config.recovery, log_memory=0))
    if validation is None:
        config = replace(config, validation=replace(config.validation, every=0))
    check(config)
    scheduler_of(config)
    config = with_links(config)
    assert batches is not None
    train: Batches = batches
    last = config.iterations - 1
    feeds: Feeds = {
        Purpose.TRAIN: train,
        # What is validated after the last iteration, as after a repair, has no batches of its own.
        Purpose.VALIDATE: validation
        or (lambda iteration, microbatch: train(min(iteration, last), microbatch)),
    }
    about = {"name": USER}
    initial = _initial(config, folder, blueprint, about)
    return Job(config, folder, blueprint, feeds, about, listeners, initial=initial)


def with_trace(config: Config, path: Path) -> Config:
    """A run that was given a trace file goes on with its own copy of it."""
    if not is_trace_file(config.failures.scenario) or not path.is_file():
        return config
    return replace(config, failures=replace(config.failures, scenario=str(path)))


def check_same(job: Job, records: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput if a run would go on with another configuration or other data than it began
    with: it would not be the run that it was. Where its data lie, where the state lay that it began
    with, and on what it computes, may be others."""
    if not records:
        return  # stopped before its first record
    if records[0]["kind"] != "config":
        raise BadInput(f"{job.folder}/records.jsonl does not begin with the run's configuration")
    then, now = records[0], dict(flat(to_tree(job.config)))
    began = dict(flat(recorded_config(then["config"])))
    for key in {**now, **began}:
        value, was = now.get(key), began.get(key)
        free = key in ("out", *PLACES) or key.startswith("failures.")
        if not free and was != value and key == INIT_RUN:
            free = value is not None and digest_of(value) == then.get("init", {}).get("sha256")
        if not free and was != value:
            told = f"config.yaml has {key}={written(value)}, the run began with {written(was)}"
            raise BadInput(f"{told}: put it back")
    if then["data"] != json.loads(json.dumps(job.data)):
        raise BadInput(
            f"the data are not those that the run began with ({then['data']}): put them back, give "
            "data.path= if they lie elsewhere, or start anew with another out="
        )


def write_places(job: Job) -> None:
    """Have the configuration in a run's folder say where it has its data now, and on what it
    computes: so whoever goes on next need not."""
    file = job.folder / CONFIG
    was = load_saved(file, running(job.config))
    now = moved(was, moves(job.config, was, PLACES))
    if now != was:
        write_whole(file, to_yaml(now).encode())


def recorded_config(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run's configuration as its records have it, with the keys that they lack; as it is, if no
    version of ours can have written it."""
    try:
        return to_tree(build_config(as_recorded(tree)))
    except BadInput:
        return tree


def versions_of(config: Config) -> dict[str, str]:
    """And of the packages that bring parts of it which are none of ours."""
    outside = packages(origins(config))
    hub = {"transformers": _version("transformers")} if config.model.family == HF else {}
    return versions() | hub | {f"{OUTSIDE}{top}": origin(top) for top in outside}


def versions() -> dict[str, str]:
    """What the bits of a run depend on beside its configuration (semantics 17)."""
    names = ("checkfree", "torch", "numpy", "safetensors")
    found = {name: _version(name) for name in names}
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
