"""What freezing the lower layers saves, and training several seeds in one run."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing, use

SEEDS = 5
EXPERIMENT = """
from bert_jax.config import Experiment, Optimizer, SequenceClassification

experiment = Experiment(
    task=SequenceClassification(train={texts!r}, eval={texts!r}, packing=True, limit=2000, eval_limit=500),
    init_from={folder!r},
    optimizer=Optimizer(learning_rate=3e-5, warmup_share=0.1),
    batch_size=32,
    steps={steps},
    eval_every=0,
)
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `savings` to the subcommands of tools/benchmark.py."""
    parser = commands.add_parser("savings", help=__doc__)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with an encoder, such as MiniLM's")
    parser.add_argument("--texts", help="rows with text and label, such as SST-2's train.jsonl.gz")
    parser.add_argument("--steps", type=int, default=60, help="steps of each seed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints both, on the short texts and the model of `use`."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folder = options.model or use.write_model(place / "model")
        texts = options.texts or use.write_texts(place / "texts.jsonl")
        freezing(folder, texts)
        seeds(place, str(folder), texts, options.steps)


def freezing(folder: Path, texts: str) -> None:
    """Real tokens a second with the embeddings and the lower half of six layers frozen, and with nothing frozen."""
    works = {"all": (use.our_steps, folder, texts), "half": (use.our_steps, folder, texts, 3)}
    speeds = timing.alternate(works)
    print(
        f"fine-tuning, tokens a second: {speeds['all']:,.0f}; with the embeddings and 3 of 6 layers frozen "
        f"{speeds['half']:,.0f}: {speeds['half'] / speeds['all']:.2f} times as fast",
        flush=True,
    )


def seeds(place: Path, folder: str, texts: str, steps: int) -> None:
    """Seconds of one run with five seeds and of five runs, each side with an empty compilation cache at its start."""
    (place / "experiment.py").write_text(EXPERIMENT.format(folder=folder, texts=texts, steps=steps))
    apart = [train(place, "apart", "--seed", str(seed), "--workdir", f"seed-{seed}") for seed in range(SEEDS)]
    together = train(place, "together", "--seeds", str(SEEDS), "--workdir", "all")
    print(
        f"{SEEDS} seeds of {steps} steps, in seconds: {together:.0f} in one run, {sum(apart):.0f} in {SEEDS} runs "
        f"({', '.join(f'{seconds:.0f}' for seconds in apart)}): {together / sum(apart):.2f} of them"
    )
    found = json.loads((place / "all/seeds.json").read_text())["runs"]
    alone = {seed: json.loads((place / f"seed-{seed}/result.json").read_text())["metrics"] for seed in found}
    apart_by = max(abs(figures[name] - alone[seed][name]) for seed, figures in found.items() for name in figures)
    print(f"largest difference of a seed's figures: {apart_by:.1e}")


def train(place: Path, cache: str, *flags: str) -> float:
    """Seconds that `bert_jax train` takes, from the start of its process to the end."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(place / f"cache-{cache}")
    command = [sys.executable, "-m", "bert_jax.cli", "train", "experiment.py", *flags]
    began = time.perf_counter()
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began
