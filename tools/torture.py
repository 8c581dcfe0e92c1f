"""Kills a small real run at random moments, again and again, and compares what it ends with to an uninterrupted run.

    python tools/torture.py --workdir DIR [--kills 100] [--signal KILL|TERM] [--seed 0]

Each attempt is a process that goes on with the same two commands, `prepare` and `train`, as far as it comes: kills hit
the preparing of data, compiling, training, saving and evaluating. Whenever a run is finished, its metrics.jsonl, its
parameters and its result are compared bit by bit with those of a run that nothing disturbed, and another run begins,
until enough were killed. Prints how many kills hit what, and exits with 1 where anything differs.

Attempts are forked from one process that has imported everything but not touched a device: importing would otherwise
take most of the time. An attempt that ends by itself must end with exit code 0.
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
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bert_jax import checkpoint, quickstart, tokenizers, train
from bert_jax.config import BertConfig, Experiment, Pretraining
from bert_jax.data.prepare import prepare
from bert_jax.sharding import pretend_devices

STAGES = ("starting", "preparing data", "compiling", "training", "saving", "evaluating")


class Stage:
    """What an attempt is doing, in a byte that its parent can read."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self, name: str) -> None:
        self._byte[0] = STAGES.index(name)

    def get(self) -> str:
        return STAGES[self._byte[0]]

    def around(self, owner: object, function: str, name: str, after: str) -> None:
        """Wraps a function of the package, so that it tells when it runs."""
        inner = getattr(owner, function)

        def told(*args: object, **options: object) -> object:
            self.set(name)
            result = inner(*args, **options)
            self.set(after)
            return result

        setattr(owner, function, told)


def experiment(folder: Path) -> Experiment:
    """A run of less than a minute that saves and evaluates often, with dropout."""
    return Experiment(
        task=Pretraining(stores=(str(folder / "store"),), sequence_length=32, held_out=0.05, eval_sequences=256),
        model=BertConfig(0, 64, 2, 2, 128, max_position_embeddings=32),
        batch_size=16,
        steps=240,
        log_every=7,
        eval_every=30,
        checkpoint_every=12,
        sharding="single",
    )


def attempt(folder: Path, data: Path, stage: Stage) -> None:
    """Does in `folder` what is left to do."""
    sys.stdout = sys.stderr = open(folder.with_suffix(".log"), "a")  # noqa: SIM115
    stage.around(train, "evaluate", "evaluating", "training")
    stage.around(train.Member, "save", "saving", "training")
    stage.around(train.Loop, "_step", "training", "training")
    stage.set("preparing data")
    prepare([str(data / "corpus.txt")], data / "tokenizer", folder / "store")
    stage.set("compiling")
    train.train(experiment(folder), folder / "run")


def fork(folder: Path, data: Path, stage: Stage) -> int:
    stage.set("starting")
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # Should the parent be killed itself, its attempts go with it.
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
    """All of a run that must not depend on interruptions."""
    result = json.loads((folder / "run/result.json").read_text())
    del result["seconds"]
    _, params = checkpoint.load_params(folder / "run/checkpoints")
    return {"metrics": (folder / "run/metrics.jsonl").read_bytes(), "result": result, "params": params}


def differing(a: dict, b: dict) -> list[str]:
    """Names of what differs between two outcomes."""
    import jax

    same = jax.tree.map(np.array_equal, a["params"], b["params"])
    names = [name for name in ("metrics", "result") if a[name] != b[name]]
    return names + ([] if all(jax.tree.leaves(same)) else ["params"])


def compare(folder: Path, reference: Path) -> bool:
    """Whether two runs differ; asks a process of its own, for this one must not touch a device and then be forked."""
    child = os.fork()
    if not child:
        pretend_devices(1)
        found = differing(outcome(folder), outcome(reference))
        if found:
            print(f"{folder}: differs in {', '.join(found)}", flush=True)
        os._exit(bool(found))
    return os.waitpid(child, 0)[1] != 0


def torture(options: argparse.Namespace, data: Path, reference: Path, seconds: float) -> int:
    """Returns the number of runs that ended otherwise than `reference`."""
    moments = random.Random(options.seed)
    number = signal.Signals[f"SIG{options.signal}"]
    hits: Counter[str] = Counter()
    runs = wrong = 0
    folder = options.workdir / "run-0"
    folder.mkdir()
    stage = Stage()
    while sum(hits.values()) < options.kills or runs == 0:
        child, began = fork(folder, data, stage), time.time()
        enough = sum(hits.values()) >= options.kills
        # Some moments lie in the start, up to the first step, and some after it.
        if not enough and moments.random() < 0.7:
            while stage.get() not in ("training", "saving", "evaluating") and not ended(child):
                time.sleep(0.005)
        prepared = (folder / "store/header.json").exists()
        pause = 1e9 if enough else moments.uniform(0, seconds if prepared else 1)
        deadline = time.monotonic() + pause
        while time.monotonic() < deadline and not ended(child):
            time.sleep(0.002)
        if ended(child):
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code:
                sys.exit(f"{folder}: an attempt ended by itself with exit code {code}")
        else:
            os.kill(child, number)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            unfinished = (folder / "run/checkpoints").glob("*.orbax-checkpoint-tmp")
            saving = code and any(path.stat().st_mtime > began for path in unfinished)
            hits["saving" if saving else stage.get()] += 1
            if code not in (0, -number):
                print(f"{folder}: exit code {code} after {number.name}", flush=True)
                wrong += 1
        path = folder / "run/result.json"
        if not code and path.exists() and json.loads(path.read_text())["step"] == experiment(folder).steps:
            runs += 1
            print(f"{runs} runs, {sum(hits.values())} kills: {dict(hits)}", flush=True)
            if compare(folder, reference):
                wrong += 1
            else:
                shutil.rmtree(folder)
            folder = options.workdir / f"run-{runs}"
            folder.mkdir()
    print(f"{sum(hits.values())} x {number.name}, {runs} runs finished, {wrong} wrong; hit {dict(hits)}")
    return wrong


def ended(child: int) -> bool:
    """Whether a child has ended, which leaves it to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.workdir.mkdir(parents=True)
    data, reference = options.workdir / "data", options.workdir / "reference"
    data.mkdir()
    reference.mkdir()
    texts = [document.text for document in quickstart.gather()][:1500]
    (data / "corpus.txt").write_text("\n\n".join(texts))
    tokenizers.train("wordpiece", texts, 2000).save(data / "tokenizer")
    began = time.monotonic()
    stage = Stage()
    child = fork(reference, data, stage)
    while stage.get() not in ("training", "saving", "evaluating") and not ended(child):
        time.sleep(0.005)
    starting = time.monotonic() - began
    code = os.waitpid(child, 0)[1]
    seconds = time.monotonic() - began - starting
    print(f"undisturbed: {seconds:.0f} s after {starting:.0f} s to the first step", flush=True)
    sys.exit(bool(code or torture(options, data, reference, seconds)))


if __name__ == "__main__":
    main()
