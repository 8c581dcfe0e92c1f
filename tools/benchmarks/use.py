"""Fine-tuning, inference and starting: bert_jax and the loops people write with PyTorch and `transformers`.

Without --model, the model has MiniLM's size (6 layers of 384) and random weights; without --texts, the sentences are
cut from the documentation of installed packages to the lengths of SST-2 (13 tokens on average).
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bert_jax
from benchmarks import timing
from benchmarks.training import torch_optimizer
from bert_jax import pretrained, samples, tasks
from bert_jax.config import AdamW, BertConfig, SequenceClassification
from bert_jax.data import rows as data_rows
from bert_jax.data.batch import make_batch
from bert_jax.data.batches import prefetch
from bert_jax.devices import Devices
from bert_jax.heads import BertForSequenceClassification
from bert_jax.interop import huggingface
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState, train_step

MINILM = BertConfig(30522, 384, 6, 12, 1536)
BATCH = 32
SENTENCES = 1000
FUSED = "PyTorch, fused AdamW"
FIRST_STEP = """
import time
began = time.perf_counter()
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks import training
from bert_jax.config import Compute, preset
config = preset("bert-tiny")
training.our_step(config, Compute(), training.random_batch(config, 64, 128))()
print(time.perf_counter() - began)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with an encoder, such as MiniLM's")
    parser.add_argument("--texts", help="rows with text and label, such as SST-2's train.jsonl.gz")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures all three."""
    print(f"\n{timing.HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or write_model(Path(temporary) / "model")
        texts = options.texts or write_texts(Path(temporary) / "texts.jsonl")
        return [fine_tuning(folder, texts), inference(folder, texts), start()]


@cache
def documentation() -> list[str]:
    """Returns bert_jax's sample texts."""
    return [document.text for document in samples.documents()]


def write_model(folder: Path) -> Path:
    """Writes a folder like those of `transformers`, with random weights and the commonest words as vocabulary."""
    counts = Counter(word for text in documentation() for word in text.lower().split())
    letters = sorted({letter for word in counts for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word, _ in counts.most_common() if len(word) > 1][: MINILM.vocab_size - len(pieces)]
    config = BertConfig(len(pieces), 384, 6, 12, 1536)
    batch = make_batch(np.zeros((1, 1), np.int32))
    params = BertForSequenceClassification(config, 2).init(jax.random.key(0), batch)["params"]
    huggingface.write(folder, config, params)
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    return folder


def write_texts(path: Path, count: int = 10_000) -> str:
    """Writes rows of sentences of 1 to 40 words, 10 on average, with arbitrary labels."""
    rng = np.random.default_rng(0)
    words: Iterator[str] = itertools.chain.from_iterable(text.split() for text in documentation())
    lengths = np.clip(rng.gamma(2.0, 5.0, count).astype(int), 1, 40)
    with path.open("w", encoding="utf-8") as file:
        for length in lengths.tolist():
            text = " ".join(itertools.islice(words, length))
            file.write(json.dumps({"text": text, "label": str(len(text) % 2)}) + "\n")
    return str(path)


def fine_tuning(folder: Path, texts: str) -> dict[str, Any]:
    """Measures real tokens a second of batches of 32: packed rows here, rows padded to the longest of a batch there."""
    works = {
        timing.OURS: (our_steps, folder, texts),
        "PyTorch": (their_steps, folder, texts),
        FUSED: (their_steps, folder, texts, True),
    }
    return timing.result("fine-tuning, 32 short texts a step", "real tokens/s", timing.alternate(works), {FUSED: 7})


def our_steps(folder: Path, texts: str, frozen_layers: int | None = None) -> Callable[[], int]:
    """Returns steps as `bert_jax train` takes them: batches are made ahead, a step's figures are read during the next.

    Twenty steps are taken before, which compile.
    """
    source = pretrained.open_source(str(folder))
    task = tasks.resolve(SequenceClassification(train=texts, packing=True), source.config, source.tokenizer)
    devices = Devices("single", BATCH)
    chosen = AdamW(learning_rate=3e-5, frozen_layers=frozen_layers)
    change = optimizer.make(chosen, 1000, source.config)
    params = task.model.init(jax.random.key(0), task.dummy_batch())["params"]
    params, _ = pretrained.fit(params, source)
    state = TrainState(jax.numpy.zeros((), np.int32), params, change.init(params), jax.random.key(0), change)
    frozen = optimizer.frozen(params, chosen, source.config)
    compiled = devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts, frozen=frozen)
    batches = prefetch(task.train_batches(batch_size=BATCH, steps=100_000, seed=0), 0, 100_000)
    before: dict[str, Any] = {}

    def step() -> int:
        nonlocal state, before
        batch = next(batches)
        state, sums = compiled(state, batch)
        jax.block_until_ready(before)
        before = sums
        return int((batch["sequence_ids"] > 0).sum())

    for _ in range(20):
        step()
    return step


