"""Is this machine able to swarm: do as a joiner does before it says its first word."""

from __future__ import annotations

import time

from checkfree.core.errors import BadInput, RunFailed
from checkfree.messages import codec
from checkfree.runtime.swarm.joining.joiner_workdir import joiner_workdir_for
from checkfree.runtime.swarm.transport.network_thread import NetworkThread


def try_daemon(listen: str) -> str:
    """Start a libp2p daemon that listens there, and end it: how long that takes. Raises BadInput
    if it can't be."""
    with joiner_workdir_for(b"") as workdir:
        network, since = NetworkThread(b"", codec.Limits()), time.monotonic()
        try:
            network.open(workdir.sockets, workdir.identity(), listen)
            return f"started in {time.monotonic() - since:.1f} s"
        except RunFailed as error:
            raise BadInput(str(error)) from None
        finally:
            network.close()
