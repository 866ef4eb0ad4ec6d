"""A swarm on this machine beside one process and beside torch's own pipeline over gloo, in turn.

    python benchmarks/swarm.py [--iterations 12] [--rounds 1] [--gloo] [--libp2p] [key=value …]
    python benchmarks/swarm.py --replay 10 --iterations 40 [key=value …]

4 stages × 8 microbatches of 4 × 128 tokens, width 512: 1 MB activations and about 6M parameters a
stage, one thread a worker. CPU time is that of all processes, launcher, lead and libp2p daemons
included, between two iterations; memory pages and imports of the start are left out. Seats of one
machine send tensors past the daemons; --libp2p: through them, as between machines. --rounds: all
sides in turn, back and forth, so many times; medians, and those of each round's ratios. --replay: a
swarm that keeps logs and sends two waves of copies beside one that does not, in so many pairs, and
the memory that all processes had at most, beside what checkfree itself counts for it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from living import BY_LIBP2P
from replay import interval
from torch import Tensor, nn

from checkfree.config.load import load
from checkfree.core.records import RECORDS, of_kind, read
from checkfree.core.units import render_bytes
from checkfree.session.blueprint import of_family
from checkfree.session.memory import least_bytes
from checkfree.stage.optimizer import make_optimizer

WORDS = [
    *("stages=4", "microbatches=8", "batch=4", "failures=none", "recovery=none"),
    *("validation.every=0", "resume.every=0", "data.name=text", "optimizer.clip=null"),
    *("model.width=512", "model.heads=8", "model.hidden=1365", "model.blocks=8"),
    *("model.context=128", "model.vocabulary=256"),
]
WARM_UP = 3
RANKS = 4


@dataclass(frozen=True)
class Figures:
    """Of one iteration: wall time, and the CPU time of all processes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: float
    """Resident memory, of each process at its most."""


Side = Callable[[Path], Figures]
"""What is measured; it gets a folder of its own."""


def processor_seconds(pids: list[int]) -> float:
    """User and system time of these so far."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def family_of(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def peak_memory(pids: list[int]) -> int:
    """Bytes that these had resident, each at its most."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        total += sum(int(kib) << 10 for kib in re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M))
    return total


def watch(command: list[str], ticks: Callable[[], int], last: int) -> tuple[float, int]:
    """CPU seconds of an iteration of a command, between WARM_UP and the last but one; and its
    memory."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread()) as process:
        marks: dict[int, float] = {}
        for tick in (WARM_UP, last - 1):
            while ticks() < tick and process.poll() is None:
                time.sleep(0.005)
            marks[tick] = processor_seconds(family_of(process.pid))
            peak = peak_memory(family_of(process.pid))
        assert process.wait() == 0, f"{command} failed"
    return (marks[last - 1] - marks[WARM_UP]) / (last - 1 - WARM_UP), peak


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "ERROR"}


def ours(kind: list[str], folder: Path, words: list[str], iterations: int) -> Figures:
    """A run of ``checkfree KIND``."""

    def ticks() -> int:
        return len(of_kind(read(folder), "iteration")) if (folder / RECORDS).exists() else 0

    more = [f"out={folder}", f"iterations={iterations}", "--quiet"]
    command = [sys.executable, "-m", "checkfree", *kind, *words, *more]
    cpu, peak = watch(command, ticks, iterations)
    seconds = [record["seconds"] for record in of_kind(read(folder), "iteration")]
    return Figures(statistics.median(seconds[WARM_UP:]), cpu, peak)


# --- torch.distributed.pipelining over gloo ------------------------------------------------------


class Rank(nn.Module):
    """A stage of the same model; the first rank embeds too, the last has the head too."""

    def __init__(self, body: nn.Module, edge: nn.Module, first: bool, last: bool):
        super().__init__()
        self.body, self.edge = body, edge if first or last else None
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.edge.embed(x) if self.first and self.edge else x)
        return y


def rank_main(rank: int, port: int, words: list[str], iterations: int, progress: Path) -> None:
    """One process of the gloo pipeline. The first writes how far it is."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    torch.set_num_threads(1)
    config = load(None, [word for word in words if not word.startswith("data")])
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    blueprint = of_family(config, 256)
    edge, last = blueprint.make(0), rank == RANKS - 1
    module = Rank(blueprint.make(rank + 1), edge, rank == 0, last)
    optimizer = make_optimizer(config.optimizer, list(module.parameters()))
    rows = config.batch * config.microbatches
    stage = PipelineStage(module, rank, RANKS, torch.device("cpu"))

    def loss(hidden: Tensor, tokens: Tensor) -> Tensor:
        value: Tensor = edge.loss(hidden, tokens)  # type: ignore[operator]
        return value

    schedule = Schedule1F1B(stage, config.microbatches, loss_fn=loss)
    times = []
    for iteration in range(iterations):
        since = time.perf_counter()
        generator = torch.Generator().manual_seed(iteration)
        tokens = torch.randint(256, (rows, config.model.context + 1), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        if rank == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=tokens) if last else schedule.step()
        optimizer.step()
        dist.barrier()
        times.append(time.perf_counter() - since)
        if rank == 0:
            progress.write_text(" ".join(map(str, times)))
    dist.destroy_process_group()


def gloo(folder: Path, words: list[str], iterations: int) -> Figures:
    """The same modules in torch's 1F1B."""
    folder.mkdir()
    progress, port = folder / "gloo", str(random.randrange(20000, 30000))
    command = [sys.executable, __file__, "--ranks", port, str(progress), str(iterations), *words]

    def times() -> list[float]:
        return [*map(float, progress.read_text().split())] if progress.exists() else []

    cpu, peak = watch(command, lambda: len(times()), iterations)
    return Figures(statistics.median(times()[WARM_UP:]), cpu, peak)


