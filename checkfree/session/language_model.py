"""A trained model that can be asked: a run's, its stages one behind the other, or one in a folder
as the Hugging Face Hub has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.config.check import MOST
from checkfree.core.config import Config
from checkfree.core.errors import BadInput, within
from checkfree.core.ops import Address
from checkfree.data.text_codec import TextCodec, bytes_codec, codec_of, no_codec
from checkfree.data.tokenizer_folder import OLDER, TOKENIZER, find
from checkfree.data.tokenizers import BYTES
from checkfree.models.config import ModelConfig
from checkfree.models.families import Family, family
from checkfree.models.folder import Folder
from checkfree.models.hub import FRESH, FROM_ELSEWHERE, HF, longest
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.runtime.process import settled
from checkfree.session.blueprint import family_of
from checkfree.session.exchange import GENERATION_CONFIG, MODEL_CONFIG, model_folder
from checkfree.session.export import tokenizer_of_run, trained
from checkfree.session.saved import SavedState, saved_state
from checkfree.stage import body_part

OURS = {"llama": "llama", "gpt2": "gpt"}
"""Types of transformers' models to families of ours that may compute them."""

USUAL_CONTEXT = 1024
"""Tokens that a model looks back on whose config.json says nothing of it."""


@dataclass(frozen=True)
class LanguageModel:
    """``name`` it in words. ``state``: the run's that it is, if it is one's."""

    name: str
    logits: Callable[[Tensor], Tensor]
    """Tokens (batch, T), int64, to logits (batch, T, vocabulary) of the token after each; these
    are where it computes."""
    codec: TextCodec
    context: int
    """Tokens that it has been trained to look back on."""
    vocabulary: int
    """Tokens that it knows are below it: fewer than its tokenizer's, or more."""
    ends: frozenset[int] = frozenset()
    """Tokens that end a text."""
    state: SavedState | None = None
    unread: tuple[str, ...] = ()
    """Tensors of its folder that it has no place for."""
    words: tuple[str, ...] = ()
    """Of a run: where its data lie by now, as key=value."""


def open_model(
    path: Path,
    at: int | str | None = None,
    allow: Collection[str] = (),
    *,
    words: Sequence[str] = (),
    tokenizer: str | None = None,
    device: str | None = None,
) -> LanguageModel:
    """That of a run after ``at`` iterations, or its average of that name (None: the newest state);
    or in a folder, which this machine's Hub cache may have by that name. ``words``: where a run's
    data lie by now, as :func:`checkfree.resume` takes them. ``tokenizer``: what made its tokens, as
    ``data.tokenizer`` has it, if run or folder don't tell. ``device``: that computes; None: the
    first CUDA device, if there is one. Raises BadInput."""
    where = device_of(device)
    folder = model_folder(path, str(path))
    if folder is None:
        return _of_run(saved_state(path, at), allow, words, tokenizer, where)
    if at is not None:
        raise BadInput(f"--at {at}: {path} is the folder of a model, which has no iterations")
    if words:
        raise BadInput(f"{words[0]}: {path} is the folder of a model, which has no data: --text")
    return replace(_of_folder(folder, tokenizer, where), name=str(path))


def device_of(asked: str | None) -> torch.device:
    """The device that computes; None: the first CUDA device, if there is one. Raises BadInput."""
    if asked is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device {asked}: expected cpu or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise BadInput(f"--device {asked}: torch sees {found} CUDA devices: give another, or cpu")
    return device


@contextmanager
def computing(threads: int | None) -> Iterator[None]:
    """On so many threads of torch; None: as many as it takes by itself. Raises BadInput."""
    if threads is not None:
        within("--threads", threads, 1, MOST["threads"])
    with settled(torch.get_num_threads() if threads is None else threads):
        yield


