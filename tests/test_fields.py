"""Each field of the encoder is usable alone, and the combinations that presets use keep the encoder's properties."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import heads, params
from bert_jax.config import BertConfig, Compute
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.model import Bert
from bert_jax.pretrained import with_frame
from helpers.steps import FEW_PARAMETERS
from helpers.stores import PLAIN, TOKENIZER, batches
from helpers.weights import compiled

BASE = BertConfig(
    vocab_size=60, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_position_embeddings=64
)
# A window of 8 tokens on each side, in chunks of 16, in rows of 60.
LOCAL = {"local_attention": 16, "global_every": 2}
FIELDS = {
    "first_position": {"first_position": 2},
    "no segments": {"type_vocab_size": 0},
    "one segment": {"type_vocab_size": 1},
    "mean": {"pooling": "mean"},
    "relu": {"pooler": "relu"},
    "no pooler": {"pooler": "none"},
    "pooler_norm": {"pooler_norm": True},
    "mlm_activation": {"mlm_activation": "relu"},
    "rotary": {"positions": "rotary"},
    "no positions": {"positions": "none"},
    "pre": {"norm_position": "pre"},
    "pre, shared": {"norm_position": "pre", "num_layer_groups": 1},
    "rms": {"norm": "rms"},
    "no norm bias": {"norm_bias": False},
    "glu": {"feed_forward": "glu"},
    "no linear bias": {"linear_bias": False},
    "local": LOCAL,
    "narrow": {"local_attention": 2, "global_every": 2},
    "local rotary": {**LOCAL, "positions": "rotary", "local_rotary_theta": 100.0},
}
MODERN = {
    "type_vocab_size": 0,
    "positions": "rotary",
    "local_rotary_theta": 100.0,
    **LOCAL,
    "norm_position": "pre",
    "norm_bias": False,
    "feed_forward": "glu",
    "linear_bias": False,
    "pooling": "mean",
    "pooler": "gelu",
    "pooler_norm": True,
}
CONFIGS = {name: replace(BASE, **changes) for name, changes in (FIELDS | {"modern": MODERN}).items()}


def batch_of(*rows: list[int], first_position: int = 0, length: int = 60) -> dict[str, np.ndarray]:
    """Rows of sequences of the given lengths, then padding of random tokens; a length always has the same tokens."""
    rng = np.random.default_rng(0)
    input_ids = rng.integers(0, BASE.vocab_size, (len(rows), length), dtype=np.int32)
    sequence_ids = np.zeros_like(input_ids)
    for row, sequences in enumerate(rows):
        start = 0
        for number, size in enumerate(sequences, 1):
            input_ids[row, start : start + size] = np.random.default_rng(size).integers(0, BASE.vocab_size, size)
            sequence_ids[row, start : start + size] = number
            start += size
    batch = make_batch(input_ids, sequence_ids=sequence_ids)
    return batch | {"position_ids": batch["position_ids"] + np.int32(first_position)}


def random_params(model, batch, seed: int = 0):
    """Random parameters without running the initializers, which take long to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


PACKED, ALONE = [27, 5, 19], [[27], [5], [19]]
# Fields that mix tokens; the others work on each token by itself.
MIXING = ["first_position", "mean", "no positions", "local", "narrow", "local rotary", "pre, shared"]


@pytest.mark.parametrize("name", MIXING)
def test_packed_with_padding_gives_what_each_sequence_gives_alone(name):
    config = CONFIGS[name]
    batch = batch_of(PACKED, *ALONE, first_position=config.first_position)
    params = random_params(heads.BertForSequenceClassification(config, 3), batch)["bert"]

    @jax.jit
    def run(params, batch):
        x_BTD = Bert(config).apply({"params": params}, batch)
        where = batch["cls_positions"], batch["sequence_ids"]
        return x_BTD, Bert(config).apply({"params": params}, x_BTD, *where, method="pool")

    x_BTD, pooled_BND = run(params, batch)
    start = 0
    for number, size in enumerate(PACKED):
        np.testing.assert_allclose(x_BTD[0, start : start + size], x_BTD[number + 1, :size], atol=1e-5)
        np.testing.assert_allclose(pooled_BND[0, number], pooled_BND[number + 1, 0], atol=1e-5)
        start += size


