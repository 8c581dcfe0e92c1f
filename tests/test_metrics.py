"""Figures equal those of the official scorers: conlleval and seqeval, SQuAD, scikit-learn and scipy."""

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import seqeval.metrics.sequence_labeling
import sklearn.metrics

from bert_jax import metrics


def test_two_classes_are_scored_as_glue_scores_them():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 2, (2, 200))
    figures = metrics.classification(predicted, labels, num_classes=2)
    assert figures == {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "matthews": sklearn.metrics.matthews_corrcoef(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted),
    }
    other = metrics.classification(predicted, labels, num_classes=2, positive=0)
    assert other["f1"] == sklearn.metrics.f1_score(labels, predicted, pos_label=0)


def test_one_class_predicted_throughout_scores_zero_and_not_nan():
    labels = np.array([0, 1, 2, 1])
    figures = metrics.classification(np.zeros(4, int), labels, num_classes=3)
    assert figures["matthews"] == 0
    assert np.isfinite(list(figures.values())).all()
    assert "f1" not in figures


def test_leaving_out_the_class_none_is_micro_f1_over_the_others():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 5, (2, 300))
    figures = metrics.without_class(predicted, labels, none=2)
    others = [0, 1, 3, 4]
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=others, average="micro")
    np.testing.assert_allclose([figures["precision"], figures["recall"], figures["f1"]], expected[:3])


