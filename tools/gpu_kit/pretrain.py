"""Pre-trains for four minutes on the carried text, and scores the model on the carried minimal pairs."""

import json
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bert_jax
from bert_jax import scoring
from bert_jax.config import Compute, Experiment, Muon, Pretraining, preset
from bert_jax.data.rows import Row, read_rows
from bert_jax.data.store import TokenStore
from gpu_kit import pack, resume

SECONDS = 240  # of training, without compiling
PROBE = (20, 60)  # steps between which the speed is measured
SCORING = 60  # seconds that are left for evaluation and scores
CHUNK = 10000  # pairs


class Clock(bert_jax.Hook):
    """Notes when the steps of PROBE were done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, loop: Any, step: int) -> None:
        if step in PROBE:
            loop.collect()  # waits for the device
            self.times.append(time.monotonic())


class Deadline(bert_jax.Hook):
    """Stops a run at a time, so that what it has learned until then is scored."""

    every = 50

    def __init__(self, until: float):
        self._until = until

    def __call__(self, loop: Any, step: int) -> None:
        loop.collect()
        if time.monotonic() > self._until:
            loop.stop()


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Trains as many steps as fit, or as the options say, and scores."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store, pairs = data(options, folder)
        experiment = recipe(store, options.toy)
        steps = options.steps or steps_that_fit(experiment, folder, 5 if options.toy else SECONDS)
        workdir = folder / "run"
        began = time.monotonic()
        stop = Deadline(options.until - SCORING)
        result = bert_jax.train(replace(experiment, steps=steps), workdir, say=print, hooks=[stop])
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        speed = [json.loads(line) for line in (workdir / "speed.jsonl").read_text().splitlines()]
        results: dict[str, Any] = {
            "steps": steps,
            "last_step": lines[-1]["step"],
            "seconds_with_compiling": time.monotonic() - began,
            "tokens_in_store": TokenStore.open(store).num_tokens,
            "experiment": json.loads((workdir / "experiment.json").read_text()),
            "result": {name: value for name, value in result.items() if name not in ("tables", "examples", "fitted")},
            "losses": {line["step"]: round(line["loss"], 4) for line in lines if line["split"] == "train"},
            "speed": speed[-2:],
        }
        save(results)
        bert = replace(bert_jax.load(workdir), compute=Compute())
        results |= score(bert, pairs, options.until)
        chance = {"name": "better than chance on pairs", "passed": results["pairs"]["accuracy"] > 0.5}
        save(results | {"checks": [] if options.toy else [chance]})


def steps_that_fit(experiment: Experiment, folder: Path, seconds: float) -> int:
    """Returns the number of steps that take `seconds`, by a short run without evaluation."""
    clock = Clock()
    probe = replace(experiment, task=replace(experiment.task, held_out=0.0), steps=PROBE[1])
    bert_jax.train(probe, folder / "probe", say=print, hooks=[clock])
    return round(seconds * (PROBE[1] - PROBE[0]) / (clock.times[1] - clock.times[0]))


def recipe(store: Path, toy: bool) -> Experiment:
    """Returns the pre-training without its number of steps."""
    model = preset(
        "bert-tiny" if toy else "bert-medium",
        vocab_size=0,
        type_vocab_size=0,
        positions="rotary",
        norm_position="pre",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    task = Pretraining(
        stores=(str(store),), sequence_length=128, pairs="none", packing="packed", mask_rate=0.2, eval_sequences=1000
    )
    return Experiment(
        task=task,
        model=model,
        optimizer=Muon(learning_rate=2e-3, warmup_share=0.05, b2=0.98),
        compute=Compute() if toy else Compute(dtype="bfloat16", attention="cudnn", sharding="single"),
        batch_size=16 if toy else 512,
        log_every=10 if toy else 200,
        checkpoint_every=0,
        keep_checkpoints=1,
        eval_every=0,
    )


def score(bert: bert_jax.PretrainedBert, pairs: list[Row], until: float) -> dict[str, Any]:
    """Scores the pairs in random order, as many as the time allows."""
    random.Random(0).shuffle(pairs)
    began, answers = time.monotonic(), []
    for start in range(0, len(pairs), CHUNK):
        answers += scoring.score_rows(bert, pairs[start : start + CHUNK])
        if time.monotonic() > until:
            break
    seconds = time.monotonic() - began
    return {"pairs": scoring.accuracies(answers), "pairs_per_second": len(answers) / seconds}


def data(options: Any, folder: Path) -> tuple[Path, list[Row]]:
    """Returns a token store and minimal pairs; unpacked files are written to the folder."""
    return toy_data(folder) if options.toy else carried_data(options.carried, folder)


def carried_data(carried: Path, folder: Path) -> tuple[Path, list[Row]]:
    """Unpacks the token store that was carried here; returns it and the pairs."""
    with tarfile.open(carried / pack.STORE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "store", read_rows(str(carried / pack.PAIRS))


def toy_data(folder: Path) -> tuple[Path, list[Row]]:
    """Returns a token store of this repository's documentation, and its lines with and without two words swapped."""
    store = resume.write_store(folder)
    pairs = []
    for line in (resume.ROOT / "README.md").read_text().splitlines():
        words = line.split()
        if 6 <= len(words) <= 12:
            swapped = [*words[:2], words[3], words[2], *words[4:]]
            pairs.append(Row({"good": line, "bad": " ".join(swapped), "group": "swapped"}, "README.md"))
    return store, pairs
