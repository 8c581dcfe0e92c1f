"""A pre-training step of each model of an experiment file: the same batch, in turn."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import timing, training
from bert_jax.config import BertConfig, Pretraining
from bert_jax.sweeps import load_experiments

VOCABULARY = 8000  # where the experiment takes it from a tokenizer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("experiment", type=Path)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures each model's speed as a multiple of the first one's; equal models are measured once."""
    models: dict[BertConfig, str] = {}
    works = {}
    for name, experiment in load_experiments(options.experiment).items():
        task, model = experiment.task, experiment.model
        if isinstance(task, Pretraining) and model is not None and model not in models:
            models[model] = name
            config = replace(model, vocab_size=model.vocab_size or VOCABULARY)
            batch = training.random_batch(config, experiment.batch_size, task.sequence_length)
            works[name] = (training.our_step, config, experiment.compute, batch)
    if not works:
        raise SystemExit(f"{options.experiment}: expected at least one pre-training with a model")
    speeds = {name: speed.median for name, speed in timing.alternate(works).items()}
    first = next(iter(speeds.values()))
    for name, speed in speeds.items():
        print(f"{name}: {speed:,.0f} tokens/s, {speed / first:.2f} times the first")
    return [
        {"work": name, "unit": "tokens/s", "ours": speed, "of_first": speed / first} for name, speed in speeds.items()
    ]
