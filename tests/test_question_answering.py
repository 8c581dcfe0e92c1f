"""Answers as spans: found at any position, chosen as SQuAD's scorers expect."""

import json
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import metrics, tasks
from bert_jax.config import QuestionAnswering
from bert_jax.data.rows import Row, read_rows
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.tasks.question_answering import BEGINNING, NO_SPAN, locate
from bert_jax.training.evaluate import run
from bert_jax.training.step import evaluate_step
from helpers.corpora import NAMES
from helpers.losses import assert_packed_learns_what_padded_does
from helpers.models import MODEL
from helpers.weights import random_weights

SMALL = replace(MODEL, num_layers=1, max_position_embeddings=64)


def make(tokenizer, **fields):
    fields = QuestionAnswering(
        **{"train": "t", "max_length": 40, "stride": 12, "max_question_length": 6, "n_best": 5} | fields
    )
    return tasks.make(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)


def question(context, answers, identifier="q", text="red cats"):
    spans = [{"text": answer, "answer_start": context.index(answer)} for answer in answers]
    return Row(
        {"id": identifier, "context": context, "question": text, "answers": spans}, f"f: question {identifier!r}"
    )


def context_of(count, seed=0):
    return ", ".join(np.random.default_rng(seed).choice(NAMES, count).tolist())


def sure(features, n_best=5):
    """Predictions of a perfect model: 10 for the true positions, or for [CLS] where there is no answer."""
    n = len(features)
    labels = features.arrays["labels"][:, 0]
    spans = np.zeros((n, int(features.lengths.max())), np.int32)
    for i in range(n):
        part = features.token_arrays["spans"][slice(*features.starts[i : i + 2])]
        spans[i, : len(part)] = part
    logits = np.zeros((n, 2, spans.shape[1]), np.float32)
    logits[np.arange(n)[:, None], np.arange(2), labels] = 10
    return logits, spans


def best(task, logits, spans):
    return {name: np.asarray(x) for name, x in task._best(jnp.asarray(logits), jnp.asarray(spans)).items()}


def test_an_answer_at_any_position_of_a_long_context_can_be_found(tokenizer):
    words = [f"{word}{chr(97 + i % 26)}" for i, word in enumerate(np.random.default_rng(1).choice(NAMES, 150))]
    context = " ".join(words)
    starts = np.cumsum([0] + [len(word) + 1 for word in words])
    rows = [
        Row({"context": context, "question": "red", "answers": [{"text": f"{a} {b}", "answer_start": int(start)}]}, "f")
        for a, b, start in zip(words, words[1:], starts, strict=False)
    ]
    task = make(tokenizer)
    features = task.features(rows, labelled=True)
    assert features.lengths.max() <= 40
    # In training every question has at least one window that holds the whole answer...
    assert set(features.rows[features.arrays["labels"][:, 0, 0] > 0]) == set(range(len(rows)))
    # ... and exactly one in which an answer may begin there, so each is found once.
    answers = task.decode(best(task, *sure(features)), features, rows)
    for row, answer in zip(rows, answers, strict=True):
        expected = row.values["answers"][0]
        assert (answer["answer"], answer["start"]) == (expected["text"], expected["answer_start"])
        assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_an_answer_may_begin_at_each_token_of_the_context_in_exactly_one_window(tokenizer):
    task = make(tokenizer)
    context = context_of(100)
    features = task.features([question(context, [])], labelled=False)
    begins = features.token_arrays["spans"] == BEGINNING
    assert begins.sum() == len(tokenizer.encode([context])[0].ids)
    assert (features.token_type_ids[features.token_arrays["spans"] != NO_SPAN] == 1).all()


def test_the_question_is_cut_and_kept_apart_from_the_context(tokenizer):
    task = make(tokenizer, max_question_length=3)
    features = task.features([question("gold cats", [], text="red blue green gold")], labelled=False)
    pieces = [ids.tolist() for ids in tokenizer.encode_ids(["red blue green gold", "gold cats"])]
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert features.input_ids.tolist() == [cls, *pieces[0][:3], sep, *pieces[1], sep]
    assert features.token_type_ids.tolist() == [0] * 5 + [1] * (len(pieces[1]) + 1)


