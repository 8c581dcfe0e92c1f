"""What a task is to the rest of the package: the protocols `Task` and `Answering`."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, TaskFields
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, RowBatches
from bert_jax.data.rows import Row
from bert_jax.data.sizes import BatchSizes
from bert_jax.losses import Joint, Keys, Outcome
from bert_jax.tokenizers import Tokenizer


class Batches(Protocol):
    """Batches as a pure function of the step."""

    num_examples: int  # examples in one pass
    num_steps: int  # batches in one pass, the last one filled up with rows of weight 0

    @property
    def notes(self) -> Sequence[str]:
        """Lines for the user about the data, such as how many texts were cut."""
        ...

    def __call__(self, step: int) -> Arrays: ...


class Evaluation(NamedTuple):
    """The result of an evaluation, as result.json holds it."""

    metrics: dict[str, float]
    tables: dict[str, Any]  # {"per_label": {label: figures}, "confusion": {"labels", "counts"}}, or part of it
    fitted: dict[str, Any]  # values of the task's fields that the evaluation rows decide, such as a threshold
    examples: list[dict[str, Any]]  # the first rows and their answers


class Task(Protocol):
    """One kind of training: its data, model, loss and evaluation."""

    @property
    def fields(self) -> TaskFields: ...

    config: BertConfig
    compute: Compute
    model: nn.Module  # encoder and head, called as model(batch, deterministic)
    joint: Joint | None  # in training, what takes the part of `loss_fn` if a loss compares rows with each other

    def __init__(self, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()): ...

    @classmethod
    def open(cls, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Self:
        """Returns the task, with the fields that the training data decides (label names) filled in.

        Raises:
          InputError: a field is missing, or the training data cannot be read.
        """
        ...

    def notes(self) -> list[str]:
        """Returns lines for the user that tell how the training data was understood."""
        ...

    def train_batches(
        self, *, batch_size: int | BatchSizes, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
    ) -> Batches:
        """Returns the batches to learn from; host number `host` of `hosts` gets its rows of each.

        `batch_size` is that of all hosts together, perhaps another one at other steps. If rows are packed, their number
        is a multiple of `multiple`.
        """
        ...

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> Batches | None:
        """Returns the batches to evaluate on; None without any.

        They are those of all rows of `data` or, without it, of the fields' own rows, as many as `eval_limit` allows.
        """
        ...

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Returns the losses, metrics and predictions of one batch."""
        ...

    def counts(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the count of each loss of `loss_fn`, from the batch alone: float32 scalars."""
        ...

    def dummy_batch(self) -> Arrays:
        """Returns a batch of one row of one token, enough to create the model's parameters."""
        ...

    def evaluate(self, predictions: Arrays, batches: Batches) -> Evaluation:
        """Returns what needs all predictions, rather than sums over batches.

        Args:
          predictions: of each example of `eval_batches`, in the order of the data set.
          batches: what `eval_batches` returned.
        """
        ...


@runtime_checkable
class Answering(Task, Protocol):
    """A task that answers single rows."""

    def predict_batches(self, rows: Sequence[Row], *, batch_size: int, skip: bool = False) -> RowBatches:
        """Returns batches of rows to predict, which need no label; with `skip`, bad rows are left out."""
        ...

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Returns the answer to each row, as JSON."""
        ...
