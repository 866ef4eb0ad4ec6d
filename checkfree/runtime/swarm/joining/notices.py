"""Notices of a node's own end, by those who end it: clouds that reclaim spot machines, a file that
appears, a command that succeeds.

A watcher is a process of its own, so that a service that hangs, or that takes two minutes for its
first answer, holds nobody up. What clouds say is theirs: read with care, believed for this machine
only. Sources: AWS, "Spot Instance interruption notices" and "Use IMDSv2"; Google Cloud,
"Preemptible VM instances" and "Wait for updates"; Azure, "Scheduled Events".
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from checkfree.core.errors import BadInput

KINDS = "auto, aws, gcp, azure, file:PATH or cmd:COMMAND"
LINK_LOCAL, GOOGLE = "http://169.254.169.254", "http://metadata.google.internal"
"""Where metadata services are. A URL after the name, as in ``aws:http://proxy:8080``, is used
instead."""
WITHIN, FIRST_WITHIN = 5.0, 130.0
"""Seconds for an answer; Azure's first may take two minutes."""
PROBES = 3
"""Times that each cloud is asked whether this is its machine: its service may start after us."""
LARGEST = 1 << 16  # bytes of an answer
LONGEST_PAUSE = 5.0
"""Seconds between two tries, at most, of a service that does not answer: some tell of an end only
thirty seconds before."""


@dataclass(frozen=True)
class Ending:
    """This machine will end: ``why``, and in how many ``seconds`` if that is known."""

    why: str
    seconds: float | None = None


class Watched(Protocol):
    """Where an end is told of. ``look`` may take its time; ``every`` is the pause after it, in
    seconds. It raises OSError or ValueError if there is no answer, or none that can be read."""

    @property
    def every(self) -> float: ...

    def look(self) -> Ending | None: ...


# --- clouds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a service says, and what time it is there: the times that it tells of are its own."""

    text: str
    now: float

    def left(self, at: datetime, most: float) -> float:
        """Seconds until then; nobody gives more than they promise."""
        return min(most, max(0.0, at.timestamp() - self.now))


def asked(
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    within: float = WITHIN,
) -> Answer | None:
    """None: there is no such thing (404). Raises OSError, of which HTTPError is one. Never by a
    proxy: metadata are this machine's."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=within) as answer:
            text, date = answer.read(LARGEST), answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    except http.client.HTTPException as error:
        raise OSError(f"no answer that can be read ({type(error).__name__})") from error
    return Answer(text.decode("utf-8", "replace"), _now(date))


def _now(date: str | None) -> float:
    """By the service's clock, else by ours."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return time.time()


class Aws:
    """Told two minutes before, asked every five seconds, with a token that is good for six hours.
    A recommendation to rebalance is no end, and often hours before one: it is told, no more."""

    every = 5.0
    notice = 120.0
    _lasts = "21600"

    def __init__(self, base: str, tell: Callable[[str], None]):
        self._base, self._tell = f"{base}/latest", tell
        self._token: str | None = None
        self._recommended = False

    def look(self) -> Ending | None:
        action = self._asked("meta-data/spot/instance-action")
        if action is not None:
            told = _object(action.text)
            end = datetime.strptime(str(told.get("time")), "%Y-%m-%dT%H:%M:%SZ")
            left = action.left(end.replace(tzinfo=timezone.utc), self.notice)
            return Ending(f"AWS will {told.get('action', 'end')!s:.20} it", left)
        if not self._recommended and self._asked("meta-data/events/recommendations/rebalance"):
            self._recommended = True
            self._tell("AWS recommends to rebalance: this machine may be reclaimed before others")
        return None

    def _asked(self, path: str) -> Answer | None:
        fresh = self._token is None
        try:
            return self._with_token(path)
        except urllib.error.HTTPError as error:
            if error.code != 401 or fresh:
                raise
        self._token = None  # it is out of date
        return self._with_token(path)

    def _with_token(self, path: str) -> Answer | None:
        if self._token is None:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": self._lasts}
            given = asked(f"{self._base}/api/token", wanted, method="PUT")
            if given is None:
                raise ValueError("it gives no token")
            self._token = given.text
        return asked(f"{self._base}/{path}", {"X-aws-ec2-metadata-token": self._token})


class Gcp:
    """Told thirty seconds before; an answer comes when it changes, or after a while."""

    every = 0.2
    notice = 30.0
    _waits = 5  # seconds: a change just before we wait is noticed so late

    def __init__(self, base: str):
        self._url = f"{base}/computeMetadata/v1/instance/preempted"
        self._first = True

    def look(self) -> Ending | None:
        more, within = f"?wait_for_change=true&timeout_sec={self._waits}", self._waits + WITHIN
        if self._first:  # a change that was before us is none that we could wait for
            more, within = "", WITHIN
        found = asked(self._url + more, {"Metadata-Flavor": "Google"}, within=within)
        told = "" if found is None else found.text.strip().upper()
        if told not in ("TRUE", "FALSE"):
            raise ValueError(f"it says {told!r:.40}")
        self._first = told == "TRUE"
        return Ending("Google Cloud preempts it", self.notice) if told == "TRUE" else None


