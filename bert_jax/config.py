"""Every choice of a model and of a run, as frozen dataclasses that import nothing but the standard library.

Glossary of the single letters in array names (``x_BTD`` is an array of shape [batch, length, hidden_size]):

    B  rows in the batch                T, S  positions in a row (queries, keys)
    D  hidden_size                      E     embedding_size
    H  num_heads                        K     head size, hidden_size / num_heads
    F  intermediate_size                V     vocab_size
    P  masked positions predicted       N     sequences packed in one row
    C  classes
"""

import dataclasses
import os
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from bert_jax.errors import InputError


@dataclass(frozen=True)
class BertConfig:
    """The architecture of one encoder, and how it computes; BERT-base as published unless a field says otherwise."""

    vocab_size: int = 30522  # pieces in the vocabulary; 0 = as many as the run's tokenizer has
    hidden_size: int = 768  # width of the residual stream
    num_layers: int = 12  # how often a block is applied
    num_heads: int = 12  # attention heads; must divide hidden_size
    intermediate_size: int = 3072  # width inside the feed-forward
    embedding_size: int | None = None  # ALBERT's factorized embeddings: their width; None = hidden_size, no projection
    num_layer_groups: int | None = None  # blocks with weights of their own (ALBERT: 1); None = one for each layer
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"  # gelu is the exact (erf) one, gelu_new the tanh one
    max_position_embeddings: int = 512  # longest sequence
    type_vocab_size: int = 2  # segments (sentence A, sentence B)
    hidden_dropout: float = 0.1  # after the embeddings, attention and feed-forward
    attention_dropout: float = 0.1  # on attention probabilities
    classifier_dropout: float = 0.1  # before the output layer of a task's head
    layer_norm_epsilon: float = 1e-12  # added to the variance
    initializer_range: float = 0.02  # standard deviation of the truncated normal for every weight matrix
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of computation; losses are always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the stored parameters
    attention: Literal["explicit", "cudnn", "pallas"] = (
        "explicit"  # the others are fused and allow no attention_dropout
    )
    remat: bool = False  # recompute each block in the backward pass: less memory, a third more compute

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise InputError(
                f"model: num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}; "
                "choose a number of heads that does"
            )
        if self.num_layer_groups is not None and not 1 <= self.num_layer_groups <= self.num_layers:
            raise InputError(
                f"model: num_layer_groups {self.num_layer_groups} must lie between 1 and num_layers {self.num_layers}"
            )
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model: {name} {getattr(self, name)} must be at least 0 and below 1")
        if self.attention != "explicit" and self.attention_dropout > 0:
            raise InputError(
                f"model: attention {self.attention} knows no dropout; set attention_dropout to 0, or choose explicit"
            )
        if self.attention == "cudnn" and (self.dtype == "float32" or self.head_size % 8 or self.head_size > 128):
            raise InputError(
                "model: attention cudnn computes in bfloat16 or float16 and with a head size of at most 128 that 8 "
                f"divides; here dtype is {self.dtype} and the head size {self.head_size}; or choose explicit"
            )

    @property
    def embedding_width(self) -> int:
        """E: embedding_size where embeddings are factorized, else hidden_size."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def head_size(self) -> int:
        """K: the width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_groups(self) -> int:
        """How many blocks have weights of their own."""
        return self.num_layers if self.num_layer_groups is None else self.num_layer_groups

    def group(self, layer: int) -> int:
        """Which block layer number `layer` (from 0) applies."""
        return layer * self.layer_groups // self.num_layers


def _bert(hidden_size: int, num_layers: int, num_heads: int) -> BertConfig:
    return BertConfig(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=4 * hidden_size,
    )


def _albert(hidden_size: int, num_layers: int, num_heads: int, hidden_dropout: float = 0.0) -> BertConfig:
    return BertConfig(
        vocab_size=30000,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=4 * hidden_size,
        embedding_size=128,
        num_layer_groups=1,
        activation="gelu_new",
        hidden_dropout=hidden_dropout,
        attention_dropout=hidden_dropout,
    )


