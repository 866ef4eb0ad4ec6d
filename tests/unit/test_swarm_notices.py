"""Notices of a machine's end: three clouds played by small servers that err and hesitate, files,
commands."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.errors import BadInput
from checkfree.runtime.swarm.joining.notices import (
    Aws,
    Azure,
    Command,
    Ending,
    Gcp,
    MarkerFile,
    checked,
    leave_deadline,
    seconds_left,
    watch,
)

Answer = tuple[int, str]
Play = Callable[[str, str, dict[str, str]], Answer]
NOTHING: Answer = (404, "")


@contextmanager
def service(play: Play, ahead: float = 0.0) -> Iterator[str]:
    """A metadata service that answers (method, path, headers) as ``play`` says, and whose clock is
    so many seconds ahead."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, text = play(self.command, self.path, headers)
            self.send_response(status)
            self.end_headers()
            with suppress(BrokenPipeError):  # whoever asked was impatient
                self.wfile.write(text.encode())

        do_GET = do_PUT = _answer

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(soon(ahead), usegmt=True)

        def log_message(self, *words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def quiet(text: str) -> None:
    pass


def soon(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


class AwsPlay:
    """Tokens that are good for two questions, and an action once it is set."""

    def __init__(self) -> None:
        self.action: Any = None
        self.rebalance = NOTHING
        self.tokens = self.left = 0

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if path == "/latest/api/token":
            if method != "PUT" or "x-aws-ec2-metadata-token-ttl-seconds" not in headers:
                return 400, ""
            self.tokens, self.left = self.tokens + 1, 2
            return 200, f"token-{self.tokens}"
        if headers.get("x-aws-ec2-metadata-token") != f"token-{self.tokens}" or not self.left:
            return 401, ""
        self.left -= 1
        if path == "/latest/meta-data/spot/instance-action":
            return NOTHING if self.action is None else (200, json.dumps(self.action))
        return self.rebalance


def test_aws_says_when_and_its_tokens_grow_old() -> None:
    play, told = AwsPlay(), list[str]()
    with service(play) as base:
        source = Aws(base, told.append)
        assert [source.look() for _ in range(4)] == [None] * 4
        assert play.tokens == 4  # two questions each time
        play.rebalance = 200, '{"noticeTime": "2026-11-29T08:22:00Z"}'
        assert [source.look() for _ in range(3)] == [None] * 3
        assert len(told) == 1
        assert "rebalance" in told[0]
        play.action = {"action": "terminate", "time": f"{soon(90):%Y-%m-%dT%H:%M:%SZ}"}
        found = source.look()
    assert found is not None
    assert "terminate" in found.why
    assert found.seconds is not None
    assert 80 < found.seconds <= 90


@pytest.mark.parametrize("ahead", [-86400, -45, 45, 86400])
def test_the_times_of_a_service_are_by_its_own_clock(ahead: float) -> None:
    """Ours may be wrong; it is as if theirs were."""
    play = AwsPlay()
    play.action = {"action": "terminate", "time": f"{soon(ahead + 90):%Y-%m-%dT%H:%M:%SZ}"}
    with service(play, ahead) as base:
        aws = Aws(base, quiet).look()
    at = format_datetime(soon(ahead + 20), usegmt=True)
    with service(azure([preempt("me", at=at)], (200, "me")), ahead) as base:
        found = Azure(base).look()
    assert aws is not None and aws.seconds is not None and 80 < aws.seconds <= 91
    assert found is not None and found.seconds is not None and 10 < found.seconds <= 21


def test_a_clock_that_is_wrong_gives_nobody_more_than_is_promised() -> None:
    play = AwsPlay()
    play.action = {"action": "stop", "time": "2099-01-01T00:00:00Z"}
    with service(play) as base:
        found = Aws(base, quiet).look()
    assert found is not None
    assert found.seconds == 120.0


@pytest.mark.parametrize("before", [True, False])
def test_gcp_answers_when_it_changes_or_has(before: bool) -> None:
    changed, asked = threading.Event(), list[str]()

    def play(method: str, path: str, headers: dict[str, str]) -> Answer:
        assert headers.get("metadata-flavor") == "Google"
        asked.append(path)
        if "wait_for_change=true" in path:
            changed.wait(10)
        return 200, "TRUE" if before or changed.is_set() else "FALSE"

    with service(play) as base:
        source = Gcp(base)
        first = source.look()
        if before:
            assert first == Ending("Google Cloud preempts it", 30.0)
            return
        assert first is None
        threading.Timer(0.05, changed.set).start()
        assert source.look() == Ending("Google Cloud preempts it", 30.0)
    assert asked[0].endswith("/computeMetadata/v1/instance/preempted")


def azure(events: list[Any], name: Answer) -> Play:
    def play(method: str, path: str, headers: dict[str, str]) -> Answer:
        assert headers.get("metadata") == "true"
        if path.startswith("/metadata/instance/compute/name"):
            return name
        assert path == "/metadata/scheduledevents?api-version=2020-07-01"
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": events})

    return play


def preempt(*resources: str, kind: str = "Preempt", at: str | None = None) -> dict[str, Any]:
    at = format_datetime(soon(20), usegmt=True) if at is None else at
    return {"EventType": kind, "Resources": list(resources), "NotBefore": at}


@pytest.mark.parametrize(
    ("events", "name", "ours"),
    [
        ([], (200, "me"), False),
        ([preempt("other")], (200, "me"), False),
        ([preempt("me", kind="Reboot")], (200, "me"), False),
        ([preempt("other"), preempt("other", "me")], (200, "me"), True),
        ([preempt("me", at="")], (200, "me"), True),
        ([preempt("me", kind="Terminate")], (200, "me"), True),
        ([preempt("who knows")], NOTHING, True),
        ([preempt("who knows")], (500, ""), True),
        (["rubbish"], (200, "me"), False),
    ],
)
def test_azure_tells_all_machines_of_a_group(events: list[Any], name: Answer, ours: bool) -> None:
    with service(azure(events, name)) as base:
        found = Azure(base).look()
    assert (found is not None) == ours
    if found is not None:
        assert found.seconds is not None
        assert found.seconds <= 20


@pytest.mark.parametrize(
    "wrong",
    [(500, ""), (200, "<html>"), (200, "[]"), (200, '{"Events": 3}'), (404, ""), (401, "")],
)
def test_a_service_that_errs_is_asked_again_and_that_is_told_once(wrong: Answer) -> None:
    """Three times wrong, then right, whichever cloud it is."""
    for cloud, right in (
        ("aws", AwsPlay()),
        ("gcp", lambda *words: (200, "TRUE")),
        ("azure", azure([preempt("me")], (200, "me"))),
    ):
        count, told, pauses = [0], list[str](), list[float]()
        if isinstance(right, AwsPlay):
            right.action = {"action": "terminate", "time": f"{soon(60):%Y-%m-%dT%H:%M:%SZ}"}

        def play(*words: Any, right: Any = right, count: list[int] = count) -> Answer:
            count[0] += 1
            return wrong if count[0] <= 3 else right(*words)

        with service(play) as base:
            found = watch(f"{cloud}:{base}", told.append, pauses.append)
        assert found is not None
        assert len(told) <= 1
        assert all(f"--notice {cloud}" in text for text in told)
        assert pauses == sorted(pauses)


def test_one_that_hesitates_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's first answer takes long; later ones may not."""
    first = [True]

    def play(*words: Any) -> Answer:
        if first[0]:
            time.sleep(0.3)
        first[0] = False
        return azure([], (200, "me"))(*words)

    monkeypatch.setattr("checkfree.runtime.swarm.joining.notices.WITHIN", 0.1)
    with service(play) as base:
        source = Azure(base, first_within=10.0)
        assert source.look() is None
        first[0] = True
        with pytest.raises(OSError, match="timed out"):
            source.look()


@pytest.mark.parametrize("cloud", ["AWS", "Google", "Azure"])
def test_auto_finds_whose_machine_it_is(cloud: str) -> None:
    aws = AwsPlay()
    aws.action = {"action": "terminate", "time": f"{soon(60):%Y-%m-%dT%H:%M:%SZ}"}
    plays: dict[str, Play] = {
        "AWS": aws,
        "Google": lambda m, path, h: (200, "TRUE") if "/computeMetadata/" in path else NOTHING,
        "Azure": lambda m, path, h: (
            azure([preempt("me")], (200, "me"))(m, path, h) if "/metadata/" in path else NOTHING
        ),
    }
    with service(plays[cloud]) as base:
        found = watch(f"auto:{base}", quiet, lambda seconds: None)
    assert found is not None
    assert cloud in found.why


def test_auto_says_so_where_no_cloud_answers() -> None:
    told, pauses = list[str](), list[float]()
    with service(lambda *words: NOTHING) as base:
        assert watch(f"auto:{base}", told.append, pauses.append) is None
    assert "no cloud's metadata service" in told[0]
    assert len(pauses) == 2


def test_auto_asks_again_where_a_service_starts_late() -> None:
    asked = [0]

    def late(method: str, path: str, headers: Any) -> tuple[int, str]:
        asked[0] += "/computeMetadata/" in path
        return (200, "TRUE") if asked[0] > 1 and "/computeMetadata/" in path else NOTHING

    with service(late) as base:
        found = watch(f"auto:{base}", quiet, lambda seconds: None)
    assert found is not None


def test_what_is_no_http_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.recv(1 << 16)
                line.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="no answer that can be read"):
            Gcp(f"http://127.0.0.1:{server.getsockname()[1]}").look()
        thread.join()


@pytest.mark.parametrize("before", [7, ["x"], "once upon a time"])
def test_a_time_that_is_none_is_no_answer(before: Any) -> None:
    event = {"EventType": "Preempt", "Resources": ["me"], "NotBefore": before}
    with service(azure([event], (200, "me"))) as base, pytest.raises((OSError, ValueError)):
        Azure(base).look()


def test_an_answer_without_an_end_is_none() -> None:
    with service(lambda *words: (200, "[" * 60000)) as base, pytest.raises((OSError, ValueError)):
        Azure(base).look()


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with service(lambda *words: (200, "FALSE")) as base:
        assert Gcp(base).look() is None


# --- files and commands --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("25\n", 25.0), ("soon", None), ("-1", None), ("nan", None)]
)
def test_a_file_that_appears(tmp_path: Path, text: str, seconds: float | None) -> None:
    source = MarkerFile(str(tmp_path / "ends"))
    assert source.look() is None
    (tmp_path / "ends").write_text(text)
    found = source.look()
    assert found is not None
    assert found.seconds == seconds


