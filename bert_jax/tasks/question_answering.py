"""Answers as spans of a context: SQuAD 1.1 and 2.0, and factoid questions as BioASQ scores them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax import metrics
from bert_jax.config import BertConfig, Compute, QuestionAnswering
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.rows import Row, RowErrors, check_fields, text_of
from bert_jax.errors import InputError
from bert_jax.heads import BertForQuestionAnswering
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy
from bert_jax.model import MASKED_SCORE
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import EXAMPLES, LabelledTask, with_answers
from bert_jax.tasks.windows import owners, windows
from bert_jax.tokenizers import Encoding, Tokenizer

NO_SPAN, INSIDE, BEGINNING = 0, 1, 2  # a token outside the context, in it, and one that an answer may begin with


class Candidate(NamedTuple):
    """A possible answer."""

    text: str
    score: float  # logit of its first token plus logit of its last one
    start: int  # characters of the context
    end: int


class QuestionAnsweringTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.QuestionAnswering`.

    Source: Devlin et al. 2019, sections 4.2 and 4.3, and the windows of their SQuAD code.
    """

    fields: QuestionAnswering

    def __init__(
        self, fields: QuestionAnswering, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()
    ):
        super().__init__(fields, config, tokenizer, compute)
        self.model = BertForQuestionAnswering(config, compute=compute)
        least = fields.max_question_length + tokenizer.frame.size(2) + 16
        if fields.max_length < least:
            raise InputError(
                f"task.max_length: {fields.max_length} is too short for a context next to questions of up to "
                f"{fields.max_question_length} tokens; choose at least {least}"
            )
        if fields.stride < 1:
            raise InputError(f"task.stride: {fields.stride} must be at least 1")

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Cross-entropy of the answer's first and last token over the tokens of the window; [CLS] means no answer."""
        logits_B2T = jnp.swapaxes(self.logits(params, batch, keys), 1, 2)
        windows_1N1 = jnp.arange(1, batch["cls_positions"].shape[1] + 1)[None, :, None]
        own_BNT = batch["sequence_ids"][:, None] == windows_1N1
        scores_BN2T = jnp.where(own_BNT[:, :, None], logits_B2T[:, None], MASKED_SCORE)
        positions_BN2 = batch["cls_positions"][..., None] + batch["labels"]
        weights_BN2 = self.loss_weights(batch)["span_loss"]
        return Outcome(
            losses={"span_loss": cross_entropy(scores_BN2T, positions_BN2, weights_BN2)},
            metrics={"position_accuracy": accuracy(scores_BN2T, positions_BN2, weights_BN2)},
            predictions=self._best(logits_B2T, batch["spans"]),
        )

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"span_loss": jnp.broadcast_to(batch["label_weights"][..., None], batch["labels"].shape)}

    def _best(self, logits_B2T: jax.Array, spans_BT: jax.Array) -> dict[str, jax.Array]:
        """Returns the `n_best` best positions to begin and to end, [B, n_best], and the score of no answer, [B]."""
        # Positions outside the context score MASKED_SCORE, by which `_answers` recognises them.
        short = max(0, self.fields.n_best - spans_BT.shape[1])
        spans = jnp.pad(spans_BT, ((0, 0), (0, short)))
        logits = jnp.pad(logits_B2T, ((0, 0), (0, 0), (0, short)))
        begin = jax.lax.top_k(jnp.where(spans == BEGINNING, logits[:, 0], MASKED_SCORE), self.fields.n_best)
        end = jax.lax.top_k(jnp.where(spans != NO_SPAN, logits[:, 1], MASKED_SCORE), self.fields.n_best)
        return {
            "begin_scores": begin[0],
            "begins": begin[1],
            "end_scores": end[0],
            "ends": end[1],
            "null_scores": logits[:, 0, 0] + logits[:, 1, 0],
        }

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        """Fits the threshold for no answer, with which these rows get the best F1."""
        best, null = self._answers(predictions, features, rows)
        gold = {str(i): [text for text, _ in answers_of(row, self.fields.answers)] for i, row in enumerate(rows)}
        predicted = {str(i): "" if self._is_null(b, null[i]) else b[0].text for i, b in enumerate(best)}
        figures, fitted = metrics.answer_scores(predicted, gold), {}
        if self.fields.unanswerable:
            _, figures["best_exact_match"] = self._threshold(best, null, gold, metrics.answer_exact)
            fitted["null_threshold"], figures["best_f1"] = self._threshold(best, null, gold, metrics.answer_f1)
        if self.fields.factoid:
            figures |= self._factoid_scores(best, gold, rows)
        examples = [self._answer(*answer) for answer in zip(best[:EXAMPLES], null, strict=False)]
        return Evaluation(figures, {}, fitted, with_answers(rows, examples))

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [self._answer(*answer) for answer in zip(*self._answers(predictions, features, rows), strict=True)]

    def _answer(self, best: list[Candidate], null: float) -> dict[str, Any]:
        """The answer to one question, from its candidates and the score of no answer."""
        scores = np.array([candidate.score for candidate in best] + [null] * self.fields.unanswerable)
        probabilities = np.exp(scores - scores.max(initial=MASKED_SCORE))
        probabilities = (probabilities / probabilities.sum()).tolist()
        listed = [
            {"answer": c.text, "probability": p, "score": c.score, "start": c.start, "end": c.end}
            for c, p in zip(best, probabilities, strict=False)
        ]
        answer: dict[str, Any] = {"answer": "", "start": None, "end": None}
        if self.fields.unanswerable:
            answer |= {"score": null, "probability": probabilities[-1]}
        if not self._is_null(best, null):
            answer = dict(listed[0])
        return answer | {"candidates": listed[:5]}

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        fields, errors = self.fields, RowErrors()
        check_fields(rows, [fields.context, fields.question, *([fields.answers] if labelled else [])])
        contexts = [text_of(row, fields.context, errors) for row in rows]
        questions = [text_of(row, fields.question, errors) for row in rows]
        answers = [_first_answer(row, fields, errors) if labelled else None for row in rows]
        errors.check()
        unique = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
        encodings = self.tokenizer.encode(list(unique))
        frame = self.tokenizer.frame
        ids, types, spans, offsets, labels, of_row = [], [], [], [], [], []
        for number, question in enumerate(self.tokenizer.encode_ids(questions)):
            encoding = encodings[unique[contexts[number]]]
            question = question[: fields.max_question_length]
            size = fields.max_length - frame.size(2) - len(question)
            before = len(frame.start) + len(question) + len(frame.between)  # tokens in front of the context
            around = before, len(frame.end)
            parts = windows(len(encoding.ids), size, min(fields.stride, size))
            owner = owners(len(encoding.ids), parts)
            span = _token_span(encoding, answers[number])
            for window, (begin, end) in enumerate(parts):
                mine = np.where(owner[begin:end] == window, BEGINNING, INSIDE)
                window_ids, window_types = frame.join(question, encoding.ids[begin:end])
                ids.append(window_ids)
                types.append(window_types)
                spans.append(np.pad(mine, around))
                offsets.append(np.pad(encoding.offsets[begin:end], (around, (0, 0))))
                inside = span is not None and begin <= span[0] and span[1] < end
                labels.append([before - begin + position for position in span] if inside and span else [0, 0])
                of_row.append(number)
        return join(
            ids,
            types,
            {
                "labels": np.array(labels, np.int32).reshape(-1, 1, 2),  # counted from the window's [CLS]
                "label_weights": np.full((len(ids), 1), float(labelled), np.float32),
            },
            token_arrays={"spans": np.concatenate(spans)},
            rows=np.array(of_row, np.int64),
            first_position=frame.first_position,
            offsets=np.concatenate(offsets).astype(np.int32),
        )

    def _answers(
        self, predictions: Arrays, features: Features, rows: Sequence[Row]
    ) -> tuple[list[list[Candidate]], list[float]]:
        """Returns for each question its `n_best` answers from all windows, best first, and the score of no answer."""
        assert features.rows is not None
        assert features.offsets is not None
        scores = predictions["begin_scores"][:, :, None] + predictions["end_scores"][:, None, :]
        begins, ends = predictions["begins"][:, :, None], predictions["ends"][:, None, :]
        possible = (ends >= begins) & (ends - begins < self.fields.max_answer_length) & (scores > MASKED_SCORE / 2)
        flat = np.where(possible, scores, MASKED_SCORE).reshape(len(features), -1)
        order = np.argsort(-flat, axis=1, kind="stable")[:, : self.fields.n_best]
        null = np.full(len(rows), np.inf)
        np.minimum.at(null, features.rows, predictions["null_scores"])
        candidates: list[list[Candidate]] = [[] for _ in rows]
        for window, row in enumerate(features.rows):
            context = rows[row].values[self.fields.context]
            for pair in order[window]:
                if flat[window, pair] <= MASKED_SCORE / 2:
                    break
                i, j = divmod(int(pair), self.fields.n_best)
                first = features.starts[window] + predictions["begins"][window, i]
                last = features.starts[window] + predictions["ends"][window, j]
                start, end = int(features.offsets[first, 0]), int(features.offsets[last, 1])
                candidates[row].append(Candidate(context[start:end], float(flat[window, pair]), start, end))
        return [_different(of_row)[: self.fields.n_best] for of_row in candidates], null.tolist()

    def _is_null(self, best: list[Candidate], null: float) -> bool:
        return not best or (self.fields.unanswerable and null - best[0].score > self.fields.null_threshold)

    def _threshold(
        self, best: list[list[Candidate]], null: list[float], gold: dict[str, list[str]], scorer: Any
    ) -> tuple[float, float]:
        answered = np.array([scorer(b[0].text if b else "", gold[str(i)]) for i, b in enumerate(best)])
        answerable = np.array([bool(gold[str(i)]) for i in range(len(best))])
        above = np.array([n - (b[0].score if b else MASKED_SCORE) for b, n in zip(best, null, strict=True)])
        return metrics.null_threshold(answered, answerable, above)

    def _factoid_scores(
        self, best: list[list[Candidate]], gold: dict[str, list[str]], rows: Sequence[Row]
    ) -> dict[str, float]:
        """Scores each question over all its snippets: their ids are the same up to a final _NUMBER."""
        candidates: dict[str, list[Candidate]] = defaultdict(list)
        answers: dict[str, list[str]] = defaultdict(list)
        for i, row in enumerate(rows):
            identifier = re.sub(r"_\d+$", "", str(row.values.get(self.fields.identifier, i)))
            candidates[identifier] += best[i]
            answers[identifier] += gold[str(i)]
        ranked = {name: [c.text for c in _different(listed)] for name, listed in candidates.items()}
        return metrics.factoid_scores(ranked, answers)


