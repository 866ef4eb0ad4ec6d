"""Configurations: files, words on top, short forms, and one line for whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import checkfree
from checkfree.config.check import DATA_KEYS, check_data_keys
from checkfree.config.load import (
    COMPARE_TEXTS,
    build,
    load,
    load_saved,
    merge,
    open_source,
    parse_words,
    split,
    to_tree,
    to_yaml,
)
from checkfree.config.places import moved
from checkfree.config.stash import as_stash, stash_of
from checkfree.core.config import (
    Config,
    DataConfig,
    EveryConfig,
    FailuresConfig,
    OptimizerConfig,
    RecoveryConfig,
)
from checkfree.core.errors import BadInput
from checkfree.data.opening import NAMES
from checkfree.failures import sample
from checkfree.session.due import DueFailures
from checkfree.session.rehearsal import setting
from checkfree.study.compare import ComparisonRequest
from checkfree.study.options import Options, make_options
from checkfree.study.simulation import simulate

SHIPPED = ["demo", "paper/1.5b", "paper/124m", "paper/500m", "paper/gpt-500m"]
TINY = {
    "stages": 2,
    "model": {"width": 8, "heads": 2, "hidden": 8, "blocks": 2, "context": 8},
    "data": {"name": "text", "path": "text.txt"},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- words over files ----------------------------------------------------------------------------


def test_words_go_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "iterations: 7\nbatch: 3\noptimizer: {lr: 0.5, clip: null}\n")
    config = load(file, ["batch=5", "optimizer.betas=[0.5, 0.6]", "batch=6"])
    assert (config.iterations, config.batch, config.seed) == (7, 6, Config().seed)
    assert config.optimizer == OptimizerConfig(lr=0.5, clip=None, betas=(0.5, 0.6))


def test_without_a_file_all_is_default() -> None:
    assert load(None) == dataclasses.replace(Config(), out="runs/run")


def test_out_takes_the_name_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 1\n")
    assert load(file).out == "runs/run"
    assert load("paper/500m").out == "runs/500m"
    assert load(file, ["out=a/{name}-b"]).out == "a/run-b"


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_learning_rates_as_people_write_them(tmp_path: Path, text: str) -> None:
    assert load(None, [f"optimizer.lr={text}"]).optimizer.lr == 0.001
    assert load(write(tmp_path, f"optimizer: {{lr: {text}}}\n")).optimizer.lr == 0.001


def test_whole_numbers_do_where_a_number_is_wanted() -> None:
    lr = load(None, ["optimizer.lr=1"]).optimizer.lr
    assert lr == 1.0 and type(lr) is float


def test_one_device_needs_no_list() -> None:
    assert load(None, ["devices=cuda:0"]).devices == ("cuda:0",)


def test_sections_may_be_given_as_a_mapping() -> None:
    assert load(None, ["checkpoint={every: 5}"]).checkpoint == EveryConfig(5)


def test_words_are_nested_and_later_ones_win() -> None:
    assert parse_words(["a.b=1", "c=x", "a.d=[1, 2]", "a.b=null"]) == {
        "a": {"b": None, "d": [1, 2]},
        "c": "x",
    }
    assert parse_words(["a=x=y"]) == {"a": "x=y"}


trees: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_merging_puts_the_second_over_the_first(one: Any, two: Any) -> None:
    assert merge({}, one) == one == merge(one, {}) == merge(one, one)
    above = merge(one, two)
    assert above.keys() == one.keys() | two.keys()
    assert all(above[key] == two[key] for key in two if not isinstance(two[key], dict))
    assert all(above[key] == one[key] for key in one.keys() - two.keys())
    assert merge(above, two) == above


# --- short forms ---------------------------------------------------------------------------------


def test_recovery_by_name() -> None:
    assert load("demo", ["recovery=copy"]).recovery.name == "copy"


@pytest.mark.parametrize(
    "words",
    [
        ["recovery=checkpoint", "recovery.interval=25"],
        ["recovery.interval=25", "recovery=checkpoint"],
        ["recovery=checkpoint(interval=25)"],
        ["recovery=checkpoint(recovery.interval=25)"],
        ["recovery= checkpoint( interval=25 )"],
        ["recovery.name=checkpoint(interval=25)"],
    ],
    ids=" ".join,
)
def test_a_strategy_with_an_option(words: list[str]) -> None:
    assert load(None, words).recovery == RecoveryConfig(name="checkpoint", interval=25)


def test_a_strategy_with_several_options() -> None:
    made = load(None, ["recovery=checkfree(exponent=1, optimizer=average, lr_scale=1.5)"])
    expected = RecoveryConfig("checkfree", exponent=1.0, optimizer="average", lr_scale=1.5)
    assert made.recovery == expected


def test_a_variant_in_a_file(tmp_path: Path) -> None:
    for text in ("recovery: checkpoint(interval=25)", "recovery: {name: checkpoint(interval=25)}"):
        assert load(write(tmp_path, text)).recovery.interval == 25


def test_a_variant_can_change_more_than_recovery() -> None:
    config = load(None, ["recovery=checkpoint(interval=9, failures.probability=0.5)"])
    assert (config.recovery.interval, config.failures.probability) == (9, 0.5)


def test_commas_inside_of_brackets_part_nothing() -> None:
    text = "a, b(c=1,d=[2,3]),e(f=(1,2)),g),h,"
    assert split(text) == ["a", "b(c=1,d=[2,3])", "e(f=(1,2))", "g)", "h"]


def test_a_variant_may_have_a_list() -> None:
    config = load(None, ["recovery=checkfree(failures.stages=[2,3],exponent=1)"])
    assert list(config.failures.stages) == [2, 3]
    assert config.recovery.exponent == 1


@pytest.mark.parametrize("word", ["checkfree_plus", "checkpoint(interval=25)"])
def test_short_forms_in_python(word: str) -> None:
    """The public call takes what the command line takes."""
    config = build({"recovery": word, "failures": "none"})
    assert config.recovery == load(None, [f"recovery={word}"]).recovery
    assert config.failures.scenario == "none"


@pytest.mark.parametrize("text", ["failures: none", "failures: null", "failures: {scenario: none}"])
def test_no_failures_in_a_file(tmp_path: Path, text: str) -> None:
    config = load(write(tmp_path, text))
    assert config.failures == FailuresConfig(scenario="none")


def test_no_failures_over_a_rate() -> None:
    config = load("demo", ["failures=none"])
    assert load("demo").failures.probability
    assert sample(config.failures, seed=0, stages=6, replicas=1, ticks=1000) == ()


def test_a_trace_over_a_rate(tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    trace.write_text(json.dumps({"failures": [{"iteration": 3, "stage": 2}]}))
    config = load("demo", [f"failures={trace}"])
    (failure,) = sample(config.failures, seed=0, stages=6, replicas=1, ticks=1000)
    assert (failure.tick, failure.stage) == (3, 2)


@pytest.mark.parametrize(
    "file",
    [
        "{rate_per_hour: 0.1, stages: middle}",
        "{probability: 0.1, stages: middle}",
        "{scenario: none, stages: middle}",
        "{scenario: paper/500m/10, stages: middle}",
        "{scenario: there/is/no/such.json, stages: middle}",
    ],
)
def test_a_rate_replaces_that_of_the_file(tmp_path: Path, file: str) -> None:
    path = write(tmp_path, f"failures: {file}\n")
    failures = load(path, ["failures.probability=0.5"]).failures
    assert failures == FailuresConfig(probability=0.5, stages="middle")


def test_a_rate_keeps_how_failures_come(tmp_path: Path) -> None:
    path = write(tmp_path, "failures: {scenario: bursts, probability: 0.1, burst: 3}\n")
    failures = load(path, ["failures.rate_per_hour=0.5"]).failures
    assert failures == FailuresConfig(scenario="bursts", rate_per_hour=0.5, burst=3)


def test_a_preset_replaces_the_rate_of_the_file() -> None:
    failures = load("demo", ["failures=paper/500m/10"]).failures
    assert (failures.scenario, failures.probability) == ("paper/500m/10", None)


# --- what is stashed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "ways"),
    [
        ("", "kkkk"),
        ("stash=offload", "oooo"),
        ("stash.offload=[1,2]", "kook"),
        ("stash.offload=[1] stash.recompute=[0,2]", "rork"),
        ("stash={recompute: [3]}", "kkkr"),
        ("recompute=[1,3]", "krkr"),
        ("recompute=true", "rrrr"),
        ("recompute=true stash=recompute", "rrrr"),
    ],
)
def test_what_stages_do_with_their_stash(words: str, ways: str) -> None:
    given = re.findall(r"\S+=.*?(?= \S+=|$)", words)
    found = stash_of(load(None, ["stages=3", "model.blocks=3", *given]))
    assert "".join(way[0] for way in found) == ways
    assert stash_of(load(None, ["stages=3", f"stash={json.dumps(as_stash(found))}"])) == found


# --- there and back ------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
numbers = st.floats(0, allow_nan=False, allow_infinity=False)
above_0 = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
decays = st.floats(0, 0.999)
counts = st.integers(1, 1000)

configs = st.builds(
    Config,
    seed=st.integers(-(2**63), 2**63),
    iterations=counts,
    out=texts,
    stages=st.integers(4, 12),
    microbatches=st.integers(2, 12),
    replicas=st.integers(1, 2),
    devices=st.sampled_from([("cpu",), ("cuda:0", "cuda:1"), ("cpu", "cuda")]),
    recompute=st.sampled_from([True, False, [1, 3]]),
    stash_room=st.none() | counts,
    optimizer=st.builds(
        OptimizerConfig,
        lr=numbers,
        betas=st.tuples(decays, decays),
        clip=st.none() | above_0,
        decay=st.none() | counts,
    ),
    recovery=st.builds(
        RecoveryConfig,
        name=st.sampled_from(["none", "checkfree", "checkpoint"]),
        lr_scale=st.none() | above_0,
        interval=counts,
    ),
    failures=st.builds(
        FailuresConfig,
        scenario=st.sampled_from(["none", "random", "traces/a.json"]),
        probability=st.none() | st.floats(0, 1),
        stages=st.sampled_from(["middle", "all", [2, 3]]),
        seed=st.none() | st.integers(0, 9),
    ),
    checkpoint=st.builds(EveryConfig, st.none() | counts),
)


@given(configs)
def test_a_written_configuration_is_read_back(config: Config) -> None:
    assert build(yaml.safe_load(to_yaml(config))) == config
    assert build(to_tree(config)) == config


@given(configs)
def test_trees_are_plain_data(config: Config) -> None:
    assert json.loads(json.dumps(to_tree(config))) == to_tree(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_loads_by_name(name: str) -> None:
    config = load(name)
    assert build(to_tree(config)) == config
    assert load(f"{name}.yaml") == config


def test_a_file_goes_before_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 123\n")
    assert load("demo").seed == 123


# --- bad input -----------------------------------------------------------------------------------


def refusal(path: str | Path | None, *words: str) -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(BadInput) as caught:
        load(path, words)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("iteration=3", ["unknown key iteration", "did you mean iterations?"]),
        ("model.widht=3", ["unknown key model.widht", "did you mean model.width?"]),
        ("recovery=checkpoint(intervall=3)", ["recovery.intervall", "recovery.interval?"]),
        ("zzz=1", ["unknown key zzz", "keys: seed, iterations"]),
        ("optimizer.zzz.lr=1", ["unknown key optimizer.zzz", "keys: name, lr"]),
        ("iterations", ["'iterations'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("9lives=3", ["'9lives=3'", "key=value"]),
        ("recovery=checkpoint(25)", ["25", "key=value"]),
        ("iterations=[1", ["iterations=[1", "not YAML", "quotes"]),
        ("model=3", ["model=3", "expected keys", "model.family="]),
    ],
)
def test_words_that_are_none(word: str, parts: list[str]) -> None:
    line = refusal("demo", word)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("iterations=many", "a whole number, as in iterations=100"),
        ("iterations=3.5", "a whole number"),
        ("iterations=true", "a whole number"),
        ("iterations=null", "a whole number"),
        ("iterations.x=3", "a whole number"),
        ("seed=${iterations}", "a whole number"),
        ("seed=???", "a whole number"),
        ("failures.seed=x", "a whole number or null"),
        ("optimizer.lr=fast", "a number, as in optimizer.lr=0.002"),
        ("optimizer.lr=false", "a number"),
        ("optimizer.betas=0.9", "a list of 2, as in optimizer.betas=[0.9, 0.999]"),
        ("optimizer.betas=[0.9]", "a list"),
        ("optimizer.betas=[a, b]", "a list"),
        ("model.tied=maybe", "true or false"),
        ("devices={a: 1}", "a list, as in devices=[cpu]"),
    ],
)
def test_a_wrong_type_is_told_the_right_one(word: str, expected: str) -> None:
    line = refusal(None, word)
    key = word.partition("=")[0]
    assert line.startswith(key.removesuffix(".x")) and f"expected {expected}" in line, line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("microbatches=0", ["microbatches=0", "at least 1"]),
        ("iterations=0", ["iterations=0", "at least 1"]),
        ("checkpoint.every=0", ["checkpoint.every=0", "at least 1"]),
        ("validation.every=-1", ["validation.every=-1", "at least 0"]),
        ("microbatches=2 replicas=3", ["microbatches=2", "replicas=3", "set microbatches=3"]),
        ("failures.probability=-0.1", ["failures.probability", "-0.1", "[0, 1]"]),
        ("failures.probability=.nan", ["failures.probability", "nan", "[0, 1]"]),
        ("failures.rate_per_hour=-1", ["failures.rate_per_hour", "-1", "[0, 1)"]),
        ("failures.rate_per_hour=1", ["failures.rate_per_hour", "[0, 1)"]),
        (
            "failures.probability=0.1 failures.rate_per_hour=0.2",
            ["failures.probability", "failures.rate_per_hour", "both", "keep one"],
        ),
        ("failures.stages=[99]", ["99", "0 … 6"]),
        ("failures.stages=sometimes", ["sometimes", "middle, body, all"]),
        ("stages=3 recovery=checkfree_plus", ["at least 4", "got 3", "recovery.name"]),
        ("recovery=checkfree_plus(share=3)", ["share", "3", "[0, 1]"]),
        ("devices=gpu", ["gpu", "expected cpu, cuda"]),
        ("devices=[cpu,gpu]", ["gpu", "expected cpu, cuda"]),
        ("devices=[]", ["devices=[]", "devices=[cpu]"]),
        ("schedule=zigzag", ["schedule=zigzag", "gpipe, 1f1b"]),
        ("precision=fp8", ["precision=fp8", "fp32, bf16"]),
        ("recompute=[9]", ["9", "0 … 6"]),
        ("recompute=some", ["recompute=some", "true, false"]),
        ("stash=disk", ["stash=disk", "keep, recompute, offload, auto", "{offload: [1, 2]}"]),
        ("stash=[1,2]", ["stash=[1, 2]", "{offload: [1, 2]}"]),
        ("stash.disk=[1]", ["stash.disk", "keep, recompute, offload, auto"]),
        ("stash.offload=3", ["stash.offload=3", "[1, 2]"]),
        ("stash.offload=[9]", ["stash.offload names stage 9", "0 … 6"]),
        ("stash.offload=[1] stash.keep=[1]", ["offload and keep of stage 1", "choose one"]),
        ("recompute=true stash=offload", ["recompute=true", "stash=offload", "leave recompute"]),
        ("stash_path=", ["stash_path is empty", "/mnt/nvme"]),
        ("stash_room=-1", ["stash_room=-1", "at least 0"]),
        ("fleet.offload=0", ["fleet.offload=0", "above 0"]),
        ("model.family=bert", ["model.family=bert", "llama, gpt"]),
        ("model.width=10 model.heads=4", ["model.width=10", "model.heads=4", "set model.width="]),
        ("model.dropout=1", ["model.dropout=1", "[0, 1)"]),
        ("data.validation_share=1", ["data.validation_share=1", "between 0 and 1"]),
    ],
)
def test_values_that_no_run_can_take(words: str, parts: list[str]) -> None:
    line = refusal(None, *words.split())
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"a: [1,\n  b: {", "not YAML"),
        (b"- 1\n- 2\n", "expected keys and values, got a list"),
        (b"", "expected keys and values"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"1: 3\n", "unknown key 1"),
        (b"out: |\n  a\n  b\niterations: |\n  x\n  y\n", "iterations=x y"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert part in refusal(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.yaml")
    assert "none.yaml: no such file" in line and all(name in line for name in SHIPPED)
    assert "is a folder" in refusal(tmp_path)


# --- what only a run can find wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"stages": 3}, ["stages is 3", "model.blocks 2", "choose among 1, 2"]),
        ({"devices": ["cuda:77"]}, ["cuda:77", "CUDA devices", "devices=[cpu]"]),
        ({"recovery": {"name": "magic"}}, ["recovery.name=magic", "checkfree, checkfree_plus"]),
        ({"recovery": {"interval": 0}}, ["recovery.interval=0", "at least 1"]),
        ({"optimizer": {"name": "lion"}}, ["optimizer.name", "lion", "adam"]),
        ({"optimizer": {"lr": -1.0}}, ["optimizer.lr", "-1"]),
        ({"failures": {"scenario": "no.json"}}, ["no.json", "no such file"]),
        ({"failures": {"scenario": "far.json"}}, ["far.json", "stage 99", "0 … 2"]),
        ({"failures": {"scenario": "poisson"}}, ["poisson", "failures.probability"]),
        ({"data": {"path": "none.txt"}}, ["none.txt"]),
        ({"data": {"name": "paper"}}, ["data.name", "paper", "stdlib"]),
        ({"model": {"vocabulary": 5}}, ["model.vocabulary=5", "set model.vocabulary="]),
    ],
    ids=str,
)
def test_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a line of text\n" * 100)
    (tmp_path / "far.json").write_text('{"failures": [{"iteration": 3, "stage": 99}]}')
    with pytest.raises(BadInput) as caught:
        checkfree.train(merge(merge(TINY, {"out": "run"}), wrong))
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line
    assert not list(tmp_path.glob("run/records.jsonl"))


# --- text is text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["0123", "20261128_1530", "1e3", "yes", "runs/a #b", "a: b", "[1]", "12:30:00", "${x}", "~x"],
)
def test_text_keys_keep_their_text(tmp_path: Path, text: str) -> None:
    """On the command line and in a file, and when the run's own configuration is read again."""
    config = load(None, [f"out={text}", "data.name=text", f"data.path={text}"])
    assert (config.out, config.data.path) == (text, text)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("text", ["0123", "20261128_1530", "1e3", "yes", "12:30:00"])
