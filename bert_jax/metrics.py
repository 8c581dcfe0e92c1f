"""The figures the field reports, from all predictions of a data set; equal to the official scorers, between 0 and 1.

Each function takes every example at once, so that predictions gathered in parts, from batches or hosts, are joined
first and scored once: none of these figures is a mean of the figures of parts. The libraries that compute some of them
are imported there: a run's first step need not wait for them.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Figures = dict[str, float]

# Figures that are better when they are lower; losses, whose names end in "loss", are too.
LOWER_IS_BETTER = frozenset({"squared_error", "mean_squared_error"})


def lower_is_better(figure: str) -> bool:
    """Returns whether the figure of this name is better when it is lower.

    >>> [lower_is_better(name) for name in ("mlm_loss", "mean_squared_error", "f1")]
    [True, True, False]
    """
    return figure == "loss" or figure.endswith("_loss") or figure in LOWER_IS_BETTER


# Classes, numbers and several labels


def classification(predicted: np.ndarray, labels: np.ndarray, num_classes: int, positive: int = 1) -> Figures:
    """Accuracy, F1 and Matthews correlation of one class for each example.

    Args:
      predicted, labels: int [examples].
      positive: with two classes, the one that "f1" is about (GLUE: class 1).

    Returns:
      "accuracy", "f1_macro" (mean over the classes that occur) and "matthews"; with two classes also "f1".
    """
    import sklearn.metrics

    every = {
        "accuracy": float(np.mean(predicted == labels)),
        "f1_macro": float(sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "matthews": float(sklearn.metrics.matthews_corrcoef(labels, predicted)),
    }
    if num_classes == 2:
        every["f1"] = float(sklearn.metrics.f1_score(labels == positive, predicted == positive, zero_division=0))
    return every


def without_class(predicted: np.ndarray, labels: np.ndarray, none: int) -> Figures:
    """Micro precision, recall and F1 over all classes but `none`, as relation extraction counts "no relation"."""
    correct = int(np.sum((predicted == labels) & (labels != none)))
    return scores(correct, int(np.sum(predicted != none)), int(np.sum(labels != none)))


def regression(predicted: np.ndarray, targets: np.ndarray) -> Figures:
    """Pearson and Spearman correlation and mean squared error; a correlation with a constant counts as 0."""
    import scipy.stats

    constant = len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0
    return {
        "pearson": 0.0 if constant else float(scipy.stats.pearsonr(predicted, targets).statistic),
        "spearman": 0.0 if constant else float(scipy.stats.spearmanr(predicted, targets).statistic),
        "mean_squared_error": float(np.mean((np.asarray(predicted, np.float64) - targets) ** 2)),
    }


def several_labels(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float = 0.5, ks: Sequence[int] = (1, 3, 5)
) -> Figures:
    """Figures of examples that carry any number of labels.

    Args:
      probabilities: float [examples, classes].
      labels: bool or 0/1 [examples, classes].
      threshold: a label is predicted where its probability is at least this.
      ks: how many of the most probable labels "precision_at_k" and "recall_at_k" look at.

    Returns:
      "f1_micro", "f1_macro" (classes that never occur and are never predicted count 0, as in scikit-learn), "exact"
      (all labels of an example right), "mean_average_precision" (over the classes that occur), and for each k the
      means over examples of "precision_at_k" and, over examples that have a label, "recall_at_k".
    """
    import sklearn.metrics

    labels = np.asarray(labels, bool)
    predicted = probabilities >= threshold
    occurring = labels.any(axis=0)
    precisions = [
        sklearn.metrics.average_precision_score(labels[:, c], probabilities[:, c]) for c in np.flatnonzero(occurring)
    ]
    every = {
        "f1_micro": float(sklearn.metrics.f1_score(labels, predicted, average="micro", zero_division=0)),
        "f1_macro": float(sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "exact": float(np.mean((predicted == labels).all(axis=1))),
        "mean_average_precision": float(np.mean(precisions)) if precisions else 0.0,
    }
    ranked = np.take_along_axis(labels, np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
    counts = labels.sum(axis=1)
    for k in ks:
        if k > labels.shape[1]:
            continue
        right = ranked[:, :k].sum(axis=1)
        every[f"precision_at_{k}"] = float(np.mean(right / k))
        if counts.any():
            every[f"recall_at_{k}"] = float(np.mean(right[counts > 0] / counts[counts > 0]))
    return every


def retrieval(ranked: Sequence[Sequence[str]], relevant: Sequence[Mapping[str, float]], recall: int = 100) -> Figures:
    """How well documents were ranked for queries, as trec_eval scores it, means over queries.

    Args:
      ranked: for each query the documents, best first; at least `recall` of them, if there are that many.
      relevant: for each query the grade of each document that was judged, above 0 if it is relevant. Queries without a
        relevant document count nowhere.

    Returns:
      "ndcg_at_10" (with grades as gains), "mrr_at_10" and "recall_at_N" for N = `recall`.
    """
    every: dict[str, list[float]] = {"ndcg_at_10": [], "mrr_at_10": [], f"recall_at_{recall}": []}
    for documents, grades in zip(ranked, relevant, strict=True):
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
        if not best:
            continue
        gains = [max(grades.get(document, 0.0), 0.0) for document in documents]
        first = next((rank for rank, gain in enumerate(gains[:10], start=1) if gain), None)
        every["ndcg_at_10"].append(_discounted(gains[:10]) / _discounted(best[:10]))
        every["mrr_at_10"].append(1 / first if first else 0.0)
        every[f"recall_at_{recall}"].append(sum(gain > 0 for gain in gains[:recall]) / len(best))
    return {name: float(np.mean(values)) if values else 0.0 for name, values in every.items()}


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1)))


def nearest(queries: np.ndarray, documents: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` documents (or all) with the largest products with each query, best first: exact search.

    Args:
      queries, documents: float32 [Q, D] and [N, D].

    Returns:
      Numbers of documents, int64 [Q, at most `count`]; of equal products, the first comes first.
    """
    count = min(count, len(documents))
    block = max(1, 2**25 // max(1, len(documents)))  # of queries, such that the products take at most 128 MB
    parts = [np.zeros((0, count), np.int64)]
    for start in range(0, len(queries), block):
        products = queries[start : start + block] @ documents.T
        # All that are as large as the last of the best may be among them.
        last = np.partition(products, -count, axis=1)[:, -count]
        for row, least in zip(products, last, strict=True):
            candidates = np.flatnonzero(row >= least)
            parts.append(candidates[np.argsort(-row[candidates], kind="stable")][None, :count])
    return np.concatenate(parts)


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class was taken for each: int64 [true class, predicted class]."""
    pairs = np.asarray(labels, np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def label_table(
    correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray, names: Sequence[str]
) -> dict[str, Figures]:
    """Precision, recall, F1 and support of each label, from counts [labels] of what is right, predicted and true."""
    return {
        name: {**scores(int(correct[i]), int(predicted[i]), int(gold[i])), "support": int(gold[i])}
        for i, name in enumerate(names)
    }


def scores(correct: int, predicted: int, gold: int) -> Figures:
    """Precision, recall and F1 from counts; 0 where there is nothing to divide by.

    >>> {name: round(100 * value, 2) for name, value in scores(correct=852, predicted=983, gold=960).items()}
    {'precision': 86.67, 'recall': 88.75, 'f1': 87.7}
    """
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / gold if gold else 0.0,
        "f1": 2 * correct / (predicted + gold) if predicted + gold else 0.0,
    }


# Entities


class Entity(NamedTuple):
    """An entity in a tagged sentence: tokens start to end, end excluded."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Reads the entities out of one sentence's tags, in IOB1, IOB2, BIOES, BILOU or BMES, whole or broken.

    A tag goes on with the entity before it where it is an I, E, L or M, that one a B, I or M, and both name the same
    kind. Any other tag but O begins an entity. For sequences that break their scheme this is what conlleval and
    seqeval's default mode do too. Tags without a kind, such as B, are of the kind "".

    >>> entities(["I-PER", "I-PER", "B-PER", "O", "S-LOC"])
    [Entity(kind='PER', start=0, end=2), Entity(kind='PER', start=2, end=3), Entity(kind='LOC', start=4, end=5)]
    """
    listed: list[Entity] = []
    before, kind_before = "O", ""
    for i, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix in ("I", "E", "L", "M") and before in ("B", "I", "M") and kind == kind_before:
            listed[-1] = listed[-1]._replace(end=i + 1)
        elif prefix != "O":
            listed.append(Entity(kind, i, i + 1))
        before, kind_before = prefix, kind
    return listed


def entity_counts(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Counts, for each kind, entities that are right in kind and both ends, that are predicted, and that are true."""
    counts = Counter[str](), Counter[str](), Counter[str]()
    for guess, truth in zip(predicted, gold, strict=True):
        guessed, true = set(entities(guess)), set(entities(truth))
        for counter, entity_set in zip(counts, (guessed & true, guessed, true), strict=True):
            counter.update(entity.kind for entity in entity_set)
    return counts


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Figures:
    """Precision, recall and F1 of entities over all sentences, and the accuracy of single tags.

    Source: Tjong Kim Sang & De Meulder 2003, the script conlleval.
    """
    correct, predicted_count, true = (counter.total() for counter in entity_counts(predicted, gold))
    pairs = [pair for guess, truth in zip(predicted, gold, strict=True) for pair in zip(guess, truth, strict=True)]
    return {
        **scores(correct, predicted_count, true),
        "tag_accuracy": sum(a == b for a, b in pairs) / max(len(pairs), 1),
    }


def entity_table(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, Figures]:
    """Precision, recall, F1 and support of each kind of entity."""
    correct, guessed, true = entity_counts(predicted, gold)
    kinds = sorted(guessed | true)
    return {kind: {**scores(correct[kind], guessed[kind], true[kind]), "support": true[kind]} for kind in kinds}


# Answers to questions

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-cases, drops ASCII punctuation and English articles, and joins words with single spaces, as SQuAD does.

    >>> normalize_answer("The  Eiffel-Tower, a sight!")
    'eiffeltower sight'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_exact(predicted: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals one of the answers after normalisation; no answer is the one answer ""."""
    return float(any(normalize_answer(predicted) == normalize_answer(answer) for answer in _real(answers)))


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 of the bags of words of the prediction and of one of the answers."""
    return max(_bag_f1(predicted, answer) for answer in _real(answers))


def _real(answers: Sequence[str]) -> Sequence[str]:
    # As SQuAD 2.0's scorer does: an answer of nothing but articles and punctuation is none.
    return [answer for answer in answers if normalize_answer(answer)] or [""]


def _bag_f1(predicted: str, answer: str) -> float:
    guess, truth = normalize_answer(predicted).split(), normalize_answer(answer).split()
    if not guess or not truth:
        return float(guess == truth)
    return scores((Counter(guess) & Counter(truth)).total(), len(guess), len(truth))["f1"]


def answer_scores(predicted: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> Figures:
    """SQuAD's exact match and F1 over questions by id; "" is the prediction that there is no answer.

    Returns:
      "exact_match" and "f1"; where some questions have answers and some have none also the same of each kind, with the
      prefixes "answerable_" and "unanswerable_". A question without prediction counts 0.

    Source: Rajpurkar et al. 2016 and 2018, the official scripts evaluate-v1.1 and evaluate-v2.0.
    """
    exact = {i: answer_exact(predicted[i], answers[i]) if i in predicted else 0.0 for i in answers}
    f1 = {i: answer_f1(predicted[i], answers[i]) if i in predicted else 0.0 for i in answers}
    groups = {"": list(answers)}
    answerable = {i for i in answers if _real(answers[i]) != [""]}
    if 0 < len(answerable) < len(answers):
        groups["answerable_"] = [i for i in answers if i in answerable]
        groups["unanswerable_"] = [i for i in answers if i not in answerable]
    figures = {}
    for prefix, ids in groups.items():
        figures[f"{prefix}exact_match"] = float(np.mean([exact[i] for i in ids]))
        figures[f"{prefix}f1"] = float(np.mean([f1[i] for i in ids]))
    return figures


def null_threshold(if_answered: np.ndarray, answerable: np.ndarray, null_scores: np.ndarray) -> tuple[float, float]:
    """Finds above which score a question is best left without an answer.

    Args:
      if_answered: float [questions], the score (exact match or F1) of the best answer that is not "".
      answerable: bool [questions], whether there is an answer.
      null_scores: float [questions], how much the model prefers no answer to the best answer.

    Returns:
      (threshold, mean score with it): questions with a null score above the threshold get the answer "".

    Source: SQuAD 2.0's evaluate-v2.0, find_best_thresh; unlike there, equal null scores fall on the same side.
    """
    order = np.argsort(null_scores, kind="stable")
    gains = np.where(answerable, if_answered, -1.0)[order]
    ordered = null_scores[order]
    totals = np.sum(~answerable) + np.concatenate([[0.0], np.cumsum(gains)])
    cuts = np.concatenate([[ordered[0] - 1.0], ordered])  # before the first: nothing is answered
    possible = np.append(cuts[1:] != cuts[:-1], True)
    best = int(np.argmax(np.where(possible, totals, -np.inf)))
    return float(cuts[best]), float(totals[best] / len(order))


def factoid_scores(ranked: Mapping[str, Sequence[str]], answers: Mapping[str, Sequence[str]], most: int = 5) -> Figures:
    """Strict and lenient accuracy and mean reciprocal rank of up to `most` answers a question, best first.

    An answer is right where it equals one of the question's synonyms, in any case; only the best rank counts.

    Source: BioASQ challenge, task B phase B; Lee et al. 2020 (BioBERT), section 4.3.
    """
    ranks = []
    for identifier, synonyms in answers.items():
        known = {synonym.strip().lower() for synonym in synonyms}
        guesses = [guess.strip().lower() for guess in ranked.get(identifier, ())][:most]
        ranks.append(next((rank for rank, guess in enumerate(guesses, start=1) if guess in known), 0))
    best = np.array(ranks)
    return {
        "strict_accuracy": float(np.mean(best == 1)),
        "lenient_accuracy": float(np.mean(best > 0)),
        "mean_reciprocal_rank": float(np.mean(np.where(best > 0, 1 / np.maximum(best, 1), 0.0))),
    }
