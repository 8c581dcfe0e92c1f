"""MLM distillation: the three losses, a teacher that leaves no trace, and clear errors."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import bert_jax
from bert_jax import pretrained, tasks, tokenizers
from bert_jax.config import MlmDistillation, Pretraining
from bert_jax.errors import InputError
from bert_jax.interop.table import SetAside
from bert_jax.pretrained import Weights, write_source
from helpers.experiments import pretraining, silent
from helpers.losses import NO_DROPOUT
from helpers.models import QUIET
from helpers.steps import FEW_PARAMETERS
from helpers.weights import compiled, random_weights

TEACHER = replace(QUIET, num_layers=2, **FEW_PARAMETERS)
STUDENT = replace(TEACHER, num_layers=1)


def untrained_weights(task, seed: int):
    """Weights so large that answers differ without training."""
    weights = random_weights(task.model, task.dummy_batch(), seed)
    return jax.tree.map(lambda x: 15 * x if x.ndim > 1 else x, weights)


@pytest.fixture(scope="module")
def teacher(data):
    """A workdir with a model of random weights."""
    tokenizer = tokenizers.load(data / "tokenizer")
    config = replace(TEACHER, vocab_size=tokenizer.vocab_size)
    task = tasks.make(Pretraining(pairs="none"), config, tokenizer)
    params = jax.device_get(untrained_weights(task, seed=0))
    folder = data / "teacher"
    write_source(Weights("test", config, tokenizer, task.fields, lambda: (params, SetAside())), folder, "orbax")
    return folder


def task_of(data, teacher, config=TEACHER, **fields):
    tokenizer = tokenizers.load(data / "tokenizer")
    config = replace(config, vocab_size=tokenizer.vocab_size)
    store = {"stores": (str(data / "store"),), "sequence_length": 16, "held_out": 0.1}
    made = MlmDistillation(**store | {"teacher": str(teacher)} | fields)
    return tasks.resolve(made, config, pretrained.with_frame(tokenizer, config))


def test_the_losses_are_those_of_pytorch(data, teacher):
    task = task_of(data, teacher, STUDENT, temperature=2.0)
    batch = task.train_batches(batch_size=4, steps=3, seed=0)(0)
    params = untrained_weights(task, seed=1)
    outcome = jax.jit(lambda params: task.loss_fn(params, batch, NO_DROPOUT))(params)
    assert {name: float(mean.count) for name, mean in outcome.losses.items()} == pytest.approx(
        {name: float(count) for name, count in task.counts(batch).items()}
    )
    ours = {name: float(mean.sum / mean.count) for name, mean in outcome.losses.items()}
    student = jax.device_get(compiled(task.model)({"params": params}, batch))
    masked, used = batch["masked_weights"] > 0, batch["sequence_ids"] > 0
    logits, soft = (torch.tensor(np.array(a[masked])) for a in (student["mlm"], batch["teacher_logits"]))
    states, wanted = (torch.tensor(np.array(a[used])) for a in (student["states"], batch["teacher_states"]))
    labels = torch.tensor(batch["masked_labels"][masked], dtype=torch.long)
    cosine = torch.nn.CosineEmbeddingLoss()(states, wanted, torch.ones(len(states)))
    matching = torch.nn.functional.cross_entropy(logits / 2, (soft / 2).softmax(-1))
    assert ours == {
        "mlm_loss": pytest.approx(2 * torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5),
        "teacher_loss": pytest.approx(5 * 4 * matching.item(), abs=1e-4),
        "cosine_loss": pytest.approx(cosine.item(), abs=1e-5),
    }


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(data, teacher):
    task = task_of(data, teacher, mlm_weight=0.0)
    batch = task.train_batches(batch_size=4, steps=3, seed=0)(1)
    params = jax.tree.map(jnp.asarray, pretrained.open_source(teacher).read_params()[0])

    def loss(params):
        outcome = task.loss_fn(params, batch, NO_DROPOUT)
        return sum(mean.sum / mean.count for mean in outcome.losses.values()), outcome.losses["cosine_loss"].sum

    (_, cosine), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(cosine) == pytest.approx(0, abs=1e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-4


def test_a_distilled_run_has_no_trace_of_its_teacher(data, teacher, tmp_path):
    base = pretraining(data)
    fields = {field.name: getattr(base.task, field.name) for field in dataclasses.fields(base.task)}
    task = MlmDistillation(**fields | {"pairs": "none", "teacher": str(teacher)})
    bert_jax.train(replace(base, task=task, model=STUDENT, steps=4, checkpoint_every=4), tmp_path / "run", say=silent)
    bert = bert_jax.load(tmp_path / "run")
    assert set(bert.params) == {"bert", "mlm"}
    assert bert.config.num_layers == 1
    assert len(bert.fill_mask("the [MASK] cat")) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": ""}, "task.teacher: name a SOURCE"),
        ({"pairs": "nsp"}, "task.pairs: .* set pairs none"),
        ({"objective": "rtd"}, "task.objective: must be mlm in MLM distillation, got rtd"),
        ({"config": replace(QUIET, hidden_size=8)}, "cosine_weight: .* has the hidden_size 16 and this model 8"),
        ({"sequence_length": 64}, "sequence_length: must be at most 32, the model's positions, got 64"),
        ({"config": replace(TEACHER, first_position=2)}, "counts positions from 0 and this model from 2"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"cosine_weight": -1.0}, "cosine_weight: must be at least 0"),
    ],
)
def test_what_cannot_be_learnt_is_named(data, teacher, fields, message):
    with pytest.raises(InputError, match=message):
        task_of(data, **{"teacher": teacher} | fields)
