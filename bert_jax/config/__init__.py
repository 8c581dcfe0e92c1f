"""Every choice of a model and of a run, as frozen dataclasses that import nothing but the standard library.

Glossary of the single letters in array names (``x_BTD`` is an array of shape [batch, length, hidden_size]):

    B  rows in the batch                T, S  positions in a row (queries, keys)
    D  hidden_size                      E     embedding_size
    H  num_heads                        K     head size, hidden_size / num_heads
    F  intermediate_size                V     vocab_size
    P  masked positions predicted       N     sequences packed in one row
    C  classes
"""

from bert_jax.config.codec import differences, experiment_from_json, from_json, to_json
from bert_jax.config.compute import Compute
from bert_jax.config.experiment import Experiment, is_resumable
from bert_jax.config.model import PRESETS, BertConfig, preset
from bert_jax.config.optimizer import AdamW, Optimizer, OptimizerFields
from bert_jax.config.tasks import (
    TASK_KINDS,
    Distillation,
    Labelled,
    MultipleChoice,
    Pretraining,
    QuestionAnswering,
    SequenceClassification,
    TaskFields,
    TokenClassification,
)

__all__ = [
    "PRESETS",
    "TASK_KINDS",
    "AdamW",
    "BertConfig",
    "Compute",
    "Distillation",
    "Experiment",
    "Labelled",
    "MultipleChoice",
    "Optimizer",
    "OptimizerFields",
    "Pretraining",
    "QuestionAnswering",
    "SequenceClassification",
    "TaskFields",
    "TokenClassification",
    "differences",
    "experiment_from_json",
    "from_json",
    "is_resumable",
    "preset",
    "to_json",
]
