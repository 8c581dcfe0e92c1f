"""BERT in JAX and Flax: pre-train, adapt and fine-tune through one training step."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bert_jax.config import OPTIMIZER_KINDS, PRESETS, TASK_KINDS, BertConfig, Compute, Experiment, preset, recipe
from bert_jax.config.optimizer import *  # noqa: F403
from bert_jax.config.tasks import *  # noqa: F403
from bert_jax.errors import InputError

if TYPE_CHECKING:
    from bert_jax.predict import Encoded, PretrainedBert, load
    from bert_jax.training.loop import Hook
    from bert_jax.training.train import train

# These names are imported when they are first used: worker processes and `--help` need no JAX.
_HOMES = {
    "Encoded": "predict",
    "PretrainedBert": "predict",
    "load": "predict",
    "Hook": "training.loop",
    "train": "training.train",
}

__all__ = [  # noqa: RUF022
    "PRESETS",
    "BertConfig",
    "Experiment",
    "Compute",
    "preset",
    "recipe",
    "InputError",
    "Encoded",
    "PretrainedBert",
    "load",
    "train",
    "Hook",
]
__all__ += OPTIMIZER_KINDS
__all__ += TASK_KINDS


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"bert_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
