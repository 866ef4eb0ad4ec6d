"""A model of the Hugging Face Hub by its folder: what its config.json tells, and where it lies.
Imports neither torch nor transformers, so that a configuration is read and checked without them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .config import ModelConfig

HF = "hf"
CONFIG = "config.json"
PRETRAINED, FRESH = "pretrained", "fresh"
AS_CONFIGURED = "config"
"""A loss of routers is weighed as config.json says."""

KEYS: Mapping[str, Sequence[str]] = {
    "width": ("hidden_size", "n_embd", "d_model", "emb_dim"),
    "blocks": (
        *("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        *("decoder_layers", "num_decoder_layers"),
    ),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "hidden": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
}
"""Of ours what config.json says, under one of these names."""
NEEDED = ("width", "blocks", "vocabulary")

BY_LAYER = ("layer_types", "layers_block_type")
"""Lists of the kinds of layers, whose length is their number if nothing else says it."""

LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""What the longest sequence is called that a model has positions for."""

OURS = ("path", "config", "weights", "attention", "router_loss", "architecture", "sha256")
"""Keys of the section ``model`` that only this family reads."""

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.json)")
"""How a model on the Hub is called: the name of who has it, and its own."""

QUANTIZED = ("quantization_config", "compression_config")
"""Under which config.json tells how weights are packed."""

FROM_ELSEWHERE = (
    *("auto_map", "attn_implementation", "_attn_implementation"),
    *("experts_implementation", "_experts_implementation"),
)
"""Keys of config.json that tell whose code computes a model, which may be a repository of the Hub:
a folder has no say in that."""

SAMPLE = 1 << 12
"""Bytes that a fingerprint reads at each place of a tensor."""
PLACES, FEWEST, ALL_PLACES = 5, 2, 1 << 14
"""Places of a tensor, spread from its first byte to its last; fewer, but no fewer than ``FEWEST``,
where those of a folder would be more than ``ALL_PLACES``."""
FORMER_SAMPLE = 1 << 16
"""Bytes at the start, the middle and the end of a file that ``former_fingerprint`` reads."""

LARGEST_HEADER = 100_000_000
"""Bytes, as the library of safetensors has it."""

MOST = 1 << 24
"""Bytes of a config.json; the largest of the Hub have thousands."""


def described(config: ModelConfig) -> ModelConfig:
    """``config`` with all that the model's config.json tells, and of pretrained weights with their
    fingerprint; one that has these already, as a run's record has, as it is. Raises ValueError, in
    one line."""
    config = config if config.architecture is not None else _read(config)
    told = config.architecture
    if not isinstance(told, Mapping) or not isinstance(told.get("model_type"), str):
        raise ValueError("model.architecture has no model_type: leave it out, it is config.json's")
    if config.weights == PRETRAINED and any(told.get(key) for key in QUANTIZED):
        raise ValueError(
            f"model.path={config.path} has quantized weights, which can't train: get the model "
            "that they were made of, or set model.weights=fresh"
        )
    if config.attention is not None and "/" in config.attention:
        raise ValueError(
            f"model.attention={config.attention} is code of a repository, and that is never run: "
            "take eager, sdpa, or what is installed here"
        )
    told = {key: told[key] for key in told if key not in (*QUANTIZED, *FROM_ELSEWHERE)}
    parts = [
        key
        for key, part in told.items()
        if isinstance(part, Mapping) and ("model_type" in part or key == "text_config")
    ]
    if "text_config" in parts or (parts and not any(key in told for key in KEYS["width"])):
        raise ValueError(
            f"a {told['model_type']} is made of several models ({', '.join(parts)}), and only a "
            "language model is trained here: give the folder of its text model alone"
        )
    loss = _coefficient(config.router_loss)
    config = replace(config, architecture=told, router_loss=loss, **_shape(config, told))
    most = longest(told)
    if most is not None and config.context > most:
        raise ValueError(
            f"model.context is {config.context}, and the model has positions for {most}: "
            f"model.context={most}"
        )
    return config


def _coefficient(given: Any) -> Any:
    """``router_loss`` as it was given, text that YAML takes for no number as one. Raises
    ValueError."""
    if given is None or given == AS_CONFIGURED:
        return given
    try:
        found = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(
            f"model.router_loss is {given}, expected a number of 0 or more, as in 0.001, or "
            f"{AS_CONFIGURED}: choose one, or leave it out"
        )
    return found


