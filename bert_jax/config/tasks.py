"""The fields of each task: one frozen dataclass per task."""

import posixpath
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from bert_jax import sources
from bert_jax.config.model import BertConfig
from bert_jax.config.ranges import check_ranges, check_schedule
from bert_jax.config.vectors import BY_POOLER, TextVectors
from bert_jax.errors import InputError

__all__ = [  # noqa: RUF022 (in the order of this file)
    "TaskBase",
    "Labelled",
    "Pretraining",
    "MlmDistillation",
    "SequenceClassification",
    "Distillation",
    "TokenClassification",
    "QuestionAnswering",
    "MultipleChoice",
    "SentenceEmbedding",
    "TaskFields",
    "TASK_KINDS",
]


class TaskBase:
    """What the rest of the package reads about a task without JAX; a task overrides what is special about it.

    How a task learns and answers is in its class in `bert_jax/tasks/`.
    """

    title: ClassVar[str]  # heading in reports
    primary_figures: ClassVar[tuple[str, ...]]  # metrics that results keep; the first one present is the score
    hugging_face_class: ClassVar[str | None] = None  # end of the name of transformers' class, such as "ForMaskedLM"
    fills_masks: ClassVar[bool] = False  # whether a trained model fills masks, rather than answering rows
    for_training: ClassVar[frozenset[str]] = frozenset()  # fields that a trained model does not need
    in_hugging_face: ClassVar[frozenset[str]] = frozenset()  # fields that `from_hugging_face` fills in

    @property
    def token_stores(self) -> tuple[str, ...]:
        """The token stores that it learns from, each made with a tokenizer."""
        return ()

    @property
    def text_field(self) -> str:
        """The field of a row whose value a single text is."""
        return "text"

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Words that must be one token each in the vocabulary."""
        return ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the model's outputs, if they have names."""
        return ()

    @property
    def problem_type(self) -> str | None:
        """The `problem_type` in the config.json of transformers, if the class has one."""
        return None

    @property
    def unknown_to_hugging_face(self) -> list[str]:
        """What transformers does otherwise with a trained model, because its files cannot hold it, as sentences."""
        return []

    @property
    def longest_row(self) -> tuple[str, int]:
        """Returns the field that sets the length of rows, and the tokens in the longest one."""
        raise NotImplementedError

    def generator(self, model: BertConfig) -> BertConfig | None:
        """Returns the config of the second encoder that learns together with `model`, if there is one."""
        return None

    def read(self, model: BertConfig) -> tuple[str, ...]:
        """Returns the arrays of a batch with the positions that heads read; () = they read every token."""
        return ()

    def check_length(self, longest: int) -> None:
        """Raises InputError if rows have more tokens than `longest`, for which the model has positions."""
        name, length = self.longest_row
        if length > longest:
            raise InputError(f"task.{name}: must be at most {longest}, the model's positions, got {length}")

    def with_sources(self, resolved: Callable[[str], str]) -> Self:
        """Returns the fields with each SOURCE of weights in them replaced by resolved(SOURCE)."""
        return self

    @classmethod
    def from_hugging_face(cls, names: tuple[str, ...], problem_type: str | None, max_length: int) -> Self:
        """Returns the fields of a model of transformers, as far as its config.json has them."""
        raise NotImplementedError


def _summaries(model: BertConfig) -> tuple[str, ...]:
    """Returns what the summaries of whole sequences read; see `TaskBase.read`."""
    return ("cls_positions",) if model.pooling == "cls" else ()


