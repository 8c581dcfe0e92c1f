"""Tiny experiments on the rows and store of the fixture `data`, and what they write."""

import json
from dataclasses import replace
from pathlib import Path

from bert_jax.config import AdamW, Compute, Experiment, Pretraining, SequenceClassification
from bert_jax.interop.table import SetAside
from bert_jax.pretrained import Weights, write_source
from bert_jax.training.run import resolve
from helpers.models import MODEL, QUIET
from helpers.weights import random_weights


def pretraining(data: Path, **changes) -> Experiment:
    experiment = Experiment(
        task=Pretraining(stores=(str(data / "store"),), sequence_length=32, held_out=0.1),
        model=MODEL,
        optimizer=AdamW(learning_rate=1e-3),
        batch_size=8,
        steps=12,
        log_every=5,
        eval_every=6,
        checkpoint_every=4,
        compute=Compute(sharding="single"),
    )
    return replace(experiment, **changes)


def fine_tuning(data: Path, **changes) -> Experiment:
    experiment = Experiment(
        task=SequenceClassification(train=str(data / "train.jsonl"), eval=str(data / "dev.jsonl"), max_length=16),
        model=QUIET,
        tokenizer=str(data / "tokenizer"),
        optimizer=AdamW(learning_rate=3e-3),
        batch_size=16,
        steps=60,
        eval_every=0,
        compute=Compute(sharding="single"),
    )
    return replace(experiment, **changes)


def write_model(workdir: Path, experiment: Experiment) -> Experiment:
    """Writes a workdir with random weights and no figures, without training; returns the complete experiment."""
    run = resolve(experiment)
    params = random_weights(run.task.model, run.task.dummy_batch())
    source = Weights("", run.task.config, run.tokenizer, run.task.fields, lambda: (params, SetAside()))
    write_source(source, workdir, "orbax")
    return run.experiment


def silent(text: str) -> None:
    del text


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
