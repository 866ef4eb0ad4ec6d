"""From a YAML file and ``key=value`` words to a checked ``Config``. Every error is one line."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Optional, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from checkfree.config.check import check, check_data_keys
from checkfree.config.parts import permitted
from checkfree.config.stash import as_stash, stash_of
from checkfree.core.config import Config, InitConfig, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.formats import SIGNS
from checkfree.core.rates import MUON, SGD, USUAL_MOMENTUM
from checkfree.core.typed import as_config, written
from checkfree.failures import SAMPLERS, presets
from checkfree.models.families import described
from checkfree.plugins import known, packages
from checkfree.recovery.options import AUTO
from checkfree.recovery.registry import STRATEGIES

LONGEST_PATH = 1000

COMPARE = "compare"
"""The section of a file that only ``checkfree compare`` reads; it is no part of a run."""

COMPARE_TEXTS = ("out", "results", "title")
"""Keys of it whose values are text."""

INIT = "init"

SHORT = {"recovery": "name", "failures": "scenario", "init": "run", "wire": "links"}
"""Sections that may be given as one word, and the key that the word is for."""


@dataclass(frozen=True)
class ConfigSource:
    """A configuration file, short forms written out; nothing in it is checked yet."""

    name: str
    tree: Mapping[str, Any]
    compare: Mapping[str, Any]
    """What stands under ``compare:``, see ``checkfree.study.options``."""


def load(
    path: str | Path | None, overrides: Sequence[str] = (), allow: Collection[str] = ()
) -> Config:
    """The configuration of a file (None: all defaults) with ``key=value`` words on top.

    ``allow``: top packages of parts from outside that it may name, beside those that the words
    name. Raises BadInput for a missing or malformed file, an unknown key, a wrong type, a value
    that no run can take, or a key that the data don't read.
    """
    config = _made(open_source(path), overrides, allow)
    check_data_keys(config.data)
    return config


def load_saved(path: Path, allow: Collection[str] = ()) -> Config:
    """The configuration that a run wrote into its folder. Raises BadInput, but not for a key that
    its data don't read: older versions took them."""
    source = open_source(path)
    return _made(replace(source, tree=as_recorded(source.tree)), (), allow)


def _made(source: ConfigSource, overrides: Sequence[str], allow: Collection[str]) -> Config:
    config = build(over(source.tree, expand(parse_words(overrides))))
    config = permitted(config, {*allow, *packages(overrides)})
    return replace(config, out=placed(config.out, source.name))


