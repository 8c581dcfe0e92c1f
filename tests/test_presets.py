"""Presets: on the command line, and the combinations of fields that they use."""

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import flags, heads
from bert_jax.config import PRESETS, BertConfig, Compute, Experiment, preset
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.interop import huggingface
from bert_jax.model import Bert
from helpers.steps import uneven_batch
from helpers.weights import random_weights

FILE = """
from bert_jax.config import Experiment, Pretraining, preset
first = Experiment(Pretraining(("store",)), model=preset("bert-tiny", vocab_size=0, hidden_dropout=0.0), steps=5)
sweep = {"first": first, "second": Experiment(first.task, init_from="run:first", steps=5)}
"""


@dataclass(frozen=True)
class Options:
    """An experiment."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]


@pytest.fixture
def parse(tmp_path):
    (tmp_path / "sweep.py").write_text(FILE)

    def parsed(*args: str) -> dict[str, Experiment]:
        options = flags.parse_experiments("train", [str(tmp_path / "sweep.py"), *args], Options, {}, "")
        return {name: options.experiment for name, options in options.items()}

    return parsed


@pytest.mark.parametrize("args", [["--model", "modernbert-tiny"], ["--model=modernbert-tiny"]])
def test_the_flag_model_takes_a_preset_with_the_vocabulary_of_the_tokenizer(parse, args):
    modern = preset("modernbert-tiny", vocab_size=0)
    assert {name: e.model for name, e in parse(*args).items()} == {"first": modern, "second": modern}
    fewer = parse(*args, "--model.num-layers", "1", "--only", "first")
    assert fewer["first"].model == replace(modern, num_layers=1)


def test_an_unknown_preset_on_the_command_line_is_refused_with_a_list_of_all(parse):
    with pytest.raises(InputError, match="--model: no preset is called 'bert-huge'") as caught:
        parse("--model", "bert-huge")
    assert all(name in str(caught.value) for name in PRESETS)
    with pytest.raises(InputError, match="--model: expected one argument"):
        parse("--model")


@pytest.mark.parametrize("name", ["roberta-tiny", "modernbert-tiny", "electra-tiny"])
def test_a_model_that_also_learnt_pairs_is_written_without_their_head_where_no_class_has_it(tmp_path, name):
    config = preset(name, vocab_size=60, num_layers=1)
    params = random_weights(heads.BertForPreTraining(config, pairs=True), uneven_batch())
    assert "pair" in params
    notes = huggingface.write(tmp_path / "pairs", config, params)
    assert notes[0].startswith("left out: the head for sentence pairs, which no ")
    huggingface.write(tmp_path / "alone", config, {part: values for part, values in params.items() if part != "pair"})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "pairs" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


SIZES = {"vocab_size": 56, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
# What works on each token by itself, and the dropout before the pooler.
BY_ITSELF = {"activation": "gelu", "mlm_activation": None, "layer_norm_epsilon": 1e-5, "pooler_dropout": False}


def tiny(config: BertConfig) -> BertConfig:
    """Returns a config with the choices of another one, and of its size only what is factorized, shared or local."""
    shared, local = config.num_layer_groups is not None, config.local_attention > 0
    return BertConfig(
        **vars(config)
        | SIZES
        | BY_ITSELF
        | {
            "num_layers": 2 if shared or local else 1,
            "embedding_size": config.embedding_size and 8,
            "local_attention": 8 * local,  # rows of 60 are computed in chunks, those of 20 whole
            "global_every": 2,
            "rotary_theta": 100.0,
            "local_rotary_theta": 50.0 if local else None,
            "pooler": "tanh",
            "family": "bert",
        }
    )


COMBINATIONS = {tiny(config): name for name, config in reversed(PRESETS.items())}  # with one preset that has it
ALONE, PACKED = (6, 1, 20), (2, 3, 66)  # rows, sequences in a row, tokens in a row


def batch_of(config: BertConfig, rows: int, sequences: int, length: int) -> dict[str, np.ndarray]:
    """The same six sequences of 20 tokens, one or several in a row, and padding after them."""
    rng = np.random.default_rng(0)
    types = max(1, config.type_vocab_size)

    def in_rows(values: np.ndarray, padding: int = 0) -> np.ndarray:
        rest = ((0, 0), (0, length - 20 * sequences))
        return np.pad(values.reshape(rows, -1), rest, constant_values=padding).astype(np.int32)

    batch = make_batch(
        in_rows(rng.integers(0, 56, 120), padding=7),
        token_type_ids=in_rows(rng.integers(0, types, 120)),
        sequence_ids=in_rows(np.repeat(np.arange(6) % sequences + 1, 20)),
    )
    return batch | {"position_ids": batch["position_ids"] + np.int32(config.first_position)}


@pytest.mark.parametrize("config", COMBINATIONS, ids=COMBINATIONS.get)
def test_packing_padding_remat_and_devices_change_no_gradient_of_any_preset(config):
    def gradient(shape, compute, devices):
        def value(params, batch):
            x_BTD = Bert(config, compute).apply({"params": params}, batch)
            where = batch["cls_positions"], batch["sequence_ids"]
            pooled_BND = Bert(config, compute).apply({"params": params}, x_BTD, *where, method="pool")
            real_BT1 = (batch["sequence_ids"] > 0)[:, :, None]
            return jnp.sum(jnp.where(real_BT1, jnp.sin(x_BTD), 0)) + jnp.sum(jnp.sin(pooled_BND))

        rows = NamedSharding(Mesh(jax.devices()[:devices], ("rows",)), P("rows"))
        batch = jax.device_put(batch_of(config, *shape), rows)
        return jax.jit(jax.value_and_grad(value))(params, batch)

    everything = heads.BertForSequenceClassification(config, 3)
    params = random_weights(everything, batch_of(config, *ALONE), deviation=0.3)["bert"]
    alone = gradient(ALONE, Compute(), devices=1)
    packed = gradient(PACKED, Compute(remat=True), devices=2)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())
