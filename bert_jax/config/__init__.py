"""Every choice of a model and of a run, as frozen dataclasses that import nothing but the standard library.

Glossary of the single letters in array names (``x_BTD`` is an array of shape [batch, length, hidden_size]):

    B  rows in the batch                T, S  positions in a row (queries, keys)
    D  hidden_size                      E     embedding_size
    H  num_heads                        K     head size, hidden_size / num_heads
    F  intermediate_size                V     vocab_size
    P  masked positions predicted       N     sequences packed in one row
    C  classes
"""

from bert_jax.config import optimizer, tasks
from bert_jax.config.codec import differences, experiment_from_json, from_json, to_json
from bert_jax.config.compute import Compute
from bert_jax.config.experiment import Experiment, is_resumable
from bert_jax.config.model import PRESETS, BertConfig, preset

# Each task and each optimizer is named in its own file alone.
from bert_jax.config.optimizer import *  # noqa: F403
from bert_jax.config.recipes import RECIPES, recipe
from bert_jax.config.tasks import *  # noqa: F403
from bert_jax.config.vectors import TextVectors

__all__ = [
    "PRESETS",
    "RECIPES",
    "BertConfig",
    "Compute",
    "Experiment",
    "TextVectors",
    "differences",
    "experiment_from_json",
    "from_json",
    "is_resumable",
    "preset",
    "recipe",
    "to_json",
]
__all__ += optimizer.__all__
__all__ += tasks.__all__