def _of_run(
    state: SavedState,
    allow: Collection[str],
    words: Sequence[str],
    tokenizer: str | None,
    device: torch.device,
) -> LanguageModel:
    config, model = trained(state, allow, words)
    codec = _codec(state, config, model, tokenizer)
    modules = _filled(family_of(model), model, state.stages, state.weights, device)
    return LanguageModel(
        f"{state.run}, iteration {state.iteration}",
        _chained(modules, model, device),
        codec,
        model.context,
        int(model.vocabulary or codec.vocabulary),
        _ends(codec),
        state,
        words=tuple(words),
    )


def _codec(
    state: SavedState, config: Config, model: ModelConfig, tokenizer: str | None
) -> TextCodec:
    """The tokenizer that a run was trained with. Raises BadInput for one that is gone or another
    one by now."""
    data = state.began["data"]
    known = data["tokenizer"]
    if known == BYTES and tokenizer is None:
        return bytes_codec()
    if tokenizer is None and data["name"] == "bin":
        why = (
            f"{state.told} was trained on ready tokens, and no file tells the tokenizer that made "
            "them: --tokenizer FOLDER or FILE gives it, or bytes"
        )
        return no_codec(known, int(model.vocabulary or 0), data.get("separator"), why)
    if tokenizer is not None:
        codec = _codec_of(tokenizer)
        told = f"--tokenizer {tokenizer}"
    else:
        path, lacking = tokenizer_of_run(state, config)
        if path is None:
            raise BadInput(f"{state.told}: {lacking}")
        codec, told = codec_of(path, config.data.separator), str(path)
    # Ready tokens may tell of their tokenizer in any words, or in none.
    if known != codec.identity and (data["name"] != "bin" or known.startswith("sha256:")):
        raise BadInput(
            f"{told} is another tokenizer than {state.told} was trained with: put that one back"
        )
    return codec


def _codec_of(tokenizer: str, begins: bool = False) -> TextCodec:
    """As ``data.tokenizer`` names it. Raises BadInput."""
    if tokenizer == BYTES:
        return bytes_codec()
    try:
        return codec_of(find(tokenizer), begins=begins)
    except BadInput as error:
        raise BadInput(str(error).replace("data.tokenizer", "--tokenizer", 1)) from None


def _of_folder(path: Path, tokenizer: str | None, device: torch.device) -> LanguageModel:
    try:
        folder = Folder(path)
        tree = folder.json(MODEL_CONFIG)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if tokenizer is not None:
        codec = _codec_of(tokenizer, begins=True)
    else:
        if not any((path / name).exists() for name in (TOKENIZER, *OLDER)):
            raise BadInput(
                f"{path} has no {TOKENIZER}, which text takes: save the model's there, or give "
                "--tokenizer FOLDER or FILE"
            )
        try:
            codec = codec_of(path, begins=True)
        except BadInput as error:
            raise BadInput(str(error).removeprefix("data.tokenizer ")) from None
    name = OURS.get(str(tree.get("model_type")))
    if name is not None:
        made = family(name)
        try:
            model = made.model_config(tree)
        except ValueError:
            return _of_transformers(folder, tree, codec, device)  # alike, but not exactly

        def load(stage: int) -> dict[str, Tensor]:
            found = made.from_transformers(model, 1, stage, folder)
            wide = {n: torch.promote_types(t.dtype, torch.float32) for n, t in found.items()}
            return {name: found[name].to(dtype) for name, dtype in wide.items()}

        modules = _filled(made, model, 1, load, device)
        return LanguageModel(
            str(path),
            _chained(modules, model, device),
            codec,
            model.context,
            int(model.vocabulary or codec.vocabulary),
            _ends(codec, folder),
        )
    return _of_transformers(folder, tree, codec, device)


def _ends(codec: TextCodec, folder: Folder | None = None) -> frozenset[int]:
    """The separator, and what a model's folder names beside it: of a chat model, the end of a turn.
    Raises BadInput."""
    found: list[Any] = [codec.end]
    for name in (GENERATION_CONFIG, MODEL_CONFIG):
        if folder is not None and (folder.path / name).is_file():
            said = folder.json(name).get("eos_token_id")
            found += said if isinstance(said, list) else [said]
    return frozenset(token for token in found if type(token) is int)


