"""A run's weights as a folder that any program reads which reads models of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from checkfree.config.load import as_recorded, build, load_saved
from checkfree.config.parts import permitted
from checkfree.config.places import moved
from checkfree.core.config import Config
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.records import read
from checkfree.data import tokenizer_files
from checkfree.data.tokenizer_folder import TOKENIZER, files_of, find, identity_of
from checkfree.data.tokenizers import BYTES
from checkfree.models.config import ModelConfig
from checkfree.models.families import Family
from checkfree.models.folder import Draft, draft_of
from checkfree.pipeline import chunks_of
from checkfree.runtime import folder as folders
from checkfree.session.exchange import GENERATION_CONFIG, MODEL_CONFIG, exchanging
from checkfree.session.kept_tokenizer import with_kept_tokenizer
from checkfree.session.model_card import model_card
from checkfree.session.saved import USER, SavedState, saved_state

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

README = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written: of which iteration, in which type, and ``lacking``: what could not be, in
    words; "": nothing."""

    folder: Path
    iteration: int
    parameters: int
    dtype: str
    shards: int
    lacking: str


def export(
    run: str | Path,
    *,
    to: str | Path,
    at: int | str | None = None,
    dtype: str | None = None,
    allow: Collection[str] = (),
) -> Exported:
    """Write the state of ``run`` after ``at`` iterations, or the average of that name (None: the
    newest state), to the new folder ``to``: stage by stage, with the weights of one in memory at a
    time; twice, where a family is saved in other tensors than it computes with, as fused experts.
    ``dtype`` is one of DTYPES; None: as it was trained. Raises BadInput, and RunFailed if the disk
    takes no more: then nothing is at ``to``."""
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    to, state = Path(to), saved_state(Path(run), at)
    config, model = trained(state, allow)
    family = exchanging(model)
    try:
        with draft_of(to) as draft:
            return _write(draft, to, state, config, model, family, dtype)
    except ValueError as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise RunFailed(
            f"cannot write {to}: {error.strerror or error}; nothing is left there: make room, or "
            "give another --to"
        ) from error


def trained(
    state: SavedState, allow: Collection[str] = (), words: Sequence[str] = ()
) -> tuple[Config, ModelConfig]:
    """A run's configuration, with the places where its data are by now, as its folder has them or
    ``key=value`` words say, and its model with all that its data told of it. Raises BadInput for a
    run of a user's own modules, for parts of it that may not run, and for words that change more
    than a place."""
    began = state.began
    if began["data"].get("name") == USER:
        raise BadInput(
            f"{state.told} trained modules of your own, whose names nobody else knows: its weights "
            "are in weights/stage-*.safetensors"
        )
    config = permitted(build(as_recorded(began["config"])), allow)
    if (state.run / folders.CONFIG).is_file():
        placed = load_saved(state.run / folders.CONFIG, allow)
        config = replace(config, data=placed.data)
    config = with_kept_tokenizer(moved(config, words), state.run)
    vocabulary = config.model.vocabulary or began["data"]["vocabulary"]
    cut = None if config.cut is None else tuple(config.cut)
    chunks = chunks_of(config.schedule)
    return config, replace(config.model, vocabulary=vocabulary, cut=cut, chunks=chunks)


def _write(
    draft: Draft,
    to: Path,
    state: SavedState,
    config: Config,
    model: ModelConfig,
    family: Family,
    dtype: str | None,
) -> Exported:
    types, cast = set[torch.dtype](), None if dtype is None else DTYPES[dtype]
    for stage in range(state.stages + 1):
        theirs = family.to_transformers(model, state.stages, stage, state.weights(stage))
        draft.shard(stage + 1, state.stages + 1, theirs, cast)
        types |= {cast or t.dtype for t in theirs.values() if t.is_floating_point()}
        del theirs  # before the next one
    written = str(max(types, key=lambda d: d.itemsize)).removeprefix("torch.")
    files, lacking = _tokenizer(state, config)
    for name, data in files.items():
        if name != GENERATION_CONFIG:
            draft.write(name, data)
    tree = _with_ends(family.transformers_config(model), state.began["data"].get("separator"))
    tree.pop("torch_dtype", None)  # as it was called before
    draft.write_json(MODEL_CONFIG, {**tree, "dtype": written})
    ends = {key: tree.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {key: value for key, value in ends.items() if value is not None}
    draft.write_json(GENERATION_CONFIG, {"_from_model_config": True, **known})
    card = model_card(state, read(state.run), to.name, written)
    draft.write(README, card.encode())
    parameters = int(state.began["parameters"])
    return Exported(to, state.iteration, parameters, written, state.stages + 1, lacking)


def _with_ends(tree: Mapping[str, Any], separator: int | None) -> dict[str, Any]:
    """With the token that ended documents, where a family says nothing of its own: every text also
    began behind one."""
    return {"bos_token_id": separator, "eos_token_id": separator, **tree}


def _tokenizer(state: SavedState, config: Config) -> tuple[dict[str, bytes], str]:
    """Its files, and why there are none. Raises BadInput for one that has changed since."""
    separator, context = state.began["data"].get("separator"), config.model.context
    if state.began["data"]["tokenizer"] == BYTES:
        return tokenizer_files.of_bytes(context), ""
    path, lacking = tokenizer_of_run(state, config)
    if path is None:
        return {}, lacking
    files = files_of(path)
    if identity_of(files[TOKENIZER]) != state.began["data"]["tokenizer"]:
        raise BadInput(
            f"{path} is another tokenizer than {state.told} was trained with: put that one back"
        )
    return tokenizer_files.whole(files, separator, context), ""


def tokenizer_of_run(state: SavedState, config: Config) -> tuple[Path | None, str]:
    """The file or folder of a run's tokenizer, which is not bytes: its own copy, else the one that
    is configured. None: there is none, and why."""
    named = config.data.kept or config.data.tokenizer
    if named == BYTES:
        return None, "no file tells the tokenizer that made its tokens"
    try:
        path = find(named)
    except BadInput as error:
        return None, str(error)
    there = path.exists()
    return path if there else None, "" if there else f"data.tokenizer={path} is not there any more"
