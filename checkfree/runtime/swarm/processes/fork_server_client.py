"""The launcher's end of its fork server: starts it, talks to it in lines of JSON, and ends it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from checkfree.runtime.forking import ONE_THREAD
from checkfree.runtime.swarm.processes.control import LONGEST_LINE, line
from checkfree.runtime.swarm.processes.workdir import Workdir


def fork_server_command(module: str) -> list[str]:
    """A Python like ours that runs ``module``."""
    return [sys.executable, "-m", module]


class SwarmForkClient:
    """Of one fork server, that was started with :meth:`start`."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], workdir: Workdir) -> SwarmForkClient:
        """``command`` is given our pid and the workdir. Raises OSError."""
        env = {"HIVEMIND_LOGLEVEL": "ERROR", **os.environ} | ONE_THREAD
        process = await asyncio.create_subprocess_exec(
            *command,
            str(os.getpid()),
            os.fspath(workdir.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=env,
            limit=LONGEST_LINE,
            start_new_session=True,  # Ctrl-C in a terminal is ours to pass on
        )
        return cls(process)

    def tell(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line(value))

    async def hear(self) -> dict[str, Any] | None:
        """None: it is gone."""
        assert self._process.stdout is not None
        said = await self._process.stdout.readline()
        return json.loads(said) if said else None

    async def end(self) -> None:
        """It, and with it all its forks."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