# BERT: Devlin et al. 2019 (base, large) and Turc et al. 2019, "Well-Read Students" (tiny to medium).
# ALBERT: version 2 of the published models (Lan et al. 2020), which dropped dropout.
PRESETS: dict[str, BertConfig] = {
    "bert-tiny": _bert(128, 2, 2),
    "bert-mini": _bert(256, 4, 4),
    "bert-small": _bert(512, 4, 8),
    "bert-medium": _bert(512, 8, 8),
    "bert-base": _bert(768, 12, 12),
    "bert-large": _bert(1024, 24, 16),
    "albert-base": _albert(768, 12, 12),
    "albert-large": _albert(1024, 24, 16),
    "albert-xlarge": _albert(2048, 24, 16),
    "albert-xxlarge": _albert(4096, 12, 64),
}


def preset(name: str, **changes: Any) -> BertConfig:
    """Returns the published configuration called `name`, with some fields changed.

    Raises:
      InputError: there is no such preset.

    >>> preset("bert-tiny", vocab_size=0).hidden_size
    128
    """
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)


@dataclass(frozen=True)
class Pretraining:
    """Masked language modelling, with or without a sentence-pair objective, on token stores."""

    stores: tuple[str, ...] = ()  # folders written by `bert_jax prepare`
    weights: tuple[float, ...] = ()  # share of each store in a batch; empty = by their numbers of tokens
    held_out: float = 0.01  # share of documents, chosen by a hash of their text, kept for evaluation
    eval_sequences: int = 2000  # at most so many held-out sequences are evaluated
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
    mask_token_share: float = 0.8  # of those, replaced by [MASK]
    random_token_share: float = 0.1  # of those, replaced by a random piece; the rest stay as they are
    mask_unit: Literal["token", "word", "ngram"] = "token"  # what is masked whole; ngram: ALBERT's runs of words
    max_ngram: int = 3  # longest run with mask_unit ngram; a run of n has probability proportional to 1/n


@dataclass(frozen=True)
class Labelled:
    """What every task on labelled rows has; see `bert_jax.data.rows.read_rows` for what a source can be."""

    train: str = ""  # rows to learn from: JSON lines, TSV, CSV, conll:FILE, SQuAD's JSON, or tfds:name:split
    eval: str = ""  # rows to evaluate on
    folder: str = ""  # where `train` and `eval` are, if they are files given without a folder
    limit: int | None = None  # use only so many training rows, drawn with the run's seed
    eval_limit: int | None = None  # use only the first so many rows to evaluate on
    max_length: int = 128  # tokens in a row, special tokens included

    def source(self, name: str) -> str:
        """`name` (`train` or `eval`), a file in `folder` where there is one."""
        if not name or not self.folder or name.startswith("tfds:"):
            return name
        form, colon, path = name.rpartition(":")
        return form + colon + os.path.join(self.folder, path)


@dataclass(frozen=True)
class SequenceClassification(Labelled):
    """One prediction for a text or a pair of texts: a class, any number of labels, or a number."""

    target: Literal["single_label", "multi_label", "regression"] = (
        "single_label"  # what is predicted: one label, any number, or a number
    )
    text: str = "text"  # field or column that holds the text
    text_b: str | None = None  # field of the second text of a pair
    label: str = "label"  # field of the label, of the list of labels, or of the number
    labels: tuple[str, ...] = ()  # names of the labels, in the order of the outputs; empty = found in the training rows
    class_weights: tuple[float, ...] = ()  # weight of each label in the loss (with several: of its presence)
    balanced: bool = False  # class_weights from the training rows, such that rare labels count as much as common ones
    label_shares: tuple[float, ...] = ()  # with several: how many rows have each label; empty = found in the rows
    none_label: str | None = None  # the label "none of the others", left out of precision, recall and F1
    threshold: float = 0.5  # with several: a label is predicted where its probability is at least this
    markers: tuple[str, ...] = ()  # words in the text that are one token each, such as << >> around an entity
    packing: bool = False  # several short texts share a row, attention kept apart; the batch holds as many texts


@dataclass(frozen=True)
class Distillation(SequenceClassification):
    """What a fine-tuned model, the teacher, says of texts with labels and without, learnt by a smaller one."""

    teacher: str = ""  # SOURCE that was fine-tuned on the same labels; only its answers are used, never its weights
    unlabelled: str = ""  # more rows to learn from, which need no label; in `folder` too
    unlabelled_limit: int | None = None  # use only the first so many of them; `limit` counts those with labels
    temperature: float = 1.0  # both models' outputs are divided by it before they are compared
    hard_weight: float = 0.0  # share of the objective that is the loss on the rows' own labels; the rest is the teacher


