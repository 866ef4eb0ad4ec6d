"""The processes of a node: how many stand by, who is let go, and what the node's exit code says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

import torch

from checkfree.runtime.swarm.joining.remote_worker import ExitReason, after_error

KEEPS = """
import os, signal, sys, time
from checkfree.runtime.swarm.processes.forks import AGAIN, NOT_NEEDED, Forks
asked = []
def main(slot, report):
    signal.signal(NOT_NEEDED, lambda number, frame: asked.append(number))
    if slot < 3:
        report({"seated": f"{slot}.0"})
        time.sleep(1)
    report({"standing": True, "keeps": slot in (0, 1)})  # three lost their seats, two have states
    end = time.monotonic() + 2
    while time.monotonic() < end and not asked:
        time.sleep(0.01)
    told = "let go" if asked else "kept"
    os.write(1, f"{slot} {told}\\n".encode())  # at once, however Python buffers
    return AGAIN
sys.exit(Forks(main, 4, print).run())
"""


def test_whoever_has_a_state_is_not_let_go_because_others_stand_by() -> None:
    words = [sys.executable, "-c", KEEPS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=60)
    assert sorted(told.splitlines()) == ["0 kept", "1 kept", "2 kept", "3 let go"] or sorted(
        told.splitlines()
    ) == ["0 kept", "1 kept", "2 let go", "3 kept"]


FEWER_AFTER_ALL = """
import os, sys, time
from checkfree.runtime.swarm.processes.forks import AGAIN, Forks
def main(slot, report):
    if slot:
        os.write(1, f"{slot}\\n".encode())
        time.sleep(1.0)  # what it takes to make one
        if slot == 5:
            return AGAIN
    report({"seated": f"{slot}.0"})
    if slot == 0:
        for wanted in (5, 3):
            report({"wanted": wanted})
            time.sleep(0.1)
    time.sleep(3.0)
    return AGAIN
sys.exit(Forks(main, 8, print).run())
"""


def test_whoever_is_on_its_way_to_stand_by_is_not_let_go() -> None:
    """Each takes a core for a second, and another was made a moment later. One more than have seats
    is ready."""
    words = [sys.executable, "-c", FEWER_AFTER_ALL]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=60)
    assert sorted(told.splitlines()) == ["1", "2", "3", "4", "5"]


RUN_ENDS = """
import sys, time
from checkfree.runtime.swarm.processes.forks import ENDED, Forks
def main(slot, report):
    if slot == 0:
        report({"seated": "0.0"})
        report({"wanted": 4})
        time.sleep(1.0)
        report({"over": True})
        return ENDED
    if slot == 1:  # loses its seat a moment before
        report({"seated": "1.0"})
        time.sleep(1.5)
    if slot == 2:  # has one, and has lost the lead
        report({"seated": "2.0"})
        report({"adrift": True})
        time.sleep(600.0)
    report({"standing": True, "keeps": True})
    time.sleep(600.0)
sys.exit(Forks(main, 4, print).run())
"""


def test_nobody_keeps_a_state_of_a_run_that_has_ended() -> None:
    """It looked for the lead for ten minutes."""
    words = [sys.executable, "-c", RUN_ENDS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=60)
    assert (told, process.returncode) == ("", 0)


SHORT = """
import os, sys, time
from checkfree.runtime.swarm.processes.forks import AGAIN, ENDED, Forks
def main(slot, report):
    os.write(1, f"{slot}\\n".encode())
    if slot:
        return AGAIN
    for _ in range(4):
        report({"seated": "0.0"})
        time.sleep(0.5)
    return int(sys.argv[1])
sys.exit(Forks(main, 4, print).run())
"""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_who_has_no_memory_is_not_made_again_beside_those_that_have(code: int) -> None:
    """And whether the node is to be started again is told by those."""
    words = [sys.executable, "-c", SHORT, str(code)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=60)
        assert told.splitlines() == ["0", "1"]
        assert process.returncode == code


def test_what_is_not_enough_memory() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 46)
    assert after_error(found.value) is ExitReason.SHORT
    assert after_error(MemoryError()) is ExitReason.SHORT
    assert after_error(torch.OutOfMemoryError("CUDA out of memory")) is ExitReason.SHORT
    assert after_error(RuntimeError("shape '[2]' is invalid")) is ExitReason.BROKEN
