"""How soon a recipe learns: minutes and tokens to reach an accuracy of masked tokens, here and in PyTorch.

    python tools/benchmark.py --json learning.json learning --workdir runs/learning --figure learning.svg

Each recipe is trained with each seed. The runs take turns, a few hundred steps each in a process of its own, so that
other work on the machine slows all of them. Minutes are those of training steps alone, without compiling, evaluation
and checkpoints. Each is evaluated on held-out rows of its own kind, 15 % masked: with pairs, or single segments.

`bert` is BERT as published, at this size: without dropout, with the learning rate and the initial weights that suit it.
`pytorch` is the same model and the same rows with `transformers` and PyTorch's AdamW. `fast` is the recipe "fast", with
its own length of rows.

A second call continues an interrupted one, and adds nothing to a finished one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import bert_jax
from benchmarks import timing, training
from bert_jax import samples, tokenizers
from bert_jax.config import AdamW, Experiment, preset, recipe
from bert_jax.data.prepare import prepare
from bert_jax.training import optimizer
from bert_jax.training.run import resolve

CURVE = "curve.jsonl"  # in a run's folder: a line for each turn
STATE = "state.pt"  # PyTorch's run: weights, moments and step
Point = dict[str, float]  # step, tokens, seconds, and the accuracy


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--workdir", type=Path, default=Path("runs/learning"), help="folder of the runs")
    parser.add_argument("--store", type=Path, help="a token store; left out, one of the quickstart's text is written")
    parser.add_argument("--only", nargs="+", default=["bert", "fast", "pytorch"], help="recipes")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=9000, help="of BERT as published, here and in PyTorch")
    parser.add_argument("--fast-steps", type=int, default=2000, help="of the fast recipe")
    parser.add_argument("--turn", type=int, default=500, help="steps of 32 rows between two evaluations")
    parser.add_argument("--length", type=int, default=32, help="tokens in a row of BERT, here and in PyTorch")
    parser.add_argument("--eval-sequences", type=int, default=2000)
    parser.add_argument("--accuracies", type=float, nargs="+", default=[0.2, 0.25, 0.3, 0.35])
    parser.add_argument("--figure", type=Path, help="draw accuracy over minutes there, as SVG")
    parser.add_argument("--toy", action="store_true", help="a few steps of a toy model: does it run?")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains what is not trained yet, prints how soon each recipe reached each accuracy, and returns it."""
    if options.toy:
        options.steps, options.fast_steps, options.turn, options.accuracies = 8, 4, 4, [0.01]
    store = options.store or write_store(options.workdir)
    runs = {
        (name, seed): replace(experiment, seed=seed)
        for name, experiment in experiments(store, options).items()
        for seed in range(options.seeds)
    }
    waiting = list(runs)
    while waiting:
        for name, seed in waiting:
            in_a_process(turn, name, runs[name, seed], folder_of(options.workdir, name, seed))
        waiting = [key for key in waiting if last_step(folder_of(options.workdir, *key)) < runs[key].steps]
    results = []
    for name in options.only:
        curves = [curve(folder_of(options.workdir, name, seed)) for seed in range(options.seeds)]
        reached = {f"{share:g}": [soonest(points, share) for points in curves] for share in options.accuracies}
        results.append(
            {"work": name, "unit": "minutes", "steps": runs[name, 0].steps, "reached": reached, "runs": curves}
        )
    print("\n".join(table(results)), flush=True)
    if options.figure:
        draw(results, options.figure)
    return results


