"""Pre-training steps here and in PyTorch's `transformers`: the same sizes, the same batch, in turn."""

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from bert_jax import flops
from bert_jax.config import AdamW, BertConfig, Compute, Optimizer, Pretraining, preset, recipe
from bert_jax.data.batch import make_batch
from bert_jax.devices import Devices, WrappedStep
from bert_jax.interop import huggingface
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState, train_step


class Case(NamedTuple):
    """One size to measure, and the aims."""

    preset: str
    rows: int
    length: int
    dropout: float
    ratio: float  # times PyTorch's speed
    share: float  # of the matrix product's rate


FAST = "fast"  # the recipe's model and optimizer; no class of transformers has this model
CPU = [
    Case("bert-tiny", 64, 128, 0.1, 8, 0.55),
    Case("bert-mini", 32, 128, 0.1, 5, 0.65),
    Case("bert-base", 8, 128, 0.1, 2.5, 0.80),
    Case("ettin-17m", 16, 128, 0.0, 5, 0.65),
    Case(FAST, 32, 64, 0.0, 0, 0.55),
]
COMPILED, KERAS, BFLOAT16 = "PyTorch, torch.compile", "keras-hub", "PyTorch, bfloat16"
AIMS = {COMPILED: 1.5, KERAS: 2.0}
ROOFLINE = 0.8  # of the bound by memory and products: the aim
# 32,768 tokens a step for bert-base and 16,384 for bert-large. The most telling ones come first, because tools/gpu.py
# measures as many as its time allows.
GPU = [
    Case(name, (32768 if name == "bert-base" else 16384) // length, length, dropout, 1.5, 0.45 if dropout else 0.60)
    for name, length, dropout in (
        ("bert-base", 512, 0.0),
        ("bert-base", 128, 0.1),
        ("bert-large", 512, 0.0),
        ("bert-base", 512, 0.1),
        ("bert-base", 1024, 0.0),
        ("bert-large", 128, 0.1),
        ("bert-large", 1024, 0.0),
        ("bert-base", 128, 0.0),
        ("bert-large", 512, 0.1),
        ("bert-large", 128, 0.0),
        ("bert-base", 1024, 0.1),
        ("bert-large", 1024, 0.1),
    )
]
STEPS = 4  # on a GPU, between two waits for the device: `bert_jax train` does not wait for every step either


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--only", default="", help="one preset")
    parser.add_argument("--toy", action="store_true", help="the GPU's cases with a toy model: does it run?")
    parser.add_argument("--without-torch", action="store_true", help="measure bert_jax alone")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures the cases of this machine's kind; returns a result for each."""
    gpu = jax.default_backend() == "gpu" or options.toy
    cases = GPU if gpu else CPU
    print(f"\n{timing.HEADER}", flush=True)
    return [measure(case, options, gpu) for case in cases if options.only in ("", case.preset)]


def measure(case: Case, options: argparse.Namespace, gpu: bool) -> dict[str, Any]:
    """Measures one case."""
    case, config, compute = of_case(case, gpu, options.toy)
    batch = random_batch(config, case.rows, case.length)
    sides = works_of(config, compute, batch, gpu)
    works: dict[str, Any] = {timing.OURS: sides["ours"]}
    if case.preset == FAST:
        works[timing.OURS] = (*sides["ours"], fields_of(config), recipe(FAST).optimizer)
    elif not options.without_torch:
        works["PyTorch"] = sides["theirs"]
    if "PyTorch" in works and not gpu:
        works[COMPILED] = (their_step, config, batch, gpu, 1, "compile")
        if "avx512_bf16" in processor_flags():
            works[BFLOAT16] = (their_step, config, batch, gpu, 1, "bfloat16")
    if config.family == "bert" and importlib.util.find_spec("keras_hub"):
        works[KERAS] = (keras_step, config, compute, batch)
    machine = {"product": (matmul, compute.dtype), "copy": (copy,)}
    speeds = timing.alternate(works | machine, optional=[COMPILED, BFLOAT16, KERAS])
    product, bandwidth = speeds.pop("product").median, speeds.pop("copy").median
    per_token = flops.training_step(config, batch, read=fields_of(config).read(config)) / batch["input_ids"].size
    accessed = bytes_accessed(works[timing.OURS], batch) / batch["input_ids"].size
    rate, bound = speeds[timing.OURS].median, 1 / max(per_token / product, accessed / bandwidth)
    shares = {"a product's rate": rate * per_token / product, "the roofline's bound": rate / bound}
    aims = {"PyTorch": case.ratio, **AIMS, "a product's rate": case.share, "the roofline's bound": ROOFLINE}
    dropout = f", dropout {case.dropout}" if gpu else ""
    result = timing.result(f"{case.preset} {case.rows}x{case.length}{dropout}", "tokens/s", speeds, aims, shares)
    return result | {
        "flops_per_token": per_token,
        "bytes_per_token": accessed,
        "product_flops_per_second": product,
        "copied_bytes_per_second": bandwidth,
    }


def processor_flags() -> list[str]:
    """Returns the names of what the processor can do, as Linux lists them; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])


def of_case(case: Case, gpu: bool, toy: bool) -> tuple[Case, BertConfig, Compute]:
    """Returns a case, its model and how that is computed; with `toy`, a tiny model and batch."""
    changes: dict[str, Any] = {"hidden_dropout": case.dropout, "attention_dropout": case.dropout}
    changes["max_position_embeddings"] = max(512, case.length)
    compute = Compute(dtype="bfloat16") if gpu else Compute()
    if gpu and not case.dropout:
        compute = replace(compute, attention="pallas" if toy else "cudnn")
    if toy:
        changes |= {"num_layers": 1, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "vocab_size": 1000}
        case = case._replace(rows=2)
    if case.preset == FAST:
        return case, replace(cast(BertConfig, recipe(FAST).model), vocab_size=8192), compute
    return case, preset(case.preset, **changes), compute


def fields_of(config: BertConfig) -> Pretraining:
    """Returns the pre-training that a model was made for: with sentence pairs, or masked tokens alone."""
    return Pretraining(pairs="nsp" if config.type_vocab_size else "none")


def works_of(config: BertConfig, compute: Compute, batch: dict[str, np.ndarray], gpu: bool) -> dict[str, Any]:
    """Returns the works of bert_jax ("ours") and of PyTorch ("theirs"), as `timing.alternate` takes them."""
    steps = STEPS if gpu else 1
    return {"ours": (our_step, config, compute, batch, steps), "theirs": (their_step, config, batch, gpu, steps)}


def random_batch(config: BertConfig, rows: int, length: int) -> dict[str, np.ndarray]:
    """Returns a batch of random tokens without padding for MLM and NSP; 20 of 128 are masked, as in BERT's own data."""
    rng = np.random.default_rng(0)
    predictions = 20 * length // 128
    columns = np.tile(np.arange(1, length), (rows, 1))
    return make_batch(
        rng.integers(5, config.vocab_size, (rows, length), dtype=np.int32),
        token_type_ids=np.tile(np.arange(length) >= length // 2, (rows, 1)).astype(np.int32),
        masked_positions=np.sort(rng.permuted(columns, axis=1)[:, :predictions], axis=1).astype(np.int32),
        masked_labels=rng.integers(5, config.vocab_size, (rows, predictions), dtype=np.int32),
        masked_weights=np.ones((rows, predictions), np.float32),
        pair_labels=rng.integers(0, 2, (rows, 1), dtype=np.int32),
        pair_weights=np.ones((rows, 1), np.float32),
    )


def our_step(
    config: BertConfig,
    compute: Compute,
    batch: dict[str, np.ndarray],
    steps: int = 1,
    fields: Pretraining | None = None,
    chosen: Optimizer | None = None,
) -> Callable[[], int]:
    """Returns `steps` steps as `bert_jax train` takes them; the first call compiles."""
    start, compiled, devices = _our_parts(config, compute, batch, fields, chosen)
    state = devices.make(start)

    def step() -> int:
        nonlocal state
        for _ in range(steps):
            state, sums = compiled(state, batch)
        jax.block_until_ready(sums)
        return steps * batch["input_ids"].size

    return step


def _our_parts(
    config: BertConfig,
    compute: Compute,
    batch: dict[str, np.ndarray],
    fields: Pretraining | None = None,
    chosen: Optimizer | None = None,
) -> tuple[Callable[[], TrainState], WrappedStep, Devices]:
    """Returns what makes the first state, the step, and the devices of both."""
    task = PretrainingTask(fields or fields_of(config), config, None, compute)  # type: ignore[arg-type]
    devices = Devices("single", len(batch["input_ids"]))
    change = optimizer.make(chosen or AdamW(), 1000, config)

    def start() -> TrainState:
        params = task.model.init(jax.random.key(0), jax.tree.map(lambda x: x[:1, :1], batch))["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, change.init(params), jax.random.key(0), change)

    return start, devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts), devices


def bytes_accessed(work: tuple[Any, ...], batch: dict[str, np.ndarray]) -> float:
    """Returns the bytes that a step of bert_jax reads and writes, as XLA counts them in the compiled program.

    Each operation of the program counts, also where a cache holds what it reads.

    Args:
      work: `our_step` and its arguments.
    """
    _, config, compute, _, _, *more = work
    start, compiled, devices = _our_parts(config, compute, batch, *more)
    program = compiled.trace(devices.shapes(jax.eval_shape(start)), batch).lower().compile()
    return float(program.cost_analysis()["bytes accessed"])


def their_step(
    config: BertConfig, batch: dict[str, np.ndarray], gpu: bool, steps: int = 1, way: str = ""
) -> Callable[[], int]:
    """The same with PyTorch: eager in float32 on a CPU; compiled, with SDPA and bfloat16 autocast, on a GPU.

    Args:
      way: on a CPU, "compile" for `torch.compile`, "bfloat16" for autocast.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_model(config).to(device)
    adam, rate = torch_optimizer(model, 1e-4, 1000, fused=device == "cuda")
    inputs = torch_inputs(batch, device, pairs=bool(config.type_vocab_size))
    forward = torch.compile(model) if device == "cuda" or way == "compile" else model

    def step() -> int:
        for _ in range(steps):
            adam.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=gpu or way == "bfloat16"):
                loss = forward(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            rate.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return steps * batch["input_ids"].size

    return step


def torch_model(config: BertConfig) -> Any:
    """Returns the model of `transformers` for masked tokens, and for pairs if it has them, with random weights."""
    import transformers

    details = huggingface.Details(architecture="ForPreTraining" if config.type_vocab_size else "ForMaskedLM")
    written = huggingface.to_config(config, details) | {"dtype": "float32"}
    settings = transformers.AutoConfig.for_model(**written, attn_implementation="sdpa")
    return getattr(transformers, written["architectures"][0])(settings).train()


def torch_inputs(batch: dict[str, np.ndarray], device: str = "cpu", pairs: bool = True) -> dict[str, Any]:
    """Returns a batch for MLM, and NSP if there are pairs, as keyword arguments of a model of `transformers`."""
    import torch

    labels = np.full(batch["input_ids"].shape, -100)
    rows, slots = np.nonzero(batch["masked_weights"])
    labels[rows, batch["masked_positions"][rows, slots]] = batch["masked_labels"][rows, slots]
    arrays = {
        "input_ids": batch["input_ids"],
        "token_type_ids": batch["token_type_ids"],
        "attention_mask": batch["sequence_ids"],
        "labels": labels,
        "next_sentence_label": batch["pair_labels"][:, 0],
    }
    if not pairs:
        del arrays["token_type_ids"], arrays["next_sentence_label"]
    return {name: torch.as_tensor(array, dtype=torch.long, device=device) for name, array in arrays.items()}


def keras_step(config: BertConfig, compute: Compute, batch: dict[str, np.ndarray]) -> Callable[[], int]:
    """Returns the same step with keras-hub on its JAX backend, which has no sentence pairs."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # type: ignore[import-not-found]
    import keras_hub  # type: ignore[import-not-found]

    if compute.dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        dropout=config.hidden_dropout,
        max_sequence_length=config.max_position_embeddings,
    )
    model = keras_hub.models.BertMaskedLM(backbone)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.01, global_clipnorm=1.0), loss, jit_compile=True)
    inputs = {
        "token_ids": batch["input_ids"],
        "segment_ids": batch["token_type_ids"],
        "padding_mask": batch["sequence_ids"],
        "mask_positions": batch["masked_positions"],
    }

    def step() -> int:
        model.train_on_batch(inputs, batch["masked_labels"])
        return batch["input_ids"].size

    return step


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Returns groups for torch's AdamW in which biases and LayerNorm do not decay."""

    def decays(name: str) -> bool:
        return "LayerNorm" not in name and not name.endswith("bias")

    return [
        {"params": [p for name, p in model.named_parameters() if decays(name) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, weight_decay), (False, 0.0))
    ]