def _filled(
    made: Family,
    model: ModelConfig,
    stages: int,
    load: Callable[[int], Mapping[str, Tensor]],
    device: torch.device,
) -> list[nn.Module]:
    """All stages with the weights that are loaded of each, in the type of these. One stage is in
    memory twice at a time. Raises BadInput."""
    # Whatever it began with, it has these now; so nothing is read that may be gone.
    drawn = replace(model, weights=FRESH) if model.family == HF else model
    modules = []
    for stage in range(stages + 1):
        try:
            mine, module = load(stage), made.stage(drawn, stage, stages)
        except ValueError as error:
            raise BadInput(str(error)) from None
        types = [t.dtype for t in mine.values() if t.is_floating_point()]
        widest = max(types, key=lambda dtype: dtype.itemsize)
        kept = module.to(widest).state_dict(keep_vars=True)
        # A tensor that has two names, as one that is tied, is saved under one of them.
        names = {id(kept[name]): name for name in sorted(kept, key=mine.__contains__)}
        if lacks := {*names.values()} - mine.keys():
            raise BadInput(f"stage {stage} lacks {min(lacks)}: that is another model")
        with torch.no_grad():
            for name in names.values():
                kept[name].copy_(mine[name])
        modules.append(module.eval().to(device))
    return modules


def _chained(
    modules: Sequence[nn.Module], model: ModelConfig, device: torch.device
) -> Callable[[Tensor], Tensor]:
    edge: Any = modules[0]
    if not callable(getattr(edge, "logits", None)):
        raise BadInput(
            f"model.family={model.family}: its stage 0 has no logits(hidden), which tells of the "
            "next token: give it one"
        )

    (route,) = revisiting(in_order([Address(i) for i in range(len(modules))], 1), model.chunks)
    chunks, runs = model.chunks.count, list[Callable[[Tensor], Tensor]]()
    for hop, (stage, _) in enumerate(route[1:-1], 1):
        part = body_part(hop, len(modules) - 1, chunks)
        runs.append(modules[stage] if chunks == 1 else getattr(modules[stage], part.value))

    def logits(tokens: Tensor) -> Tensor:
        hidden = edge.embed(
            nn.functional.pad(tokens.to(device), (0, 1))
        )  # whose last token is no input
        for run in runs:
            hidden = run(hidden)
        found: Tensor = edge.logits(hidden)
        return found

    return logits


def _of_transformers(
    folder: Folder, tree: Mapping[str, Any], codec: TextCodec, device: torch.device
) -> LanguageModel:
    """Computed by the package transformers. Nothing is downloaded, and no code of a folder runs."""
    path, kind = folder.path, tree.get("model_type")
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        raise BadInput(
            f"{path}: a model of type {kind} is computed by transformers, which is not installed; "
            "run: pip install 'checkfree[hf]'"
        ) from None
    if found := [key for key in FROM_ELSEWHERE if isinstance(tree.get(key), str)]:
        raise BadInput(
            f"{path / MODEL_CONFIG} names code that computes it, {found[0]}={tree[found[0]]}, and "
            "no code that a folder names is run: take that key out"
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a library makes of a folder
        told = " ".join(str(error).split())[:300]
        raise BadInput(f"{path}: transformers can't load it: {told}") from None
    if told["missing_keys"]:
        raise BadInput(
            f"{path} lacks {min(told['missing_keys'])}, which transformers would draw: get the "
            "folder again"
        )
    model.eval().to(device)

    def logits(tokens: Tensor) -> Tensor:
        found: Tensor = model(tokens.to(device), use_cache=False).logits
        return found

    return LanguageModel(
        str(path),
        logits,
        codec,
        longest(tree) or USUAL_CONTEXT,
        model.get_input_embeddings().num_embeddings,
        _ends(codec, folder),
        unread=tuple(sorted(told["unexpected_keys"])),
    )
