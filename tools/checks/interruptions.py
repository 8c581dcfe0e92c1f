"""Kills `prepare` with SIGKILL at random moments, starts it again each time, and compares the store to the byte.

    python tools/check.py interruptions --corpus FILE... --tokenizer DIR [--kills 10] [--workers 2] [--seed 0]

Also checks that no worker outlives its reader. Exits with 1 where a byte differs or a worker is left.
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

PROGRAM = """
import sys
from bert_jax.data.prepare import prepare
if __name__ == "__main__":
    tokenizer, out, workers, *sources = sys.argv[1:]
    prepare(sources, tokenizer, out, workers=int(workers))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, store = Path(temporary) / "whole", Path(temporary) / "store"
        start = time.monotonic()
        begin(options, whole).wait()
        seconds = time.monotonic() - start
        print(f"uninterrupted: {seconds:.1f} s")
        for number in range(options.kills):
            # Counted from when it has begun to write, so that every run gets a little further.
            moment = moments.uniform(0, 1.5 * seconds / options.kills)
            print(f"kill {number + 1:2} after {moment:5.1f} s: {kill(options, store, moment)}", flush=True)
        if begin(options, store).wait():
            sys.exit("the last run failed")
        expected, found = contents(whole), contents(store)
        if expected != found:
            sys.exit(f"differs: {sorted(name for name in expected | found if expected.get(name) != found.get(name))}")
        print(f"the same {sum(map(len, found.values())):,} bytes in {len(found)} files")


def begin(options: argparse.Namespace, out: Path) -> subprocess.Popen:
    """Starts a preparation in a process group of its own."""
    command = [sys.executable, "-c", PROGRAM, options.tokenizer, str(out), str(options.workers), *options.corpus]
    return subprocess.Popen(command, start_new_session=True)


def kill(options: argparse.Namespace, out: Path, moment: float) -> str:
    """Starts a preparation, kills its reader after `moment` seconds of work, and says what was there then."""
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
            sys.exit("a worker outlived its reader by ten seconds")
        time.sleep(0.05)
    return "finished" if out.exists() else f"{size(partial):,} bytes of tokens written"


def size(partial: Path) -> int:
    """Bytes of tokens so far."""
    tokens = partial / "tokens.bin"
    return tokens.stat().st_size if tokens.exists() else 0


def group_is_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store by its name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
