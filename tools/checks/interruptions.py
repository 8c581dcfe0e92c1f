"""Kills `prepare` with SIGKILL at random moments, starts it again each time, and compares the store to the byte.

    python tools/check.py interruptions [--corpus FILE...] [--tokenizer DIR] [--kills 10] [--workers 2] [--seed 0]

Exits with 1 if a byte differs, or if a worker lives ten seconds longer than its reader. The default corpus is the
sample text of bert_jax, with a tokenizer trained on it. `torture` kills whole runs; its `prepare` has no workers.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bert_jax import samples, tokenizers
from bert_jax.data import corpus

PROGRAM = """
import sys
from bert_jax.data.prepare import prepare
if __name__ == "__main__":
    tokenizer, out, workers, *sources = sys.argv[1:]
    prepare(sources, tokenizer, out, workers=int(workers))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+")
    parser.add_argument("--tokenizer")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, store = Path(temporary) / "whole", Path(temporary) / "store"
        fill_in(options, Path(temporary))
        start = time.monotonic()
        begin(options, whole).wait()
        seconds = time.monotonic() - start
        print(f"uninterrupted: {seconds:.1f} s")
        for number in range(options.kills):
            # Counted from the moment it begins to write, so that every run gets a little further.
            moment = moments.uniform(0, 1.5 * seconds / options.kills)
            print(f"kill {number + 1:2} after {moment:5.1f} s: {kill(options, store, moment)}", flush=True)
        if begin(options, store).wait():
            sys.exit("the last run failed")
        expected, files = contents(whole), contents(store)
        if expected != files:
            sys.exit(f"differs: {sorted(name for name in expected | files if expected.get(name) != files.get(name))}")
        print(f"the same {sum(map(len, files.values())):,} bytes in {len(files)} files")


def fill_in(options: argparse.Namespace, folder: Path) -> None:
    """Writes a corpus and trains a tokenizer where the options name none."""
    if options.corpus is None:
        options.corpus = [str(folder / "corpus.txt")]
        (folder / "corpus.txt").write_text("\n\n".join(document.text for document in samples.documents()))
    if options.tokenizer is None:
        options.tokenizer = str(folder / "tokenizer")
        texts = corpus.sample(corpus.documents(options.corpus), 1_000_000, seed=0)
        tokenizers.train("wordpiece", texts, 2000).save(folder / "tokenizer")


def begin(options: argparse.Namespace, out: Path) -> subprocess.Popen:
    """Starts a preparation in a process group of its own."""
    command = [sys.executable, "-c", PROGRAM, options.tokenizer, str(out), str(options.workers), *options.corpus]
    return subprocess.Popen(command, start_new_session=True)


def kill(options: argparse.Namespace, out: Path, moment: float) -> str:
    """Starts a preparation, kills its reader after `moment` seconds of work, and returns how far it was then."""
    partial = out.with_name(out.name + ".partial")
    before = size(partial)
    process = begin(options, out)
    while process.poll() is None and size(partial) in (before, 0) and not out.exists():
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while group_is_alive(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            sys.exit("a worker lives ten seconds after its reader was killed")
        time.sleep(0.05)
    return "finished" if out.exists() else f"{size(partial):,} bytes of tokens written"


def size(partial: Path) -> int:
    """Returns the bytes of tokens so far."""
    tokens = partial / "tokens.bin"
    return tokens.stat().st_size if tokens.exists() else 0


def group_is_alive(group: int) -> bool:
    """Returns whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of a store by its name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