def test_the_best_answers_are_those_of_an_exhaustive_search(tokenizer):
    task = make(tokenizer, n_best=60, max_answer_length=4, unanswerable=True)
    rows = [question(context_of(30, seed), [], str(seed)) for seed in range(3)]
    features = task.features(rows, labelled=False)
    logits, spans = sure(features)
    logits = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    candidates, null = task._answers(best(task, logits, spans), features, rows)
    for number, row in enumerate(rows):
        scores = {}
        for i in np.flatnonzero(features.rows == number):
            for a in np.flatnonzero(spans[i] == BEGINNING):
                for b in range(a, min(a + 4, features.lengths[i] - 1)):
                    start = features.offsets[features.starts[i] + a, 0]
                    end = features.offsets[features.starts[i] + b, 1]
                    text = row.values["context"][start:end]
                    scores[text.lower()] = max(scores.get(text.lower(), -99), logits[i, 0, a] + logits[i, 1, b])
        ranked = sorted(scores.values(), reverse=True)[:20]
        np.testing.assert_allclose([c.score for c in candidates[number][:20]], ranked, rtol=1e-5)
        assert len({c.text.lower() for c in candidates[number]}) == len(candidates[number])
        windows = np.flatnonzero(features.rows == number)
        assert null[number] == pytest.approx(min(logits[i, :, 0].sum() for i in windows), rel=1e-5)


def test_a_short_window_has_fewer_candidates_than_n_best(tokenizer):
    task = make(tokenizer, n_best=40)
    rows = [question("red", ["red"])]
    features = task.features(rows, labelled=True)
    (answer,) = task.decode(best(task, *sure(features)), features, rows)
    assert answer["answer"] == "red"
    assert len(answer["candidates"]) == 1


def test_a_model_answers_with_scores_and_positions(tokenizer):
    task = make(tokenizer)
    rows = [question(context_of(n, n), [], str(n)) for n in (3, 40, 90)]
    params = random_weights(task.model, task.dummy_batch())
    batches = task.predict_batches(rows, batch_size=4)
    step = Devices("single", 4).wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
    _, _, predictions = run(partial(step.over, params), batches)
    for row, answer in zip(rows, task.decode(predictions, batches.features, rows), strict=True):
        assert row.values["context"][answer["start"] : answer["end"]] == answer["answer"] != ""
        assert len(answer["candidates"]) == 5
        assert 0 < answer["probability"] <= 1
        assert answer["candidates"][0]["answer"] == answer["answer"]


