"""Multiple choice: the choices of an example share a row without seeing each other."""

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from bert_jax import tasks
from bert_jax.config import MultipleChoice
from bert_jax.data.rows import Row
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.training.evaluate import run
from bert_jax.training.step import evaluate_step
from helpers.corpora import NAMES
from helpers.losses import NO_DROPOUT, assert_packed_learns_what_padded_does
from helpers.models import MODEL
from helpers.weights import random_weights

SMALL = replace(MODEL, num_layers=1, max_position_embeddings=16)


def make(tokenizer, resolve=False, **fields):
    fields = MultipleChoice(**{"train": "t", "max_length": 16} | fields)
    return (tasks.resolve if resolve else tasks.make)(
        fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer
    )


def test_a_choice_scores_the_same_with_others_as_alone(tokenizer):
    task = make(tokenizer)
    texts = ["red", "blue green", "gold small large doghouse cats " * 3, "cats"]
    row = Row({"context": "Paris red", "choices": texts, "label": 2}, "f:1")
    params = random_weights(task.model, task.dummy_batch())
    together = task.predict_batches([row], batch_size=1)(0)
    assert together["input_ids"].shape[0] == 1
    logits = jax.jit(lambda batch: task.logits(params, batch, NO_DROPOUT)[0])
    scores = logits(together)
    for i, text in enumerate(texts):
        pair = task.predict_batches([Row({"context": "Paris red", "choices": [text, text]}, "f:1")], batch_size=1)(0)
        np.testing.assert_allclose(logits(pair), scores[i], atol=1e-5)


def test_rows_may_have_different_numbers_of_choices(tokenizer):
    task = make(tokenizer)
    rows = [Row({"context": "red", "choices": NAMES[:n]}, f"f:{n}") for n in (2, 9, 3)]
    params = random_weights(task.model, task.dummy_batch())
    batches = task.predict_batches(rows, batch_size=4)
    step = Devices("single", 4).wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
    _, _, predictions = run(partial(step.over, params), batches)
    answers = task.decode(predictions, batches.features, rows)
    for row, answer in zip(rows, answers, strict=True):
        assert len(answer["probabilities"]) == len(row.values["choices"])
        assert sum(answer["probabilities"]) == pytest.approx(1)
        assert answer["text"] == row.values["choices"][answer["choice"]]


def test_packed_examples_teach_what_padded_ones_do(tokenizer, tmp_path):
    # Examples of two to four choices, of unequal lengths: some rows hold one example, some several.
    rows = [
        {"context": "red " * (1 + i % 4), "choices": [name * (1 + j) for j, name in enumerate(NAMES[: 2 + i % 3])]}
        for i in range(9)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row | {"label": i % 2}) + "\n" for i, row in enumerate(rows)))
    kinds = [make(tokenizer, train=str(path), packing=packing) for packing in (False, True)]
    assert_packed_learns_what_padded_does(*kinds, batch_size=9)


def test_choices_in_columns_are_read_as_choices_in_a_list(tokenizer, tmp_path):
    (tmp_path / "t.csv").write_text("sent1,a,b,label\nred,blue,gold,1\n")
    (tmp_path / "t.jsonl").write_text(json.dumps({"context": "red", "choices": ["blue", "gold"], "label": 1}) + "\n")
    named = {"context": "sent1", "choices": ("a", "b"), "first_choice": 0}
    columns = make(tokenizer, eval=str(tmp_path / "t.csv"), **named).eval_batches(batch_size=1)(0)
    listed = make(tokenizer, eval=str(tmp_path / "t.jsonl"), first_choice=0).eval_batches(batch_size=1)(0)
    jax.tree.map(np.testing.assert_array_equal, columns, listed)
    assert listed["labels"].tolist() == [[1]]


def test_bad_rows_are_all_named_with_file_and_line(tokenizer, tmp_path):
    rows = [
        {"context": "red", "choices": ["blue", "gold"], "label": 2},
        {"context": "red", "choices": ["blue"], "label": 0},
        {"context": "red", "choices": ["blue", "  "], "label": 0},
        {"context": "red", "choices": ["blue", "gold"], "label": "x"},
        {"context": "red", "choices": ["blue", "gold"], "label": 0.5},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as caught:
        make(tokenizer, train=str(path)).train_batches(batch_size=1, steps=1, seed=0)
    lines = str(caught.value).splitlines()
    assert sorted(lines) == [
        f"{path}:1: field 'label' should be the right choice, 0 to 1, a letter, A to B, or its text, not '2'",
        f"{path}:2: field 'choices' should be a list of two or more texts",
        f"{path}:3: field 'choices' should be a list of two or more texts",
        f"{path}:4: field 'label' should be the right choice, 0 to 1, a letter, A to B, or its text, not 'x'",
        f"{path}:5: field 'label' should be the right choice, 0 to 1, a letter, A to B, or its text, not '0.5'",
    ]


TEXTS = ["red", "blue", "gold", "cats"]
OWN = {"text": TEXTS, "label": ["A", "B", "C", "D"]}  # ARC's form
LABELS = {
    "from 0": (TEXTS, [0, "3", 1.0], [0, 3, 1], 0),
    "from 1": (TEXTS, [1, 4, "2"], [0, 3, 1], 1),
    "letters": (TEXTS, ["A", "d", " B "], [0, 3, 1], 0),
    "texts": (TEXTS, ["red", "cats", "blue "], [0, 3, 1], 0),
    "labels of their own": (OWN, ["A", "D", "B"], [0, 3, 1], 0),
    "numbers of their own": (OWN | {"label": [1, 2, 3, 4]}, ["1", 4, "2"], [0, 3, 1], 0),
    "a list in a cell": (str(TEXTS), ["0", "3", "1"], [0, 3, 1], 0),
}


@pytest.mark.parametrize("name", LABELS)
def test_right_choices_are_read_as_their_makers_number_them(tokenizer, tmp_path, name):
    choices, labels, expected, first = LABELS[name]
    path = tmp_path / "t.jsonl"
    rows = ({"context": "red", "choices": choices, "label": label} for label in labels)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make(tokenizer, train=str(path), resolve=True)
    features = task.train_batches(batch_size=1, steps=1, seed=0).features
    assert (features.arrays["labels"].ravel().tolist(), task.fields.first_choice) == (expected, first)
    assert task.notes() == (["Right choices are counted from 1"] if first else [])


def test_labels_that_do_not_show_where_they_begin_are_mentioned(tokenizer, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"context": "red", "choices": TEXTS, "label": n}) + "\n" for n in (1, 2, 3)))
    task = make(tokenizer, train=str(path), resolve=True)
    (note,) = task.notes()
    assert note.endswith("the labels do not show from which number: --task.first-choice 0 or 1 sets it")
    with pytest.warns(UserWarning, match="counted from 0, by the labels of these rows; set task.first_choice"):
        make(tokenizer, eval=str(path)).eval_batches(batch_size=1)
    labels = make(tokenizer, eval=str(path), first_choice=1).eval_batches(batch_size=3).features.arrays["labels"]
    assert labels.ravel().tolist() == [0, 1, 2]
    # A file that has both 0 and the number of choices is right in no reading: its rows are named.
    path.write_text("".join(json.dumps({"context": "red", "choices": TEXTS, "label": n}) + "\n" for n in (0, 4)))
    with pytest.raises(InputError, match=r"t\.jsonl:2: .* 0 to 3, a letter, A to D, or its text, not '4'"):
        make(tokenizer, train=str(path), resolve=True).train_batches(batch_size=1, steps=1, seed=0)