def test_and_in_a_file_without_quotes(tmp_path: Path, text: str) -> None:
    data = f"data: {{name: text, path: {text}}}"
    (tmp_path / "own.yaml").write_text(f"out: {text}\n{data}\niterations: 012\n")
    config = load(tmp_path / "own.yaml")
    assert (config.out, config.data.path, config.iterations) == (text, text, 10)
    section = f"compare: {{out: {text}, title: {text}, results: {text}, seeds: 012}}\n"
    (tmp_path / "own.yaml").write_text(section)
    options = make_options(open_source(tmp_path / "own.yaml").compare, {})
    assert (options.out, options.title, options.results, options.seeds) == (text, text, text, 10)


def test_every_text_of_a_comparison_is_known_to_be_one() -> None:
    hints = get_type_hints(Options).items()
    assert {name for name, hint in hints if hint in (str, str | None)} == {*COMPARE_TEXTS}


@pytest.mark.parametrize(
    ("line", "kind"), [("out: [a]", "text"), ("data: {path: {a: 1}}", "text or null")]
)
def test_what_a_file_has_as_no_text_is_none(tmp_path: Path, line: str, kind: str) -> None:
    (tmp_path / "own.yaml").write_text(f"{line}\n")
    assert f"expected {kind}" in refusal(tmp_path / "own.yaml")