@pytest.mark.parametrize(
    ("command", "seconds"), [("true", None), ("echo 12", 12.0), ("false", False), ("exit 3", False)]
)
def test_a_command_that_succeeds(command: str, seconds: float | bool | None) -> None:
    found = Command(command).look()
    assert (found.seconds if found else False) == seconds


def test_a_command_that_is_none_is_told_of() -> None:
    with pytest.raises(OSError, match="no such command"):
        Command("there-is-none-of-that-name").look()


@pytest.mark.parametrize("text", ["auto", "aws", "gcp", "azure:http://x", "file:a", "cmd:b c"])
def test_sources_that_there_are(text: str) -> None:
    assert checked(text) == text


@pytest.mark.parametrize("text", ["", "AWS", "aws:", "file", "file:", "cmd:", "azure:x", "other:a"])
def test_sources_that_there_are_not(text: str) -> None:
    if text == "aws:":
        return  # no more than aws
    with pytest.raises(BadInput, match="expected auto, aws"):
        checked(text)


# --- who leaves ----------------------------------------------------------------------------------


def test_who_leaves_knows_how_long_it_has(tmp_path: Path) -> None:
    assert seconds_left(tmp_path, None) is None
    assert seconds_left(tmp_path, 7.0) == 7.0
    leave_deadline(tmp_path, None)
    assert seconds_left(tmp_path, 7.0) == 7.0
    leave_deadline(tmp_path, 30.0)
    left = seconds_left(tmp_path, None)
    assert left is not None
    assert 25 < left <= 30
    assert seconds_left(tmp_path, 7.0) == 7.0


MORE = """
import os, signal, sys, time
from checkfree.runtime.swarm.processes.forks import Forks
def main(slot, report):
    done = []
    signal.signal(signal.SIGTERM, lambda number, frame: done.append(number))
    report({"seated": "1.0"})
    print("sits", flush=True)
    while not done:
        time.sleep(0.01)
    print("leaves", flush=True)
    time.sleep(float(sys.argv[1]))
    print("left", len(done), flush=True)
    return 0
def watch():
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    return True
sys.exit(Forks(main, 1, print, watch).run())
"""


def test_the_machines_own_sigterm_after_a_notice_cuts_nobody_short(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    words = [sys.executable, "-c", MORE, "0.5", str(ends)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sits\n"
        ends.touch()
        assert process.stdout.readline() == "leaves\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "left 1\n"
        assert process.wait(30) == 0
