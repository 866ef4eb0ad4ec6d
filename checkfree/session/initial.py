"""The state that a run begins with, if that is another run's, or a model's of the Hugging Face Hub:
found there, cut as this run is, and kept in its own folder, so that the other one may go."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from checkfree.config.load import to_tree
from checkfree.config.parts import named
from checkfree.core.config import Config, OptimizerConfig
from checkfree.core.errors import TOO_FAR, BadInput
from checkfree.core.ops import Address
from checkfree.core.rates import MOMENTS, lower_lr
from checkfree.core.typed import written
from checkfree.lead import Progress
from checkfree.messages.control import INIT, WEIGHTS
from checkfree.messages.tensors import StageState
from checkfree.models.folder import Folder
from checkfree.pipeline import chunks_of
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.folder import CONFIG
from checkfree.runtime.store import Damaged, Store
from checkfree.session.exchange import (
    MODEL_CONFIG,
    check_architecture,
    check_shape,
    exchanging,
    model_folder,
)
from checkfree.session.regroup import LayoutOf, regrouped
from checkfree.session.saved import MERGED_NAME, USER, SavedState, saved, saved_state
from checkfree.session.snapshot import Snapshot

FOLDER = "folder"
"""The kind of a state that is no run's but of a folder as the Hugging Face Hub has them."""


@dataclass(frozen=True)
class Initial:
    """A run's first state. ``about`` is what its records say: the ``run`` that it is of and the
    ``iteration`` there, the ``kind`` of archive with its ``sha256``, how many ``stages`` that run
    had and the ``tokens`` that it had come to, ``after`` how many iterations of this run's size the
    training text begins, and whether the ``optimizer``'s moments came along. Of the kind ``folder``
    it is a model's, of iteration 0, which has no ``stages`` and no ``tokens``."""

    stages: int
    """With stage 0: n + 1."""
    load: Callable[[int], StageState]
    """Of a stage. Raises BadInput."""
    about: Mapping[str, Any]

    def keep(self, folder: Path) -> None:
        """Write it into a run's own folder. Raises BadInput, RunFailed."""
        states = {stage: self.load(stage) for stage in range(self.stages)}
        Store(DiskFiles(folder)).shelve(INIT, 0, states, self.about)

    def snapshot(self, lives: Mapping[Address, int]) -> Snapshot:
        """All that the run is before its first iteration. Raises BadInput."""
        states = {stage: self.load(stage) for stage in range(self.stages)}
        return Snapshot(Progress(), lives, states)


def kept(folder: Path, stages: int, about: Mapping[str, Any]) -> Initial:
    """That of a run which has begun; ``about`` is what its records say."""
    store = Store(DiskFiles(folder))

    def load(stage: int) -> StageState:
        try:
            return store.load(INIT, 0, stage)
        except Damaged as error:
            raise BadInput(f"{folder}: the state that it began with: {error}") from None

    return Initial(stages, load, about)


def taken_over(config: Config, data: Mapping[str, Any], layout: LayoutOf) -> Initial:
    """That of a new run, from the one that ``init`` names. ``data``: what the new one's records say
    of its own; ``layout``: its model in so many body stages. All of it is read once. Raises
    BadInput for a run that isn't there or has nothing of that iteration, and for a state that is
    another model's."""
    assert config.init.run is not None
    told = f"init={config.init.run}"
    folder = model_folder(_parse(config.init.run)[0], told)
    if folder is not None:
        return _of_folder(config, data, layout, folder)
    state = _named(config.init.run)
    began, old = state.began, state.began["config"]
    if USER not in (data["name"], began["data"].get("name")):
        _check_model(config, old, told)
    elif config.init.data != "start":
        raise BadInput(
            f"{told}: init.data={config.init.data} counts tokens, and your own batches may have "
            "any: have batches(iteration, microbatch) begin where it should"
        )
    if config.init.data == "continue" and _content(data) != _content(began["data"]):
        raise BadInput(
            f"{told}: init.data=continue goes on in the text of that run, and this run has "
            "another: init.data=start"
        )
    moments = _takes_moments(config, old, state.area, told)

    @lru_cache(maxsize=2)  # a stage of the new cut is made of neighbours in the old one
    def read_stage(stage: int) -> StageState:
        found = state.load(stage)
        return found if moments else replace(found, moments={})

    try:
        there, here = (
            layout(state.stages, old.get("cut"), chunks_of(old.get("schedule", ""))),
            layout(config.stages, config.cut, chunks_of(config.schedule)),
        )
    except BadInput as error:
        raise BadInput(f"{told}: {error}") from None

    def load(stage: int) -> StageState:
        try:
            return regrouped(stage, there, here, read_stage)
        except BadInput as error:
            raise BadInput(f"{told}: {error}") from None

    found = [bool(load(stage).moments) for stage in range(config.stages + 1)]
    if config.init.optimizer and not any(found):
        raise BadInput(
            f"{told}: the {state.kind} of iteration {state.iteration} has no moments of an "
            "optimizer: init.optimizer=false begins with fresh ones"
        )
    tokens = _tokens(began, state.iteration)
    about = {
        "run": str(state.run),
        "iteration": state.iteration,
        "kind": state.kind,
        "sha256": state.digest(),
        "stages": state.stages,
        "tokens": tokens,
        "after": _iterations(config.init.data, tokens, _tokens_of_one(to_tree(config))),
        "optimizer": any(found),
    }
    return Initial(config.stages + 1, load, about)