def names_of(config: BertConfig) -> set[str]:
    batch = batch_of([3], length=8) | {"masked_positions": np.zeros((1, 1), np.int32)}
    tree = jax.eval_shape(heads.BertForPreTraining(config).init, jax.random.key(0), batch)["params"]
    return set(params.flatten(tree))


def test_which_parameters_exist_is_known_without_the_model():
    trees = {name: names_of(config) for name, config in CONFIGS.items()}
    trees["factorized"] = names_of(replace(BASE, embedding_size=8))
    every = set().union(*trees.values())
    for name, config in CONFIGS.items():
        blocks = [params.block_path(group) for group in range(config.layer_groups, BASE.layer_groups)]
        here = {parameter for parameter in every if not parameter.startswith(tuple(blocks))}
        assert trees[name] == {parameter for parameter in here if params.exists(parameter, config)}, name


def test_every_new_parameter_has_a_part_and_a_depth():
    config = CONFIGS["modern"]
    for name in names_of(config):
        assert params.part(name) in ("bert", "bert/pooler", "mlm", "pair")
    assert params.part("bert/pooler_norm/scale") == "bert/pooler"
    assert params.depth("bert/final_norm/scale", config) == config.num_layers + 1
    assert not params.is_decayed("bert/final_norm/scale")


