"""One policy for rows that cannot be used, and a line about each row that is left out or cut."""

import json
from dataclasses import replace

import pytest

from bert_jax import tasks
from bert_jax.config import MultipleChoice, QuestionAnswering, SequenceClassification, TokenClassification
from bert_jax.data import rows as data_rows
from bert_jax.data.rows import Row
from bert_jax.errors import InputError
from bert_jax.tokenizers.wordpiece import WordPiece
from helpers.models import MODEL

ANSWER = {"context": "the red cat", "question": "what", "answers": [{"text": "red", "answer_start": 4}]}
# Good rows of each task, and bad ones.
CLASSES = SequenceClassification(labels=("a", "b"))
CASES = {
    "class": (
        CLASSES,
        [{"text": "red", "label": "a"}, {"text": "", "label": "b"}],
        [{"text": 7, "label": "a"}, {"text": "cat", "label": "z"}, {"label": "a"}, {"text": "cat", "label": None}],
    ),
    "found labels": (
        SequenceClassification(),
        [{"text": "red", "label": "a"}, {"text": "cat", "label": "b"}],
        [{"text": "dog", "label": "-1"}, {"text": "fish", "label": "-1"}, {"text": "bird", "label": None}],
    ),
    "number": (
        SequenceClassification(target="regression"),
        [{"text": "red", "label": 1}, {"text": "cat", "label": 2}],
        [{"text": "red", "label": "many"}],
    ),
    "tags": (
        TokenClassification(overlap=2),
        [{"tokens": ["red", "cat"], "tags": ["O", "B-X"]}, {"tokens": ["dog"], "tags": ["O"]}],
        [{"tokens": ["red", "cat"], "tags": ["O"]}, {"tokens": [], "tags": []}],
    ),
    "questions": (
        QuestionAnswering(max_question_length=4),
        [ANSWER, ANSWER | {"question": "which"}],
        [ANSWER | {"question": None}, ANSWER | {"answers": 3}],
    ),
    "choices": (
        MultipleChoice(),
        [{"context": "red", "choices": ["cat", "dog"], "label": i} for i in (0, 1)],
        [{"context": "red", "choices": ["cat"], "label": 0}, {"context": "red", "choices": ["a", "b"], "label": 7}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_rows_stop_or_are_left_out_counted_and_named(name, tmp_path, tokenizer):
    fields, good, bad = CASES[name]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in (good[0], *bad, good[1])]
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]) + "\n")  # and a line that is not JSON
    config = replace(MODEL, vocab_size=tokenizer.vocab_size)
    fields = replace(fields, train=str(path), eval=str(path), max_length=32)
    with pytest.raises(InputError, match=r"rows\.jsonl:3: this line is not JSON"):
        tasks.resolve(fields, config, tokenizer).train_batches(batch_size=2, steps=1, seed=0)
    task = tasks.resolve(replace(fields, on_bad_row="skip"), config, tokenizer)
    count = len(bad) + 1
    for batches in (task.train_batches(batch_size=2, steps=1, seed=0), task.eval_batches(batch_size=2)):
        assert [row.values for row in batches.table] == good
        assert f"{path}: {count} of {count + 2} rows were skipped:" in batches.notes[0]
        assert f"{path}:3: this line is not JSON" in batches.notes[0]
    path.write_text("\n".join([*lines[1:-1]]) + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl:1"):  # nothing is left
        task.eval_batches(batch_size=2)


def test_rows_to_predict_are_left_out_only_on_request(tokenizer):
    fields = SequenceClassification(labels=("a", "b"), max_length=16)
    task = tasks.make(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
    rows = [Row({"text": "red"}, "f:1"), Row({"text": 3}, "f:2"), Row({"txt": "red"}, "f:3"), Row({"text": ""}, "f:4")]
    with pytest.raises(InputError, match="f:2: field 'text' should be a text, not 3\nf:3: field 'text' is missing"):
        task.predict_batches(rows, batch_size=4)
    batches = task.predict_batches(rows, batch_size=4, skip=True)
    assert [row.where for row in batches.table] == ["f:1", "f:4"]
    assert batches.summary.skipped.count == 2


def test_a_sentence_with_a_bad_line_is_left_out_whole(tmp_path):
    path = tmp_path / "t.conll"
    path.write_text("red O\ncat\n\ndog O\n")
    errors = data_rows.RowErrors()
    assert [row.values["tokens"] for row in data_rows.read_rows(str(path), errors=errors)] == [["dog"]]
    assert errors.lines() == [f"{path}:2: 1 columns, but the first line of the file has 2"]


@pytest.mark.parametrize(
    ("fields", "row", "lost", "limit"),
    [
        (
            SequenceClassification(labels=("a", "b"), max_length=6),
            {"text": "red " * 9},
            5,
            "6 tokens (task.max_length)",
        ),
        (
            replace(CLASSES, text_b="other", max_length=8),
            {"text": "red " * 4, "other": "red " * 5},
            4,
            "8 tokens (task.max_length)",
        ),
        (
            MultipleChoice(max_length=6),
            {"context": "red", "choices": ["red red red", "red"]},
            1,
            "6 tokens (task.max_length)",
        ),
        (
            QuestionAnswering(max_length=32, max_question_length=2),
            {"context": "red red", "question": "red red red"},
            1,
            "2 tokens (task.max_question_length)",
        ),
    ],
)
def test_texts_that_are_cut_are_counted_with_the_share_of_lost_tokens(fields, row, lost, limit):
    short = {name: "red" if isinstance(value, str) else value[1:] * 2 for name, value in row.items()}
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"])
    task = tasks.make(fields, replace(MODEL, vocab_size=6), tokenizer)
    batches = task.predict_batches([Row(row, "f:1"), Row(short, "f:2")], batch_size=2)
    assert batches.features.lost.tolist() == [lost, 0]
    share = lost / (lost + batches.features.lengths.sum())
    (line,) = batches.summary.lines("f")
    assert line == f"f: 1 of 2 rows are longer than {limit} and were cut; {share:.1%} of all tokens were lost"


def test_labels_with_few_rows_are_mentioned(tmp_path, tokenizer):
    path, config = tmp_path / "rows.jsonl", replace(MODEL, vocab_size=tokenizer.vocab_size)
    rows = [{"text": "red", "label": "often", "tokens": ["red"] * 3, "tags": ["O"] * 3}] * 5
    rows += [{"text": "cat", "label": "seldom", "tokens": ["cat"] * 3, "tags": ["B-X", "I-X", "O"]}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    classes = SequenceClassification(train=str(path), max_length=16)
    for fields, listed in (
        (classes, "seldom (2)"),
        (
            SequenceClassification(train=str(path), labels=("often", "never", "seldom"), max_length=16),
            "never (0), seldom (2)",
        ),
        (TokenClassification(train=str(path), max_length=16, overlap=2), "B-X (2), I-X (2)"),
    ):
        batches = tasks.resolve(fields, config, tokenizer).train_batches(batch_size=2, steps=1, seed=0)
        assert batches.notes == [f"{path}: labels with fewer than 5 rows: {listed}"]


def test_a_second_text_that_training_does_not_read_is_mentioned(tmp_path, tokenizer):
    path, config = tmp_path / "rows.jsonl", replace(MODEL, vocab_size=tokenizer.vocab_size)
    rows = [{"premise": "red", "hypothesis": "cat", "label": label} for label in "ab" * 5]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = SequenceClassification(train=str(path), text="premise", max_length=16)
    for text_b, notes in (
        (None, [f"{path}: field 'hypothesis' is not read; for pairs, set task.text_b"]),
        ("label", []),
    ):
        task = tasks.resolve(replace(fields, text_b=text_b), config, tokenizer)
        assert list(task.train_batches(batch_size=2, steps=1, seed=0).notes) == notes
