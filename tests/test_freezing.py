"""Frozen layers do not change and cost no backward pass; lower layers learn slower, or later."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import pretrained
from bert_jax.config import AdamW, BertConfig, Compute, Experiment, Pretraining
from bert_jax.errors import InputError
from bert_jax.interop.table import SetAside
from bert_jax.losses import Mean, Outcome
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState, train_step
from helpers.steps import NoTokenizer

MODEL = BertConfig(num_layers=4)
SHARED = replace(MODEL, num_layer_groups=2)
FIELDS = AdamW(learning_rate=0.01, warmup_share=0.0, schedule="constant")
WIDTH = 32


def stack(config):
    """Parameters named as BERT's, each part a single matrix: the parts' order is all that matters here."""
    blocks = [f"blocks_{group}" for group in range(config.layer_groups)]
    names = ["embeddings", *blocks, "pooler", "sequence"]
    keys = jax.random.split(jax.random.key(0), len(names))
    matrices = {
        name: {"kernel": jax.random.normal(key, (WIDTH, WIDTH)) / 6} for name, key in zip(names, keys, strict=True)
    }
    return {"sequence": matrices.pop("sequence"), "bert": matrices}


def loss_fn(params, x, key, config=MODEL):
    bert = params["bert"]
    layers = [bert[f"blocks_{config.group(layer)}"] for layer in range(config.num_layers)]
    for part in [bert["embeddings"], *layers, bert["pooler"]]:
        x = jnp.tanh(x @ part["kernel"])
    x = x @ params["sequence"]["kernel"]
    return Outcome({"loss": Mean(jnp.sum(x**2), jnp.float32(x.size))}, {}, {})


def counts(batch):
    return {"loss": jnp.float32(batch["x"].size)}


def batch():
    x = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    return {"x": x, "sequence_ids": np.ones((64, 1), np.int32)}


def trained(fields, steps=3, config=MODEL):
    """Returns the parameters before, the updates' sizes of each step, the state after some steps, and the step."""
    params = stack(config)
    transformation = optimizer.make(fields, steps, config)
    state = TrainState(jnp.int32(0), params, transformation.init(params), jax.random.key(1), transformation)

    def of_batch(params, batch, key):
        return loss_fn(params, batch["x"], key, config)

    frozen = optimizer.frozen(params, fields, config)
    step = jax.jit(partial(train_step, loss_fn=of_batch, counts=counts, frozen=frozen))
    moves = []
    for _ in range(steps):
        before = state.params
        state, _ = step(state, batch())
        moves.append(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params, before))
    return params, moves, state, step


def parts(tree):
    """Splits a tree of parameters into its parts by name: embeddings, blocks_0, ..., pooler, sequence."""
    return tree["bert"] | {"sequence": tree["sequence"]}


def moved(tree):
    return {name for name, part in parts(tree).items() if any(x != 0 for x in jax.tree.leaves(part))}


EVERYTHING = {"embeddings", "blocks_0", "blocks_1", "blocks_2", "blocks_3", "pooler", "sequence"}


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({}, set()),
        ({"frozen_layers": 0}, {"embeddings"}),
        ({"frozen_layers": 2}, {"embeddings", "blocks_0", "blocks_1"}),
        ({"frozen_layers": 4}, {"embeddings", "blocks_0", "blocks_1", "blocks_2", "blocks_3"}),
        ({"head_only": True}, EVERYTHING - {"sequence"}),
    ],
)
def test_what_is_frozen_stays_bit_for_bit_and_has_no_moments(changes, still):
    before, moves, state, _ = trained(replace(FIELDS, **changes))
    assert all(moved(move) == EVERYTHING - still for move in moves)
    for name in still:
        jax.tree.map(np.testing.assert_array_equal, parts(state.params)[name], parts(before)[name])
    size = sum(x.size for name, part in parts(before).items() if name not in still for x in jax.tree.leaves(part))
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * size


def test_freezing_the_lower_half_takes_its_backward_pass_away():
    def operations(**changes):
        _, _, state, step = trained(replace(FIELDS, **changes), steps=1)
        return step.lower(state, batch()).compile().cost_analysis()["flops"]

    # Forward costs 1 matrix product for each of the 7 parts, backward 1 for its weights and 1 for its input.
    unit = operations() / 20
    assert operations(frozen_layers=2) == pytest.approx(unit * (20 - 6), rel=0.1)
    assert operations(head_only=True) == pytest.approx(unit * (7 + 1), rel=0.1)


