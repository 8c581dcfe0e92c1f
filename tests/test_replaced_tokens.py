"""Replaced-token detection: what is replaced, what learns from what, and that a step does not depend on the devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import bert_jax
from bert_jax import cli, flops, losses, params, pretrained
from bert_jax.config import AdamW, Compute, Experiment, Pretraining, preset
from bert_jax.data.batch import make_batch
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.tasks.pretraining import PretrainingTask, put
from bert_jax.training.step import evaluate_step, train_step
from helpers.losses import NO_DROPOUT
from helpers.steps import CONFIG, FEW_PARAMETERS, KEEP_GRADIENT, ROWS, NoTokenizer, make_state, uneven_batch
from helpers.weights import compiled

FIELDS = Pretraining(objective="rtd", pairs="none", generator_share=0.5)


class Words(NoTokenizer):
    vocab_size = 50  # the model has 56 rows


def make_task(compute: Compute = Compute(), **changes) -> PretrainingTask:
    config = replace(CONFIG, pooler="none", **FEW_PARAMETERS)
    return PretrainingTask(replace(FIELDS, **changes), config, Words(), compute)


def test_tokens_are_replaced_at_masked_positions_alone_and_never_by_a_spare_row():
    batch = uneven_batch()
    noise = losses.row_noise(jax.random.key(0), batch, 4)
    logits = jnp.zeros((ROWS, 4, 50))
    drawn = losses.draw(logits, noise)
    assert drawn.min() >= 0
    assert drawn.max() < 50
    assert len(np.unique(drawn)) > 40
    changed = np.asarray(put(jnp.asarray(batch["input_ids"]), batch, drawn)) != batch["input_ids"]
    masked = np.zeros_like(changed)
    for row, (positions, weights) in enumerate(zip(batch["masked_positions"], batch["masked_weights"], strict=True)):
        masked[row, positions[weights > 0]] = True
    assert changed.any()
    assert not (changed & ~masked).any()


def test_classes_are_drawn_as_often_as_they_are_likely():
    probabilities = np.array([0.1, 0.2, 0.0, 0.7], np.float32)
    noise = jax.random.uniform(jax.random.key(1), (20_000,))
    drawn = losses.draw(jnp.broadcast_to(jnp.log(jnp.asarray(probabilities)), (20_000, 4)), noise)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, probabilities, atol=0.02)


@pytest.fixture(scope="module")
def gradients():
    """The parameters, and the gradient of each loss by itself."""
    task = make_task()
    batch = jax.tree.map(jnp.asarray, uneven_batch())
    tree = make_state(task, KEEP_GRADIENT).params

    @jax.jit  # compiled once for both losses
    def gradient(tree, factors):
        def total(tree):
            by_name = task.loss_fn(tree, batch, NO_DROPOUT).losses
            return sum(factor * by_name[name].sum for name, factor in factors.items())

        return jax.grad(total)(tree)

    names = ("mlm_loss", "rtd_loss")
    return tree, {
        one: params.flatten(gradient(tree, {name: jnp.float32(name == one) for name in names})) for one in names
    }


def test_the_discriminators_loss_does_not_reach_the_generator(gradients):
    tree, by_loss = gradients
    moved = {loss: {name for name, x in grads.items() if np.abs(x).max() > 0} for loss, grads in by_loss.items()}
    parts = {loss: {name.split("/")[0] for name in names} for loss, names in moved.items()}
    assert parts["rtd_loss"] == {"bert", "discriminator"}
    assert parts["mlm_loss"] == {"bert", "generator", "generator_mlm"}
    # The generator learns through the embeddings that it shares, and through nothing else of the model.
    shared = {name for name in moved["mlm_loss"] if name.startswith("bert/")}
    assert {name.split("/")[1] for name in shared} == {"embeddings"}
    assert set(tree["generator"]["embeddings"]) == {"projection"}
    assert not params.has_pooler(tree)


def test_without_shared_embeddings_the_generator_has_tables_of_its_own():
    task = make_task(share_embeddings=False)
    tree = jax.eval_shape(lambda: task.model.init(jax.random.key(0), uneven_batch()))["params"]
    assert tree["generator"]["embeddings"]["word"]["embedding"].shape == (56, 16)


def test_the_step_and_the_evaluation_do_not_depend_on_how_the_batch_is_split():
    results = []
    for sharding, parts in (("single", 1), ("pmap", 2)):
        task = make_task()
        devices = Devices(sharding, ROWS)
        step = devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts, microbatches=parts)
        evaluation = devices.wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
        state = devices.make(lambda task=task: make_state(task, KEEP_GRADIENT))
        evaluated = jax.device_get(evaluation(state.params, uneven_batch()))
        state, sums = step(state, uneven_batch())
        results.append((jax.device_get(state.opt_state), jax.device_get(sums), evaluated))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * max(np.abs(a).max(), 1e-6))


def test_pairs_and_replaced_tokens_do_not_go_together():
    with pytest.raises(InputError, match="objective rtd has no sentence pairs; set pairs none"):
        Pretraining(objective="rtd")
    with pytest.raises(InputError, match="generator_share"):
        Pretraining(objective="rtd", pairs="none", generator_share=1.5)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The workdir of a run of two steps, and its result."""
    model = replace(preset("electra-tiny"), vocab_size=0, hidden_size=16, intermediate_size=32, num_layers=1)
    fields = replace(FIELDS, stores=(str(data / "store"),), sequence_length=16, eval_sequences=16, held_out=0.1)
    compute = Compute(sharding="single")  # the test of splits is above
    experiment = Experiment(
        task=fields, model=model, optimizer=AdamW(), batch_size=16, steps=2, eval_every=0, compute=compute
    )
    workdir = tmp_path_factory.mktemp("replaced") / "run"
    return workdir, bert_jax.train(experiment, workdir)


