"""Kills a small real run at random moments, again and again, and compares what it ends with to an uninterrupted run.

    python tools/check.py torture [--workdir DIR] [--kills 100] [--signal KILL|TERM] [--seed 0]
                                  [--bucket [--faults 0.01]]

Each attempt is a process that continues a run with the same two calls, `prepare` and `train`, until it is killed: while
it prepares data, compiles, trains, saves or evaluates. When a run is finished, its metrics.jsonl, its parameters and
its result are compared bit by bit with those of an uninterrupted run. Then the next run begins, until there were enough
kills. Prints how many kills hit each stage. Exits with 1 if anything differs, or if an attempt that was not killed
fails.

With --bucket, store and run are in a bucket of a storage emulator (extra `test-cloud`), and each attempt begins with an
empty local disk. With --faults, that share of its requests fails, is cut off, or takes a second.

Attempts are forked from one process that has imported everything but has not used a device, because importing would
take most of the time.
"""

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bert_jax import Hook, files, samples, storage, tokenizers, train
from bert_jax.config import BertConfig, Compute, Experiment, Pretraining
from bert_jax.data.prepare import prepare
from bert_jax.runs.checkpoint import Checkpoints, latest_step, load_params
from bert_jax.runtime import pretend_devices
from bert_jax.training import hooks
from bert_jax.training.loop import Loop

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers import gcs

# For each stage: a kill waits until the stage has begun n times, n drawn from 1 to the first number, and then at most
# the second number of seconds.
# Counting, instead of only waiting, lets runs make progress on a busy machine.
STAGES = {
    "starting": (1, 0.2),
    "preparing data": (1, 1.0),
    "compiling": (1, 3.0),
    "training": (160, 0.02),
    "saving": (8, 0.2),
    "evaluating": (4, 0.3),
}
_NUMBERS = {name: number for number, name in enumerate(STAGES)}


class Stage:
    """The stage of an attempt, and how often each stage has begun, in memory shared with the parent process."""

    def __init__(self) -> None:
        self._shared = np.frombuffer(mmap.mmap(-1, 8 * (1 + len(STAGES))), np.int64)

    def reset(self) -> None:
        self._shared[:] = 0
        self.set("starting")

    def set(self, name: str) -> None:
        self._shared[0] = _NUMBERS[name]
        self._shared[1 + _NUMBERS[name]] += 1

    def get(self) -> str:
        return tuple(STAGES)[self._shared[0]]

    def count(self, name: str) -> int:
        return int(self._shared[1 + _NUMBERS[name]])

    def around(self, owner: object, function: str, name: str) -> None:
        """Wraps a function of the package, so that it sets the stage while it runs, and training afterwards."""
        inner = getattr(owner, function)

        def wrapped(*args: object, **options: object) -> object:
            self.set(name)
            result = inner(*args, **options)
            self.set("training")
            return result

        setattr(owner, function, wrapped)


class StepsTaken(Hook):
    """Sets the stage after each step; the first step is mostly compiling."""

    def __init__(self, stage: Stage):
        self._stage = stage

    def __call__(self, loop: Loop, step: int) -> None:
        self._stage.set("training")


def experiment(folder: Path) -> Experiment:
    """Returns a run of less than a minute that saves and evaluates often, with dropout."""
    return Experiment(
        task=Pretraining(stores=(str(folder / "store"),), sequence_length=32, held_out=0.05, eval_sequences=256),
        model=BertConfig(0, 64, 2, 2, 128, max_position_embeddings=32),
        batch_size=16,
        steps=240,
        log_every=7,
        eval_every=30,
        checkpoint_every=12,
        compute=Compute(sharding="single"),
    )


class Arena:
    """Where runs are: in a folder, or in a bucket of an emulator."""

    def __init__(self, workdir: Path, url: str | None):
        self.workdir, self.url = workdir, url
        self.disk = workdir / "disk"  # all that an attempt has on the local disk, with a bucket

    def run(self, name: str) -> files.Path:
        """Returns the folder of a run, which is made if it is local."""
        folder = files.Path("gs://bucket" if self.url else self.workdir) / name
        return files.make_folder(folder)

    def enter(self) -> None:
        """Prepares a process that was forked."""
        pretend_devices(1)
        if self.url:
            gcs.use(self.url)
            os.environ["XDG_CACHE_HOME"] = tempfile.tempdir = str(self.disk)
            storage.BEAT, storage.GONE = 0.3, 2.0
            files.path("gs://bucket")

    def clear_disk(self) -> None:
        """Removes what an attempt left on the local disk."""
        shutil.rmtree(self.disk, ignore_errors=True)
        self.disk.mkdir()


def in_child(arena: Arena, function: Callable[[], bool]) -> bool:
    """Returns what `function` returns in a forked process: this one must use neither a device nor the bucket."""
    child = os.fork()
    if not child:
        code = 2
        with contextlib.suppress(BaseException):
            arena.enter()
            code = int(function())
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1):
        sys.exit("a question about a run failed")
    return code == 1


def attempt(folder: files.Path, data: Path, stage: Stage, log: Path) -> None:
    """Continues the run in `folder`."""
    sys.stdout = sys.stderr = open(log, "a")  # noqa: SIM115
    stage.around(hooks, "evaluate", "evaluating")
    stage.around(Checkpoints, "save", "saving")
    stage.set("preparing data")
    prepare([str(data / "corpus.txt")], data / "tokenizer", folder / "store")
    stage.set("compiling")
    train(experiment(folder), folder / "run", hooks=[StepsTaken(stage)])


