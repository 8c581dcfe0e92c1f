"""The tasks, one file each, and the table `TASKS`."""

from bert_jax.config import BertConfig, Compute, TaskFields
from bert_jax.tasks.base import Answering, Batches, Evaluation, Task
from bert_jax.tasks.distillation import DistillationTask
from bert_jax.tasks.mlm_distillation import MlmDistillationTask
from bert_jax.tasks.multiple_choice import MultipleChoiceTask
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.tasks.question_answering import QuestionAnsweringTask
from bert_jax.tasks.sentence_embedding import SentenceEmbeddingTask
from bert_jax.tasks.sequence_classification import SequenceClassificationTask, markers_to_add, second_text
from bert_jax.tasks.token_classification import TokenClassificationTask
from bert_jax.tokenizers import Tokenizer

__all__ = ["TASKS", "Answering", "Batches", "Evaluation", "Task", "make", "pieces_to_add", "resolve", "second_text"]

TASKS: dict[str, type[Task]] = {
    "Pretraining": PretrainingTask,
    "MlmDistillation": MlmDistillationTask,
    "SequenceClassification": SequenceClassificationTask,
    "Distillation": DistillationTask,
    "TokenClassification": TokenClassificationTask,
    "QuestionAnswering": QuestionAnsweringTask,
    "MultipleChoice": MultipleChoiceTask,
    "SentenceEmbedding": SentenceEmbeddingTask,
}


def resolve(fields: TaskFields, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Task:
    """Returns the task of `fields`, with the fields filled in that the training data decides.

    Raises:
      InputError: a field is missing, or the training data cannot be read.
    """
    return TASKS[type(fields).__name__].open(fields, config, tokenizer, compute)


def make(fields: TaskFields, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Task:
    """Returns the task of `fields`, for a model of `config` that is computed as in `compute`."""
    return TASKS[type(fields).__name__](fields, config, tokenizer, compute)


def pieces_to_add(fields: TaskFields, tokenizer: Tokenizer) -> list[str]:
    """Returns the tokens that the task needs and the vocabulary lacks: its markers.

    Raises:
      InputError: a marker is empty or holds a space.
    """
    return markers_to_add(fields.added_tokens, tokenizer)