def test_a_run_trains_and_exports_its_discriminator(run, tmp_path):
    workdir, result = run
    assert {"mlm_loss", "rtd_loss", "rtd_accuracy", "rtd_replaced"} <= result["metrics"].keys()
    notes = pretrained.write_source(pretrained.open_source(workdir), tmp_path / "folder")
    assert notes[0].startswith("left out: the generator; `bert_jax convert --generator` writes it")
    opened = pretrained.open_source(tmp_path / "folder")
    assert params.heads(opened.read_params()[0]) == {params.DISCRIMINATOR}
    with pytest.raises(InputError, match="has no generator; a run that was trained with"):
        pretrained.generator_of(opened)


def test_an_exported_generator_scores_in_transformers_as_in_the_run(run, tmp_path, capsys):
    workdir, _ = run
    assert cli.run(["convert", str(workdir), str(tmp_path / "folder"), "--generator"]) == 0
    assert "left out" not in capsys.readouterr().out
    model, info = transformers.ElectraForMaskedLM.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    source = pretrained.open_source(workdir)
    task = PretrainingTask(source.task, source.config, source.tokenizer)
    ids = np.arange(5, 14, dtype=np.int32)[None]
    batch = make_batch(ids, masked_positions=np.arange(9, dtype=np.int32)[None])
    ours = compiled(task.model, method="generate")({"params": source.read_params()[0]}, batch)
    theirs = model.eval()(torch.tensor(ids)).logits.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_operations_of_a_step_count_both_encoders():
    task, batch = make_task(), uneven_batch()
    generator = task.fields.generator(task.config)
    assert (generator.hidden_size, generator.embedding_width, generator.num_heads) == (8, 16, 1)
    predictions = batch["masked_positions"].shape[1]
    small = flops.forward(generator, *batch["input_ids"].shape, predictions, read=predictions)
    large = flops.forward(task.config, *batch["input_ids"].shape)
    assert flops.training_step(task.config, batch, generator) > 3 * (small + large)
