"""The launcher's socket: one JSON object a line, both ways; the first line shows the secret.

The lead orders processes over it and tells how it goes; ``checkfree swarm kill`` and ``status``
ask. Only the run's owner can open it, and only who read the run's secret is heard.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.runtime.swarm.processes.workdir import Workdir

ANSWER_WITHIN = 10.0  # seconds
LONGEST_LINE = 1 << 20  # bytes


def line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def ask(workdir: Workdir, request: Mapping[str, Any]) -> dict[str, Any]:
    """One question to a swarm that is up. Raises BadInput if it is not, or refuses."""
    hello = {"secret": workdir.secret().hex()}
    try:
        with connected(workdir.control) as stream:
            stream.sendall(line(hello) + line(request))
            answer: dict[str, Any] = json.loads(stream.makefile("rb").readline(LONGEST_LINE))
    except (OSError, ValueError) as error:
        raise BadInput(f"{workdir.run}: no swarm answers ({error}); is it up?") from None
    if "refused" in answer:
        raise BadInput(str(answer["refused"]))
    return answer


def connected(path: Path) -> socket.socket:
    """Raises OSError."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(ANSWER_WITHIN)
        stream.connect(os.fspath(path))
    except OSError:
        stream.close()
        raise
    return stream
