"""Streams between two processes of one machine, past their libp2p daemons, by which each byte would
go through two more processes, two ciphers and four more sockets.

What identifies a process stays libp2p's, and so does the path of all that is small::

    caller                                          callee
    a hello on a stream of libp2p, with its machine   ->
                                                    <-  {"local": [socket, token]}, or {} for no
    connects to the socket, and sends the token       ->
                                                    <-  ack
    frames, as on any stream

Both see by the kernel that the other is of the same user. Whatever fails before the ack leaves the
stream of libp2p, on which nothing was said yet; what breaks after it is a broken stream.

The bytes are copied into the kernel and out of it. Memory that both map was tried: a file for each
message takes four times as long (its pages are made, cleared and mapped, each time); one that is
mapped once and used again saves a tenth of a millisecond per MB, and nothing where a message is
larger than a core's cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkfree.runtime.swarm.transport.frames import ACK, Notice, Peer
from checkfree.runtime.swarm.transport.lanes import LARGEST_PIECE

TOKEN = 32
"""Bytes that only the caller knows whom they were told to."""
WITHIN = 10.0
"""Seconds for each side to answer."""
LONGEST_NAME = 107
"""Bytes: ``sun_path`` of Linux, in its abstract form, less the zero that it begins with."""

Serve = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def machine(secret: bytes) -> str:
    """What two processes share that can reach each other without a network: the kernel, since it
    was started, the network namespace and the user. "" if that can't be told. A stranger can't
    tell which machine it is."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        space = os.stat("/proc/self/ns/net")
    except OSError:
        return ""
    told = repr((boot, space.st_dev, space.st_ino, os.getuid())).encode()
    return hmac.new(secret, told, hashlib.sha256).hexdigest()


class LocalServer:
    """Where callers of this machine are served, each as the peer that its token was told to."""

    def __init__(self, serve: Serve):
        self._serve, self._expected = serve, dict[bytes, Peer]()
        self._name = b""
        self._server: asyncio.AbstractServer | None = None
        self._open = set[asyncio.StreamWriter]()

    async def open(self) -> None:
        """Where there are no such sockets, or none may be made, nobody is told of one."""
        if sys.platform != "linux":
            return
        # A name without a file: it is gone with the process, and known in one network namespace.
        name = b"checkfree-" + secrets.token_hex(16).encode()
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(b"\0" + name)
            self._server = await asyncio.start_unix_server(self._greet, sock=listening)
        except OSError:
            listening.close()
            return
        self._name = name

    def offer(self, peer: Peer) -> tuple[Notice, bytes]:
        """What ``peer`` is told over libp2p, and the token that is to be ``withdrawn``."""
        token = secrets.token_bytes(TOKEN)
        if not self._name:
            return {}, token
        self._expected[token] = peer
        return {"local": [self._name.decode(), token.hex()]}, token

    def withdraw(self, token: bytes) -> None:
        """Nobody may come with it any more."""
        self._expected.pop(token, None)

    def close(self) -> None:
        """Whoever is served is hung up on."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if not _same_user(writer.get_extra_info("socket")):
                return
            token = await asyncio.wait_for(reader.readexactly(TOKEN), WITHIN)
            peer = self._expected.pop(token, None)
            if peer is not None:
                writer.write(ACK)
                await self._serve(peer, reader, writer)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # who never was let in is nobody; of all others ``serve`` has told
        finally:
            self._open.discard(writer)
            with suppress(OSError):
                writer.close()


async def connect(
    answer: Notice,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A stream to where an answer says; None if it has to be libp2p's."""
    match answer:
        case {"local": [str(name), str(token)]} if len(token) == 2 * TOKEN:
            pass
        case _:
            return None
    called = socket.socket(socket.AF_UNIX)
    try:
        called.setblocking(False)
        # A message of a MB is handed over at once, where the kernel allows that.
        called.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_PIECE)
        address = b"\0" + name.encode()[:LONGEST_NAME]
        await asyncio.get_running_loop().sock_connect(called, address)
        if not _same_user(called):
            raise PermissionError("of another user")
        reader, writer = await asyncio.open_unix_connection(sock=called)
    except (OSError, ValueError):
        called.close()
        return None
    try:
        writer.write(bytes.fromhex(token))
        if await asyncio.wait_for(reader.readexactly(len(ACK)), WITHIN) == ACK:
            return reader, writer
    except (OSError, EOFError, ValueError, asyncio.TimeoutError):
        pass
    except asyncio.CancelledError:
        writer.close()
        raise
    writer.close()
    return None


def _same_user(other: Any) -> bool:
    """Whoever is at the other end of a socket, by the kernel."""
    form = struct.Struct("3i")  # struct ucred: process, user, group
    told = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    return bool(form.unpack(told)[1] == os.geteuid())
