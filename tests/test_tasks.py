"""What every task fulfils, whatever it predicts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bert_jax import tasks
from bert_jax.config import (
    Distillation,
    MultipleChoice,
    Pretraining,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from bert_jax.metrics import lower_is_better
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.training.step import evaluate_step, train_step
from helpers.models import MODEL, NO_DROPOUT
from helpers.steps import NoTokenizer, uneven_batch

TEXTS = ["red cat", "blue dog sings", "green bird here now", "old fish", "gold cat eats there"]
ROWS = [
    {
        "text": text,
        "label": "no" if i % 3 else "yes",
        "labels": ["no", "yes"][: i % 3],
        "number": i / 3,
        "tokens": text.split(),
        "tags": ["O" if len(word) > 3 else "B-X" for word in text.split()],
        "context": text,
        "question": "cat",
        "answers": [{"text": text.split()[1], "answer_start": text.index(" ") + 1}],
        "choices": ["runs", "sleeps", "sings"][: 2 + i % 2],
        "index": i % 2,
    }
    for i, text in enumerate(TEXTS)
]
FIELDS = {
    "single_label": SequenceClassification(balanced=True),
    "multi_label": SequenceClassification(target="multi_label", label="labels"),
    "regression": SequenceClassification(target="regression", label="number"),
    "packed": SequenceClassification(packing=True),
    "tokens": TokenClassification(overlap=4),
    "questions": QuestionAnswering(max_question_length=4),
    "choices": MultipleChoice(label="index"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def assert_counts(task, batch):
    params = task.model.init(jax.random.key(0), task.dummy_batch())["params"]
    losses, counts = task.loss_fn(params, batch, NO_DROPOUT).losses, task.counts(batch)
    assert counts.keys() == losses.keys()
    for name, loss in losses.items():
        np.testing.assert_array_equal(counts[name], loss.count)
        assert counts[name] > 0
        assert lower_is_better(name)


@pytest.mark.parametrize("name", FIELDS)
def test_counts_of_labelled_rows_are_those_of_the_losses(name, rows, tokenizer):
    fields = replace(FIELDS[name], train=rows, max_length=32)
    fields = tasks.TASKS[type(fields).__name__].resolve(fields)
    task = tasks.make(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
    assert_counts(task, task.train_batches(batch_size=5, steps=1, seed=0)(0))


@pytest.mark.parametrize("hard_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("target", ["single_label", "multi_label", "regression"])
def test_counts_of_distillation_are_those_of_the_losses(target, hard_weight, tokenizer):
    fields = Distillation(target=target, labels=("no", "yes"), hard_weight=hard_weight, max_length=32)
    task = tasks.make(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
    labels = {
        "single_label": np.array([[0], [1]], np.int32),
        "multi_label": np.array([[[0, 1]], [[1, 1]]], np.float32),
        "regression": np.array([[0.5], [2.0]], np.float32),
    }[target]
    batch = uneven_batch()
    batch = {name: batch[name][:2] for name in ("input_ids", *batch) if not name.startswith(("masked", "pair"))}
    batch |= {"labels": labels, "label_weights": np.array([[1], [0]], np.float32)}
    assert_counts(task, batch)  # as in evaluation
    teacher = {"teacher_logits": np.ones((2, 1, task.model.num_classes), np.float32)}
    assert_counts(task, batch | teacher | {"teacher_weights": np.ones((2, 1), np.float32)})


@pytest.mark.parametrize("pairs", ["none", "nsp"])
def test_counts_of_pretraining_are_those_of_the_losses(pairs):
    task = PretrainingTask(Pretraining(pairs=pairs), replace(MODEL, vocab_size=56), NoTokenizer())
    assert_counts(task, uneven_batch())


def test_training_has_keys_for_dropout_and_sampling_and_evaluation_has_one_that_never_changes():
    seen = []

    def loss_fn(params, batch, keys):
        seen.append(keys)
        raise StopIteration

    state = SimpleNamespace(key=jax.random.key(7), step=3, params={})
    batch = {"sequence_ids": np.ones((1, 1))}
    for step in (
        lambda: train_step(state, batch, loss_fn=loss_fn, counts=lambda batch: {}),
        lambda: evaluate_step({}, batch, loss_fn=loss_fn),
        lambda: evaluate_step({}, batch, loss_fn=loss_fn),
    ):
        with pytest.raises(StopIteration):
            step()
    training, evaluation, again = seen
    assert training.dropout == jax.random.fold_in(jax.random.key(7), 3)
    assert training.sample != training.dropout
    assert evaluation.dropout is None
    assert evaluation.sample == again.sample
