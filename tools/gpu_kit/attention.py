"""Fused attention next to the explicit path: hidden states and gradients of an encoder with two layers.

Its first layer attends to the whole sequence, by the kernel; the second one to a window, in chunks. Positions are
rotary. The reference is the explicit path over whole rows in float32, with float32 matrix products. A kernel may be as
far from it as the explicit path in the kernel's own number format, and half as far again.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import fused
from bert_jax.config import BertConfig, Compute
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.model import Bert

LENGTHS = (80, 512, 1024)
ROWS = 4
SEQUENCES = 5  # in a packed row
CONFIG = BertConfig(
    vocab_size=1000,
    hidden_size=256,
    num_layers=2,
    num_heads=4,
    intermediate_size=512,
    max_position_embeddings=max(LENGTHS),
    hidden_dropout=0.0,
    attention_dropout=0.0,
    positions="rotary",
    local_attention=128,
    global_every=2,
)
# Name of a way to compute, its fields, and the precision of matrix products (None = the default of JAX).
WAYS: dict[str, tuple[dict[str, str], str | None]] = {
    "reference": ({}, "highest"),
    "explicit, float32": ({}, None),
    "explicit, bfloat16": ({"dtype": "bfloat16"}, None),
    "cudnn, bfloat16": ({"dtype": "bfloat16", "attention": "cudnn"}, None),
    "pallas, bfloat16": ({"dtype": "bfloat16", "attention": "pallas"}, None),
    "pallas, float32": ({"attention": "pallas"}, None),
}
TOLERANCE = 1.5  # times the error of the explicit path
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-3}  # where the explicit path happens to be nearly exact

Result = dict[str, np.ndarray]


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Compares every kernel with the explicit path, for packed and for padded rows of several lengths."""
    lengths = (128,) if options.toy else LENGTHS
    ways = [way for way in WAYS if not (options.toy and way.startswith("cudnn"))]
    work = [
        (length, way)
        for length, way in itertools.product(lengths, ways)
        if not way.startswith("pallas") or fused.fits(length)
    ]
    results: dict[tuple[int, str], Any] = {}
    with ThreadPoolExecutor(8) as pool:  # programs are compiled side by side
        waiting = {pool.submit(outcomes, *item): item for item in work}
        for future in as_completed(waiting):
            error = future.exception()
            results[waiting[future]] = f"{type(error).__name__}: {error}"[:2000] if error else future.result()
            print(waiting[future], error or "done", flush=True)
            save({"checks": checks(results)})


def checks(results: dict[tuple[int, str], Any]) -> list[dict[str, Any]]:
    """Returns a check for each kernel and layout whose results, and those it is compared with, are there."""
    made = []
    for (length, way), result in results.items():
        kernel, _, dtype = way.partition(", ")
        others = [results.get((length, other)) for other in ("reference", f"explicit, {dtype}")]
        if isinstance(result, str):
            made.append({"name": f"{way}, {length} tokens", "passed": False, "error": result})
        elif kernel in ("cudnn", "pallas") and all(isinstance(other, dict) for other in others):
            for layout, values in result.items():
                reference, explicit = (other[layout] for other in others)
                errors, allowed = differences(values, reference), differences(explicit, reference)
                made.append(
                    {
                        "name": f"{way}, {length} tokens, {layout}",
                        "passed": all(errors[n] <= TOLERANCE * allowed[n] + ROUNDING[dtype] for n in errors),
                        "errors": errors,
                        "of_explicit": allowed,
                    }
                )
    return made


def packed(length: int) -> Arrays:
    """Rows of several sequences of random lengths; the rest of each row is padding, except in the last row."""
    rng = np.random.default_rng(length)
    ids = np.zeros((ROWS, length), np.int32)
    for row in ids:
        ends = np.sort(rng.choice(np.arange(2, length), SEQUENCES - 1, replace=False))
        for number, (start, end) in enumerate(itertools.pairwise([0, *ends]), 1):
            row[start:end] = number
    ids[-1, ends[-1] :] = SEQUENCES
    return make_batch(rng.integers(5, CONFIG.vocab_size, ids.shape, dtype=np.int32), sequence_ids=ids)


def padded(length: int) -> Arrays:
    """Rows of one sequence of random length each; the last row has no padding."""
    rng = np.random.default_rng(length)
    sizes = np.append(rng.integers(2, length, ROWS - 1), length)
    ids = (np.arange(length) < sizes[:, None]).astype(np.int32)
    return make_batch(rng.integers(5, CONFIG.vocab_size, ids.shape, dtype=np.int32), sequence_ids=ids)


LAYOUTS = {"packed": packed, "padded": padded}


def outcomes(length: int, way: str) -> dict[str, Result]:
    """Returns for each layout the hidden states of real tokens, and the gradient of the attention's parameters."""
    fields, precision = WAYS[way]
    model = Bert(CONFIG, Compute(**fields))  # type: ignore[arg-type]
    weights = np.random.default_rng(1).normal(size=(ROWS, length, CONFIG.hidden_size)).astype(np.float32)

    def value(params: Any, batch: Any) -> Any:
        real = (batch["sequence_ids"] > 0)[:, :, None]
        # With intermediates, the window too is computed over whole rows.
        collections = ["intermediates"] if way == "reference" else []
        x_BTD, _ = model.apply(params, batch, mutable=collections)
        x_BTD = jnp.where(real, x_BTD.astype(jnp.float32), 0)
        return jnp.sum(x_BTD * weights), x_BTD

    with jax.default_matmul_precision(precision):
        params = parameters()
        function = jax.jit(jax.value_and_grad(value, has_aux=True))
        results = {}
        for layout, make in LAYOUTS.items():
            batch = make(length)
            if "cudnn" not in way:  # the other ways do not read it, and then both layouts share a program
                batch["cls_positions"] = np.zeros((ROWS, SEQUENCES), np.int32)
            (_, x_BTD), grads = function(params, batch)
            layers = [grads["params"][f"blocks_{layer}"]["attention"] for layer in range(CONFIG.num_layers)]
            flat = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(layers)]
            results[layout] = {"values": np.asarray(x_BTD, np.float64), "gradients": np.concatenate(flat)}
    return results


def parameters() -> Any:
    """Returns random parameters, large enough that attention is far from uniform."""
    batch = make_batch(np.zeros((1, 2), np.int32))
    shapes = jax.eval_shape(Bert(CONFIG).init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(1 if leaf.ndim == 1 else 0, 0.1, leaf.shape).astype(np.float32), shapes)


def differences(actual: Result, expected: Result) -> dict[str, float]:
    """Returns the norm of each difference, divided by that of what is expected; not a number fails every comparison."""
    return {
        name: float(np.linalg.norm(actual[name] - expected[name]) / np.linalg.norm(expected[name])) for name in expected
    }