def start_ranks(port: str, progress: str, iterations: str, *words: str) -> None:
    torch.multiprocessing.start_processes(
        rank_main,
        ranks(int(port), list(words), int(iterations), Path(progress)),
        nprocs=RANKS,
        start_method="spawn",
    )


def ranks(port: int, words: list[str], iterations: int, progress: Path) -> tuple[object, ...]:
    return port, words, iterations, progress


def scale(folder: Path, config: list[str], iterations: int) -> None:
    """Weak scaling: as many blocks as stages. Beside it the ideal length of the pipeline, had each
    stage a core (microbatches + stages - 1 times what one costs), and what these cores allow."""
    microbatches, cores = 8, os.cpu_count() or 1
    print("stages  swarm  ideal, a core each  work over these cores")
    for stages in (2, 4, 8):
        words = [*config, f"stages={stages}", f"model.blocks={2 * stages}"]
        one = ours(["train"], folder / f"one-{stages}", words, iterations)
        many = ours(["swarm", "up"], folder / f"swarm-{stages}", words, iterations)
        each = one.seconds / (stages * microbatches)
        ideal, least = (microbatches + stages - 1) * each, one.seconds / min(cores, stages)
        print(f"{stages:6}{many.seconds:7.3f}{ideal:20.3f}{least:23.3f}")


def beside(sides: Mapping[str, Side], folder: Path, rounds: int) -> None:
    """Seconds of an iteration of each side; its CPU over that of the first, its wall time over that
    of the last."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in [*sides][:: -1 if number % 2 else 1]:
            found[name].append(sides[name](folder / f"{name.split()[0]}-{number}"))
    first, *_, last = found.values()
    for name, figures in found.items():
        wall = statistics.median(each.seconds for each in figures)
        cpu = statistics.median(each.cpu_seconds for each in figures)
        more = statistics.median(
            a.cpu_seconds / b.cpu_seconds for a, b in zip(figures, first, strict=True)
        )
        longer = statistics.median(
            a.seconds / b.seconds for a, b in zip(figures, last, strict=True)
        )
        print(f"{name:12} {wall:.3f} s  CPU {cpu:.3f} s = {more:.2f}×  wall {longer:.2f}×")
    print(f"CPU × that of {next(iter(found))}, wall × that of {[*found][-1]}")


def replay_beside_none(folder: Path, config: list[str], iterations: int, pairs: int) -> None:
    """CPU of all processes, as the ratio of medians with a 95 % bootstrap interval; and what the
    copies add to the bytes that cross."""
    waves = f"recovery=replay(wave_every={iterations // 3},wave_lag={iterations // 6})"
    kept, plain = [], []
    for number in range(pairs):
        words = [*config, "recovery=none"]
        plain.append(ours(["swarm", "up"], folder / f"none-{number}", words, iterations))
        words = [*config, waves]
        kept.append(ours(["swarm", "up"], folder / f"replay-{number}", words, iterations))
    for what in ("cpu_seconds", "seconds"):
        one, other = ([getattr(figures, what) for figures in side] for side in (kept, plain))
        low, high = interval(one, other)
        ratio = statistics.median(one) / statistics.median(other)
        print(
            f"{what}: replay {statistics.median(one):.4f}, none {statistics.median(other):.4f} an "
            f"iteration; ratio {ratio:.4f} (95 % {low:.4f} … {high:.4f}, {pairs} pairs)"
        )
    (ledger,) = of_kind(read(folder / f"replay-{pairs - 1}"), "ledger")
    sent = ledger["bytes"]
    share = sent.get("KeepState", 0) / (sent["Activation"] + sent["Gradient"])
    print(f"copies: {share:.1%} of the bytes of activations and gradients")
    most, without = (
        statistics.median(figures.peak_bytes for figures in side) for side in (kept, plain)
    )
    counted = [least_bytes(load(None, [*config[1:], word])) for word in (waves, "recovery=none")]
    planned = counted[0] - counted[1]
    print(
        f"memory of all processes: {render_bytes(most - without)} more than the "
        f"{render_bytes(without)} of none; {render_bytes(planned)} are counted for logs and copies"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--gloo", action="store_true", help="torch's pipeline too")
    parser.add_argument("--rounds", type=int, default=1, help="all sides in turn, so many times")
    parser.add_argument("--libp2p", action="store_true", help="as between machines")
    parser.add_argument(
        "--replay", metavar="PAIRS", type=int, help="what replays cost, nothing else"
    )
    parser.add_argument("--scaling", action="store_true", help="2, 4 and 8 stages, nothing else")
    arguments, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
        words = [*WORDS, f"data.path={folder}/text.txt", *words]
        (folder / "empty.yaml").write_text("{}\n")
        config = [str(folder / "empty.yaml"), *words]
        count = arguments.iterations
        if arguments.replay:
            return replay_beside_none(folder, config, count, arguments.replay)
        if arguments.scaling:
            return scale(folder, config, count)
        kind = ["swarm", "up", *(BY_LIBP2P if arguments.libp2p else ())]
        sides: dict[str, Side] = {
            "one process": lambda at: ours(["train"], at, config, count),
            "swarm": lambda at: ours(kind, at, config, count),
        }
        if arguments.gloo:
            sides["torch, gloo"] = lambda at: gloo(at, words, count)
        beside(sides, folder, arguments.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ranks"]:
        start_ranks(*sys.argv[2:])
    else:
        main()
