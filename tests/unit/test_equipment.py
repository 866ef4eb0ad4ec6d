"""On what a process computes, and that nothing of it tells whose machine it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from checkfree.core.config import Config
from checkfree.core.participants import RULE, unequal
from checkfree.runtime.forking import device_names
from checkfree.session import equipment as module
from checkfree.session.equipment import FLAGS, equipment
from checkfree.session.job import versions


@pytest.fixture(autouse=True)
def no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FLAGS:
        monkeypatch.delenv(name, raising=False)


def test_all_that_bits_depend_on() -> None:
    found = equipment(Config())
    assert versions().items() <= found.items()
    assert found["threads"] == "1" and found["devices"] == "cpu" and found["math"] == "as usual"
    assert found["system"] == "Linux" or sys.platform != "linux"
    assert len(found["code"]) == 12
    assert equipment(Config()) == found


def test_nothing_tells_whose_machine_it_is() -> None:
    text = repr(equipment(Config()))
    own = (socket.gethostname(), os.fspath(Path.home()), os.getcwd())
    assert not any(name and len(name) > 3 and name in text for name in own)


def told(facts: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a run that computed on these."""
    return [{"kind": "process", "iteration": 0, "equipment": facts}]


def test_other_threads_another_strategy_other_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, config = equipment(Config()), Config()
    assert equipment(replace(config, threads=2))["threads"] == "2"
    other = replace(config, recovery=replace(config.recovery, name="shadow"))
    assert equipment(other)["code"] == usual["code"] and equipment(other)[RULE] != usual[RULE]
    assert unequal([told(usual), told(equipment(other))]) == []  # as each of a comparison has
    assert unequal([told(usual), told({**usual, "code": "another"})]) == ["code"]
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert equipment(config)["math"] == "MKL_CBWR=COMPATIBLE"
    monkeypatch.delenv("MKL_CBWR")
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert equipment(config)["math"] == "matmul precision high"
    finally:
        torch.set_float32_matmul_precision(precision)


def test_another_capability() -> None:
    """As another processor has."""
    words = "from checkfree.session.equipment import *; print(equipment(Config())['cpu'])"
    made = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() in ("DEFAULT", "NO AVX")


def test_a_processor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module._processor.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda *words, **more: "flags : fpu\n")
    try:
        assert isinstance(module._processor(), str)
    finally:
        module._processor.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gpu_has_its_name(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Asked by a fork, where this process has one thread: a context would be in its way."""
    asked: list[str] = []

    def name(device: torch.device) -> str:
        asked.append(str(device))
        return f"NVIDIA H{200 + device.index}"

    monkeypatch.setattr("checkfree.runtime.forking.count_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = device_names(("cuda:0", "cpu", "cuda:1"))
    assert found == ("NVIDIA H200, CUDA 12.8", "cpu", "NVIDIA H201, CUDA 12.8")
    assert asked == ([] if threads == 1 else ["cuda:0", "cuda:1"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_a_gpu_that_does_not_answer_has_none(
    monkeypatch: pytest.MonkeyPatch, threads: int, error: type[Exception]
) -> None:
    def name(device: torch.device) -> str:
        raise error("no CUDA context")

    monkeypatch.setattr("checkfree.runtime.forking.count_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    assert device_names(("cuda:0",)) == ("cuda:0",)


def test_the_names_of_devices() -> None:
    assert device_names(("cpu", "cpu")) == ("cpu", "cpu")
    if not torch.cuda.is_available():
        assert device_names(("cuda:0",)) == ("cuda",)