@dataclass(frozen=True)
class Pretraining(TaskBase):
    """Masked language modelling, with or without sentence pairs, or replaced-token detection, on token stores.

    In replaced-token detection a small generator fills masks, and the model finds the tokens that it replaced
    (Clark et al. 2020, ELECTRA).
    """

    title = "Pre-training"
    primary_figures = ("mlm_accuracy", "mlm_loss", "pair_accuracy")
    fills_masks = True

    stores: tuple[str, ...] = ()  # folders written by `bert_jax prepare`
    weights: tuple[float, ...] = ()  # share of each store in a batch; empty = by their numbers of tokens
    held_out: float = 0.01  # share of documents, chosen by a hash of their text, kept for evaluation
    eval_sequences: int = 2000  # at most this many held-out sequences are evaluated
    sequence_length: int = 128  # tokens in a row, special tokens included
    length_schedule: tuple[tuple[float, int], ...] = ()  # (share of the steps, length) in turn; empty = sequence_length
    pairs: Literal["nsp", "sop", "none"] = (
        "nsp"  # next sentence, sentence order, or single segments without a pair loss
    )
    packing: Literal["none", "packed", "concatenated"] = (
        "none"  # several sequences a row: attention apart, or RoBERTa's
    )
    short_sequences: float = 0.1  # share of sequences cut to a random shorter length; only where packing is none
    mask_rate: float = 0.15  # share of tokens to predict
    last_mask_rate: float | None = None  # in the last step: the rate changes evenly to it, and evaluation uses it
    mask_token_share: float = 0.8  # of those, replaced by [MASK]
    random_token_share: float = 0.1  # of those, replaced by a random token; the rest stay unchanged
    mask_unit: Literal["token", "word", "ngram"] = "token"  # what is masked whole; ngram: ALBERT's runs of words
    max_ngram: int = 3  # longest run with mask_unit ngram; a run of n has probability proportional to 1/n
    objective: Literal["mlm", "rtd"] = "mlm"  # masked tokens, or replaced-token detection
    generator_share: float = 0.25  # with rtd: width of the generator, as a share of the model's
    generator_weight: float = 1.0  # with rtd: weight of the generator's loss in the objective
    discriminator_weight: float = 50.0  # with rtd: weight of the discriminator's loss
    share_embeddings: bool = True  # with rtd: whether both have one table of each kind of embeddings
    position_parts: int = 1  # evaluation also has the MLM accuracy of each of this number of equal parts of the length

    def __post_init__(self):
        check_ranges(self, "task.")
        if self.objective == "rtd" and self.position_parts > 1:
            raise InputError("task.position_parts: is about masked tokens; set objective mlm")
        if self.mask_token_share + self.random_token_share > 1:
            raise InputError("task: mask_token_share and random_token_share add up to more than 1")
        if self.packing == "concatenated" and self.pairs != "none":
            raise InputError("task: packing concatenated has no sentence pairs; set pairs none, or packing packed")
        if self.objective == "rtd" and self.pairs != "none":
            raise InputError("task: objective rtd has no sentence pairs; set pairs none")
        check_schedule("task.length_schedule", self.length_schedule)

    @property
    def token_stores(self) -> tuple[str, ...]:
        return self.stores

    def generator(self, model: BertConfig) -> BertConfig | None:
        return model.narrowed(self.generator_share) if self.objective == "rtd" else None

    def read(self, model: BertConfig) -> tuple[str, ...]:
        if self.objective == "rtd":
            return ()  # whether each token was replaced
        if self.pairs == "none":
            return ("masked_positions",)
        return ("masked_positions", *_summaries(model)) if _summaries(model) else ()

    @property
    def longest_row(self) -> tuple[str, int]:
        if self.length_schedule:
            return "length_schedule", max(length for _, length in self.length_schedule)
        return "sequence_length", self.sequence_length


@dataclass(frozen=True)
class MlmDistillation(Pretraining):
    """A smaller encoder learns to fill masks as a larger one, the teacher, does; neither needs a task."""

    title = "MLM distillation"

    pairs: Literal["nsp", "sop", "none"] = "none"  # the teacher's judgement of pairs is not learnt
    teacher: str = ""  # SOURCE with an MLM head and the same tokenizer; it reads every batch
    temperature: float = 2.0  # both models' logits are divided by it before they are compared
    teacher_weight: float = 5.0  # of the distance to the teacher's predictions at masked positions, in the objective
    mlm_weight: float = 2.0  # of the MLM loss
    cosine_weight: float = 1.0  # of 1 - the cosine between both models' last states of each token

    def read(self, model: BertConfig) -> tuple[str, ...]:
        return ()  # the cosines

    def with_sources(self, resolved: Callable[[str], str]) -> Self:
        return replace(self, teacher=resolved(self.teacher))