def their_steps(folder: Path, texts: str, fused: bool = False) -> Callable[[], int]:
    """Returns the loop of `transformers`' examples: dynamic padding, AdamW, clipping, linear schedule.

    Args:
      fused: with the AdamW of one pass, the default of the Trainer of `transformers`.
    """
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).train()
    rows = list(data_rows.read_rows(texts))
    ids = tokenizer([row.values["text"] for row in rows], truncation=True, max_length=128)["input_ids"]
    labels = [int(row.values["label"]) for row in rows]
    order = itertools.cycle(np.random.default_rng(0).permutation(len(rows)).tolist())
    adam, rate = torch_optimizer(model, 3e-5, 1000, fused)

    def step() -> int:
        chosen = list(itertools.islice(order, BATCH))
        batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        adam.zero_grad()
        model(**batch, labels=torch.tensor([labels[i] for i in chosen])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        rate.step()
        return int(batch["attention_mask"].sum())

    return step


def inference(folder: Path, texts: str) -> dict[str, Any]:
    """Measures mean vectors of 1,000 sentences, sorted by length in both, from text to array."""
    sentences = [row.values["text"] for row in itertools.islice(data_rows.read_rows(texts), SENTENCES)]
    np.testing.assert_allclose(our_means(folder, sentences)(), their_means(folder, sentences)(), atol=1e-4)
    works = {timing.OURS: our_means, "PyTorch": their_means}
    speeds = timing.alternate({name: (encoding, means, folder, sentences) for name, means in works.items()})
    return timing.result("inference, mean vectors of 1,000 sentences", "sentences/s", speeds, {"PyTorch": 2})


def our_means(folder: Path, sentences: list[str]) -> Callable[[], np.ndarray]:
    """Returns a function that computes mean vectors with `bert_jax.load`."""
    bert = bert_jax.load(folder)
    return lambda: bert.encode(sentences).mean


def their_means(folder: Path, sentences: list[str]) -> Callable[[], np.ndarray]:
    """Returns a function that computes them as people do with `transformers`."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def means() -> np.ndarray:
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        vectors = np.zeros((len(sentences), model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = tokenizer([sentences[i] for i in chosen], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            weights = batch["attention_mask"][:, :, None]
            vectors[chosen] = ((hidden * weights).sum(1) / weights.sum(1)).numpy()
        return vectors

    return means


def encoding(means: Callable[..., Callable[[], np.ndarray]], folder: Path, sentences: list[str]) -> Callable[[], int]:
    """Returns the same as a work, which returns its number of sentences."""
    compute = means(folder, sentences)
    return lambda: len(compute())


def start() -> dict[str, Any]:
    """Measures seconds from the interpreter's first line to the end of the first step, with a compilation cache."""
    command = [sys.executable, "-c", FIRST_STEP, str(Path(__file__).parents[1])]
    seconds = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(4)]
    work, (least, median, most) = "import and first step of bert-tiny", sorted(seconds[1:])
    print(f"| {work} | {timing.OURS} | {median:.2f} ({least:.2f} to {most:.2f}) seconds | | 2 |", flush=True)
    return {"work": work, "unit": "seconds", "seconds": seconds[1:], "wanted": 2}