def _different(candidates: list[Candidate]) -> list[Candidate]:
    """Returns the candidates, best first; of those with the same text, ignoring case, only the best."""
    different: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        different.setdefault(candidate.text.lower(), candidate)
    return list(different.values())


def _token_span(encoding: Encoding, answer: tuple[str, int] | None) -> tuple[int, int] | None:
    """Returns the first and last token of an answer; None if there is no answer or no token covers it."""
    if answer is None:
        return None
    text, start = answer
    covered = np.flatnonzero((encoding.offsets[:, 1] > start) & (encoding.offsets[:, 0] < start + len(text)))
    return (int(covered[0]), int(covered[-1])) if len(covered) else None


def answers_of(row: Row, field: str) -> list[tuple[str, int | None]]:
    """Returns a row's answers as (text, first character), from a list of objects or from an object of lists.

    Raises:
      ValueError: it is neither.
    """
    value = row.values.get(field)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start")
        starts = starts if isinstance(starts, list) else [None] * len(value["text"])
        value = [{"text": t, "answer_start": s} for t, s in zip(value["text"], starts, strict=True)]
    if not isinstance(value, list) or not all(isinstance(v, dict) and isinstance(v.get("text"), str) for v in value):
        raise ValueError("should be a list of {'text', 'answer_start'}")
    return [(answer["text"], answer.get("answer_start")) for answer in value]


def _first_answer(row: Row, fields: QuestionAnswering, errors: RowErrors) -> tuple[str, int] | None:
    """Returns the first answer of a question, or None without one; adds what is wrong to `errors`."""
    try:
        answers = answers_of(row, fields.answers)
    except ValueError as error:
        errors.add(row.where, f"field {fields.answers!r} {error}")
        return None
    if not answers and not fields.unanswerable:
        errors.add(row.where, "the question has no answer; set task.unanswerable where questions may have none")
    context = row.values.get(fields.context)
    for text, start in answers:
        if isinstance(start, int) and isinstance(context, str):
            there = context[start : start + len(text)] if start >= 0 else ""
            if there != text:
                errors.add(row.where, f"answer {text!r} is not at character {start}, where there is {there!r}")
        else:
            errors.add(row.where, f"answer {text!r} has no answer_start")
    first = answers[0] if answers else None
    return (first[0], first[1]) if first is not None and isinstance(first[1], int) else None