def test_what_is_no_text_or_nothing_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(None, ["data.path=null"]).data.path is None
    assert load(None, ["out='runs/a b'"]).out == "runs/a b"
    assert load(None, ["out=~/x"]).out == "/home/somebody/x"
    assert load(None, ["iterations=1_000"]).iterations == 1000


def test_home_is_found_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell leaves ``~`` as it is behind an equals sign, and so does a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    options = make_options({}, {"out": "~/study", "results": "~/kept"})
    request = ComparisonRequest(open_source(None), (), options, "")
    assert (request.out, request.results) == (tmp_path / "study", tmp_path / "kept")
    (tmp_path / "trace.json").write_text('{"failures": [{"iteration": 3, "stage": 2}]}')
    assert DueFailures(load(None, ["failures=~/trace.json"])).stages == {2}
    with pytest.raises(BadInput, match=f"{tmp_path}/none.json: cannot be read"):
        setting(load(None, ["fleet.profile=~/none.json"]))


# --- keys that data don't read -------------------------------------------------------------------

UNREAD = {
    "data.path=texts": "only text, jsonl, parquet, bin",
    "data.text_field=body": "only jsonl, parquet, tinystories",
    "data.name=tinystories data.path=texts": "data.path=texts: data.name tinystories has no use",
    "data.name=hf:a/b/c data.path=texts": "data.path=texts: data.name hf:a/b/c has no use",
    "data.name=text data.path=a data.text_field=body": "or leave it out: data.text_field=text",
    "data.name=bin data.path=a data.documents=3": "or leave it out: data.documents=null",
    "data.name=bin data.path=a data.separator=x": "or leave it out: data.separator=null",
    "data.name=bin data.path=a data.tokenizer=t.json": "or leave it out: data.tokenizer=bytes",
}


