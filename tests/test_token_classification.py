"""Tags of words: every word gets exactly one, however long the sentence and whatever the tokenizer makes of it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bert_jax import tasks
from bert_jax.config import TokenClassification
from bert_jax.data.rows import Row
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.tasks.token_classification import _read
from bert_jax.tasks.words import word_spans
from bert_jax.training.evaluate import run
from bert_jax.training.step import evaluate_step
from helpers.corpora import NAMES
from helpers.losses import assert_packed_learns_what_padded_does
from helpers.models import QUIET
from helpers.weights import random_weights

SMALL = replace(QUIET, num_layers=1, max_position_embeddings=64)
LABELS = ("B-LOC", "I-LOC", "O")


def make(tokenizer, **fields):
    fields = TokenClassification(**{"train": "t", "labels": LABELS, "max_length": 24, "overlap": 8} | fields)
    return tasks.make(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)


def predicted(task, features, values):
    """Predictions that give the token with flat number i the tag values[i]."""
    width = int(features.lengths.max())
    tags = np.zeros((len(features), width), np.int32)
    for i in range(len(features)):
        part = values[features.starts[i] : features.starts[i + 1]]
        tags[i, : len(part)] = part
    return {"tags": tags, "probabilities": np.ones(tags.shape, np.float32)}


def sentence(count, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.choice(NAMES, count).tolist()
    return Row({"tokens": words, "tags": rng.choice(LABELS, count).tolist()}, f"f:{seed + 1}")


@pytest.mark.parametrize("overlap", [0, 8, 21])
def test_each_of_two_thousand_words_gets_exactly_one_tag(tokenizer, overlap):
    task = make(tokenizer, overlap=overlap)
    rows = [sentence(3, 1), sentence(2000, 2), sentence(1, 3)]
    features = task.features(rows, labelled=True)
    assert len(features) > 100
    assert features.lengths.max() <= 24
    for number, row in enumerate(rows):
        marks = np.concatenate(
            [
                features.token_arrays["words"][slice(*features.starts[i : i + 2])]
                for i in np.flatnonzero(features.rows == number)
            ]
        )
        assert sorted(marks[marks > 0]) == list(range(1, len(row.values["tokens"]) + 1))
    answers = task.decode(predicted(task, features, features.token_arrays["labels"]), features, rows)
    for row, answer in zip(rows, answers, strict=True):
        assert [word["word"] for word in answer["words"]] == row.values["tokens"]
        assert [word["tag"] for word in answer["words"]] == row.values["tags"]


def test_a_word_is_tagged_in_the_window_with_most_context_around_it(tokenizer):
    task = make(tokenizer, max_length=22, overlap=10)
    features = task.features([Row({"tokens": ["red"] * 50}, "f:1")], labelled=False)
    first, second = (features.token_arrays["words"][slice(*features.starts[i : i + 2])][1:-1] for i in (0, 1))
    # Windows begin at words 1 and 11. Of the ten words in both, each window tags the five further from its edge.
    assert first[first > 0].tolist() == list(range(1, 16))
    assert second[second > 0].tolist() == list(range(16, 26))


def test_only_first_tokens_of_words_have_labels_and_weights(tokenizer):
    task = make(tokenizer)
    row = Row({"tokens": ["doghousecats", "red"], "tags": ["B-LOC", "I-LOC"]}, "f:1")
    features = task.features([row], labelled=True)
    pieces = [len(ids) for ids in tokenizer.encode_ids(row.values["tokens"])]
    assert pieces[0] > 1
    assert np.flatnonzero(features.token_arrays["words"]).tolist() == [1, 1 + pieces[0]]
    assert features.token_arrays["labels"].tolist() == [0] * (1 + pieces[0]) + [1] + [0] * pieces[1]


def test_words_that_the_tokenizer_drops_or_splits_into_many_keep_their_position(tokenizer):
    task = make(tokenizer)
    words = ["red", "\u200b", "doghouse" * 12, "\x01", "blue"]
    tags = ["O", "B-LOC", "I-LOC", "B-LOC", "O"]
    features = task.features([Row({"tokens": words, "tags": tags}, "f:1")], labelled=True)
    assert len(features) > 1
    (answer,) = task.decode(
        predicted(task, features, features.token_arrays["labels"]), features, [Row({"tokens": words}, "")]
    )
    assert [word["tag"] for word in answer["words"]] == tags


def test_a_model_answers_for_every_word_of_every_sentence(tokenizer):
    task = make(tokenizer, packing=True)
    rows = [sentence(n, n) for n in (5, 400, 1, 17, 60)]
    params = random_weights(task.model, task.dummy_batch())
    batches = task.predict_batches(rows, batch_size=8)
    step = Devices("single", 8).wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
    _, _, predictions = run(partial(step.over, params), batches)
    answers = task.decode(predictions, batches.features, rows)
    assert [len(answer["words"]) for answer in answers] == [5, 400, 1, 17, 60]
    # Computed alone, and so without padding, a sentence gets the same tags with the same probabilities.
    alone = task.predict_batches(rows[3:4], batch_size=1)
    step = Devices("single", 1).wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
    _, _, predictions = run(partial(step.over, params), alone)
    (expected,) = task.decode(predictions, alone.features, rows[3:4])
    assert [word["tag"] for word in answers[3]["words"]] == [word["tag"] for word in expected["words"]]
    probabilities = [[word["probability"] for word in answer["words"]] for answer in (answers[3], expected)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_packed_sentences_learn_what_padded_ones_do(tokenizer, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(sentence(n, n).values) + "\n" for n in [1, 2, 3, 4, 5, 6, 7, 30]))
    kinds = [make(tokenizer, train=str(path), packing=packing) for packing in (False, True)]
    assert_packed_learns_what_padded_does(*kinds, batch_size=8)


def test_answers_have_the_positions_of_words_and_entities(tokenizer):
    task = make(tokenizer)
    row = Row({"text": "In  New York, cats."}, "input 1")
    features = task.features([row], labelled=False)
    values = np.zeros(len(features.input_ids), np.int32)
    tags = [2, 0, 1, 2, 2, 2]
    values[np.flatnonzero(features.token_arrays["words"])] = tags
    (answer,) = task.decode(predicted(task, features, values), features, [row])
    assert [(word["word"], word["tag"]) for word in answer["words"]] == [
        ("In", "O"), ("New", "B-LOC"), ("York", "I-LOC"), (",", "O"), ("cats", "O"), (".", "O"),
    ]  # fmt: skip
    assert all(row.values["text"][word["start"] : word["end"]] == word["word"] for word in answer["words"])
    assert answer["entities"] == [{"kind": "LOC", "text": "New York", "start": 4, "end": 12}]
    listed = Row({"tokens": ["In", "New", "York"]}, "input 1")
    features = task.features([listed], labelled=False)
    values = np.zeros(len(features.input_ids), np.int32)
    values[np.flatnonzero(features.token_arrays["words"])] = [2, 0, 1]
    (answer,) = task.decode(predicted(task, features, values), features, [listed])
    assert answer["entities"] == [{"kind": "LOC", "text": "New York", "start": 3, "end": 11}]


@pytest.mark.parametrize(
    ("labels", "entities"),
    [
        (("B-LOC", "I-LOC", "O"), True),
        (("I-LOC", "O"), True),
        (("B-LOC", "E-LOC", "S-LOC"), True),
        (("B-LOC", "L-LOC", "O", "U-LOC"), True),
        (("B-LOC", "E-LOC", "M-LOC", "O"), True),
        (("B", "I", "O"), True),
        (("B", "O"), True),
        (("B", "E", "M", "S"), True),
        (("B", "S"), False),
        (("A", "AB", "B", "O"), False),
        (("L-1", "M-1", "S-1"), False),
        (("NN", "O", "VB"), False),
        (("DT", "X-NN"), False),
    ],
)
def test_schemes_of_entities_are_distinguished_from_plain_tags(tokenizer, labels, entities):
    assert make(tokenizer, labels=labels).entities == entities


def test_entities_and_plain_tags_are_scored_as_such(tokenizer, tmp_path):
    rows = [
        Row({"tokens": ["red", "cats"], "tags": ["B-LOC", "I-LOC"]}, "f:1"),
        Row({"tokens": ["red"], "tags": ["O"]}, "f:2"),
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row.values) + "\n" for row in rows))
    for labels, expected in ((LABELS, {"f1": 2 / 3, "tag_accuracy": 2 / 3}), (("X", *LABELS), {"accuracy": 2 / 3})):
        task = make(tokenizer, labels=labels, eval=str(tmp_path / "t.jsonl"))
        batches = task.eval_batches(batch_size=2)
        values = np.zeros(len(batches.features.input_ids), np.int32)
        guess = [labels.index(tag) for tag in ("B-LOC", "I-LOC", "B-LOC")]
        values[np.flatnonzero(batches.features.token_arrays["words"])] = guess
        figures = task.evaluate(predicted(task, batches.features, values), batches).metrics
        assert {name: figures[name] for name in expected} == pytest.approx(expected)
        tables = task.evaluate(predicted(task, batches.features, values), batches).tables
        assert np.sum(tables["confusion"]["counts"]) == 3
        assert set(tables["per_label"]) == ({"LOC"} if labels == LABELS else set(labels))


def test_tables_may_hold_words_between_blanks(tokenizer, tmp_path):
    (tmp_path / "t.csv").write_text("tokens,tags\nred cats,O B-LOC\n")
    fields = TokenClassification(train=str(tmp_path / "t.csv"), max_length=24, overlap=8)
    task = tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
    assert task.fields.labels == ("B-LOC", "O")
    assert task.train_batches(batch_size=1, steps=1, seed=0).features.token_arrays["words"].max() == 2


def test_bad_rows_are_all_named_with_file_and_line(tokenizer, tmp_path):
    rows = [
        {"tokens": ["red"], "tags": ["O"]},
        {"tokens": ["red", "cats"], "tags": ["O"]},
        {"tokens": ["red"], "tags": ["B-PER"]},
        {"tokens": [], "tags": []},
        {"tags": ["O"]},
        {"tokens": [1], "tags": ["O"]},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as caught:
        make(tokenizer, train=str(path)).train_batches(batch_size=1, steps=1, seed=0)
    assert str(caught.value).splitlines() == [
        f"{path}:2: 2 words but 1 tags",
        f"{path}:3: tag 'B-PER' is none of B-LOC, I-LOC, O",
        f"{path}:4: field 'tokens' is empty",
        f"{path}:5: field 'tokens' is missing",
        f"{path}:6: field 'tokens' should be a list of words",
    ]
    with pytest.raises(InputError, match=r"task\.overlap: must be below 22, the tokens in a window, got 22"):
        make(tokenizer, overlap=22)


def complete(tokenizer, path, sentences, **fields):
    rows = ({"tokens": [f"word{i}" for i in range(len(tags))], "tags": tags} for tags in sentences)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = TokenClassification(train=str(path), max_length=24, overlap=8, **fields)
    return tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)


def test_a_run_tells_how_tags_were_understood(tokenizer, tmp_path):
    def notes(*sentences, **fields):
        return complete(tokenizer, tmp_path / "t.jsonl", sentences, **fields).notes()

    assert notes(["B-A", "L-A"], ["U-B", "O"]) == ["Tags: entities of the kinds A, B, in BILOU"]
    assert notes(["B", "I"], ["O"]) == ["Tags: entities of one kind without a name, in IOB"]
    assert notes(["DT", "NN"]) == ["Tags: plain tags, scored one by one"]
    (note,) = notes(["B-A", "X"], labels=("B-A", "I-A", "O", "X"))
    assert note.endswith("no entities in IOB, because of 'X'")


@pytest.mark.parametrize("odd", ["0", "B_A", "X-A", "I", "b-A"])
def test_a_tag_that_is_not_of_the_scheme_of_the_others_is_an_error_that_names_its_words(tokenizer, tmp_path, odd):
    sentences = [["B-A", "I-A", "O"], ["B-B", "I-B"], ["O", odd]]
    path = tmp_path / "t.jsonl"
    with pytest.raises(InputError) as caught:
        complete(tokenizer, path, sentences)
    first, last = str(caught.value).splitlines()
    assert first == f"{path}:3: word 2, 'word1', has the tag {odd!r}, which is not one of IOB"
    assert f"not {odd!r}; correct these tags or" in last
    labels = tuple(sorted({"B-A", "I-A", "B-B", "I-B", "O", odd}))
    assert last.endswith(f"--task.labels {' '.join(labels)}")
    assert not complete(tokenizer, path, sentences, labels=labels).entities


def test_entities_without_a_kind_are_scored_and_answered(tokenizer, tmp_path):
    task = complete(tokenizer, tmp_path / "t.jsonl", [["B", "I", "O"], ["O", "B"]], eval=str(tmp_path / "t.jsonl"))
    batches = task.eval_batches(batch_size=2)
    values = np.full(len(batches.features.input_ids), task.fields.labels.index("O"))
    evaluation = task.evaluate(predicted(task, batches.features, values), batches)
    assert (evaluation.metrics["f1"], evaluation.metrics["tag_accuracy"]) == (0, 0.4)
    right = predicted(task, batches.features, batches.features.token_arrays["labels"])
    assert task.evaluate(right, batches).metrics["f1"] == 1
    answers = task.decode(right, batches.features, batches.table)
    assert [[entity["text"] for entity in answer["entities"]] for answer in answers] == [["word0 word1"], ["word1"]]


def test_numbers_mean_the_tags_that_the_user_lists(tokenizer, tmp_path):
    labels = ("O", "B-A", "I-A")
    task = complete(tokenizer, tmp_path / "t.jsonl", [[1, 2, 0], [0, 1]], labels=labels)
    assert task.entities
    assert task.notes()[1] == "Rows may have numbers for their labels: 0 for 'O', 1 for 'B-A', 2 for 'I-A'"
    features = task.train_batches(batch_size=1, steps=1, seed=0).features
    gold = features.token_arrays["labels"][features.token_arrays["words"] > 0]
    assert gold.tolist() == [1, 2, 0, 0, 1]


def test_lists_in_the_cells_of_a_table_are_lists(tokenizer, tmp_path):
    (tmp_path / "t.tsv").write_text(
        "tokens\ttags\n['red', \"cat's\"]\t['O' 'B-A']\n[\"a b\"]\t[\"O\"]\n[ see ]\tO O O\n"
    )
    fields = TokenClassification(train=str(tmp_path / "t.tsv"), max_length=24, overlap=8)
    task = tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
    assert task.fields.labels == ("B-A", "O")
    words = [_read(row, "tokens")[0] for row in task.sources.train]
    assert words == [["red", "cat's"], ["a b"], ["[", "see", "]"]]
    (tmp_path / "t.tsv").write_text("tokens\ttags\n['red' ... 'cat']\t['O' ... 'B-A']\n")
    with pytest.raises(InputError, match=r"field 'tags' should be a list of labels, not \"\['O' \.\.\."):
        tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)


WORDS = {
    "Hindi": ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    "Tamil": ("தமிழ் மொழி.", ["தமிழ்", "மொழி", "."]),
    "a combining accent": ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
    "Arabic with vowels": ("كِتَابٌ جَدِيد", ["كِتَابٌ", "جَدِيد"]),
    "Hebrew with a quotation mark": ('צה"ל בא', ['צה"ל', "בא"]),
    "ideographs": ("北京大", ["北", "京", "大"]),
    "Thai": ("ภาษาไทย ดี", ["ภาษาไทย", "ดี"]),
    "Korean": ("한국어 문장", ["한국어", "문장"]),
    "apostrophes and numbers": ("It can't be 3.5%", ["It", "can't", "be", "3.5", "%"]),
    "hyphens and colons": ("well-known: yes", ["well", "-", "known", ":", "yes"]),
    "one sign of several characters": ("a 👨\u200d👩\u200d👧 🇫🇷!", ["a", "👨\u200d👩\u200d👧", "🇫🇷", "!"]),
    "no word": (" \u0301\u200b \t", []),
}


@pytest.mark.parametrize("name", WORDS)
def test_raw_text_is_split_into_words_in_every_script(name):
    text, words = WORDS[name]
    assert [text[start:end] for start, end in word_spans(text)] == words


@pytest.mark.parametrize("length", [3, 12, 30, 64, 128])
def test_a_folder_that_takes_few_tokens_has_windows_that_fit(tokenizer, length):
    fields = TokenClassification.from_hugging_face(LABELS, None, length)
    task = tasks.make(fields, replace(SMALL, vocab_size=70, max_position_embeddings=128), tokenizer)
    assert task.predict_batches([sentence(40)], batch_size=1).features.lengths.max() <= length
