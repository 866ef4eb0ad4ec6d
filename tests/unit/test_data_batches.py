import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput
from checkfree.data import Data, open_data
from checkfree.data.tokens import Split

VALIDATION_FROM = 10_000


def data(train=1000, validation=100, context=8, batch=4, seed=0):
    """Token t of the training text is t, of the validation text 10,000 + t."""
    split = Split(
        train=np.arange(train, dtype=np.uint16),
        validation=np.arange(VALIDATION_FROM, VALIDATION_FROM + validation, dtype=np.uint16),
        documents=None,
        vocabulary=20_000,
        content_hash="",
        tokenizer="",
        separator=None,
    )
    return Data("test", split, context, batch, seed)


sizes = {"context": st.integers(1, 30), "batch": st.integers(1, 5), "seed": st.integers(0, 2**40)}
place = {"iteration": st.integers(0, 10**6), "microbatch": st.integers(0, 100)}


@given(**sizes, **place, train=st.integers(31, 500), validation=st.integers(31, 500))
def test_windows_are_consecutive_tokens_of_their_own_side(
    context, batch, seed, iteration, microbatch, train, validation
):
    some = data(train, validation, context, batch, seed)
    for tokens, low, high in (
        (some.train(iteration, microbatch), 0, train),
        (some.validation(iteration, microbatch), VALIDATION_FROM, VALIDATION_FROM + validation),
    ):
        assert tokens.shape == (batch, context + 1) and tokens.dtype == torch.int64
        assert tokens.is_contiguous()
        assert low <= tokens.min() and tokens.max() < high
        assert (tokens.diff(dim=1) == 1).all()


def test_the_calls_are_pure_in_any_order():
    calls = [(side, i, m) for side in ("train", "validation") for i in range(5) for m in range(4)]
    first = {call: getattr(data(), call[0])(*call[1:]) for call in calls}
    shuffled, again = calls * 2, data()
    random.Random(0).shuffle(shuffled)
    for call in shuffled:
        assert getattr(again, call[0])(*call[1:]).equal(first[call])


def test_a_batch_may_be_written_to():
    some = data()
    some.train(0, 0).zero_()
    assert some.train(0, 0).any()


def test_seed_iteration_microbatch_and_row_all_matter():
    rows = [
        tuple(row.tolist())
        for seed in range(3)
        for iteration in range(3)
        for microbatch in range(3)
        for row in data(10**4, seed=seed).train(iteration, microbatch)
    ]
    assert len(set(rows)) > 100 and len(rows) == 108


def test_training_draws_are_known_values():
    # A change here changes every run: old records would no longer describe what their seeds give.
    assert data().train(0, 0)[:, 0].tolist() == [295, 486, 258, 673]
    assert data(seed=1).train(7, 3)[:, 0].tolist() == [269, 827, 864, 359]


def test_training_draws_are_uniform_to_the_last_window():
    some = data(train=10, context=8, batch=50)
    starts = torch.cat([some.train(i, 0)[:, 0] for i in range(20)])
    assert starts.unique().tolist() == [0, 1]
    assert 400 < starts.sum() < 600


def test_a_microbatch_of_validation_never_changes():
    for other in (data(seed=5), data(train=77)):
        assert other.validation(123, 2).equal(data().validation(0, 2))


@given(st.integers(9, 400), st.integers(1, 5))
def test_validation_takes_each_window_once_before_any_again(validation, batch):
    some = data(validation=validation, context=8, batch=batch)
    count = (validation - 1) // 8
    starts = [s for m in range(count) for s in some.validation(0, m)[:, 0].tolist()][:count]
    assert sorted(starts) == [VALIDATION_FROM + 8 * k for k in range(count)]


def test_a_few_validation_windows_are_spread_over_the_text():
    starts = data(validation=9_000, context=8, batch=8).validation(0, 0)[:, 0] - VALIDATION_FROM
    gaps = starts.sort().values.diff()
    assert gaps.max() < 2 * 9_000 / 8 and gaps.min() > 9_000 / 8 / 2


# open_data


@pytest.mark.parametrize(
    ("sizes", "told"),
    [({"context": 0, "batch": 4}, "model.context=0"), ({"context": 8, "batch": 0}, "batch=0")],
)
def test_a_batch_has_something_in_it(sizes, told):
    with pytest.raises(BadInput, match=told):
        open_data(DataConfig(), **sizes, seed=0)


def test_the_default_needs_nothing_and_has_a_split_without_overlap():
    some = open_data(DataConfig(), context=128, batch=4, seed=0)
    assert some.vocabulary == 256 and some.train(0, 0).shape == (4, 129)
    train, validation = (
        set(bytes(side).split(b"\0")) - {b""} for side in (some.split.train, some.split.validation)
    )
    assert len(train) > 5 * len(validation) > 0
    assert not train & validation


def test_describe_is_json_that_names_no_path(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"text number {i} of some")
    config = DataConfig("text", str(tmp_path), validation_share=0.3)
    described = open_data(config, context=8, batch=2, seed=0).describe()
    assert str(tmp_path) not in json.dumps(described)
    assert sum(described["documents"]) == 40
    assert described["train_tokens"] + described["validation_tokens"] == sum(
        len(f"text number {i} of some") + 1 for i in range(40)
    )


def test_the_same_text_in_another_folder_is_the_same_data(tmp_path):
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for i in range(40):
            (tmp_path / folder / f"{i}.txt").write_text(f"text number {i}")
        config = DataConfig("text", str(tmp_path / folder), validation_share=0.3)
        found.append(open_data(config, context=8, batch=2, seed=0))
    assert found[0].describe() == found[1].describe()
    assert found[0].train(0, 0).equal(found[1].train(0, 0))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": "wikipedia"}, "data.name 'wikipedia' is unknown, expected stdlib, text"),
        ({"tokenizer": "gone.json"}, "data.tokenizer gone.json: no such file"),
        (
            {"documents": 1, "validation_share": 1e-9},
            r"validation text \(of 1 documents\) has 0 tokens",
        ),
        (
            {"documents": 1, "validation_share": 1 - 1e-9},
            r"training text \(of 1 documents\) has 0 tokens",
        ),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(fields, complaint):
    with pytest.raises(BadInput, match=complaint) as caught:
        open_data(DataConfig(**fields), context=8, batch=2, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("context", "fits"), [(14, True), (15, False)])
def test_a_side_must_have_room_for_one_window(tmp_path, context, fits):
    (tmp_path / "a.txt").write_text("a" * 200 + "\n" + "b" * 14)  # with its separator, 15 tokens
    config = DataConfig("text", str(tmp_path / "a.txt"), validation_share=0.07)
    if fits:
        tokens = open_data(config, context=context, batch=1, seed=0).validation(0, 0)
        assert bytes(tokens[0].tolist()) == b"b" * 14 + b"\0"
    else:
        with pytest.raises(BadInput, match="has 15 tokens, expected at least 16"):
            open_data(config, context=context, batch=1, seed=0)