def experiments(store: Path, options: argparse.Namespace) -> dict[str, Experiment]:
    """Returns the pre-training of each recipe."""
    rows: dict[str, Any] = {"stores": (str(store),), "eval_sequences": options.eval_sequences, "held_out": 0.02}
    length: dict[str, Any] = {"sequence_length": options.length, "length_schedule": ()}
    toy = {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64} if options.toy else {}
    positions = {"max_position_embeddings": options.length}

    def turns(batch_size: int) -> dict[str, Any]:
        steps = max(1, options.turn * 32 // batch_size)
        return dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), steps)

    batch_size = recipe("fast").batch_size
    fast = recipe("fast", **rows, **turns(batch_size), steps=options.fast_steps)
    assert fast.model is not None
    model = preset(
        "bert-tiny",
        vocab_size=0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=fast.model.initializer_range,
        **positions | toy,
    )
    adam = AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98)
    sizes = {"model": model, "optimizer": adam, "batch_size": 32, "steps": options.steps}
    bert = recipe("bert", **rows, **turns(32), **length, **sizes)
    every = {"bert": bert, "fast": replace(fast, model=replace(fast.model, **toy)), "pytorch": bert}
    if unknown := set(options.only) - every.keys():
        raise SystemExit(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return {name: every[name] for name in options.only}


def write_store(workdir: Path) -> Path:
    """Writes a token store of the sample texts, unless it is there."""
    store, tokenizer, corpus = (workdir / name for name in ("store", "tokenizer", "corpus.jsonl"))
    if not store.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        texts = [document.text for document in samples.documents()]
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        tokenizers.train("wordpiece", texts, 4096).save(tokenizer)
        prepare([str(corpus)], tokenizer, store)
    return store


def folder_of(workdir: Path, name: str, seed: int) -> Path:
    """Returns the folder of a run."""
    return workdir / f"{name}-{seed}"


def in_a_process(work: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process of its own, and exits if it fails."""
    process = timing.CONTEXT.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{arguments[0]}: a turn failed with exit code {process.exitcode}")


def turn(name: str, experiment: Experiment, folder: Path) -> None:
    """Trains a run from where it is to its next evaluation."""
    (pytorch_turn if name == "pytorch" else our_turn)(experiment, folder)


class Turn(bert_jax.Hook):
    """Ends a turn after its evaluation, and notes what it took.

    The first two steps of a turn may compile, so they count as the mean of the others, if there are any.
    """

    every = 1

    def __init__(self, folder: Path, period: int):
        self._folder, self._period = folder, period
        self._first: tuple[int, float] | None = None
        self._before, self._taken = 0.0, 0

    def begin(self, loop: Any, step: int) -> None:
        """Notes the seconds of the turns before."""
        self._before = loop.seed_runs[0].meta["seconds"]

    def __call__(self, loop: Any, step: int) -> None:
        meta = loop.seed_runs[0].meta
        self._taken += 1
        if self._taken <= 2:
            loop.collect()
            self._first = step, meta["seconds"]
        if self._first and loop.due(self._period, step):
            first, seconds = self._first
            began = (step - 1) // self._period * self._period
            taken = meta["seconds"] - self._before
            if step > first:
                taken = (meta["seconds"] - seconds) / (step - first) * (step - began)
            note(self._folder, step, meta["tokens"], taken)
            loop.stop()


def our_turn(experiment: Experiment, folder: Path) -> None:
    """A turn of `bert_jax.train`."""
    bert_jax.train(experiment, folder, say=lambda text: None, hooks=[Turn(folder, experiment.eval_every)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracies = {line["step"]: line["mlm_accuracy"] for line in lines if line["split"] == "eval"}
    points = [point | {"mlm_accuracy": accuracies[point["step"]]} for point in curve(folder)]
    write_curve(folder, points)


def pytorch_turn(experiment: Experiment, folder: Path) -> None:
    """The same with `transformers` and PyTorch's AdamW, as people write it."""
    import torch

    run = resolve(experiment, None)
    e, task = run.experiment, run.task
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(e.seed)
    model = training.torch_model(e.model)
    adam, _ = training.torch_optimizer(model, e.optimizer.learning_rate, e.steps)
    first, tokens = 0, 0
    if (folder / STATE).exists():
        state = torch.load(folder / STATE)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        first, tokens = state["step"], state["tokens"]
    if first == e.steps:
        return
    for group in adam.param_groups:
        group["betas"], group["eps"] = (e.optimizer.b1, e.optimizer.b2), e.optimizer.epsilon
    rate = optimizer.learning_rate(e.optimizer, e.steps)
    batches = task.train_batches(batch_size=e.batch_size, steps=e.steps, seed=e.seed)
    last = min(e.steps, first - first % e.eval_every + e.eval_every)
    began = time.perf_counter()
    for step in range(first, last):
        batch = batches(step)
        for group in adam.param_groups:
            group["lr"] = float(rate(step))
        adam.zero_grad()
        model(**training.torch_inputs(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), e.optimizer.max_grad_norm)
        adam.step()
        tokens += int((batch["sequence_ids"] > 0).sum())
    seconds = time.perf_counter() - began
    accuracy = pytorch_accuracy(model, task.eval_batches(batch_size=e.batch_size))
    torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "step": last, "tokens": tokens}, folder / STATE)
    note(folder, last, tokens, seconds, mlm_accuracy=accuracy)


