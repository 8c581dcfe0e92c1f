"""Whole pre-trainings by name, to begin an experiment with."""

import dataclasses
from typing import Any

from bert_jax.config.experiment import Experiment
from bert_jax.config.model import preset
from bert_jax.config.optimizer import AdamW, Muon
from bert_jax.config.tasks import Pretraining
from bert_jax.errors import InputError

RECIPES: dict[str, Experiment] = {
    # BERT-base as published (Devlin et al. 2019, appendix A.2), without the adjusted moments that Google's Adam lacks.
    "bert": Experiment(
        task=Pretraining(length_schedule=((0.9, 128), (0.1, 512))),
        model=preset("bert-base", vocab_size=0),
        optimizer=AdamW(learning_rate=1e-4, warmup_share=0.01, bias_correction=False),
        batch_size=256,
        steps=1_000_000,
        eval_every=10_000,
        checkpoint_every=10_000,
    ),
    # For a few minutes: rotary positions, norms before each part, no pairs, no dropout, Muon, and a mask rate that goes
    # down. A gated feed-forward of the same size learned less per step, so this ModernBERT has BERT's, with its biases.
    # Weights this narrow start larger than BERT's 0.02, which suits widths of 768 and more.
    "fast": Experiment(
        task=Pretraining(sequence_length=64, packing="packed", pairs="none", mask_rate=0.3, last_mask_rate=0.15),
        model=preset(
            "modernbert-tiny",
            vocab_size=0,
            num_layers=2,
            intermediate_size=512,
            feed_forward="mlp",
            linear_bias=True,
            norm_bias=True,
            global_every=1,
            rotary_theta=10000.0,
            initializer_range=0.05,
        ),
        optimizer=Muon(learning_rate=4e-3, rms=0.6, warmup_share=0.05, b2=0.98),
        batch_size=32,
        steps=1500,
    ),
}


def recipe(name: str, **changes: Any) -> Experiment:
    """Returns the pre-training called `name`, with fields of the experiment or of its task changed.

    Raises:
      InputError: there is no such recipe, or no such field.

    >>> recipe("fast", stores=("runs/store",), steps=500).task.stores
    ('runs/store',)
    """
    if name not in RECIPES:
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    start = RECIPES[name]
    of_task = {field.name for field in dataclasses.fields(start.task)}
    of_experiment = {field.name for field in dataclasses.fields(start)}
    if unknown := sorted(changes.keys() - of_task - of_experiment):
        raise InputError(f"{', '.join(unknown)}: neither Experiment nor {type(start.task).__name__} has this field")
    task = {field: value for field, value in changes.items() if field in of_task}
    rest = {field: value for field, value in changes.items() if field not in of_task}
    return dataclasses.replace(start, **{"task": dataclasses.replace(start.task, **task), **rest})
