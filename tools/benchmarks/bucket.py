"""Steps a second of a run whose store and workdir are in a bucket, and on a local disk; needs the extra test-cloud."""

import argparse
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import timing
from bert_jax import Hook, files, samples, tokenizers, train
from bert_jax.config import Experiment, Pretraining, preset
from bert_jax.data.prepare import prepare
from bert_jax.training.loop import Loop

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers import gcs

STARTED = 100  # step at which the clock starts, after compiling


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=5.0, help="milliseconds that each request takes longer")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains a BERT-tiny with 16 rows of 64 tokens, logged and saved as by default, in turn here and there."""
    speeds: dict[str, list[float]] = {"local disk": [], "bucket": []}
    port = gcs.free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        gcs.emulator(port) as emulator,
        gcs.proxy(emulator, port, options.latency) as url,
    ):
        gcs.make_bucket(emulator, "bucket")
        texts = [document.text for document in samples.documents()][:1500]
        tokenizers.train("wordpiece", texts, 4096).save(Path(folder) / "tokenizer")
        (Path(folder) / "corpus.txt").write_text("\n\n".join(texts))
        for number in range(options.rounds):
            for where, root, address in (("local disk", folder, None), ("bucket", "gs://bucket", url)):
                with ProcessPoolExecutor(1, mp_context=timing.CONTEXT) as process:
                    work = process.submit(steps_a_second, Path(folder), f"{root}/{number}", options.steps, address)
                    speeds[where].append(work.result())
                print(f"round {number}, {where}: {speeds[where][-1]:.2f} steps/s", flush=True)
    ratios = [there / here for here, there in zip(speeds["local disk"], speeds["bucket"], strict=True)]
    print(f"bucket / local disk: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; wanted 0.97")
    return [{"work": "a run in a bucket", "speeds": speeds, "ratio": statistics.median(ratios), "wanted": 0.97}]


def steps_a_second(data: Path, folder: str, steps: int, url: str | None) -> float:
    """Returns the speed of a new run from step 100 to the end, the last checkpoint included."""
    if url:
        gcs.use(url)
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    root = files.path(folder)
    prepare([str(data / "corpus.txt")], data / "tokenizer", root / "store")
    experiment = Experiment(
        task=Pretraining(stores=(str(root / "store"),), sequence_length=64, held_out=0.05, eval_sequences=256),
        model=preset("bert-tiny", vocab_size=0),
        batch_size=16,
        steps=steps,
    )
    clock = Clock()
    train(experiment, root / "run", hooks=[clock])
    return (steps - STARTED) / (time.monotonic() - clock.began)


class Clock(Hook):
    """Remembers when a step was taken."""

    began = 0.0

    def __call__(self, loop: Loop, step: int) -> None:
        if step == STARTED:
            self.began = time.monotonic()
