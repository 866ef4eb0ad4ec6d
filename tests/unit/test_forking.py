"""A process that forks has one thread, whatever it had to find out first."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from checkfree.runtime.forking import count_cuda_devices, render_threads

COUNTS = """
import threading
import torch
from checkfree.runtime.forking import count_cuda_devices, count_threads

def count():  # as NVIDIA's library does
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return 3

torch.version.cuda, torch.cuda.device_count = "13.0", count
print(count_cuda_devices(), count_threads())
torch.cuda.device_count = lambda: 1 / 0
print(count_cuda_devices(), count_threads())
count()
torch.cuda.device_count = count
print(count_cuda_devices(), count_threads())  # it is too late for care
"""


def test_counting_devices_starts_no_thread_here() -> None:
    words = [sys.executable, "-c", COUNTS]
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "3 1\n0 1\n3 3\n", done.stderr


def test_a_torch_without_cuda_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: pytest.fail("asked"))
    assert count_cuda_devices() == 0


def test_whoever_forks_with_threads_says_so() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        told = render_threads()
    finally:
        over.set()
        thread.join()
    assert told is not None and "a fork may hang" in told
