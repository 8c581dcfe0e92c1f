"""Classes, several labels, numbers and marked entities: from rows to arrays, losses and answers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax import tokenizers
from bert_jax.config import AdamW, SequenceClassification
from bert_jax.data.rows import Row
from bert_jax.errors import InputError
from bert_jax.predict import load
from bert_jax.pretrained import open_source
from bert_jax.tasks.labelled import balanced_weights, label_names, sequence
from bert_jax.tasks.sequence_classification import SequenceClassificationTask, encode_marked, marker_ids, markers_to_add
from bert_jax.training.run import resolve
from bert_jax.training.train import train
from helpers.corpora import WORDS
from helpers.experiments import fine_tuning, silent, write_model
from helpers.losses import NO_DROPOUT, assert_packed_learns_what_padded_does
from helpers.rows import SMALL, make, write


@pytest.fixture(scope="module")
def tokenizer():
    rng = np.random.default_rng(0)
    return tokenizers.train("wordpiece", [" ".join(rng.choice(WORDS, 8)) for _ in range(100)], 80)


def first_bias(task):
    """The bias of a new head; no other parameter is computed."""
    init = jax.jit(lambda key: task.model.init(key, task.dummy_batch())["params"]["sequence"]["out"]["bias"])
    return init(jax.random.key(0))


# Rows to arrays


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer):
    a, b = np.arange(100, 120), np.arange(200, 205)
    ids, types = sequence(tokenizer.frame, 16, a, b)
    assert len(ids) == 16
    assert (ids >= 200).sum() == 5  # the short one is whole
    assert ids[0] == tokenizer.cls_id
    assert [i for i in range(16) if ids[i] == tokenizer.sep_id] == [9, 15]
    assert types.tolist() == [0] * 10 + [1] * 6
    both, _ = sequence(tokenizer.frame, 16, a, np.arange(200, 220))
    assert ((both >= 100) & (both < 200)).sum() == 7
    assert (both >= 200).sum() == 6
    alone, types = sequence(tokenizer.frame, 16, a)
    assert alone.tolist() == [tokenizer.cls_id, *range(100, 114), tokenizer.sep_id]
    assert not types.any()


def test_labels_are_ordered_by_name_and_numbers_by_value():
    assert label_names(["b", "a", "b"], "f") == ("a", "b")
    assert label_names(["10", "9", "10"], "f") == ("9", "10")
    with pytest.raises(InputError, match="needs at least two different labels, has"):
        label_names(["a", "a"], "rows.tsv")


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 2, 1, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels.tolist(), 3), expected)


def test_several_labels_start_where_a_constant_answer_would_be_best(tokenizer, tmp_path):
    """No other bias has a smaller loss on the rows while the head's weights are 0."""
    rows = (
        [{"text": "red", "tags": ["a"]}] * 6 + [{"text": "red", "tags": ["a", "b"]}] + [{"text": "red", "tags": ["c"]}]
    )
    fields = SequenceClassification(train=write(tmp_path / "t.jsonl", rows), target="multi_label", label="tags")
    for changes in ({}, {"labels": ("a", "b", "c")}, {"balanced": True}, {"class_weights": (1.0, 4.0, 0.5)}):
        task = make(replace(fields, **changes), tokenizer)
        assert task.fields.label_shares == (7 / 8, 1 / 8, 1 / 8)
        bias = first_bias(task)
        labels = task.train_batches(batch_size=8, steps=1, seed=0)(0)["labels"]
        batch = {"labels": labels, "label_weights": np.ones((8, 1), np.float32)}

        def loss(bias, task=task, batch=batch):
            return task.outcome(jnp.broadcast_to(bias, (8, 1, 3)), batch).losses["label_loss"].sum

        np.testing.assert_allclose(jax.grad(loss)(bias), 0, atol=1e-5)


