"""A run given to other programs, and taken back: the same model, however it is cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

import checkfree
from checkfree.config.load import load, merge
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.records import of_kind
from checkfree.data.batches import Data
from checkfree.data.opening import open_data
from checkfree.models import folder as folders
from checkfree.models.folder import INDEX, Folder
from tests.contract.small import text
from tests.tiny import Body, Edge, batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM, AutoTokenizer

CONFIG: dict[str, Any] = {
    "iterations": 8,
    "stages": 2,
    "microbatches": 3,
    "batch": 2,
    "model": {"width": 16, "heads": 2, "kv_heads": 1, "hidden": 40, "blocks": 4, "context": 16},
    "failures": {"scenario": "random", "probability": 0.1, "stages": [2]},
    "recovery": "copy",
    "validation": {"every": 4, "microbatches": 2},
    "resume": {"every": 4},
    "optimizer": {"clip_over": "global"},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tied": True},
    "gpt": {"family": "gpt", "kv_heads": None},
    "gpt tied": {"family": "gpt", "kv_heads": None, "tied": True, "hidden": None},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and, in ``runs``, a run of each of FAMILIES."""
    folder = tmp_path_factory.mktemp("home")
    for name, change in FAMILIES.items():
        train(folder, folder / "runs" / name, {"model": change})
    return folder


def train(home: Path, out: Path, *changes: dict[str, Any]) -> checkfree.Run:
    tree = {**CONFIG, "data": text(home / "a.txt")["data"], "out": str(out)}
    for change in changes:
        tree = merge(tree, change)
    return checkfree.train(tree)


def losses(run: checkfree.Run, kind: str = "iteration") -> list[float]:
    return [record["loss"] for record in of_kind(run.records, kind)]


def loaded(path: Path) -> Any:
    """With nothing drawn, renamed, or left over."""
    model, told = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def data_of(run: Path) -> Data:
    config = load(run / "config.yaml")
    return open_data(config.data, context=config.model.context, batch=config.batch, seed=0)


