"""How fast a lost stage of 100 MB comes back in a swarm, beside a bare libp2p stream.

    python benchmarks/transfer.py [--kills 6] [--copy] [key=value …]

A middle stage is killed, and made of the weights of its two neighbours. Timed is all between the
lead's plan and the last seat's answer: both states asked for, copied, sent, inspected, averaged
and put in place. The bare stream sends as many bytes through two libp2p daemons into memory, and
nothing else, before and after. The swarm goes by libp2p too, as between machines. What the new
process has read from its sockets, over the size of the states, says how often a byte was moved.

--copy: the stage is replayed from the copy on another seat. Timed is all until that is in place:
asked for, sent, held against its sum, and kept as the seat's own too. Then what a replayed
iteration takes, over what it can't take less than (to be ≤ 1.1): its own forwards, backwards and
step, which the same stage needs here with nothing around it, or the bytes that its neighbours send
once more at the speed of the bare stream, whichever is longer. That other keys of the model decide:
few numbers a layer, and long contexts, make it the bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import uvloop
from hivemind.p2p import P2P, PeerID
from hivemind.utils.multiaddr import Multiaddr
from living import BY_LIBP2P, Living, living

from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.ops import Address
from checkfree.runtime.process import settled
from checkfree.runtime.swarm.processes.control import ask
from checkfree.session.assemble import make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.sizes import own_sizes
from checkfree.stage import Part

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=2", "batch=1", "failures=none"),
    *("recovery=checkfree", "validation.every=0", "resume.every=0", "optimizer.name=sgd"),
    *("model.width=1024", "model.heads=8", "model.hidden=2816", "model.blocks=8"),
    *("model.context=16", "model.vocabulary=256"),
]
COPIES = "recovery=replay(wave_every=20,wave_lag=2)"
SETTLED = 30  # iterations, in which a wave counts
SEAT = "2.0"
STAGE = Address.parse(SEAT).stage
ROUNDS = 4
ABOUT = 200_000_000
"""Bytes that a bare stream sends before it is known how large the states are."""
CHUNK = 1 << 18
NAME = "bare"


# --- a bare stream -------------------------------------------------------------------------------


@asynccontextmanager
async def daemon() -> AsyncIterator[P2P]:
    p2p = await P2P.create(auto_nat=False, nat_port_map=False, use_relay=False)
    try:
        yield p2p
    finally:
        await p2p.shutdown()


async def serve() -> None:
    """Read whatever comes, and say so with a byte; until our standard input ends."""

    async def take(
        info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while head := await reader.read(8):
            size, done = int.from_bytes(head, "little"), 0
            data = torch.empty(size, dtype=torch.uint8).numpy().data
            while done < size:
                chunk = await reader.read(min(1 << 20, size - done))
                data[done : done + len(chunk)] = chunk
                done += len(chunk)
            writer.write(b".")

    async with daemon() as p2p:
        await p2p.add_binary_stream_handler(NAME, take)
        print(p2p.peer_id.to_base58(), *p2p._visible_maddrs, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def send(other: str, addresses: list[str], size: int, rounds: int) -> list[float]:
    """Seconds of each round; the first does not count."""
    data = torch.ones(size, dtype=torch.uint8).numpy().data
    times = []
    async with daemon() as p2p:
        peer = PeerID.from_base58(other)
        await p2p._client.connect(peer, [Multiaddr(address) for address in addresses])
        _, reader, writer = await p2p.call_binary_stream_handler(peer, NAME)
        for _ in range(rounds + 1):
            since = time.perf_counter()
            writer.write(size.to_bytes(8, "little"))
            for start in range(0, size, CHUNK):
                writer.write(data[start : start + CHUNK])
                await writer.drain()
            await reader.readexactly(1)
            times.append(time.perf_counter() - since)
    return times[1:]


def bare(size: int) -> list[float]:
    """Bytes per second of a stream to another process, for each of ROUNDS."""
    command = [sys.executable, __file__, "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        other, *addresses = process.stdout.readline().split()
        times = uvloop.run(send(other, addresses, size, ROUNDS))
        process.communicate("")
    return [size / seconds for seconds in times]


# --- a rebuild -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rebuilt:
    """Of one kill: bytes of the states, seconds until they were in place, and bytes that the new
    process had read by then. Of the replay after it, seconds and bytes of an iteration."""

    size: int
    seconds: float
    moved: int
    iteration: float = 0.0
    resent: float = 0.0


def read_bytes(pid: int) -> int:
    """What a process has read so far, from sockets too."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def rebuild(swarm: Living, copied: int) -> Rebuilt:
    """Kill the seat, and wait until all is as before. ``copied``: bytes of a copy."""
    whole = len(swarm.workdir.processes())
    swarm.advance(SETTLED)
    at = ask(swarm.workdir, {"ask": "kill", "seat": SEAT, "signal": "KILL"})["at"]
    records = swarm.records

    def made() -> bool:
        swarm.read()
        return bool(records.since(at, "plan"))

    swarm.until(made, "rebuilt")
    when, plan = records.since(at, "plan")[0]
    moved = read_bytes(swarm.status()["processes"][SEAT]["pid"])
    sent = int(plan.rebuilds[SEAT].bytes)
    found = Rebuilt(sent, when - records.since(at, "failure")[0][0], moved)
    swarm.advance(3)
    for _, replay in records.since(at, "replay"):
        assert plan.rebuilds[SEAT].recipe.sources, "no wave counts yet"
        times, count = replay.seconds, replay.iteration - replay.start
        each = times["replay"] / count, (sent - copied) / count
        found = Rebuilt(copied, times["copy"], moved - (sent - copied), *each)
    swarm.until(lambda: len(swarm.workdir.processes()) >= whole, "a spare")
    return found