def torch_optimizer(model: Any, learning_rate: float, steps: int, fused: bool = False) -> tuple[Any, Any]:
    """AdamW and a linear schedule, as people write it; `fused` is the faster AdamW that the Trainer uses."""
    import torch
    import transformers

    adam = torch.optim.AdamW(decay_groups(model, 0.01), learning_rate, fused=fused or None)
    return adam, transformers.get_linear_schedule_with_warmup(adam, steps // 10, steps)


def matmul(dtype: str) -> Callable[[], float]:
    """Returns matrix products of a size that suits a processor; each call returns their floating-point operations.

    The numbers are random, because a GPU multiplies constant ones faster.
    """
    size, count = (8192, 10) if jax.default_backend() == "gpu" else (2048, 1)
    x, y = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    multiply = jax.jit(jnp.matmul)

    def work() -> float:
        jax.block_until_ready([multiply(x, y) for _ in range(count)])
        return count * 2.0 * size**3

    return work


def copy() -> Callable[[], float]:
    """Returns copies of a large array; each call returns the bytes that are read and written."""
    x = jnp.ones((256 if jax.default_backend() == "gpu" else 64, 1024, 1024), jnp.float32)
    add = jax.jit(lambda x: x + 1)

    def work() -> float:
        nonlocal x
        x = jax.block_until_ready(add(x))
        return 2.0 * x.nbytes

    return work
