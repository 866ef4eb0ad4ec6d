import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from checkfree.core.errors import BadInput
from checkfree.core.text_counts import Amount
from checkfree.data import tokenizers
from checkfree.data.tokenizers import open_tokenizer

WORDS = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}


def tokenizer_json(vocabulary, **fields):
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    return json.dumps({"version": "1.0", "model": model, **fields})


def write(path, vocabulary, **fields):
    pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")
    whitespace = {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}
    path.write_text(tokenizer_json(vocabulary, **(whitespace | fields)))
    return open_tokenizer(str(path))


def test_bytes_are_their_own_tokens_and_zero_separates():
    tokenizer = open_tokenizer("bytes")
    (tokens,) = tokenizer.encode(["hé".encode()]).tokens
    assert tokens.tolist() == [*"hé".encode(), 0]
    assert tokens.dtype == tokenizer.dtype == "uint8"
    assert (tokenizer.vocabulary, tokenizer.separator, tokenizer.identity) == (256, 0, "bytes")


def test_a_tokenizer_file_encodes_without_separator_if_it_has_none(tmp_path):
    tokenizer = write(tmp_path / "t.json", WORDS)
    encoded = tokenizer.encode([b"to be or not to be", b"to see"]).tokens
    assert [tokens.tolist() for tokens in encoded] == [[1, 2, 3, 4, 1, 2], [1, 0]]
    assert (tokenizer.vocabulary, tokenizer.separator) == (5, None)


def test_a_known_end_of_text_token_separates(tmp_path):
    tokenizer = write(tmp_path / "t.json", {**WORDS, "<|endoftext|>": 5})
    assert tokenizer.encode([b"to be"]).tokens[0].tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("last", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_tokens_take_the_smallest_type_that_holds_the_vocabulary(tmp_path, last, dtype):
    tokenizer = write(tmp_path / "t.json", {**WORDS, "last": last})
    (tokens,) = tokenizer.encode([b"last"]).tokens
    assert tokens.tolist() == [last] and tokens.dtype == np.dtype(dtype) == tokenizer.dtype
    assert tokenizer.vocabulary == last + 1


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    tokenizer = write(tmp_path / "t.json", WORDS, truncation=cut, padding=pad)
    assert tokenizer.encode([b"to be or"]).tokens[0].tolist() == [1, 2, 3]


def test_dropout_of_the_file_is_switched_off(tmp_path):
    _, opened = trained(tmp_path, "bpe", lambda tree: tree["model"].update(dropout=0.9))
    (first, second) = opened.encode([b"the text of it"] * 2).tokens
    assert first.tolist() == second.tolist()


# Text that is written like a special token

SPECIALS = ["[UNK]", "<|endoftext|>", "<|user|>"]
PROSE = "the text <|endoftext|> of it<|user|>[UNK] and the text of it"


def trained(folder, kind, change=lambda tree: None, specials=SPECIALS):
    """A tokenizer of that kind, trained on prose; as the library opens it, and as we do."""
    library = pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
    models, trainers = library.models, library.trainers
    split = library.pre_tokenizers
    how = {"special_tokens": specials, "show_progress": False}
    made = {
        "bpe": (models.BPE(), trainers.BpeTrainer(**how), split.ByteLevel(False)),
        "ignore": (models.BPE(ignore_merges=True), trainers.BpeTrainer(**how), None),
        "unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(unk_token="[UNK]", **how),
            split.Metaspace(),
        ),
        "wordlevel": (
            models.WordLevel(unk_token="[UNK]"),
            trainers.WordLevelTrainer(**how),
            split.WhitespaceSplit(),
        ),
        "wordpiece": (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(**how),
            split.BertPreTokenizer(),
        ),
        "none": (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(**how), None),
    }
    model, trainer, splitter = made[kind]
    raw = library.Tokenizer(model)
    if splitter is not None:
        raw.pre_tokenizer = splitter
    alphabet = "<|>[]/abcdefghijklmnopqrstuvwxyzUNK"
    raw.train_from_iterator([PROSE, alphabet, " ".join(alphabet), "</s> <eos>"], trainer)
    tree = json.loads(raw.to_str())
    change(tree)
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(tree))
    return library.Tokenizer.from_str(json.dumps(tree)), open_tokenizer(str(path))


