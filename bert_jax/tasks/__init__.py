"""What can be learned: the `Task` protocol and the table of its rooms, one file each."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, SequenceClassification, TaskFields
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features
from bert_jax.data.rows import Row
from bert_jax.losses import Keys, Outcome
from bert_jax.tasks.distillation import DistillationTask
from bert_jax.tasks.multiple_choice import MultipleChoiceTask
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.tasks.question_answering import QuestionAnsweringTask
from bert_jax.tasks.sequence_classification import SequenceClassificationTask, markers_to_add
from bert_jax.tasks.token_classification import TokenClassificationTask
from bert_jax.tokenizers import Tokenizer

TASKS: dict[str, Any] = {
    "Pretraining": PretrainingTask,
    "SequenceClassification": SequenceClassificationTask,
    "Distillation": DistillationTask,
    "TokenClassification": TokenClassificationTask,
    "QuestionAnswering": QuestionAnsweringTask,
    "MultipleChoice": MultipleChoiceTask,
}


class Batches(Protocol):
    """Batches as a pure function of the step."""

    num_examples: int  # examples in one pass
    num_steps: int  # batches in one pass, the last one filled up with rows of weight 0

    def __call__(self, step: int) -> Arrays: ...


class Task(Protocol):
    """All that one kind of task is: its data, model, loss, score and answers."""

    fields: TaskFields
    config: BertConfig
    compute: Compute
    model: nn.Module  # encoder and head, called as model(batch, deterministic)

    def __init__(self, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()): ...

    @staticmethod
    def resolve(fields: Any) -> Any:
        """Fills in what only the training data can tell (label names), so that experiment.json holds it."""
        ...

    def train_batches(
        self, *, batch_size: int, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
    ) -> Batches:
        """Batches to learn from, of which host number `host` of `hosts` gets its rows.

        `batch_size` counts those of all hosts. Where rows are packed, their number is a multiple of `multiple`.
        """
        ...

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> Batches | None:
        """Batches to evaluate on: of the fields' own data, or of `data`; None where there is none."""
        ...

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Returns the losses, metrics and predictions of one batch."""
        ...

    def counts(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the count of each loss of `loss_fn`, from the batch alone: float32 scalars."""
        ...

    def dummy_batch(self) -> Arrays:
        """A batch of one row of one token, enough to create the model's parameters."""
        ...

    def score(self, predictions: Arrays, batches: Any) -> dict[str, float]:
        """Figures that need all predictions (examples in their original order) rather than sums over batches."""
        ...

    def tables(self, predictions: Arrays, batches: Any) -> dict[str, Any]:
        """For the report: {"per_label": {label: figures}, "confusion": {"labels", "counts"}}, or part of it."""
        ...

    def fitted(self, predictions: Arrays, batches: Any) -> dict[str, Any]:
        """Values of fields that evaluation rows decide; who loads the run uses them."""
        ...

    def predict_batches(self, rows: Sequence[Row], *, batch_size: int) -> Any:
        """Batches of rows to predict, which need no label."""
        ...

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """What the model says of each row, as JSON."""
        ...


def make(fields: TaskFields, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Task:
    """Returns the task that `fields` describe, for a model of `config`, computed as `compute` says."""
    return TASKS[type(fields).__name__](fields, config, tokenizer, compute)


def pieces_to_add(fields: TaskFields, tokenizer: Tokenizer) -> list[str]:
    """Returns what the vocabulary has to hold for the task and does not: its markers.

    Raises:
      InputError: a marker is empty or holds a space.
    """
    return markers_to_add(fields.markers, tokenizer) if isinstance(fields, SequenceClassification) else []