def test_several_labels_become_a_row_of_zeros_and_ones(tokenizer, tmp_path):
    rows = [{"text": "red cat", "tags": ["b", "a"]}, {"text": "dog", "tags": []}, {"text": "fish", "tags": ["c"]}]
    fields = SequenceClassification(
        train=write(tmp_path / "t.jsonl", rows), target="multi_label", label="tags", balanced=True
    )
    task = make(fields, tokenizer)
    assert task.fields.labels == ("a", "b", "c")
    assert task.fields.class_weights == (2.0, 2.0, 2.0)  # two rows without each label for one with it
    arrays = task.train_batches(batch_size=3, steps=1, seed=0).features.arrays
    assert arrays["labels"][:, 0].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_bad_rows_are_all_named_with_file_and_line(tokenizer, tmp_path):
    good = {"text": "cat", "label": "a"}
    rows = [good, {"text": 7, "label": "a"}, {"label": "b"}, {"text": "dog", "label": "z"}, {"text": "dog"}]
    path = write(tmp_path / "t.jsonl", rows)
    task = make(SequenceClassification(train=path, labels=("a", "b")), tokenizer)
    with pytest.raises(InputError) as caught:
        task.train_batches(batch_size=2, steps=1, seed=0)
    assert str(caught.value).splitlines() == [
        f"{path}:2: field 'text' should be a text, not 7",
        f"{path}:3: field 'text' is missing",
        f"{path}:4: label 'z' is none of a, b",
        f"{path}:5: field 'label' is missing",
    ]
    number = make(SequenceClassification(train=path, target="regression"), tokenizer)
    with pytest.raises(InputError, match=r"t\.jsonl:1: field 'label' should be a number, not \"a\""):
        number.train_batches(batch_size=2, steps=1, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "texts"}, "no row has a field or column 'texts'; this one has 'text', 'label'"),
        ({"label": "lable"}, "no row has a field or column 'lable'"),
        ({"train": ""}, "task.train: name a file"),
        ({"max_length": 129}, "task.max_length: must be at most 128, the model's positions, got 129"),
        ({"labels": ("a", "b"), "class_weights": (1.0,)}, "task.class_weights: 1 weights for 2 labels"),
        ({"labels": ("a", "b"), "none_label": "no"}, "task.none_label: 'no' is none of a, b"),
        ({"labels": ("a", "b"), "markers": ("<<",)}, r"task.markers: the vocabulary has no token '<<' and no \[unused"),
    ],
)
def test_fields_that_do_not_fit_are_named(tokenizer, tmp_path, changes, message):
    path = write(tmp_path / "t.jsonl", [{"text": "cat", "label": "a"}, {"text": "dog", "label": "b"}])
    with pytest.raises(InputError, match=message):
        make(replace(SequenceClassification(train=path), **changes), tokenizer).train_batches(
            batch_size=1, steps=1, seed=0
        )


def test_files_are_found_in_the_folder(tokenizer, tmp_path):
    write(tmp_path / "t.jsonl", [{"text": "cat", "label": "a"}, {"text": "dog", "label": "b"}])
    task = make(
        SequenceClassification(folder=str(tmp_path), train="t.jsonl", eval="jsonl:t.jsonl", eval_limit=1), tokenizer
    )
    assert task.train_batches(batch_size=1, steps=1, seed=0).num_examples == 2
    assert task.eval_batches(batch_size=1).num_examples == 1


# Entity markers