def test_packed_windows_learn_what_padded_ones_do(tokenizer, tmp_path):
    contexts = [(n, context_of(n, n)) for n in (1, 2, 3, 4, 5, 6, 7, 30)]
    rows = [question(context, context.split(", ")[n // 2 : n // 2 + 1]) for n, context in contexts]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row.values) + "\n" for row in rows))
    kinds = [make(tokenizer, train=str(tmp_path / "t.jsonl"), packing=packing) for packing in (False, True)]
    assert_packed_learns_what_padded_does(*kinds, batch_size=8)


def test_the_threshold_for_no_answer_is_fitted_and_used(tokenizer, tmp_path):
    rows = [question("red cats, gold", ["gold"], "1"), question("red cats, gold", [], "2"), question("blue", [], "3")]
    squad = {"data": [{"paragraphs": [{"context": r.values["context"], "qas": [r.values]} for r in rows]}]}
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    task = make(tokenizer, unanswerable=True, eval=str(tmp_path / "dev.json"))
    batches = task.eval_batches(batch_size=3)
    logits, spans = sure(batches.features)
    logits[:, :, 0] = [[5, 5], [8, 8], [9, 9]]  # [CLS]: the answer's 20 is above it by 10, the others' 0 below
    predictions = best(task, logits, spans)
    figures = task.evaluate(predictions, batches).metrics
    assert figures["exact_match"] == figures["best_exact_match"] == figures["best_f1"] == 1
    # A model that always prefers no answer by 15 too much is corrected by the fitted threshold.
    logits[:, :, 0] += 7.5
    predictions = best(task, logits, spans)
    figures = task.evaluate(predictions, batches).metrics
    assert figures["exact_match"] == pytest.approx(2 / 3)
    assert figures["answerable_exact_match"] == 0
    assert figures["best_exact_match"] == 1
    fitted = make(tokenizer, unanswerable=True, **task.evaluate(predictions, batches).fitted)
    answers = fitted.decode(predictions, batches.features, batches.table)
    assert [answer["answer"] for answer in answers] == ["gold", "", ""]
    assert answers[1]["start"] is None
    assert [answer["answer"] for answer in task.decode(predictions, batches.features, batches.table)] == ["", "", ""]


def test_without_unanswerable_questions_there_is_always_an_answer(tokenizer):
    task = make(tokenizer)
    rows = [question("red cats, gold", ["gold"])]
    features = task.features(rows, labelled=True)
    logits, spans = sure(features)
    logits[:, :, 0] = 99
    assert task.decode(best(task, logits, spans), features, rows)[0]["answer"] == "gold"


def test_factoid_questions_are_scored_over_all_their_snippets(tokenizer, tmp_path):
    rows = [
        question("red cats, gold", ["gold"], "a_001"),
        question("blue cats, small", ["small"], "a_002"),
        question("green", ["green"], "b_001"),
    ]
    squad = {"data": [{"paragraphs": [{"context": r.values["context"], "qas": [r.values]} for r in rows]}]}
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    task = make(tokenizer, factoid=True, eval=str(tmp_path / "dev.json"))
    batches = task.eval_batches(batch_size=3)
    logits, spans = sure(batches.features)
    logits[0] += 1  # a whole window of higher scores: its wrong answers come before the others' right ones
    logits[1, :, batches.features.arrays["labels"][1, 0, 0]] = 0
    figures = task.evaluate(best(task, logits, spans), batches).metrics
    assert figures["strict_accuracy"] == 1
    assert figures["mean_reciprocal_rank"] == 1
    assert figures["exact_match"] < 1


def test_squad_rows_reach_the_scorer_whole(tokenizer, tmp_path):
    context = "Paris is large, London is small"
    answers = [{"text": text, "answer_start": context.index(text)} for text in ("London", "is small")]
    squad = {
        "data": [{"paragraphs": [{"context": context, "qas": [{"id": "1", "question": "red", "answers": answers}]}]}]
    }
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    as_lists = {"text": [a["text"] for a in answers], "answer_start": [a["answer_start"] for a in answers]}
    row = {"id": "1", "question": "red", "context": context, "answers": as_lists}
    (tmp_path / "dev.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("dev.json", "dev.jsonl"):
        task = make(tokenizer, eval=str(tmp_path / name))
        batches = task.eval_batches(batch_size=1)
        predictions = best(task, *sure(batches.features))
        (answer,) = task.decode(predictions, batches.features, batches.table)
        assert answer["answer"] == "London"  # training takes the first answer
        assert task.evaluate(predictions, batches).metrics == {"exact_match": 1, "f1": 1}
        assert metrics.answer_exact("is small", ["London", "is small"]) == 1


def test_bad_rows_are_all_named(tokenizer, tmp_path):
    context = "red cats"
    rows = [
        {"context": context, "question": "q", "answers": [{"text": "cats", "answer_start": 4}]},
        {"context": context, "question": "q", "answers": []},
        {"context": context, "question": "", "answers": [7]},
        {"question": "q", "answers": [{"text": "cats", "answer_start": 4}]},
        {"context": context, "question": "q"},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_rows(str(path))) == len(rows)
    with pytest.raises(InputError) as caught:
        make(tokenizer, train=str(path)).train_batches(batch_size=1, steps=1, seed=0)
    lines = str(caught.value).splitlines()
    for expected in [
        f"{path}:2: the question has no answer; set task.unanswerable where questions may have none",
        f"{path}:3: field 'question' is empty",
        f"{path}:3: field 'answers' should be a list of {{'text', 'answer_start'}}",
        f"{path}:4: field 'context' is missing",
        f"{path}:5: field 'answers' should be a list of {{'text', 'answer_start'}}",
    ]:
        assert expected in lines
    with pytest.raises(InputError, match=r"task\.max_length: 20 is too short for a context"):
        make(tokenizer, max_length=20)


PARIS = "Paris is large"
NO_ANSWER = {
    "impossible with an answer that seems right": {
        "is_impossible": True,
        "answers": [{"text": "Paris", "answer_start": 0}],
    },
    "an empty text": {"answers": [{"text": "", "answer_start": -1}]},
    "an empty list": {"answers": []},
    "empty lists": {"answers": {"text": [], "answer_start": []}},
    "empty texts in lists": {"answers": {"text": [" "], "answer_start": [0]}},
    "null": {"answers": None},
    "impossible and nothing more": {"is_impossible": True},
    "impossible, from a table": {"is_impossible": "True", "answers": "[{'text': 'Paris', 'answer_start': 0}]"},
    "an empty cell": {"answers": ""},
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_a_question_without_an_answer_is_one_in_every_form(tokenizer, name):
    row = Row({"context": PARIS, "question": "red", **NO_ANSWER[name]}, "f:1")
    answered = Row({"context": PARIS, "question": "red", "answers": ["large"]}, "f:2")
    with pytest.raises(InputError, match=r"f:1: the question has no answer; set task\.unanswerable"):
        make(tokenizer).features([row, answered], labelled=True)
    task = make(tokenizer, unanswerable=True)
    features = task.features([row, answered], labelled=True)
    assert features.arrays["labels"][0].tolist() == [[0, 0]]
    assert features.arrays["label_weights"].tolist() == [[1], [1]]
    logits, spans = sure(features)
    logits[0, :, 0] = 99
    evaluation = task.score(best(task, logits, spans), features, [row, answered])
    assert evaluation.metrics["unanswerable_exact_match"] == evaluation.metrics["best_exact_match"] == 1


ANSWERS = {
    "one character off": ([{"text": "large", "answer_start": 8}], 9),
    "no start": ([{"text": "large"}], 9),
    "a start of -1": ([{"text": "large", "answer_start": -1}], 9),
    "a text": (["large"], 9),
    "one object": ({"text": "large", "answer_start": 9}, 9),
    "an object of lists": ({"text": ["large"], "answer_start": [9]}, 9),
    "lists that do not agree": ({"text": ["large", "Paris"], "answer_start": [9]}, 9),
    "a cell of a table": ("large", 9),
    "JSON in a cell": ('{"text": ["large"], "answer_start": [9]}', 9),
    "spaces around it": ([{"text": " large ", "answer_start": 8}], 9),
    "the second of two": ([{"text": "huge", "answer_start": 9}, {"text": "is", "answer_start": 6}], 6),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_found_where_the_context_has_it(tokenizer, name):
    answers, start = ANSWERS[name]
    row = Row({"context": PARIS, "question": "red", "answers": answers}, "f:1")
    task = make(tokenizer)
    features = task.features([row], labelled=True)
    (answer,) = task.decode(best(task, *sure(features)), features, [row])
    assert (answer["start"], features.arrays["label_weights"].tolist()) == (start, [[1]])


@pytest.mark.parametrize(
    ("context", "start", "position"),
    [
        ("\U0001f600\U0001f600 is it, it is", 12, 10),  # UTF-16
        ("Zürich ist da, ist dort", 16, 15),  # UTF-8
        ("it as a it", 4, None),  # two as near as each other
        ("it is" + " red" * 20 + " it is", 30, None),  # two far away
    ],
)
def test_of_several_occurrences_the_one_that_is_meant_is_taken_or_none(context, start, position):
    assert locate(context, "ist" if "ist" in context else "it", start) == position


def test_answers_that_are_nowhere_are_left_out_of_training_and_counted(tokenizer, tmp_path):
    texts = [("large", 9), ("huge", 9), ("large", 7), ("Paris", 0), ("Rome", 0)]
    rows = [{"context": PARIS, "question": "red", "answers": [{"text": t, "answer_start": s}]} for t, s in texts]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make(tokenizer, train=str(path), eval=str(path))
    assert task.train_batches(batch_size=1, steps=1, seed=0).num_examples == 3
    assert task.notes() == [
        f"1 of 5 answers were not at their answer_start, but elsewhere in the context, such as that of {path}:3",
        f"2 of 5 rows are left out, because their answer is nowhere near: {path}:2, {path}:5",
    ]
    # In evaluation the texts count: all questions are scored, and the loss is of those that have a position.
    batches = task.eval_batches(batch_size=5)
    assert batches.features.arrays["label_weights"].ravel().tolist() == [1, 0, 1, 1, 0]
    assert task.evaluate(best(task, *sure(batches.features)), batches).metrics["exact_match"] == pytest.approx(0.6)
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(InputError, match=r"no answer is in its context; the first row is .*t\.jsonl:1"):
        make(tokenizer, train=str(path)).train_batches(batch_size=1, steps=1, seed=0)
