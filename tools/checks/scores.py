"""The scores of trained runs are those that the field's own scorers give to the answers of `predict` on the same rows.

    python tools/check.py scores runs/glue/sst2/seed-0 runs/named_entities/ncbi_disease/seed-0 runs/squad/v1.1/seed-0

scikit-learn scores classes and several labels, scipy scores numbers, seqeval scores entities, and torchmetrics' form of
SQuAD's script scores answers (`pip install torchmetrics`). Prints each figure twice, ours first. Exits with 1 if two
differ by more than BOUND. It reads a run's own evaluation rows and needs the extra `test`.
"""

import argparse
import json
from typing import Any

import numpy as np
import scipy.stats
import seqeval.metrics
import sklearn.metrics

from bert_jax.config import MultipleChoice, QuestionAnswering, SequenceClassification, TokenClassification
from bert_jax.data.rows import Row, read_rows
from bert_jax.errors import InputError
from bert_jax.predict import load

Answers = list[dict[str, Any]]
BOUND = 1e-6


def score_sequences(fields: SequenceClassification, rows: list[Row], answers: Answers) -> dict[str, float]:
    gold = [row.values[fields.label] for row in rows]
    if fields.target == "regression":
        scores = [answer["score"] for answer in answers]
        numbers = [float(value) for value in gold]
        return {
            "pearson": scipy.stats.pearsonr(scores, numbers)[0],
            "spearman": scipy.stats.spearmanr(scores, numbers)[0],
            "mean_squared_error": sklearn.metrics.mean_squared_error(numbers, scores),
        }
    if fields.target == "multi_label":
        truth = np.array([[name in labels for name in fields.labels] for labels in gold])
        shares = np.array([[answer["probabilities"][name] for name in fields.labels] for answer in answers])
        chosen = np.array([[name in answer["labels"] for name in fields.labels] for answer in answers])
        there = truth.any(0)
        return {
            "f1_micro": sklearn.metrics.f1_score(truth, chosen, average="micro", zero_division=0),
            "f1_macro": sklearn.metrics.f1_score(truth, chosen, average="macro", zero_division=0),
            "mean_average_precision": sklearn.metrics.average_precision_score(truth[:, there], shares[:, there]),
        }
    names = [label if isinstance(label, str) else json.dumps(label) for label in gold]
    labels = [answer["label"] for answer in answers]
    return {
        "accuracy": sklearn.metrics.accuracy_score(names, labels),
        "f1_macro": sklearn.metrics.f1_score(names, labels, average="macro", zero_division=0),
        "matthews": sklearn.metrics.matthews_corrcoef(names, labels),
    }


def score_tokens(fields: TokenClassification, rows: list[Row], answers: Answers) -> dict[str, float]:
    gold = [list(row.values[fields.tags]) for row in rows]
    tags = [[word["tag"] for word in answer["words"]] for answer in answers]
    return {
        "precision": seqeval.metrics.precision_score(gold, tags),
        "recall": seqeval.metrics.recall_score(gold, tags),
        "f1": seqeval.metrics.f1_score(gold, tags),
        "tag_accuracy": seqeval.metrics.accuracy_score(gold, tags),
    }


def score_spans(fields: QuestionAnswering, rows: list[Row], answers: Answers) -> dict[str, float]:
    from torchmetrics.functional.text import squad

    predicted, gold = [], []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        texts = [one["text"] for one in row.values[fields.answers]]
        gold.append({"id": str(number), "answers": {"text": texts, "answer_start": [0] * len(texts)}})
        predicted.append({"id": str(number), "prediction_text": answer["answer"]})
    return {name: float(value) / 100 for name, value in squad(predicted, gold).items()}


def score_choices(fields: MultipleChoice, rows: list[Row], answers: Answers) -> dict[str, float]:
    gold = [int(row.values[fields.label]) for row in rows]
    return {"accuracy": sklearn.metrics.accuracy_score(gold, [answer["choice"] for answer in answers])}


SCORERS: dict[type, Any] = {
    SequenceClassification: score_sequences,
    TokenClassification: score_tokens,
    QuestionAnswering: score_spans,
    MultipleChoice: score_choices,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", help="finished runs of one seed")
    apart = 0.0
    for workdir in parser.parse_args().workdirs:
        try:
            bert = load(workdir)
        except InputError as error:
            parser.error(str(error))
        fields: Any = bert.task
        rows = read_rows(fields.source(fields.eval))[: fields.eval_limit]
        ours = bert.evaluate()["metrics"]
        for name, theirs in SCORERS[type(fields)](fields, rows, bert.predict(rows)).items():
            print(f"{workdir}: {name} {ours[name]:.6f} {theirs:.6f}")
            apart = max(apart, abs(ours[name] - theirs))
    print(f"largest difference: {apart:.1e}")
    raise SystemExit(1 if apart > BOUND else 0)