class Unused:
    """A tokenizer whose vocabulary has BERT's spare entries."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def piece_id(self, piece):
        spare = {f"[unused{i}]": 500 + i for i in range(3, 6)}
        return spare.get(piece, self._tokenizer.piece_id(piece))


def test_a_marker_is_one_token_and_the_text_around_it_does_not_change(tokenizer):
    assert marker_ids(["cat", "<<", ">>"], Unused(tokenizer)) == {
        "cat": tokenizer.piece_id("cat"),
        "<<": 503,
        ">>": 504,
    }
    with pytest.raises(InputError, match=r"no token '\]\]'"):
        marker_ids(["<<", ">>", "[[", "]]"], Unused(tokenizer))
    assert markers_to_add(["cat", "<<", ">>", "[[", "]]"], Unused(tokenizer)) == ["]]"]
    for marker in ("", "< <", " <"):
        with pytest.raises(InputError, match="one word without spaces"):
            marker_ids([marker], tokenizer)
    ids = encode_marked(tokenizer, ["<< red cat >> eats fish", "no mark", "<<"], {"<<": 503, ">>": 504})
    red_cat, eats_fish, plain = tokenizer.encode_ids(["red cat", "eats fish", "no mark"])
    assert ids[0].tolist() == [503, *red_cat, 504, *eats_fish]
    assert ids[1].tolist() == plain.tolist()
    assert ids[2].tolist() == [503]


@pytest.mark.parametrize("position", range(0, 96, 5))
def test_cutting_a_long_text_keeps_its_markers(tokenizer, tmp_path, position):
    words = ["red"] * 100
    words[position : position + 3] = ["<<", "cat", ">>"]
    fields = SequenceClassification(train="t", labels=("a", "b"), markers=("<<", ">>"), max_length=16)
    task = SequenceClassificationTask(fields, replace(SMALL, vocab_size=600), Unused(tokenizer))
    features = task.features([Row({"text": " ".join(words)}, "f:1")], labelled=False)
    assert len(features.input_ids) == 16
    assert [503, tokenizer.piece_id("cat"), 504] in [features.input_ids[i : i + 3].tolist() for i in range(14)]


MARKERS = ("<<", ">>", "[[", "]]")


def marked(tmp_path):
    """Rows whose label is how the cat is marked, with characters that the vocabulary lacks."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 160), ("dev", 40)):
        rows = []
        for _ in range(count):
            words, side = rng.permutation(WORDS)[:6], int(rng.integers(2))
            words[rng.integers(6)] = ("<< cat >>", "[[ cat ]]")[side]
            rows.append({"text": " ".join(words), "label": ("angle", "square")[side]})
        write(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def test_markers_that_the_vocabulary_lacks_are_added_and_the_model_reads_them(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    model = replace(SMALL, initializer_range=0.1, hidden_dropout=0.0)
    unmarked = fine_tuning(marked(tmp_path), steps=40, model=model, optimizer=AdamW(learning_rate=1e-2))
    scratch = replace(unmarked, task=replace(unmarked.task, markers=MARKERS))
    assert train(scratch, tmp_path / "scratch", say=silent)["metrics"]["accuracy"] > 0.9
    assert train(unmarked, tmp_path / "unmarked", say=silent)["metrics"]["accuracy"] < 0.7
    again = replace(scratch, tokenizer=None, init_from=str(tmp_path / "scratch"), model=None)
    assert resolve(again).tokenizer.fingerprint == open_source(tmp_path / "scratch").tokenizer.fingerprint
    model = load(tmp_path / "scratch")
    assert model.config.vocab_size == tokenizer.vocab_size + len(MARKERS)
    assert [answer["label"] for answer in model.predict(["red << cat >> here", "red [[ cat ]] here"])] == [
        "angle",
        "square",
    ]


def test_a_model_without_markers_gets_them_and_keeps_its_other_weights(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    plain = fine_tuning(marked(tmp_path), steps=1)
    write_model(tmp_path / "plain", plain)
    begun = replace(plain, tokenizer=None, model=None, init_from=str(tmp_path / "plain"), checkpoint_every=1)
    begun = replace(begun, task=replace(begun.task, markers=MARKERS))
    run = resolve(begun)
    assert run.source is not None
    old, new = (source.read_params()[0]["bert"] for source in (open_source(tmp_path / "plain"), run.source))
    rows, longer = (np.asarray(params["embeddings"]["word"]["embedding"]) for params in (old, new))
    assert longer[: len(rows)].tobytes() == rows.tobytes()
    added = longer[len(rows) :]
    assert len(added) == len(MARKERS)
    # No two rows are near each other: the model must distinguish the markers from the first step.
    apart = [np.linalg.norm(a - b) for i, a in enumerate(added) for b in added[:i]]
    assert min(apart) > 0.5 * rows.std() * np.sqrt(2 * rows.shape[1])
    assert np.linalg.norm(added, axis=1).max() < 2 * np.linalg.norm(rows, axis=1).mean()


# Losses and answers


def outcome(task, labels, weights):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(*np.shape(weights), task.model.num_classes)).astype(np.float32)
    task.logits = lambda params, batch, key: jnp.asarray(logits)
    batch = {"labels": jnp.asarray(labels), "label_weights": jnp.asarray(weights, jnp.float32)}
    result = task.loss_fn({}, batch, NO_DROPOUT)
    (loss,) = result.losses.values()
    return logits, float(loss.sum / loss.count), result


def test_the_loss_with_class_weights_is_pytorchs(tokenizer):
    fields = SequenceClassification(train="t", labels=("a", "b", "c"), class_weights=(0.5, 2.0, 3.0))
    labels = np.array([[0], [1], [2], [1]])
    logits, loss, result = outcome(make(fields, tokenizer), labels, np.array([[1], [1], [1], [0]]))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:3, 0]), torch.tensor(labels[:3, 0]), weight=torch.tensor([0.5, 2.0, 3.0])
    )
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert float(result.metrics["accuracy"].count) == 3  # class weights do not change what accuracy counts


