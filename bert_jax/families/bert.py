"""BERT (Devlin et al. 2019) and the smaller models of Turc et al. 2019, "Well-Read Students"."""

from typing import Any

from bert_jax.families.base import Family, NameTable


def _size(hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
    }


FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "activation",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
}

ARCHITECTURES = {
    frozenset(): "Model",
    frozenset({"mlm", "pair"}): "ForPreTraining",
    frozenset({"mlm"}): "ForMaskedLM",
    frozenset({"pair"}): "ForNextSentencePrediction",
    frozenset({"sequence"}): "ForSequenceClassification",
    frozenset({"token"}): "ForTokenClassification",
    frozenset({"span"}): "ForQuestionAnswering",
    frozenset({"choice"}): "ForMultipleChoice",
}
WITHOUT_POOLER = frozenset({"ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"})

CLASSIFIER: NameTable = (
    ("{classifier}/out/kernel", "C<D", "classifier.weight"),
    ("{classifier}/out/bias", "C", "classifier.bias"),
)
SPAN: NameTable = (
    ("span/out/kernel", "2<D", "qa_outputs.weight"),
    ("span/out/bias", "2", "qa_outputs.bias"),
)
HEADS: NameTable = (*CLASSIFIER, *SPAN)
POOLER: NameTable = (
    ("bert/pooler/kernel", "D<D", "{p}pooler.dense.weight"),
    ("bert/pooler/bias", "D", "{p}pooler.dense.bias"),
)

EMBEDDINGS: NameTable = (
    ("bert/embeddings/word/embedding", "VE", "{p}embeddings.word_embeddings.weight"),
    ("bert/embeddings/position/embedding", "TE", "{p}embeddings.position_embeddings.weight"),
    ("bert/embeddings/token_type/embedding", "SE", "{p}embeddings.token_type_embeddings.weight"),
    ("bert/embeddings/norm/scale", "E", "{p}embeddings.LayerNorm.weight"),
    ("bert/embeddings/norm/bias", "E", "{p}embeddings.LayerNorm.bias"),
)

BLOCKS: NameTable = (
    (
        "bert/blocks_{group}/attention/qkv/kernel",
        "3HK<D",
        (
            "{p}encoder.layer.{layer}.attention.self.query.weight",
            "{p}encoder.layer.{layer}.attention.self.key.weight",
            "{p}encoder.layer.{layer}.attention.self.value.weight",
        ),
    ),
    (
        "bert/blocks_{group}/attention/qkv/bias",
        "3HK",
        (
            "{p}encoder.layer.{layer}.attention.self.query.bias",
            "{p}encoder.layer.{layer}.attention.self.key.bias",
            "{p}encoder.layer.{layer}.attention.self.value.bias",
        ),
    ),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", "{p}encoder.layer.{layer}.attention.output.dense.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", "{p}encoder.layer.{layer}.attention.output.dense.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", "{p}encoder.layer.{layer}.attention.output.LayerNorm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", "{p}encoder.layer.{layer}.attention.output.LayerNorm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "F<D", "{p}encoder.layer.{layer}.intermediate.dense.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "F", "{p}encoder.layer.{layer}.intermediate.dense.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", "{p}encoder.layer.{layer}.output.dense.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", "{p}encoder.layer.{layer}.output.dense.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", "{p}encoder.layer.{layer}.output.LayerNorm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", "{p}encoder.layer.{layer}.output.LayerNorm.bias"),
)

TENSORS: NameTable = (
    *EMBEDDINGS,
    *BLOCKS,
    *POOLER,
    ("mlm/dense/kernel", "E<D", "cls.predictions.transform.dense.weight"),
    ("mlm/dense/bias", "E", "cls.predictions.transform.dense.bias"),
    ("mlm/norm/scale", "E", "cls.predictions.transform.LayerNorm.weight"),
    ("mlm/norm/bias", "E", "cls.predictions.transform.LayerNorm.bias"),
    ("mlm/bias", "V", "cls.predictions.bias"),
    ("pair/out/kernel", "2<D", "cls.seq_relationship.weight"),
    ("pair/out/bias", "2", "cls.seq_relationship.bias"),
    *HEADS,
)

# Names of Google's code: https://github.com/google-research/bert.

