"""Where joiners of one machine keep what is theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checkfree.runtime.swarm.joining.joiner_workdir import joiner_workdir_for

MAKE = """
from checkfree.runtime.swarm.joining.joiner_workdir import joiner_workdir_for
for _ in range(60):
    with joiner_workdir_for(b"") as workdir:
        assert (workdir.path / "id").is_dir() and (workdir.path / "s").is_dir()
"""


def test_nobody_takes_a_new_workdir_for_a_left_one() -> None:
    command = [sys.executable, "-c", MAKE]
    joiners = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    told = [joiner.communicate(timeout=120)[1] for joiner in joiners]
    assert [joiner.returncode for joiner in joiners] == [0] * 4, told


def test_a_camp_is_gone_when_its_joiner_is() -> None:
    with joiner_workdir_for(b"token") as workdir:
        assert workdir.secret() == b"token" and workdir.path.is_dir()
    assert not workdir.path.exists()
