"""A process that talks rubbish to a worker of a swarm: first as one that does not know the run's
secret, then as one that does.

Run as a script: ``python stranger.py RUN SEAT MESSAGES``. Prints how many it sent.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from hivemind.p2p import P2PDaemonError

from checkfree.messages import codec
from checkfree.messages.control import Abort, Rebuild, StateRequest
from checkfree.ops import Address, Recipe, Source
from checkfree.runtime.swarm.control import ask
from checkfree.runtime.swarm.courier import Courier
from checkfree.runtime.swarm.frames import ENVELOPE, MESSAGE, Peer, envelope
from checkfree.runtime.swarm.home import Home

SEAT = Address(90)


def rubbish(draw: random.Random, to: Address) -> tuple[bytes, bool]:
    """A frame, and whether its receiver can know where the next one begins."""
    good = [Abort(1), StateRequest(0, to, Source(to, 1, 0)), Rebuild(1, 0, Recipe("x"), 0, 0)]
    data = bytearray(b"".join(bytes(p) for p in codec.encode(draw.choice(good))))
    match draw.randrange(6):
        case 0:  # a header that is another JSON, or none
            for byte in (0, *draw.randbytes(draw.randrange(9))):
                data[draw.randrange(codec.PREFIX, len(data))] = byte
            return envelope(to) + bytes(data), True
        case 1:  # a size that nobody has memory for
            data[8:16] = (2**62).to_bytes(8, "little")
            return envelope(to) + bytes(data), False
        case 2:
            return ENVELOPE.pack(MESSAGE, to.stage, to.replica, 7) + bytes(data), False
        case 3:
            return draw.randbytes(draw.randrange(1, 200)), False
        case 4:  # for an actor that is not there
            return envelope(Address(77)) + bytes(data), True
        case _:  # a notice that is none
            return ENVELOPE.pack(2, 0, 0, 5) + b"[1,2]", False


async def annoy(courier: Courier, peer: Peer, count: int) -> int:
    draw, sent = random.Random(0), 0
    while sent < count:
        try:
            _, writer = await courier.post.dial(peer)
        except P2PDaemonError:
            continue
        goes_on = True
        while goes_on and sent < count:
            data, goes_on = rubbish(draw, peer.seat)
            writer.write(data)
            sent += 1
        try:
            await writer.drain()
            writer.write_eof()
        except OSError:
            pass
        writer.close()
    return sent


def main(run: str, seat: str, count: str) -> None:
    home = Home.of(Path(run))
    peers = [Peer.from_json(plain) for plain in ask(home, {"ask": "status"})["peers"]]
    (peer,) = [peer for peer in peers if peer.seat == Address.parse(seat)]
    sent = 0
    for secret, messages in ((b"a guess", int(count) // 10), (home.secret(), int(count))):
        courier = Courier(secret, codec.Limits())
        with tempfile.TemporaryDirectory() as folder:
            courier.open(Path(folder), Path(folder) / "id")
            courier.sit(SEAT, 0)
            sent += courier.wait(annoy(courier, peer, messages))
            courier.close()
    print(sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
