"""Properties of the forward pass."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import PRESETS, BertConfig, Compute, preset
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.heads import BertForPreTraining, BertForSequenceClassification
from bert_jax.model import Bert, Dropout, Embeddings
from helpers.weights import compiled, random_weights

TINY = BertConfig(
    vocab_size=60,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
FOUR_LAYERS = replace(TINY, num_layers=4)

# BertForPreTraining with the preset's own vocabulary, and with pairs if the family has them; published sizes have the
# published numbers.
PARAMETERS = {
    "bert-tiny": 4_433_468,
    "bert-mini": 11_267_900,
    "bert-small": 29_058_876,
    "bert-medium": 41_668_412,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "albert-base": 11_813_810,
    "albert-large": 17_847_474,
    "albert-xlarge": 59_021_490,
    "albert-xxlarge": 223_158_450,
    "electra-tiny": 4_416_698,
    "electra-small": 13_546_682,
    "electra-base": 109_514_298,
    "electra-large": 335_174_458,
    "modernbert-tiny": 963_584,
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "ettin-17m": 16_913_600,
    "ettin-32m": 32_081_344,
    "ettin-68m": 68_457_664,
    "ettin-150m": 149_655_232,
    "roberta-tiny": 6_963_673,
    "distilroberta": 82_170_201,
    "roberta-base": 124_697_433,
    "roberta-large": 355_412_057,
    "xlm-roberta-base": 278_295_186,
    "xlm-roberta-large": 560_142_482,
    "camembert-base": 110_655_493,
    "distilbert-base": 66_985_530,
}


def batch_of(*rows: list[list[int]], length: int) -> dict[str, np.ndarray]:
    """One row for each argument, which lists the sequences packed in it."""
    input_ids, token_type_ids, sequence_ids = np.zeros((3, len(rows), length), np.int32)
    for r, sequences in enumerate(rows):
        start = 0
        for n, ids in enumerate(sequences):
            here = slice(start, start + len(ids))
            input_ids[r, here] = ids
            token_type_ids[r, here] = np.arange(len(ids)) > len(ids) // 2
            sequence_ids[r, here] = n + 1
            start += len(ids)
    return make_batch(input_ids, token_type_ids=token_type_ids, sequence_ids=sequence_ids)


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, TINY.vocab_size, length).tolist() for length in lengths]


@cache
def encoder(config: BertConfig = TINY):
    model = Bert(config)

    def everything(module, batch):
        return module.pool(module(batch), batch["cls_positions"])

    return model, {"params": random_weights(model, batch_of([[1]], length=1), method=everything)}


def count_directly(config: BertConfig) -> int:
    pairs = any("pair" in heads for heads in FAMILIES[config.family].architectures)
    model = BertForPreTraining(config, pairs)
    batch = batch_of([[1]], length=1) | {"masked_positions": np.zeros((1, 1), np.int32)}
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), batch)))


def parameter_count(config: BertConfig) -> int:
    """Counts three layers; from the third on, each layer has as many as the one below it."""
    if config.num_layers <= 3:
        return count_directly(config)
    two, three = (count_directly(replace(config, num_layers=layers)) for layers in (2, 3))
    return two + (config.num_layers - 2) * (three - two)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_pinned_number_of_parameters(name):
    assert parameter_count(PRESETS[name]) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["bert-small", "ettin-17m"])
def test_each_further_layer_has_as_many_parameters_as_the_third(name):
    assert count_directly(PRESETS[name]) == PARAMETERS[name]


def test_padding_changes_nothing():
    model, params = encoder()
    (ids,) = random_ids(7)
    short = compiled(model)(params, batch_of([ids], length=7))
    long = batch_of([ids], length=19)
    long["input_ids"][0, 7:] = 5  # the ids on padding must not matter
    np.testing.assert_allclose(compiled(model)(params, long)[:, :7], short, atol=1e-6)


def test_a_row_of_nothing_but_padding_is_finite():
    model, params = encoder()
    assert np.isfinite(compiled(model)(params, batch_of([], length=7))).all()


def test_packed_gives_what_the_same_sequences_give_alone():
    model, params = encoder()
    a, b, c = random_ids(5, 9, 3)
    batch = batch_of([a, b, c], [a], [b], [c], length=20)
    x_BTD = compiled(model)(params, batch)
    pooled_BND = compiled(model, method="pool")(params, x_BTD, batch["cls_positions"])
    start = 0
    for n, ids in enumerate((a, b, c)):
        np.testing.assert_allclose(x_BTD[0, start : start + len(ids)], x_BTD[1 + n, : len(ids)], atol=1e-5)
        np.testing.assert_allclose(pooled_BND[0, n], pooled_BND[1 + n, 0], atol=1e-5)
        start += len(ids)


def test_shared_layers_have_the_parameters_of_one_block():
    def blocks(config):
        _, params = encoder(config)
        return [name for name in params["params"] if name.startswith("blocks")]

    assert blocks(FOUR_LAYERS) == [f"blocks_{i}" for i in range(4)]
    assert blocks(replace(FOUR_LAYERS, num_layer_groups=1)) == ["blocks_0"]
    assert blocks(replace(FOUR_LAYERS, num_layer_groups=2)) == ["blocks_0", "blocks_1"]


def test_shared_layers_equal_unshared_ones_with_the_same_weights():
    shared, params = encoder(replace(FOUR_LAYERS, num_layer_groups=2))
    copies = dict(params["params"])
    for layer, group in enumerate((0, 0, 1, 1)):
        copies[f"blocks_{layer}"] = params["params"][f"blocks_{group}"]
    batch = batch_of(random_ids(6), length=6)
    np.testing.assert_allclose(
        compiled(shared)(params, batch), compiled(Bert(FOUR_LAYERS))({"params": copies}, batch), rtol=1e-6, atol=1e-6
    )


def test_factorized_embeddings_have_a_narrow_table_and_a_projection():
    model, params = encoder(replace(TINY, embedding_size=4))
    embeddings = params["params"]["embeddings"]
    assert embeddings["word"]["embedding"].shape == (60, 4)
    assert embeddings["projection"]["kernel"].shape == (4, 16)
    assert jax.eval_shape(model.apply, params, batch_of(random_ids(3), length=3)).shape == (1, 3, 16)


def test_mlm_logits_are_those_of_the_masked_positions():
    model = BertForPreTraining(TINY)
    batch = batch_of(random_ids(8), length=8)
    params = {"params": random_weights(model, batch | {"masked_positions": np.zeros((1, 1), np.int32)})}
    every = compiled(model)(params, batch | {"masked_positions": np.arange(8, dtype=np.int32)[None]})["mlm"]
    chosen = np.array([6, 2, 2, 0, 7, 7, 6, 1], np.int32)  # as many as in all: a second shape would be compiled again
    some = compiled(model)(params, batch | {"masked_positions": chosen[None]})["mlm"]
    assert every.shape == (1, 8, 60)
    np.testing.assert_allclose(some[0], every[0, chosen], atol=1e-6)


def test_in_bfloat16_a_tables_gradient_is_added_up_in_float32():
    # 600 equal tokens: a sum of ones in bfloat16 would stay at 256.
    config, compute = replace(TINY, hidden_dropout=0.0), Compute(dtype="bfloat16")
    ids = np.zeros((600,), np.int32)[None]
    batch = {"input_ids": ids, "position_ids": ids, "token_type_ids": ids}
    tables = Embeddings(config, compute)
    params = tables.init(jax.random.key(0), batch, True, method="look_up")
    row = jnp.asarray(np.random.default_rng(0).normal(size=config.embedding_width), jnp.bfloat16)

    def gradient(tokens):
        def score(params):
            x_BTE = tables.apply(params, {k: v[:, :tokens] for k, v in batch.items()}, True, method="look_up")
            return jnp.sum(jnp.einsum("BTE,E->BT", x_BTE, row).astype(jnp.float32))

        return jax.grad(score)(params)["params"]

    one, many = gradient(1), gradient(600)
    for name in ("word", "position", "token_type"):
        expected = 600 * one[name]["embedding"][0]
        np.testing.assert_allclose(many[name]["embedding"][0], expected, rtol=1e-2, atol=1e-3 * abs(expected).max())


def test_bfloat16_computes_in_bfloat16_from_float32_parameters_to_float32_logits():
    compute = Compute(dtype="bfloat16")
    model = BertForSequenceClassification(TINY, num_classes=3, compute=compute)
    batch = batch_of(random_ids(8), length=8)
    params = {"params": random_weights(model, batch)}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    low = compiled(model)(params, batch)
    assert low.dtype == jnp.float32
    states = jax.eval_shape(Bert(TINY, compute).apply, {"params": params["params"]["bert"]}, batch)
    assert states.dtype == jnp.bfloat16
    full = compiled(BertForSequenceClassification(TINY, num_classes=3))(params, batch)
    np.testing.assert_allclose(low, full, atol=0.02)
    assert not np.array_equal(low, full)


def test_a_new_head_starts_as_in_transformers_and_the_encoder_as_in_bert():
    """Untruncated, a normal distribution has 4.6 % of its values outside of two standard deviations."""
    config = replace(TINY, hidden_size=256, num_layers=1, initializer_range=0.1)
    batch = batch_of(random_ids(2), length=2)
    params = jax.jit(BertForSequenceClassification(config, num_classes=40).init)(jax.random.key(0), batch)["params"]
    head, pooler = params["sequence"]["out"]["kernel"], params["bert"]["pooler"]["kernel"]
    assert np.std(head) == pytest.approx(0.1, rel=0.03)
    assert 0.04 < np.mean(np.abs(head) > 0.2) < 0.052
    assert np.std(pooler) == pytest.approx(0.088, rel=0.03)
    assert np.abs(pooler).max() <= 0.2


def test_dropout_needs_its_key_and_changes_the_output():
    model, params = encoder()
    batch = batch_of(random_ids(8), length=8)
    a, b = (compiled(model, deterministic=False)(params, batch, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(a, b)


def test_dropout_keeps_its_rate_and_mean_and_its_entries_are_independent():
    x = jnp.ones((4, 8, 128, 128))
    a, b = (Dropout(0.1).apply({}, x, False, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    a_on, b_on = np.asarray(a) > 0, np.asarray(b) > 0
    error = (0.9 * 0.1 / a_on.size) ** 0.5
    assert abs(a_on.mean() - 0.9) < 5 * error
    assert abs(float(a.mean()) - 1) < 6 * error
    assert set(np.unique(a)) == {np.float32(0), np.float32(1 / 0.9)}
    pairs = [
        (a_on, b_on),
        (a_on[0], a_on[1]),
        (a_on[..., 1:], a_on[..., :-1]),
        (a_on[..., 1:, :], a_on[..., :-1, :]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 6 / one.size**0.5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"num_layer_groups": 9}, "num_layer_groups"),
        ({"hidden_dropout": 1.0}, "dropout"),
    ],
)
def test_an_impossible_config_names_its_field(change, field):
    with pytest.raises(InputError, match=field):
        replace(TINY, **change)


def test_an_unknown_preset_is_refused_with_a_list_of_all():
    with pytest.raises(InputError, match="bert-tiny"):
        preset("bert-huge")