@dataclass(frozen=True)
class Labelled(TaskBase):
    """What every task on labelled rows has; `bert_jax.data.rows.read_rows` lists the sources it reads."""

    for_training = frozenset({"train", "eval", "folder", "limit", "eval_limit", "on_bad_row", "packing"})

    train: str = ""  # rows to learn from: JSON lines, TSV, CSV, Parquet, conll:FILE, SQuAD's JSON, or tfds:name:split
    eval: str = ""  # rows to evaluate on
    folder: str = ""  # where `train` and `eval` are, if they are files given without a folder
    columns: tuple[str, ...] = ()  # names of the columns of .tsv and .csv files without a header row
    limit: int | None = None  # number of training rows to use, drawn with the run's seed; None = all
    eval_limit: int | None = None  # number of rows of `eval` to evaluate on, from the first; None = all
    on_bad_row: Literal["stop", "skip"] = "stop"  # skip: rows that cannot be used are left out, counted and named
    max_length: int = 128  # tokens in a row, special tokens included
    packing: bool = False  # several short examples share a row, attention kept apart; a batch holds as many examples

    def __post_init__(self):
        check_ranges(self, "task.")

    @property
    def longest_row(self) -> tuple[str, int]:
        return "max_length", self.max_length

    def source(self, name: str) -> str:
        """Returns the path of `name` (the value of `train` or `eval`), in `folder` if that is set."""
        if not name or not self.folder or sources.parse(name).kind == "tfds":
            return name
        form, colon, path = name.rpartition(":")
        return form + colon + posixpath.join(self.folder, path)


def _cut_at(max_length: int) -> str:
    return f"texts are cut at {max_length} tokens; call transformers with truncation=True, max_length={max_length}"


