"""Vectors of texts: the contrastive loss and its gradient, what is a negative, scores, and files that are wrong."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import bert_jax
from bert_jax import metrics, pretrained
from bert_jax.config import AdamW, BertConfig, Experiment, SentenceEmbedding
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.losses import Keys
from bert_jax.tasks.sentence_embedding import SentenceEmbeddingTask, ranking_losses
from bert_jax.training.step import TrainState, train_step
from helpers.corpora import NAMES
from helpers.steps import FEW_PARAMETERS, KEEP_GRADIENT
from helpers.weights import random_weights

CONFIG = BertConfig(
    vocab_size=0,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=16,
    max_position_embeddings=24,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
ROWS = 16


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def random_rows() -> list[dict]:
    """Pairs, pairs with one or two hard negatives, and scored pairs; some texts are equal."""
    rng = np.random.default_rng(0)

    def text(longest: int) -> str:
        return " ".join(rng.choice(NAMES, rng.integers(1, longest)))

    rows = [{"query": text(5), "positive": text(7)} for _ in range(ROWS)]
    for number in range(0, ROWS, 3):
        rows[number]["negatives"] = [text(4) for _ in range(1 + number % 2)]
    for number in range(4, ROWS, 5):
        rows[number] = {"text_a": text(5), "text_b": text(5), "score": number / 4}
    rows[7]["query"], rows[11]["positive"] = rows[6]["query"], rows[10]["positive"]
    return rows


@pytest.fixture(scope="module")
def task(tmp_path_factory, tokenizer):
    path = write(tmp_path_factory.mktemp("pairs") / "train.jsonl", random_rows())
    fields = SentenceEmbedding(train=path, max_length=12, symmetric=True)
    return SentenceEmbeddingTask.open(fields, replace(sized(tokenizer), **FEW_PARAMETERS), tokenizer)


def sized(tokenizer) -> BertConfig:
    return replace(CONFIG, vocab_size=tokenizer.vocab_size)


@pytest.fixture(scope="module")
def one_pass(task):
    """Parameters, a batch of all rows, and the losses and gradient without any cache."""
    batches = task.train_batches(batch_size=ROWS, steps=1, seed=0)
    assert batches.notes[-1] == f"{task.fields.train}: 8 pairs, 5 pairs with hard negatives, 3 scored pairs"
    params, batch = random_weights(task.model, task.dummy_batch()), batches(0)

    def objective(params):
        arrays = batch | {"vectors": task.vectors(params, batch, Keys(None, jax.random.key(0)))}
        arrays = {name: arrays[name] for name in (*task.joint.reads, "vectors")}
        losses = task.compare(arrays, arrays).losses
        return sum(loss.sum / loss.count for loss in losses.values()), losses

    return params, batch, *jax.jit(jax.grad(objective, has_aux=True))(params)


@pytest.mark.parametrize(("way", "fsdp", "microbatches"), [("pmap", 0, 2), ("mesh", 4, 1)])
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_split(task, one_pass, way, fsdp, microbatches):
    params, batch, gradient, losses = one_pass
    devices = Devices(way, ROWS, fsdp)
    options = {"loss_fn": task.loss_fn, "counts": task.counts, "joint": task.joint, "microbatches": microbatches}
    step = devices.wrap(train_step, **options)
    start = partial(TrainState, jnp.zeros((), jnp.int32), key=jax.random.key(1), optimizer=KEEP_GRADIENT)
    state = devices.make(lambda: start(params=params, opt_state=KEEP_GRADIENT.init(params)))
    state, sums = step(state, batch)
    for expected, actual in zip(jax.tree.leaves(gradient), jax.tree.leaves(state.opt_state), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    for name, loss in losses.items():
        np.testing.assert_allclose(sums["losses"][name].sum, loss.sum, rtol=1e-5)
        assert sums["losses"][name].count == loss.count == {"contrastive_loss": 13, "score_loss": 3}[name]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_the_cross_entropy_over_all_texts_of_the_batch(symmetric):
    """As MultipleNegativesRankingLoss of sentence-transformers computes it, where all texts are different."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 3, 8)).astype(np.float32)
    texts = np.arange(1, 16, dtype=np.int32).reshape(5, 3)
    texts[2:, 2] = 0  # two of the five have a hard negative

    def mean(vectors):
        arrays = {"vectors": vectors, "texts": texts, "label_weights": np.ones(5, np.float32)}
        return jnp.mean(ranking_losses(arrays, arrays, 0.05, symmetric)[0])

    value, gradient = jax.jit(jax.value_and_grad(mean))(vectors)
    theirs = torch.tensor(vectors, requires_grad=True)
    documents = torch.cat([theirs[:, 1], theirs[:2, 2]])
    loss = torch.nn.functional.cross_entropy(theirs[:, 0] @ documents.T / 0.05, torch.arange(5))
    if symmetric:
        back = torch.nn.functional.cross_entropy(theirs[:, 1] @ theirs[:, 0].T / 0.05, torch.arange(5))
        loss = (loss + back) / 2
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad, atol=1e-4)