def test_the_norm_that_is_clipped_is_that_of_what_learns():
    fields = replace(FIELDS, head_only=True, max_grad_norm=0.03, b1=0.0, b2=0.0, epsilon=1.0, weight_decay=0.0)
    before, _, state, _ = trained(fields, steps=1)
    head = jax.grad(lambda p: loss_fn(p, batch()["x"], None).losses["loss"].sum / (64 * WIDTH))(before)["sequence"]
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(head)))
    assert norm > 0.03
    for new, old, grad in zip(*map(jax.tree.leaves, (state.params["sequence"], before["sequence"], head)), strict=True):
        g = grad * 0.03 / norm
        np.testing.assert_allclose(old - new, 0.01 * g / (np.abs(g) + 1), atol=1e-7)


def test_each_layer_learns_slower_than_the_one_above_it():
    # The first update of Adam is the learning rate everywhere, whatever the gradient.
    fields = replace(FIELDS, layer_decay=0.5, epsilon=1e-12, weight_decay=0.0)
    _, moves, _, _ = trained(fields, steps=1)
    sizes = {name: max(jax.tree.leaves(part)) for name, part in parts(moves[0]).items()}
    heights = {"sequence": 0, "pooler": 0, "blocks_3": 1, "blocks_2": 2, "blocks_1": 3, "blocks_0": 4, "embeddings": 5}
    assert sizes == pytest.approx({name: 0.01 * 0.5**n for name, n in heights.items()}, rel=1e-3)


def test_layers_thaw_one_after_another_from_the_top():
    _, moves, _, _ = trained(replace(FIELDS, unfreeze_share=0.2), steps=10)
    order = ["blocks_3", "blocks_2", "blocks_1", "blocks_0", "embeddings"]
    for step, move in enumerate(moves):
        assert moved(move) == {"sequence", "pooler", *order[: step // 2]}


def test_a_shared_block_is_as_high_as_its_last_use():
    params = stack(SHARED)
    depths = {name: jax.tree.leaves(part)[0] for name, part in parts(optimizer.depths(params, SHARED)).items()}
    assert depths == {"embeddings": 0, "blocks_0": 2, "blocks_1": 4, "pooler": 5, "sequence": 5}
    held = optimizer.frozen(params, replace(FIELDS, frozen_layers=2), SHARED)
    assert moved(held) == {"embeddings", "blocks_0"}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            MODEL,
            {"optimizer": AdamW(frozen_layers=5)},
            "frozen_layers 5: must be between 0 and the model's 4",
        ),
        (SHARED, {"optimizer": AdamW(frozen_layers=1)}, "frozen_layers 1: layers 1 and 2 share their weights"),
        (MODEL, {"optimizer": AdamW(unfreeze_share=0.21)}, r"unfreeze_share: must be at most .* = 0.2, got 0.21"),
        (MODEL, {"reinit_layers": 5}, "reinit_layers 5: must be between 0 and the model's 4"),
        (SHARED, {"reinit_layers": 3}, "reinit_layers 3: layers 1 and 2 share their weights"),
        (MODEL, {"task": Pretraining(sequence_length=513)}, "task.sequence_length: must be at most 512, the model's"),
        (MODEL, {"compute": Compute(attention="cudnn")}, "compute.attention: cudnn has no dropout"),
    ],
)
def test_fields_that_do_not_fit_the_model_are_named(model, changes, message):
    experiment = replace(Experiment(task=Pretraining(), model=model), **changes)
    with pytest.raises(InputError, match=message):
        experiment.check(longest=512)


def test_the_top_layers_and_the_pooler_can_be_initialised_again():
    assert pretrained.top_layers(MODEL, 0) == []
    pooler = ["bert/pooler", "bert/pooler_norm"]
    assert pretrained.top_layers(MODEL, 2) == [*pooler, "bert/blocks_2", "bert/blocks_3"]
    assert pretrained.top_layers(SHARED, 2) == [*pooler, "bert/blocks_1"]


def test_reinitialised_layers_keep_their_random_weights():
    ours, theirs = stack(MODEL), jax.tree.map(np.zeros_like, stack(MODEL))
    source = pretrained.Weights("source", MODEL, NoTokenizer(), None, lambda: (theirs, SetAside()))
    params, report = pretrained.fit(ours, source, pretrained.top_layers(MODEL, 1))
    zero = {name for name, part in parts(params).items() if not np.any(part["kernel"])}
    assert zero == EVERYTHING - {"pooler", "blocks_3"}
    assert report.new == ["bert/blocks_3/kernel", "bert/pooler/kernel"]
    assert not report.left_out
