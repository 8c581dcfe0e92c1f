"""Preparing text against the bare tokenizer, memory, disk, and batches against Hugging Face's collator."""

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import tokenizers
from bert_jax.config import Pretraining
from bert_jax.data import corpus
from bert_jax.data.examples import PretrainingBatches
from bert_jax.data.store import ARRAYS, TokenStore

VOCAB_SIZE = 16_000
BATCH_SIZE = 1024
LENGTH = 128
# Megabytes (None is --megabytes), number of worker processes, and number of measurements: fewer where it is slow.
PREPARED: dict[str, list[tuple[int | None, int, int]]] = {
    "wordpiece": [(10, 1, 3), (None, 1, 1), (None, 2, 1)],
    "sentencepiece": [(10, 1, 5), (None, 1, 3), (None, 2, 3)],
}
KINDS: dict[str, dict] = {
    "plain": {},
    "whole-word masking": {"mask_unit": "word"},
    "n-gram masking": {"mask_unit": "ngram"},
    "pairs: nsp": {"pairs": "nsp"},
    "pairs: sop": {"pairs": "sop"},
    "packed": {"packing": "packed"},
    "packed, nsp": {"packing": "packed", "pairs": "nsp"},
    "concatenated": {"packing": "concatenated"},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--corpus", nargs="+", default=[], help="text; without it, the Python files of this machine")
    parser.add_argument("--megabytes", type=int, default=130, help="how much of the text is prepared")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures preparing and batches."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # speeds are per process
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpora(options.corpus, folder, [10, options.megabytes])
        results = measure_preparing(folder, options.megabytes)
        return results + measure_batches(TokenStore.open(folder / f"sentencepiece-{options.megabytes}-1"))


def own_text() -> Iterator[str]:
    """Yields the Python files of the running interpreter and its packages, again and again."""
    files = sorted(Path(os.__file__).parent.rglob("*.py"))
    for file in itertools.cycle(files):
        text = file.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
        if text.strip():
            yield text


def write_corpora(sources: list[str], folder: Path, sizes: list[int]) -> None:
    """Writes the first `size` megabytes of the text as <size>.jsonl."""
    for size in sizes:
        written = 0
        with open(folder / f"{size}.jsonl", "w", encoding="utf-8") as file:
            for text in corpus.documents(sources) if sources else own_text():
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                if written >= size * 1_000_000:
                    break
        print(f"{size}.jsonl: {written / 1e6:.0f} MB of text")


def measure_preparing(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    """Prints speed against the bare tokenizer, peak memory and bytes on disk, and returns them.

    The fixed cost of a preparation (interpreters, imports, the tokenizer) is measured on one document and has a column
    of its own.
    """
    (folder / "one.jsonl").write_text('{"text": "One document."}\n')
    sample = corpus.sample(corpus.documents([str(folder / "10.jsonl")]), 3_000_000, seed=0)
    row = "{:14} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>13} {:>11}"
    print(
        "\nbare, prepare: MB of text per second of processor time; start: seconds of it before that; "
        "wall: MB per second, start included; memory: MB, reader + workers\n"
    )
    columns = ("tokenizer", "text", "workers", "bare", "prepare", "of bare", "start", "wall", "memory", "bytes/token")
    print(row.format(*columns))
    results = []
    for kind, runs in PREPARED.items():
        tokenizers.train(kind, sample, VOCAB_SIZE).save(folder / kind)  # type: ignore[arg-type]
        for size, workers, rounds in ((size or megabytes, workers, rounds) for size, workers, rounds in runs):
            r = preparing(folder, kind, size, workers, rounds)
            memory = f"{r['reader']:.0f}" + (f" + {workers} x {r['worker']:.0f}" if workers > 1 else "")
            figures = [f"{r['bare']:.1f}", f"{r['prepare']:.1f}", f"{r['of_bare']:.2f}", f"{r['start']:.2f}"]
            figures += [f"{r['wall']:.1f}", memory, f"{r['bytes_per_token']:.3f}"]
            print(row.format(kind, f"{size} MB", workers, *figures), flush=True)
            results.append({"work": f"prepare, {kind}, {size} MB, {workers} workers", "unit": "MB/s", **r})
    return results


def preparing(folder: Path, kind: str, size: int, workers: int, rounds: int) -> dict[str, float]:
    """Measures the preparation of one corpus.

    Bare tokenizer and preparation alternate, each in processes of its own, because machines change their speed from
    minute to minute; the ratio is the median over the rounds. Two workers are compared with two bare tokenizers at the
    same time, because cores share memory, and often more.
    """
    source, out = folder / f"{size}.jsonl", folder / f"{kind}-{size}-{workers}"
    bare, starts, prepared = [], [], []
    for _ in range(rounds):
        bare.append(run_bare(source, folder / kind, workers))
        for name, results in (("one", starts), (str(size), prepared)):
            shutil.rmtree(out, ignore_errors=True)
            results.append(prepare_apart(folder / f"{name}.jsonl", folder / kind, out, workers))
    start = statistics.median(result["processor"] for result in starts)
    speeds = [result["bytes"] / 1e6 / (result["processor"] - start) for result in prepared]
    last = prepared[-1]
    return {
        "bare": statistics.median(bare),
        "prepare": statistics.median(speeds),
        "of_bare": statistics.median(speed / of_bare for speed, of_bare in zip(speeds, bare, strict=True)),
        "start": start,
        "wall": statistics.median(result["bytes"] / 1e6 / result["seconds"] for result in prepared),
        "reader": last["reader"],
        "worker": last["worker"],
        "bytes_per_token": sum((out / f"{name}.bin").stat().st_size for name in ARRAYS) / last["tokens"],
    }


def run_bare(source: Path, tokenizer: Path, processes: int) -> float:
    """Tokenises all sentences of a text in each of N processes at once; returns MB per second."""
    program = """
import json, sys, time
from bert_jax import tokenizers
from bert_jax.data import corpus
from bert_jax.data.encode import SENTENCES_AT_ONCE
from bert_jax.data.prepare import Cursor, read_chunks
source, tokenizer = corpus.find_files(sys.argv[1:2]), tokenizers.load(sys.argv[2])
size = seconds = 0
for texts, _ in read_chunks(source, Cursor(0, 0, 0)):
    size += sum(len(text.encode()) for text in texts)
    sentences = [sentence for text in texts for sentence in corpus.sentences(text)]
    before = time.process_time()
    for start in range(0, len(sentences), SENTENCES_AT_ONCE):
        tokenizer.encode_ids(sentences[start : start + SENTENCES_AT_ONCE])
    seconds += time.process_time() - before
print(json.dumps([size, seconds]))
"""
    command = [sys.executable, "-c", program, str(source), str(tokenizer)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    results = [json.loads(process.communicate()[0]) for process in running]
    return sum(size for size, _ in results) / 1e6 / sum(seconds for _, seconds in results)


def prepare_apart(source: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, float]:
    """Prepares a store in a process of its own and returns its figures."""
    program = """
import json, resource, sys, time
from bert_jax.data.prepare import prepare
if __name__ == "__main__":
    source, tokenizer, out, workers = sys.argv[1:]
    start, before = time.perf_counter(), time.process_time()
    summary = prepare([source], tokenizer, out, workers=int(workers))["summary"]
    seconds, processor = time.perf_counter() - start, time.process_time() - before
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor += children.ru_utime + children.ru_stime
    figures = {"seconds": seconds, "processor": processor, "reader": peak / 1e3, "worker": children.ru_maxrss / 1e3}
    print(json.dumps(summary | figures))
"""
    command = [sys.executable, "-c", program, str(source), str(tokenizer), str(out), str(workers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_batches(store: TokenStore) -> list[dict[str, Any]]:
    """Measures sequences per second of every kind of example and of Hugging Face's collator, one thread each."""
    results: list[dict[str, Any]] = []
    tokenizer = tokenizers.load(store.tokenizer_folder)
    print(f"\nbatches of {BATCH_SIZE} x {LENGTH}, one thread\n\n{'kind':34} {'sequences/s':>12} {'padding':>8}")
    for name, changes in KINDS.items():
        fields = dataclasses.replace(Pretraining(pairs="none", sequence_length=LENGTH), **changes)
        batches = PretrainingBatches(fields, [store], tokenizer, batch_size=BATCH_SIZE, steps=1000, seed=0)
        padding = np.mean([np.mean(batches(step)["sequence_ids"] == 0) for step in range(10)])
        steps = itertools.count()
        speed = BATCH_SIZE / fastest(lambda b=batches, s=steps: b(next(s)), 30)  # type: ignore[misc]
        print(f"{name:34} {speed:12,.0f} {padding:8.1%}", flush=True)
        results.append({"work": name, "unit": "sequences/s", "ours": speed, "padding": float(padding)})
    fields = Pretraining(pairs="none", sequence_length=LENGTH, packing="concatenated", mask_rate=0.0)
    rows = PretrainingBatches(fields, [store], tokenizer, batch_size=BATCH_SIZE, steps=1, seed=0)(0)["input_ids"]
    for name, speed in collator_speeds(rows, tokenizer, store.tokenizer_folder).items():
        print(f"{name:34} {speed:12,.0f}", flush=True)
        results.append({"work": name, "unit": "sequences/s", "theirs": speed})
    return results


def collator_speeds(rows: np.ndarray, tokenizer: tokenizers.Tokenizer, folder: Path) -> dict[str, float]:
    """Sequences per second of `DataCollatorForLanguageModeling` on the same ids, int32 [rows, length]."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    special = np.isin(rows, tokenizer.special_ids)
    # Offsets that touch within a word and leave a gap between words: all that the whole-word variant reads.
    ends = np.cumsum(1 + (tokenizer.word_starts[rows] | special), axis=1)
    offsets = np.stack([ends - 1, ends], axis=-1)
    examples = [
        {"input_ids": ids.tolist(), "special_tokens_mask": mask.tolist(), "offset_mapping": offset.tolist()}
        for ids, mask, offset in zip(rows, special.astype(int), offsets, strict=True)
    ]
    speeds = {}
    for name, whole_word in (("Hugging Face collator", False), ("Hugging Face collator, whole words", True)):
        # Its whole-word variant has no random replacement.
        shares = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0} if whole_word else {}
        collate = transformers.DataCollatorForLanguageModeling(
            theirs, whole_word_mask=whole_word, return_tensors="np", **shares
        )

        def mask(some: list[dict], collate: Callable = collate) -> None:
            collate([dict(example) for example in some])  # it removes keys from its examples

        seconds = min(
            fastest(lambda c=chunk, m=mask: m(c), 1)
            for chunk in (examples[i : i + 64] for i in range(0, len(examples), 64))
        )
        speeds[name] = 64 / seconds
    return speeds


def fastest(function: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds of the fastest of several calls."""
    seconds = []
    for _ in range(times):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)
