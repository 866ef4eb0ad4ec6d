import json
import sys
import types

import pytest

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput, RunFailed
from checkfree.data import open_data
from checkfree.data.stream import hugging_face

ROWS = [{"text": f"story {i}: once upon a time", "id": i} for i in range(60)]


def opened(tmp_path, name, loader, **changes):
    config = DataConfig(name, cache=str(tmp_path / "cache"), validation_share=0.2, **changes)
    return open_data(config, context=8, batch=2, seed=0, loader=loader)


class Hub:
    """Stands in for ``datasets``: rows in files, and what was asked for."""

    def __init__(self, folder, rows=ROWS):
        self.path = folder / "hub.jsonl"
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.asked = []
        self.read = 0

    def __call__(self, repository, subset):
        self.asked.append((repository, subset))
        for line in self.path.read_text().splitlines():
            self.read += 1
            yield json.loads(line)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("tinystories", ("roneneldan/TinyStories", None)),
        ("openwebtext", ("Skylion007/openwebtext", None)),
        ("hf:someone/texts", ("someone/texts", None)),
        ("hf:someone/texts/small", ("someone/texts", "small")),
    ],
)
def test_a_name_leads_to_its_repository(tmp_path, name, asked):
    hub = Hub(tmp_path)
    data = opened(tmp_path, name, hub)
    assert hub.asked == [asked]
    assert sum(data.describe()["documents"]) == len(ROWS)


def test_a_stream_is_tokenized_once(tmp_path):
    hub = Hub(tmp_path)
    first = opened(tmp_path, "tinystories", hub)
    second = opened(tmp_path, "tinystories", hub)
    assert len(hub.asked) == 1
    assert first.content_hash == second.content_hash
    assert first.train(0, 0).equal(second.train(0, 0))


def test_no_more_of_a_stream_is_read_than_asked_for(tmp_path):
    hub = Hub(tmp_path)
    data = opened(tmp_path, "tinystories", hub, documents=25)
    assert sum(data.describe()["documents"]) == hub.read == 25


def test_equal_documents_fall_on_one_side(tmp_path):
    data = opened(tmp_path, "hf:a/b", Hub(tmp_path, ROWS + ROWS))
    train, validation = (
        set(bytes(side).split(b"\0")) - {b""} for side in (data.split.train, data.split.validation)
    )
    assert not train & validation and len(train | validation) == len(ROWS)
    assert sum(data.describe()["documents"]) == 2 * len(ROWS)


def test_a_stream_that_breaks_off_goes_on_later(tmp_path):
    hub = Hub(tmp_path)

    def breaking(repository, subset):
        yield from ROWS[:30]
        raise ConnectionError("connection\nreset")

    with pytest.raises(RunFailed, match=r"broke off \(connection reset\).*start again"):
        opened(tmp_path, "hf:a/b", breaking)
    (tmp_path / "other").mkdir()
    assert (
        opened(tmp_path, "hf:a/b", hub).describe()
        == opened(tmp_path / "other", "hf:a/b", hub).describe()
    )


def test_a_stream_that_does_not_open_is_refused(tmp_path):
    def script(repository, subset):
        raise RuntimeError("Dataset scripts are no longer supported, but found b.py")

    with pytest.raises(BadInput, match=r"data set a/b does not open \(Dataset scripts.*data\.path"):
        opened(tmp_path, "hf:a/b", script)


def test_a_missing_column_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(BadInput, match="a/b row 1: no column 'body', it has text, id"):
        opened(tmp_path, "hf:a/b", Hub(tmp_path), text_field="body")


@pytest.mark.parametrize(
    "name", ["redpajama", "redpajama_v2", "hf:togethercomputer/RedPajama-Data-V2"]
)
def test_redpajama_is_left_out_and_says_why(tmp_path, name):
    with pytest.raises(BadInput, match=r"remote code.*data.name jsonl.*raw_content"):
        opened(tmp_path, name, Hub(tmp_path))


@pytest.mark.parametrize("name", ["hf:", "hf:noslash", "hf:a/", "hf:a/b/c/d"])
def test_a_malformed_name_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="expected hf:OWNER/NAME"):
        opened(tmp_path, name, Hub(tmp_path))


# The default loader


def fake_datasets(monkeypatch, version, load_dataset):
    module = types.SimpleNamespace(__version__=version, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_default_loader_streams_the_training_split(monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return ROWS[:2]

    fake_datasets(monkeypatch, "4.1.0", load_dataset)
    documents = list(hugging_face("hf:a/b/c", "text").read())
    assert [d.text.decode() for d in documents] == [row["text"] for row in ROWS[:2]]
    assert calls == [(("a/b", "c"), {"split": "train", "streaming": True})]


def test_a_datasets_that_would_run_remote_code_is_refused(monkeypatch):
    fake_datasets(monkeypatch, "3.6.0", None)
    with pytest.raises(BadInput, match=r"datasets 3\.6\.0 may run code.*expected 4"):
        list(hugging_face("hf:a/b", "text").read())


def test_without_datasets_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"run: pip install 'checkfree\[data\]'"):
        list(hugging_face("hf:a/b", "text").read())


def test_the_real_datasets_streams_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # read when it is first imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="streams need the extra checkfree[data]")
    hub = Hub(tmp_path)

    def loader(repository, subset):
        return datasets.load_dataset(
            "json",
            data_files=str(hub.path),
            split="train",
            streaming=True,
            cache_dir=str(tmp_path / "datasets"),
        )

    (tmp_path / "real").mkdir()
    real = opened(tmp_path / "real", "hf:a/b", loader)
    assert real.describe() == opened(tmp_path, "hf:a/b", hub).describe()