def validated(model: Any, data: Data) -> float:
    """As the last validation of a run measures it."""
    found = [data.validation(0, m) for m in range(2)]
    with torch.no_grad():
        logits = [model(batch[:, :-1]).logits.transpose(1, 2) for batch in found]
    pairs = zip(logits, found, strict=True)
    return sum(torch.nn.functional.cross_entropy(x, y[:, 1:]).item() for x, y in pairs) / 2


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_with_it_what_the_run_did(
    home: Path, tmp_path: Path, name: str
) -> None:
    run = home / "runs" / name
    made = checkfree.export(run, to=tmp_path / "out")
    model = loaded(tmp_path / "out")
    last = of_kind(checkfree.read(run), "validation")[-1]["loss"]
    assert validated(model, data_of(run)) == pytest.approx(last, abs=1e-6)
    assert (made.iteration, made.dtype, made.shards, made.lacking) == (8, "float32", 3, "")
    assert made.parameters == sum(p.numel() for p in model.parameters())
    assert made.parameters == checkfree.read(run)[0]["parameters"]
    stored = {name: p for i in range(3) for name, p in _weights(run, i).items()}
    assert sum(p.numel() for p in stored.values()) == made.parameters
    checkfree.export(run, to=tmp_path / "again")
    written = Folder(tmp_path / "out")
    assert written.digest() == Folder(tmp_path / "again").digest()
    bits = sorted(written.read(name).sum().item() for name in written.names)
    assert bits == pytest.approx(sorted(p.sum().item() for p in stored.values()), abs=1e-6)
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md",
        "config.json",
        "generation_config.json",
        *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
        INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def _weights(run: Path, stage: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found = load_file(run / f"weights/stage-{stage}.safetensors")
    return {f"{stage}.{name}": tensor for name, tensor in found.items()}


def test_it_generates_and_its_tokenizer_is_the_run_s(home: Path, tmp_path: Path) -> None:
    checkfree.export(home / "runs/llama", to=tmp_path / "out")
    model, tokenizer = loaded(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.eos_token_id, model.config.eos_token_id) == (0, 0)
    assert model.generation_config.eos_token_id == 0
    for said in ("The number 3", "Ā ā\0\r\n 漢字 🎉  <|endoftext|>", ""):
        assert tokenizer(said)["input_ids"] == list(said.encode())
        assert tokenizer.decode(list(said.encode())) == said
    ids = tokenizer("The number 3", return_tensors="pt")["input_ids"]
    assert len(model.generate(ids, max_new_tokens=3, do_sample=False)[0]) <= 15


def test_of_an_iteration_and_in_another_type(home: Path, tmp_path: Path) -> None:
    run = home / "runs/gpt"
    checkfree.export(run, to=tmp_path / "four", at=4)
    checkfree.export(run, to=tmp_path / "half", at=4, dtype="bf16")
    at_four = [r for r in of_kind(checkfree.read(run), "validation") if r["iteration"] == 4]
    whole, half = loaded(tmp_path / "four"), loaded(tmp_path / "half")
    assert validated(whole, data_of(run)) == pytest.approx(at_four[-1]["loss"], abs=1e-6)
    assert half.dtype == torch.bfloat16 and half.config.dtype == torch.bfloat16
    for one, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(one.to(torch.bfloat16), other)
    with pytest.raises(BadInput, match=r"no state of iteration 5 stands there: there are .*8 \("):
        checkfree.export(run, to=tmp_path / "five", at=5)
    with pytest.raises(BadInput, match="--dtype int8: expected one of fp32, bf16, fp16"):
        checkfree.export(run, to=tmp_path / "five", dtype="int8")
    assert not (tmp_path / "five").exists()


def test_a_tokenizer_of_its_own_goes_along(home: Path, tmp_path: Path) -> None:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    trained.train_from_iterator([(home / "a.txt").read_text()], trainer)
    (tmp_path / "model").mkdir()
    file = tmp_path / "model/tokenizer.json"
    trained.save(str(file))
    change = {"data": {"tokenizer": str(file), "cache": str(tmp_path / "cache")}}
    train(home, tmp_path / "run", change)
    checkfree.export(tmp_path / "run", to=tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == file.read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == "<|endoftext|>"
    assert loaded(tmp_path / "out").config.eos_token_id == tokenizer.eos_token_id
    shutil.rmtree(tmp_path / "run/tokenizer")  # as runs were that kept none
    checkfree.export(tmp_path / "run", to=tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == file.read_bytes()
    file.write_text(file.read_text().replace('"1.0"', '"1.0" '))
    with pytest.raises(BadInput, match=r"is another tokenizer than .* was trained with"):
        checkfree.export(tmp_path / "run", to=tmp_path / "other")
    file.unlink()
    assert "not there any more" in checkfree.export(tmp_path / "run", to=tmp_path / "bare").lacking
    assert not (tmp_path / "bare/tokenizer_config.json").exists()


def test_with_all_that_lies_beside_it_in_a_model_s_folder(home: Path, tmp_path: Path) -> None:
    checkfree.export(home / "runs/llama", to=tmp_path / "model")
    beside = {"chat_template.jinja": "{{ messages }}", "special_tokens_map.json": "{}"}
    for name, content in beside.items():
        (tmp_path / "model" / name).write_text(content)
    change = {"data": {"tokenizer": str(tmp_path / "model"), "cache": str(tmp_path / "cache")}}
    train(home, tmp_path / "run", change)
    shutil.rmtree(tmp_path / "model")
    checkfree.export(tmp_path / "run", to=tmp_path / "out")
    for name, content in beside.items():
        assert (tmp_path / "out" / name).read_text() == content
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Ā\0")["input_ids"] == list("Ā\0".encode())
    assert tokenizer.eos_token_id == loaded(tmp_path / "out").generation_config.eos_token_id == 0


def test_the_model_card(home: Path, tmp_path: Path) -> None:
    run = home / "runs/llama"
    checkfree.export(run, to=tmp_path / "mine")
    card = (tmp_path / "mine/README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    records = checkfree.read(run)
    assert f"- validation, iteration 8: {of_kind(records, 'validation')[-1]['loss']:.4f}" in body
    assert f"- training, iteration 7: {of_kind(records, 'iteration')[-1]['loss']:.4f}" in body
    assert of_kind(records, "recovery") and "2.0 by copy; validation " in body
    assert "# mine" in body and "width: 16" in body and records[0]["versions"]["torch"] in body
    assert str(home) not in card and str(tmp_path) not in card  # no path of the machine


# --- in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_cut_another_way_it_goes_on_with_the_same_loss(
    home: Path, tmp_path: Path, name: str
) -> None:
    checkfree.export(home / "runs" / name, to=tmp_path / "model")
    calm = {"failures": {"scenario": "none"}, "model": FAMILIES[name], "iterations": 4}
    found = []
    for stages in (4, 2):
        change = {"stages": stages, "init": {"run": str(tmp_path / "model")}}
        found.append(train(home, tmp_path / f"cut-{stages}", calm, change))
    again = {"run": str(home / "runs" / name), "optimizer": False}
    found.append(train(home, tmp_path / "again", calm, {"stages": 4, "init": again}))
    assert losses(found[0])[0] == losses(found[2])[0]  # the very same weights, in the same cut
    for run in found[1:]:
        assert losses(run) == pytest.approx(losses(found[0]), abs=1e-5)
    last = of_kind(checkfree.read(home / "runs" / name), "validation")[-1]["loss"]
    assert losses(found[0], "validation")[0] == pytest.approx(last, abs=1e-6)
    init = found[0].records[0]["init"]
    assert init["sha256"] == Folder(tmp_path / "model").digest()
    assert (init["run"], init["kind"]) == (str(tmp_path / "model"), "folder")


@pytest.mark.parametrize("name", ["llama", "gpt tied"])
def test_of_stages_that_are_unequal(home: Path, tmp_path: Path, name: str) -> None:
    checkfree.export(home / "runs" / name, to=tmp_path / "model")
    uneven = {"cut": [1, 3], "recovery": "none", "failures": {"scenario": "none"}}
    change = {"init": {"run": str(tmp_path / "model")}, "model": FAMILIES[name], "iterations": 1}
    run = train(home, tmp_path / "run", uneven, change)
    last = of_kind(checkfree.read(home / "runs" / name), "validation")[-1]["loss"]
    assert losses(run, "validation")[0] == pytest.approx(last, abs=1e-6)
    checkfree.export(tmp_path / "run", to=tmp_path / "out")
    found = validated(loaded(tmp_path / "out"), data_of(tmp_path / "run"))
    assert found == pytest.approx(losses(run, "validation")[-1], abs=1e-6)


def test_once_begun_the_folder_may_go(home: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    checkfree.export(home / "runs/llama", to=model, dtype="bf16")
    change = {"stages": 4, "init": {"run": str(model)}, "iterations": 4, "resume": {"every": 2}}
    run = train(home, tmp_path / "run", {"failures": {"scenario": "none"}}, change)
    model.rename(tmp_path / "gone")
    (tmp_path / "run/weights").rename(tmp_path / "weights")
    assert losses(checkfree.resume(tmp_path / "run")) == losses(run)
    assert checkfree.verify(tmp_path / "run").difference == ""
    made = checkfree.branch(tmp_path / "run", at=2, stages=[2], rules=["checkfree"], gaps=[0, 2])
    assert made.branches[0].readings


def test_in_a_comparison(home: Path, tmp_path: Path) -> None:
    checkfree.export(home / "runs/llama", to=tmp_path / "model")
    tree = {**CONFIG, "data": text(home / "a.txt")["data"], "init": str(tmp_path / "model")}
    found = checkfree.compare(
        {**tree, "iterations": 2}, strategies=["checkfree"], out=tmp_path / "study"
    )
    assert not found.crashed


def _edit(change: dict[str, Any]) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        tree = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(tree | change))

    return edit


def _overflow(model: Path) -> None:
    """The weights of a training that went too far."""
    file = model / "model-00002-of-00003.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-4] + b"\x00\x00\xc0\x7f")


def _nothing(model: Path) -> None:
    pass


def _truncate(model: Path) -> None:
    file = model / "model-00002-of-00003.safetensors"
    os.truncate(file, file.stat().st_size - 10)


@pytest.mark.parametrize(
    ("damage", "change", "told"),
    [
        (_nothing, {"model": {"width": 24}}, "model.width=24, the folder has hidden_size 16: set"),
        (_nothing, {"model": {"heads": 4}}, r"model.heads=4, the folder has num_attention_heads 2"),
        (_nothing, {"model": {"blocks": 8}}, r"model.blocks=8, the folder has num_hidden_layers 4"),
        (_nothing, {"model": {"context": 32}}, r"model.context=32, the folder has max_position_em"),
        (_nothing, {"model": {"tied": True}}, r"model.tied=true, the folder has tie_word_emb.*fal"),
        (_nothing, {"model": {"vocabulary": 300}}, r"model.vocabulary=300, the .*vocab_size 256"),
        (_nothing, {"init": {"optimizer": True}}, r"weights and nothing else: leave init.optimize"),
        (_nothing, {"init": {"data": "continue"}}, r"weights and nothing else: leave init.data=co"),
        (
            _nothing,
            {"model": {"family": "gpt", "kv_heads": None}},
            r"model_type='llama', and model.family=gpt computes with 'gpt2'",
        ),
        (_edit({"rms_norm_eps": 1e-5}), {}, "rms_norm_eps=1e-05.*model.family=hf can train it"),
        (_edit({"num_hidden_layers": 2}), {"model": {"blocks": 2}}, "has no place for: that is an"),
        (_overflow, {}, r"model\.layers\.1\.self_attn\.v_proj\.weight is not finite: get it again"),
        (_truncate, {}, "model-00002-of-00003.safetensors is damaged"),
        (lambda m: (m / "model-00003-of-00003.safetensors").unlink(), {}, "00003.safetensors is m"),
        (lambda m: (m / "config.json").write_text("{"), {}, "config.json is damaged"),
        (lambda m: (m / "config.json").unlink(), {}, "config.json is missing"),
        (lambda m: (m / INDEX).write_text("{}"), {}, "no weight_map"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, damage: Callable[[Path], None], change: dict[str, Any], told: str
) -> None:
    checkfree.export(home / "runs/llama", to=tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(BadInput, match=told) as refused:
        train(home, tmp_path / "run", {"init": {"run": str(tmp_path / "model")}}, change)
    assert str(refused.value).count(f"init={tmp_path / 'model'}") == 1
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_shorter_context_where_no_positions_were_learned(home: Path, tmp_path: Path) -> None:
    shorter = {"model": {"context": 8}, "iterations": 1, "init": {"run": str(tmp_path / "llama")}}
    checkfree.export(home / "runs/llama", to=tmp_path / "llama")
    assert train(home, tmp_path / "run", shorter).status == "done"
    checkfree.export(home / "runs/gpt", to=tmp_path / "gpt")
    change = {"model": {**FAMILIES["gpt"], "context": 8}, "init": {"run": str(tmp_path / "gpt")}}
    with pytest.raises(BadInput, match=r"model.context=8, the folder has n_positions 16"):
        train(home, tmp_path / "other", change)


# --- torch.distributed.checkpoint ----------------------------------------------------------------

known = pytest.mark.skipif(
    not hasattr(dcp, "HuggingFaceStorageReader"), reason=f"torch {torch.__version__} has none"
)
alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@alone
@known
def test_dcp_reads_what_we_write(home: Path, tmp_path: Path) -> None:
    checkfree.export(home / "runs/gpt tied", to=tmp_path / "model")
    expected = loaded(tmp_path / "model").state_dict()
    state = {name: torch.zeros_like(expected[name]) for name in Folder(tmp_path / "model").names}
    reader = dcp.HuggingFaceStorageReader(str(tmp_path / "model"))
    dcp.load(state, storage_reader=reader, no_dist=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


@alone
@known
@pytest.mark.parametrize("how", ["whole", "shards", "consolidated"])
def test_we_read_what_dcp_writes(home: Path, tmp_path: Path, how: str) -> None:
    checkfree.export(home / "runs/llama", to=tmp_path / "model")
    before = Folder(tmp_path / "model")
    state = {name: before.read(name) for name in before.names}
    numbers = {name: 1 + place % 2 for place, name in enumerate(sorted(state))}
    about: dict[str, dict[str, Any]] = {
        "whole": {},
        "shards": {"fqn_to_index_mapping": numbers},
        "consolidated": {"save_distributed": True, "enable_consolidation": True},
    }
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path / "theirs"), **about[how])
    dcp.save(state, storage_writer=writer, no_dist=True)
    (tmp_path / "theirs/config.json").write_bytes((tmp_path / "model/config.json").read_bytes())
    found = Folder(tmp_path / "theirs")
    assert found.names == before.names
    assert all(torch.equal(found.read(name), tensor) for name, tensor in state.items())
    calm = {"failures": {"scenario": "none"}, "iterations": 2}
    one, other = (
        train(home, tmp_path / f"from-{name}", calm, {"init": {"run": str(tmp_path / name)}})
        for name in ("model", "theirs")
    )
    assert losses(one) == losses(other)


# --- out, when it can't be -----------------------------------------------------------------------


def test_nothing_is_written_over(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    for to in (tmp_path, tmp_path / "mine", home / "runs/llama"):
        with pytest.raises(BadInput, match=r"is not empty|is a file"):
            checkfree.export(home / "runs/llama", to=to)
    assert os.listdir(tmp_path) == ["mine"]


def test_a_full_disk_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = folders.os.fsync

    def full(handle: int) -> None:
        if len(os.listdir(tmp_path / ".out.draft")) == 2:
            raise OSError(28, "No space left on device")
        written(handle)

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left on device; nothing is left there"):
        checkfree.export(home / "runs/llama", to=tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_own_modules_and_no_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    about = {"iterations": 1, "microbatches": 2, "out": str(tmp_path / "run"), "failures": "none"}
    checkfree.train(about, stages=[Edge(), Body(), Body()], batches=batches(0, "train"))
    with pytest.raises(BadInput, match="trained modules of your own"):
        checkfree.export(tmp_path / "run", to=tmp_path / "out")
    with pytest.raises(BadInput, match="is no run folder"):
        checkfree.export(tmp_path, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


PEAK = """
import re, sys
from pathlib import Path
from checkfree.session.export import export

def most():
    return int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

export(sys.argv[1], to=sys.argv[2] + "-small")
before = most()
export(sys.argv[3], to=sys.argv[2], dtype=sys.argv[4] or None)
print(most() - before)
"""
"""What an export takes, beside all that another one has imported."""


@pytest.mark.parametrize("family, dtype", [("llama", ""), ("gpt", "bf16")])
def test_a_stage_is_in_memory_once(home: Path, tmp_path: Path, family: str, dtype: str) -> None:
    """Without the moments that a snapshot has, a stage's bytes, or a copy in another layout."""
    sizes = {"family": family, "kv_heads": None, "width": 128, "hidden": 24576, "blocks": 2}
    few = {"iterations": 1, "microbatches": 1, "failures": "none", "resume": {"every": 1}}
    train(home, tmp_path / "run", {"model": sizes, "validation": {"every": 0}}, few)
    stage = sum(p.nbytes for p in _weights(tmp_path / "run", 1).values())
    assert stage > 24 << 20
    command = [sys.executable, "-c", PEAK, home / "runs" / family, tmp_path / "out"]
    done = subprocess.run(
        [*command, tmp_path / "run", dtype], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 1.9 * stage  # a tensor is written at a time, which is half of one