GOOGLE_EMBEDDINGS: NameTable = (
    ("bert/embeddings/word/embedding", "VE", "bert/embeddings/word_embeddings"),
    ("bert/embeddings/position/embedding", "TE", "bert/embeddings/position_embeddings"),
    ("bert/embeddings/token_type/embedding", "SE", "bert/embeddings/token_type_embeddings"),
    ("bert/embeddings/norm/scale", "E", "bert/embeddings/LayerNorm/gamma"),
    ("bert/embeddings/norm/bias", "E", "bert/embeddings/LayerNorm/beta"),
)

GOOGLE_POOLER_AND_HEADS: NameTable = (
    ("bert/pooler/kernel", "D>D", "bert/pooler/dense/kernel"),
    ("bert/pooler/bias", "D", "bert/pooler/dense/bias"),
    ("mlm/dense/kernel", "D>E", "cls/predictions/transform/dense/kernel"),
    ("mlm/dense/bias", "E", "cls/predictions/transform/dense/bias"),
    ("mlm/norm/scale", "E", "cls/predictions/transform/LayerNorm/gamma"),
    ("mlm/norm/bias", "E", "cls/predictions/transform/LayerNorm/beta"),
    ("mlm/bias", "V", "cls/predictions/output_bias"),
    ("pair/out/kernel", "2<D", "cls/seq_relationship/output_weights"),
    ("pair/out/bias", "2", "cls/seq_relationship/output_bias"),
    ("sequence/out/kernel", "C<D", "output_weights"),
    ("sequence/out/bias", "C", "output_bias"),
    ("span/out/kernel", "2<D", "cls/squad/output_weights"),
    ("span/out/bias", "2", "cls/squad/output_bias"),
)


def google_block(attention: str, attention_norm: str, ffn_in: str, ffn_out: str, ffn_norm: str) -> NameTable:
    """The rows of one block, whose parts BERT and ALBERT name differently."""
    block = "bert/blocks_{group}/"
    parts = [f"{attention}/self/{name}" for name in ("query", "key", "value")]
    return (
        (block + "attention/qkv/kernel", "D>3HK", tuple(f"{name}/kernel" for name in parts)),
        (block + "attention/qkv/bias", "3HK", tuple(f"{name}/bias" for name in parts)),
        (block + "attention/out/kernel", "HK>D", f"{attention}/output/dense/kernel"),
        (block + "attention/out/bias", "D", f"{attention}/output/dense/bias"),
        (block + "attention_norm/scale", "D", f"{attention_norm}/gamma"),
        (block + "attention_norm/bias", "D", f"{attention_norm}/beta"),
        (block + "feed_forward/in/kernel", "D>F", f"{ffn_in}/kernel"),
        (block + "feed_forward/in/bias", "F", f"{ffn_in}/bias"),
        (block + "feed_forward/out/kernel", "F>D", f"{ffn_out}/kernel"),
        (block + "feed_forward/out/bias", "D", f"{ffn_out}/bias"),
        (block + "feed_forward_norm/scale", "D", f"{ffn_norm}/gamma"),
        (block + "feed_forward_norm/bias", "D", f"{ffn_norm}/beta"),
    )


_LAYER = "bert/encoder/layer_{layer}"

GOOGLE_TENSORS: NameTable = (
    *GOOGLE_EMBEDDINGS,
    *google_block(
        attention=f"{_LAYER}/attention",
        attention_norm=f"{_LAYER}/attention/output/LayerNorm",
        ffn_in=f"{_LAYER}/intermediate/dense",
        ffn_out=f"{_LAYER}/output/dense",
        ffn_norm=f"{_LAYER}/output/LayerNorm",
    ),
    *GOOGLE_POOLER_AND_HEADS,
)

BERT = Family(
    name="bert",
    presets={
        "bert-tiny": _size(128, 2, 2),
        "bert-mini": _size(256, 4, 4),
        "bert-small": _size(512, 4, 8),
        "bert-medium": _size(512, 8, 8),
        "bert-base": _size(768, 12, 12),
        "bert-large": _size(1024, 24, 16),
    },
    defaults="bert-base",
    fields=FIELDS | {"classifier_dropout": "classifier_dropout"},
    fallbacks={"classifier_dropout": "hidden_dropout"},
    written={"pad_token_id": 0},
    requires={"embedding_size": False},
    class_prefix="Bert",
    prefix="bert.",
    architectures=ARCHITECTURES,
    without_pooler=WITHOUT_POOLER,
    tensors=TENSORS,
    tied={
        "cls.predictions.decoder.weight": "{p}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    google_config="bert_config.json",
    google_tensors=GOOGLE_TENSORS,
)
