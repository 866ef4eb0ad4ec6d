"""The state that a run begins with, if that is another run's: found there, cut as this run is, and
kept in its own folder, so that the other one may go."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from checkfree.core.records import read
from checkfree.core.typed import written
from checkfree.lead import Progress
from checkfree.messages.control import AVERAGE, CHECKPOINT, INIT, RESUME, WEIGHTS
from checkfree.messages.tensors import StageState
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.folder import CONFIG
from checkfree.runtime.store import Damaged, Store, merged, weights_only
from checkfree.session.regroup import LayoutOf, regrouped
from checkfree.session.snapshot import Snapshot

USER = "user"
"""How the data are called of runs that train a user's own modules."""

KINDS = {WEIGHTS: "weights", AVERAGE: "weights", CHECKPOINT: "checkpoint", RESUME: "snapshot"}
"""How what stands in each area is called; the last that there is of an iteration is taken, for it
has most in it."""

MERGED_NAME = "[A-Za-z][A-Za-z0-9_.-]{0,63}"
"""How an average may be called: no iteration, and no path."""


@dataclass(frozen=True)
class Initial:
    """A run's first state. ``about`` is what its records say: the ``run`` that it is of and the
    ``iteration`` there, the ``kind`` of archive with its ``sha256``, how many ``stages`` that run
    had and the ``tokens`` that it had come to, ``after`` how many iterations of this run's size the
    training text begins, and whether the ``optimizer``'s moments came along."""

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
        with _damage_told(folder):
            return store.load(INIT, 0, stage)

    return Initial(stages, load, about)


def taken_over(config: Config, data: Mapping[str, Any], layout: LayoutOf) -> Initial:
    """That of a new run, from the one that ``init`` names. ``data``: what the new one's records say
    of its own; ``layout``: its model in so many body stages. All of it is read once. Raises
    BadInput for a run that isn't there or has nothing of that iteration, and for a state that is
    another model's."""
    assert config.init.run is not None
    run, which = _parse(config.init.run)
    began = _began(run)
    area, shelf, iteration = _chosen(run, which)
    store, told = Store(DiskFiles(run)), f"init={config.init.run}"
    old = began["config"]
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
    moments = _takes_moments(config, old, area, told)

    @lru_cache(maxsize=2)  # a stage of the new cut is made of neighbours in the old one
    def read_stage(stage: int) -> StageState:
        with _damage_told(run):
            if weights_only(area):
                tensors = store.weights(stage, area)
                return StageState(tensors, tensors, {}, iteration)
            state = store.load(area, shelf, stage)
        return state if moments else replace(state, moments={})

    try:
        there, here = layout(int(old["stages"]), old.get("cut")), layout(config.stages, config.cut)
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
            f"{told}: the {_kind(area)} of iteration {iteration} has no moments of an optimizer: "
            "init.optimizer=false begins with fresh ones"
        )
    with _damage_told(run):
        digest = store.digest(area, shelf)
    tokens = _tokens(began, iteration)
    about = {
        "run": str(run),
        "iteration": iteration,
        "kind": _kind(area),
        "sha256": digest,
        "stages": int(old["stages"]),
        "tokens": tokens,
        "after": _iterations(config.init.data, tokens, _tokens_of_one(to_tree(config))),
        "optimizer": any(found),
    }
    return Initial(config.stages + 1, load, about)


def digest_of(word: str) -> str | None:
    """The SHA-256 of the state that ``init.run=word`` names, wherever it lies now; None: there is
    none."""
    try:
        run, which = _parse(word)
        area, shelf, _ = _chosen(run, which)
        return Store(DiskFiles(run)).digest(area, shelf)
    except (BadInput, Damaged, OSError):
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


@dataclass(frozen=True)
class Saved:
    """A state that stands in a run's folder. Sorted, one has more in it than those before it of the
    same iteration."""

    iteration: int
    place: int
    """In KINDS."""
    shelf: int
    tick: int

    @property
    def area(self) -> str:
        """Of the store."""
        return list(KINDS)[self.place]

    @property
    def kind(self) -> str:
        """How that is called."""
        return KINDS[self.area]