_Target = Literal["single_label", "multi_label", "regression"]
_PROBLEM_TYPES: dict[_Target, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class SequenceClassification(Labelled):
    """One prediction for a text or a pair of texts: a class, any number of labels, or a number."""

    title = "Sequence classification"
    primary_figures = ("accuracy", "mean_average_precision", "f1_micro", "pearson")
    hugging_face_class = "ForSequenceClassification"
    for_training = Labelled.for_training | {"balanced", "label_shares"}
    in_hugging_face = frozenset({"target", "labels"})

    target: Literal["single_label", "multi_label", "regression"] = (
        "single_label"  # what is predicted: one label, any number, or a number
    )
    text: str = "text"  # field or column that holds the text
    text_b: str | None = None  # field of the second text of a pair
    label: str = "label"  # field of the label, of the list of labels, or of the number
    label_columns: tuple[str, ...] = ()  # with several, in place of `label`: columns of 0 and 1, named as labels
    label_separator: str | None = None  # with several: what is between the labels where a table has them in one column
    labels: tuple[str, ...] = ()  # names of the labels, in the order of the outputs; empty = found in the training rows
    label_numbers: bool | None = None  # rows may have numbers for `labels`, from 0; None = if all training rows do
    class_weights: tuple[float, ...] = ()  # weight of each label in the loss (with several: of its presence)
    balanced: bool = False  # class_weights from the training rows, such that rare labels count as much as common ones
    label_shares: tuple[float, ...] = ()  # with several: how many rows have each label; empty = found in the rows
    positive: str | None = None  # of two labels, the one that F1 is about; None = the second (GLUE: class 1)
    none_label: str | None = None  # the label "none of the others", left out of precision, recall and F1
    threshold: float = 0.5  # with several: a label is predicted where its probability is at least this
    markers: tuple[str, ...] = ()  # words in the text that are one token each, such as << >> around an entity

    @property
    def text_field(self) -> str:
        return self.text

    @property
    def added_tokens(self) -> tuple[str, ...]:
        return self.markers

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.labels

    @property
    def problem_type(self) -> str | None:
        return _PROBLEM_TYPES[self.target]

    def read(self, model: BertConfig) -> tuple[str, ...]:
        return _summaries(model)

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The fields that hold the labels of a row."""
        return self.label_columns or (self.label,)

    @property
    def unknown_to_hugging_face(self) -> list[str]:
        sentences = [_cut_at(self.max_length)]
        if self.text_b is not None:
            sentences.append(f"the model reads pairs, {self.text!r} and {self.text_b!r}; give transformers both texts")
        if self.markers:
            sentences.append(f"transformers splits the markers {' '.join(self.markers)} like other text")
        if self.target == "multi_label" and self.threshold != type(self).threshold:
            sentences.append(f"transformers does not choose labels by the threshold {self.threshold:g}")
        return sentences

    @classmethod
    def from_hugging_face(cls, names: tuple[str, ...], problem_type: str | None, max_length: int) -> Self:
        targets = {theirs: target for target, theirs in _PROBLEM_TYPES.items()}
        default: _Target = "regression" if len(names) == 1 else "single_label"  # as in transformers
        target = targets.get(str(problem_type)) if problem_type else default
        if target is None:
            raise InputError(f"problem_type must be one of {', '.join(targets)}, got {problem_type!r}")
        if target == "regression" and len(names) != 1:
            raise InputError(f"problem_type regression needs one output, and the head has {len(names)}")
        if target == "single_label" and len(names) == 1:
            raise InputError(f"problem_type {problem_type} needs at least two outputs, and the head has 1")
        return cls(labels=names, target=target, max_length=max_length)


@dataclass(frozen=True)
class Distillation(SequenceClassification):
    """A smaller model learns the outputs of a fine-tuned one, the teacher, for texts with labels and without."""

    title = "Distillation"
    for_training = SequenceClassification.for_training | {
        "teacher",
        "unlabelled",
        "unlabelled_limit",
        "temperature",
        "hard_weight",
    }

    teacher: str = ""  # SOURCE that was fine-tuned on the same labels; only its answers are used, never its weights
    unlabelled: str = ""  # more rows to learn from, which need no label; in `folder` too
    unlabelled_limit: int | None = None  # number of them to use, from the first; `limit` counts those with labels
    temperature: float = 1.0  # both models' outputs are divided by it before they are compared
    hard_weight: float = 0.0  # share of the loss on the rows' own labels in the objective; the rest is the teacher's

    def with_sources(self, resolved: Callable[[str], str]) -> Self:
        return replace(self, teacher=resolved(self.teacher))


@dataclass(frozen=True)
class TokenClassification(Labelled):
    """One tag for each word: entities in IOB1, IOB2, BIOES, BILOU or BMES, or plain tags.

    Long sentences are read in windows.
    """

    title = "Token classification"
    primary_figures = ("f1",)
    hugging_face_class = "ForTokenClassification"
    in_hugging_face = frozenset({"labels"})

    tokens: str = "tokens"  # field of the list of words
    tags: str = "tags"  # field of the list of tags
    labels: tuple[str, ...] = ()  # names of the tags, in the order of the outputs; empty = found in the training rows
    label_numbers: bool | None = None  # rows may have numbers for `labels`, from 0; None = if all training rows do
    # Tokens that two neighbouring windows of a long sentence share; None = 32, or half a window if that has no more.
    overlap: int | None = None

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.labels

    @classmethod
    def from_hugging_face(cls, names: tuple[str, ...], problem_type: str | None, max_length: int) -> Self:
        return cls(labels=names, max_length=max_length)


@dataclass(frozen=True)
class QuestionAnswering(Labelled):
    """Answers to questions as spans of a context, as in SQuAD. Long contexts are read in windows."""

    title = "Question answering"
    primary_figures = ("f1", "exact_match")
    hugging_face_class = "ForQuestionAnswering"

    max_length: int = 384  # tokens in a window, question included
    context: str = "context"  # field of the text that holds the answer
    question: str = "question"  # field of the question
    answers: str = "answers"  # field of the answers: [{"text", "answer_start"}], or {"text": [], "answer_start": []}
    identifier: str = "id"  # field that names the question
    stride: int = 128  # tokens from the start of one window to the start of the next
    max_question_length: int = 64  # tokens; longer questions are cut
    max_answer_length: int = 30  # tokens in an answer
    n_best: int = 20  # candidates kept for each window and each question
    unanswerable: bool = False  # SQuAD 2.0: some questions have no answer
    null_threshold: float = 0.0  # no answer if its score is this much above that of the best answer; see result.json
    factoid: bool = False  # also BioASQ's strict and lenient accuracy and mean reciprocal rank

    @property
    def unknown_to_hugging_face(self) -> list[str]:
        if not self.unanswerable:
            return []
        return [
            "transformers answers every question, unless its pipeline is called with handle_impossible_answer=True; it "
            f"does not use the threshold for no answer, {self.null_threshold:g}"
        ]

    @classmethod
    def from_hugging_face(cls, names: tuple[str, ...], problem_type: str | None, max_length: int) -> Self:
        return cls(max_length=min(cls.max_length, max_length))


@dataclass(frozen=True)
class MultipleChoice(Labelled):
    """Which of several continuations fits a context, as in SWAG."""

    title = "Multiple choice"
    primary_figures = ("accuracy",)
    hugging_face_class = "ForMultipleChoice"

    max_length: int = 64  # tokens of a context with one choice
    context: str = "context"  # field of the context
    choices: tuple[str, ...] = ("choices",)  # the field that holds a list of choices, or a field for each choice
    label: str = "label"  # field of the right choice: its number or letter
    first_choice: Literal[0, 1] | None = None  # number of the first choice; None = decided by the training rows

    def read(self, model: BertConfig) -> tuple[str, ...]:
        return _summaries(model)

    @property
    def unknown_to_hugging_face(self) -> list[str]:
        return [_cut_at(self.max_length)]

    @classmethod
    def from_hugging_face(cls, names: tuple[str, ...], problem_type: str | None, max_length: int) -> Self:
        return cls(max_length=max_length)


@dataclass(frozen=True)
class SentenceEmbedding(Labelled, TextVectors):
    """A vector for each text: texts that belong together get similar ones, and other texts of a batch do not.

    A row is a pair, perhaps with texts that do not belong to it (hard negatives), or a pair with a score. A row with a
    single text is a pair of the text with itself, which dropout makes different (Gao et al. 2021, SimCSE).
    """

    title = "Sentence embedding"
    primary_figures = ("mean_spearman", "spearman", "ndcg_at_10")
    for_training = Labelled.for_training | {"temperature", "symmetric", "score_weight", "score_range", "group"}
    in_hugging_face = frozenset({"pooling", "normalized", "prompts", "default_prompt"})

    normalized: bool = True  # whether vectors have length 1
    query: tuple[str, ...] = ("query", "text_a", "text")  # field of the first text; of several, the first that is there
    positive: tuple[str, ...] = ("positive", "text_b", "text")  # field of the text that belongs to it
    negatives: str = "negatives"  # field of the list of texts that do not, if a row has one
    score: str = "score"  # field of a pair's score, if it has one; such a pair has no other negatives
    group: str = "set"  # field with the set of a scored pair; of several sets, figures have the mean of their Spearman
    score_range: tuple[float, float] | None = None  # scores of the cosines 0 and 1; None = 0 to 1, or 0 to 5, by rows
    score_weight: float = 1.0  # weight in the objective of the squared difference of cosines and scores
    similarity: Literal["cosine", "dot"] = "cosine"  # of two vectors
    temperature: float = 0.05  # similarities are divided by it before they are compared
    symmetric: bool = False  # also compare each text with the queries of a batch, and take the mean of both losses
    dimensions: tuple[int, ...] = ()  # the first N numbers of a vector are vectors too, for each N (Matryoshka)

    def __post_init__(self):
        super().__post_init__()
        names = [name for name, _ in self.prompts]
        if len(names) > len(set(names)):
            raise InputError(f"task.prompts: a name is there twice: {', '.join(names)}")
        if self.default_prompt is not None:
            self.prompt()
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise InputError(f"task.score_range: the first score must be below the second, got {self.score_range}")

    @property
    def text_field(self) -> str:
        return "text" if "text" in self.query else self.query[0]

    def read(self, model: BertConfig) -> tuple[str, ...]:
        return {"mean": (), "cls": ("cls_positions",), BY_POOLER: _summaries(model)}[self.pooling]


TaskFields = (
    Pretraining
    | MlmDistillation
    | SequenceClassification
    | Distillation
    | TokenClassification
    | QuestionAnswering
    | MultipleChoice
    | SentenceEmbedding
)
TASK_KINDS: dict[str, type[TaskFields]] = {kind.__name__: kind for kind in typing.get_args(TaskFields)}