def longest(told: Mapping[str, Any]) -> int | None:
    """Tokens that a model has positions for, as its config.json says; None: it does not."""
    found = (told.get(key) for key in LONGEST)
    return next((number for number in found if type(number) is int and number > 0), None)


def folder_of(path: str) -> Path:
    """The folder at ``path``, else of the model that is called so in this machine's Hub cache.
    Raises ValueError."""
    folder = Path(path).expanduser()
    found = folder if folder.is_dir() else cached(path)
    if found is None:
        raise ValueError(f"model.path={path}: {absent(path)}")
    return found


def cached(name: str) -> Path | None:
    """The folder of the model of that name in this machine's Hub cache, where one is; nothing is
    downloaded. None: there is none, or no package that knows."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def absent(name: str) -> str:
    """Of what is neither a folder nor in the cache: that, and how it gets there."""
    if find_spec("huggingface_hub") is None:
        return "no such folder; names of the Hub's need: pip install 'checkfree[hf]'"
    fetched = f", or fetch it by hf download {name}" if NAME.fullmatch(name) else ""
    return (
        "no such folder, and no model of that name in the Hub cache of this machine: give a folder"
        f"{fetched}"
    )


def own_tokenizer(config: ModelConfig) -> Path | None:
    """The file of the tokenizer whose tokens pretrained weights know, if one lies beside them.
    Raises ValueError."""
    if config.weights != PRETRAINED or config.path is None:
        return None
    file = folder_of(config.path) / "tokenizer.json"
    return file if file.is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """Its files of weights, in order of their names; none of a kind that would be unpickled."""
    return sorted(folder.glob("*.safetensors"))


def fingerprint(folder: Path) -> str:
    """SHA-256 over a folder's files of weights: their names, sizes and headers, and bytes of every
    tensor, ``PLACES`` times ``SAMPLE`` or all that it has. Raises ValueError.

    The whole is not read, which would take a seat longer than its own stage. Other weights of the
    same shapes show: of a training, of an adapter that was merged into some matrices, of biases
    alone; so do rows at the end of a vocabulary. A few rows amid a large matrix need not."""
    found, files = hashlib.sha256(), weight_files(folder)
    try:
        layouts = {file: _layout_of(file) for file in files}
        count = sum(len(spans) for _, spans in layouts.values())
        places = min(PLACES, max(FEWEST, ALL_PLACES // max(1, count)))
        for file, (begin, spans) in layouts.items():
            found.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                found.update(stream.read(begin))
                for start, end in spans:
                    last = end - start - SAMPLE
                    whole = last < places * SAMPLE
                    for k in range(1 if whole else places):
                        stream.seek(start + last * k // (places - 1))
                        found.update(stream.read(end - start if whole else SAMPLE))
    except OSError as error:
        raise ValueError(f"{error.filename} can't be read: {error.strerror}") from None
    return found.hexdigest()


def _layout_of(file: Path) -> tuple[int, list[tuple[int, int]]]:
    """Bytes of its header, and from which to which each tensor lies; the file as one tensor if it
    is none of safetensors, which whoever reads it will say. Raises OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
        if begin > min(size, LARGEST_HEADER):
            return 0, [(0, size)]
        try:
            tree = json.loads(stream.read(begin - 8))
            offsets = [tree[key]["data_offsets"] for key in tree if key != "__metadata__"]
            spans = sorted((begin + max(0, int(a)), begin + int(b)) for a, b in offsets)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return 0, [(0, size)]
    return begin, [(start, min(size, end)) for start, end in spans if start < min(size, end)]


