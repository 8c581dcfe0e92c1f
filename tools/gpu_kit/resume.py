"""A run that begins on the GPU, with fused attention in bfloat16, continues on a CPU with explicit attention."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bert_jax
from bert_jax import tokenizers
from bert_jax.config import AdamW, Compute, Experiment, Pretraining, preset
from bert_jax.data.prepare import prepare
from bert_jax.pretrained import read_experiment

ROOT = Path(__file__).parent.parent.parent
STEPS, ON_GPU = 80, 60
TEXTS = ("The command line reads text.", "A run continues from its last checkpoint.")
SCORES = 0.01  # relative difference: a GPU rounds float32 more in matrix products


class StopAt(bert_jax.Hook):
    """Ends a run after a step, as a signal would."""

    def __init__(self, step: int):
        self.every = step

    def __call__(self, loop: Any, step: int) -> None:
        loop.stop()


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Trains 60 steps here and 20 more on a CPU, and checks that the loss goes on from where it was."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, workdir = Path(temporary), Path(temporary) / "run"
        experiment = Experiment(
            task=Pretraining(stores=(str(write_store(folder)),), sequence_length=128),
            model=preset("bert-tiny", vocab_size=0, attention_dropout=0.0),
            optimizer=AdamW(learning_rate=1e-3),
            compute=Compute(dtype="bfloat16", attention="pallas" if options.toy else "cudnn", sharding="single"),
            batch_size=16,
            steps=STEPS,
            log_every=10,
            eval_every=0,
        )
        bert_jax.train(experiment, workdir, say=lambda line: None, hooks=[StopAt(ON_GPU)])
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "gpu_kit.resume", str(workdir)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        here, there = scores(workdir), json.loads(done.stdout.splitlines()[-1]) if not done.returncode else [0.0, 0.0]
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["split"] == "train"}
    first, before, after = (losses.get(step, float("nan")) for step in (10, ON_GPU, STEPS))
    save(
        {
            "losses": losses,
            "checks": [
                {"name": "the loss falls on the GPU", "passed": before < first},
                {"name": "the run continues on a CPU", "passed": done.returncode == 0, "log": done.stderr[-2000:]},
                {"name": "the loss goes on falling there", "passed": after < 1.02 * before},
                {
                    "name": "both score texts alike",
                    "passed": all(abs(a - b) < SCORES * abs(b) for a, b in zip(here, there, strict=True)),
                    "scores": [here, there],
                },
            ],
        }
    )


def write_store(folder: Path) -> Path:
    """Writes a token store of this repository's documentation."""
    tokenizer, store = folder / "tokenizer", folder / "store"
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    corpus = [folder / page.with_suffix(".txt").name for page in pages]
    for page, text in zip(pages, corpus, strict=True):
        text.write_text(page.read_text())
    tokenizers.train("wordpiece", [text.read_text() for text in corpus], 1000).save(tokenizer)
    prepare([str(text) for text in corpus], tokenizer, store)
    return store


def continue_explicitly(workdir: Path) -> None:
    """Continues the run in `workdir` in float32, with explicit attention."""
    experiment = read_experiment(workdir)
    compute = replace(experiment.compute, dtype="float32", attention="explicit")
    bert_jax.train(replace(experiment, compute=compute), workdir, say=lambda line: None)


def scores(workdir: Path) -> list[float]:
    """Returns the pseudo-log-likelihoods of TEXTS, computed in float32."""
    return replace(bert_jax.load(workdir), compute=Compute()).score(TEXTS).totals.tolist()


if __name__ == "__main__":
    continue_explicitly(Path(sys.argv[1]))
    print(json.dumps(scores(Path(sys.argv[1]))))
