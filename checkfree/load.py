"""From a YAML file and ``key=value`` words to a checked ``Config``. Every error is one line."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from checkfree.checks import check
from checkfree.config import Config, RecoveryConfig
from checkfree.errors import BadInput
from checkfree.failures import SAMPLERS

LONGEST_PATH = 1000

SHORT = {"recovery": "name", "failures": "scenario"}
"""Sections that may be given as one word, and the key that the word is for."""


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a file (None: all defaults) with ``key=value`` words on top.

    Raises BadInput for a missing or malformed file, an unknown key, a wrong type, or a value that
    no run can take.
    """
    file = None if path is None else find(path)
    tree = {} if file is None else _expand(_read(file))
    words = _expand(parse_words(overrides))
    config = build(merge(_give_way(tree, words), words))
    name = "run" if file is None else file.stem
    return dataclasses.replace(config, out=config.out.replace("{name}", name))


def build(tree: Mapping[str, Any]) -> Config:
    """A checked Config from nested mappings. Raises BadInput."""
    _check_keys(tree, Config, "")
    if isinstance(tree.get("devices"), str):
        tree = {**tree, "devices": [tree["devices"]]}
    try:
        made = OmegaConf.merge(OmegaConf.structured(Config()), OmegaConf.create(dict(tree)))
        config = _as_config(OmegaConf.to_container(made, resolve=True), Config)
    except OmegaConfBaseException as error:
        raise BadInput(_explain(error, tree)) from None
    check(config)
    return config  # type: ignore[no-any-return]


def to_tree(config: Config) -> dict[str, Any]:
    """Nested plain data that :func:`build` makes the same Config of."""
    return dataclasses.asdict(config, dict_factory=lambda pairs: {k: _plain(v) for k, v in pairs})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def to_yaml(config: Config) -> str:
    """The resolved configuration as a file that runs again."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def find(path: str | Path) -> Path:
    """A configuration by path, else one that ships with checkfree by name."""
    path = Path(path)
    if len(str(path)) > LONGEST_PATH:
        raise BadInput(f"{str(path)[:60]}…: a path of {len(str(path))} characters is no file's")
    if path.is_file():
        return path
    shipped = Path(str(resources.files("checkfree.configs")))
    for candidate in (shipped / path, shipped / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(str(p.relative_to(shipped))[:-5] for p in shipped.rglob("*.yaml"))
    what = "is a folder" if path.is_dir() else "no such file"
    raise BadInput(f"{path}: {what}; give a YAML file, or one that ships: {', '.join(names)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path}: not YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: expected keys and values, got {type(tree).__name__}")
    return tree


# --- words -------------------------------------------------------------------------------------


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", "c=x"]`` -> ``{"a": {"b": 1}, "c": "x"}``; later words win."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            raise BadInput(f"{word!r} is not of the form key=value, as in iterations=100")
        value: Any = _value(key, text)
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(_expand(tree), _expand(value))
    return tree


def _value(key: str, text: str) -> Any:
    if key in SHORT:  # "checkpoint(interval=25)" and paths are no YAML
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise BadInput(f"{key}={text}: the value is not YAML; put quotes around text") from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections given as one word, written out; "checkpoint(interval=25)" too."""
    full = dict(tree)
    for section, key in SHORT.items():
        value = full.get(section)
        if isinstance(value, Mapping) and isinstance(value.get(key), str):
            full = merge(full, _variant(section, key, value[key]))
        elif value is None and section in full:
            full[section] = {key: "none"}
        elif isinstance(value, str):
            full = merge({**full, section: {}}, _variant(section, key, value))
    return full


def _variant(section: str, key: str, word: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\w+)\((.*)\)", word.strip()) if section == "recovery" else None
    if match is None:
        return {section: {key: word}}
    options = [option.strip() for option in match[2].split(",") if option.strip()]
    words = [o if _is_whole(o) else f"{section}.{o}" for o in options]
    return merge({section: {key: match[1]}}, parse_words(words))


def _is_whole(option: str) -> bool:
    """It names a key from the top, as ``failures.stages=middle`` and ``failures=none`` do."""
    key = option.partition("=")[0]
    own = {field.name for field in dataclasses.fields(RecoveryConfig)}
    return "." in key or (key not in own and key in {f.name for f in dataclasses.fields(Config)})


def _give_way(tree: dict[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """A rate on the command line replaces the file's, whatever unit and scenario that has."""
    given = words.get("failures")
    rates = ("probability", "rate_per_hour")
    if not isinstance(given, Mapping) or not any(given.get(rate) is not None for rate in rates):
        return tree
    section = tree.get("failures")
    below = dict(section) if isinstance(section, Mapping) else {}
    for rate in rates:
        below.pop(rate, None)
    if below.get("scenario") not in SAMPLERS:
        below.pop("scenario", None)
    return {**tree, "failures": below}


# --- keys and types ----------------------------------------------------------------------------


def _check_keys(tree: Mapping[str, Any], of: Any, prefix: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(of)}
    for key, value in tree.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"keys: {', '.join(fields)}"
            raise BadInput(f"unknown key {prefix}{key}: {hint}")
        section = _section(fields[key])
        if section is None:
            continue
        if not isinstance(value, Mapping):
            inner = dataclasses.fields(section)[0].name
            raise BadInput(f"{prefix}{key}={value}: expected keys, as in {key}.{inner}=…")
        _check_keys(value, section, f"{prefix}{key}.")


def _section(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory() if callable(field.default_factory) else None
    return type(made) if dataclasses.is_dataclass(made) else None


def _as_config(tree: Any, of: Any) -> Any:
    """Plain data to frozen dataclasses; lists become tuples where the field is one."""
    values = {}
    for field in dataclasses.fields(of):
        value, section = tree[field.name], _section(field)
        if section is not None:
            value = _as_config(value, section)
        elif isinstance(field.default, tuple):
            value = tuple(value)
        values[field.name] = value
    return of(**values)


def _explain(error: OmegaConfBaseException, tree: Mapping[str, Any]) -> str:
    """What, got, expected, and how it is written."""
    key = getattr(error, "full_key", None) or _culprit(tree)
    got: Any = tree
    default: Any = to_tree(Config())
    for part in key.split("."):
        got = got.get(part) if isinstance(got, Mapping) else None
        default = default.get(part) if isinstance(default, Mapping) else None
    names = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    expected = names.get(type(default).__name__, "a value")
    if isinstance(default, list):
        expected = f"a list of {len(default)}" if len(default) > 1 else "a list"
    return f"{key}={got}: expected {expected}, as in {key}={default}"


def _culprit(tree: Mapping[str, Any]) -> str:
    """OmegaConf does not say which list has the wrong length: there is one that has a length."""
    betas = tree.get("optimizer")
    return "optimizer.betas" if isinstance(betas, Mapping) and "betas" in betas else "configuration"
