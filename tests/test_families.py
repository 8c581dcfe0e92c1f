"""What a family reads from a config.json, in every spelling, and what it refuses."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import transformers

from bert_jax import heads, pretrained
from bert_jax.config import PRESETS, Experiment, Pretraining, preset
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop import huggingface
from bert_jax.training.run import resolve
from helpers.interop import small_tokenizer, torch_model
from helpers.models import MODEL

SIZES = {
    "model_type": "modernbert",
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
# The same model as transformers 4 and 5 write it; Ettin's and mmBERT's files have another word for no positions.
OLD = {"global_rope_theta": 5000.0, "local_rope_theta": 300.0, "global_attn_every_n_layers": 2}
OLD |= {"position_embedding_type": "sans_pos"}
NEW = {
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
}


def read(**fields):
    return huggingface.parse_config(SIZES | fields, "config.json")[0]


def test_both_spellings_of_modernbert_are_read_as_transformers_reads_them():
    assert read(**OLD) == read(**NEW)
    config = read(**NEW)
    assert (config.rotary_theta, config.local_rotary_theta, config.global_every) == (5000.0, 300.0, 2)
    for spelling in (OLD, NEW, huggingface.to_config(config, huggingface.Details())):
        theirs = transformers.ModernBertConfig(**SIZES | spelling)
        assert theirs.layer_types == NEW["layer_types"]
        assert theirs.rope_parameters == NEW["rope_parameters"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            r"lacks local_rope_theta \(or rope_parameters.sliding_attention.rope_theta\); it is 10000 in ModernBERT's",
        ),
        ({"rope_parameters": {"full_attention": NEW["rope_parameters"]["full_attention"]}}, "lacks local_rope_theta"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types must have an entry for each layer, 'full_attention'"),
        (OLD | {"layer_types": ["full_attention"] * 3}, "layer_types must have an entry for each layer"),
        (OLD | {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is not supported"),
        (
            {
                "rope_parameters": NEW["rope_parameters"]
                | {"full_attention": {"rope_type": "linear", "rope_theta": 1.0}}
            },
            "rope_parameters.full_attention.rope_type is 'linear'; only 'default'",
        ),
        (OLD | {"mlp_bias": True}, "attention_bias and mlp_bias and classifier_bias must be equal; .* mlp_bias True"),
        (OLD | {"decoder_bias": False}, "decoder_bias is False; only True is supported"),
        (OLD | {"classifier_activation": "relu"}, "classifier_activation is 'relu'; only 'gelu'"),
        (OLD | {"classifier_pooling": "max"}, "classifier_pooling must be one of cls, mean, got 'max'"),
    ],
)
def test_what_no_field_can_say_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        read(**fields)


def test_a_modernbert_of_global_layers_needs_no_local_theta():
    assert not any(read(layer_types=["full_attention"] * 4).is_local(layer) for layer in range(4))


def test_an_electra_as_wide_as_its_embeddings_has_no_projection():
    sizes = SIZES | {"model_type": "electra"}
    for width, expected in ((24, None), (10, 10)):
        config, details = huggingface.parse_config(sizes | {"embedding_size": width}, "config.json")
        assert config.embedding_size == expected
        assert huggingface.to_config(config, details)["embedding_size"] == width


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written(name):
    config = PRESETS[name]
    hf_config = huggingface.to_config(config, huggingface.Details())
    assert huggingface.parse_config(hf_config, "config.json")[0] == config
    assert hf_config["model_type"] == FAMILIES[config.family].name


def test_the_pooler_of_a_modernbert_starts_as_the_layer_of_its_mlm_head(tmp_path):
    torch_model("modernbert", "ForMaskedLM", norm_bias=True).save_pretrained(tmp_path)
    small_tokenizer().save(tmp_path)
    opened = pretrained.open_source(tmp_path)
    model = heads.BertForTokenClassification(opened.config, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), make_batch(np.ones((1, 2), np.int32)))["params"]
    params, report = pretrained.fit(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), opened)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path).head
    np.testing.assert_array_equal(params["bert"]["pooler"]["kernel"].T, theirs.dense.weight.detach())
    np.testing.assert_array_equal(params["bert"]["pooler_norm"]["scale"], theirs.norm.weight.detach())
    np.testing.assert_array_equal(params["bert"]["pooler_norm"]["bias"], theirs.norm.bias.detach())
    assert report.new == ["token/out/bias", "token/out/kernel"]
    assert "the pooler starts as the layer of the MLM head" in str(report)


def test_a_vocabulary_is_filled_up_to_a_multiple_and_spare_rows_are_never_drawn(data):
    fields = Pretraining(stores=(str(data / "store"),), held_out=0.0, sequence_length=16, random_token_share=0.2)
    experiment = Experiment(task=fields, model=replace(MODEL, vocab_multiple=64), batch_size=32, steps=1)
    run = resolve(experiment)
    assert (run.tokenizer.vocab_size, run.experiment.model.vocab_size) == (80, 128)
    batches = run.task.train_batches(batch_size=32, steps=1, seed=0)
    assert max(batches(step)["input_ids"].max() for step in range(20)) < 80


def test_a_roberta_is_not_trained_with_the_padding_token_of_a_wordpiece_tokenizer(data):
    experiment = Experiment(Pretraining((str(data / "store"),)), model=preset("roberta-tiny", vocab_size=0), steps=1)
    with pytest.raises(InputError, match=r"must be 1; '\[PAD\]' is 0. `bert_jax tokenizer --kind bytelevel` makes"):
        resolve(experiment)
