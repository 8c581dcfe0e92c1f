"""A strict environment for tests: eight fake devices, no implicit promotion of ranks or dtypes, no network."""

import functools
import gc
import json
import os
import socket
from pathlib import Path
from types import ModuleType

# Compiling takes most of the tests' time. Programs for tiny models need no optimization. To generate their code in one
# part takes a third less CPU time than in several, and the tests use all cores anyway.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Programs compiled by one test, or by one run of the tests, are reused by the next.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import numpy as np
import optax
import pytest
from flax.linen import normalization

from bert_jax import tokenizers
from bert_jax.data.prepare import prepare
from helpers.corpora import NAMES, WORDS, texts

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def let_promote(module: ModuleType, name: str) -> None:
    """Lets one function of a library promote dtypes, which bert_jax itself may not."""
    function = getattr(module, name)

    @functools.wraps(function)
    def promoting(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    setattr(module, name, promoting)


let_promote(optax.tree, "bias_correction")  # decay ** count, a float and an int32
let_promote(normalization, "_compute_stats")  # of bfloat16 in float32
let_promote(normalization, "_normalize")
let_promote(jax.nn, "dot_product_attention")


def pytest_collection_finish() -> None:
    """Searches for garbage less often, and never in what was imported: JAX makes many objects, most of which stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


_connect = socket.socket.connect


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection that leaves this machine fails the test that made it."""

    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return _connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A tokenizer, a token store, and labelled rows whose label is a word in them."""
    folder = tmp_path_factory.mktemp("data")
    tokenizers.train("wordpiece", texts(200), 80).save(folder / "tokenizer")
    (folder / "corpus.txt").write_text("\n\n".join(texts(200)))
    prepare([str(folder / "corpus.txt")], folder / "tokenizer", folder / "store")
    for name, seed in (("train", 1), ("dev", 2)):
        rng = np.random.default_rng(seed)
        rows = [{"text": " ".join(rng.choice(WORDS, 5)), "label": ["no", "yes"][n % 2]} for n in range(64)]
        for row in rows:
            row["text"] += " cat" if row["label"] == "yes" else " dog"
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    """A cased WordPiece tokenizer trained on the words of NAMES."""
    rng = np.random.default_rng(0)
    return tokenizers.train("wordpiece", [" ".join(rng.choice(NAMES, 8)) for _ in range(100)], 70)
