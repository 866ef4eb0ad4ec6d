"""Schedules of two chunks a stage beside torch's own, on machines that are far from each other.

    python benchmarks/schedules.py [--rounds 3] [--iterations 12] [--delay 20] [--microbatches 16]

Four hosts, each a network namespace (needs root), from which every packet is under way for 20 ms to
any other. On each a body stage of two small chunks; torch's first rank has embedding and head
beside it, and so has our first host, as a seat of its own. Torch's ScheduleInterleaved1F1B and
ScheduleZBVZeroBubble over gloo, and a swarm with ``interleaved`` and ``zbv``, in turn, train the
same modules on as many tokens: medians of an iteration's seconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from far import FarHosts, far_hosts
from fleet import fleet, prepare
from swarm import one_thread
from torch import Tensor, nn

from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.models.chunks import Chunks
from checkfree.session.blueprint import of_family
from checkfree.stage.optimizer import make_optimizer

HOSTS, WARM_UP = 4, 3
OURS = {"interleaved": Chunks.LOOP, "zbv": Chunks.V}
WORDS = [
    *("stages=4", "batch=1", "recovery=none", "failures=none", "validation.every=0"),
    *("resume.every=0", "checkpoint.every=1000000", "optimizer.clip=null", "model.vocabulary=256"),
    *("model.width=32", "model.heads=2", "model.hidden=64", "model.blocks=8", "model.context=32"),
]
"""A stage computes for a millisecond or so: two cores are not what is waited for."""


def swarm(net: FarHosts, name: str, iterations: int, microbatches: int) -> float:
    """Median seconds of an iteration of ours."""
    words = [*WORDS, f"schedule={name}", f"microbatches={microbatches}"]
    spaces = [net.space(0), *(net.space(host) for host in range(HOSTS))]
    with fleet(HOSTS, *words, spaces=spaces) as made:
        made.start(made.nodes[0], "--seats=2")
        for node in made.nodes[1:]:
            made.start(node, "--seats=1")
        made.wait_for_first()
        while made.records.ticks < iterations and made.lead.poll() is None:
            made.records.read()
            time.sleep(0.05)
        seconds = [record["seconds"] for record in of_kind(read(made.run), "iteration")]
    return statistics.median(seconds[WARM_UP:iterations])


class Chunk(nn.Module):
    """One of a rank's two; the first of all embeds."""

    def __init__(self, body: nn.Module, edge: nn.Module | None):
        super().__init__()
        self.body, self.edge = body, edge

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x if self.edge is None else self.edge.embed(x))
        return y


def rank_main(rank: int, address: str, name: str, iterations: int, microbatches: int) -> None:
    """One process of torch's pipeline; the first prints the median seconds."""
    from torch.distributed.pipelining import (
        PipelineStage,
        ScheduleInterleaved1F1B,
        ScheduleZBVZeroBubble,
    )

    torch.set_num_threads(1)
    more = [f"microbatches={microbatches}", f"stages={2 * HOSTS}"]
    config = load(None, [*(word for word in WORDS if not word.startswith("stages")), *more])
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=HOSTS)
    blueprint = of_family(config, 256)
    edge = blueprint.make(0)
    own = OURS[name].of(rank + 1, HOSTS)
    modules = [Chunk(blueprint.make(k), edge if k == 1 else None) for k in own]
    params = [p for module in modules for p in module.parameters()]
    if 2 * HOSTS in own and 1 not in own:
        params += [*edge.parameters()]
    optimizer = make_optimizer(config.optimizer, params)
    stages = [
        PipelineStage(module, k - 1, 2 * HOSTS, torch.device("cpu"))
        for module, k in zip(modules, own, strict=True)
    ]

    def loss(hidden: Tensor, tokens: Tensor) -> Tensor:
        value: Tensor = edge.loss(hidden, tokens)  # type: ignore[operator]
        return value

    made = {"interleaved": ScheduleInterleaved1F1B, "zbv": ScheduleZBVZeroBubble}[name]
    schedule = made(stages, microbatches, loss_fn=loss)
    times = []
    for iteration in range(iterations):
        since = time.perf_counter()
        generator = torch.Generator().manual_seed(iteration)
        tokens = torch.randint(256, (microbatches, config.model.context + 1), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        given = (tokens,) if 1 in own else ()
        schedule.step(*given, target=tokens if 2 * HOSTS in own else None)
        optimizer.step()
        dist.barrier()
        times.append(time.perf_counter() - since)
    if rank == 0:
        print(statistics.median(times[WARM_UP:]))
    dist.destroy_process_group()


def gloo(net: FarHosts, folder: Path, name: str, iterations: int, microbatches: int) -> float:
    """Median seconds of an iteration of torch's."""
    address = f"tcp://{net.address(0)}:{random.randrange(20000, 30000)}"
    log = folder / f"{name}-{time.time():.0f}"
    processes = []
    for rank in range(HOSTS):
        words = ["--rank", str(rank), address, name, str(iterations), str(microbatches)]
        command = ["ip", "netns", "exec", net.space(rank), sys.executable, __file__, *words]
        with open(f"{log}-{rank}", "wb") as out:
            where = {**one_thread(), "GLOO_SOCKET_IFNAME": "eth0"}
            processes.append(subprocess.Popen(command, stdout=out, env=where))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"torch's {name} failed")
    return float(Path(f"{log}-0").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--delay", type=float, default=20, help="milliseconds, each way")
    parser.add_argument("--microbatches", type=int, default=16)
    parser.add_argument("--only", choices=[*OURS], action="append", help="of the schedules")
    arguments = parser.parse_args()
    how = arguments.iterations, arguments.microbatches
    prepare()
    apart = far_hosts(HOSTS, arguments.delay / 1000)
    with apart as net, tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or OURS:
            one, other = [], []
            for _ in range(arguments.rounds):
                other.append(gloo(net, Path(folder), name, *how))
                one.append(swarm(net, name, *how))
                print(f"{name}: swarm {one[-1]:.3f} s, torch {other[-1]:.3f} s", flush=True)
            ratio = statistics.median(one) / statistics.median(other)
            print(f"{name}: swarm / torch {ratio:.2f}×")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank, address, name, *counts = sys.argv[2:]
        rank_main(int(rank), address, name, *map(int, counts))
    else:
        main()
