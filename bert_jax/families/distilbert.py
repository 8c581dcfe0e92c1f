"""DistilBERT (Sanh et al. 2019): half of BERT's layers, no segments, and a pooler with ReLU that only heads have."""

from bert_jax.families import bert
from bert_jax.families.base import Family, NameTable

_LAYER = "{p}transformer.layer.{layer}."
_QKV = tuple(f"{_LAYER}attention.{part}_lin" for part in "qkv")

TENSORS: NameTable = (
    *(row for row in bert.EMBEDDINGS if "token_type" not in row[0]),
    ("bert/blocks_{group}/attention/qkv/kernel", "3HK<D", tuple(f"{name}.weight" for name in _QKV)),
    ("bert/blocks_{group}/attention/qkv/bias", "3HK", tuple(f"{name}.bias" for name in _QKV)),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", _LAYER + "attention.out_lin.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", _LAYER + "attention.out_lin.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", _LAYER + "sa_layer_norm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", _LAYER + "sa_layer_norm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "F<D", _LAYER + "ffn.lin1.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "F", _LAYER + "ffn.lin1.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", _LAYER + "ffn.lin2.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", _LAYER + "ffn.lin2.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", _LAYER + "output_layer_norm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", _LAYER + "output_layer_norm.bias"),
    ("bert/pooler/kernel", "D<D", "pre_classifier.weight"),
    ("bert/pooler/bias", "D", "pre_classifier.bias"),
    ("mlm/dense/kernel", "E<D", "vocab_transform.weight"),
    ("mlm/dense/bias", "E", "vocab_transform.bias"),
    ("mlm/norm/scale", "E", "vocab_layer_norm.weight"),
    ("mlm/norm/bias", "E", "vocab_layer_norm.bias"),
    ("mlm/bias", "V", "vocab_projector.bias"),
    *bert.HEADS,
)

DISTILBERT = Family(
    name="distilbert",
    presets={
        "distilbert-base": {
            "num_layers": 6,
            "classifier_dropout": 0.2,
            "type_vocab_size": 0,
            "pooler": "relu",
        }
    },
    defaults="distilbert-base",
    segments=False,
    fields={
        "vocab_size": "vocab_size",
        "dim": "hidden_size",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "hidden_dim": "intermediate_size",
        "activation": "activation",
        "max_position_embeddings": "max_position_embeddings",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "seq_classif_dropout": "classifier_dropout",
        "initializer_range": "initializer_range",
    },
    # A table of sinusoids is stored as any other, so `sinusoidal_pos_embds` changes nothing for its readers.
    written={"pad_token_id": 0, "sinusoidal_pos_embds": False},
    requires={"embedding_size": False},
    class_prefix="DistilBert",
    prefix="distilbert.",
    architectures={heads: name for heads, name in bert.ARCHITECTURES.items() if "pair" not in heads},
    without_pooler=bert.WITHOUT_POOLER | {"Model"},
    tensors=TENSORS,
    tied={"vocab_projector.weight": "{p}embeddings.word_embeddings.weight"},
)