def alone(config: Config) -> list[float]:
    """Seconds of each of 20 iterations of the stage that is killed: its forwards, backwards and
    steps, on one thread, with nothing around them."""
    model, times = config.model, list[float]()
    assert model.vocabulary is not None
    stage = make_worker_context(config, of_family(config, model.vocabulary), {}).make(STAGE, STAGE)
    x = torch.randn(config.batch, model.context, model.width)
    with settled(1):
        for iteration in range(21):
            since = time.perf_counter()
            for microbatch in range(config.microbatches):
                key = (microbatch, STAGE)
                y = stage.forward(key, Part.BODY, x, None, seed=0)
                stage.backward(key, y)
            stage.reduced()
            stage.step(iteration, 1e-6)
            times.append(time.perf_counter() - since)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--copy", action="store_true", help="replay it from its copy")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments, words = parser.parse_known_args()
    if arguments.serve:
        return uvloop.run(serve())
    words = [*WORDS, *([COPIES] if arguments.copy else []), *words]
    config = load(None, words)
    copied = own_sizes(config).state(STAGE, moments=True)
    os.environ["HIVEMIND_LOGLEVEL"] = "ERROR"
    with tempfile.TemporaryDirectory(prefix="checkfree-transfer-") as name:
        before, own = bare(ABOUT), alone(config) if arguments.copy else []
        with living(Path(name), [*BY_LIBP2P, *words]) as swarm:
            swarm.read()
            rebuilds = [rebuild(swarm, copied) for _ in range(arguments.kills)]
        size = rebuilds[0].size
        stream = [*before, *bare(size)]
        own += alone(config) if arguments.copy else []
    speeds = [found.size / found.seconds for found in rebuilds]
    print(f"states {size / 1e6:.0f} MB, {len(rebuilds)} rebuilds, {len(stream)} bare streams")
    print(f"bytes read / states {median(found.moved / found.size for found in rebuilds):.2f}")
    share = median(speeds) / median(stream)
    print(f"rebuild {median(speeds) / 1e6:.0f} MB/s ({told(speeds)})")
    print(f"bare    {median(stream) / 1e6:.0f} MB/s ({told(stream)}): {share:.0%}")
    if arguments.copy:
        tell_replays(rebuilds, median(own), median(stream))


def tell_replays(rebuilds: list[Rebuilt], own: float, stream: float) -> None:
    """An iteration of each. ``own``: seconds; ``stream``: bytes per second."""
    each = median(found.iteration for found in rebuilds)
    resent = median(found.resent for found in rebuilds)
    line = resent / stream
    print(
        f"a replayed iteration {1e3 * each:.1f} ms, its own {1e3 * own:.1f} ms, its log's "
        f"{resent / 1e6:.2f} MB at the bare stream {1e3 * line:.1f} ms: {each / max(own, line):.2f}"
    )


def told(speeds: list[float]) -> str:
    """All, in MB/s."""
    return " ".join(f"{speed / 1e6:.0f}" for speed in speeds)


if __name__ == "__main__":
    main()
