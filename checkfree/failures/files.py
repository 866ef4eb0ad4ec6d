"""Traces as small JSON files, so that one trace drives any run::

    {"failures": [
      {"iteration": 3, "stage": 2},
      {"iteration": 9, "stage": 4, "replica": 1}
    ]}

``iteration`` means tick (semantics 2). ``replica`` may be left out (the whole stage), and so may
``kind``: "crash", or "stop" for a process that hangs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.failures.trace import Failure, Trace, check_seat, make_trace

_KEYS = ("iteration", "stage", "replica", "kind")
_EXAMPLE = '{"failures": [{"iteration": 3, "stage": 2}]}'


def read_trace(path: str | Path, stages: int | None, replicas: int | None) -> Trace:
    """The trace in a file, sorted and without duplicates.

    ``stages`` is the number of body stages (S0 … S``stages`` exist), ``replicas`` the seats per
    stage; None: not checked. Raises BadInput for anything but a trace that such a pipeline can
    suffer.
    """
    path = Path(path)
    entries = _entries(path)
    failures = [_failure(path, place, entry) for place, entry in enumerate(entries)]
    for failure in failures:
        try:
            check_seat(failure, stages, replicas)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
    return make_trace(failures)


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write ``trace``, one failure a line; the file is there whole or not at all.

    Raises BadInput if it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(render_trace(trace), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(
            f"cannot write the trace {path} ({error.strerror}): name a file in a folder that "
            f"exists and may be written"
        ) from None


def render_trace(trace: Trace) -> str:
    """The text of a trace file."""
    lines = ",\n".join(f"  {json.dumps(_entry(failure))}" for failure in trace)
    return f'{{"failures": [\n{lines}\n]}}\n' if trace else '{"failures": []}\n'


def _entry(failure: Failure) -> dict[str, int | str]:
    entry: dict[str, int | str] = {"iteration": failure.tick, "stage": failure.stage}
    if failure.replica is not None:
        entry["replica"] = failure.replica
    if failure.kind != "crash":
        entry["kind"] = failure.kind
    return entry


def _entries(path: Path) -> list[Any]:
    found = _json(path)
    if not isinstance(found, dict) or "failures" not in found:
        raise BadInput(f'{path}: a trace is an object with "failures", such as {_EXAMPLE}')
    _check_keys(path, "the file", found, ("failures",))
    entries = found["failures"]
    if not isinstance(entries, list):
        raise BadInput(f'{path}: "failures" is no list: write it as in {_EXAMPLE}')
    return entries


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise BadInput(
            f"cannot read the trace {path} ({error.strerror}): check the path, or make one with "
            f"checkfree failures sample"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}): a trace looks like {_EXAMPLE}") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice in {[key for key, _ in pairs]}")
    return found


def _failure(path: Path, place: int, entry: Any) -> Failure:
    where = f"failures[{place}]"
    if not isinstance(entry, dict):
        raise BadInput(
            f"{path}: {where} is {entry!r}, expected an object: write it as in {_EXAMPLE}"
        )
    _check_keys(path, where, entry, _KEYS)
    for key in ("iteration", "stage"):
        if key not in entry:
            raise BadInput(f'{path}: {where} has no "{key}": write it as in {_EXAMPLE}')
    kind = entry.get("kind", "crash")
    if not isinstance(kind, str) or not kind:
        raise BadInput(f'{path}: {where} has kind {kind!r}, expected a word such as "crash"')
    replica = None if entry.get("replica") is None else _count(path, where, entry, "replica")
    tick, stage = (_count(path, where, entry, key) for key in ("iteration", "stage"))
    return Failure(tick, stage, replica, kind)


def _count(path: Path, where: str, entry: dict[str, Any], key: str) -> int:
    value = entry[key]
    if type(value) is not int or value < 0:
        raise BadInput(
            f"{path}: {where} has {key} {value!r}, expected a whole number from 0 up: correct it"
        )
    return value


def _check_keys(path: Path, where: str, found: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise BadInput(
            f"{path}: {where} has unknown keys {', '.join(unknown)}, expected only "
            f"{', '.join(known)}: remove or rename them"
        )
