"""A process that talks rubbish to a worker of a swarm: first as one that does not know the run's
secret, then as one that does.

Run as ``python -m tests.process.stranger RUN SEAT MESSAGES``. Prints how many it sent.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from hivemind.p2p import P2PDaemonError

from checkfree.core.ops import Address, Recipe, Source
from checkfree.messages import codec
from checkfree.messages.control import Abort, Message, Rebuild, StateRequest, Ticket
from checkfree.messages.tensors import Activation, Share, StateReply
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.transport.frames import ENVELOPE, FIRST_LANE, Peer, piece_frame
from checkfree.runtime.swarm.transport.lanes import LARGEST_PIECE, Lane
from checkfree.runtime.swarm.transport.network_thread import NetworkThread

SEAT = Address(90)
SIDES = 8


def rubbish(draw: random.Random, to: Address) -> tuple[bytes, bool]:
    """A frame, and whether its receiver can know where the next one begins."""
    if draw.randrange(20) == 0:
        return _endless(draw, to), False
    return _framed(draw, to), True


def _framed(draw: random.Random, to: Address) -> bytes:
    """One that ends where it says, so that the stream may go on."""
    data = _message(draw, to)
    match draw.randrange(4):
        case 0:  # a header that is another JSON, or none
            for byte in (0, *draw.randbytes(draw.randrange(9))):
                data[draw.randrange(codec.PREFIX, len(data))] = byte
        case 1:  # tensors of other sizes and types than follow
            old = draw.choice((b"float32", b"[2,3]", b'""', b"Activation"))
            new = draw.choice((b"float16", b"[9,9]", b"[[3]]", b"complex", b"-1"))
            data = bytearray(bytes(data).replace(old, new.ljust(len(old))[: len(old)]))
        case 2:  # for an actor that is not there
            to = Address(77)
        case _:  # sound, but of another time, or what only the lead may say
            pass
    return piece_frame(draw.choice(list(Lane)), to, len(data)) + bytes(data)


def _endless(draw: random.Random, to: Address) -> bytes:
    """One after which nobody knows where the next begins."""
    data = _message(draw, to)
    match draw.randrange(4):
        case 0:  # a size that nobody has memory for
            data[8:16] = (2 ** draw.randrange(33, 63)).to_bytes(8, "little")
            return piece_frame(Lane.DATA, to, len(data)) + bytes(data)
        case 1:  # a piece that is longer than any, or than its message
            size = draw.choice((LARGEST_PIECE + 1, len(data) + 1))
            return ENVELOPE.pack(FIRST_LANE, to.stage, to.replica, size) + bytes(data) + b"x"
        case 2:
            return draw.randbytes(draw.randrange(1, 200))
        case _:  # a notice that is none
            return ENVELOPE.pack(2, 0, 0, 5) + b"[1,2]"


def _message(draw: random.Random, to: Address) -> bytearray:
    source, past, later = Source(to, 1, 0), Ticket(0, 0), Ticket(9, 0)
    message: Message = draw.choice(
        [
            Abort(1),
            Rebuild(1, 0, Recipe("x"), 0, 0),
            StateRequest(0, to, source),
            StateReply(0, source, None, "what?"),
            Activation(past, 0, 1, torch.zeros(2, 3)),
            Activation(later, 0, 1, torch.zeros(2, 3)),
            Share(past, to, {"w": torch.zeros(4)}),
        ]
    )
    return bytearray(b"".join(bytes(part) for part in codec.encode(message)))


async def annoy(network: NetworkThread, peer: Peer, count: int, seed: int) -> int:
    draw, sent = random.Random(seed), 0
    while sent < count:
        try:
            opened = await network.endpoint.dial(peer)
        except P2PDaemonError:
            continue
        reader, writer, goes_on = opened.reader, opened.writer, True
        try:
            while goes_on and sent < count:
                data, goes_on = rubbish(draw, peer.seat)
                sent += 1
                writer.write(data)
            await writer.drain()
            writer.write_eof()
            await reader.read()  # until it has been heard, and hung up on
        except OSError:
            pass
        writer.close()
    return sent


async def annoy_at_once(network: NetworkThread, peer: Peer, count: int) -> int:
    """From several sides: opening a stream takes longer than all that is said on it."""
    shares = [count // SIDES + (side < count % SIDES) for side in range(SIDES)]
    return sum(
        await asyncio.gather(*(annoy(network, peer, n, seed) for seed, n in enumerate(shares)))
    )


def main(run: str, seat: str, count: str) -> None:
    workdir = Workdir.of(Path(run))
    peers = [Peer.from_json(plain) for plain in ask(workdir, {"ask": "status"})["peers"]]
    (peer,) = [peer for peer in peers if peer.seat == Address.parse(seat)]
    sent = 0
    for secret, messages in ((b"a guess", int(count) // 10), (workdir.secret(), int(count))):
        network = NetworkThread(secret, codec.Limits())
        with tempfile.TemporaryDirectory() as folder:
            network.open(Path(folder), Path(folder) / "id")
            network.sit(SEAT, time.time_ns())  # later than any stranger before us
            sent += network.wait(annoy_at_once(network, peer, messages))
            network.close()
    print(sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
