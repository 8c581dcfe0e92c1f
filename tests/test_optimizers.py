"""The optimizers next to their published formulas, and the learning rate over time."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import params as named
from bert_jax.config import LAMB, AdamW, Muon
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.losses import Mean, Outcome
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState, train_step
from helpers.steps import ROWS, uneven_batch

CONSTANT = {"learning_rate": 0.1, "warmup_share": 0.0, "schedule": "constant", "max_grad_norm": 0.0}

# A block of two heads of 3, a feed-forward layer of 8, and some parameters that are not matrices of blocks.
SHAPES = {
    "bert/embeddings/word/embedding": (10, 6),
    "bert/blocks_0/attention/qkv/kernel": (6, 3, 2, 3),
    "bert/blocks_0/attention/out/kernel": (2, 3, 6),
    "bert/blocks_0/feed_forward/in/kernel": (6, 8),
    "bert/blocks_0/feed_forward/out/kernel": (8, 6),
    "bert/blocks_0/feed_forward/out/bias": (6,),
    "bert/blocks_0/attention_norm/scale": (6,),
    "bert/pooler/kernel": (6, 6),
    "mlm/bias": (10,),
}


# Eight devices can divide each of these.
WIDER_SHAPES = {
    "bert/embeddings/word/embedding": (56, 16),
    "bert/blocks_0/attention/qkv/kernel": (16, 3, 2, 8),
    "bert/blocks_0/attention/out/kernel": (2, 8, 16),
    "bert/blocks_0/feed_forward/in/kernel": (16, 32),
    "bert/blocks_0/attention_norm/scale": (16,),
}


def random_tree(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES):
    rng = np.random.default_rng(seed)
    tree: dict = {}
    for name, shape in shapes.items():
        *folders, last = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return tree


def first_update(fields):
    """Returns {name: (weights, gradient, update)} of a first step, in float64."""
    params, grads = random_tree(0), random_tree(1)
    transformation = optimizer.make(fields, 10)
    updates, _ = transformation.update(grads, transformation.init(params), params)
    trees = [named.flatten(tree) for tree in (params, grads, updates)]
    return {name: tuple(np.asarray(tree[name], np.float64) for tree in trees) for name in SHAPES}


def matrices_of(name: str, x: np.ndarray) -> list[np.ndarray]:
    """The matrices, inputs by outputs, that an array of a block holds."""
    if name.endswith("qkv/kernel"):
        return [x[:, i].reshape(6, 6) for i in range(3)]
    return [x.reshape(6, 6) if name.endswith("attention/out/kernel") else x]


def is_matrix(name: str) -> bool:
    return "blocks_" in name and name.endswith("kernel")


def orthogonalized(g: np.ndarray) -> np.ndarray:
    x = g / np.linalg.norm(g)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def adam_direction(g: np.ndarray) -> np.ndarray:
    return g / (np.abs(g) + 1e-6)  # after one step the moments, corrected, are g and g * g


def test_muon_orthogonalizes_each_matrix_of_a_block_and_leaves_the_rest_to_adam():
    for name, (weights, gradient, update) in first_update(Muon(**CONSTANT, weight_decay=0.5)).items():
        decay = 0.5 * weights if name.endswith(("kernel", "embedding")) else 0
        if not is_matrix(name):
            np.testing.assert_allclose(update, -0.1 * (adam_direction(gradient) + decay), rtol=1e-5, atol=1e-6)
            continue
        parts = zip(*(matrices_of(name, x) for x in (gradient, update, decay)), strict=True)
        for g, u, d in parts:
            expected = 0.2 * np.sqrt(max(g.shape)) * orthogonalized(g)
            np.testing.assert_allclose(u, -0.1 * (expected + d), rtol=1e-5, atol=1e-6)


def test_lamb_gives_each_update_the_norm_of_its_weights():
    for name, (weights, gradient, update) in first_update(LAMB(**CONSTANT, weight_decay=0.5)).items():
        direction = adam_direction(gradient)
        if not name.endswith(("kernel", "embedding")):
            np.testing.assert_allclose(update, -0.1 * direction, rtol=1e-5, atol=1e-6)
            continue
        split = matrices_of if is_matrix(name) else lambda _, x: [x]
        for x, d, u in zip(*(split(name, y) for y in (weights, direction + 0.5 * weights, update)), strict=True):
            np.testing.assert_allclose(u, -0.1 * d * np.linalg.norm(x) / np.linalg.norm(d), rtol=1e-5, atol=1e-6)


def test_lamb_updates_weights_that_are_all_zero():
    params = jax.tree.map(jnp.zeros_like, random_tree(0))
    transformation = optimizer.make(LAMB(**CONSTANT), 10)
    updates, _ = jax.jit(transformation.update)(random_tree(1), transformation.init(params), params)
    assert all(np.isfinite(u).all() and np.abs(u).max() > 0 for u in jax.tree.leaves(updates))


def weights(batch):
    """A weight of each row, from 0 to 1."""
    return batch["sequence_ids"].sum(1).astype(jnp.float32) / 12


def simple_loss(params, batch, keys):
    """The mean of sin(3 x + w) over rows, each of the weight w, added up over all parameters x: quick to compile."""
    w_B = weights(batch)
    cos, sin = (w_B * jnp.cos(w_B)).sum(), (w_B * jnp.sin(w_B)).sum()
    total = sum((cos * jnp.sin(3 * x) + sin * jnp.cos(3 * x)).sum() for x in jax.tree.leaves(params))
    return Outcome({"loss": Mean(total, w_B.sum())}, {}, {})


def counts(batch):
    return {"loss": weights(batch).sum()}


@cache
def stepped(fields, way: str, fsdp: int = 0, microbatches: int = 1):
    """The parameters after two steps on rows of unequal length."""
    params, transformation = random_tree(0, WIDER_SHAPES), optimizer.make(fields, 10)
    state = TrainState(jnp.int32(0), params, jax.jit(transformation.init)(params), jax.random.key(1), transformation)
    devices = Devices(way, ROWS, fsdp)
    step = devices.wrap(train_step, loss_fn=simple_loss, counts=counts, microbatches=microbatches)
    state = devices.place(state)
    for _ in range(2):
        state, _ = step(state, uneven_batch())
    return named.flatten(jax.device_get(state.params))


@pytest.mark.parametrize(("way", "fsdp", "microbatches"), [("pmap", 0, 2), ("mesh", 8, 1)])
@pytest.mark.parametrize("fields", [Muon(warmup_share=0.0), LAMB(warmup_share=0.0)], ids=["muon", "lamb"])
def test_a_step_is_the_same_however_the_batch_is_split(fields, way, fsdp, microbatches):
    """Here for a simple loss: tests/test_devices.py shows that a model's gradient is the same."""
    one, other = stepped(fields, "single"), stepped(fields, way, fsdp, microbatches)
    start = named.flatten(random_tree(0, WIDER_SHAPES))
    for name, x in one.items():
        moved = np.abs(x - start[name]).max()
        assert moved > 0
        np.testing.assert_allclose(other[name], x, rtol=0, atol=max(1e-3 * moved, 1e-8), err_msg=name)