def pytorch_accuracy(model: Any, batches: Any) -> float:
    """Returns the share of masked held-out tokens that the model guesses."""
    import torch

    model.eval()
    right = total = 0.0
    for number in range(batches.num_steps):
        batch = batches(number)
        inputs = {name: x for name, x in training.torch_inputs(batch).items() if "label" not in name}
        with torch.no_grad():
            guesses = model(**inputs).prediction_logits.argmax(-1).numpy()
        guesses = np.take_along_axis(guesses, batch["masked_positions"], axis=1)
        right += float((batch["masked_weights"] * (guesses == batch["masked_labels"])).sum())
        total += float(batch["masked_weights"].sum())
    return right / total


def note(folder: Path, step: int, tokens: int, seconds: float, **more: float) -> None:
    """Adds a point to a run's curve; `seconds` are those of this turn."""
    points = [point for point in curve(folder) if point["step"] < step]
    before = points[-1]["seconds"] if points else 0.0
    write_curve(folder, [*points, {"step": step, "tokens": tokens, "seconds": round(before + seconds, 2), **more}])


def write_curve(folder: Path, points: list[Point]) -> None:
    """Writes a run's curve."""
    (folder / CURVE).write_text("".join(json.dumps(point) + "\n" for point in points))


def curve(folder: Path) -> list[Point]:
    """Returns a run's points so far."""
    path = folder / CURVE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_step(folder: Path) -> float:
    """Returns the last step of a run that was evaluated."""
    return max((point["step"] for point in curve(folder)), default=0)


def soonest(points: list[Point], accuracy: float) -> Point | None:
    """Returns minutes and tokens until a curve reaches an accuracy, on straight lines between points; None = never.

    >>> soonest([{"mlm_accuracy": 0.2, "seconds": 60, "tokens": 10}], 0.1)
    {'minutes': 0.5, 'tokens': 5}
    """
    before = {"mlm_accuracy": 0.0, "seconds": 0.0, "tokens": 0}
    for point in points:
        if point["mlm_accuracy"] >= accuracy:
            share = (accuracy - before["mlm_accuracy"]) / (point["mlm_accuracy"] - before["mlm_accuracy"])
            seconds, tokens = (before[x] + share * (point[x] - before[x]) for x in ("seconds", "tokens"))
            return {"minutes": round(seconds / 60, 2), "tokens": round(tokens)}
        before = point
    return None


def table(results: list[dict[str, Any]]) -> list[str]:
    """Returns a Markdown table: the mean minutes and tokens of the seeds, and how much sooner that is than `bert`."""
    minutes = {
        result["work"]: {
            share: statistics.fmean(seed["minutes"] for seed in seeds) if all(seeds) else None
            for share, seeds in result["reached"].items()
        }
        for result in results
    }
    lines = ["", "| recipe | MLM accuracy | minutes | million tokens | sooner than bert |", "|---|---|---|---|---|"]
    for result in results:
        for share, seeds in result["reached"].items():
            mean, base = minutes[result["work"]][share], minutes.get("bert", {}).get(share)
            cells = ["never", "", ""]
            if mean is not None:
                tokens = statistics.fmean(seed["tokens"] for seed in seeds) / 1e6
                cells = [f"{mean:.1f}", f"{tokens:.2f}", f"{base / mean:.1f} times" if base and mean else ""]
            lines.append(f"| {result['work']} | {float(share):.0%} | {' | '.join(cells)} |")
    return lines


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draws the accuracy over minutes, on a logarithmic scale: a line for each seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "bert_jax"
    figure, axis = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for number, result in enumerate(results):
        for seed, points in enumerate(result["runs"]):
            minutes = [point["seconds"] / 60 for point in points]
            shares = [100 * point["mlm_accuracy"] for point in points]
            axis.plot(minutes, shares, color=f"C{number}", marker=".", label=None if seed else result["work"])
    axis.set(xlabel="minutes of training steps", ylabel="MLM accuracy (%)", xscale="log")
    axis.set_ylim(0)
    axis.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
