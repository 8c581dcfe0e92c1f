"""ELECTRA (Clark et al. 2020): a generator fills masks, and a discriminator finds the tokens that it replaced."""

from collections.abc import Mapping
from typing import Any

from bert_jax.families import bert
from bert_jax.families.base import Family


def _size(
    hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, embedding_size: int | None = None
) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "intermediate_size": intermediate_size,
        "embedding_size": embedding_size,
        "pooler": "gelu",
        "pooler_dropout": True,
        "mlm_activation": "gelu",
    }


def read_config(hf_config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the content of a config.json, without an embedding_size that is the hidden_size: it has no projection."""
    del where
    values = {"embedding_size": 128, **hf_config}  # as in transformers, where the field is missing
    if values["embedding_size"] == values.get("hidden_size"):
        values["embedding_size"] = None
    return values


def write_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content to write; the inverse of `read_config`."""
    return {**values, "embedding_size": values["embedding_size"] or values["hidden_size"]}


ELECTRA = Family(
    name="electra",
    presets={
        "electra-tiny": _size(128, 2, 2, 512),
        "electra-small": _size(256, 12, 4, 1024, embedding_size=128),
        "electra-base": _size(768, 12, 12, 3072),
        "electra-large": _size(1024, 24, 16, 4096),
    },
    defaults="electra-base",
    fields=bert.FIELDS | {"embedding_size": "embedding_size", "classifier_dropout": "classifier_dropout"},
    fallbacks={"classifier_dropout": "hidden_dropout"},
    constants={"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"},
    written={"pad_token_id": 0},
    read_config=read_config,
    write_config=write_config,
    class_prefix="Electra",
    prefix="electra.",
    architectures={
        frozenset(): "Model",
        frozenset({"discriminator"}): "ForPreTraining",
        frozenset({"mlm"}): "ForMaskedLM",
        frozenset({"sequence"}): "ForSequenceClassification",
        frozenset({"token"}): "ForTokenClassification",
        frozenset({"span"}): "ForQuestionAnswering",
        frozenset({"choice"}): "ForMultipleChoice",
    },
    without_pooler=frozenset(
        {"Model", "ForPreTraining", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"}
    ),
    tensors=(
        *bert.EMBEDDINGS,
        ("bert/embeddings/projection/kernel", "D<E", "{p}embeddings_project.weight"),
        ("bert/embeddings/projection/bias", "D", "{p}embeddings_project.bias"),
        *bert.BLOCKS,
    ),
    class_tensors={
        "ForPreTraining": (
            ("discriminator/dense/kernel", "D<D", "discriminator_predictions.dense.weight"),
            ("discriminator/dense/bias", "D", "discriminator_predictions.dense.bias"),
            ("discriminator/out/kernel", "1<D", "discriminator_predictions.dense_prediction.weight"),
            ("discriminator/out/bias", "1", "discriminator_predictions.dense_prediction.bias"),
        ),
        "ForMaskedLM": (
            ("mlm/dense/kernel", "E<D", "generator_predictions.dense.weight"),
            ("mlm/dense/bias", "E", "generator_predictions.dense.bias"),
            ("mlm/norm/scale", "E", "generator_predictions.LayerNorm.weight"),
            ("mlm/norm/bias", "E", "generator_predictions.LayerNorm.bias"),
            ("mlm/bias", "V", "generator_lm_head.bias"),
        ),
        "ForSequenceClassification": (
            ("bert/pooler/kernel", "D<D", "classifier.dense.weight"),
            ("bert/pooler/bias", "D", "classifier.dense.bias"),
            ("sequence/out/kernel", "C<D", "classifier.out_proj.weight"),
            ("sequence/out/bias", "C", "classifier.out_proj.bias"),
        ),
        "ForTokenClassification": (
            ("token/out/kernel", "C<D", "classifier.weight"),
            ("token/out/bias", "C", "classifier.bias"),
        ),
        "ForQuestionAnswering": (
            ("span/out/kernel", "2<D", "qa_outputs.weight"),
            ("span/out/bias", "2", "qa_outputs.bias"),
        ),
        "ForMultipleChoice": (
            ("bert/pooler/kernel", "D<D", "sequence_summary.summary.weight"),
            ("bert/pooler/bias", "D", "sequence_summary.summary.bias"),
            ("choice/out/kernel", "1<D", "classifier.weight"),
            ("choice/out/bias", "1", "classifier.bias"),
        ),
    },
    tied={"generator_lm_head.weight": "{p}embeddings.word_embeddings.weight"},
)