def as_recorded(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration that a run has kept, with what keys meant that it lacks: mostly their
    defaults, but older versions moved no shadow on, and their ``auto`` replayed nothing. And
    without the momentum that was theirs where none was given."""
    optimizer = tree.get("optimizer")
    if isinstance(optimizer, Mapping):
        usual = _is_usual(optimizer.get("name"), optimizer.get("momentum"))
        kept = {k: v for k, v in optimizer.items() if k != "momentum" or not usual}
        tree = {**tree, "optimizer": kept}
    recovery = tree.get("recovery")
    if not isinstance(recovery, Mapping):
        return tree
    name = str(recovery.get("name"))
    meant: dict[str, Any] = {}
    if name in STRATEGIES and "shadow_ahead" in STRATEGIES[name].options:
        signs = recovery.get("shadow_format") == SIGNS
        meant["shadow_ahead"] = 0.0 if signs else RecoveryConfig.shadow_ahead
    meant["log_memory"] = 0 if name == AUTO else RecoveryConfig.log_memory
    return {**tree, "recovery": {**meant, **_without_null(recovery)}}


def _without_null(recovery: Mapping[str, Any]) -> dict[str, Any]:
    """The section without ``log_memory: null``, the default of a version before it was ``auto``."""
    return {k: v for k, v in recovery.items() if k != "log_memory" or v is not None}


def open_source(path: str | Path | None) -> ConfigSource:
    """The file at ``path``, or a shipped one of that name; None: all defaults. Raises BadInput."""
    if path is None:
        return ConfigSource("run", {}, {})
    file = find(path)
    return _source(file.stem, _read(file), f"{file}: ")


def source_of(config: Config | str | Path | Mapping[str, Any] | None) -> ConfigSource:
    """Of whatever a caller gave: a file or the name of one that ships with checkfree, nested
    mappings, or a Config. Raises BadInput."""
    if isinstance(config, Config):
        return ConfigSource("run", to_tree(config), {})
    if not isinstance(config, Mapping):
        return open_source(config)
    return _source("run", config, "")


def _source(name: str, tree: Mapping[str, Any], where: str) -> ConfigSource:
    """With what is only for ``checkfree compare`` apart; ``where`` it stands goes before errors."""
    section = tree.get(COMPARE)
    if section is not None and not isinstance(section, Mapping):
        raise BadInput(f"{where}{COMPARE}={written(section)}: expected keys, as in seeds: 3")
    rest = {key: value for key, value in tree.items() if key != COMPARE}
    return ConfigSource(name, expand(rest), section or {})


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings without short forms, the second over the first; its failure rate, if it has
    one, replaces the first's."""
    return merge(_give_way(dict(below), above), above)


def as_section(tree: Mapping[str, Any], of: Any, prefix: str) -> Any:
    """Nested mappings as the dataclass ``of``; ``prefix`` goes before keys in errors. Raises
    BadInput for an unknown key or a wrong type."""
    _check_keys(tree, of, prefix)
    return as_config(tree, of, prefix)


def build(tree: Mapping[str, Any]) -> Config:
    """A checked Config from nested mappings, short forms included. Raises BadInput."""
    config: Config = as_section(_options_apart(expand(tree)), Config, "")
    try:
        config = replace(config, model=described(config.model))
    except ValueError as error:
        raise BadInput(str(error)) from None
    check(config)
    if isinstance(config.stash, Mapping):
        config = replace(config, stash=as_stash(stash_of(config)))
    if _is_usual(config.optimizer.name, config.optimizer.momentum):  # as a run's folder has it
        config = replace(config, optimizer=replace(config.optimizer, momentum=None))
    return permitted(config)


def _is_usual(optimizer: Any, momentum: Any) -> bool:
    """It means no more than none given: older versions wrote SGD's down for all optimizers."""
    return bool(optimizer != MUON and momentum == USUAL_MOMENTUM[SGD])


def _options_apart(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands beside a strategy's name and is no field of RecoveryConfig is an option of it; of
    one of ours, if it has such."""
    section = tree.get("recovery")
    if not isinstance(section, Mapping):
        return tree
    spec = STRATEGIES.get(str(section.get("name", RecoveryConfig.name)))
    ours = {f.name for f in dataclasses.fields(RecoveryConfig) if not f.metadata.get("internal")}
    apart = {*section} - ours if spec is None else {*section} & spec.apart
    if not isinstance(section.get("options") or {}, Mapping):
        told = written(section["options"])
        raise BadInput(f"recovery.options={told}: expected keys, as in recovery.options.by=0.5")
    options = {**(section.get("options") or {}), **{key: section[key] for key in apart}}
    kept = {key: value for key, value in _without_null(section).items() if key not in apart}
    return {**tree, "recovery": {**kept, **({"options": options} if options else {})}}


def to_tree(config: Config) -> dict[str, Any]:
    """Nested plain data that :func:`build` makes the same Config of."""
    tree: dict[str, Any] = plain(config)
    if tree["recovery"]["options"] is None:  # as records have it that are older
        del tree["recovery"]["options"]
    if config.init == InitConfig():
        del tree[INIT]
    return tree


def plain(value: Any) -> Any:
    """A section, or a value of one, without what is never configured."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if not f.metadata.get("internal")]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def to_yaml(config: Config) -> str:
    """The resolved configuration as a file that runs again."""
    return OmegaConf.to_yaml(OmegaConf.create(to_tree(config)))


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
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        keys = isinstance(node, yaml.MappingNode)  # OmegaConf asserts it, or makes it one
        tree = OmegaConf.to_container(OmegaConf.create(text)) if keys else None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except (YAMLError, OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path}: not YAML: {reason}") from None
    if not isinstance(tree, dict):
        got = "a list" if isinstance(node, yaml.SequenceNode) else "a value" if node else "nothing"
        raise BadInput(f"{path}: expected keys and values, got {got}")
    return _as_written(tree, node, "")


def _as_written(tree: dict[Any, Any], node: yaml.Node | None, prefix: str) -> dict[str, Any]:
    """With the values of text keys as they stand in the file: YAML takes 0123 for 83."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    for key, value in pairs:
        if not isinstance(key, yaml.ScalarNode):
            continue  # of which none is ours
        inner, path = tree.get(key.value), f"{prefix}{key.value}"
        if isinstance(inner, dict):
            tree[key.value] = _as_written(inner, value, f"{path}.")
        elif (
            path in {*texts(), *SHORT} and isinstance(value, yaml.ScalarNode) and inner is not None
        ):
            tree[key.value] = value.value
    return tree


@cache
def texts() -> frozenset[str]:
    """The keys whose values are text, whatever that looks like."""
    return frozenset((*_texts(Config, ""), *(f"{COMPARE}.{key}" for key in COMPARE_TEXTS)))


def _texts(of: Any, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(of).items():
        if dataclasses.is_dataclass(hint):
            yield from _texts(hint, f"{prefix}{name}.")
        elif hint in (str, Optional[str]):  # noqa: UP045 (as OmegaConf's dataclasses have it)
            yield f"{prefix}{name}"


def placed(out: str, name: str) -> str:
    """Where a configuration of that name has its run: ``~`` is the user's home."""
    return os.path.expanduser(out.replace("{name}", name))


# --- words -------------------------------------------------------------------------------------


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections given as one word, written out; "checkpoint(interval=25)" too."""
    full = dict(tree)
    for section, key in SHORT.items():
        value = full.get(section)
        if isinstance(value, Mapping) and isinstance(value.get(key), str):
            full = merge(full, _variant(section, key, value[key]))
        elif value is None and section in full:
            full[section] = {key: None if section == INIT else "none"}
        elif isinstance(value, str):
            full = merge({**full, section: {}}, _variant(section, key, value))
    return full


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
        tree = merge(expand(tree), expand(value))
    return tree


def split(text: str) -> list[str]:
    """``a,b(c=[1,2])`` -> ``["a", "b(c=[1,2])"]``: commas inside of brackets part nothing."""
    parts, depth = [""], 0
    for letter in text:
        depth = max(0, depth + (letter in "([{") - (letter in ")]}"))
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _value(key: str, text: str) -> Any:
    if key in SHORT:  # "checkpoint(interval=25)" and paths are no YAML
        return None if text == "null" else text
    if key in texts() and text[:1] not in ("'", '"'):  # a run may be called 0123, or 20261128_1530
        return None if text == "null" else text
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        return found["value"]  # type: ignore[call-overload, index]
    except (YAMLError, OmegaConfBaseException, RecursionError, UnicodeError):
        raise BadInput(f"{key}={text}: the value is not YAML; put quotes around text") from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` -> ``("a.b", 1)``"""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _variant(section: str, key: str, word: str) -> dict[str, Any]:
    match = re.fullmatch(r"([\w.:-]+)\((.*)\)", word.strip()) if section == "recovery" else None
    if match is None:
        return {section: {key: word}}
    words = [o if _is_whole(o) else f"{section}.{o}" for o in split(match[2])]
    return merge({section: {key: match[1]}}, parse_words(words))


def _is_whole(option: str) -> bool:
    """It names a key from the top, as ``failures.stages=middle`` and ``failures=none`` do."""
    key = option.partition("=")[0]
    own = {field.name for field in dataclasses.fields(RecoveryConfig)}
    return "." in key or (key not in own and key in {f.name for f in dataclasses.fields(Config)})


def _give_way(tree: dict[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """A rate on the command line replaces the file's, whatever unit and scenario that has; so
    does a scenario that brings a rate of its own."""
    given, section = words.get("failures"), tree.get("failures")
    if not isinstance(given, Mapping) or not isinstance(section, Mapping):
        return tree
    rates = ("probability", "rate_per_hour")
    below = dict(section)
    has_rate = any(given.get(rate) is not None for rate in rates)
    if has_rate or given.get("scenario") in presets():
        for rate in rates:
            below.pop(rate, None)
    scenario = str(below.get("scenario"))
    keeps = known("failures.scenario", scenario, SAMPLERS)
    if has_rate and not (keeps or (scenario == "clock" and given.get("rate_per_hour") is not None)):
        below.pop("scenario", None)
    return {**tree, "failures": below}


# --- keys and types ----------------------------------------------------------------------------


def _check_keys(tree: Mapping[str, Any], of: Any, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(of) if not f.metadata.get("internal")}
    for key, value in tree.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"keys: {', '.join(fields)}"
            raise BadInput(f"unknown key {prefix}{key}: {hint}")
        make = fields[key].default_factory
        section = make() if callable(make) else None
        if not dataclasses.is_dataclass(section):
            continue
        if not isinstance(value, Mapping):
            inner = dataclasses.fields(section)[0].name
            raise BadInput(f"{prefix}{key}={written(value)}: expected keys, as in {key}.{inner}=…")
        _check_keys(value, section, f"{prefix}{key}.")