@pytest.mark.parametrize("name", ["narrow", "modern"])
def test_local_layers_give_the_same_in_chunks_and_over_whole_rows(name):
    config = replace(CONFIGS[name], **FEW_PARAMETERS)
    batch = batch_of([57], PACKED)
    assert config.chunk(60) == 16
    params = random_params(Bert(config), batch)

    def value(params, mutable):
        out = Bert(config).apply({"params": params}, batch, mutable=mutable)
        x_BTD = out[0] if mutable else out
        return jnp.sum(jnp.where(batch["sequence_ids"][:, :, None] > 0, jnp.sin(x_BTD), 0))

    gradient = jax.jit(jax.value_and_grad(value), static_argnums=1)
    in_chunks, whole = gradient(params, False), gradient(params, "intermediates")
    for a, b in zip(jax.tree.leaves(in_chunks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


LAST = {
    "post": (replace(BASE, **FEW_PARAMETERS), "explicit"),
    "pre, shared": (replace(CONFIGS["pre, shared"], **FEW_PARAMETERS), "explicit"),
    "last layer in chunks": (CONFIGS["modern"], "explicit"),
    "fused": (replace(BASE, attention_dropout=0.0, positions="rotary", **FEW_PARAMETERS), "pallas"),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_layer_at_some_positions_gives_the_same_states_and_gradients(name):
    config, attention = LAST[name]
    model = Bert(config, Compute(attention=attention))
    batch = batch_of([27, 60], PACKED, length=128)
    params = random_params(model, batch)
    at_BP = np.array([[86, 3, 3, 27, 0], [50, 31, 32, 26, 4]], np.int32)

    def value(params, early, mutable=False):
        out = model.apply({"params": params}, batch, at_BP=at_BP if early else None, mutable=mutable)
        x_BTD = out[0] if mutable else out
        return jnp.sum(jnp.sin(x_BTD if early else jnp.take_along_axis(x_BTD, at_BP[:, :, None], axis=1)))

    gradient = jax.jit(jax.value_and_grad(value), static_argnums=(1, 2))
    expected = gradient(params, False)
    for actual in (gradient(params, True), gradient(params, True, "intermediates")):
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_local_layer_reads_half_a_window_on_each_side_and_a_global_layer_everything():
    config = replace(BASE, local_attention=16, positions="none", num_layers=2, global_every=2)
    batch = batch_of([60])
    params = random_params(Bert(config), batch)
    sown = compiled(Bert(config), mutable="intermediates")({"params": params}, batch)[1]["intermediates"]
    of_global, of_local = (sown[f"blocks_{layer}"]["attention"]["attention"][0] for layer in (0, 1))
    distance = np.abs(np.arange(60)[:, None] - np.arange(60))
    assert (np.asarray(of_global) > 0).all()
    assert ((np.asarray(of_local) > 0) == (distance <= 8)).all()


def test_rotary_attention_depends_on_distances_alone():
    config = CONFIGS["rotary"]
    batch = batch_of([30])
    params = random_params(Bert(config), batch)
    apply = jax.jit(lambda batch: Bert(config).apply({"params": params}, batch))
    moved = batch | {"position_ids": batch["position_ids"] + np.int32(29)}
    stretched = batch | {"position_ids": batch["position_ids"] * np.int32(2)}
    np.testing.assert_allclose(apply(moved)[0, :30], apply(batch)[0, :30], atol=1e-5)
    assert not np.allclose(apply(stretched)[0, :30], apply(batch)[0, :30], atol=1e-4)


def test_masks_and_angles_are_made_once_a_step():
    config = replace(CONFIGS["modern"], num_layers=7)
    batch = batch_of([60])
    params = jax.eval_shape(Bert(config).init, jax.random.key(0), batch)
    text = str(jax.make_jaxpr(lambda params: Bert(config).apply(params, batch))(params))
    assert text.count(" cos ") == text.count(" sin ") == 2  # one for each theta
    assert text.count(" abs ") == 1  # of the distances in a window


@pytest.mark.parametrize("name", ["modern", "rms", "no pooler"])
def test_bfloat16_is_computed_from_float32_parameters(name):
    config, compute = CONFIGS[name], Compute(dtype="bfloat16")
    model = heads.BertForSequenceClassification(config, 3, compute=compute)
    batch = batch_of([20])
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert (
        jax.eval_shape(Bert(config, compute).apply, {"params": shapes["params"]["bert"]}, batch).dtype == jnp.bfloat16
    )
    assert jax.eval_shape(model.apply, shapes, batch).dtype == jnp.float32


def test_dropout_before_the_pooler_is_a_field():
    config = replace(BASE, hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.5)
    batch = batch_of([20])
    params = random_params(Bert(config), batch)

    params |= {"pooler": {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}}
    x_BTD = compiled(Bert(config))({"params": params}, batch)

    def pooled(config):
        rngs, cls = {"dropout": jax.random.key(0)}, batch["cls_positions"]
        return Bert(config).apply({"params": params}, x_BTD, cls, None, False, rngs=rngs, method="pool")

    assert (pooled(config) != 0).all()
    assert (pooled(replace(config, pooler_dropout=True)) == 0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_position": 64}, "first_position: must be at least 0 and below max_position_embeddings 64, got 64"),
        ({"type_vocab_size": -1}, "type_vocab_size: must be at least 0, got -1"),
        ({"vocab_multiple": 0}, "vocab_multiple: must be at least 1"),
        ({"local_attention": -2}, "local_attention: must be at least 0"),
        ({"global_every": 0}, "global_every: must be at least 1"),
        ({"rotary_theta": 0.0}, "rotary_theta: must be above 0"),
        ({"positions": "rotary", "hidden_size": 6}, "num_heads: rotary positions need an even head size, got 3"),
    ],
)
def test_an_impossible_value_names_its_field(changes, message):
    with pytest.raises(InputError, match=message):
        replace(BASE, **changes)


@pytest.mark.parametrize(("segments", "of_pair"), [(2, [0, 0, 0, 1, 1]), (0, [0, 0, 0, 0, 0]), (1, None)])
def test_the_second_text_of_a_pair_needs_a_segment_where_there_are_segments(segments, of_pair):
    tokenizer = with_frame(TOKENIZER, replace(BASE, type_vocab_size=segments, first_position=2))
    assert tokenizer.frame.longest(BASE.max_position_embeddings) == 62
    assert tokenizer.frame.join([7])[1].tolist() == [0, 0, 0]
    batches(PLAIN, tokenizer=tokenizer)
    if of_pair is None:
        with pytest.raises(InputError, match=r"one segment \(model.type_vocab_size 1\), and a pair of texts needs two"):
            tokenizer.frame.join([7], [8])
        with pytest.raises(InputError, match="a pair of texts needs two"):
            batches(replace(PLAIN, pairs="nsp"), tokenizer=tokenizer)
    else:
        assert tokenizer.frame.join([7], [8])[1].tolist() == of_pair