@dataclass(frozen=True)
class TokenClassification(Labelled):
    """One tag for each word: entities in IOB1, IOB2 or BIOES, or plain tags. Long sentences are read in windows."""

    tokens: str = "tokens"  # field of the list of words
    tags: str = "tags"  # field of the list of tags
    labels: tuple[str, ...] = ()  # names of the tags, in the order of the outputs; empty = found in the training rows
    overlap: int = 32  # pieces that two neighbouring windows of a long sentence share
    packing: bool = False  # several short sentences share a row, attention kept apart


@dataclass(frozen=True)
class QuestionAnswering(Labelled):
    """Answers to questions as spans of a context, as in SQuAD. Long contexts are read in windows."""

    max_length: int = 384  # tokens in a window, question included
    context: str = "context"  # field of the text that holds the answer
    question: str = "question"  # field of the question
    answers: str = "answers"  # field of the answers: [{"text", "answer_start"}], or {"text": [], "answer_start": []}
    identifier: str = "id"  # field that names the question
    stride: int = 128  # pieces from one window's start to the next one's
    max_question_length: int = 64  # pieces; longer questions are cut
    max_answer_length: int = 30  # pieces in an answer
    n_best: int = 20  # candidates kept for each window and each question
    unanswerable: bool = False  # SQuAD 2.0: some questions have no answer
    null_threshold: float = 0.0  # no answer where its score is so much above the best answer's; see result.json
    factoid: bool = False  # also BioASQ's strict and lenient accuracy and mean reciprocal rank
    packing: bool = False  # several windows share a row, attention kept apart


@dataclass(frozen=True)
class MultipleChoice(Labelled):
    """Which of several continuations fits a context, as in SWAG."""

    max_length: int = 64  # tokens of a context with one choice
    context: str = "context"  # field of the context
    choices: tuple[str, ...] = ("choices",)  # the field that holds a list of choices, or a field for each choice
    label: str = "label"  # field of the right choice's index, from 0
    packing: bool = False  # several examples, each with all its choices, share a row, attention kept apart


TaskFields = (
    Pretraining | SequenceClassification | Distillation | TokenClassification | QuestionAnswering | MultipleChoice
)


@dataclass(frozen=True)
class Optimizer:
    """AdamW as BERT uses it, and the schedule of its learning rate."""

    learning_rate: float = 1e-4  # at the end of the warmup
    warmup_share: float = 0.1  # share of the steps in which the learning rate rises from 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warmup, down to 0 (or not)
    weight_decay: float = 0.01  # of matrices and embeddings; never of biases and LayerNorm
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    epsilon: float = 1e-6  # added to the root of the second moment
    bias_correction: bool = True  # False is Google's original BERT
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm; 0 = never
    frozen_layers: int | None = None  # so many of the lowest layers, and the embeddings, stay as they are; None = none
    head_only: bool = False  # the whole encoder stays as it is
    layer_decay: float = 1.0  # learning rate of each layer over that of the one above it, from the head's down
    unfreeze_share: float = 0.0  # gradual unfreezing: one layer more, from the top, after each such share of the steps


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


def to_json(value: Any) -> Any:
    """Turns a config into what `json.dumps` takes; a task's dataclass is named by the key "kind"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields if isinstance(value, TaskFields) else fields
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(annotation: Any, value: Any, where: str = "experiment") -> Any:
    """Rebuilds what `to_json` wrote, as the type `annotation`.

    Raises:
      InputError: a field is unknown or missing, named with its path in `where`.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
        if value is None:
            return None
        if isinstance(value, dict) and "kind" in value:
            named = {option.__name__: option for option in options}
            if value["kind"] not in named:
                raise InputError(f"{where}.kind: {value['kind']!r} is none of {', '.join(named)}")
            return from_json(named[value["kind"]], {k: v for k, v in value.items() if k != "kind"}, where)
        return from_json(options[0], value, where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object with the fields of {annotation.__name__}, found {value!r}")
        hints = typing.get_type_hints(annotation)
        names = {f.name for f in dataclasses.fields(annotation)}
        if unknown := sorted(value.keys() - names):
            raise InputError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(names))}")
        return annotation(**{name: from_json(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    if typing.get_origin(annotation) is tuple and isinstance(value, list):
        inner = typing.get_args(annotation)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_json(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    return value


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns {path of a field: (old value, new value)} where two JSON forms of a config differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(old.keys() | new.keys()):
            found |= differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return {} if old == new else {path: (old, new)}