def test_equal_texts_are_not_negatives():
    # Queries 1, 2, 2, 3; their texts 11, 12, 13, 11. Query 2 belongs to 12 and 13, and text 11 to 1 and 3.
    texts = np.array([[1, 11], [2, 12], [2, 13], [3, 11]], np.int32)
    vectors = np.zeros((4, 2, 4), np.float32)

    def losses(symmetric):
        arrays = {"vectors": vectors, "texts": texts, "label_weights": np.ones(4, np.float32)}
        return np.asarray(jax.jit(ranking_losses, static_argnums=(2, 3))(arrays, arrays, 1.0, symmetric)[0])

    # All similarities are equal, so that each loss is the log of 1 + the number of negatives.
    np.testing.assert_allclose(np.exp(losses(False)), [3, 3, 3, 3], rtol=1e-5)
    texts[0, 0] = 13  # a query that is also the text of another one
    np.testing.assert_allclose(np.exp(losses(False)), [2, 3, 3, 3], rtol=1e-5)


def test_retrieval_is_scored_as_trec_eval_does():
    ranked = [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]]
    relevant = [{"b": 2.0, "c": 1.0, "a": 0.0}, {"b": 1.0}, {"a": 0.0}]  # nothing is relevant for the last query
    first = (2 / np.log2(3) + 1 / np.log2(4)) / (2 + 1 / np.log2(3))
    expected = {"ndcg_at_10": (first + 1) / 2, "mrr_at_10": (1 / 2 + 1) / 2, "recall_at_2": (1 / 2 + 1) / 2}
    assert metrics.retrieval(ranked, relevant, recall=2) == pytest.approx(expected)