def _parse(word: str) -> tuple[Path, int | str | None]:
    """``RUN``, ``RUN@ITERATION`` or ``RUN@NAME``, of which a folder that is called so is the
    first."""
    path = Path(os.path.expanduser(word))  # which leaves a user whom nobody knows as it is
    match = re.fullmatch(rf"(.+)@(?:(\d{{1,12}})|({MERGED_NAME}))", word)
    if match is None or path.is_dir():
        return path, None
    run = Path(os.path.expanduser(match[1]))
    return run, match[3] if match[2] is None else int(match[2])


def _began(run: Path) -> Mapping[str, Any]:
    """The first record of a run. Raises BadInput if there is no run."""
    try:
        records = read(run) if run.is_dir() else []
        if records and records[0]["kind"] == "config" and records[0]["config"]["stages"] > 0:
            return records[0]
    except (BadInput, KeyError, TypeError, OSError) as error:
        raise BadInput(f"init={run}: its records can't be read ({error})") from None
    raise BadInput(
        f"init={run} is no run folder: give the out=FOLDER of a run that has trained, or "
        "FOLDER@ITERATION"
    )


def _chosen(run: Path, which: int | str | None) -> tuple[str, int, int]:
    """Area, shelf and iteration of the archive to begin from. Raises BadInput, with a list of what
    stands there, if that is none."""
    if isinstance(which, str):
        return _average(run, which)
    found = saved(run)
    wanted = max((s.iteration for s in found), default=None) if which is None else which
    of_it = [state for state in found if state.iteration == wanted]
    if of_it:
        return of_it[-1].area, of_it[-1].shelf, of_it[-1].iteration
    listed = ", ".join(f"{state.iteration} ({state.kind})" for state in found)
    what = "nothing" if which is None else f"no state of iteration {which}"
    mend = f"there are {listed}" if found else "train it with resume.every=N, which keeps some"
    raise BadInput(f"init={run}: {what} stands there: {mend}")


def _average(run: Path, name: str) -> tuple[str, int, int]:
    """The same of what ``checkfree merge`` made."""
    store = Store(DiskFiles(run))
    if name not in store.merged():
        there = ", ".join(f"{run}@{known}" for known in store.merged())
        mend = f"there are {there}" if there else f"checkfree merge {run} --to {name} makes one"
        raise BadInput(f"init={run}@{name}: no average of that name stands there: {mend}")
    with _damage_told(run):
        try:
            return merged(name), 0, int(store.note(merged(name), 0)["progress"]["committed"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"the manifest of {merged(name)} is damaged: {error!r}") from None


def _kind(area: str) -> str:
    return KINDS.get(area, "average")


def saved(run: Path) -> list[Saved]:
    """What a run's folder has whose manifest is good, ascending by iteration."""
    store, found = Store(DiskFiles(run)), set()
    for place, area in enumerate(KINDS):
        for shelf in (0,) if area == WEIGHTS else store.offered(area):
            try:
                progress = store.note(area, shelf)["progress"]
                found.add(Saved(int(progress["committed"]), place, shelf, int(progress["tick"])))
            except (Damaged, KeyError, TypeError, ValueError):
                continue
    return sorted(found, key=lambda state: (state.iteration, state.place, state.shelf))


@contextmanager
def _damage_told(run: Path) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise BadInput(f"init={run}: {error}; give another ITERATION, as RUN@ITERATION") from None


# --- whether it fits -----------------------------------------------------------------------------

_FREE = ("context", "dropout", "vocabulary", "code")
"""Of a model: what a run may change, or is seen from the weights' shapes."""


def _check_model(config: Config, old: Mapping[str, Any], told: str) -> None:
    now, then = (_spelled_out(m) for m in (vars(config.model), old.get("model", {})))
    for key, value in now.items():
        if key not in _FREE and key in then and then[key] != value:
            raise BadInput(
                f"{told}: this run has model.{key}={written(value)}, that one had "
                f"{written(then[key])}: set model.{key}={written(then[key])}"
            )


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
