"""What every task fulfils, whatever it predicts."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bert_jax import tasks
from bert_jax.config import (
    TASK_KINDS,
    Distillation,
    MlmDistillation,
    MultipleChoice,
    Pretraining,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from bert_jax.errors import InputError
from bert_jax.metrics import lower_is_better
from bert_jax.tasks import labelled
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.tasks.sequence_classification import SequenceClassificationTask
from bert_jax.training.evaluate import run
from bert_jax.training.step import evaluate_step, train_step
from helpers import stores
from helpers.losses import NO_DROPOUT
from helpers.models import MODEL
from helpers.steps import NoTokenizer, uneven_batch
from helpers.weights import random_weights

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


def test_every_kind_of_fields_has_a_task_a_title_and_a_score():
    assert tasks.TASKS.keys() == TASK_KINDS.keys()
    assert len({kind.title for kind in TASK_KINDS.values()}) == len(TASK_KINDS)
    assert all(kind.primary_figures for kind in TASK_KINDS.values())
    own = [kind for kind in TASK_KINDS.values() if kind not in (Pretraining, MlmDistillation, Distillation)]
    assert len({kind.hugging_face_class for kind in own}) == len(own)


def assert_counts(task, batch):
    params = random_weights(task.model, task.dummy_batch())

    @jax.jit
    def counts_of_losses(params, batch):  # the losses themselves are not computed
        return {name: loss.count for name, loss in task.loss_fn(params, batch, NO_DROPOUT).losses.items()}

    expected, counts = counts_of_losses(params, batch), task.counts(batch)
    assert counts.keys() == expected.keys()
    for name, count in expected.items():
        np.testing.assert_array_equal(counts[name], count)
        assert counts[name] > 0
        assert lower_is_better(name)


@pytest.mark.parametrize("name", FIELDS)
def test_counts_of_labelled_rows_are_those_of_the_losses(name, rows, tokenizer):
    fields = replace(FIELDS[name], train=rows, max_length=32)
    task = tasks.resolve(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
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


@pytest.fixture
def counted(monkeypatch):
    """Makes a function note its calls."""

    def count(owner, name):
        calls, function = [], getattr(owner, name)

        def noted(*args, **options):
            calls.append(args)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, noted)
        return calls

    return count


@pytest.mark.parametrize("limit", [None, 3])
def test_rows_are_read_once_for_labels_steps_and_all_seeds(limit, rows, tokenizer, counted):
    read, featurised = counted(labelled, "read_rows"), counted(SequenceClassificationTask, "features")
    fields = SequenceClassification(train=rows, limit=limit, max_length=32)
    task = tasks.resolve(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
    for seed in (0, 0, 1, 2):
        task.train_batches(batch_size=2, steps=1, seed=seed)
    assert len(read) == 1
    assert len(featurised) == (1 if limit is None else 3)


@pytest.mark.parametrize(
    ("name", "decoder"), [("questions", "_answers"), ("tokens", "_words"), ("single_label", "decode")]
)
def test_an_evaluation_decodes_once_and_answers_the_first_rows(name, decoder, rows, tokenizer, counted):
    fields = replace(FIELDS[name], train=rows, eval=rows, max_length=32)
    task = tasks.resolve(fields, replace(MODEL, vocab_size=tokenizer.vocab_size), tokenizer)
    batches = task.eval_batches(batch_size=5)
    params = random_weights(task.model, task.dummy_batch())
    step = jax.jit(partial(evaluate_step, loss_fn=task.loss_fn))
    _, _, predictions = run(partial(map, partial(step, params)), batches)
    calls = counted(type(task), decoder)
    evaluation = task.evaluate(predictions, batches)
    assert len(calls) == 1
    answers = task.decode(predictions, batches.features, batches.table)
    assert evaluation.examples == [{"input": row, **answer} for row, answer in zip(ROWS, answers, strict=True)]


def test_the_accuracy_of_a_constant_answer_is_computed_once(counted):
    made = stores.batches(replace(stores.PLAIN, held_out=0.5), split="eval", steps=1)
    calls = counted(type(made), "__call__")
    task = PretrainingTask(Pretraining(), replace(MODEL, vocab_size=56), NoTokenizer())
    first, second = (task.evaluate({}, made) for _ in range(2))
    assert first == second
    assert len(calls) == made.num_steps
    every = [made(step) for step in range(made.num_steps)]
    labels = np.concatenate([batch["masked_labels"][batch["masked_weights"] > 0] for batch in every])
    assert first.metrics["unigram_accuracy"] == np.bincount(labels).max() / len(labels)


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


def test_accuracy_by_position_is_that_of_the_masked_tokens_in_each_part_of_the_length():
    task = PretrainingTask(Pretraining(pairs="none", position_parts=3), replace(MODEL, first_position=2), NoTokenizer())
    batch = uneven_batch(length=12, slots=6)
    right = np.random.default_rng(1).random(batch["masked_labels"].shape) < 0.4
    batch["masked_positions"] = np.random.default_rng(2).integers(0, 12, right.shape).astype(np.int32)
    batch["sequence_ids"][:], batch["position_ids"][:] = 1, np.arange(2, 14)
    guesses = np.where(right, batch["masked_labels"], 55)  # no label is 55
    task.model = SimpleNamespace(apply=lambda *_, **__: {"mlm": jax.nn.one_hot(guesses, 56)})
    outcome = jax.jit(task.loss_fn)({}, batch, NO_DROPOUT)
    for part in range(3):
        here = (batch["masked_positions"] // 4 == part) * batch["masked_weights"]
        mean = outcome.metrics[f"mlm_accuracy_part_{part + 1}"]
        assert (float(mean.sum), float(mean.count)) == pytest.approx(((here * right).sum(), here.sum()))
    training = jax.eval_shape(task.loss_fn, {}, batch, NO_DROPOUT._replace(dropout=jax.random.key(0)))
    assert list(training.metrics) == ["mlm_accuracy"]  # the figures of training stay as they are
    with pytest.raises(InputError, match=r"task\.position_parts: is about masked tokens"):
        Pretraining(objective="rtd", pairs="none", position_parts=4)
