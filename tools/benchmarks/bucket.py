"""Steps a second of a run whose store and workdir are in a bucket, and on a local disk; needs the extra test-cloud."""

import argparse
import os
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import timing
from bert_jax import Hook, files, recipe, samples, tokenizers, train
from bert_jax.data.prepare import prepare
from bert_jax.training.loop import Loop

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers import gcs

STARTED = 100  # step at which the clock starts, after compiling
BUCKET = "gs://bucket"
TURN = 4.0  # seconds in which one run goes on and the other is stopped


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--latency", type=float, default=5.0, help="milliseconds that each request takes longer")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains with the recipe "fast", logged and saved as by default, in both places, in turns of a few seconds."""
    port = gcs.free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        gcs.emulator(port) as emulator,
        gcs.proxy(emulator, port, options.latency) as url,
    ):
        gcs.make_bucket(emulator, "bucket")
        texts = [document.text for document in samples.documents()][:1500]
        tokenizers.train("wordpiece", texts, 4096).save(Path(folder) / "tokenizer")
        (Path(folder) / "corpus.txt").write_text("\n\n".join(texts))
        runs = [Turns(Path(folder), root, options.steps, address) for root, address in ((folder, None), (BUCKET, url))]
        going = runs
        while going:
            going = [one for one in going if one.go_on()]
    local, bucket = ((options.steps - STARTED) / one.seconds for one in runs)
    print(f"local disk: {local:.2f} steps/s, bucket: {bucket:.2f}, ratio {bucket / local:.3f}; wanted 0.97")
    return [
        {"work": "a run in a bucket", "local disk": local, "bucket": bucket, "ratio": bucket / local, "wanted": 0.97}
    ]


class Turns:
    """A run in a process of its own, which is stopped at step 100, and goes on for some seconds when it is asked to."""

    def __init__(self, data: Path, root: str, steps: int, url: str | None):
        self._connection, theirs = timing.CONTEXT.Pipe()
        self._process = timing.CONTEXT.Process(target=one_run, args=(theirs, data, root, steps, url), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # it has stopped, or is about to
        self.seconds = 0.0  # for which it has gone on

    def go_on(self) -> bool:
        """Lets it go on for a turn, and returns whether it must go on after that."""
        assert self._process.pid is not None
        began = time.monotonic()
        os.kill(self._process.pid, signal.SIGCONT)
        ended = self._connection.poll(TURN)
        self.seconds += time.monotonic() - began
        if ended:
            self._connection.recv()
            self._process.join()
        else:
            os.kill(self._process.pid, signal.SIGSTOP)
        return not ended


def one_run(connection: Connection, data: Path, root: str, steps: int, url: str | None) -> None:
    """Trains, tells when the clock starts, waits there, and tells when the last checkpoint is written."""
    if url:
        gcs.use(url)
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    folder = files.path(root)
    prepare([str(data / "corpus.txt")], data / "tokenizer", folder / "store")
    experiment = recipe("fast", stores=(str(folder / "store"),), held_out=0.05, eval_sequences=256, steps=steps)
    train(experiment, folder / "run", hooks=[Wait(connection)])
    connection.send("end")


class Wait(Hook):
    """Stops the process after a step."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def __call__(self, loop: Loop, step: int) -> None:
        if step == STARTED:
            loop.collect()  # the step is taken
            self._connection.send("start")
            os.kill(os.getpid(), signal.SIGSTOP)
