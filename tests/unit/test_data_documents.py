from hypothesis import given
from hypothesis import strategies as st

from checkfree.data.documents import EMPTY_HASH, Document, place

texts = st.lists(st.binary(max_size=2), max_size=30)
names = st.sampled_from([None, *"abcdefghijklmnop"])
documents = st.lists(st.builds(Document, st.binary(max_size=2), names), max_size=40)
shares = st.floats(0.05, 0.95)


def sides(documents, share=0.5):
    placed = list(place(documents, share))
    return [d.text for d in placed if not d.validation], [d.text for d in placed if d.validation]


@given(texts, shares)
def test_rows_of_equal_text_fall_on_one_side(texts, share):
    train, validation = sides([Document(text) for text in texts], share)
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(text for text in texts if text)


@given(texts, shares)
def test_files_of_equal_text_are_kept_once(texts, share):
    train, validation = sides([Document(t, f"{i}.txt") for i, t in enumerate(texts)], share)
    assert sorted(train + validation) == sorted(set(texts) - {b""})


@given(documents, shares)
def test_the_hash_is_of_the_documents_and_not_of_the_split(documents, share):
    here = [d.corpus_hash for d in place(documents, share)]
    there = [d.corpus_hash for d in place(documents, 0.5)]
    assert here == there
    assert len({EMPTY_HASH, *here}) == len(here) + 1


def test_the_hash_sees_text_name_and_order():
    def final(*documents):
        return list(place(documents, 0.5))[-1].corpus_hash

    a, b = Document(b"one", "a"), Document(b"two", "b")
    hashes = {final(a, b), final(b, a), final(a, Document(b"twa", "b")), final(a, Document(b"two"))}
    assert len(hashes) == 4


def test_a_file_goes_by_its_name_and_a_row_by_its_text():
    def side(document):
        return next(place([document], 0.5)).validation

    assert len({side(Document(str(i).encode(), "same")) for i in range(20)}) == 1
    assert len({side(Document(b"same", str(i))) for i in range(20)}) == 2
    assert len({side(Document(str(i).encode())) for i in range(20)}) == 2


def test_the_share_is_met_on_average():
    _, validation = sides([Document(str(i).encode()) for i in range(2000)], 0.1)
    assert 150 < len(validation) < 250


def test_a_corpus_may_name_the_side_itself():
    train, validation = sides([Document(b"x", validation=False), Document(b"y", validation=True)])
    assert (train, validation) == ([b"x"], [b"y"])
