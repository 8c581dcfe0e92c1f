"""One run, whole."""

from dataclasses import dataclass, field
from typing import Literal

from bert_jax.config.model import BertConfig
from bert_jax.config.optimizer import Optimizer
from bert_jax.config.tasks import TaskFields


@dataclass(frozen=True)
class Experiment:
    """One run, whole: what `bert_jax train` needs beside a workdir, and what it stores there as experiment.json."""

    task: TaskFields  # what is learned, and from which data
    model: BertConfig | None = None  # None = that of init_from
    tokenizer: str | None = None  # its folder; None = that of init_from, or the one the token store was made with
    init_from: str | None = None  # SOURCE of the first weights: workdir, checkpoint or hf:org/name; None = random
    reinit_layers: int = 0  # so many of the top layers of init_from, and its pooler, start from random weights again
    optimizer: Optimizer = field(default_factory=Optimizer)  # how the weights move
    batch_size: int = 32  # rows in a step, over all devices
    steps: int = 0  # training steps; 0 = as many as `epochs` needs
    epochs: float = 0.0  # passes over the training data, where steps is 0
    seed: int = 0  # of weights, data order, masking and dropout
    seeds: int = 1  # train with so many seeds, from `seed` on, and report mean and spread
    microbatches: int = 1  # parts a batch is split into, one after another, to save memory
    sharding: Literal["auto", "pmap", "mesh", "single"] = "auto"  # auto = pmap where there are several devices
    fsdp: int = 0  # with sharding mesh: devices that parameters and optimizer state are split over; 0 = all
    log_every: int = 100  # steps between two lines of training figures
    eval_every: int = 1000  # steps between two evaluations; the last step is always evaluated; 0 = only then
    checkpoint_every: int = 1000  # steps between two checkpoints; the last step is always saved
    keep_checkpoints: int = 2  # how many of the latest stay
    keep_best: str = ""  # figure of the evaluation, such as f1 or loss: the weights of its best are kept, and loaded
    patience: int = 0  # with keep_best: stop after so many evaluations that bring no better one; 0 = never
    max_skipped: int = 10  # the run stops after so many steps in a row whose loss or gradient is not finite


# Fields that may differ when a run is continued: they change how it runs, not what it computes.
RESUMABLE_FIELDS = frozenset(
    {"sharding", "fsdp", "microbatches", "checkpoint_every", "keep_checkpoints", "max_skipped"}
)