def _of_folder(config: Config, data: Mapping[str, Any], layout: LayoutOf, path: Path) -> Initial:
    """The weights of a model's folder. All of it is read once. Raises BadInput for another model
    than ``config`` has, for one that its family can't compute exactly, and for what is damaged."""
    told = f"init={config.init.run}"
    if data["name"] == USER:
        raise BadInput(
            f"{told}: that is a model's folder, which only a built-in family can read: load it "
            "into your own modules before they train"
        )
    if config.init.optimizer or config.init.data == "continue":
        asked = "optimizer=true" if config.init.optimizer else "data=continue"
        raise BadInput(
            f"{told}: that is a model's folder, which has weights and nothing else: leave "
            f"init.{asked} out"
        )
    cut = None if config.cut is None else tuple(config.cut)
    vocabulary = config.model.vocabulary or data["vocabulary"]
    model = replace(config.model, vocabulary=vocabulary, cut=cut, chunks=chunks_of(config.schedule))
    family = exchanging(model)
    here = layout(config.stages, cut, model.chunks)

    def load(stage: int) -> StageState:
        try:
            found = family.from_transformers(model, config.stages, stage, folder)
        except ValueError as error:
            raise BadInput(f"{told}: {error}") from None
        params, buffers = (
            {name: found[name].to(here.dtype(wanted)) for name, wanted in of.items()}
            for of in (here.params(stage), here.buffers(stage))
        )
        for name, tensor in params.items():
            if not bool(tensor.isfinite().all()):
                raise BadInput(f"{told}: {here.whole(stage, name)} is not finite: get it again")
        return StageState(params, buffers, {}, version=0)

    try:
        folder = Folder(path)
        check_shape(model, family.model_config(folder.json(MODEL_CONFIG)), family)
        for stage in range(config.stages + 1):
            load(stage)
        digest = folder.digest()
    except ValueError as error:
        raise BadInput(f"{told}: {str(error).removeprefix(f'{told}: ')}") from None
    about = {
        "run": str(path),
        "iteration": 0,
        "kind": FOLDER,
        "sha256": digest,
        "stages": None,
        "tokens": None,
        "after": _iterations(config.init.data, None, _tokens_of_one(to_tree(config))),
        "optimizer": False,
    }
    return Initial(config.stages + 1, load, about)


def digest_of(word: str) -> str | None:
    """The SHA-256 of the state that ``init.run=word`` names, wherever it lies now; None: there is
    none."""
    try:
        folder = model_folder(_parse(word)[0], word)
        return _named(word).digest() if folder is None else Folder(folder).digest()
    except (ValueError, OSError):
        return None


def first_batch(config: Config, initial: Initial | None) -> int:
    """The iteration of the training text that a run's first one trains on."""
    tokens = None if initial is None else initial.about["tokens"]
    return _iterations(config.init.data, tokens, _tokens_of_one(to_tree(config)))