def test_nearest_is_an_exact_search():
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    documents[7] = documents[3]
    expected = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    for count in (1, 9, 80):
        assert metrics.nearest(queries, documents, count).tolist() == expected[:, :count].tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    """A run that learns from single texts, and is evaluated on scored pairs."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer.save(folder / "tokenizer")
    rows = random_rows()
    write(folder / "train.jsonl", [{"text": row["query"]} for row in rows if "query" in row])
    write(folder / "dev.jsonl", [row for row in rows if "score" in row])
    write(folder / "pairs.jsonl", [row for row in rows if "query" in row])
    fields = {"prompts": (("query", "red "),), "dimensions": (4,), "max_length": 12}
    experiment = Experiment(
        model=replace(CONFIG, hidden_dropout=0.1),
        task=SentenceEmbedding(train="train.jsonl", eval="dev.jsonl", folder=str(folder), **fields),
        optimizer=AdamW(learning_rate=1e-3),
        tokenizer=str(folder / "tokenizer"),
        batch_size=8,
        steps=2,
        log_every=1,
    )
    return folder, bert_jax.train(experiment, folder / "run", say=lambda _: None)


def test_a_run_learns_from_single_texts_and_is_scored_on_pairs(run):
    folder, result = run
    assert {"spearman", "pearson", "spearman_4"} <= result["metrics"].keys()
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["contrastive_loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 2
    assert all(loss > 0.01 for loss in losses)  # the same text twice, under other dropout


def test_scored_pairs_of_several_sets_have_the_mean_of_their_correlations(run):
    folder, _ = run
    bert = bert_jax.load(folder / "run")
    names = np.random.default_rng(0).choice(NAMES, (12, 2, 3)).tolist()
    rows = [
        {"text_a": " ".join(a), "text_b": " ".join(b), "score": score % 5, "set": "odd" if score % 2 else "even"}
        for score, (a, b) in enumerate(names)
    ]
    parts = {name: [row for row in rows if row["set"] == name] for name in ("odd", "even")}
    figures = {
        name: bert.evaluate(write(folder / f"{name}.jsonl", part))["metrics"]
        for name, part in (parts | {"all": rows}).items()
    }
    assert "mean_spearman" not in figures["odd"]
    assert figures["all"]["mean_spearman"] == pytest.approx(
        (figures["odd"]["spearman"] + figures["even"]["spearman"]) / 2
    )


def test_a_run_gives_vectors_similarities_and_a_folder_of_sentence_transformers(run, tmp_path):
    folder, _ = run
    bert = bert_jax.load(folder / "run")
    pair = {"text_a": "gold", "text_b": "old fish"}
    vector, plain, scored = bert.predict([{"text": "gold"}, pair, pair | {"score": 1}])
    encoded = bert.encode(["gold", "old fish", "red gold"]).vectors
    np.testing.assert_allclose(vector["vector"], encoded[0], atol=1e-6)
    assert scored["similarity"] == pytest.approx(encoded[0] @ encoded[1], abs=1e-6)
    assert plain["similarity"] == pytest.approx(encoded[2] @ encoded[1], abs=1e-6)  # with the prompt of queries
    figures = bert.evaluate(str(folder / "pairs.jsonl"))["metrics"]
    assert {"ndcg_at_10", "mrr_at_10", "recall_at_100_4"} <= figures.keys()
    pretrained.write_source(pretrained.open_source(folder / "run"), tmp_path / "out")
    again = pretrained.open_source(tmp_path / "out")
    assert (again.vectors.prompts, again.vectors.normalized, again.max_length) == ((("query", "red "),), True, 12)
    assert again.task.dimensions == (4,)


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [
        ([{"positive": "a"}], 2, r"train.jsonl:1: one of the fields 'query', 'text_a', 'text' is missing"),
        ([{"query": "a"}], 2, r"train.jsonl:1: one of the fields 'positive', 'text_b', 'text' is missing"),
        ([{"query": " ", "positive": "a"}], 2, r"train.jsonl:1: field 'query' is empty"),
        ([{"query": "a", "positive": "b", "negatives": [""]}], 2, r"train.jsonl:1: field 'negatives' should be a list"),
        ([{"text": "a"}, {"text": "b"}], 1, r"batch_size: must be at least 2: a pair's negatives are the other texts"),
        ([{"query": q, "positive": "same"} for q in "ab"], 2, r"all pairs have the same text, so there are no neg"),
        ([{"text_a": "a", "text_b": "b", "score": 9}], 2, r"task.score_range: scores are from 9 to 9"),
    ],
)
def test_pairs_that_cannot_be_used_are_an_error(tmp_path, tokenizer, rows, batch_size, message):
    fields = SentenceEmbedding(train=write(tmp_path / "train.jsonl", rows), max_length=12)
    with pytest.raises(InputError, match=message):
        SentenceEmbeddingTask.open(fields, sized(tokenizer), tokenizer).train_batches(
            batch_size=batch_size, steps=1, seed=0
        )


def retrieval_set(folder, corpus=(), queries=(), qrels=()) -> str:
    folder.mkdir()
    write(folder / "corpus.jsonl", [{"_id": "d1", "title": "red", "text": "gold"}, {"_id": "d2", "text": "b"}, *corpus])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "red"}, *queries])
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", "q1\td1\t2", *qrels]
    (folder / "qrels/test.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_a_retrieval_set_is_read_and_its_bad_rows_are_named(tmp_path, tokenizer):
    fields = SentenceEmbedding(max_length=12, prompts=(("query", "old "), ("passage", "fish ")))
    task = SentenceEmbeddingTask(fields, sized(tokenizer), tokenizer)
    batches = task.eval_batches(batch_size=2, data=retrieval_set(tmp_path / "good"))
    assert [row.values["text"] for row in batches.table] == ["red", "red gold", "b"]
    vectors = np.array([[1.0, 0], [0.5, 0.5], [1.0, 0.1]])[:, None]  # the second document is nearer
    assert task.evaluate({"vectors": vectors}, batches).metrics["mrr_at_10"] == 0.5
    same, unknown, empty = {"_id": "d1", "text": "x"}, "q1\td9\t1", {"_id": "q2", "text": ""}
    bad = retrieval_set(tmp_path / "bad", [same], [empty], [unknown])
    with pytest.raises(InputError) as error:
        task.eval_batches(batch_size=2, data=bad)
    assert str(error.value).splitlines() == [
        f"{bad}/corpus.jsonl:3: the id 'd1' is that of {bad}/corpus.jsonl:1 too",
        f"{bad}/queries.jsonl:2: field 'text' is empty",
        f"{bad}/qrels/test.tsv:3: names the document 'd9', which corpus.jsonl does not have",
    ]
