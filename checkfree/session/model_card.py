"""A model card: what stands in the README.md of an exported model. From a run's records alone, and
without a path of the machine that trained it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from checkfree.config.places import INIT_RUN, WHERE
from checkfree.core.records import of_kind, recoveries
from checkfree.session.saved import SavedState

_APART = ("out", "model.architecture", *WHERE, INIT_RUN)
"""Of a configuration: what is of the machine, or stands in config.json."""


def model_card(
    state: SavedState, records: Sequence[Mapping[str, Any]], title: str, dtype: str
) -> str:
    """Markdown, with the front matter that the Hub reads."""
    until = [r for r in records if r.get("iteration", 0) <= state.iteration]
    parts = (
        _front(),
        f"# {title}\n",
        f"Trained by [checkfree](https://pypi.org/project/checkfree/) for {state.iteration} "
        f"iterations, in {state.stages} body stages; {_count(state.began['parameters'])} "
        f"parameters, written in {dtype}.\n",
        "## Losses\n",
        *_losses(until, state.iteration),
        "## Data\n",
        _yaml(_data(state.began)),
        "## What it went through\n",
        *_course(until, state),
        *(f"{note}\n" for note in state.began.get("notes", ())),
        "## Configuration\n",
        _yaml(_configuration(state.began["config"])),
        "## Versions\n",
        _yaml(dict(state.began.get("versions", {}))),
    )
    return "\n".join(parts)


def _front() -> str:
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- checkfree\n---\n"
    )


def _losses(records: Sequence[Mapping[str, Any]], iteration: int) -> Iterator[str]:
    """In nats a token; what was trained again after a rollback counts as it was trained last."""
    steps = {r["iteration"]: r["loss"] for r in of_kind(records, "iteration")}
    last = max((i for i in steps if i < iteration), default=None)
    if last is not None:
        yield f"- training, iteration {last}: {_loss(steps[last])}"
    seen = {r["iteration"]: r["loss"] for r in of_kind(records, "validation")}
    if seen:
        yield f"- validation, iteration {max(seen)}: {_loss(seen[max(seen)])}"
    if last is None and not seen:
        yield "None was measured."
    yield ""


def _course(records: Sequence[Mapping[str, Any]], state: SavedState) -> Iterator[str]:
    recovery = state.began["config"]["recovery"]["name"]
    lost = sum(len(r["seats"]) for r in of_kind(records, "failure"))
    yield f"Lost stages were made good by the strategy `{recovery}`; {lost} were lost.\n"
    for repair in recoveries(records):
        rules = ", ".join(f"{seat} by {rule}" for seat, rule in sorted(repair["rules"].items()))
        before, after = repair["before"], repair["after"]
        cost = "" if after is None else f"; validation {_loss(before)} before, {_loss(after)} after"
        yield f"- iteration {repair['iteration']}: {rules}{cost}"
    began = state.began.get("init")
    if began:
        yield f"- it began with the weights of another run or model, sha256 {began['sha256']}"
    yield ""


def _data(began: Mapping[str, Any]) -> dict[str, Any]:
    counts = began.get("text") or {}
    return {key: value for key, value in began["data"].items() if value is not None} | (
        {"read": counts["read"]} if "read" in counts else {}
    )


def _configuration(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Without what is of the machine, and without what is not set."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in _APART or value is None:
            continue
        found[key] = _configuration(value, f"{name}.") if isinstance(value, Mapping) else value
    return found


def _yaml(tree: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```\n"


def _loss(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _count(number: int) -> str:
    return f"{number:,}"
