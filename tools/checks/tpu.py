"""The training step compiles for every kind of TPU, and needs the memory that is documented. No TPU is needed.

Where the compiler for GPUs is installed (the extra `cuda`), it compiles for an H100 as well.

    python tools/check.py tpu [--kinds v5e v6e] [--layers 1] [--effort low]

The step is that of pre-training with packed rows on 8 devices, in bfloat16: BERT-base (256 rows of 128) with mesh and
explicit attention, and with pmap and Pallas' attention, for every kind; for v5e also BERT-large (256 rows of 512) the
other way round, and ALBERT-base and ModernBERT-base (with one global and one local layer). They are cut to one layer,
because each layer adds to the time that compiling takes. BERT-large as a whole is compiled once, for v5e: it must not
fit without remat.

Exits with 1 where a step does not compile, does not fit although it should, or fits although it should not, and where
the estimate of `bert_jax plan` is more than 30 % away from the compiler's memory (mesh and explicit attention only).

It needs the extra `tpu`, and about 15 minutes of one core. With pmap, memory includes the state twice: what is
compiled here reuses none of it, unlike a run.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import jax
import numpy as np

from bert_jax import plan, runtime, tasks, topologies
from bert_jax.config import AdamW, Compute, Experiment, Pretraining, preset
from bert_jax.data.batch import make_batch
from bert_jax.devices import Devices
from bert_jax.training import optimizer
from bert_jax.training.run import Run, random_state, step_options
from bert_jax.training.step import train_step

DEVICES, ROWS, SEQUENCES = 8, 256, 4
OFF = 0.3  # of the compiler's memory: as `plan` prints
COMPARED = ("mesh", "explicit")
EVERYWHERE = (("mesh", "explicit", "bert-base", 128), ("pmap", "pallas", "bert-base", 128))
ON_V5E = (
    ("mesh", "pallas", "bert-large", 512),
    ("pmap", "explicit", "bert-large", 512),
    ("mesh", "explicit", "albert-base", 512),
    ("mesh", "explicit", "modernbert-base", 1024),
)


class Vocabulary:
    """As much of a tokenizer as a step needs."""

    notes = ()
    vocab_size = 30_522


@dataclass(frozen=True)
class Case:
    """One step to compile."""

    kind: str
    sharding: str
    attention: str
    model: str
    length: int
    layers: int  # 0 = all
    fits: bool = True

    def run(self) -> Run:
        """Returns a pre-training of this kind."""
        dropout = 0.1 if self.attention == "explicit" else 0.0
        depth = {"num_layers": self.layers} if self.layers else {}
        model = preset(self.model, vocab_size=Vocabulary.vocab_size, attention_dropout=dropout, **depth)
        compute = Compute(dtype="bfloat16", attention=self.attention, sharding=self.sharding, fsdp=1)
        fields = Pretraining(pairs="none", sequence_length=self.length)
        task = tasks.make(fields, model, Vocabulary(), compute)
        experiment = Experiment(fields, model, optimizer=AdamW(), batch_size=ROWS, steps=1000, compute=compute)
        return Run(experiment, task, Vocabulary(), None)

    def __str__(self) -> str:
        depth = f"{self.layers} layer" if self.layers else "full depth"
        return f"{self.kind:4} {self.sharding:5} {self.attention:9} {self.model:10} {self.length:4} {depth:10}"


def packed(length: int) -> dict[str, np.ndarray]:
    """Returns rows of several sequences each, a token in seven masked."""
    ids = np.zeros((ROWS, length), np.int32)
    sequences = np.broadcast_to(np.arange(length, dtype=np.int32) * SEQUENCES // length + 1, ids.shape)
    masked = np.broadcast_to(np.arange(0, length - 6, 7, dtype=np.int32), (ROWS, -(-(length - 6) // 7)))
    return make_batch(
        ids,
        sequence_ids=sequences,
        masked_positions=masked,
        masked_labels=masked,
        masked_weights=np.ones(masked.shape, np.float32),
    )


def analyse(case: Case, thorough: bool) -> tuple[topologies.Analysis, int]:
    """Returns the compiler's figures, and the memory that `plan` estimates."""
    run, batch = case.run(), packed(case.length)
    target = topologies.target(case.kind, DEVICES, thorough)
    devices = Devices(case.sharding, ROWS, 1, target.devices)
    transformation = optimizer.make(run.experiment.optimizer, run.experiment.steps, run.experiment.model)
    state = devices.shapes(jax.eval_shape(lambda: random_state(run, transformation, run.experiment.seed)))
    step = devices.wrap(train_step, **step_options(run, state.params))
    reads = {remat: plan.kept_each(run, batch, DEVICES, remat) for remat in (False, True)}
    return target.analyse(step.trace(state, batch)), plan.estimate(run, devices, False, reads).total


def problems(case: Case, analysis: topologies.Analysis, estimate: int) -> str:
    """Returns what is not as documented; empty if all is."""
    if analysis.fits != case.fits:
        return f"does not fit: {analysis.refusal}" if case.fits else "fits"
    if (
        analysis.memory is not None
        and (case.sharding, case.attention) == COMPARED
        and abs(estimate / analysis.memory - 1) > OFF
    ):
        return f"the estimate is off by {estimate / analysis.memory - 1:+.0%}"
    return ""


def least(step: tuple[str, str, str, int], layers: int) -> int:
    """Returns `layers`, or 2 for 1 where the second layer of a step's model is its first local one."""
    return 2 if layers == 1 and preset(step[2]).local_attention else layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=topologies.KINDS, default=[*topologies.SLICES, "h100"])
    parser.add_argument("--layers", type=int, default=1, help="of all steps but the last one")
    parser.add_argument("--effort", choices=("low", "full"), default="low")
    options = parser.parse_args()
    reasons = {kind: topologies.why_not(kind, DEVICES) for kind in options.kinds}
    for kind, reason in reasons.items():
        if reason:
            print(f"the compiler for {kind} cannot be used: {reason}")
    kinds = [kind for kind, reason in reasons.items() if not reason]
    if not kinds:
        sys.exit(1)
    runtime.pretend_devices(1)
    cases = [Case(kind, *step, options.layers) for kind in kinds for step in EVERYWHERE]
    if "v5e" in kinds:
        cases += [Case("v5e", *step, least(step, options.layers)) for step in ON_V5E]
        cases.append(Case("v5e", "mesh", "explicit", "bert-large", 512, 0, fits=False))
    wrong = 0
    for case in cases:
        began = time.perf_counter()
        try:
            analysis, estimate = analyse(case, options.effort == "full")
        except jax.errors.JaxRuntimeError as error:
            wrong += 1
            print(f"{case}  does not compile: {str(error).splitlines()[0]}", flush=True)
            continue
        problem = problems(case, analysis, estimate)
        wrong += bool(problem)
        need = f"{analysis.memory / 1e9:6.2f} GB" if analysis.memory else analysis.refusal
        accessed = f", {analysis.bytes_accessed / 1e9:.1f} GB accessed" if analysis.bytes_accessed else ""
        print(
            f"{case}  {need}, estimate {estimate / 1e9:.2f} GB{accessed}; "
            f"traced in {time.perf_counter() - began - analysis.seconds:.0f} s, compiled in {analysis.seconds:.0f} s"
            + (f"  WRONG: {problem}" if problem else ""),
            flush=True,
        )
    print(f"{len(cases)} steps, {wrong} of them not as documented")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
