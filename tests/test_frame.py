"""Special tokens around texts: as data for each family, everywhere that a sequence is built."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import tokenizers as library

from bert_jax import predict, tasks, tokenizers
from bert_jax.config import MultipleChoice, QuestionAnswering, SequenceClassification, TokenClassification
from bert_jax.data.batches import packed, padded
from bert_jax.data.rows import Row
from bert_jax.errors import InputError
from bert_jax.tasks.labelled import sequence
from bert_jax.tasks.question_answering import NO_SPAN
from bert_jax.tokenizers import Frame
from helpers.corpora import WORDS, texts
from helpers.models import MODEL
from helpers.stores import BERT, PLAIN, ROBERTA, SPECIALS, batches, make_store, make_tokenizer, unmasked


@pytest.fixture(scope="module")
def roberta():
    """A tokenizer with RoBERTa's frame: `<s> a </s></s> b </s>`, no segments, positions from 2."""
    tokenizer = copy.copy(tokenizers.train("wordpiece", texts(50), 80))
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    tokenizer.frame = Frame(start=(cls,), between=(sep, sep), end=(sep,), segments=False, first_position=2)
    return tokenizer


def make(fields, tokenizer, positions=66):
    config = replace(MODEL, vocab_size=tokenizer.vocab_size, max_position_embeddings=positions)
    return tasks.make(fields, config, tokenizer)


@pytest.mark.parametrize(
    ("frame", "parts", "ids", "segments"),
    [
        (BERT, [[7, 8]], [2, 7, 8, 3], [0, 0, 0, 0]),
        (BERT, [[7, 8], [9]], [2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1]),
        (BERT, [[], []], [2, 3, 3], [0, 0, 1]),
        (ROBERTA, [[7, 8]], [2, 7, 8, 3], [0] * 4),
        (ROBERTA, [[7, 8], [9]], [2, 7, 8, 3, 3, 9, 3], [0] * 7),
        (Frame((5, 6), (7,), ()), [[1], [2], [3]], [5, 6, 1, 7, 2, 7, 3], [0, 0, 0, 0, 1, 1, 2]),
    ],
)
def test_texts_are_joined_and_the_size_is_what_joining_adds(frame, parts, ids, segments):
    joined = frame.join(*parts)
    assert [array.tolist() for array in joined] == [ids, segments]
    assert [array.dtype for array in joined] == [np.int32, np.int32]
    assert frame.size(len(parts)) == len(ids) - sum(len(part) for part in parts)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
@pytest.mark.parametrize("change", [{}, {"between": 2, "segments": False, "first_position": 2}])
def test_tokenizer_json_has_the_frame_for_one_text_and_for_two(kind, change, tmp_path):
    tokenizer = copy.copy(tokenizers.train(kind, texts(50), 45))
    change = change | {"between": change.get("between", 1) * (tokenizer.sep_id,)}
    tokenizer.frame = replace(tokenizer.frame, **change)
    tokenizer.save(tmp_path)
    saved = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    a, b = tokenizer.encode_ids(["red cat", "blue dog sings"])
    for encoded, parts in ((saved.encode("red cat"), [a]), (saved.encode("red cat", "blue dog sings"), [a, b])):
        ids, segments = tokenizer.frame.join(*parts)
        assert encoded.ids == ids.tolist()
        assert encoded.type_ids == segments.tolist()


def test_a_pair_is_cut_to_what_another_frame_leaves(roberta):
    a, b = np.arange(100, 120), np.arange(200, 205)
    ids, types = sequence(roberta.frame, 16, a, b)
    sep = roberta.sep_id
    assert ids.tolist() == [roberta.cls_id, *range(100, 107), sep, sep, *range(200, 205), sep]
    assert not types.any()


def test_positions_of_labelled_rows_begin_at_the_frames_first_position(roberta):
    task = make(SequenceClassification(train="t", text_b="b", labels=("x", "y")), roberta, positions=130)
    rows = [Row({"text": "red cat", "b": "blue"}, "1"), Row({"text": "dog", "b": "small bird runs"}, "2")]
    features = task.features(rows, labelled=False)
    for batch in (padded(features, np.array([0, 1]), 16), packed(features, np.array([0, 1]), 32)):
        ids, lengths = batch["sequence_ids"], features.lengths
        positions = [batch["position_ids"][ids == n] for n in range(1, ids.max() + 1)]
        assert np.sort(np.concatenate(positions)).tolist() == sorted(
            [*range(2, 2 + lengths[0]), *range(2, 2 + lengths[1])]
        )
        assert (batch["position_ids"][ids == 0] == 0).all()


def test_positions_before_the_first_shorten_the_longest_sequence(roberta):
    fields = SequenceClassification(train="t", labels=("x", "y"), max_length=64)
    assert make(fields, roberta, positions=66)
    with pytest.raises(InputError, match="must be at most 63, the model's positions, got 64"):
        make(fields, roberta, positions=65)


