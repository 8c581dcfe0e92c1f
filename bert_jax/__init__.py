"""BERT in JAX and Flax: pre-train, adapt and fine-tune through one training step."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_jax.config import (
        PRESETS,
        AdamW,
        BertConfig,
        Compute,
        Distillation,
        Experiment,
        MultipleChoice,
        Pretraining,
        QuestionAnswering,
        SequenceClassification,
        TokenClassification,
        preset,
    )
    from bert_jax.errors import InputError
    from bert_jax.predict import Encoded, PretrainedBert, load
    from bert_jax.training.loop import Hook
    from bert_jax.training.train import train

# Each name is imported when it is first used: worker processes and `--help` need no JAX.
_HOMES = {
    "config": (
        "PRESETS",
        "BertConfig",
        "Compute",
        "Distillation",
        "Experiment",
        "MultipleChoice",
        "AdamW",
        "Pretraining",
        "QuestionAnswering",
        "SequenceClassification",
        "TokenClassification",
        "preset",
    ),
    "errors": ("InputError",),
    "predict": ("Encoded", "PretrainedBert", "load"),
    "training.loop": ("Hook",),
    "training.train": ("train",),
}

__all__ = [  # noqa: RUF022
    "PRESETS",
    "BertConfig",
    "Experiment",
    "Compute",
    "AdamW",
    "Pretraining",
    "SequenceClassification",
    "TokenClassification",
    "QuestionAnswering",
    "MultipleChoice",
    "Distillation",
    "preset",
    "InputError",
    "Encoded",
    "PretrainedBert",
    "load",
    "train",
    "Hook",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"bert_jax.{home}"), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