# The learning rate -----------------------------------------------------------------------------------------------


def rates(**changes) -> np.ndarray:
    schedule = optimizer.learning_rate(AdamW(learning_rate=2.0, warmup_share=0.1, **changes), 100)
    return np.array([float(schedule(step)) for step in range(101)])


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5), ("constant", 1.0)],
)
def test_the_learning_rate_is_stable_then_decays_to_its_last_share(schedule, middle):
    values = rates(schedule=schedule, stable_share=0.5, final_share=0.1)
    np.testing.assert_allclose(values[10:61], 2.0, rtol=1e-6)
    assert values[80] == pytest.approx(2.0 * (0.1 + 0.9 * middle), rel=1e-5)
    assert values[100] == pytest.approx(2.0 if schedule == "constant" else 0.2, rel=1e-5)
    assert (np.diff(values[60:]) <= 1e-7).all()


def test_a_long_and_a_short_run_have_the_same_rate_until_the_short_one_decays():
    long = optimizer.learning_rate(AdamW(warmup_share=0.1, stable_share=0.8), 200)
    short = optimizer.learning_rate(AdamW(warmup_share=0.2, stable_share=0.5), 100)
    assert [float(long(step)) for step in range(71)] == [float(short(step)) for step in range(71)]
    assert float(short(72)) < float(long(72))


def test_shares_that_exceed_the_run_are_refused():
    with pytest.raises(InputError, match=r"optimizer\.stable_share: with warmup_share, must be at most 1, got 1\.1"):
        AdamW(warmup_share=0.3, stable_share=0.8)
    with pytest.raises(InputError, match=r"optimizer\.final_share: must be between 0 and 1, got 1\.5"):
        AdamW(final_share=1.5)