def test_the_loss_of_several_labels_is_pytorchs(tokenizer):
    shares = (0.5, 0.1, 0.2)
    fields = SequenceClassification(
        train="t", target="multi_label", labels=("a", "b", "c"), class_weights=(0.5, 2.0, 3.0), label_shares=shares
    )
    labels = np.array([[[0, 1, 1]], [[1, 0, 0]], [[1, 1, 1]]], np.float32)
    logits, loss, result = outcome(make(fields, tokenizer), labels, np.array([[1], [1], [0]]))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits[:2, 0]), torch.tensor(labels[:2, 0]), pos_weight=torch.tensor([0.5, 2.0, 3.0])
    )
    assert loss == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(
        result.predictions["probabilities"], torch.sigmoid(torch.tensor(logits[:, 0])), rtol=1e-5
    )
    chosen, truth = logits[:2, 0] >= 0, labels[:2, 0] > 0
    f1 = result.metrics["f1_micro"]
    assert float(f1.sum / f1.count) == pytest.approx(2 * (chosen & truth).sum() / (chosen.sum() + truth.sum()))


def test_the_loss_of_numbers_is_the_mean_squared_error(tokenizer):
    labels = np.array([[1.5], [-2.0], [9.0]], np.float32)
    logits, loss, _ = outcome(
        make(SequenceClassification(train="t", target="regression"), tokenizer), labels, np.array([[1], [1], [0]])
    )
    assert loss == pytest.approx(np.mean((logits[:2, 0, 0] - labels[:2, 0]) ** 2), rel=1e-5)


def test_answers_carry_the_names_of_the_labels(tokenizer):
    probabilities = np.array([[0.7, 0.1, 0.2], [0.2, 0.6, 0.55]])
    rows = [Row({"text": "cat"}, "f:1")] * 2
    one = make(SequenceClassification(train="t", labels=("a", "b", "c")), tokenizer)
    answers = one.decode({"probabilities": probabilities}, None, rows)
    assert answers[0] == {"label": "a", "probability": 0.7, "probabilities": {"a": 0.7, "b": 0.1, "c": 0.2}}
    several = make(
        SequenceClassification(
            train="t", labels=("a", "b", "c"), target="multi_label", threshold=0.55, label_shares=(0.5,) * 3
        ),
        tokenizer,
    )
    answers = several.decode({"probabilities": probabilities}, None, rows)
    assert [answer["labels"] for answer in answers] == [["a"], ["b", "c"]]
    assert list(answers[1]["probabilities"]) == ["b", "c", "a"]
    number = make(SequenceClassification(train="t", target="regression"), tokenizer)
    assert number.decode({"scores": np.array([1.5])}, None, rows[:1]) == [{"score": 1.5}]


