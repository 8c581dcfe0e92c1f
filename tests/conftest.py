"""A strict place to test in: eight fake devices, no silent broadcasting of ranks, no network."""

import json
import os
import socket
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# What one test, or one run of the tests, compiled is there for the next one.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import numpy as np
import pytest

from bert_jax import tokenizers
from bert_jax.data.prepare import prepare
from helpers.corpora import NAMES, WORDS, texts

jax.config.update("jax_numpy_rank_promotion", "raise")

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
    """WordPiece, cased, whose vocabulary holds the words of NAMES and their parts."""
    rng = np.random.default_rng(0)
    return tokenizers.train("wordpiece", [" ".join(rng.choice(NAMES, 8)) for _ in range(100)], 70)
