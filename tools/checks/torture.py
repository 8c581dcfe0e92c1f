"""Kills a small real run at random moments, again and again, and compares what it ends with to an uninterrupted run.

    python tools/check.py torture [--workdir DIR] [--kills 100] [--signal KILL|TERM] [--seed 0]

Each attempt is a process that continues a run with the same two calls, `prepare` and `train`, until it is killed: while
it prepares data, compiles, trains, saves or evaluates. When a run is finished, its metrics.jsonl, its parameters and
its result are compared bit by bit with those of an uninterrupted run. Then the next run begins, until there were enough
kills. Prints how many kills hit each stage. Exits with 1 if anything differs, or if an attempt that was not killed
fails.

Attempts are forked from one process that has imported everything but has not used a device, because importing would
take most of the time.
"""

import argparse
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
from pathlib import Path

import numpy as np

from bert_jax import Hook, samples, tokenizers, train
from bert_jax.config import BertConfig, Compute, Experiment, Pretraining
from bert_jax.data.prepare import prepare
from bert_jax.runs.checkpoint import Checkpoints, load_params
from bert_jax.runtime import pretend_devices
from bert_jax.training import hooks
from bert_jax.training.loop import Loop

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


def attempt(folder: Path, data: Path, stage: Stage) -> None:
    """Continues the run in `folder`."""
    sys.stdout = sys.stderr = open(folder.with_suffix(".log"), "a")  # noqa: SIM115
    stage.around(hooks, "evaluate", "evaluating")
    stage.around(Checkpoints, "save", "saving")
    stage.set("preparing data")
    prepare([str(data / "corpus.txt")], data / "tokenizer", folder / "store")
    stage.set("compiling")
    train(experiment(folder), folder / "run", hooks=[StepsTaken(stage)])


def fork(folder: Path, data: Path, stage: Stage) -> int:
    """Starts an attempt in a child process and returns its id."""
    stage.reset()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # If the parent is killed, so is its attempt.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        pretend_devices(1)
        attempt(folder, data, stage)
        code = 0
    except BaseException as error:
        print(f"attempt failed: {error!r}", file=sys.__stderr__, flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def outcome(folder: Path) -> dict[str, object]:
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


def compare(folder: Path, reference: Path) -> bool:
    """Returns whether two runs differ. A child compares them: a process that is forked must not use a device."""
    child = os.fork()
    if not child:
        pretend_devices(1)
        names = differing(outcome(folder), outcome(reference))
        if names:
            print(f"{folder}: differs in {', '.join(names)}", flush=True)
        os._exit(bool(names))
    return os.waitpid(child, 0)[1] != 0


def torture(options: argparse.Namespace, data: Path, reference: Path) -> int:
    """Returns the number of runs whose result differs from `reference`, or that failed."""
    moments = random.Random(options.seed)
    hits: Counter[str] = Counter()
    runs = wrong = 0
    stage = Stage()
    while hits.total() < options.kills:
        folder = options.workdir / f"run-{runs}"
        folder.mkdir()
        while not finished(folder):
            left = options.kills - hits.total()
            hit, code = disturbed(folder, data, stage, options.signal, moments if left else None)
            hits.update([hit] if hit else [])
            wrong += bool(code)
        runs += 1
        print(f"{runs} runs, {hits.total()} kills: {dict(hits)}", flush=True)
        if compare(folder, reference):
            wrong += 1
        else:
            shutil.rmtree(folder)
    print(f"{hits.total()} x SIG{options.signal}, {runs} runs finished, {wrong} wrong; hit {dict(hits)}")
    return wrong


def finished(folder: Path) -> bool:
    """Returns whether the last step of a run is evaluated and saved; saving may take longer."""
    path, steps = folder / "run/result.json", experiment(folder).steps
    evaluated = path.exists() and json.loads(path.read_text())["step"] == steps
    return evaluated and (folder / f"run/checkpoints/{steps}").is_dir()  # Orbax names it so when it is whole


def disturbed(folder: Path, data: Path, stage: Stage, name: str, moments: random.Random | None) -> tuple[str, int]:
    """Runs one attempt and kills it at a random moment, unless it ends before that.

    Returns the stage in which it was killed, or "", and its exit code, 0 if the signal ended it. With `moments` None it
    is not killed.
    """
    number = signal.Signals[f"SIG{name}"]
    child, began = fork(folder, data, stage), time.time()
    if moments is not None:
        prepared = (folder / "store/header.json").exists()
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
            unfinished = (folder / "run/checkpoints").glob("*.orbax-checkpoint-tmp")
            if code and any(path.stat().st_mtime > began for path in unfinished):
                hit = "saving"
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
    options = parser.parse_args()
    options.workdir = options.workdir or Path(tempfile.mkdtemp()) / "torture"
    options.workdir.mkdir(parents=True)
    data, reference = options.workdir / "data", options.workdir / "reference"
    data.mkdir()
    reference.mkdir()
    texts = [document.text for document in samples.documents()][:1500]
    (data / "corpus.txt").write_text("\n\n".join(texts))
    tokenizers.train("wordpiece", texts, 2000).save(data / "tokenizer")
    began = time.monotonic()
    disturbed(reference, data, Stage(), "KILL", None)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(bool(torture(options, data, reference)))
