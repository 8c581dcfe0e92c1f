"""`bert_jax embed` keeps its memory flat, goes on after a kill with the same bytes, and is fast.

    python tools/check.py bulk [--input FILE...] [--model FOLDER] [--rows 20000] [--kills 5] [--turns 0]

The rows are those of the files, up to `--rows`, or random words; the model is a folder, or a tiny one with random
weights. A quarter of the rows, and all of them, are embedded in processes of their own, whose peak memory is
compared. Then the work on all rows is killed with SIGKILL at random moments and begun again each time, from nothing
where all of it is done. With `--turns`, it is also timed against `SentenceTransformer.encode` on the same rows, in
turn, which needs `pip install sentence-transformers` and a model that it loads. Exits with 1 if a byte differs, or if
the memory of all rows is more than 10 % above that of a quarter of them.
"""

import argparse
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from bert_jax import tokenizers
from bert_jax.config import preset
from bert_jax.data.batch import make_batch
from bert_jax.data.rows import stream_rows
from bert_jax.interop import huggingface
from bert_jax.model import Bert
from helpers.corpora import WORDS
from helpers.weights import random_weights

MOST = 1.1  # times the memory of a quarter of the rows
PROGRAM = """
import sys
from bert_jax.bulk import Options, embed_files
from bert_jax import memory
model, rows, out, shard_rows = sys.argv[1:]
embed_files(model, [rows], out, Options(int(shard_rows), 64), say=lambda line: None)
print(memory.peak())
"""
THEIRS = """
import json, sys, time
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = [json.loads(line)["text"] for line in open(sys.argv[2])]
start = time.perf_counter()
model.encode(texts, batch_size=64)
print(time.perf_counter() - start)
"""
OURS = """
import sys, time
from bert_jax import bulk
made = bulk.Bulk.prepare
def prepare(self, window):
    bulk.first = getattr(bulk, "first", time.perf_counter())
    return made(self, window)
bulk.Bulk.prepare = prepare
bulk.embed_files(sys.argv[1], [sys.argv[2]], sys.argv[3], bulk.Options(16_384, 64), say=lambda line: None)
print(time.perf_counter() - bulk.first)
"""


def texts(inputs: list[str]) -> Iterator[str]:
    for source in inputs:
        for row in stream_rows(source):
            yield from (line for line in row.values["text"].split("\n") if line.strip())
    draw = random.Random(0)
    while not inputs:
        yield " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))


def fill_in(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Writes the rows, and a quarter of them, and a model if the options name none."""
    every, quarter = folder / "rows.jsonl", folder / "quarter.jsonl"
    with every.open("w") as whole, quarter.open("w") as part:
        for number, text in zip(range(options.rows), texts(options.input), strict=False):
            line = json.dumps({"text": text}) + "\n"
            whole.write(line)
            part.write(line if number < options.rows // 4 else "")
    if options.model is None:
        options.model = str(folder / "model")
        config = preset("bert-tiny", vocab_size=90)
        params = {"bert": random_weights(Bert(config), make_batch(np.zeros((1, 1), np.int32)))}
        huggingface.write(folder / "model", config, params)
        tokenizers.train("wordpiece", list(itertools.islice(texts([]), 1000)), 90).save(folder / "model")
    return every, quarter


def begin(options: argparse.Namespace, rows: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, options.model, str(rows), str(out), str(options.shard_rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", default=[])
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        every, quarter = fill_in(options, folder)
        memory = {}
        for rows in (quarter, every):
            start = time.monotonic()
            output, _ = begin(options, rows, folder / f"out-{rows.stem}").communicate()
            seconds = time.monotonic() - start
            memory[rows] = int(output)
            print(f"{rows.stem}: {seconds:.1f} s, at most {int(output) / 2**20:.0f} MB", flush=True)
        for number in range(options.kills):
            process = begin(options, every, folder / "killed")
            time.sleep(moments.uniform(0.3, 0.7) * seconds)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done = contents(folder / "killed")
            print(f"kill {number + 1}: {len(done)} shards are there", flush=True)
            if number + 1 < options.kills and len(done) == len(contents(folder / "out-rows")):
                shutil.rmtree(folder / "killed")  # the next kill interrupts work, too
        if begin(options, every, folder / "killed").wait():
            sys.exit("the last run failed")
        expected, killed = contents(folder / "out-rows"), contents(folder / "killed")
        for turn in range(options.turns):
            for name, program in (("SentenceTransformer", THEIRS), ("bert_jax", OURS)):
                command = [sys.executable, "-c", program, options.model, str(every), str(folder / f"turn-{turn}")]
                took = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(f"{name}: {options.rows / took:,.0f} rows/s", flush=True)
        if expected != killed:
            sys.exit(f"differs: {sorted(name for name in expected if expected[name] != killed.get(name))}")
        print(f"the same {sum(map(len, killed.values())):,} bytes in {len(killed)} shards after {options.kills} kills")
        sys.exit(memory[every] > MOST * memory[quarter])


if __name__ == "__main__":
    main()