class Azure:
    """Told at least thirty seconds before, for all machines of a group: ours is one by its name."""

    every = 1.0
    notice = 30.0
    _ends = ("Preempt", "Terminate")

    def __init__(self, base: str, first_within: float = FIRST_WITHIN):
        self._base, self._within = f"{base}/metadata", first_within
        self._name: str | None = None

    def look(self) -> Ending | None:
        answer = self._asked("scheduledevents?api-version=2020-07-01")
        told = {} if answer is None else _object(answer.text)
        self._within = WITHIN
        events = told.get("Events")
        if not isinstance(events, list):
            raise ValueError("it lists no events")
        for event in events:
            ends = isinstance(event, Mapping) and event.get("EventType") in self._ends
            if answer and ends and self._is_ours(event.get("Resources")):
                at = event.get("NotBefore")  # "" of an event that has begun
                left = answer.left(parsedate_to_datetime(str(at)), self.notice) if at else 0.0
                return Ending(f"Azure: {event['EventType']}", left)
        return None

    def _is_ours(self, resources: Any) -> bool:
        """If we can't learn our name, it is: who leaves in vain loses less than who stays so."""
        if self._name is None:
            with suppress(OSError):
                path = "instance/compute/name?api-version=2020-06-01&format=text"
                found = self._asked(path)
                self._name = "" if found is None else found.text
        return not self._name or not isinstance(resources, list) or self._name in resources

    def _asked(self, path: str) -> Answer | None:
        return asked(f"{self._base}/{path}", {"Metadata": "true"}, within=self._within)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"it says {text!r:.40}")
    return found


# --- what is on this machine ---------------------------------------------------------------------


class MarkerFile:
    """Its content, if any, are the seconds that are left."""

    every = 0.5

    def __init__(self, path: str):
        self._path = Path(path)

    def look(self) -> Ending | None:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        return Ending(f"{self._path} is there", _seconds(text))


class Command:
    """One that succeeds once this machine is to end; it may print the seconds that are left."""

    every = 5.0
    _within = 60.0

    def __init__(self, command: str):
        self._command = command

    def look(self) -> Ending | None:
        nothing = subprocess.DEVNULL
        try:
            made = subprocess.run(
                ["/bin/sh", "-c", self._command],
                stdin=nothing,
                stdout=subprocess.PIPE,
                stderr=nothing,
                timeout=self._within,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"takes longer than {self._within:g} s") from error
        if made.returncode in (126, 127):
            raise OSError("there is no such command")
        said = made.stdout.decode("utf-8", "replace")
        return None if made.returncode else Ending(f"{self._command} says so", _seconds(said))


def _seconds(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found <= 86400 else None


# --- watching ------------------------------------------------------------------------------------


def checked(text: str) -> str:
    """``--notice`` as it was given. Raises BadInput."""
    name, _, rest = text.partition(":")
    bare = name in ("auto", "aws", "gcp", "azure")
    known = (bare and (not rest or rest.startswith("http"))) or name in ("file", "cmd")
    if not known or (not bare and not rest):
        raise BadInput(f"got --notice {text}, expected {KINDS}")
    return text


def source_of(
    text: str, tell: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Watched | None:
    """That of a ``--notice``; None: auto, and no cloud answers."""
    name, _, rest = text.partition(":")
    match name:
        case "file":
            return MarkerFile(rest)
        case "cmd":
            return Command(rest)
        case "aws":
            return Aws(rest or LINK_LOCAL, tell)
        case "gcp":
            return Gcp(rest or GOOGLE)
        case "azure":
            return Azure(rest or LINK_LOCAL)
    for probe in range(PROBES):
        if probe:
            pause(LONGEST_PAUSE)
        if (found := _probed(rest, tell)) is not None:
            return found
    return None


def _probed(base: str, tell: Callable[[str], None]) -> Watched | None:
    """Of the cloud that answers; Azure, whose first answer takes longest, last."""
    sources: tuple[Watched, ...] = (
        Aws(base or LINK_LOCAL, tell),
        Gcp(base or GOOGLE),
        Azure(base or LINK_LOCAL),
    )
    for source in sources:
        with suppress(OSError, ValueError):
            source.look()
            return source
    return None


def watch(
    text: str, tell: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Ending | None:
    """Wait for the end of this machine. Returns None if there is nobody to tell of it."""
    source = source_of(text, tell, pause)
    if source is None:
        tell("no cloud's metadata service answers here: nobody tells this node of its end")
        return None
    failed = 0
    while True:
        try:
            found, failed = source.look(), 0
        except (OSError, ValueError) as error:
            found, failed = None, failed + 1
            if failed == 2:
                told = " ".join(str(error).split())[:120]
                tell(f"--notice {text.partition(':')[0]}: no answer ({told}); asks on")
        if found is not None:
            return found
        pause(min(source.every * 2 ** min(failed, 10), max(source.every, LONGEST_PAUSE)))


DEADLINE = "ends-at"
"""Where a watcher leaves the time at which this machine ends, by the monotonic clock that all its
processes share, for those who leave."""


def leave_deadline(folder: Path, seconds: float | None) -> None:
    """Before those who leave are told."""
    if seconds is not None:
        part = folder / f"{DEADLINE}.part"
        part.write_text(repr(time.monotonic() + seconds), encoding="ascii")
        os.replace(part, folder / DEADLINE)


def seconds_left(folder: Path, asked: float | None) -> float | None:
    """Until this machine ends; ``asked``: what --notice-seconds says, from now on."""
    try:
        left = float((folder / DEADLINE).read_text(encoding="ascii")) - time.monotonic()
    except (OSError, ValueError):
        return asked
    return max(0.0, left if asked is None else min(left, asked))
