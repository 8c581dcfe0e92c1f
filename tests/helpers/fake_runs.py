"""Workdirs as runs leave them, with curves like real ones, written without training."""

import json
import math
import random
from pathlib import Path

from bert_jax.config import AdamW, Experiment, Pretraining, SequenceClassification, preset, to_json

LABELS = ("numpy", "scipy", "sklearn", "jax")
TEXTS = (
    "Return a new array of given shape and type, filled with ones. The order is that of the memory layout.",
    "Compute the singular value decomposition of a banded matrix <b>in place</b> & return the factors.",
    "Fit the estimator on the training rows and return the score of a held-out part of them.",
    "Map a function over leading axes, with the compiled one called once for each device.",
)


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder: Path, experiment: Experiment, target: float, *, pace: float = 0.2, stop_at: float = 1.0) -> Path:
    """Writes a workdir with curves like real ones, which end near `target`; `stop_at` cuts the run at a share of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(to_json(experiment)))
    noise = random.Random(f"{target} {experiment.seed}")
    target += noise.gauss(0, 0.012)
    reached = int(experiment.steps * stop_at)
    metrics: list[dict] = []
    speed = []
    for step in range(experiment.log_every, reached + 1, experiment.log_every):
        share = step / experiment.steps
        learned = 1 - math.exp(-share / pace)
        rate = experiment.optimizer.learning_rate * min(share / 0.1, (1 - share) / 0.9)
        shaky = {"grad_norm": abs(noise.gauss(1.4, 0.2)) + 3 * math.exp(-share / 0.05), "skipped": 0.0}
        line = figures(experiment, learned, target, noise) | shaky | {"learning_rate": rate}
        metrics.append({"step": step, "split": "train", **line})
        if step % experiment.eval_every == 0:
            metrics.append({"step": step, "split": "eval", **figures(experiment, learned, target - 0.03, noise, 0.25)})
        fast = {"tokens_per_second": noise.gauss(13_000, 500), "padding_share": 0.12, "mfu": 0.34}
        speed.append({"step": step, "seconds": 15 + 0.04 * step, **fast, "memory_bytes": 9.1e8})
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "speed.jsonl", speed)
    if stop_at == 1.0:
        (folder / "result.json").write_text(json.dumps(make_result(experiment, metrics, noise)))
    return folder


def figures(experiment: Experiment, learned: float, target: float, noise: random.Random, shaky: float = 1) -> dict:
    score = target * (0.25 + 0.75 * learned) + shaky * noise.gauss(0, 0.01)
    if isinstance(experiment.task, SequenceClassification):
        loss = 1.4 - 1.3 * score + shaky * noise.gauss(0, 0.02)
        return {"loss": loss, "class_loss": loss, "accuracy": score}
    mlm, pair = 9 - 5 * learned + shaky * noise.gauss(0, 0.05), 0.7 - 0.15 * learned + shaky * noise.gauss(0, 0.01)
    scores = {"mlm_accuracy": 0.42 * score, "pair_accuracy": 0.5 + 0.3 * score}
    return {"loss": mlm + pair, "mlm_loss": mlm, "pair_loss": pair} | scores


def make_result(experiment: Experiment, metrics: list[dict], noise: random.Random) -> dict:
    final = [line for line in metrics if line["split"] == "eval"][-1]
    scores = {name: value for name, value in final.items() if name not in ("step", "split")}
    examples, tables = [], {}
    if isinstance(experiment.task, SequenceClassification):
        for i, text in enumerate(TEXTS):
            weights = [noise.random() + 3 * (i == j) for j in range(len(LABELS))]
            shares = [weight / sum(weights) for weight in weights]
            best = max(range(len(LABELS)), key=shares.__getitem__)
            answer = {
                "label": LABELS[best],
                "probability": shares[best],
                "probabilities": dict(zip(LABELS, shares, strict=True)),
            }
            examples.append({"input": {"text": text, "label": LABELS[(i + (i == 3)) % 4]}, **answer})
        counts = [[60 + noise.randrange(20) if i == j else noise.randrange(14) for j in range(4)] for i in range(4)]
        per_label = {name: {"precision": 0.8 + noise.random() / 9, "recall": 0.8, "support": 100} for name in LABELS}
        tables = {"confusion": {"labels": list(LABELS), "counts": counts}, "per_label": per_label}
    tokens = experiment.steps * 1024
    cost = {"tokens": tokens, "seconds": tokens / 13_000, "flops": 6.0 * tokens * 5e6}
    return {"step": experiment.steps, "metrics": scores, **cost, "examples": examples, "tables": tables}


def classify(seed: int = 0, **changes) -> Experiment:
    task = SequenceClassification(
        train="train.jsonl", eval="test.jsonl", labels=LABELS, limit=changes.pop("limit", 256)
    )
    model = preset(changes.pop("model", "bert-tiny"), vocab_size=8000)
    return Experiment(task, model=model, seed=seed, steps=400, log_every=20, eval_every=80, **changes)


def pretrain(**changes) -> Experiment:
    task = Pretraining(stores=("store",), sequence_length=32)
    optimizer = AdamW(learning_rate=1e-3)
    shape = {"model": preset("bert-tiny", vocab_size=8000), "steps": 6000, "eval_every": 1000, "optimizer": optimizer}
    return Experiment(task, **(shape | changes))


def write_quickstart(folder: Path, seeds: int = 5) -> Path:
    """A pre-training run and a labelled task from its weights and from random ones, several seeds each, with notes."""
    write_run(folder / "pretrained", pretrain(), 0.9)
    for seed in range(seeds):
        write_run(folder / f"from-pretrained/seed{seed}", classify(seed, init_from="pretrained"), 0.87, pace=0.12)
        write_run(folder / f"from-random/seed{seed}", classify(seed), 0.71, pace=0.3)
    rows = [["MLM accuracy", 0.378, 0.051], ["sentence-pair accuracy", 0.81, 0.5]]
    table = {"title": "Against what costs nothing", "columns": ["", "this run", "baseline"], "rows": rows}
    lines = [
        "Return the [MASK] of the array.   shape 0.31   size 0.12   sum 0.08",
        "Raises a [MASK] error.   value 0.44",
    ]
    notes = {"tables": [table], "texts": [{"title": "Filling masks", "lines": lines}]}
    (folder / "notes.json").write_text(json.dumps(notes))
    return folder


def write_bare(folder: Path, experiment: Experiment, **scores: float) -> Path:
    """A finished run with nothing but an experiment and scores."""
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(to_json(experiment)))
    (folder / "result.json").write_text(json.dumps({"step": experiment.steps, "metrics": scores}))
    return folder
