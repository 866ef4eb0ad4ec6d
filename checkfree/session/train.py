"""Train, and go on training: the calls behind ``checkfree train`` and ``checkfree.train``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from checkfree.config.check import check_data_keys
from checkfree.config.load import load_saved
from checkfree.config.parts import named, permitted
from checkfree.config.places import moved
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.runtime import folder as folders
from checkfree.runtime.recorder import Listener
from checkfree.session.job import Job, any_config, of_config, of_users, with_trace
from checkfree.session.memory import instead_of_resuming, within_memory
from checkfree.session.session import Run, Session
from checkfree.worker import Batches


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Train as configured, through the failures that are configured, into a new run folder.

    ``config``: a Config, a YAML file, nested mappings of its keys, or None for the defaults.

    With ``stages`` your own modules train instead of a built-in model: stage 0 has
    ``embed(batch)`` and ``loss(hidden, batch)`` (a mean), stages 1 … n map hidden to hidden and
    have parameters of equal names, shapes and types. Then ``batches(iteration, microbatch)`` gives
    what stage 0 is fed, and ``validation`` the same for text that is not trained on; both have to
    be pure, because a microbatch that is tried again must be the same one. The modules passed in
    stay as they are: the trained ones are in ``Run.stages``. Before anything is written the first
    microbatch goes through copies of them.

    Raises BadInput, RunFailed (a full disk, for example: what was saved stays good) and whatever
    a user's module raises. A run that its strategy could not save returns with status "failed".
    """
    made = any_config(config, None if stages is None else max(1, len(stages) - 1))
    check_data_keys(made.data)
    if not isinstance(config, Config):  # which says by itself whose code may run
        made = permitted(made, named(made))
    if stages is None:
        made = within_memory(made)
    job = _job(made, Path(made.out), stages, batches, validation, listeners)
    with Session.create(job) as session:
        session.assemble()
        return session.run()


def resume(
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
    allow: Collection[str] = (),
) -> Run:
    """Go on with a run that was stopped, from its newest good snapshot, bit for bit as if it had
    never stopped. A run of your own modules needs them again, and one with a strategy of your own,
    ``module:Class``, the name of its top package in ``allow``.

    ``overrides`` say where it has its data now and on what it computes, if not as before:
    ``"data.path=/mnt/texts"``, ``data.cache``, ``data.tokenizer``, ``recovery.log_path``,
    ``stash``, ``devices``, ``threads``. What data hold has to be the same; bits may differ on
    another device or with other threads. Raises BadInput, RunFailed."""
    path = folders.existing(Path(folder))
    config = moved(load_saved(path / folders.CONFIG, allow), overrides)
    config = with_trace(config, path / folders.TRACE)
    instead = partial(instead_of_resuming, config, path)
    job = _job(config, path, stages, batches, validation, listeners, instead)
    with Session.resume(job) as session:
        session.assemble()
        return session.run()


def _job(
    config: Config,
    folder: Path,
    stages: Sequence[nn.Module] | None,
    batches: Batches | None,
    validation: Batches | None,
    listeners: Sequence[Listener],
    instead: Callable[[], str] | None = None,
) -> Job:
    if stages is not None:
        return of_users(config, folder, stages, batches, validation, listeners)
    if batches is not None or validation is not None:
        raise BadInput("batches and validation go with stages=[…]: give your modules too")
    return of_config(config, folder, listeners, instead=instead)
