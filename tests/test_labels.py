"""Labels are read as their makers meant: names and numbers, none and several, from rows and from tables."""

from dataclasses import replace

import numpy as np
import pytest

from bert_jax.config import SequenceClassification
from bert_jax.errors import InputError
from helpers.rows import make, write


@pytest.mark.parametrize(
    ("others", "missing", "listed"),
    [([0, 1, 2], -1, "-1 0 1 2"), (["no", "yes"], "-", "- no yes"), ([3.0, "1"], "-1", "-1 1 3")],
)
def test_a_label_for_no_label_is_an_error_that_counts_and_names_its_rows(tokenizer, tmp_path, others, missing, listed):
    labels = [*others, missing, others[0], missing]
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": label} for label in labels])
    message = rf"2 of {len(labels)} rows have it \(.*:{len(others) + 1}, .*:{len(labels)}\).*--task.labels {listed}$"
    with pytest.raises(InputError, match=message):
        make(SequenceClassification(train=path), tokenizer)
    names = tuple(listed.split())
    with pytest.raises(InputError, match=message):
        make(SequenceClassification(train=path, labels=names[1:]), tokenizer).eval_batches(batch_size=2, data=path)
    task = make(SequenceClassification(train=path, labels=names), tokenizer)
    assert task.train_batches(batch_size=2, steps=1, seed=0).features.arrays["labels"][-1] == 0


@pytest.mark.parametrize("labels", [("-1", "1"), ("+", "-", "0"), ("-2", "-1", "0"), ("-", "yes")])
def test_a_sign_that_has_its_opposite_is_a_class(tokenizer, tmp_path, labels):
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": label} for label in labels])
    assert set(make(SequenceClassification(train=path), tokenizer).fields.labels) == set(labels)


@pytest.mark.parametrize(
    ("names", "fields", "positive", "f1"),
    [
        (("entailed", "not_entailed"), {}, "entailed", 0.8),
        (("maybe", "sure"), {}, "sure", 0.0),
        (("maybe", "sure"), {"positive": "maybe"}, "maybe", 0.8),
        (("entailed", "not_entailed"), {"labels": ("entailed", "not_entailed")}, "not_entailed", 0.0),
    ],
)
def test_f1_of_two_classes_is_about_the_one_that_the_run_names(tokenizer, tmp_path, names, fields, positive, f1):
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": names[i > 1]} for i in range(3)])
    task = make(SequenceClassification(train=path, eval=path, **fields), tokenizer)
    (note,) = task.notes()
    assert note.startswith(f"F1 is about the label '{positive}'")
    answers = {"probabilities": np.array([[0.9, 0.1]] * 3)}
    assert task.evaluate(answers, task.eval_batches(batch_size=3)).metrics["f1"] == pytest.approx(f1)


def test_a_positive_class_that_is_not_one_of_two_is_an_error(tokenizer):
    for labels in (("a", "b"), ("a", "b", "c")):
        with pytest.raises(InputError, match=r"task\.positive: must be .*, got 'x'"):
            make(SequenceClassification(train="t", labels=labels, positive="x"), tokenizer)


def test_one_label_in_all_is_enough_where_a_row_may_have_none(tokenizer, tmp_path):
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": ["x"]}, {"text": "dog", "label": []}])
    task = make(SequenceClassification(train=path, target="multi_label"), tokenizer)
    assert task.fields.labels == ("x",)
    assert task.notes() == []


def test_a_table_holds_several_labels_in_columns_or_between_separators(tokenizer, tmp_path):
    files = {
        "columns.csv": ("text,b,a\ncat,1,1.0\ndog,0,TRUE\nfish,false,0\n", {"label_columns": ("a", "b")}),
        "bars.csv": ("text,label\ncat,a|b\ndog,a \nfish,\n", {"label_separator": "|"}),
        "lists.tsv": ("text\tlabel\ncat\t['b', 'a']\ndog\t[\"a\"]\nfish\t[]\n", {}),
    }
    for name, (content, fields) in files.items():
        (tmp_path / name).write_text(content)
        task = make(SequenceClassification(train=str(tmp_path / name), target="multi_label", **fields), tokenizer)
        assert task.fields.labels == ("a", "b")
        labels = task.train_batches(batch_size=3, steps=1, seed=0).features.arrays["labels"][:, 0]
        assert labels.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_a_table_whose_labels_cannot_be_read_is_an_error_with_the_way_on(tokenizer, tmp_path):
    (tmp_path / "t.csv").write_text("text,label,toxic\ncat,a|b,1\ndog,b,2\n")
    fields = SequenceClassification(train=str(tmp_path / "t.csv"), target="multi_label")
    with pytest.raises(InputError, match=r"t\.csv:2: .* not 'a|b'; .*task\.label_columns.*task\.label_separator"):
        make(fields, tokenizer)
    with pytest.raises(InputError, match=r"t\.csv:3: field 'toxic' should be 0 or 1, not \"2\""):
        make(replace(fields, label_columns=("toxic",)), tokenizer)
    with pytest.raises(InputError, match="need target multi_label, got single_label"):
        make(SequenceClassification(train="t", labels=("a", "b"), label_columns=("a",)), tokenizer)


def test_numbers_mean_the_names_that_the_user_lists_and_nobody_elses(tokenizer, tmp_path):
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": label} for label in (1, 0, 1)])
    listed = make(SequenceClassification(train=path, labels=("bad", "good")), tokenizer)
    assert listed.fields.label_numbers
    assert listed.notes()[0] == "Rows may have numbers for their labels: 0 for 'bad', 1 for 'good'"
    assert listed.train_batches(batch_size=1, steps=1, seed=0).features.arrays["labels"].ravel().tolist() == [1, 0, 1]
    # Nobody listed these names for the rows that are evaluated: a folder's order need not be that of the rows.
    named = make(SequenceClassification(train="t", labels=("bad", "good")), tokenizer)
    with pytest.raises(
        InputError, match=r"label '1' is none of bad, good; if the rows have the numbers .*label_numbers"
    ):
        named.eval_batches(batch_size=1, data=path)
    for fields in ({"labels": ("bad", "good"), "label_numbers": True}, {"labels": ("LABEL_0", "LABEL_1")}):
        task = make(SequenceClassification(train="t", **fields), tokenizer)
        assert task.eval_batches(batch_size=3, data=path).features.arrays["labels"].ravel().tolist() == [1, 0, 1]
