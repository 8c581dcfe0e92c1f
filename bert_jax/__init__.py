"""BERT in JAX and Flax: pre-train, adapt and fine-tune through one training step.

To train, `from bert_jax.train import train`: a function could not have its module's name here, for whichever is
imported last would hide the other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_jax.config import PRESETS, BertConfig, Experiment, Optimizer, Pretraining, Sequences, preset
    from bert_jax.errors import InputError
    from bert_jax.predict import Encoded, PretrainedBert, load

# Each name is imported when it is first used: worker processes and `--help` need no JAX.
_HOMES = {
    "config": ("PRESETS", "BertConfig", "Experiment", "Optimizer", "Pretraining", "Sequences", "preset"),
    "errors": ("InputError",),
    "predict": ("Encoded", "PretrainedBert", "load"),
}

__all__ = [  # noqa: RUF022
    "PRESETS",
    "BertConfig",
    "Experiment",
    "Optimizer",
    "Pretraining",
    "Sequences",
    "preset",
    "InputError",
    "Encoded",
    "PretrainedBert",
    "load",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"bert_jax.{home}"), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
