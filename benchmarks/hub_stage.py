"""What a stage of a Hub's model takes: to load, beside reading its bytes; to train, beside uncut.

    python benchmarks/hub_stage.py [--rounds 20] [--folder FOLDER] [--stages 11]

*Load*: a Llama of 1.1 billion parameters (TinyLlama's sizes) is drawn stage by stage and written as
a folder of shards in bf16, unless FOLDER has a model. Each round builds a middle stage of it in a
process of its own, in fp32: the memory that it has at most beyond its imports, over the stage's
bytes (to be ≤ 1.3); and its seconds over those of reading the same tensors, one after the other,
and turning them into fp32 (to be ≤ 1.5). Both find the files in memory, where a first reading left
them: a disk would only make them more alike. A tiny stage was built before, for what transformers
makes once in a process, as imports are. Seconds on the clock, and of the CPU, which others on the
machine lengthen less. *Train*: a Llama of width 256, 8 layers, 2 × 256 tokens: forward and
backward through four stages over those of the uncut model (to be ≤ 1.05), in turn, medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from checkfree.core.units import render_bytes
from checkfree.models import hf, hub
from checkfree.models.config import ModelConfig
from checkfree.models.folder import Folder, draft_of
from checkfree.runtime.forking import ask_fork

LARGE = {
    **{"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
    **{"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000},
    **{"max_position_embeddings": 2048, "tie_word_embeddings": False},
}
SMALL = {
    **{"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8},
    **{"num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 256},
}
CONTEXT, PARTS = 256, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stages", type=int, default=11)
    given = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "model"
        if given.folder is None:
            # Memory that this process had once and gave back would show in none of its forks.
            ask_fork(lambda: write(folder, LlamaConfig(**LARGE).to_dict(), given.stages))
        load(folder, given.stages, max(2, given.rounds // 4))
    train(given.rounds)


def drawn(told: dict[str, Any], context: int) -> ModelConfig:
    made = ModelConfig("hf", context=context, weights=hub.FRESH, architecture=told)
    return hub.described(made)


def write(folder: Path, told: dict[str, Any], stages: int) -> str:
    """A folder of drawn weights in bf16, with one stage in memory at a time."""
    config = drawn(told, CONTEXT)
    with draft_of(folder) as draft:
        for i in range(stages + 1):
            part = hf.stage(config, i, stages)
            tensors = {n: p.detach().to(torch.bfloat16) for n, p in part.named_parameters()}
            draft.shard(i + 1, stages + 1, hf.to_transformers(config, stages, i, tensors))
        draft.write_json("config.json", {**hf.transformers_config(config), "dtype": "bfloat16"})
    return ""


def load(folder: Path, stages: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tiny = Path(scratch) / "tiny"
        told = LlamaConfig(**{**SMALL, "hidden_size": 32, "num_hidden_layers": 1}).to_dict()
        ask_fork(lambda: write(tiny, told, 1))  # see main
        hf.stage(hub.described(ModelConfig("hf", path=str(tiny), context=CONTEXT)), 1, 1)
    config = hub.described(ModelConfig("hf", path=str(folder), context=CONTEXT))
    ask_fork(lambda: json.dumps(read_bytes(folder, config, stages)))
    found = []
    for _ in range(rounds):
        bare = json.loads(ask_fork(lambda: json.dumps(read_bytes(folder, config, stages))))
        made = json.loads(ask_fork(lambda: json.dumps(build(config, stages))))
        times = (made[what] / bare[what] for what in ("seconds", "cpu"))
        found.append((made["peak"] / made["bytes"], *times))
    memory, clock, cpu = (statistics.median(figures) for figures in zip(*found, strict=True))
    print(
        f"stage of {render_bytes(made['bytes'])} of {hf.parameters_of(config):,} parameters, "
        f"{rounds} rounds: memory {memory:.2f} × the stage (worst {max(f[0] for f in found):.2f}), "
        f"seconds {clock:.2f} × reading its bytes ({made['seconds']:.2f} s), of the CPU {cpu:.2f} "
        f"× ({made['cpu']:.2f} s)",
        flush=True,
    )


def resident() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def build(config: ModelConfig, stages: int) -> dict[str, float]:
    before, start, used = resident(), time.perf_counter(), time.process_time()
    part = hf.stage(config, 1 + stages // 2, stages)
    times = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    size = sum(param.nbytes for param in part.parameters())
    return {**times, "peak": resident() - before, "bytes": size}


def read_bytes(folder: Path, config: ModelConfig, stages: int) -> dict[str, float]:
    """The same tensors, read and turned into fp32, by their names."""
    number = 1 + stages // 2
    layers = config.blocks // stages
    mine = tuple(f"model.layers.{k}." for k in range((number - 1) * layers, number * layers))
    start, used, found = time.perf_counter(), time.process_time(), Folder(folder)
    kept = [found.read(name).float() for name in sorted(found.names) if name.startswith(mine)]
    times = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    return {**times, "bytes": sum(t.nbytes for t in kept)}


def train(rounds: int) -> None:
    told = LlamaConfig(**SMALL).to_dict()
    config = drawn(told, CONTEXT)
    edge, *bodies = (hf.stage(config, i, PARTS) for i in range(PARTS + 1))
    assert isinstance(edge, hf.Edge)
    whole = LlamaForCausalLM(LlamaConfig(**SMALL)).train()
    batch = torch.randint(0, 512, (2, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def cut() -> None:
        hidden = edge.embed(batch)
        for body in bodies:
            hidden = body(hidden)
        edge.loss(hidden, batch).backward()  # type: ignore[no-untyped-call]

    def uncut() -> None:
        logits = whole(batch[:, :-1], use_cache=False).logits.flatten(0, 1)
        F.cross_entropy(logits, batch[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]

    times: dict[Callable[[], None], list[float]] = {cut: [], uncut: []}
    for turn in range(rounds + 3):
        for run in (cut, uncut) if turn % 2 else (uncut, cut):
            start = time.process_time()
            run()
            if turn >= 3:
                times[run].append(time.process_time() - start)
    ours, theirs = (statistics.median(times[run]) for run in (cut, uncut))
    print(
        f"train, width 256: {ours * 1e3:.1f} ms cut into {PARTS}, {theirs * 1e3:.1f} ms uncut: "
        f"{ours / theirs:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
