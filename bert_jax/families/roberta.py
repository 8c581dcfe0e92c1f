"""RoBERTa (Liu et al. 2019), and with the same names XLM-R (Conneau et al. 2020) and CamemBERT (Martin et al. 2020)."""

from dataclasses import replace
from typing import Any

from bert_jax.families import bert
from bert_jax.families.base import Family, NameTable


def _size(vocab_size: int, hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 514,
        "first_position": 2,
        "type_vocab_size": 1,
        "layer_norm_epsilon": 1e-5,
        "mlm_activation": "gelu",
        "pooler_dropout": True,
    }


TENSORS: NameTable = (
    *bert.EMBEDDINGS,
    *bert.BLOCKS,
    ("mlm/dense/kernel", "E<D", "lm_head.dense.weight"),
    ("mlm/dense/bias", "E", "lm_head.dense.bias"),
    ("mlm/norm/scale", "E", "lm_head.layer_norm.weight"),
    ("mlm/norm/bias", "E", "lm_head.layer_norm.bias"),
    ("mlm/bias", "V", "lm_head.bias"),
    *bert.SPAN,
)
# The classifier of sequences has a pooler of its own, before its output layer.
SEQUENCE: NameTable = (
    ("bert/pooler/kernel", "D<D", "classifier.dense.weight"),
    ("bert/pooler/bias", "D", "classifier.dense.bias"),
    ("sequence/out/kernel", "C<D", "classifier.out_proj.weight"),
    ("sequence/out/bias", "C", "classifier.out_proj.bias"),
)

ROBERTA = Family(
    name="roberta",
    presets={
        "roberta-tiny": _size(50265, 128, 2, 2),
        "distilroberta": _size(50265, 768, 6, 12),
        "roberta-base": _size(50265, 768, 12, 12),
        "roberta-large": _size(50265, 1024, 24, 16),
    },
    defaults="roberta-base",
    class_defaults={"layer_norm_epsilon": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2},
    separators=2,
    segments=False,
    fields=bert.FIELDS | {"classifier_dropout": "classifier_dropout"},
    fallbacks={"classifier_dropout": "hidden_dropout"},
    # Positions are counted from the number of the padding token + 1.
    constants={"pad_token_id": 1},
    token_ids={"bos_token_id": "cls_id", "eos_token_id": "sep_id"},
    requires={"embedding_size": False},
    class_prefix="Roberta",
    prefix="roberta.",
    architectures={heads: name for heads, name in bert.ARCHITECTURES.items() if "pair" not in heads},
    without_pooler=bert.WITHOUT_POOLER,
    tensors=TENSORS,
    class_tensors={
        "Model": bert.POOLER,
        "ForMaskedLM": bert.POOLER,
        "ForQuestionAnswering": bert.POOLER,
        "ForMultipleChoice": (*bert.POOLER, *bert.CLASSIFIER),
        "ForTokenClassification": (*bert.POOLER, *bert.CLASSIFIER),
        "ForSequenceClassification": SEQUENCE,
    },
    unused=("{p}pooler.dense.weight", "{p}pooler.dense.bias"),
    tied={"lm_head.decoder.weight": "{p}embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
)

XLM_ROBERTA = replace(
    ROBERTA,
    name="xlm-roberta",
    presets={
        "xlm-roberta-base": _size(250002, 768, 12, 12),
        "xlm-roberta-large": _size(250002, 1024, 24, 16),
    },
    defaults="xlm-roberta-base",
    class_prefix="XLMRoberta",
)

CAMEMBERT = replace(
    ROBERTA,
    name="camembert",
    presets={"camembert-base": _size(32005, 768, 12, 12)},
    defaults="camembert-base",
    class_prefix="Camembert",
)
