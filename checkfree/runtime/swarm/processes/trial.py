"""Is this machine able to swarm: start a libp2p daemon as a seat would, listen, and end it."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from hivemind.p2p import P2PDaemonError

from checkfree.core.errors import BadInput
from checkfree.messages import codec
from checkfree.runtime.swarm.transport.network_thread import NetworkThread

STARTS_WITHIN = 20.0  # seconds


def try_daemon() -> str:
    """How long a daemon takes to start. Raises BadInput if it doesn't."""
    network, since = NetworkThread(b"", codec.Limits()), time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="checkfree-") as folder:
            network.wait(network.endpoint.open(Path(folder), Path(folder) / "id"), STARTS_WITHIN)
            told = f"started in {time.monotonic() - since:.1f} s"
    except (OSError, P2PDaemonError, TimeoutError) as error:
        raise BadInput(
            f"it does not start ({error or type(error).__name__}): reinstall hivemind, and see "
            "that its p2pd may be executed and that local sockets are allowed"
        ) from None
    finally:
        network.close()
    return told


def try_port(host: str, port: int) -> str:
    """That we could listen there. Raises BadInput if not."""
    try:
        with socket.create_server((host, port)):
            return f"{host}:{port} is free" if port else f"{host} has free ports"
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"{host}:{port} can't be listened at ({reason}): give another --listen HOST:PORT, or "
            "port 0 for any"
        ) from None
