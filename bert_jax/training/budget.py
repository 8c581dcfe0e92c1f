"""How many steps fit into a number of minutes, by measuring a few of them."""

import time
from collections.abc import Callable

import jax
import numpy as np

from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.training import optimizer
from bert_jax.training.run import Run, batch_sizes, random_state, step_options
from bert_jax.training.step import evaluate_step, train_step

TRIAL_STEPS = 1000  # of the schedule that the measured batches are taken from; only their shapes matter
SAMPLES = 5  # batches from the first to the last of the schedule: rows may get longer
TRIAL_SHARE = 0.02  # of the budget: time to measure for, after compiling
RESERVE = 0.03  # of the budget: checkpoints, figures and noise


def steps_within(run: Run, seeds: int, devices: Devices, say: Callable[[str], None]) -> int:
    """Returns the number of steps that fit into the experiment's `minutes` on these devices, if each seed takes them.

    It compiles the step and takes a few with random weights, which are then dropped. The time that this took, the
    time to compile once more, and the evaluations are part of the minutes.

    Raises:
      InputError: the minutes do not even suffice for that.
    """
    began = time.monotonic()
    e = run.experiment
    budget = e.minutes * 60
    batches = run.task.train_batches(
        batch_size=batch_sizes(e, TRIAL_STEPS),
        steps=TRIAL_STEPS,
        seed=e.seed,
        multiple=devices.count * e.compute.microbatches,
        host=devices.host,
        hosts=devices.hosts,
    )
    state = devices.make(lambda: random_state(run, optimizer.make(e.optimizer, TRIAL_STEPS, e.model), e.seed))
    step = devices.wrap(train_step, **step_options(run, state.params))
    sampled = [batches(int(number)) for number in np.linspace(0, TRIAL_STEPS - 1, SAMPLES)]
    for batch in sampled:
        state, sums = step(state, batch)
    jax.block_until_ready(sums)
    compiling = time.monotonic() - began

    started, taken = time.monotonic(), 0
    while taken == 0 or time.monotonic() - started < TRIAL_SHARE * budget:
        for batch in sampled:
            state, sums = step(state, batch)
        jax.block_until_ready(sums)
        taken += len(sampled)
    seconds = (time.monotonic() - started) / taken
    evaluation = _evaluation_seconds(run, devices, state.params)
    left = (1 - RESERVE) * budget - compiling - (time.monotonic() - began) - seeds * evaluation
    each = seeds * (seconds + (evaluation / e.eval_every if e.eval_every else 0.0))
    steps = devices.same_on_all_hosts(int(left / each))
    if steps < 1:
        raise InputError(
            f"minutes: {e.minutes:g} are too few: compiling takes {compiling:.0f} s, an evaluation {evaluation:.0f} s "
            f"and a step {seconds:.2f} s on this machine, for each of {seeds} seeds"
        )
    say(f"{steps:,} steps fit into {e.minutes:g} minutes on this machine: one takes {seconds * 1e3:,.1f} ms")
    return steps


def _evaluation_seconds(run: Run, devices: Devices, params: object) -> float:
    """Returns how long an evaluation takes once it is compiled, from its first and its last batch."""
    batches = run.task.eval_batches(batch_size=run.experiment.rows_evaluated)
    if batches is None:
        return 0.0
    step = devices.wrap(evaluate_step, returns_state=False, loss_fn=run.task.loss_fn)
    sampled = [batches(number) for number in {0, batches.num_steps - 1}]
    for batch in sampled:
        jax.block_until_ready(step(params, batch))
    started = time.monotonic()
    for batch in sampled:
        jax.block_until_ready(step(params, batch))
    return (time.monotonic() - started) / len(sampled) * batches.num_steps
