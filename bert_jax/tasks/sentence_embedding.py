"""Vectors of texts, learnt from pairs of texts that belong together and from pairs with a score."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import metrics
from bert_jax.config import BertConfig, Compute, SentenceEmbedding, TextVectors
from bert_jax.config.vectors import BY_POOLER, PASSAGE_PROMPTS, QUERY_PROMPTS
from bert_jax.data import retrieval
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, RowBatches, join
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, list_in_text, number_of, text_of
from bert_jax.data.sizes import BatchSizes
from bert_jax.errors import InputError
from bert_jax.heads import BertForTextVectors, unit_length
from bert_jax.losses import Joint, Keys, Mean, Outcome, counts_of, squared_error, weighted
from bert_jax.model import MASKED_SCORE, by_rows
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import EXAMPLES, LabelledTask, Sources, sequence, with_answers
from bert_jax.tokenizers import Tokenizer

RECALL = 100  # documents in which recall looks for the relevant ones
RANGES = ((0.0, 1.0), (0.0, 5.0))  # the usual ranges of scores
READ = ("texts", "labels", "label_weights", "score_weights")  # arrays of a batch that losses read


class Example(NamedTuple):
    """What a row gives: texts, each with what is put before it, and perhaps a score of the first two."""

    texts: list[str]
    prompts: list[str]
    score: float | None = None


class SentenceEmbeddingTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.SentenceEmbedding`.

    The texts of an example are the sequences of one row: query, positive, negatives. `texts` [B, slots, N] has the
    number of each text, from 1, equal for equal texts, and 0 where an example has fewer; slots are the examples that
    are packed in a row. `label_weights` is 1 for an example whose positive is compared with other texts, and
    `score_weights` for a scored pair, whose cosine is to be `labels`.
    """

    fields: SentenceEmbedding

    def __init__(
        self, fields: SentenceEmbedding, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()
    ):
        super().__init__(fields, config, tokenizer, compute)
        if fields.pooling == BY_POOLER and config.pooler == "none":
            raise InputError("task.pooling: must be mean or cls, because the model has no pooler")
        if any(size >= config.hidden_size for size in fields.dimensions):
            raise InputError(
                f"task.dimensions: must be below {config.hidden_size}, the numbers of a whole vector, got "
                f"{', '.join(map(str, fields.dimensions))}"
            )
        self.model = BertForTextVectors(config, TextVectors(fields.pooling, fields.normalized), compute=compute)
        self.joint = Joint(self.vectors, self.compare, READ)

    @staticmethod
    def complete(fields: SentenceEmbedding, sources: Sources) -> SentenceEmbedding:
        if fields.score_range is not None:
            return fields
        errors = RowErrors()  # `features` has these errors, with all others
        scores = [number_of(row, fields.score, errors) for row in sources.train if _has(row, fields.score)]
        if not scores:
            return fields
        for least, most in RANGES:
            if least <= min(scores) and max(scores) <= most:
                return dataclasses.replace(fields, score_range=(least, most))
        raise InputError(
            f"task.score_range: scores are from {min(scores):g} to {max(scores):g}; give those of the cosines 0 and 1"
        )

    def notes(self) -> list[str]:
        if self.fields.score_range is None:
            return []
        least, most = self.fields.score_range
        return [f"The score {least:g} is the cosine 0, and {most:g} is 1; --task.score-range sets others"]

    # --- Learning

    def vectors(self, params: Any, batch: Mapping[str, jax.Array], keys: Keys) -> jax.Array:
        """Returns the vector of each text, float32 [B, slots, N, D]; those of texts that are not there mean nothing."""
        vectors = self.logits(params, dict(batch), keys)
        return vectors.reshape(*batch["texts"].shape, vectors.shape[-1])

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        return Outcome({}, {}, {"vectors": self.vectors(params, batch, keys)[:, 0]})

    def counts(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        weights = {"contrastive_loss": batch["label_weights"], "score_loss": batch["score_weights"]}
        return counts_of({name + end: values for end in self._ends() for name, values in weights.items()})

    def _ends(self) -> dict[str, int | None]:
        """Returns the sizes of vectors by what they add to the name of a loss or figure; None is the whole vector."""
        return {"": None} | {f"_{size}": size for size in self.fields.dimensions}

    def compare(self, mine: Mapping[str, jax.Array], everyone: Mapping[str, jax.Array]) -> Outcome:
        """Returns the losses of the examples in `mine`, whose negatives are among the texts of `everyone`."""
        losses, figures = {}, {}
        for end, size in self._ends().items():
            own, whole = self._flat(mine, size), self._flat(everyone, size)
            loss_E, best_E = ranking_losses(own, whole, self.fields.temperature, self.fields.symmetric)
            cosine_E = jnp.sum(unit_length(own["vectors"][:, 0]) * unit_length(own["vectors"][:, 1]), axis=-1)
            score = squared_error(cosine_E, own["labels"], own["score_weights"])
            losses["contrastive_loss" + end] = weighted(loss_E, own["label_weights"])
            losses["score_loss" + end] = Mean(self.fields.score_weight * score.sum, score.count)
            figures["in_batch_accuracy" + end] = weighted(best_E, own["label_weights"])
        return Outcome(losses, figures, {})

    def _flat(self, arrays: Mapping[str, jax.Array], size: int | None) -> dict[str, jax.Array]:
        """Returns arrays [examples, ...] of arrays [B, slots, ...], with the first `size` numbers of each vector."""
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in arrays.items()}
        if flat["texts"].shape[1] == 1:  # to create parameters, and for single texts
            pad = ((0, 0), (0, 1))
            flat |= {"texts": jnp.pad(flat["texts"], pad), "vectors": jnp.pad(flat["vectors"], (*pad, (0, 0)))}
        vectors = flat["vectors"][:, :, :size]
        return flat | {"vectors": unit_length(vectors) if self.fields.similarity == "cosine" else vectors}

    # --- Data

    def train_batches(self, *, batch_size: int | BatchSizes, **options: Any) -> RowBatches:
        batches = super().train_batches(batch_size=batch_size, **options)
        arrays = batches.features.arrays
        texts = arrays["texts"][arrays["label_weights"][:, 0] > 0, 0]
        if len(texts) and not texts[:, 2:].any():
            if 1 in BatchSizes.of(batch_size).every:
                raise InputError(
                    "batch_size: must be at least 2: a pair's negatives are the other texts of its batch, and no row "
                    f"has {self.fields.negatives!r}"
                )
            if len(np.unique(texts[:, 1])) == 1:
                raise InputError(f"{self.fields.train}: all pairs have the same text, so there are no negatives")
        return batches

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> RowBatches | None:
        fields, limit = self.fields, self.fields.eval_limit if data is None else None
        source, skip = fields.source(fields.eval) if data is None else data, fields.on_bad_row == "skip"
        if not source:
            return None
        if retrieval.is_folder(source):
            self.sources.errors[source] = errors = RowErrors()
            rows = retrieval.read_folder(source, errors if skip else None)
            return self._once(rows, batch_size, True, skip, source)
        rows, errors = self.sources.read(source)[:limit], RowErrors()
        examples = [self._example(row, True, errors) for row in rows]
        good = [pair for pair in zip(rows, examples, strict=True) if pair[0].where not in errors.bad]
        if errors.count and (not skip or not good):
            errors.check()
        self.sources.errors.setdefault(source, RowErrors()).add_all(errors)
        scored = [row for row, example in good if example.score is not None]
        judged = retrieval.from_pairs((row, example.texts) for row, example in good if example.score is None)
        return self._once([*scored, *judged], batch_size, True, skip, source)

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        errors = RowErrors()
        examples = [self._example(row, labelled, errors) for row in rows]
        if labelled:
            for row, example in zip(rows, examples, strict=True):
                self._check_score(row, example.score, errors)
        errors.check()
        flat = [prompt + text for e in examples for prompt, text in zip(e.prompts, e.texts, strict=True)]
        frame, longest = self.tokenizer.frame, self.fields.max_length
        encoded = self.tokenizer.encode_ids(flat)
        parts = [sequence(frame, longest, ids) for ids in encoded]
        lost = np.array([len(a) + frame.size(1) - len(ids) for a, (ids, _) in zip(encoded, parts, strict=True)])
        sizes = np.array([len(example.texts) for example in examples])
        firsts = np.cumsum(sizes) - sizes
        most = int(sizes.max(initial=1))
        lengths = np.array([len(ids) for ids, _ in parts])
        numbers: dict[str, int] = {}
        arrays = {
            "cls_positions": np.zeros((len(rows), most), np.int32),
            "texts": np.zeros((len(rows), 1, most), np.int32),
            "labels": np.zeros((len(rows), 1), np.float32),
            "label_weights": np.zeros((len(rows), 1), np.float32),
            "score_weights": np.zeros((len(rows), 1), np.float32),
        }
        for i, (example, first, size) in enumerate(zip(examples, firsts, sizes, strict=True)):
            arrays["cls_positions"][i, 1:size] = np.cumsum(lengths[first : first + size])[:-1]
            arrays["texts"][i, 0, :size] = [numbers.setdefault(text, len(numbers) + 1) for text in example.texts]
            if labelled and size > 1:
                arrays["label_weights" if example.score is None else "score_weights"][i] = 1
                arrays["labels"][i] = self._cosine(example.score)
        ranges = [slice(first, first + size) for first, size in zip(firsts, sizes, strict=True)]
        inside = [np.arange(1, size + 1) for size in sizes]
        positions = [np.arange(length) + frame.first_position for length in lengths]
        empty = [np.zeros(0, np.int64)]
        return join(
            [np.concatenate([ids for ids, _ in parts[of_row]]) for of_row in ranges],
            [np.concatenate([types for _, types in parts[of_row]]) for of_row in ranges],
            arrays,
            lost=np.array([lost[of_row].sum() for of_row in ranges], np.int64),
            token_arrays={
                "sequence_ids": np.repeat(np.concatenate(empty + inside), lengths),
                "position_ids": np.concatenate(empty + positions),
            },
        )

    def row_length(self, features: Features) -> int:
        return self.fields.max_length * features.arrays["texts"].shape[2]

    def row_notes(self, source: str, rows: Sequence[Row]) -> list[str]:
        examples = [self._example(row, True, RowErrors()) for row in rows]
        scored = sum(example.score is not None for example in examples)
        hard = sum(len(example.texts) > 2 for example in examples)
        alone = sum(_field(row, self.fields.query) == _field(row, self.fields.positive) for row in rows)
        kinds = {
            "pairs of a text with itself": alone,
            "pairs": len(rows) - alone - scored - hard,
            "pairs with hard negatives": hard,
            "scored pairs": scored,
        }
        return [f"{source}: {', '.join(f'{count:,} {kind}' for kind, count in kinds.items() if count)}"]

    def _example(self, row: Row, labelled: bool, errors: RowErrors) -> Example:
        """Returns what a row gives; adds what is wrong with it to `errors`."""
        fields = self.fields
        of_query, of_passage = (fields.prompt_of(names) for names in (QUERY_PROMPTS, PASSAGE_PROMPTS))
        if isinstance(row, retrieval.JudgedText):
            return Example([row.values["text"]], [of_passage if row.relevant is None else of_query])
        first, second = _field(row, fields.query), _field(row, fields.positive)
        if not labelled and (second is None or second == first):
            return Example([text_of(row, first or fields.text_field, errors)], [fields.prompt()])
        for name, names in ((first, fields.query), (second, fields.positive)):
            if name is None:
                one = "field" if len(names) == 1 else "one of the fields"
                errors.add(row.where, f"{one} {', '.join(map(repr, names))} is missing")
        if first is None or second is None:
            return Example(["", ""], ["", ""])
        texts = [text_of(row, name, errors, may_be_empty=not labelled) for name in (first, second)]
        if _has(row, fields.score):
            return Example(texts, [fields.prompt()] * 2, number_of(row, fields.score, errors) if labelled else None)
        texts += self._negatives(row, errors) if labelled else []
        return Example(texts, [of_query] + [of_passage] * (len(texts) - 1))

    def _negatives(self, row: Row, errors: RowErrors) -> list[str]:
        value = row.values.get(self.fields.negatives)
        if isinstance(value, str):
            value = list_in_text(value) or ([value] if value.strip() else [])
        if value is None or (isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)):
            return value or []
        errors.add(row.where, f"field {self.fields.negatives!r} should be a list of texts, none of them empty")
        return []

    def _check_score(self, row: Row, score: float | None, errors: RowErrors) -> None:
        if score is None or self.fields.score_range is None:
            return
        least, most = self.fields.score_range
        if not least <= score <= most:
            errors.add(row.where, f"field {self.fields.score!r} must be from {least:g} to {most:g}, got {score:g}")

    def _cosine(self, score: float | None) -> float:
        least, most = self.fields.score_range or (0.0, 1.0)
        return 0.0 if score is None else (score - least) / (most - least)

    # --- Scores and answers

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        vectors_END = predictions["vectors"]
        judged = [(i, row) for i, row in enumerate(rows) if isinstance(row, retrieval.JudgedText)]
        scored = np.flatnonzero(features.arrays["score_weights"][:, 0])
        figures: dict[str, float] = {}
        for end, size in self._ends().items():
            every = self._comparable(vectors_END[:, :, :size])
            if len(scored):
                similarities = np.sum(every[scored, 0] * every[scored, 1], axis=1)
                correlations = self._correlations(similarities, [rows[int(i)] for i in scored])
                figures |= {name + end: value for name, value in correlations.items()}
            if judged:
                figures |= {name + end: value for name, value in self._retrieval(every[:, 0], judged).items()}
        first = {"vectors": vectors_END[scored[:EXAMPLES]]}
        shown = [rows[int(i)] for i in scored[:EXAMPLES]]
        answers = [{"similarity": similarity} for similarity in self._similarities(first["vectors"])]
        return Evaluation(figures, {}, {}, with_answers(shown, answers))

    def _correlations(self, similarities: np.ndarray, rows: Sequence[Row]) -> dict[str, float]:
        """Returns the correlations of similarities with the scores of rows; of several sets, also the mean."""
        scores = np.array([number_of(row, self.fields.score, RowErrors()) for row in rows])
        both = metrics.regression(similarities, scores)
        figures = {name: both[name] for name in ("spearman", "pearson")}
        sets = np.array([str(row.values.get(self.fields.group, "")) for row in rows])
        if len(names := np.unique(sets)) > 1:
            each = [metrics.regression(similarities[sets == name], scores[sets == name])["spearman"] for name in names]
            figures["mean_spearman"] = float(np.mean(each))
        return figures

    def _retrieval(self, vectors: np.ndarray, judged: Sequence[tuple[int, Row]]) -> dict[str, float]:
        texts = [(i, row) for i, row in judged if isinstance(row, retrieval.JudgedText)]
        queries = [(i, row) for i, row in texts if row.relevant is not None]
        documents = [(i, row) for i, row in texts if row.relevant is None]
        best = metrics.nearest(vectors[[i for i, _ in queries]], vectors[[i for i, _ in documents]], RECALL)
        names = [row.identifier for _, row in documents]
        return metrics.retrieval(
            [[names[number] for number in ranked] for ranked in best],
            [row.relevant or {} for _, row in queries],
            RECALL,
        )

    def _comparable(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors [..., D] whose products are their similarities."""
        if self.fields.similarity == "dot":
            return vectors
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    def _similarities(self, vectors_END: np.ndarray) -> list[float]:
        both = self._comparable(vectors_END)
        return np.sum(both[:, 0] * both[:, 1], axis=1).tolist() if both.shape[1] > 1 else []

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Returns {"vector"} for a text, and {"similarity"} for a pair."""
        pairs = (features.arrays["texts"][:, 0] > 0).sum(axis=1) > 1
        vectors_END = predictions["vectors"]
        similarities = iter(self._similarities(vectors_END[pairs]))
        return [
            {"similarity": next(similarities)} if pair else {"vector": vectors_ND[0].tolist()}
            for pair, vectors_ND in zip(pairs, vectors_END, strict=True)
        ]


def ranking_losses(
    own: Mapping[str, jax.Array], whole: Mapping[str, jax.Array], temperature: float, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of each example, in nats, and whether its positive is the most similar text: [E] each.

    The loss is that of telling the positive from the positives and negatives of all examples (van den Oord et al. 2018,
    InfoNCE). A text that is equal to the example's query or positive, or that is the positive of an equal query, is
    not a negative.

    Args:
      own: vectors [E, N, D], float32 and comparable by products, texts [E, N] and label_weights [E].
      whole: the same of all examples that have negatives for them.
      temperature: similarities are divided by it.
      symmetric: take the mean with the loss of telling the query from the other queries, by the positive.
    """
    query_ED, positive_ED = own["vectors"][:, 0], own["vectors"][:, 1]
    query_E1, positive_E1 = own["texts"][:, :1], own["texts"][:, 1:2]
    of_row = whole["texts"].shape[1] - 1
    # Of every text but the queries, [1, C]: itself, the query of its example, and whether it is that one's positive.
    text_1C = whole["texts"][:, 1:].reshape(1, -1)
    query_1C = jnp.repeat(whole["texts"][:, 0], of_row)[None]
    counted_1C = jnp.repeat(whole["label_weights"] > 0, of_row)[None]
    is_positive_1C = jnp.arange(text_1C.shape[1])[None] % of_row == 0
    right_E1 = jnp.sum(query_ED * positive_ED, axis=1, keepdims=True)

    def losses(vectors_ED: jax.Array, others_CD: jax.Array, negative_EC: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores_EC = jnp.einsum("ED,CD->EC", vectors_ED, others_CD, precision="highest")
        scores_EC = by_rows(jnp.where(negative_EC, scores_EC, MASKED_SCORE))
        logits = jnp.concatenate([right_E1, scores_EC], axis=1) / temperature
        return jax.nn.logsumexp(logits, axis=1) - logits[:, 0], right_E1[:, 0] >= jnp.max(scores_EC, axis=1)

    different_EC = (text_1C != positive_E1) & (text_1C != query_E1) & ~(is_positive_1C & (query_1C == query_E1))
    negative_EC = (text_1C > 0) & counted_1C & different_EC
    loss_E, best_E = losses(query_ED, whole["vectors"][:, 1:].reshape(-1, query_ED.shape[-1]), negative_EC)
    if not symmetric:
        return loss_E, best_E
    text_1C, query_1C, counted_1C = (x[:, ::of_row] for x in (text_1C, query_1C, counted_1C))
    different_EC = (text_1C != positive_E1) & (query_1C != query_E1) & (query_1C != positive_E1)
    back_E, _ = losses(positive_ED, whole["vectors"][:, 0], counted_1C & different_EC)
    return (loss_E + back_E) / 2, best_E


def _field(row: Row, names: Sequence[str]) -> str | None:
    """Returns the first of these fields that a row has."""
    return next((name for name in names if _has(row, name)), None)


def _has(row: Row, name: str) -> bool:
    return row.values.get(name) is not None