KINDS = ["bpe", "ignore", "unigram", "wordlevel", "wordpiece", "none"]


def not_special(tree):
    for token in tree["added_tokens"]:
        token["special"] = False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [lambda tree: None, not_special], ids=["special", "added"])
def test_the_separator_in_prose_is_text(tmp_path, kind, change):
    _, tokenizer = trained(tmp_path, kind, change)
    text = b"the text <|endoftext|> of <|endoftext|>it"
    (tokens,), counts = (found := tokenizer.encode([text])).tokens, found.counts
    assert tokenizer.separator is not None and tokens[-1] == tokenizer.separator
    assert tokenizer.separator not in tokens[:-1].tolist()
    assert counts.spellings == {"<|endoftext|>": 2} and counts.separators == 0
    assert tokens.max() < tokenizer.vocabulary


@pytest.mark.parametrize("kind", KINDS)
def test_no_special_token_comes_of_prose(tmp_path, kind):
    raw, tokenizer = trained(tmp_path, kind)
    found = tokenizer.encode([PROSE.encode()])
    special = {raw.token_to_id(name) for name in SPECIALS[1:]}
    assert not special & {*found.tokens[0][:-1].tolist()}
    assert found.counts.spellings == {"<|endoftext|>": 1, "<|user|>": 1, "[UNK]": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_has_the_tokens_that_it_always_had(tmp_path, kind):
    raw, tokenizer = trained(tmp_path, kind)
    texts = ["the text of it", "and of the text", "it[of]<the>|text|", ""]
    found = tokenizer.encode([text.encode() for text in texts]).tokens
    expected = [raw.encode(text, add_special_tokens=False).ids for text in texts]
    assert [tokens[:-1].tolist() for tokens in found] == expected
    assert tokenizer.separator == raw.token_to_id("<|endoftext|>")
    assert tokenizer.vocabulary == max(raw.get_vocab().values()) + 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_file_is_taken_as_it_is_where_that_will_do(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tokenizers, "_without", None)
    _, tokenizer = trained(tmp_path, kind)
    assert tokenizer.encode([PROSE.encode()]).counts.separators == 0


def test_a_merge_that_makes_a_special_token_makes_none(tmp_path):
    def merged(tree):
        vocabulary = tree["model"]["vocab"]
        vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(("</", "s>", "</s>"))}
        tree["model"]["merges"] = [["<", "/"], ["s", ">"], ["</", "s>"]]
        not_special(tree)

    _, tokenizer = trained(tmp_path, "bpe", merged, specials=["</s>"])
    found = tokenizer.encode([b"a</s>b"])
    assert tokenizer.separator not in found.tokens[0][:-1].tolist()
    assert found.counts.spellings == {"</s>": 1}


def test_tokens_that_are_added_and_not_special_stay_tokens(tmp_path):
    def added(tree):
        token = {**tree["added_tokens"][2], "id": 200, "content": "<think>", "special": False}
        tree["added_tokens"].append(token)

    raw, tokenizer = trained(tmp_path, "unigram", added)
    (tokens,) = tokenizer.encode([b"<think>"]).tokens
    assert raw.token_to_id("<think>") in tokens.tolist()


def test_a_zero_byte_in_text_is_counted_as_the_separator_that_it_is(tmp_path):
    found = open_tokenizer("bytes").encode([b"a\0b", b"c", b"\0\0"])
    assert [tokens.tolist() for tokens in found.tokens] == [[97, 0, 98, 0], [99, 0], [0, 0, 0]]
    assert found.counts.separators == 3 and not found.counts.spellings


# The separator


