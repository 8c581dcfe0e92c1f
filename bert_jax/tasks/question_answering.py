"""Answers as spans of a context: SQuAD 1.1 and 2.0, and factoid questions as BioASQ scores them."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax import metrics
from bert_jax.config import BertConfig, Compute, QuestionAnswering
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.row_errors import MOST_REPORTED, RowErrors
from bert_jax.data.rows import Row, check_fields, label_text, text_of
from bert_jax.errors import InputError
from bert_jax.heads import BertForQuestionAnswering
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy
from bert_jax.model import MASKED_SCORE
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import EXAMPLES, LabelledTask, Sources, with_answers
from bert_jax.tasks.windows import owners, windows
from bert_jax.tokenizers import Encoding, Tokenizer

IMPOSSIBLE = "is_impossible"  # SQuAD 2.0's field of questions without an answer
NEARBY = 10  # characters that an answer may be away from its answer_start if the context has its text several times
NO_SPAN, INSIDE, BEGINNING = 0, 1, 2  # a token outside the context, in it, and one that an answer may begin with


class Candidate(NamedTuple):
    """A possible answer."""

    text: str
    score: float  # logit of its first token plus logit of its last one
    start: int  # characters of the context
    end: int


class AnsweredQuestions(Sources):
    """Training rows without those whose answers are not in their contexts."""

    @cached_property
    def placed(self) -> list[tuple[str, int] | None]:
        """The answer to each of `rows`, where its context has it; None without an answer, or if it is nowhere."""
        return [self._placed(row) for row in self.rows]

    @cached_property
    def left_out(self) -> list[Row]:
        """The rows with a context and an answer that is nowhere in it."""
        pairs = [pair for pair in zip(self.rows, self.placed, strict=True) if pair[1] is None]
        return [row for row, _ in pairs if self._answers(row) and isinstance(row.values.get(self.fields.context), str)]

    @cached_property
    def moved(self) -> list[Row]:
        """The rows whose answer is not where the row has it."""
        pairs = zip(self.rows, self.placed, strict=True)
        return [row for row, answer in pairs if answer is not None and answer not in self._answers(row)]

    @cached_property
    def train(self) -> list[Row]:
        skipped = {id(row) for row in self.left_out}
        rows = [row for row in self.rows if id(row) not in skipped]
        if not rows:
            raise InputError(f"{self.fields.train}: no answer is in its context; the first row is {self.rows[0].where}")
        return rows

    def _placed(self, row: Row) -> tuple[str, int] | None:
        context = row.values.get(self.fields.context)
        return placed(context, self._answers(row)) if isinstance(context, str) else None

    def _answers(self, row: Row) -> list[tuple[str, int | None]]:
        try:
            return answers_of(row, self.fields.answers)
        except ValueError:
            return []  # `features` reports what is wrong


class QuestionAnsweringTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.QuestionAnswering`.

    Source: Devlin et al. 2019, sections 4.2 and 4.3, and the windows of their SQuAD code.
    """

    fields: QuestionAnswering
    sources: AnsweredQuestions
    sources_type = AnsweredQuestions

    def __init__(
        self, fields: QuestionAnswering, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()
    ):
        super().__init__(fields, config, tokenizer, compute)
        self.model = BertForQuestionAnswering(config, compute=compute)
        least = fields.max_question_length + tokenizer.frame.size(2) + 16
        if fields.max_length < least:
            raise InputError(
                f"task.max_length: {fields.max_length} is too short for a context next to questions of up to "
                f"{fields.max_question_length} tokens; choose at least {least}, or a lower task.max_question_length"
            )

    def notes(self) -> list[str]:
        moved, left_out, count = self.sources.moved, self.sources.left_out, len(self.sources.rows)
        notes = []
        if moved:
            notes.append(
                f"{len(moved)} of {count} answers were not at their answer_start, but elsewhere in the context, "
                f"such as that of {moved[0].where}"
            )
        if left_out:
            shown = ", ".join(row.where for row in left_out[:MOST_REPORTED])
            notes.append(f"{len(left_out)} of {count} rows are left out, because their answer is nowhere near: {shown}")
        return notes

    @property
    def limit(self) -> str:
        return f"{self.fields.max_question_length} tokens (task.max_question_length)"

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
        contexts = [text_of(row, fields.context, errors, False) for row in rows]
        questions = [text_of(row, fields.question, errors, False) for row in rows]
        answers: list[tuple[str, int] | None] = [None] * len(rows)
        weights = [0.0] * len(rows)
        if labelled:
            answers, weights = self._placed_answers(rows, errors)
        errors.check()
        unique = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
        encodings = self.tokenizer.encode(list(unique))
        frame = self.tokenizer.frame
        ids, types, spans, offsets, labels, label_weights, of_row = [], [], [], [], [], [], []
        asked = self.tokenizer.encode_ids(questions)
        lost = np.maximum(np.array([len(question) for question in asked], np.int64) - fields.max_question_length, 0)
        for number, question in enumerate(asked):
            encoding = encodings[unique[contexts[number]]]
            question = question[: fields.max_question_length]
            size = fields.max_length - frame.size(2) - len(question)
            before = len(frame.start) + len(question) + len(frame.between)  # tokens in front of the context
            around = before, len(frame.end)
            parts = windows(len(encoding.ids), size, min(fields.stride, size))
            owner = owners(len(encoding.ids), parts)
            span = _token_span(encoding, answers[number])
            if span is None and answers[number] is not None:
                weights[number] = 0.0  # no token is left of the answer
            for window, (begin, end) in enumerate(parts):
                mine = np.where(owner[begin:end] == window, BEGINNING, INSIDE)
                window_ids, window_types = frame.join(question, encoding.ids[begin:end])
                ids.append(window_ids)
                types.append(window_types)
                spans.append(np.pad(mine, around))
                offsets.append(np.pad(encoding.offsets[begin:end], (around, (0, 0))))
                inside = span is not None and begin <= span[0] and span[1] < end
                labels.append([before - begin + position for position in span] if inside and span else [0, 0])
                label_weights.append(weights[number])
                of_row.append(number)
        return join(
            ids,
            types,
            {
                "labels": np.array(labels, np.int32).reshape(-1, 1, 2),  # counted from the window's [CLS]
                "label_weights": np.array(label_weights, np.float32)[:, None],
            },
            token_arrays={"spans": np.concatenate(spans)},
            rows=np.array(of_row, np.int64),
            lost=lost,
            first_position=frame.first_position,
            offsets=np.concatenate(offsets).astype(np.int32),
        )

    def _placed_answers(
        self, rows: Sequence[Row], errors: RowErrors
    ) -> tuple[list[tuple[str, int] | None], list[float]]:
        """Returns where each row's answer is, and the weight of its loss: 0 if it has answers and none is there."""
        positions: list[tuple[str, int] | None] = []
        weights = []
        for row in rows:
            try:
                answers = answers_of(row, self.fields.answers)
            except ValueError as error:
                errors.add(row.where, f"field {self.fields.answers!r} {error}")
                answers = []
            else:
                if not answers and not self.fields.unanswerable:
                    problem = "the question has no answer; set task.unanswerable where questions may have none"
                    errors.add(row.where, problem)
            context = row.values.get(self.fields.context)
            positions.append(placed(context, answers) if isinstance(context, str) else None)
            weights.append(0.0 if answers and positions[-1] is None else 1.0)
        return positions, weights

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
        answerable = np.array([any(map(metrics.normalize_answer, gold[str(i)])) for i in range(len(best))])
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
    """Returns a row's answers as (text, first character or None); none if the question has no answer.

    They may be a list of objects, an object of lists, texts alone, and in a table the text of one of these. A question
    has no answer if "is_impossible" is true, whatever its answers, or if they are missing or empty.

    Raises:
      ValueError: it is something else.
    """
    if label_text(row.values.get(IMPOSSIBLE, False)).lower() in ("true", "yes", "1"):
        return []
    value = row.values.get(field)
    if value is None and (field in row.values or IMPOSSIBLE in row.values):
        return []
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, dict) and isinstance(value.get("text"), str | list):
        value = _from_lists(value["text"], value.get("answer_start"))
    answers: list[Any] = value if isinstance(value, list) else [value]
    answers = [{"text": item} if isinstance(value, list) and isinstance(item, str) else item for item in answers]
    if not all(isinstance(answer, dict) and isinstance(answer.get("text"), str) for answer in answers):
        raise ValueError("should be a list of {'text', 'answer_start'}")
    return [(answer["text"], _start(answer.get("answer_start"))) for answer in answers if answer["text"].strip()]


