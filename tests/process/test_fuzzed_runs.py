"""A sample of the words of tests/unit/test_config_fuzz.py as real runs: each trains, or says in one
line why not; none ends in a traceback, and none takes more memory than it may."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from tests.chaos import SOAK
from tests.process.command import DEADLINE, environment
from tests.unit.test_config_fuzz import KEYS, NUMBERS, WORDS

SAMPLES = 100 if SOAK else 24
FEW = ("iterations", "microbatches", "validation.microbatches", "model.hidden", "model.vocabulary")
"""Keys of which a large number is a long run, and no mistake."""
BASE = (
    "iterations=2",
    "validation.microbatches=1",
    "resume.every=1",
    "failures.first=1",
    "--quiet",
)

PROGRAM = """
import json, os, resource, sys
import torch  # once for all of them
from checkfree.cli import main

for number, words in enumerate(json.loads(sys.argv[1])):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 1), os.dup2(writer, 2), os.close(writer)
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        os._exit(main(words))
    os.close(writer)
    with open(reader, errors="replace") as told:
        said = told.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([words, code, said]), flush=True)
"""


def test_a_sample_of_words_as_real_runs(folder: Path) -> None:
    rng, samples = random.Random(7), list[list[str]]()
    while len(samples) < SAMPLES:
        key, value = rng.choice(KEYS), rng.choice((*NUMBERS, *WORDS))
        if key in FEW or key in ("out", "data.cache") or len(value) > 100 or "\0" in value:
            continue
        word = f"{key}={value}".encode("utf-8", "replace").decode()
        samples.append(["train", "small.yaml", f"out=run-{len(samples)}", *BASE, word])
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(samples)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    ended = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(ended) == SAMPLES, found.stderr
    for words, code, said in ended:
        told = (words[-1], code, said)
        assert code in (0, 1, 2), told
        assert "Traceback" not in said, told
        if code == 2:
            assert said.startswith("checkfree: ") and said.count("\n") == 1, told
            assert not (folder / words[2].partition("=")[2]).exists(), told
    codes = [code for _, code, _ in ended]
    assert 0 in codes and 2 in codes
