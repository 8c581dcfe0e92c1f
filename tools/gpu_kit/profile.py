"""Where the time of a training step goes: the kernels of two pre-training steps, by `jax.profiler`."""

import gzip
import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from benchmarks import training

from bert_jax import tokenizers
from bert_jax.config import BertConfig, Compute, Pretraining
from bert_jax.data.batch import Arrays
from bert_jax.data.store import tokenizer_folder
from bert_jax.tasks.pretraining import PretrainingTask
from gpu_kit import pretrain

STEPS = 5
MOST_KERNELS = 30
SHOWN = ("hlo_op", "name", "tf_op", "source", "kernel_details")  # of what a trace has on a kernel


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Times and traces the step of `speed` on random tokens, and that of `pretrain` on packed rows of real text.

    Real text repeats some tokens thousands of times in a batch, [MASK] most of all.
    """
    case, config, compute = training.of_case(training.GPU[0], gpu=True, toy=options.toy)
    batch = training.random_batch(config, case.rows, case.length)
    results: dict[str, Any] = {f"{case.preset}, random tokens": traced(config, compute, batch, Pretraining())}
    save(results)
    with tempfile.TemporaryDirectory() as folder:
        store, _ = pretrain.data(options, Path(folder))
        experiment = pretrain.recipe(store, options.toy)
        assert isinstance(experiment.task, Pretraining)
        assert experiment.model is not None
        tokenizer = tokenizers.load(tokenizer_folder(store))
        config = replace(experiment.model, vocab_size=tokenizer.vocab_size)
        task = PretrainingTask(experiment.task, config, tokenizer, experiment.compute)
        batch = task.train_batches(batch_size=experiment.batch_size, steps=1, seed=0)(0)
        results["the pre-training, real text"] = traced(config, experiment.compute, batch, experiment.task)
    save(results)


def traced(config: BertConfig, compute: Compute, batch: Arrays, fields: Pretraining) -> dict[str, Any]:
    """Returns the time of a step, and that of its kernels."""
    began = time.monotonic()
    step = training.our_step(config, compute, batch, STEPS, fields)
    step()
    results: dict[str, Any] = {"seconds_to_compile": time.monotonic() - began}
    step()
    began = time.monotonic()
    step()
    results["milliseconds_per_step"] = 1000 * (time.monotonic() - began) / STEPS
    results["tokens_per_second"] = 1000 * batch["input_ids"].size / results["milliseconds_per_step"]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step()
        return results | kernels(Path(folder))


def kernels(folder: Path) -> dict[str, Any]:
    """Returns the milliseconds a step of each kernel in a trace, and of each kind: names without numbers."""
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    for event in events:
        stream = threads.get((event.get("pid"), event.get("tid")), "")
        if event.get("ph") == "X" and "GPU" in processes.get(event["pid"], "") and "Stream" in stream:
            kind = re.sub(r"[._]?\d+", "", event["name"])
            by_kind[kind] += event["dur"] / 1000 / STEPS
            arguments = {name: str(value)[:150] for name, value in event.get("args", {}).items() if name in SHOWN}
            by_name[f"{event['name']} {arguments}"] += event["dur"] / 1000 / STEPS
    return {
        "milliseconds_in_kernels": sum(by_kind.values()),
        "kinds": longest(by_kind),
        "kernels": longest(by_name),
    }


def longest(milliseconds: dict[str, float]) -> dict[str, float]:
    """Returns the MOST_KERNELS longest ones, in order."""
    names = sorted(milliseconds, key=lambda name: -milliseconds[name])[:MOST_KERNELS]
    return {name: round(milliseconds[name], 3) for name in names}