@pytest.mark.parametrize(
    "name",
    ["<|endoftext|>", "</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "[SEP]", "<|im_end|>"],
)
def test_the_usual_names_separate(tmp_path, name):
    tokenizer = write(tmp_path / "t.json", {**WORDS, name: 5})
    assert tokenizer.separator == 5


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"type": "RobertaProcessing", "sep": ["mine", 6], "cls": ["<s>", 0]}, 6),
        ({"type": "BertProcessing", "sep": ["mine", 6], "cls": ["[CLS]", 0]}, 6),
        ("template", 6),
        ("sequence", 6),
        ("begin", 5),
        (None, 5),
    ],
)
def test_the_token_that_the_file_puts_after_a_text_comes_first(tmp_path, processor, expected):
    def piece(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [piece("to"), text] + ([] if processor == "begin" else [piece("mine")]),
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]}
            for name, number in (("mine", 6), ("to", 1))
        },
    }
    if isinstance(processor, dict):
        processor |= {"trim_offsets": True, "add_prefix_space": False}
    elif processor == "sequence":
        processor = {"type": "Sequence", "processors": [template]}
    elif processor:
        processor = template
    words = {**WORDS, "</s>": 5, "mine": 6}
    assert write(tmp_path / "t.json", words, post_processor=processor).separator == expected


def test_a_special_token_separates_rather_than_a_word_of_a_likelier_name(tmp_path):
    token = {"id": 6, "content": "<eos>", "special": True}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    words = {**WORDS, "</s>": 5, "<eos>": 6}
    assert write(tmp_path / "t.json", words, added_tokens=[token]).separator == 6


def test_the_separator_can_be_named(tmp_path):
    write(tmp_path / "t.json", {**WORDS, "</s>": 5})
    tokenizer = open_tokenizer(str(tmp_path / "t.json"), "not")
    assert tokenizer.encode([b"to be"]).tokens[0].tolist() == [1, 2, 4]
    found = tokenizer.encode([b"to be or not"])  # a word that is a separator, too
    assert found.tokens[0].tolist() == [1, 2, 3, 4, 4]
    assert found.counts.separators == 1 and found.counts.spellings == {}


@pytest.mark.parametrize("name", ["<|nothing|>", ""])
def test_a_separator_that_the_tokenizer_lacks_is_refused(tmp_path, name):
    write(tmp_path / "t.json", WORDS)
    with pytest.raises(BadInput, match=r"data\.separator .* has no such token") as caught:
        open_tokenizer(str(tmp_path / "t.json"), name)
    assert "t.json" in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_have_no_separator_to_name():
    with pytest.raises(BadInput, match=r"data\.separator '</s>': bytes have no such token"):
        open_tokenizer("bytes", "</s>")


# What a tokenizer can't say


def changed(tokenizer, *texts):
    return tokenizer.encode([text.encode() for text in texts]).counts.changed


@pytest.mark.parametrize("kind", ["wordlevel", "wordpiece", "unigram"])
def test_unknown_words_are_counted(tmp_path, kind):
    _, tokenizer = trained(tmp_path, kind)
    found = changed(tokenizer, "the text", "the ☃☃ text of ☃☃", "it ☃☃")
    assert found == {"unknown": Amount(2, 18)}
    assert changed(tokenizer, "☃☃") == {"unknown": Amount(1, 6)}


def test_characters_that_a_bpe_has_no_symbol_for_are_counted(tmp_path):
    raw, tokenizer = trained(tmp_path, "ignore")
    assert raw.encode("☃").ids == []
    assert changed(tokenizer, "the text", "a☃b☃", "é") == {"dropped": Amount(2, 8)}


def test_bytes_that_a_byte_level_bpe_has_no_symbol_for_are_counted(tmp_path):
    raw, tokenizer = trained(tmp_path, "bpe")
    assert raw.encode("é").ids == []
    assert changed(tokenizer, "the text", "aéb", "7 9") == {"dropped": Amount(2, 4)}


def test_a_byte_level_bpe_with_all_bytes_drops_nothing(tmp_path):
    library = pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()

    def whole(tree):
        vocabulary = tree["model"]["vocab"]
        for symbol in sorted({*alphabet} - vocabulary.keys()):
            vocabulary[symbol] = len(vocabulary)

    _, tokenizer = trained(tmp_path, "bpe", whole)
    assert changed(tokenizer, "the text ☃ é \n\t 1234 \0", "Ġ▁") == {}


