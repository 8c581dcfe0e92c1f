"""Distillation: at its limits plain fine-tuning and pure matching; the teacher answers once and leaves no trace."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import pretrained, tasks, tokenizers
from bert_jax.config import AdamW, BertConfig, Compute, Distillation, Experiment, SequenceClassification
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.heads import BertForSequenceClassification
from bert_jax.interop.table import SetAside
from bert_jax.losses import Keys, cross_entropy, soft_cross_entropy
from bert_jax.predict import load
from bert_jax.pretrained import Weights, write_source
from bert_jax.tasks import labelled
from helpers.cli import run
from helpers.corpora import WORDS
from helpers.losses import NO_DROPOUT

TEACHER = BertConfig(
    vocab_size=0,
    hidden_size=24,
    num_layers=2,
    num_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
    initializer_range=0.3,  # its answers differ from row to row without training
)
STUDENT = replace(TEACHER, hidden_size=8, num_layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled and unlabelled rows, a tokenizer, and a teacher with random weights."""
    folder = tmp_path_factory.mktemp("distillation")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(60)]
    tokenizers.train("wordpiece", texts, 60).save(folder / "tokenizer")
    rows = [{"text": text, "label": ["no", "yes"][n % 2]} for n, text in enumerate(texts)]
    for name, part in (("train", rows[:16]), ("dev", rows[16:24]), ("more", [{"text": text} for text in texts[24:48]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    write_teacher(folder / "teacher", run_of(folder, SequenceClassification))
    return folder


def write_teacher(target, experiment, config=TEACHER, compute=Compute()):
    """Writes random weights as a run of `experiment`'s task."""
    tokenizer = tokenizers.load(Path(experiment.tokenizer))
    task = tasks.resolve(experiment.task, replace(config, vocab_size=tokenizer.vocab_size), tokenizer)
    params = jax.jit(task.model.init)(jax.random.key(0), task.dummy_batch())["params"]
    source = Weights("", task.config, tokenizer, task.fields, lambda: (params, SetAside()), compute)
    write_source(source, target, "orbax")


def run_of(data, kind, **fields):
    task = kind(folder=str(data), train="train.jsonl", eval="dev.jsonl", max_length=16)
    return Experiment(
        task=replace(task, **fields),
        model=STUDENT,
        tokenizer=str(data / "tokenizer"),
        optimizer=AdamW(learning_rate=1e-2),
        batch_size=8,
        steps=1,
        compute=Compute(sharding="single"),
    )


def made(data, kind=Distillation, **fields):
    """The task of a student."""
    if kind is Distillation:
        fields = {"teacher": str(data / "teacher")} | fields
    tokenizer = tokenizers.load(data / "tokenizer")
    return tasks.resolve(
        run_of(data, kind, **fields).task, replace(STUDENT, vocab_size=tokenizer.vocab_size), tokenizer
    )


@cache
def weights(classes):
    """A student's."""
    model = BertForSequenceClassification(replace(STUDENT, vocab_size=60), classes)
    batch = make_batch(np.zeros((1, 1), np.int32))
    return jax.jit(model.init)(jax.random.key(0), batch)["params"]


def params_of(task):
    assert task.config.vocab_size == 60
    return weights(task.model.num_classes)


def losses_of(task):
    """The losses of the first training batch, divided, and what they were made of."""
    batch = task.train_batches(batch_size=8, steps=1, seed=0)(0)

    @jax.jit
    def compute(params, batch):
        return task.loss_fn(params, batch, NO_DROPOUT).losses, task.logits(params, batch, NO_DROPOUT)

    losses, logits = compute(params_of(task), batch)
    return {name: float(loss.sum / loss.count) for name, loss in losses.items()}, batch, logits


def gradients_of(task, *batches):
    """Gradient, losses and metrics of each batch, with dropout: all that the training step takes from a task."""

    def objective(params, batch):
        outcome = task.loss_fn(params, batch, Keys(jax.random.key(1), jax.random.key(1)))
        return sum(loss.sum / loss.count for loss in outcome.losses.values()), (outcome.losses, outcome.metrics)

    compute = jax.jit(jax.grad(objective, has_aux=True))
    return [compute(params_of(task), batch) for batch in batches]


def test_the_teacher_is_opened_and_all_rows_are_read_once_for_all_seeds(folder, monkeypatch):
    opened, read = [], []
    open_source, read_rows = pretrained.open_source, labelled.read_rows
    monkeypatch.setattr(pretrained, "open_source", lambda source: opened.append(source) or open_source(source))
    monkeypatch.setattr(
        labelled, "read_rows", lambda source, **options: read.append(source) or read_rows(source, **options)
    )
    task = made(folder)
    for seed in range(3):
        task.train_batches(batch_size=8, steps=1, seed=seed)
    assert len(opened) == len(read) == 1


def test_with_all_weight_on_the_labels_it_is_plain_fine_tuning(folder):
    """Batch by batch, loss by loss and to the last bit of the gradient."""
    tasks = made(folder, SequenceClassification), made(folder, hard_weight=1.0, temperature=3.0)
    batches = [task.train_batches(batch_size=8, steps=1, seed=0)(0) for task in tasks]
    assert set(batches[1]) - set(batches[0]) == {"teacher_logits", "teacher_weights"}
    for name, array in batches[0].items():
        np.testing.assert_array_equal(array, batches[1][name])
    gradients = [gradients_of(task, batch) for task, batch in zip(tasks, batches, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_without_weight_on_the_labels_they_do_not_matter(folder):
    task = made(folder)
    batch = task.train_batches(batch_size=8, steps=1, seed=0)(0)
    (grads, (losses, _)), (swapped, (same, _)) = gradients_of(task, batch, batch | {"labels": 1 - batch["labels"]})
    jax.tree.map(np.testing.assert_array_equal, (grads, losses), (swapped, same))


def test_pure_matching_is_cross_entropy_to_the_teachers_softened_answers(folder):
    for temperature in (1.0, 4.0):
        losses, batch, logits = losses_of(made(folder, temperature=temperature))
        assert list(losses) == ["teacher_loss"]
        soft = jax.nn.softmax(batch["teacher_logits"][:, 0] / temperature)
        ours = jax.nn.log_softmax(logits[:, 0] / temperature)
        assert losses["teacher_loss"] == pytest.approx(
            float(-(temperature**2) * (soft * ours).sum(-1).mean()), rel=1e-5
        )


def test_a_weight_between_the_limits_mixes_the_two_losses(folder):
    hard, matching = (losses_of(made(folder, hard_weight=weight, temperature=2.0))[0] for weight in (1.0, 0.0))
    mixed = losses_of(made(folder, hard_weight=0.25, temperature=2.0))[0]
    assert mixed["class_loss"] == pytest.approx(0.25 * hard["class_loss"])
    assert mixed["teacher_loss"] == pytest.approx(0.75 * matching["teacher_loss"])


def test_a_teacher_trained_with_a_gpus_attention_answers_here(folder, tmp_path):
    config = replace(TEACHER, hidden_size=16, attention_dropout=0.0)
    compute = Compute(attention="cudnn", dtype="bfloat16")
    write_teacher(tmp_path / "teacher", run_of(folder, SequenceClassification), config, compute)
    assert '"cudnn"' in (tmp_path / "teacher" / "experiment.json").read_text()
    batch = made(folder, teacher=str(tmp_path / "teacher")).train_batches(batch_size=8, steps=1, seed=0)(0)
    assert np.isfinite(batch["teacher_logits"]).all()


def test_gradients_keep_their_scale_at_high_temperatures():
    """Hinton et al. 2015: there they are those of half the squared distance of centred logits, times 2 / classes."""
    student, teacher = jnp.array([[1.0, -0.5, 0.2]]), jnp.array([[0.3, 0.4, -0.7]])
    gradients = {}
    for t in (1.0, 100.0):

        def loss(x, t=t):
            return t**2 * soft_cross_entropy(x / t, jax.nn.softmax(teacher / t), jnp.ones(1)).sum

        gradients[t] = jax.jit(jax.grad(loss))(student)
    centred = [x - x.mean(axis=-1, keepdims=True) for x in (student, teacher)]
    np.testing.assert_allclose(gradients[100.0], (centred[0] - centred[1]) / 3, atol=3e-3)
    assert 0.5 < jnp.linalg.norm(gradients[1.0]) / jnp.linalg.norm(gradients[100.0]) < 2


def test_a_certain_teacher_is_a_label():
    logits, labels = jnp.array([[1.0, -0.5, 0.2], [0.0, 2.0, 1.0]]), jnp.array([2, 0])
    soft = soft_cross_entropy(logits, jax.nn.one_hot(labels, 3), jnp.ones(2))
    np.testing.assert_allclose(soft.sum, cross_entropy(logits, labels, jnp.ones(2)).sum, rtol=1e-6)


def test_the_batch_carries_what_the_teacher_predicts_of_each_row(folder):
    task = made(folder, train="", unlabelled="more.jsonl")
    batches = task.train_batches(batch_size=8, steps=1, seed=0)
    batch = batches(0)
    answers = load(folder / "teacher").predict([batches.table[i].values["text"] for i in batches.rows(0)])
    soft = jax.nn.softmax(batch["teacher_logits"][:, 0])
    expected = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    assert np.ptp(soft[:, 0]) > 0.01


def test_rows_without_labels_are_learnt_from_the_teacher_alone(folder):
    task = made(folder, unlabelled="more.jsonl", unlabelled_limit=20, hard_weight=0.5, limit=4)
    batches = task.train_batches(batch_size=24, steps=1, seed=0)
    batch = batches(0)
    assert batches.num_examples == 4 + 20
    assert batch["label_weights"].sum() == 4
    assert batch["teacher_weights"].sum() == 24
    ((_, (losses, _)),) = gradients_of(task, batch)
    assert losses["class_loss"].count == 4
    assert losses["teacher_loss"].count == 24


def test_packed_rows_match_the_teacher_as_unpacked_ones_do(folder):
    plain, packed = (losses_of(made(folder, packing=packing))[0] for packing in (False, True))
    assert packed["teacher_loss"] == pytest.approx(plain["teacher_loss"], rel=1e-5)


@pytest.mark.parametrize("target", ["multi_label", "regression"])
def test_other_targets_have_their_own_distance(folder, tmp_path, target):
    label = {"multi_label": ["no"], "regression": 1.5}[target]
    other = {"multi_label": ["yes", "no"], "regression": -2.0}[target]
    rows = [{"text": text, "label": value} for text, value in (("red cat", label), ("old dog", other)) for _ in "12"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"folder": str(tmp_path), "eval": "", "target": target}
    write_teacher(
        tmp_path / "teacher",
        replace(
            run_of(folder, SequenceClassification),
            task=SequenceClassification(max_length=16, train="train.jsonl", **data),
        ),
    )
    temperature = 2.0 if target == "multi_label" else 1.0
    task = made(folder, teacher=str(tmp_path / "teacher"), temperature=temperature, **data)
    losses, batch, logits = losses_of(task)
    ours, teachers = np.asarray(logits[:, 0], np.float64), np.asarray(batch["teacher_logits"][:, 0], np.float64)
    if target == "regression":
        expected = ((ours - teachers) ** 2).mean()
    else:
        p, q = (1 / (1 + np.exp(-x / temperature)) for x in (teachers, ours))
        expected = 4 * -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    assert losses["teacher_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_student_is_found_trained_and_used_from_the_command_line(folder, tmp_path, capsys):
    """And its checkpoint has its own arrays alone, so that it answers after the teacher is gone."""
    (folder / "teacher").rename(tmp_path / "teacher")
    try:
        text = f"""
from bert_jax.config import BertConfig, Compute, Distillation, Experiment
experiment = Experiment(
    task=Distillation(folder={str(folder)!r}, train="train.jsonl", unlabelled="more.jsonl", eval="dev.jsonl",
                      max_length=16, teacher={str(tmp_path / "teacher")!r}, hard_weight=0.5),
    model={STUDENT!r}, tokenizer={str(folder / "tokenizer")!r}, batch_size=8, epochs=1,
    compute=Compute(sharding="single"),
)"""
        (tmp_path / "distil.py").write_text(text)
        assert run("train", tmp_path / "distil.py", "--workdir", tmp_path / "student", "--task.temperature", 2) == 0
    finally:
        (tmp_path / "teacher").rename(folder / "teacher")
    stored = json.loads((tmp_path / "student/experiment.json").read_text())
    assert stored["task"]["labels"] == ["no", "yes"]
    assert stored["task"]["temperature"] == 2
    assert stored["steps"] == 5  # 16 rows with labels and 24 without, 8 at a time
    figures = [json.loads(line) for line in (tmp_path / "student/metrics.jsonl").read_text().splitlines()]
    assert {"class_loss", "teacher_loss"} <= figures[0].keys()
    assert "teacher_loss" not in json.loads((tmp_path / "student/result.json").read_text())["metrics"]

    of_student, alone = load(tmp_path / "student").params, params_of(made(folder, SequenceClassification))
    assert jax.tree.map(jnp.shape, of_student) == jax.tree.map(jnp.shape, alone)
    capsys.readouterr()
    (tmp_path / "in.jsonl").write_text('{"text": "red cat"}\n')
    assert run("predict", tmp_path / "student", "--input", tmp_path / "in.jsonl") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("no", "yes")
    assert run("evaluate", tmp_path / "student") == 0
    assert run("convert", tmp_path / "student", tmp_path / "huggingface") == 0
    assert json.loads((tmp_path / "huggingface/config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_a_field_that_cannot_be_is_named_with_what_would_be_right(folder, tmp_path):
    cases = [
        ({"teacher": ""}, r"task\.teacher: name a SOURCE"),
        ({"teacher": str(tmp_path)}, "a SOURCE is a run's workdir"),
        (
            {"target": "regression"},
            r"was trained for target single_label; name a run of SequenceClassification with target regression",
        ),
        ({"labels": ("bad", "good")}, r"task\.labels: bad, good, but the teacher has no, yes"),
        ({"train": ""}, r"task\.train: name rows with labels, or set hard_weight 0 and name `unlabelled` rows"),
        ({"train": "", "unlabelled": "more.jsonl", "hard_weight": 0.1}, r"task\.train: name rows with labels"),
        ({"temperature": 0.0}, r"task\.temperature: must be above 0, got 0\.0"),
        ({"hard_weight": 1.5}, r"task\.hard_weight: must be between 0 and 1, got 1\.5"),
    ]
    for fields, message in cases:
        with pytest.raises(InputError, match=message):
            made(folder, **fields)