def fork(folder: files.Path, data: Path, stage: Stage, arena: Arena) -> int:
    """Starts an attempt in a child process and returns its id."""
    stage.reset()
    arena.clear_disk()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # If the parent is killed, so is its attempt.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        arena.enter()
        attempt(folder, data, stage, arena.workdir / f"{folder.name}.log")
        code = 0
    except BaseException as error:
        print(f"attempt failed: {error!r}", file=sys.__stderr__, flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def outcome(folder: files.Path) -> dict[str, object]:
    """Returns everything of a run that must not depend on interruptions."""
    result = json.loads((folder / "run/result.json").read_text())
    del result["seconds"]
    _, params = load_params(folder / "run/checkpoints")
    return {"metrics": (folder / "run/metrics.jsonl").read_bytes(), "result": result, "params": params}


def differing(a: dict, b: dict) -> list[str]:
    """Returns the names of the parts in which two outcomes differ."""
    import jax

    same = jax.tree.map(np.array_equal, a["params"], b["params"])
    names = [name for name in ("metrics", "result") if a[name] != b[name]]
    return names + ([] if all(jax.tree.leaves(same)) else ["params"])


def differ(folder: files.Path, reference: files.Path) -> bool:
    """Returns whether two runs differ, and removes the first if it does not."""
    names = differing(outcome(folder), outcome(reference))
    if names:
        print(f"{folder}: differs in {', '.join(names)}", flush=True)
    else:
        files.remove(folder)
    return bool(names)


def torture(options: argparse.Namespace, data: Path, reference: files.Path, arena: Arena) -> int:
    """Returns the number of runs whose result differs from `reference`, or that failed."""
    moments = random.Random(options.seed)
    hits: Counter[str] = Counter()
    runs = wrong = 0
    stage = Stage()
    while hits.total() < options.kills:
        folder = arena.run(f"run-{runs}")
        while not in_child(arena, lambda folder=folder: finished(folder)):
            left = options.kills - hits.total()
            hit, code = disturbed(folder, data, stage, arena, options.signal, moments if left else None)
            hits.update([hit] if hit else [])
            wrong += bool(code)
        runs += 1
        print(f"{runs} runs, {hits.total()} kills: {dict(hits)}", flush=True)
        wrong += in_child(arena, lambda folder=folder: differ(folder, reference))
    print(f"{hits.total()} x SIG{options.signal}, {runs} runs finished, {wrong} wrong; hit {dict(hits)}")
    return wrong


def finished(folder: files.Path) -> bool:
    """Returns whether the last step of a run is evaluated and saved; saving may take longer."""
    path, steps = folder / "run/result.json", experiment(folder).steps
    evaluated = path.exists() and json.loads(path.read_text())["step"] == steps
    return evaluated and latest_step(folder / "run/checkpoints") == steps


def disturbed(
    folder: files.Path, data: Path, stage: Stage, arena: Arena, name: str, moments: random.Random | None
) -> tuple[str, int]:
    """Runs one attempt and kills it at a random moment, unless it ends before that.

    Returns the stage in which it was killed, or "", and its exit code, 0 if the signal ended it. With `moments` None it
    is not killed.
    """
    number = signal.Signals[f"SIG{name}"]
    child, began = fork(folder, data, stage, arena), time.time()
    if moments is not None:
        prepared = in_child(arena, (folder / "store/header.json").exists)
        # Data is prepared only once in a run, so this stage would be hit too rarely.
        target = "preparing data" if not prepared and moments.random() < 0.7 else moments.choice(list(STAGES))
        times, pause = STAGES[target]
        times, pause = moments.randint(1, times), moments.uniform(0, pause)
        while stage.count(target) < times and not ended(child):
            time.sleep(0.001)
        time.sleep(pause)
        if not ended(child):
            hit = stage.get()
            os.kill(child, number)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code and not arena.url:
                unfinished = files.matching(folder / "run/checkpoints", "*.orbax-checkpoint-tmp")
                hit = "saving" if any(files.modified(path) > began for path in unfinished) else hit
            if code not in (0, -number):
                print(f"{folder}: exit code {code} after {number.name}", flush=True)
            return hit, 0 if code == -number else code
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        sys.exit(f"{folder}: an attempt ended by itself with exit code {code}")
    return "", 0


def ended(child: int) -> bool:
    """Returns whether a child has ended; it must still be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="a new folder; without it a temporary one")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", action="store_true", help="in a bucket of a storage emulator")
    parser.add_argument("--faults", type=float, default=0.0, help="with --bucket: share of requests that fail")
    options = parser.parse_args()
    options.workdir = options.workdir or Path(tempfile.mkdtemp()) / "torture"
    options.workdir.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        url = None
        if options.bucket:
            port = gcs.free_port()
            emulator = stack.enter_context(gcs.emulator(port))
            gcs.make_bucket(emulator, "bucket")
            url = stack.enter_context(gcs.proxy(emulator, port, 0, options.faults))
        sys.exit(bool(tortured(options, Arena(options.workdir, url))))


def tortured(options: argparse.Namespace, arena: Arena) -> int:
    """Makes the data and the uninterrupted run, and returns what `torture` does."""
    data, reference = options.workdir / "data", arena.run("reference")
    data.mkdir()
    texts = [document.text for document in samples.documents()][:1500]
    (data / "corpus.txt").write_text("\n\n".join(texts))
    tokenizers.train("wordpiece", texts, 2000).save(data / "tokenizer")
    began = time.monotonic()
    disturbed(reference, data, Stage(), arena, "KILL", None)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    return torture(options, data, reference, arena)