def former_fingerprint(folder: Path) -> str:
    """As runs of earlier versions have recorded it: of each file three samples."""
    found = hashlib.sha256()
    for file in weight_files(folder):
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for place in (0, size // 2, max(0, size - FORMER_SAMPLE)):
                stream.seek(place)
                found.update(stream.read(FORMER_SAMPLE))
    return found.hexdigest()


def has_weights(folder: Path, recorded: str) -> bool:
    """Whether a folder has those whose fingerprint was ``recorded``, by this version or an earlier
    one. Raises ValueError."""
    return recorded == fingerprint(folder) or recorded == former_fingerprint(folder)


def held(config: ModelConfig) -> Path:
    """The folder of a run's pretrained weights, if it still has those that the run began with.
    Raises ValueError."""
    assert config.path is not None
    folder = folder_of(config.path)
    if config.sha256 is not None and not has_weights(folder, config.sha256):
        raise ValueError(
            f"model.path={config.path} has other weights than the run began with: put them back, "
            "or give model.path= where they are"
        )
    return folder


def check_unused(config: ModelConfig) -> None:
    """Raise ValueError for a key that only ``hf`` reads, of another family."""
    for key in OURS:
        if getattr(config, key) is not None:
            raise ValueError(
                f"model.{key} is for model.family=hf, and this is {config.family}: "
                "leave it out, or set model.family=hf"
            )


def _read(config: ModelConfig) -> ModelConfig:
    if (config.path is None) == (config.config is None):
        raise ValueError(
            "model.family=hf needs one of model.path=FOLDER (with weights) and model.config=FILE "
            "(a config.json, for fresh ones)"
        )
    if config.weights not in (None, PRETRAINED, FRESH):
        raise ValueError(
            f"model.weights is {config.weights!r}, expected {PRETRAINED} or {FRESH}: choose one"
        )
    if config.path is None:
        assert config.config is not None
        if config.weights == PRETRAINED:
            raise ValueError(
                "model.config has no weights: model.path=FOLDER has, or model.weights=fresh"
            )
        told = _json(Path(config.config).expanduser())
        return replace(config, architecture=told, weights=FRESH)
    folder = folder_of(config.path)
    told, files = _json(folder / CONFIG), weight_files(folder)
    if config.weights == FRESH:
        return replace(config, architecture=told)
    if not files:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise ValueError(
            f"model.path={config.path} has no *.safetensors"
            + (", and what is pickled is not read: save it as safetensors" if pickled else "")
            + ", or set model.weights=fresh"
        )
    return replace(config, architecture=told, weights=PRETRAINED, sha256=fingerprint(folder))


def _json(file: Path) -> dict[str, Any]:
    try:
        kind = file.stat()
        regular = stat.S_ISREG(kind.st_mode) and kind.st_size <= MOST
        text = file.read_bytes() if regular else b""
    except OSError as error:
        raise ValueError(
            f"{file}: {error.strerror}: give a model's folder or config.json"
        ) from None
    if not regular:
        raise ValueError(f"{file} is no file, or larger than any config.json: give the model's own")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers that are longer than any
        raise ValueError(f"{file} is no JSON ({error}): give the model's own config.json") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ValueError(f"{file} has no model_type: give the config.json of a Hugging Face model")
    return found


def _shape(config: ModelConfig, told: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys as config.json has them; what a user set otherwise is refused."""
    defaults = {field.name: field.default for field in fields(ModelConfig)}
    found = dict[str, Any]()
    for key, names in KEYS.items():
        name = next((name for name in names if told.get(name) is not None), names[0])
        value = told.get(name)
        if key == "blocks" and value is None:
            kinds = next((told[n] for n in BY_LAYER if isinstance(told.get(n), (list, tuple))), ())
            value = len(kinds) or None
        if key in NEEDED and (value is None or isinstance(value, (list, tuple, dict))):
            raise ValueError(f"config.json says nothing of {', '.join(names)}: add {names[0]}")
        if value is None:
            continue
        if isinstance(value, (list, tuple, dict)):  # by layer, as some have it
            continue
        if key == "tied" and not isinstance(value, bool):
            raise ValueError(f"config.json has {name} {value!r}, expected true or false: mend it")
        if key != "tied" and (type(value) is not int or value < 1):
            raise ValueError(f"config.json has {name} {value!r}, expected 1 or more: mend it")
        given = getattr(config, key)
        if given not in (defaults[key], value):
            raise ValueError(
                f"model.{key} is {given}, and the model's config.json has {value}: leave it out"
            )
        found[key] = value
    if config.dropout:
        raise ValueError(
            f"model.dropout is {config.dropout}, and dropout is as config.json has it: leave it out"
        )
    return found
