"""One tag for each word of a sentence: named entities in any of the field's schemes, or plain tags."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax import metrics
from bert_jax.config import BertConfig, Compute, TokenClassification
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, check_fields, labels_of, words_in
from bert_jax.errors import InputError
from bert_jax.heads import BertForTokenClassification
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import (
    EXAMPLES,
    LabelledTask,
    Sources,
    are_numbers,
    check_unless_skipped,
    index_of,
    label_names,
    none_of,
    numbers_note,
    with_answers,
)
from bert_jax.tasks.schemes import scheme
from bert_jax.tasks.windows import owners, windows
from bert_jax.tasks.words import word_spans
from bert_jax.tokenizers import Tokenizer, in_line

OVERLAP = 32  # tokens that two windows share by default


class Words(NamedTuple):
    """Predictions for each word, one list per sentence."""

    tags: list[list[str]]
    probabilities: list[list[float]]


class TokenClassificationTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.TokenClassification`."""

    fields: TokenClassification

    def __init__(
        self, fields: TokenClassification, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()
    ):
        super().__init__(fields, config, tokenizer, compute)
        self.model = BertForTokenClassification(config, len(fields.labels), compute=compute)
        self._index = index_of(fields.labels, fields.label_numbers)
        self._size = fields.max_length - tokenizer.frame.size(1)  # tokens in a window
        default = OVERLAP if self._size > OVERLAP else (self._size - 1) // 2
        self._overlap = default if fields.overlap is None else fields.overlap
        if self._overlap >= self._size:
            raise InputError(f"task.overlap: must be below {self._size}, the tokens in a window, got {self._overlap}")
        self.entities = scheme(fields.labels).entities

    @staticmethod
    def complete(fields: TokenClassification, sources: Sources) -> TokenClassification:
        if fields.labels and fields.label_numbers is not None:
            return fields
        rows, errors = sources.train, RowErrors()
        check_fields(rows, [fields.tags])
        tags = [labels_of(words_in(row, fields.tags), fields.tags, errors) for row in rows]
        every = {tag for sentence in tags for tag in sentence}
        if fields.labels:  # `features` has the errors
            return dataclasses.replace(fields, label_numbers=True) if are_numbers(every, fields.labels) else fields
        check_unless_skipped(errors, fields)
        labels = sources.declared_labels(fields.tags) or label_names(every, fields.train)
        _check_scheme(labels, rows, tags, fields)
        return dataclasses.replace(fields, labels=labels)

    def notes(self) -> list[str]:
        numbers = [numbers_note(self.fields.labels)] if self.fields.label_numbers else []
        return [f"Tags: {scheme(self.fields.labels)}", *numbers]

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        logits_BTC = self.logits(params, batch, keys)
        target = batch["labels"], self.loss_weights(batch)["tag_loss"]
        return Outcome(
            losses={"tag_loss": cross_entropy(logits_BTC, *target)},
            metrics={"tag_accuracy": accuracy(logits_BTC, *target)},
            predictions={
                "tags": logits_BTC.argmax(axis=-1).astype("int32"),
                "probabilities": jax.nn.softmax(logits_BTC).max(axis=-1),
            },
        )

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"tag_loss": batch["words"] > 0}

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        predicted, gold, names = self._words(predictions, features), self._gold(features), self.fields.labels
        guess, truth = self._indices(predicted.tags), self._indices(gold)
        matrix = metrics.confusion_matrix(guess, truth, len(names))
        if self.entities:
            figures = metrics.entity_scores(predicted.tags, gold)
            per_label = metrics.entity_table(predicted.tags, gold)
        else:
            figures = metrics.classification(guess, truth, len(names))
            per_label = metrics.label_table(matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1), names)
        tables = {"per_label": per_label, "confusion": {"labels": list(names), "counts": matrix.tolist()}}
        first = Words(predicted.tags[:EXAMPLES], predicted.probabilities[:EXAMPLES])
        return Evaluation(figures, tables, {}, with_answers(rows, self._tagged(first, rows[:EXAMPLES])))

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return self._tagged(self._words(predictions, features), rows)

    def _tagged(self, predicted: Words, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The answer to each row: its words with their tags and, if the tags name entities, these."""
        answers = []
        for row, tags, probabilities in zip(rows, predicted.tags, predicted.probabilities, strict=True):
            words, text, offsets = _read(row, self.fields.tokens)
            tagged: list[dict[str, Any]] = [
                {"word": word, "tag": tag, "probability": probability, "start": start, "end": end}
                for word, tag, probability, (start, end) in zip(words, tags, probabilities, offsets, strict=True)
            ]
            answer: dict[str, Any] = {"words": tagged}
            if self.entities:
                answer["entities"] = [
                    {"kind": entity.kind, "text": text[start:end], "start": start, "end": end}
                    for entity in metrics.entities(tags)
                    for start, end in [(offsets[entity.start][0], offsets[entity.end - 1][1])]
                ]
            answers.append(answer)
        return answers

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        """Labels every word at its first token, in the window with most context around it."""
        errors = RowErrors()
        if labelled:
            check_fields(rows, [self.fields.tokens, self.fields.tags])
        sentences = [self._sentence(row, labelled, errors) for row in rows]
        errors.check()
        unique = {word: i for i, word in enumerate(dict.fromkeys(word for words, _ in sentences for word in words))}
        tokens_of_words = self.tokenizer.encode_ids(in_line(self.tokenizer, list(unique)))
        # A word whose characters are all dropped by the tokenizer still needs one token for its tag.
        tokens_of_words = [ids if len(ids) else np.array([self.tokenizer.unk_id], np.int32) for ids in tokens_of_words]
        ids, labels, marks, of_row = [], [], [], []
        frame = self.tokenizer.frame
        around = len(frame.start), len(frame.end)
        for number, (words, tags) in enumerate(sentences):
            parts = [tokens_of_words[unique[word]] for word in words]
            flat = np.concatenate(parts)
            firsts = np.cumsum([0] + [len(part) for part in parts[:-1]])
            word_at, tag_at = np.zeros((2, len(flat)), np.int32)
            word_at[firsts] = np.arange(1, len(words) + 1)
            tag_at[firsts] = tags
            spans = windows(len(flat), self._size, self._size - self._overlap)
            owner = owners(len(flat), spans)
            for window, (begin, end) in enumerate(spans):
                mine = (owner[begin:end] == window) & (word_at[begin:end] > 0)
                ids.append(frame.join(flat[begin:end])[0])
                marks.append(np.pad(np.where(mine, word_at[begin:end], 0), around))
                labels.append(np.pad(np.where(mine, tag_at[begin:end], 0), around))
                of_row.append(number)
        return join(
            ids,
            [np.zeros_like(part) for part in ids],
            {},
            token_arrays={"labels": np.concatenate(labels), "words": np.concatenate(marks)},
            rows=np.array(of_row, np.int64),
            first_position=frame.first_position,
        )

    def rows_of_labels(self, features: Features) -> dict[str, int]:
        assert features.rows is not None
        of_word = features.token_arrays["words"] > 0
        row = np.repeat(features.rows, features.lengths)[of_word]
        pairs = np.unique(np.stack([row, features.token_arrays["labels"][of_word]]), axis=1)
        counts = np.bincount(pairs[1], minlength=len(self.fields.labels))
        return {name: int(count) for name, count in zip(self.fields.labels, counts, strict=True)}

    def _sentence(self, row: Row, labelled: bool, errors: RowErrors) -> tuple[list[str], list[int]]:
        """Returns the words of a row and the index of each word's tag, 0 for all of them if rows have no tags."""
        words = _read(row, self.fields.tokens, errors)[0]
        if not labelled:
            return words, [0] * len(words)
        tags = labels_of(words_in(row, self.fields.tags), self.fields.tags, errors, self._index)
        if words and len(tags) != len(words):
            errors.add(row.where, f"{len(words)} words but {len(tags)} tags")
        for tag in dict.fromkeys(tags):
            if tag not in self._index:
                errors.add(row.where, none_of("tag", tag, self.fields.labels))
        return words, [self._index.get(tag, 0) for tag in tags]

    def _words(self, predictions: Arrays, features: Features) -> Words:
        """Returns the predictions of all windows, grouped by sentence."""
        tags = self._by_sentence(features, predictions["tags"])
        names = [[self.fields.labels[i] for i in sentence] for sentence in tags]
        return Words(names, self._by_sentence(features, predictions["probabilities"]))

    def _gold(self, features: Features) -> list[list[str]]:
        flat = features.token_arrays["labels"]
        return [[self.fields.labels[i] for i in sentence] for sentence in self._by_sentence(features, flat)]

    def _by_sentence(self, features: Features, values: np.ndarray) -> list[list[Any]]:
        """Picks the values of words, from [all tokens] or [windows, T], and groups them by sentence, in order."""
        assert features.rows is not None
        first_tokens = np.flatnonzero(features.token_arrays["words"])
        window = np.repeat(np.arange(len(features)), features.lengths)[first_tokens]
        picked = values[first_tokens] if values.ndim == 1 else values[window, first_tokens - features.starts[window]]
        sentence = features.rows[window]
        order = np.lexsort((features.token_arrays["words"][first_tokens], sentence))
        counts = np.bincount(sentence)
        return [part.tolist() for part in np.split(picked[order], np.cumsum(counts)[:-1])]

    def _indices(self, sentences: list[list[str]]) -> np.ndarray:
        return np.array([self._index[tag] for tags in sentences for tag in tags])


def _check_scheme(
    labels: Sequence[str], rows: Sequence[Row], tags: Sequence[Sequence[str]], fields: TokenClassification
) -> None:
    """Raises InputError if most labels mark entities; the message names the words whose tags do not."""
    kind, errors = scheme(labels), RowErrors()
    if not kind.others:
        return
    for row, sentence in zip(rows, tags, strict=True):
        words = _read(row, fields.tokens)[0]
        for number in [i for i, tag in enumerate(sentence) if tag in kind.others]:
            word = f"word {number + 1}" + (f", {words[number]!r}," if number < len(words) else "")
            errors.add(row.where, f"{word} has the tag {sentence[number]!r}, which is not one of {kind.name}")
    try:
        errors.check()
    except InputError as error:
        raise InputError(
            f"{error}\nmost tags mark entities in {kind.name}, but not {kind.shown_others()}; correct these tags or, "
            f"to learn plain tags without scores of entities, list all tags: --task.labels {' '.join(labels)}"
        ) from None


def _read(row: Row, field: str, errors: RowErrors | None = None) -> tuple[list[str], str, list[tuple[int, int]]]:
    """Returns a row's words, their text, and the (start, end) of each word in the text.

    The words are those in `field`, and the text is these words joined by spaces. If a row has only "text", its words
    are those of `tasks.words`.
    """
    if field not in row.values and isinstance(row.values.get("text"), str):
        text = row.values["text"]
        spans = word_spans(text)
        if not spans and errors is not None:
            errors.add(row.where, "field 'text' is empty")
        return [text[start:end] for start, end in spans], text, spans
    words = words_in(row, field).values.get(field)
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        if errors is not None:
            problem = "is missing" if words is None else "is empty" if not words else "should be a list of words"
            errors.add(row.where, f"field {field!r} {problem}")
        return [], "", []
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    offsets = [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]
    return words, " ".join(words), offsets
