"""Tiny experiments on the rows and store of the fixture `data`, and what they write."""

import json
from dataclasses import replace
from pathlib import Path

from bert_jax.config import AdamW, Compute, Experiment, Pretraining, SequenceClassification
from helpers.models import MODEL, QUIET


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


def silent(text: str) -> None:
    del text


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
