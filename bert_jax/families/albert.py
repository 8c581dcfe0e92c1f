"""ALBERT (Lan et al. 2020): shared blocks and factorized embeddings. The presets are version 2, without dropout."""

from typing import Any

from bert_jax.families import bert
from bert_jax.families.base import Family, NameTable


def _size(hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 30000,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
        "embedding_size": 128,
        "num_layer_groups": 1,
        "activation": "gelu_new",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


_BLOCK = "{p}encoder.albert_layer_groups.{group}.albert_layers.0."

TENSORS: NameTable = (
    *bert.EMBEDDINGS,
    ("bert/embeddings/projection/kernel", "D<E", "{p}encoder.embedding_hidden_mapping_in.weight"),
    ("bert/embeddings/projection/bias", "D", "{p}encoder.embedding_hidden_mapping_in.bias"),
    (
        "bert/blocks_{group}/attention/qkv/kernel",
        "3HK<D",
        (_BLOCK + "attention.query.weight", _BLOCK + "attention.key.weight", _BLOCK + "attention.value.weight"),
    ),
    (
        "bert/blocks_{group}/attention/qkv/bias",
        "3HK",
        (_BLOCK + "attention.query.bias", _BLOCK + "attention.key.bias", _BLOCK + "attention.value.bias"),
    ),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", _BLOCK + "attention.dense.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", _BLOCK + "attention.dense.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", _BLOCK + "attention.LayerNorm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", _BLOCK + "attention.LayerNorm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "F<D", _BLOCK + "ffn.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "F", _BLOCK + "ffn.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", _BLOCK + "ffn_output.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", _BLOCK + "ffn_output.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", _BLOCK + "full_layer_layer_norm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", _BLOCK + "full_layer_layer_norm.bias"),
    ("bert/pooler/kernel", "D<D", "{p}pooler.weight"),
    ("bert/pooler/bias", "D", "{p}pooler.bias"),
    ("mlm/dense/kernel", "E<D", "predictions.dense.weight"),
    ("mlm/dense/bias", "E", "predictions.dense.bias"),
    ("mlm/norm/scale", "E", "predictions.LayerNorm.weight"),
    ("mlm/norm/bias", "E", "predictions.LayerNorm.bias"),
    ("mlm/bias", "V", "predictions.bias"),
    ("pair/out/kernel", "2<D", "sop_classifier.classifier.weight"),
    ("pair/out/bias", "2", "sop_classifier.classifier.bias"),
    *bert.HEADS,
)

# Names of Google's code: https://github.com/google-research/albert.

_GROUP = "bert/encoder/transformer/group_{group}/inner_group_0"

GOOGLE_TENSORS: NameTable = (
    *bert.GOOGLE_EMBEDDINGS,
    ("bert/embeddings/projection/kernel", "E>D", "bert/encoder/embedding_hidden_mapping_in/kernel"),
    ("bert/embeddings/projection/bias", "D", "bert/encoder/embedding_hidden_mapping_in/bias"),
    *bert.google_block(
        attention=f"{_GROUP}/attention_1",
        attention_norm=f"{_GROUP}/LayerNorm",
        ffn_in=f"{_GROUP}/ffn_1/intermediate/dense",
        ffn_out=f"{_GROUP}/ffn_1/intermediate/output/dense",
        ffn_norm=f"{_GROUP}/LayerNorm_1",
    ),
    *bert.GOOGLE_POOLER_AND_HEADS,
)

ALBERT = Family(
    name="albert",
    presets={
        "albert-base": _size(768, 12, 12),
        "albert-large": _size(1024, 24, 16),
        "albert-xlarge": _size(2048, 24, 16),
        "albert-xxlarge": _size(4096, 12, 64),
    },
    defaults="albert-base",
    fields=bert.FIELDS
    | {
        "embedding_size": "embedding_size",
        "num_hidden_groups": "num_layer_groups",
        "classifier_dropout_prob": "classifier_dropout",
    },
    constants={"inner_group_num": 1},
    written={"pad_token_id": 0},
    recognised_by="embedding_size",
    requires={"embedding_size": True},
    class_prefix="Albert",
    prefix="albert.",
    architectures={heads: name for heads, name in bert.ARCHITECTURES.items() if name != "ForNextSentencePrediction"},
    without_pooler=bert.WITHOUT_POOLER,
    tensors=TENSORS,
    tied={
        "predictions.decoder.weight": "{p}embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    google_config="albert_config.json",
    google_activations={"gelu": "gelu_new"},
    google_tensors=GOOGLE_TENSORS,
)