def test_correlations_are_scipys_and_a_constant_correlates_with_nothing():
    rng = np.random.default_rng(2)
    targets = rng.normal(size=50)
    predicted = (targets + rng.normal(size=50)).astype(np.float32)
    figures = metrics.regression(predicted, targets)
    assert figures["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted, targets)[0])
    assert figures["spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, targets)[0])
    assert figures["mean_squared_error"] == pytest.approx(np.mean((predicted - targets) ** 2))
    assert metrics.regression(np.ones(50), targets)["pearson"] == 0


def test_several_labels_are_scored_as_scikit_learn_scores_them():
    rng = np.random.default_rng(3)
    labels = rng.random((60, 6)) < 0.3
    labels[:, 5] = False  # a class that never occurs
    labels[0] = False  # an example without a label
    probabilities = rng.random((60, 6))
    figures = metrics.several_labels(probabilities, labels, threshold=0.6, ks=(1, 2, 10))
    predicted = probabilities >= 0.6
    assert figures["f1_micro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="micro"))
    assert figures["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert figures["exact"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    expected = sklearn.metrics.average_precision_score(labels[:, :5], probabilities[:, :5], average="macro")
    assert figures["mean_average_precision"] == pytest.approx(expected)
    assert "precision_at_10" not in figures


def test_precision_and_recall_at_k_by_hand():
    probabilities = np.array([[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.3, 0.2]])
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    figures = metrics.several_labels(probabilities, labels, ks=(1, 2))
    assert figures["precision_at_1"] == pytest.approx(2 / 3)
    assert figures["recall_at_1"] == pytest.approx((1 / 2 + 1) / 2)
    assert figures["precision_at_2"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert figures["recall_at_2"] == pytest.approx((1 / 2 + 1) / 2)


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    matrix = metrics.confusion_matrix(np.array([1, 1, 2, 0]), np.array([1, 0, 2, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_the_label_table_is_scikit_learns():
    rng = np.random.default_rng(4)
    labels, predicted = rng.integers(0, 3, (2, 90))
    matrix = metrics.confusion_matrix(predicted, labels, 3)
    table = metrics.label_table(matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1), ["a", "b", "c"])
    expected = sklearn.metrics.classification_report(labels, predicted, target_names=["a", "b", "c"], output_dict=True)
    for name, figures in table.items():
        for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert figures[ours] == pytest.approx(expected[name][theirs])


SENTENCES = {
    "IOB1": (["I-PER", "I-PER", "B-PER", "O", "I-LOC"], [("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 5)]),
    "IOB2": (["B-PER", "I-PER", "B-PER", "O", "B-LOC"], [("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 5)]),
    "BIOES": (["B-PER", "E-PER", "S-PER", "O", "S-LOC"], [("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 5)]),
    "BILOU": (["B-PER", "L-PER", "U-PER", "O", "U-LOC"], [("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 5)]),
    "BMES": (["B-PER", "M-PER", "E-PER", "O", "S-LOC"], [("PER", 0, 3), ("LOC", 4, 5)]),
    "bare IOB": (["B", "I", "B", "O", "I", "I"], [("", 0, 2), ("", 2, 3), ("", 4, 6)]),
    "bare BMES": (["B", "E", "S", "B", "M", "E"], [("", 0, 2), ("", 2, 3), ("", 3, 6)]),
    "kinds touch": (["I-PER", "I-LOC", "I-LOC"], [("PER", 0, 1), ("LOC", 1, 3)]),
    "dashes in kinds": (["B-A-1", "I-A-1", "I-A-2"], [("A-1", 0, 2), ("A-2", 2, 3)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("scheme", SENTENCES)
def test_entities_of_every_scheme(scheme):
    tags, expected = SENTENCES[scheme]
    assert [tuple(entity) for entity in metrics.entities(tags)] == expected


@pytest.mark.parametrize("prefixes", ["IO", "BIO", "BIOES"])
def test_entity_scores_are_seqevals_even_for_broken_sequences(prefixes):
    rng = np.random.default_rng(5)
    names = ["O"] + [f"{prefix}-{kind}" for prefix in prefixes if prefix != "O" for kind in ("PER", "LOC")]
    lengths = rng.integers(1, 12, 200)
    gold = [rng.choice(names, n).tolist() for n in lengths]
    predicted = [np.where(rng.random(len(tags)) < 0.6, tags, rng.choice(names, len(tags))).tolist() for tags in gold]
    figures = metrics.entity_scores(predicted, gold)
    assert figures["precision"] == pytest.approx(seqeval.metrics.precision_score(gold, predicted))
    assert figures["recall"] == pytest.approx(seqeval.metrics.recall_score(gold, predicted))
    assert figures["f1"] == pytest.approx(seqeval.metrics.f1_score(gold, predicted))
    assert figures["tag_accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(gold, predicted))
    report = seqeval.metrics.classification_report(gold, predicted, output_dict=True)
    for kind, row in metrics.entity_table(predicted, gold).items():
        assert row["f1"] == pytest.approx(report[kind]["f1-score"])
        assert row["support"] == report[kind]["support"]


@pytest.mark.parametrize(("letters", "to_bioes"), [("BILU", {"L": "E", "U": "S"}), ("BMES", {"M": "I"})])
def test_scores_of_a_scheme_are_those_of_the_same_tags_in_bioes(letters, to_bioes):
    rng = np.random.default_rng(6)
    names = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC"))]
    gold, predicted = ([rng.choice(names, 9).tolist() for _ in range(50)] for _ in range(2))

    def translated(sentences):
        return [[to_bioes.get(tag[0], tag[0]) + tag[1:] for tag in tags] for tags in sentences]

    assert metrics.entity_scores(predicted, gold) == metrics.entity_scores(translated(predicted), translated(gold))


def test_conllevals_published_example():
    # 960 true entities, 983 found, 852 of them right: the script's documentation prints 86.67, 88.75 and 87.70.
    gold = [["B-NP", "I-NP"]] * 852 + [["B-NP", "I-NP"]] * 108 + [["O", "O"]] * 23
    predicted = [["B-NP", "I-NP"]] * 852 + [["B-NP", "O"]] * 108 + [["B-NP", "O"]] * 23
    figures = metrics.entity_scores(predicted, gold)
    assert [f"{100 * figures[name]:.2f}" for name in ("precision", "recall", "f1")] == ["86.67", "88.75", "87.70"]


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("an  apple", ["the apple"], 1, 1),
        ("Tower", ["Eiffel Tower", "the tower"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 0.5),
        ("new new york", ["new york new"], 0, 1),
        ("new new york", ["new york"], 0, 0.8),
        ("London", ["Paris"], 0, 0),
        ("theory", ["ory"], 0, 0),
        ("well-known", ["wellknown"], 1, 1),
        ("“Paris”", ["Paris"], 0, 0),  # only ASCII punctuation is dropped
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("", [".", "the"], 1, 1),  # answers of nothing but punctuation and articles are none
        ("", ["Paris", "."], 0, 0),
    ],
)
def test_answers_are_compared_as_squad_compares_them(predicted, answers, exact, f1):
    assert metrics.answer_exact(predicted, answers) == exact
    assert metrics.answer_f1(predicted, answers) == pytest.approx(f1)


def test_answer_scores_average_over_all_questions_and_over_each_kind():
    answers = {"1": ["Paris"], "2": ["Lyon", "Nice"], "3": [], "4": []}
    figures = metrics.answer_scores({"1": "Paris", "2": "Nice, France", "3": "Rome"}, answers)
    assert figures == pytest.approx(
        {
            "exact_match": 1 / 4,
            "f1": (1 + 2 / 3) / 4,
            "answerable_exact_match": 1 / 2,
            "answerable_f1": (1 + 2 / 3) / 2,
            "unanswerable_exact_match": 0,
            "unanswerable_f1": 0,
        }
    )
    assert set(metrics.answer_scores({}, {"1": ["Paris"]})) == {"exact_match", "f1"}


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_for_no_answer_scores_better(seed):
    rng = np.random.default_rng(seed)
    if_answered, answerable = rng.random(40), rng.random(40) < 0.6
    null_scores = rng.integers(-5, 5, 40).astype(float)  # with ties

    def mean(threshold):
        return np.mean(np.where(null_scores > threshold, ~answerable, np.where(answerable, if_answered, 0.0)))

    threshold, best = metrics.null_threshold(if_answered, answerable, null_scores)
    assert mean(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(mean(cut) for cut in np.arange(-7, 7)))


def test_factoid_figures_look_at_five_answers():
    answers = {"a": ["TP53", "p53"], "b": ["BRCA1"], "c": ["EGFR"], "d": ["KRAS"]}
    ranked = {"a": ["P53", "TP53"], "b": ["x", "y", "brca1"], "c": [*"vwxyz", "EGFR"]}
    assert metrics.factoid_scores(ranked, answers) == {
        "strict_accuracy": 1 / 4,
        "lenient_accuracy": 2 / 4,
        "mean_reciprocal_rank": (1 + 1 / 3) / 4,
    }
