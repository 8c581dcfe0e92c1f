"""Time saved by freezing the lower layers, and by training several seeds in one run."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing, use

SEEDS = 5
EXPERIMENT = """
from bert_jax.config import Experiment, AdamW, SequenceClassification

experiment = Experiment(
    task=SequenceClassification(train={texts!r}, eval={texts!r}, packing=True, limit=2000, eval_limit=500),
    init_from={folder!r},
    optimizer=AdamW(learning_rate=3e-5, warmup_share=0.1),
    batch_size=32,
    steps={steps},
    eval_every=0,
)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with an encoder, such as MiniLM's")
    parser.add_argument("--texts", help="rows with text and label, such as SST-2's train.jsonl.gz")
    parser.add_argument("--steps", type=int, default=60, help="steps of each seed")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures both, on the short texts and the model of `use` where no others are named."""
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(temporary)
        folder = options.model or use.write_model(workdir / "model")
        texts = options.texts or use.write_texts(workdir / "texts.jsonl")
        return [freezing(folder, texts), seeds(workdir, str(folder), texts, options.steps)]


def freezing(folder: Path, texts: str) -> dict[str, Any]:
    """Measures tokens a second with the embeddings and the lower half of six layers frozen, and with none frozen."""
    works = {"none": (use.our_steps, folder, texts), "half": (use.our_steps, folder, texts, 3)}
    speeds = {name: speed.median for name, speed in timing.alternate(works).items()}
    times = speeds["half"] / speeds["none"]
    print(
        f"fine-tuning, tokens a second: {speeds['none']:,.0f}; with the embeddings and 3 of 6 layers frozen "
        f"{speeds['half']:,.0f}: {times:.2f} times as fast",
        flush=True,
    )
    return {"work": "fine-tuning, half of it frozen", "unit": "real tokens/s", **speeds, "times_as_fast": times}


def seeds(workdir: Path, folder: str, texts: str, steps: int) -> dict[str, Any]:
    """Measures seconds of one run with five seeds and of five runs; each side begins without compiled programs."""
    (workdir / "experiment.py").write_text(EXPERIMENT.format(folder=folder, texts=texts, steps=steps))
    apart = [train(workdir, "apart", "--seed", str(seed), "--workdir", f"seed-{seed}") for seed in range(SEEDS)]
    together = train(workdir, "together", "--seeds", str(SEEDS), "--workdir", "all")
    share = together / sum(apart)
    print(
        f"{SEEDS} seeds of {steps} steps, in seconds: {together:.0f} in one run, {sum(apart):.0f} in {SEEDS} runs "
        f"({', '.join(f'{seconds:.0f}' for seconds in apart)}): {share:.2f} of the time"
    )
    in_one = json.loads((workdir / "all/seeds.json").read_text())["runs"]
    alone = {seed: json.loads((workdir / f"seed-{seed}/result.json").read_text())["metrics"] for seed in in_one}
    difference = max(abs(scores[name] - alone[seed][name]) for seed, scores in in_one.items() for name in scores)
    print(f"largest difference of a seed's figures: {difference:.1e}")
    return {
        "work": f"{SEEDS} seeds of {steps} steps",
        "unit": "seconds",
        "in one run": together,
        "in runs of their own": apart,
        "share": share,
        "largest_difference": difference,
    }


def train(workdir: Path, cache: str, *flags: str) -> float:
    """Returns the seconds of `bert_jax train` from the start of its process to the end."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(workdir / f"cache-{cache}")
    command = [sys.executable, "-m", "bert_jax.cli", "train", "experiment.py", *flags]
    began = time.perf_counter()
    subprocess.run(command, cwd=workdir, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began