@pytest.mark.parametrize("words", UNREAD)
def test_a_key_that_the_data_do_not_read(tmp_path: Path, words: str) -> None:
    """On the command line, in a file, in mappings, in a comparison, and where no training is."""
    told = [refusal(None, *words.split())]
    tree = parse_words(words.split())
    (tmp_path / "own.yaml").write_text(OmegaConf.to_yaml(tree))
    told.append(refusal(tmp_path / "own.yaml"))
    for call in (checkfree.train, partial(checkfree.compare, out=tmp_path / "run"), simulate):
        with pytest.raises(BadInput) as caught:
            call({**tree, "out": str(tmp_path / "run")})
        told.append(str(caught.value))
    assert len({*told}) == 1 and "\n" not in told[0] and UNREAD[words] in told[0], told
    assert not (tmp_path / "run").exists()


def test_every_key_of_data_is_one_that_some_read_or_all() -> None:
    names = {f.name for f in dataclasses.fields(DataConfig)}
    apart = {name for keys in DATA_KEYS.values() for name in keys}
    assert names - apart == {"name", "validation_share", "cache", "code", "kept"}
    assert {*DATA_KEYS} == {*NAMES}


@pytest.mark.parametrize("name", ["verses", "my_texts:verses"])
def test_a_corpus_from_outside_may_read_any(name: str) -> None:
    check_data_keys(DataConfig(name, path="x", text_field="body", separator="y", documents=3))