def test_scores_and_tables_come_from_the_labels_of_the_rows(tokenizer, tmp_path):
    rows = [{"text": "cat", "label": name} for name in ("a", "no", "b", "b")]
    path = write(tmp_path / "t.jsonl", rows)
    task = make(SequenceClassification(train=path, eval=path, none_label="no"), tokenizer)
    batches = task.eval_batches(batch_size=2)
    predictions = {"probabilities": np.eye(3)[[0, 2, 0, 1]]}  # a, no, a, b
    figures = task.evaluate(predictions, batches).metrics
    assert figures["accuracy"] == 3 / 4
    assert figures["f1"] == pytest.approx(2 * 2 / (3 + 3))
    tables = task.evaluate(predictions, batches).tables
    assert tables["confusion"] == {"labels": ["a", "b", "no"], "counts": [[1, 0, 0], [1, 1, 0], [0, 0, 1]]}
    assert tables["per_label"]["b"] == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2})


# Packing


@pytest.mark.parametrize(("target", "multiple"), [("single_label", 1), ("multi_label", 3), ("regression", 2)])
def test_packed_texts_learn_what_padded_ones_do(tokenizer, tmp_path, target, multiple):
    rng = np.random.default_rng(2)
    labels = {
        "single_label": lambda i: "ab"[i % 2],
        "multi_label": lambda i: ["a", "b"][: i % 3],
        "regression": lambda i: i / 7,
    }
    rows = [
        {"text": " ".join(rng.choice(WORDS, rng.integers(1, 25))), "b": "cat", "label": labels[target](i)}
        for i in range(40)
    ]
    fields = SequenceClassification(
        train=write(tmp_path / "t.jsonl", rows), target=target, text_b="b", max_length=48, balanced=True
    )
    kinds = make(fields, tokenizer), make(replace(fields, packing=True), tokenizer)
    assert_packed_learns_what_padded_does(*kinds, batch_size=24, multiple=multiple)


def test_packed_batches_have_few_shapes_and_hold_all_rows(tokenizer, tmp_path):
    rng = np.random.default_rng(3)
    rows = [{"text": " ".join(rng.choice(WORDS, rng.integers(1, 40))), "label": "ab"[i % 2]} for i in range(300)]
    fields = SequenceClassification(train=write(tmp_path / "t.jsonl", rows), max_length=64, packing=True)
    task = make(fields, tokenizer)
    batches = task.train_batches(batch_size=32, steps=9, seed=0)
    shapes, filled = set(), []
    for step in range(9):
        batch = batches(step)
        shapes.add((batch["input_ids"].shape, batch["labels"].shape))
        filled.append(np.mean(batch["sequence_ids"] > 0))
        assert batch["label_weights"].sum() == 32
        expected = np.concatenate([batches.features.input_ids[slice(*batches.features.starts[i : i + 2])] for i in
                                   batches.rows(step)])  # fmt: skip
        assert sorted(batch["input_ids"][batch["sequence_ids"] > 0]) == sorted(expected)
        where = batch["cls_positions"][batch["label_weights"] > 0]
        row = np.nonzero(batch["label_weights"])[0]
        assert (batch["input_ids"][row, where] == tokenizer.cls_id).all()
        assert (batch["position_ids"][row, where] == 0).all()
    assert len(shapes) <= 3
    assert min(filled) > 0.75


def test_packed_rows_are_little_longer_than_the_longest_text(tokenizer, tmp_path):
    rows = [{"text": "red " * count, "label": "ab"[count % 2]} for count in (1, 2, 3, 19)]
    task = make(
        SequenceClassification(train=write(tmp_path / "t.jsonl", rows), max_length=128, packing=True), tokenizer
    )
    batches = task.train_batches(batch_size=4, steps=1, seed=0)
    assert batches.features.lengths.max() == 21
    assert batches(0)["input_ids"].shape[1] == 32


def test_evaluation_is_never_packed(tokenizer, tmp_path):
    rows = [{"text": "red cat", "label": "ab"[i % 2]} for i in range(8)]
    path = write(tmp_path / "t.jsonl", rows)
    task = make(SequenceClassification(train=path, eval=path, packing=True), tokenizer)
    assert task.eval_batches(batch_size=8)(0)["input_ids"].shape == (8, 16)
