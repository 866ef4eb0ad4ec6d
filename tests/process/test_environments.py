"""The commands of README where little is as usual: an output that knows few signs, a
dumb terminal, a root that can't be written to, a user whom nobody knows. None has a traceback."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import SOAK
from tests.docs.commands import ROOT, SMALL, commands, scaled
from tests.process.command import DEADLINE, checkfree_command, environment

ALSO = (
    ["doctor"],
    ["--help"],
    ["train", "--help"],
    ["train", "demo", "colour=green"],
    ["train", "demo", "out=runs/ü", *SMALL],
    ["train", "nowhere.yaml"],
    ["verify", "nowhere"],
)
"""Of which the last ones are refused, or have a name that ASCII has not."""

PROGRAM = """
import contextlib, json, sys
from checkfree.cli import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    print("\\n=", code, " ".join(words).encode("ascii", "backslashreplace").decode(), flush=True)
"""
"""One process for all of them: importing torch takes longer than what they do."""

NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env"]
NOBODY += ["-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "LNAME", "-u", "USERNAME"]
READ_ONLY = """
mount --make-rprivate / && mount --bind "$1" "$1" && mount -o remount,ro,bind / || exit 77
cd "$1" && shift && ! touch /written 2>/dev/null && exec "$@"
"""


def works(command: list[str]) -> bool:
    """Such a namespace can be had here."""
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run([*command, "true"], capture_output=True).returncode
    )


@pytest.mark.parametrize("where", ["ascii", *["read-only", "dumb", "nobody"] * SOAK])
def test_commands_end_with_their_codes_and_no_traceback(where: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for file in (ROOT / "configs").glob("*.*"):
        shutil.copy(file, tmp_path / "configs")
    before: list[str] = []
    more = {"TMPDIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    if where == "ascii":
        more = {"PYTHONIOENCODING": "ascii"}
    elif where == "dumb":
        more = {"TERM": "dumb"}
    elif where == "nobody":
        before = NOBODY
        if not works(NOBODY):
            pytest.skip("no user namespaces here")
    elif not works(["unshare", "--mount"]):
        pytest.skip("no mount namespaces here")
    else:
        before = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path)]
    shown = commands(ROOT / "README.md")
    every = [*(scaled(words) for words in shown if words[0] != "swarm"), *ALSO]
    end = told_by([*before, sys.executable, "-c", PROGRAM, json.dumps(every)], tmp_path, more)
    told = end.stdout + end.stderr
    assert end.returncode == 0, told
    assert "Traceback" not in told, told
    codes = [line.split()[1:3] for line in end.stdout.splitlines() if line.startswith("= ")]
    assert len(codes) == len(every), told
    refused = [words for words in every if words[-1] in ("colour=green", "nowhere.yaml", "nowhere")]
    assert len(refused) == 3
    for words, (code, _) in zip(every, codes, strict=True):
        assert code == ("2" if words in refused else "0"), (shlex.join(words), told)
    assert (tmp_path / "runs" / "a" / "loss.png").is_file()
    (swarm,) = (words for words in shown if words[0] == "swarm")
    if importlib.util.find_spec("hivemind") is not None:
        words = [*swarm, *scaled(["train"])[1:], "iterations=4", "--quiet"]
        up = told_by([*before, *checkfree_command(*words)], tmp_path, more)
        assert up.returncode == 0 and "Traceback" not in up.stderr, up.stderr
        assert up.stdout.startswith("4 iterations in runs/demo"), up.stdout


def told_by(
    command: list[str], cwd: Path, more: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment(), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE,
    )