def _iterations(begins: Any, tokens: int | None, each: int) -> int:
    """After how many of ``each`` so many tokens the text begins, where ``tokens`` were trained on
    before."""
    if begins == "start":
        return 0
    return -(-int((tokens or 0) if begins == "continue" else begins) // each)


def _tokens_of_one(config: Mapping[str, Any]) -> int:
    """Of an iteration."""
    return int(config["microbatches"] * config["batch"] * config["model"]["context"])


def with_way_back(reason: str, folder: Path, config: Config, committed: int) -> str:
    """Why a run has ended after so many iterations; if its loss is no finite number any more, with
    the command that begins a new one from before the last step, which has gone too far."""
    found = saved(folder) if reason.endswith(TOO_FAR) else ()
    there = [state.iteration for state in found if state.iteration < committed]
    if not there:
        return reason
    words = ["checkfree", "train", str(folder / CONFIG), f"init={folder}@{max(there)}"]
    words += [f"optimizer.lr={lower_lr(config.optimizer):g}", f"out={folder}-anew"]
    for package in sorted(named(config)):
        words += ["--allow", package]
    return f"{reason}; from before it: {shlex.join(words)}"


# --- what stands there ---------------------------------------------------------------------------


def _named(word: str) -> SavedState:
    """The state that ``init.run=word`` names. Raises BadInput."""
    run, which = _parse(word)
    return saved_state(run, which, f"init={run}", "give another ITERATION, as RUN@ITERATION")


def _parse(word: str) -> tuple[Path, int | str | None]:
    """``RUN``, ``RUN@ITERATION`` or ``RUN@NAME``, of which a folder that is called so is the
    first."""
    path = Path(os.path.expanduser(word))  # which leaves a user whom nobody knows as it is
    match = re.fullmatch(rf"(.+)@(?:(\d{{1,12}})|({MERGED_NAME}))", word)
    if match is None or path.is_dir():
        return path, None
    run = Path(os.path.expanduser(match[1]))
    return run, match[3] if match[2] is None else int(match[2])


# --- whether it fits -----------------------------------------------------------------------------

_FREE = (
    *("context", "dropout", "vocabulary", "code"),
    *("path", "config", "weights", "sha256", "attention", "architecture"),
)
"""Of a model: what a run may change, as where a model of the Hub lies whose weights it has not any
more, is seen from the weights' shapes, or is compared by itself."""


def _check_model(config: Config, old: Mapping[str, Any], told: str) -> None:
    now, then = (_spelled_out(m) for m in (vars(config.model), old.get("model", {})))
    for key, value in now.items():
        if key not in _FREE and key in then and then[key] != value:
            raise BadInput(
                f"{told}: this run has model.{key}={written(value)}, that one had "
                f"{written(then[key])}: set model.{key}={written(then[key])}"
            )
    try:
        check_architecture(now.get("architecture"), then.get("architecture"), "run")
    except BadInput as error:
        raise BadInput(f"{told}: {error}") from None


def _spelled_out(model: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults that follow from other values."""
    full = dict(model)
    if full.get("kv_heads") is None:
        full["kv_heads"] = full.get("heads")
    if full.get("hidden") is None and full.get("width") is not None:
        full["hidden"] = 4 * full["width"]
    return full


def _content(data: Mapping[str, Any]) -> object:
    return data.get("content_hash"), data.get("tokenizer")


def _takes_moments(config: Config, old: Mapping[str, Any], area: str, told: str) -> bool:
    """Whether the optimizer's moments come along. Raises BadInput if they are asked for and can't
    be those of this run's."""
    then = old.get("optimizer", {}).get("name", OptimizerConfig.name)
    kinds = {MOMENTS.get(name, name) for name in (then, config.optimizer.name)}
    alike = len(kinds) == 1
    if config.init.optimizer and not alike:
        raise BadInput(
            f"{told}: this run has optimizer.name={config.optimizer.name}, that one had {then}, "
            "whose moments are others: init.optimizer=false begins with fresh ones"
        )
    return alike and area != WEIGHTS and config.init.optimizer is not False


def _tokens(began: Mapping[str, Any], iteration: int) -> int | None:
    """That a run had trained on by then, with those it had been begun after; None: its batches
    were a user's own."""
    if began["data"].get("name") == USER:
        return None
    old = began["config"]
    each, begins = _tokens_of_one(old), old.get("init", {}).get("data", "start")
    before = _iterations(begins, began.get("init", {}).get("tokens"), each)
    return (before + iteration) * each