@pytest.mark.parametrize("frame", [BERT, ROBERTA])
@pytest.mark.parametrize("packing", ["none", "packed"])
@pytest.mark.parametrize("pairs", ["none", "nsp", "sop"])
def test_pretraining_rows_are_framed(frame, packing, pairs):
    store = make_store([50, 30, 1, 2, 3, 4, 5, 70] * 3)
    fields = replace(PLAIN, packing=packing, pairs=pairs, sequence_length=32, short_sequences=0.0)
    made = batches(fields, [store], make_tokenizer(SPECIALS + store.num_tokens, frame=frame), batch_size=4)
    full = 0
    for batch in map(made, range(10)):
        ids, longest = unmasked(batch), 0
        for row, number in np.argwhere(np.diff(batch["sequence_ids"], prepend=0, axis=1) > 0):
            columns = batch["sequence_ids"][row] == batch["sequence_ids"][row, number]
            sequence_ids, types = ids[row, columns], batch["token_type_ids"][row, columns]
            ordinary = np.flatnonzero(sequence_ids >= SPECIALS)
            cut = np.flatnonzero(np.diff(ordinary) > 1) + 1
            parts = [sequence_ids[part] for part in np.split(ordinary, cut)]
            if pairs != "none" and len(parts) == 1:  # a single token cannot be split
                parts = [parts[0], []]
            expected = frame.join(*parts)
            assert sequence_ids.tolist() == expected[0].tolist()
            assert types.tolist() == expected[1].tolist()
            positions = batch["position_ids"][row, columns]
            assert positions.tolist() == list(range(frame.first_position, frame.first_position + len(expected[0])))
            assert number in batch["cls_positions"][row]
            longest = max(longest, len(expected[0]))
        full += longest == 32
    assert full


def test_concatenated_documents_are_separated_as_two_texts_are():
    store = make_store([4, 6, 3, 5, 7])
    fields = replace(PLAIN, packing="concatenated", sequence_length=32)
    made = batches(fields, [store], make_tokenizer(SPECIALS + store.num_tokens, frame=ROBERTA), batch_size=2)
    (row,) = [row for row in unmasked(made(0)) if row[1] == SPECIALS]
    ends = SPECIALS + np.array([0, 4, 10, 13, 18, 22])
    parts = [np.arange(begin, end) for begin, end in itertools.pairwise(ends)]  # the last document is cut
    assert row.tolist() == ROBERTA.join(*parts)[0].tolist()


def test_windows_of_a_context_are_framed(roberta):
    fields = QuestionAnswering(train="t", max_length=40, stride=8, max_question_length=6)
    task = make(fields, roberta)
    context = " ".join(np.random.default_rng(0).choice(WORDS, 60))
    start = context.index(" ", 30) + 1
    answer = {"text": context[start : context.index(" ", start)], "answer_start": start}
    row = Row({"context": context, "question": "red cat", "answers": [answer]}, "f")
    features = task.features([row], labelled=True)
    question, tokens = roberta.encode_ids(["red cat", context])
    assert len(features) > 1
    assert not features.token_type_ids.any()
    assert features.lengths.max() == 40
    for i in range(len(features)):
        part = slice(*features.starts[i : i + 2])
        inside = features.token_arrays["spans"][part] != NO_SPAN
        expected, _ = roberta.frame.join(question, features.input_ids[part][inside])
        assert features.input_ids[part].tolist() == expected.tolist()
        begin, end = features.arrays["labels"][i, 0]
        if begin:
            first, last = features.offsets[part][[begin, end]]
            assert (first[0], last[1]) == (start, start + len(answer["text"]))
    assert features.arrays["labels"].any()
    assert (padded(features, np.array([0]), 40)["position_ids"][0] == np.arange(2, 42)).all()
    assert set(tokens) >= set(features.input_ids[features.token_arrays["spans"] != NO_SPAN])


def test_windows_of_a_sentence_are_framed(roberta):
    wide = copy.copy(roberta)
    wide.frame = replace(roberta.frame, start=(roberta.cls_id,) * 2, end=(roberta.sep_id,) * 3)
    task = make(TokenClassification(train="t", labels=("x", "y"), max_length=16, overlap=4), wide)
    words = np.random.default_rng(0).choice(WORDS, 40).tolist()
    features = task.features([Row({"tokens": words, "tags": ["x"] * 40}, "f")], labelled=True)
    assert features.lengths.max() == 16
    for i in range(len(features)):
        part = slice(*features.starts[i : i + 2])
        assert features.input_ids[part].tolist() == wide.frame.join(features.input_ids[part][2:-3])[0].tolist()
        marks = features.token_arrays["words"][part]
        assert not marks[:2].any()
        assert not marks[-3:].any()
    assert sorted(features.token_arrays["words"][features.token_arrays["words"] > 0]) == list(range(1, 41))


def test_choices_are_framed_and_each_begins_at_the_first_position(roberta):
    task = make(MultipleChoice(train="t", max_length=16), roberta)
    features = task.features([Row({"context": "red", "choices": ["cat", "dog"], "label": 0}, "f")], labelled=True)
    red, cat, dog = roberta.encode_ids(["red", "cat", "dog"])
    expected = [roberta.frame.join(red, choice)[0] for choice in (cat, dog)]
    assert features.input_ids.tolist() == np.concatenate(expected).tolist()
    assert features.token_arrays["position_ids"].tolist() == [i + 2 for ids in expected for i in range(len(ids))]


def test_a_loaded_model_frames_its_texts(roberta):
    config = replace(MODEL, vocab_size=roberta.vocab_size, max_position_embeddings=34)
    bert = predict.PretrainedBert(config, {}, roberta, None)
    ids = [roberta.frame.join(part)[0] for part in roberta.encode_ids(["red cat"])]
    batch = bert._batches(ids)(0)
    assert batch["position_ids"][0, : len(ids[0])].tolist() == list(range(2, 2 + len(ids[0])))
    assert bert._longest == 32
    with pytest.raises(InputError, match="fill_mask: the text has 33 tokens, and the model takes at most 32"):
        replace(bert, params={"mlm": {}}).fill_mask("red " * 15 + "[MASK]")
    with pytest.raises(InputError, match="encode: max_length: must be between 3 and 32, got 33"):
        bert.encode(["red cat"], max_length=33)
    task = SequenceClassification(train="t", labels=("x", "y"), max_length=33)
    with pytest.raises(InputError, match=r"task.max_length: must be at most 32, the model's positions, got 33"):
        replace(bert, task=task).predict(["red cat"])