def test_a_saved_configuration_of_an_older_version_may_have_one(tmp_path: Path) -> None:
    """It says all that it was, with a default for what nobody gave."""
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(load(None)))
    assert load(saved).data == DataConfig()
    saved.write_text(to_yaml(Config(data=DataConfig(path="texts", text_field="body"))))
    assert load_saved(saved).data == DataConfig(path="texts", text_field="body")
    assert "data.path=texts" in refusal(saved)


@pytest.mark.parametrize(
    ("section", "meant"),
    [
        ("{name: adam, momentum: 0.9}", None),
        ("{name: sgd, momentum: 0.9}", None),
        ("{name: sgd, momentum: 0.8}", 0.8),
        ("{name: muon, momentum: 0.9}", 0.9),
        ("{name: muon}", None),
    ],
)
def test_the_momentum_that_was_every_runs_is_the_usual_one(
    tmp_path: Path, section: str, meant: float | None
) -> None:
    """Else a run of before would be another than one of the same words now, and a comparison that
    names it another than what its own runs have kept."""
    saved = write(tmp_path, f"optimizer: {section}\n")
    assert load_saved(saved).optimizer.momentum == meant
    named = load(saved)
    assert named.optimizer.momentum == meant


def test_a_run_that_goes_on_is_given_only_what_its_data_read() -> None:
    old = Config(data=DataConfig(path="texts"))
    assert moved(old, ["data.cache=there"]).data.path == "texts"
    assert moved(old, ["data.path=null"]).data.path is None
    with pytest.raises(BadInput, match=r"^data.path=other: data.name stdlib has no use for it"):
        moved(old, ["data.path=other"])
