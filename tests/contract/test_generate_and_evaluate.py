"""What a trained model says, and how well it tells a text: the same for a run, for its export, and
as transformers computes it."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import checkfree
from checkfree.cli import main
from checkfree.config.load import merge
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.data.text_codec import TextCodec, bytes_codec, codec_of
from checkfree.session.evaluate import Evaluation, evaluate
from checkfree.session.generate import continued, next_token
from checkfree.session.language_model import LanguageModel, open_model
from tests.contract.small import text

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

CONFIG: dict[str, Any] = {
    "iterations": 30,
    "stages": 2,
    "microbatches": 3,
    "batch": 2,
    "model": {"width": 16, "heads": 2, "hidden": 40, "blocks": 4, "context": 16},
    "failures": "none",
    "validation": {"every": 10, "microbatches": 60},
    "resume": {"every": 10},
    "optimizer": {"lr": 1e-2},
}
GPT = {"model": {"family": "gpt", "tied": True}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, three runs (``llama``, ``gpt``, and ``words`` with a tokenizer of its
    own), and what each exports."""
    folder = tmp_path_factory.mktemp("home")
    data = text(folder / "a.txt")["data"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator([(folder / "a.txt").read_text()], trainer)
    trained.save(str(folder / "tokenizer.json"))
    words = {"tokenizer": str(folder / "tokenizer.json"), "cache": str(folder / "cache")}
    changes: dict[str, dict[str, Any]] = {"llama": {}, "gpt": GPT, "words": {"data": words}}
    for name, change in changes.items():
        tree = {**CONFIG, "data": data, "out": str(folder / name)}
        checkfree.train(merge(tree, change))
        checkfree.export(folder / name, to=folder / f"{name}-out")
    return folder


def said(model: LanguageModel, prompt: bytes = b"The number 1", **how: Any) -> str:
    return "".join(continued(model, prompt, **{"tokens": 30, **how}))


# --- the same model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt", "words"])
def test_a_run_its_export_and_transformers_say_the_same(home: Path, name: str) -> None:
    run, out = open_model(home / name), open_model(home / f"{name}-out")
    for how in ({"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.9, "seed": 3}):
        assert said(run, **how) == said(out, **how) != ""
    tokenizer = AutoTokenizer.from_pretrained(home / f"{name}-out")
    theirs = AutoModelForCausalLM.from_pretrained(home / f"{name}-out").eval()
    ids = tokenizer("The n", return_tensors="pt")["input_ids"]
    room = 16 - ids.shape[1]
    whole = theirs.generate(ids, max_new_tokens=room, do_sample=False)[0]
    expected = tokenizer.decode(whole, skip_special_tokens=True).removeprefix("The n")
    assert said(run, b"The n", temperature=0.0, tokens=room) == expected


@pytest.mark.parametrize("name", ["llama", "gpt", "words"])
def test_a_run_its_export_and_transformers_measure_the_same(home: Path, name: str) -> None:
    run, out = open_model(home / name), open_model(home / f"{name}-out")
    one, other = (evaluate(model, home / "a.txt") for model in (run, out))
    assert one.loss == pytest.approx(other.loss, abs=1e-6)
    assert (one.tokens, one.bytes) == (other.tokens, other.bytes)
    theirs = AutoModelForCausalLM.from_pretrained(home / f"{name}-out").eval()
    tokens = np.concatenate(run.codec.encode([(home / "a.txt").read_bytes()]).tokens)
    nats = 0.0
    for start in range(0, len(tokens) - 1, 16):
        window = torch.from_numpy(tokens[start : start + 17].astype(np.int64))[None]
        with torch.no_grad():
            logits = theirs(window[:, :-1]).logits[0]
        nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    assert one.tokens == len(tokens) - 1
    assert one.loss == pytest.approx(nats / one.tokens, abs=1e-5)
    assert one.perplexity == pytest.approx(math.exp(one.loss))
    bits = nats / math.log(2) / len((home / "a.txt").read_bytes())
    assert one.bits_per_byte == pytest.approx(bits, rel=1e-3)  # the first token is not predicted


def test_by_default_all_of_the_validation_text(home: Path) -> None:
    """Of whose windows the run itself has measured so many that each came as often as any other."""
    found = evaluate(open_model(home / "llama"))
    records = checkfree.read(home / "llama")
    assert found.tokens == records[0]["data"]["validation_tokens"] - 1
    last = of_kind(records, "validation")[-1]["loss"]
    assert found.loss == pytest.approx(last, abs=0.1)
    at_ten = evaluate(open_model(home / "llama", 10))
    assert at_ten.loss > found.loss
    assert evaluate(open_model(home / "llama"), most=40).tokens == 40
    assert evaluate(open_model(home / "llama"), context=4).loss > found.loss


def test_an_average_of_states(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "llama", tmp_path / "run")
    checkfree.merge(tmp_path / "run", last=2, to="mean")
    checkfree.export(tmp_path / "run", to=tmp_path / "out", at="mean")
    run, out = open_model(tmp_path / "run", "mean"), open_model(tmp_path / "out")
    losses = [evaluate(model, home / "a.txt").loss for model in (run, out)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] != pytest.approx(evaluate(open_model(home / "llama"), home / "a.txt").loss)
    with pytest.raises(BadInput, match=r"no average of that name stands there: there are .*@mean"):
        open_model(tmp_path / "run", "median")


def test_a_model_of_another_family_is_computed_by_transformers(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((home / "tokenizer.json").read_bytes())
    found = open_model(tmp_path)
    assert found.context == 32
    ids = torch.tensor([found.codec.prompt(b"The number 3 and more of this")])
    with torch.no_grad():
        assert torch.equal(found.logits(ids), model(ids).logits)
    assert said(found) and evaluate(found, home / "a.txt").loss == pytest.approx(5.7, abs=0.3)


def test_of_ours_what_is_not_computed_exactly_is_transformers(home: Path, tmp_path: Path) -> None:
    for file in (home / "llama-out").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tree = json.loads((tmp_path / "config.json").read_text())
    tree |= {"rope_theta": 100.0, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([list(b"The number 3")])
    with torch.no_grad():
        assert torch.equal(open_model(tmp_path).logits(ids), theirs(ids).logits)
        ours = open_model(home / "llama-out").logits(ids)
    assert not torch.allclose(ours, theirs(ids).logits, atol=1e-3)


# --- text ----------------------------------------------------------------------------------------


def test_letters_are_shown_once_they_are_whole() -> None:
    codec = bytes_codec()
    assert list(codec.spoken(list("a🎉".encode())[:3], "🎉b".encode()[2:])) == ["🎉", "b"]
    assert list(codec.spoken([97], [0xC3, 0xA4, 98])) == ["ä", "b"]
    assert list(codec.spoken([97], [0xC3])) == ["\ufffd"]  # half a letter at the end
    assert "".join(codec.spoken([97], [0xFF, 98])) == "\ufffdb"
    assert codec.prompt(b"") == [0] and codec.prompt("ä\0".encode()) == [0xC3, 0xA4, 0]


def test_words_are_shown_with_the_spaces_between_them(home: Path) -> None:
    codec = codec_of(home / "tokenizer.json")
    ids = codec.prompt("The number 12 🎉 ä".encode())
    for cut in range(1, len(ids)):
        begun = codec.text(ids[:cut]).rstrip("\ufffd")
        assert begun + "".join(codec.spoken(ids[:cut], ids[cut:])) == "The number 12 🎉 ä"
    assert codec.prompt(b"") == [codec.end]
    assert codec.end not in codec.prompt(b"<|endoftext|>")  # text is text
    assert codec.bytes_of(np.array([*ids, codec.end, *ids])) == 2 * len(
        "The number 12 🎉 ä".encode()
    )


def _fixed(favourite: int) -> LanguageModel:
    """It is always sure of the same token."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape[1] <= 8
        found = torch.zeros(*tokens.shape, 256)
        found[..., favourite] = 100.0
        return found

    return LanguageModel("fixed", logits, bytes_codec(), 8, 256, frozenset({0, 99}))


def test_it_ends_where_the_text_does_and_looks_back_no_further_than_it_may() -> None:
    assert said(_fixed(0)) == said(_fixed(99)) == ""
    assert said(_fixed(97), b"x" * 50, tokens=5) == "aaaaa"


def test_a_model_with_more_tokens_than_its_tokenizer_says_none_of_them() -> None:
    def logits(tokens: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(*tokens.shape, 300)
        found[..., 299], found[..., 98] = 100.0, 1.0
        return found

    padded = LanguageModel("padded", logits, bytes_codec(), 8, 300)
    assert said(padded, temperature=0.0, tokens=2) == "bb"


def test_the_next_token() -> None:
    shares = torch.tensor([0.1, 0.5, 0.25, 0.15])

    def drawn(temperature: float, top_p: float) -> list[float]:
        generator = torch.Generator().manual_seed(1)
        counts = [0] * 4
        for _ in range(2000):
            counts[next_token(shares.log(), temperature, top_p, generator)] += 1
        return [count / 2000 for count in counts]

    assert drawn(0.0, 1.0) == [0, 1, 0, 0]
    assert drawn(1.0, 1.0) == pytest.approx(shares.tolist(), abs=0.04)
    assert drawn(1.0, 0.7) == pytest.approx([0, 2 / 3, 1 / 3, 0], abs=0.04)
    assert drawn(1.0, 0.1) == [0, 1, 0, 0]  # the likeliest is never out
    squared = (shares**2 / (shares**2).sum()).tolist()
    assert drawn(0.5, 1.0) == pytest.approx(squared, abs=0.04)


def test_seeds(home: Path) -> None:
    model = open_model(home / "llama")
    assert said(model, seed=1) == said(model, seed=1) != said(model, seed=2)


def test_tokens_that_are_no_text() -> None:
    assert Evaluation("m", "t", 1.0, 5, 0, 4).bits_per_byte is None
    assert Evaluation("m", "t", 1e4, 5, 9, 4).perplexity == math.inf


# --- what can't be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"tokens": 0}, "--tokens 0: expected at least 1"),
        ({"temperature": -1.0}, "--temperature -1.0: expected 0 or more"),
        ({"temperature": math.nan}, "--temperature nan: expected 0 or more"),
        ({"temperature": math.inf}, "--temperature inf: expected 0 or more"),
        ({"top_p": 0.0}, "--top-p 0.0: expected a probability above 0, up to 1"),
        ({"top_p": math.nan}, "--top-p nan: expected a probability"),
    ],
)
def test_no_such_draw(how: dict[str, float], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        said(_fixed(97), **how)


def _copied(home: Path, to: Path) -> Path:
    to.mkdir()
    for file in (home / "llama-out").iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def _write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(content))


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def void(_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_unlink("tokenizer.json"), "has no tokenizer.json, which text takes: save"),
        (_write("tokenizer.json", "{}"), "tokenizer.json"),
        (_write("tokenizer_config.json", "[]"), "tokenizer_config.json"),
        (_write("tokenizer_config.json", '{"eos_token": 3}'), "eos_token is 3, expected text"),
        (_write("tokenizer_config.json", '{"eos_token": "x!"}'), "has no such token"),
        (_write("tokenizer_config.json", "{"), "tokenizer_config.json"),
        (_unlink("model-00002-of-00003.safetensors"), "00002-of-00003.safetensors is missing"),
        (_write("config.json", "{"), "config.json is damaged"),
        (_write("config.json", '{"model_type": "strange"}'), "transformers can't load it: .*str"),
        (_write("config.json", "{}"), "transformers can't load it"),
    ],
)
def test_damaged_folders(
    home: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = _copied(home, tmp_path / "model")
    damage(folder)
    with pytest.raises(BadInput, match=told) as refused:
        open_model(folder)
    assert "\n" not in str(refused.value)


def test_what_transformers_would_draw_is_refused(tmp_path: Path, home: Path) -> None:
    folder = _copied(home, tmp_path / "model")
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | {"num_hidden_layers": 6}))
    with pytest.raises(BadInput, match=r"has no model\.layers\.4"):
        open_model(folder)
    (folder / "config.json").write_text(
        json.dumps(tree | {"num_hidden_layers": 6, "rms_norm_eps": 1e-5})
    )
    with pytest.raises(BadInput, match="which transformers would draw"):
        open_model(folder)


def test_without_transformers_one_line_says_how_to_get_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copied(home, tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert open_model(home / "llama-out").name  # ours needs none
    with pytest.raises(BadInput, match=r"type mistral .* pip install 'checkfree\[hf\]'"):
        open_model(folder)


def test_other_things_that_are_no_model(home: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", home / "a.txt"):
        with pytest.raises(BadInput, match="is no run folder"):
            open_model(path)
    with pytest.raises(BadInput, match=r"--at 4: .* has no iterations"):
        open_model(home / "llama-out", 4)
    with pytest.raises(BadInput, match="is no run, and knows no text: give --text"):
        evaluate(open_model(home / "llama-out"))
    with pytest.raises(BadInput, match="--context 17: expected 1 … 16"):
        evaluate(open_model(home / "llama"), context=17)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(BadInput, match="no document to evaluate"):
        evaluate(open_model(home / "llama"), tmp_path / "empty.txt")
    with pytest.raises(BadInput, match=r"--text .*nowhere: nothing there"):
        evaluate(open_model(home / "llama"), tmp_path / "nowhere")


def test_data_that_are_others_by_now(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text((home / "a.txt").read_text())
    tree = {**CONFIG, "iterations": 1, "data": {"name": "text", "path": str(tmp_path / "a.txt")}}
    checkfree.train({**tree, "out": str(tmp_path / "run")})
    (tmp_path / "a.txt").write_text((home / "a.txt").read_text().replace("3", "4"))
    with pytest.raises(BadInput, match="its data are not those any more"):
        evaluate(open_model(tmp_path / "run"))
    assert evaluate(open_model(tmp_path / "run"), home / "a.txt").tokens


def test_a_run_whose_data_have_moved(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text((home / "a.txt").read_text())
    tree = {**CONFIG, "iterations": 1, "data": {"name": "text", "path": str(tmp_path / "a.txt")}}
    checkfree.train({**tree, "out": str(tmp_path / "run")})
    expected = evaluate(open_model(tmp_path / "run"))
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    with pytest.raises(BadInput, match=r"a.txt: nothing there.*data.path= says where"):
        evaluate(open_model(tmp_path / "run"))
    moved = open_model(tmp_path / "run", words=[f"data.path={tmp_path / 'b.txt'}"])
    assert evaluate(moved) == expected
    with pytest.raises(BadInput, match=r"seed=1: a run that goes on takes data.path"):
        open_model(tmp_path / "run", words=["seed=1"])
    with pytest.raises(BadInput, match=r"data.path=x: .*out is the folder of a model"):
        open_model(home / "llama-out", words=["data.path=x"])


@pytest.fixture(scope="module")
def ready(home: Path) -> Path:
    """A run that was trained on tokens whose tokenizer nobody knows; they are bytes."""
    tokens = np.frombuffer((home / "a.txt").read_bytes(), np.uint8)
    tokens.astype(np.uint16).tofile(home / "a.bin")
    told = {"dtype": "uint16", "vocabulary": 256, "tokens": len(tokens)}
    (home / "a.bin.json").write_text(json.dumps(told))
    data = {"name": "bin", "path": str(home / "a.bin")}
    checkfree.train({**CONFIG, "data": data, "out": str(home / "ready"), "iterations": 10})
    checkfree.export(home / "ready", to=home / "ready-out")
    return home / "ready"


def test_a_run_on_ready_tokens_is_measured_on_its_own(ready: Path, home: Path) -> None:
    found = evaluate(open_model(ready))
    assert found.tokens == checkfree.read(ready)[0]["data"]["validation_tokens"] - 1
    last = of_kind(checkfree.read(ready), "validation")[-1]["loss"]
    assert found.loss == pytest.approx(last, abs=0.1)
    assert (found.bytes, found.bits_per_byte) == (0, None)
    for asked in (lambda m: said(m), lambda m: evaluate(m, home / "a.txt")):
        with pytest.raises(
            BadInput, match=r"ready was trained on ready tokens.*--tokenizer FOLDER"
        ):
            asked(open_model(ready))


def test_a_tokenizer_that_is_given(ready: Path, home: Path) -> None:
    for model in (ready, home / "ready-out"):
        found = open_model(model, tokenizer="bytes")
        assert said(found) and evaluate(found, home / "a.txt").bits_per_byte
        with pytest.raises(BadInput, match="knows 256 tokens, and the prompt has token 2"):
            said(open_model(model, tokenizer=str(home / "tokenizer.json")))
        with pytest.raises(BadInput, match=r"--tokenizer .*nowhere"):
            open_model(model, tokenizer=str(home / "nowhere"))
    with pytest.raises(BadInput, match=r"ready-out has no tokenizer.json.*--tokenizer"):
        open_model(home / "ready-out")
    assert said(open_model(home / "words", tokenizer=str(home / "tokenizer.json")))
    with pytest.raises(BadInput, match=r"--tokenizer bytes is another tokenizer than .*words"):
        open_model(home / "words", tokenizer="bytes")


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("gpu", "--device gpu: expected cpu or cuda:N"),
        ("meta", "--device meta: expected cpu or cuda:N"),
        ("cuda:99", r"--device cuda:99: torch sees \d+ CUDA devices"),
        ("", "--device : expected cpu or cuda:N"),
    ],
)
def test_no_such_device(home: Path, device: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        open_model(home / "llama", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["llama", "words-out"])
def test_on_a_gpu_as_on_a_cpu(home: Path, name: str) -> None:
    models = [open_model(home / name, device=device) for device in ("cpu", "cuda:0")]
    losses = [evaluate(model, home / "a.txt").loss for model in models]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert said(models[0], temperature=0.0) == said(models[1], temperature=0.0)


# --- the commands --------------------------------------------------------------------------------


def test_the_commands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(home / "llama"), "The number", "--tokens", "9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The number") and out.endswith("\n") and len(out) > 12
    assert main(["evaluate", str(home / "llama-out"), "--text", str(home / "a.txt"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = evaluate(open_model(home / "llama"), home / "a.txt")
    assert told["loss"] == pytest.approx(expected.loss, abs=1e-6)
    assert {"perplexity", "bits_per_byte", "tokens", "bytes", "context"} < told.keys()
    assert main(["evaluate", str(home / "llama"), "--at", "10"]) == 0
    assert "iteration 10, on validation text:\nloss " in capsys.readouterr().out
    assert main(["evaluate", str(home / "llama"), "--threads", "0"]) == 2
    assert "--threads=0: expected a whole number" in capsys.readouterr().err


def test_a_folder_names_all_tokens_that_end_a_text(home: Path, tmp_path: Path) -> None:
    assert open_model(home / "llama").ends == open_model(home / "llama-out").ends == {0}
    folder = _copied(home, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [10, 101]}')
    assert open_model(folder).ends == {0, 10, 101}


def test_codecs_are_of_the_run(home: Path, tmp_path: Path) -> None:
    codec: TextCodec = open_model(home / "words").codec
    assert codec.identity == checkfree.read(home / "words")[0]["data"]["tokenizer"]
    assert codec.end == checkfree.read(home / "words")[0]["data"]["separator"]
