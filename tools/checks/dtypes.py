"""Trains the same small model in float32 and in bfloat16 and compares their losses.

    python tools/check.py dtypes [--workdir DIR] [--steps 200] [--preset bert-mini]

The text is bert_jax's sample text. Parameters, losses and sums of gradients are float32 in both. Exits with 1 where the
mean loss of any ten steps differs by more than 2 %.

On a CPU, XLA computes bfloat16 in float32 and would leave out most roundings in between. A flag forbids that here.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_allow_excess_precision=false"

from bert_jax import samples, tokenizers, train
from bert_jax.config import AdamW, Compute, Experiment, Pretraining, preset
from bert_jax.data.prepare import prepare

LIMIT = 0.02


def losses(workdir: Path) -> dict[int, float]:
    """The training loss by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="a new folder; without it a temporary one")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--preset", default="bert-mini")
    options = parser.parse_args()
    options.workdir = options.workdir or Path(tempfile.mkdtemp()) / "dtypes"
    options.workdir.mkdir(parents=True)
    texts = [document.text for document in samples.documents()]
    corpus, tokenizer, store = (options.workdir / name for name in ("corpus.txt", "tokenizer", "store"))
    corpus.write_text("\n\n".join(texts))
    tokenizers.train("wordpiece", texts, 4000).save(tokenizer)
    prepare([str(corpus)], tokenizer, store)
    experiment = Experiment(
        task=Pretraining(stores=(str(store),), sequence_length=64),
        model=preset(options.preset, vocab_size=0),
        optimizer=AdamW(learning_rate=1e-3),
        batch_size=16,
        steps=options.steps,
        log_every=10,
        eval_every=0,
        compute=Compute(sharding="single"),
    )
    for dtype in ("float32", "bfloat16"):
        train(
            replace(experiment, compute=replace(experiment.compute, dtype=dtype)),
            options.workdir / dtype,
            say=lambda text: None,
        )
    float32, bfloat16 = losses(options.workdir / "float32"), losses(options.workdir / "bfloat16")
    for step, loss in float32.items():
        print(f"step {step:4}: float32 {loss:.4f}, bfloat16 {bfloat16[step]:.4f}")
    worst = max(abs(bfloat16[step] / loss - 1) for step, loss in float32.items())
    print(f"largest difference {worst:.2%}")
    sys.exit(worst > LIMIT)