def test_what_a_normalizer_takes_away_is_counted(tmp_path):
    def cleaned(tree):
        tree["normalizer"] = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": False,
        }

    _, tokenizer = trained(tmp_path, "wordpiece", cleaned)
    assert changed(tokenizer, "the \u200btext\0", "of  it\n") == {"dropped": Amount(1, 4)}


def test_a_space_that_is_put_before_a_text_is_none_of_it(tmp_path):
    def spaced(tree):
        tree["pre_tokenizer"]["add_prefix_space"] = True
        model = tree["model"]
        model["merges"] = [pair for pair in model["merges"] if "Ġ" not in "".join(pair)]
        del model["vocab"]["Ġ"]

    _, tokenizer = trained(tmp_path, "bpe", spaced)
    assert changed(tokenizer, "thetext") == {}
    assert changed(tokenizer, "the text") == {"dropped": Amount(1, 1)}


def test_a_prefix_for_each_word_hides_no_loss(tmp_path):
    def spaced(tree):
        tree["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        }
        tree["model"]["vocab"]["▁"] = len(tree["model"]["vocab"])

    _, tokenizer = trained(tmp_path, "ignore", spaced)
    assert changed(tokenizer, "the text of it") == {}
    assert changed(tokenizer, "the ☃ text") == {"dropped": Amount(1, 3)}


@pytest.mark.parametrize("kind", ["wordlevel", "wordpiece", "unigram"])
def test_a_tokenizer_without_its_unknown_token_is_told_with_the_text(tmp_path, kind):
    def without(tree):
        if kind == "unigram":
            tree["model"]["unk_id"] = None
        else:
            tree["model"]["unk_token"] = "gone"

    _, tokenizer = trained(tmp_path, kind, without)
    with pytest.raises(BadInput) as caught:
        tokenizer.encode([b"the text", "☃ of it".encode(), b"it"])
    message = str(caught.value)
    assert f"{kind}.json: no tokens (" in message and "begins '☃ of it'" in message
    assert "\n" not in message


def test_text_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(BadInput, match="byte 0xff is not UTF-8"):
        write(tmp_path / "t.json", WORDS).encode([b"\xff"])


# Files


def test_a_key_of_the_cache_differs_only_where_tokens_may(tmp_path):
    assert open_tokenizer("bytes").key == ""
    assert write(tmp_path / "a.json", WORDS).key == ""
    assert write(tmp_path / "b.json", {**WORDS, "</s>": 5}).key == ""
    assert write(tmp_path / "c.json", {**WORDS, "<|eot_id|>": 5}).key != ""
    assert open_tokenizer(str(tmp_path / "b.json"), "not").key != ""
    _, tokenizer = trained(tmp_path, "bpe")
    assert tokenizer.key != ""


def test_the_identity_is_that_of_the_file(tmp_path):
    first, same = write(tmp_path / "a.json", WORDS), write(tmp_path / "b.json", WORDS)
    other = write(tmp_path / "c.json", {**WORDS, "more": 5})
    assert first.identity == same.identity != other.identity


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        ("not json", "not a tokenizer"),
        ('{"model": 1}', "not a tokenizer"),
        (tokenizer_json({}), "its vocabulary is empty"),
        (tokenizer_json({**WORDS, "far": 2**31}), "its largest token is 2147483648"),
    ],
)
def test_a_bad_tokenizer_file_is_refused(tmp_path, content, complaint):
    pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=complaint) as caught:
        open_tokenizer(str(path))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadInput, match=r"run: pip install 'checkfree\[data\]'"):
        open_tokenizer(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.mkdir(), "a folder without tokenizer.json, expected one"),
        (os.mkfifo, "a FIFO, expected bytes or the path"),
        (lambda path: path.symlink_to(path), "no such file, expected bytes or the path"),
    ],
)
def test_what_is_no_file_is_refused_for_what_it_is(tmp_path, make, complaint):
    make(tmp_path / "t.json")
    with pytest.raises(BadInput, match=f"t.json: {complaint}"):
        open_tokenizer(str(tmp_path / "t.json"))


def test_a_tokenizer_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "t.json", WORDS)

    def denied(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(BadInput, match=r"t.json: cannot be read \(Permission denied\)"):
        open_tokenizer(str(tmp_path / "t.json"))
