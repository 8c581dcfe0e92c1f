"""Pre-training steps here and in PyTorch's `transformers`, with the same sizes and the same batch."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import flops, optimizer
from bert_jax.config import BertConfig, Optimizer, Pretraining, preset
from bert_jax.interop import huggingface
from bert_jax.sharding import Devices
from bert_jax.step import TrainState, train_step
from bert_jax.tasks.pretraining import PretrainingTask

PREDICTIONS = 20  # masked positions in a row of 128, as in BERT's own data
CASES = [("bert-tiny", 64), ("bert-mini", 32), ("bert-base", 8)]  # preset and rows


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `training` to the subcommands of tools/benchmark.py."""
    parser = commands.add_parser("training", help=__doc__)
    parser.add_argument("--only", default="", help="one preset")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn")
    parser.add_argument("--ours", action="store_true", help="leave PyTorch out")
    parser.set_defaults(run=run)


def make_batch(config: BertConfig, rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A full batch of pairs for MLM and NSP, of random pieces."""
    rng = np.random.default_rng(seed)
    predictions = PREDICTIONS * length // 128
    positions = np.sort(rng.permuted(np.tile(np.arange(1, length), (rows, 1)), axis=1)[:, :predictions], axis=1)
    return {
        "input_ids": rng.integers(5, config.vocab_size, (rows, length), dtype=np.int32),
        "token_type_ids": np.tile(np.arange(length, dtype=np.int32) >= length // 2, (rows, 1)).astype(np.int32),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "sequence_ids": np.ones((rows, length), np.int32),
        "cls_positions": np.zeros((rows, 1), np.int32),
        "masked_positions": positions.astype(np.int32),
        "masked_labels": rng.integers(5, config.vocab_size, (rows, predictions), dtype=np.int32),
        "masked_weights": np.ones((rows, predictions), np.float32),
        "pair_labels": rng.integers(0, 2, (rows, 1), dtype=np.int32),
        "pair_weights": np.ones((rows, 1), np.float32),
    }


def our_step(config: BertConfig, batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """A step as `bert_jax train` takes it; the first call compiles."""
    task = PretrainingTask(Pretraining(), config, tokenizer=None)  # type: ignore[arg-type]
    devices = Devices("single", len(batch["input_ids"]))
    change = optimizer.make(Optimizer(), 1000, config)

    def start() -> TrainState:
        params = task.model.init(jax.random.key(0), jax.tree.map(lambda x: x[:1, :1], batch))["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, change.init(params), jax.random.key(0), change)

    state = devices.make(start)
    compiled = devices.train_step(train_step, loss_fn=task.loss_fn)

    def step() -> None:
        nonlocal state
        state, sums = compiled(state, batch)
        jax.block_until_ready(sums)

    return step


def their_step(config: BertConfig, batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """The same step with `BertForPreTraining` in PyTorch, eager: AdamW in two groups, clipping, linear schedule."""
    import torch
    import transformers

    settings = transformers.BertConfig(**huggingface.to_config(config, huggingface.Details()))
    model = transformers.BertForPreTraining(settings).train()
    decayed = [p for name, p in model.named_parameters() if "LayerNorm" not in name and not name.endswith("bias")]
    rest = [p for name, p in model.named_parameters() if "LayerNorm" in name or name.endswith("bias")]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], 1e-4)
    rate = transformers.get_linear_schedule_with_warmup(adam, 100, 1000)
    labels = np.full(batch["input_ids"].shape, -100)
    np.put_along_axis(labels, batch["masked_positions"], batch["masked_labels"], axis=1)
    inputs = {
        "input_ids": torch.as_tensor(batch["input_ids"], dtype=torch.long),
        "token_type_ids": torch.as_tensor(batch["token_type_ids"], dtype=torch.long),
        "attention_mask": torch.as_tensor(batch["sequence_ids"], dtype=torch.long),
        "labels": torch.as_tensor(labels, dtype=torch.long),
        "next_sentence_label": torch.as_tensor(batch["pair_labels"][:, 0], dtype=torch.long),
    }

    def step() -> None:
        adam.zero_grad()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        rate.step()

    return step


def matmul_rate(size: int = 2048) -> Callable[[], float]:
    """Measures floating-point operations a second of a float32 matrix product."""
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(5):
            multiply(x, x).block_until_ready()
        return 5 * 2 * size**3 / (time.perf_counter() - began)

    return measure


def alternate(works: dict[str, Callable[[], Any]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Calls each work in turn for about so many seconds, several rounds: seconds of one call, for each round."""
    for work in works.values():
        work()
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - began < seconds:
                work()
                calls += 1
            found[name].append((time.perf_counter() - began) / calls)
    return found


def run(options: argparse.Namespace) -> None:
    """Prints tokens a second of both, their ratio, and ours as a share of the matrix product's rate."""
    rate = matmul_rate()
    for name, rows in CASES:
        if options.only not in ("", name):
            continue
        config = preset(name, hidden_dropout=options.dropout, attention_dropout=options.dropout)
        batch = make_batch(config, rows, 128)
        works: dict[str, Callable[[], Any]] = {"ours": our_step(config, batch), "matmul": rate}
        if not options.ours:
            works["theirs"] = their_step(config, batch)
        found = alternate(works, options.seconds, options.rounds)
        ours = statistics.median(found["ours"])
        peak = 5 * 2 * 2048**3 / statistics.median(found["matmul"])
        done = flops.training_step(config, batch) / ours
        print(
            f"{name} {rows}x128: {rows * 128 / ours:,.0f} tokens/s, {done / 1e9:.0f} GFLOP/s = {done / peak:.0%} of "
            f"{peak / 1e9:.0f}",
            end="",
        )
        if not options.ours:
            theirs = statistics.median(found["theirs"])
            print(f"; PyTorch {rows * 128 / theirs:,.0f} tokens/s, ratio {theirs / ours:.2f}", end="")
        print(flush=True)
