"""Folders of models, as the Hugging Face Hub has them, and the families that can read and write
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS
from checkfree.core.typed import written
from checkfree.models import hub
from checkfree.models.chunks import Chunks
from checkfree.models.config import ModelConfig
from checkfree.models.families import Family
from checkfree.models.folder import SUFFIX
from checkfree.session.blueprint import family_of

MODEL_CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"

_NEEDED = ("to_transformers", "from_transformers", "transformers_config", "model_config")
_ASIDE = frozenset(
    {
        *("dtype", "torch_dtype", "architectures", "transformers_version", "_name_or_path"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "output_router_logits"),
    }
)
"""Keys of config.json of which no logit depends."""
_SHAPE = ("width", "heads", "kv_heads", "hidden", "blocks", "context", "vocabulary", "tied")


def is_model_folder(path: Path) -> bool:
    """A folder with a model's configuration or weights, and no run's."""
    if not path.is_dir() or (path / RECORDS).exists():
        return False
    return (path / MODEL_CONFIG).exists() or any(path.glob(f"*{SUFFIX}"))


def model_folder(path: Path, told: str) -> Path | None:
    """The folder of the model that ``path`` is, or that this machine's Hub cache has of that name.
    None: it is a run, or nothing. Raises BadInput, about ``told``, for a name of the Hub that the
    cache has not."""
    if path.exists() or not hub.NAME.fullmatch(str(path)):
        return path if is_model_folder(path) else None
    found = hub.cached(str(path))
    if found is None:
        raise BadInput(f"{told}: {hub.absent(str(path))}")
    return found


def exchanging(model: ModelConfig) -> Family:
    """The family of a model, if it reads and writes such folders. Raises BadInput."""
    found = family_of(model)
    plain = family_of(replace(model, chunks=Chunks.WHOLE))
    lacks = [name for name in _NEEDED if not callable(getattr(plain, name, None))]
    if lacks:
        raise BadInput(
            f"model.family={model.family} has no {lacks[0]}, so nothing of it can be written as "
            "transformers has it, or read: give the family one, see checkfree.models.families"
        )
    return found


def check_shape(model: ModelConfig, theirs: ModelConfig, family: Family) -> None:
    """Raise BadInput, with the mend, unless a model is that of a folder. One without learned
    positions may have a shorter context."""
    now, then = _spelled_out(model), _spelled_out(theirs)
    learned = any(name.startswith("positions") for name in getattr(family, "NAMES", ()))
    for key in _SHAPE:
        ours, wanted = getattr(now, key), getattr(then, key)
        fits = ours <= wanted if key == "context" and not learned else ours == wanted
        if not fits:
            name = getattr(family, "KEYS", {}).get(key, f"model.{key}")
            raise BadInput(
                f"model.{key}={written(ours)}, the folder has {name} {written(wanted)}: set "
                f"model.{key}={written(wanted)}"
            )

    check_architecture(model.architecture, theirs.architecture, "folder")


def check_architecture(
    ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None, whose: str
) -> None:
    """What only config.json tells of a model of the Hub: as one rotary base, or what it scales.
    ``whose``: the folder or run that has the other model. Raises BadInput."""
    ours, theirs = ours or {}, theirs or {}
    for key in sorted((ours.keys() | theirs.keys()) - _ASIDE):
        if ours.get(key) != theirs.get(key):
            raise BadInput(
                f"config.json of the {whose} has {key}={theirs.get(key)!r}, and that of this model "
                f"has {ours.get(key)!r}: give the {whose}'s own, by model.config or model.path"
            )


def _spelled_out(model: ModelConfig) -> ModelConfig:
    """With the defaults that follow from other values."""
    kv_heads = model.heads if model.kv_heads is None else model.kv_heads
    hidden = 4 * model.width if model.hidden is None else model.hidden
    return replace(model, kv_heads=kv_heads, hidden=hidden)
