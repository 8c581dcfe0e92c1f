"""Sentence embedding learns and is scored as in sentence-transformers and trec_eval.

    python tools/check.py embedding

A tiny model with random weights learns from random texts. For each loss that both have, one step's loss and gradients
are those of sentence-transformers, in one part and in two microbatches. Retrieval of random documents has the figures
of pytrec_eval (with grades) and of InformationRetrievalEvaluator (without), and scored pairs those of
EmbeddingSimilarityEvaluator. Needs `pip install sentence-transformers pytrec_eval-terrier`. Exits with 1 where a loss
or a gradient differs by more than GRADIENTS of the largest, or a figure by more than FIGURES. A minute on two cores.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytrec_eval
import sentence_transformers
import torch
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer import losses

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from bert_jax import load, pretrained
from bert_jax.config import SentenceEmbedding
from bert_jax.devices import Devices
from bert_jax.interop import huggingface
from bert_jax.interop.table import to_theirs
from bert_jax.pretrained import Weights
from bert_jax.tasks.sentence_embedding import SentenceEmbeddingTask
from bert_jax.training.step import TrainState, train_step
from helpers.interop import small_tokenizer, torch_model
from helpers.steps import KEEP_GRADIENT

GRADIENTS, FIGURES = 1e-4, 1e-5
ROWS = 12
WORDS = ["the", "cat", "sat", "on", "mat", "by", "red", "house", "sea", "dog", "ran", "old"]
RNG = np.random.default_rng(0)


def texts(count: int) -> list[str]:
    """Returns texts of different tokens, none of them cut: of equal vectors, the order would be chance."""
    tokenizer = small_tokenizer()
    different: dict[tuple[int, ...], str] = {}
    while len(different) < count:
        text = " ".join(RNG.choice(WORDS, RNG.integers(2, 6)))
        different.setdefault(tuple(tokenizer.encode_ids([text])[0].tolist()), text)
    return list(different.values())


def our_step(source: Weights, params: Any, fields: SentenceEmbedding, microbatches: int) -> tuple[float, Any]:
    """Returns the loss of one step on all rows, and its gradients under their names in PyTorch."""
    task = SentenceEmbeddingTask.open(fields, source.config, source.tokenizer)
    batch = task.train_batches(batch_size=ROWS, steps=1, seed=0)(0)
    options: dict[str, Any] = {"loss_fn": task.loss_fn, "counts": task.counts, "joint": task.joint}
    step = Devices("single", ROWS).wrap(train_step, microbatches=microbatches, **options)
    zero, key = jnp.zeros((), jnp.int32), jax.random.key(0)
    params = jax.tree.map(jnp.array, params)  # the step reuses their memory
    state, sums = step(TrainState(zero, params, KEEP_GRADIENT.init(params), key, KEEP_GRADIENT), batch)
    gradients = jax.device_get(state.opt_state)
    total = sum(float(loss.sum) / max(float(loss.count), 1) for loss in sums["losses"].values())
    return total, to_theirs(huggingface.name_mappings(source.config, "Model", ""), gradients, source.config)


def compare_losses(folder: Path, report: Callable[[str, float, float], None]) -> None:
    torch_side = sentence_transformers.SentenceTransformer(str(folder), device="cpu").eval()
    source = pretrained.open_source(folder)
    # Without the pooler, whose gradient is not defined.
    config = {"source": source, "params": jax.tree.map(jnp.asarray, load(folder).params)}
    config["params"]["bert"].pop("pooler", None)
    every = texts(3 * ROWS)
    columns = every[:ROWS], every[ROWS : 2 * ROWS], every[2 * ROWS :]
    scores = RNG.uniform(0, 5, ROWS)
    ranking = losses.MultipleNegativesRankingLoss(torch_side)
    cases: dict[str, tuple[Any, int, dict[str, Any]]] = {
        "pairs": (ranking, 2, {}),
        "hard negatives": (ranking, 3, {}),
        "symmetric": (losses.MultipleNegativesSymmetricRankingLoss(torch_side), 2, {"symmetric": True}),
        "Matryoshka": (losses.MatryoshkaLoss(torch_side, ranking, [24, 7]), 3, {"dimensions": (7,)}),
        "scored pairs": (losses.CosineSimilarityLoss(torch_side), 2, {"score_range": (0.0, 5.0)}),
    }
    for name, (loss, count, options) in cases.items():
        scored = name == "scored pairs"
        names = ("query", "positive", "negatives")[:count]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns[:count], strict=True)]
        if scored:
            rows = [row | {"score": score} for row, score in zip(rows, scores, strict=True)]
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        torch_side.zero_grad()
        features = [torch_side.preprocess(list(column)) for column in columns[:count]]
        value = loss(features, torch.tensor(scores / 5, dtype=torch.float32) if scored else None)
        value.backward()
        model = torch_side[0].model
        theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        fields = SentenceEmbedding(train=str(path), max_length=source.longest, **options)
        for microbatches in (1, 2):
            total, ours = our_step(**config, fields=fields, microbatches=microbatches)
            largest = max(np.abs(gradient).max() for gradient in theirs.values())
            apart = max(np.abs(ours[n] - theirs[n]).max() / largest for n in theirs if n in ours)
            missing = {n for n in theirs if n not in ours and np.abs(theirs[n]).max() > 0}
            assert not missing, missing
            report(f"{name}, {microbatches} microbatches: loss", abs(total / value.item() - 1), GRADIENTS)
            report(f"{name}, {microbatches} microbatches: gradients", float(apart), GRADIENTS)


def compare_scores(folder: Path, report: Callable[[str, float, float], None]) -> None:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    queries = {f"q{i}": one for i, one in enumerate(texts(20))}
    corpus = {f"d{i}": one for i, one in enumerate(texts(300))}
    grades = {q: {d: int(RNG.integers(0, 3)) for d in RNG.choice(list(corpus), 15, replace=False)} for q in queries}
    (folder / "set/qrels").mkdir(parents=True)
    for name, table in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps({"_id": one, "text": value}) for one, value in table.items()]
        (folder / f"set/{name}.jsonl").write_text("\n".join(lines))
    lines = [f"{q}\t{d}\t{grade}" for q, judged in grades.items() for d, grade in judged.items()]
    (folder / "set/qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    bert = load(folder)
    ours = bert.evaluate(str(folder / "set"))["metrics"]
    sides = [bert.encode(list(table.values())).vectors.astype(np.float64) for table in (queries, corpus)]
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    products = first @ second.T
    run = {q: dict(zip(corpus, map(float, row), strict=True)) for q, row in zip(queries, products, strict=True)}
    trec = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    for name, theirs in {"ndcg_at_10": "ndcg_cut_10", "recall_at_100": "recall_100"}.items():
        mean = float(np.mean([figures[theirs] for figures in trec.values()]))
        report(f"{name} {ours[name]:.4f}, pytrec_eval", abs(ours[name] - mean), FIGURES)
    relevant = {q: {d for d, grade in judged.items() if grade > 0} for q, judged in grades.items()}
    options: dict[str, Any] = {
        "mrr_at_k": [10],
        "ndcg_at_k": [10],
        "precision_recall_at_k": [100],
        "accuracy_at_k": [1],
    }
    figures = InformationRetrievalEvaluator(queries, corpus, relevant, map_at_k=[100], **options)(model)
    for name, theirs in {"mrr_at_10": "cosine_mrr@10", "recall_at_100": "cosine_recall@100"}.items():
        report(f"{name} {ours[name]:.4f}, sentence-transformers", abs(ours[name] - figures[theirs]), FIGURES)
    pairs, scores = (texts(50), texts(50)), RNG.uniform(0, 5, 50).round(1).tolist()
    rows = [{"text_a": a, "text_b": b, "score": score} for a, b, score in zip(*pairs, scores, strict=True)]
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = bert.evaluate(str(folder / "scored.jsonl"))["metrics"]
    figures = EmbeddingSimilarityEvaluator(*pairs, scores)(model)
    for name in ("spearman", "pearson"):
        report(f"{name} {ours[name]:.4f}", abs(ours[name] - figures[f"{name}_cosine"]), FIGURES)


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    wrong = []

    def report(name: str, difference: float, most: float) -> None:
        print(f"{name}: differs by {difference:.1e}")
        if not difference <= most:
            wrong.append(name)

    with tempfile.TemporaryDirectory() as temporary:
        torch_model("bert", "Model").save_pretrained(Path(temporary) / "encoder")
        small_tokenizer().save(Path(temporary) / "encoder")
        folder = Path(temporary) / "vectors"
        pretrained.write_source(pretrained.open_source(Path(temporary) / "encoder"), folder, "sentence-transformers")
        compare_losses(folder, report)
        compare_scores(folder, report)
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