def _from_text(text: str) -> Any:
    """Returns what the text of a table's cell spells, as JSON or Python write it; other text is one answer."""
    if not re.match(r"\s*[\[{]", text):
        return [text]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    return text  # not a list


def _from_lists(texts: str | list[Any], starts: Any) -> list[dict[str, Any]]:
    """Returns the objects of an object of lists. If there are not as many starts as texts, no answer has one."""
    texts = [texts] if isinstance(texts, str) else texts
    starts = starts if isinstance(starts, list) else [starts] * len(texts)
    starts = starts if len(starts) == len(texts) else [None] * len(texts)
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _start(value: Any) -> int | None:
    text = label_text(value)
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def placed(context: str, answers: Sequence[tuple[str, int | None]]) -> tuple[str, int] | None:
    """Returns the first answer that is in its context, and its first character there; None without one."""
    for text, start in answers:
        for spelling in (text, text.strip()):
            position = locate(context, spelling, start)
            if position is not None:
                return spelling, position
    return None


def locate(context: str, text: str, start: int | None) -> int | None:
    """Returns the first character of an answer in its context, or None.

    It is at `start`; or it occurs only once; or it is at `start` if that counts UTF-16 units or UTF-8 bytes, as other
    programs count; or it is near `start`, and it does not occur again as near.

    >>> locate("red cats", "cats", 3), locate("\U0001f600 cats, cats", "cats", 3), locate("a b a", "a", None)
    (4, 2, None)
    """
    if start is not None and context.startswith(text, start):
        return start
    positions = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if len(positions) == 1:
        return positions[0]
    if start is None or not positions:
        return None
    if not context.isascii():
        for encoding, size in (("utf-16-le", 2), ("utf-8", 1)):
            before = context.encode(encoding, "surrogatepass")[: start * size].decode(encoding, "ignore")
            if len(before) in positions:
                return len(before)
    nearest = sorted(positions, key=lambda position: abs(position - start))[:2]
    distances = [abs(position - start) for position in nearest]
    return nearest[0] if distances[0] <= NEARBY and distances[0] < distances[1] else None
