"""Tiny models, texts and experiments that several tests train."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from bert_jax.config import BertConfig, Experiment, Optimizer, Pretraining, Sequences

MODEL = BertConfig(
    vocab_size=0,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
QUIET = replace(MODEL, hidden_dropout=0.0, attention_dropout=0.0)
WORDS = ["red", "blue", "green", "gold", "small", "large", "old", "new", "cat", "dog"]
WORDS += ["bird", "fish", "runs", "sleeps", "eats", "sings", "here", "there", "now", "then"]
NAMES = ["red", "blue", "green", "gold", "small", "large", "Paris", "London", "cats", "doghouse"]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        "\n".join(" ".join(rng.choice(WORDS, rng.integers(4, 9))).capitalize() + "." for _ in range(rng.integers(3, 8)))
        for _ in range(count)
    ]


def pretraining(data: Path, **changes) -> Experiment:
    experiment = Experiment(
        task=Pretraining(stores=(str(data / "store"),), sequence_length=32, held_out=0.1),
        model=MODEL,
        optimizer=Optimizer(learning_rate=1e-3),
        batch_size=8,
        steps=12,
        log_every=5,
        eval_every=6,
        checkpoint_every=4,
        sharding="single",
    )
    return replace(experiment, **changes)


def fine_tuning(data: Path, **changes) -> Experiment:
    experiment = Experiment(
        task=Sequences(train=str(data / "train.jsonl"), eval=str(data / "dev.jsonl"), max_length=16),
        model=QUIET,
        tokenizer=str(data / "tokenizer"),
        optimizer=Optimizer(learning_rate=3e-3),
        batch_size=16,
        steps=60,
        eval_every=0,
        sharding="single",
    )
    return replace(experiment, **changes)


def silent(text: str) -> None:
    del text


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
