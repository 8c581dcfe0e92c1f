"""Properties of the training step and of the loop around it."""

import json
import os
import re
import shutil
import signal
import threading
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax import Hook, load, train
from bert_jax.config import AdamW, Compute, Experiment, Muon, SequenceClassification, to_json
from bert_jax.errors import InputError
from bert_jax.losses import Mean, Outcome
from bert_jax.pretrained import open_source, read_experiment
from bert_jax.runs.checkpoint import Checkpoints, load_params
from bert_jax.runs.workdir import Workdir
from bert_jax.training import budget, optimizer, progress
from bert_jax.training.run import batch_sizes, resolve
from bert_jax.training.step import TrainState, train_step
from helpers.corpora import WORDS
from helpers.experiments import fine_tuning, lines, pretraining, silent
from helpers.models import MODEL, QUIET

# The step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["cpu", "default"])  # each has a form of its own
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(platform, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *same, **forms: forms[platform](*same))
    transformation = optimizer.make(AdamW(), 10)
    params = {"kernel": jnp.ones(3)}

    def loss_fn(params, batch, keys):
        return Outcome({"loss": Mean(jnp.sum(params["kernel"] * batch["x"]), jnp.ones(()))}, {}, {})

    step = jax.jit(partial(train_step, loss_fn=loss_fn, counts=lambda batch: {"loss": jnp.ones(())}))
    state = TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params), jax.random.key(0), transformation)
    bad, sums = step(state, {"x": jnp.array([1.0, jnp.nan, 1.0]), "sequence_ids": jnp.ones((1, 3))})
    jax.tree.map(np.testing.assert_array_equal, (bad.params, bad.opt_state), (params, state.opt_state))
    assert bad.step == 1
    assert sums["metrics"]["skipped"].sum == 1
    assert sums["losses"]["loss"].sum == 0
    good, sums = step(bad, {"x": jnp.ones(3), "sequence_ids": jnp.ones((1, 3))})
    assert sums["metrics"]["skipped"].sum == 0
    assert int(good.step) == 2
    moments = zip(jax.tree.leaves(good.opt_state), jax.tree.leaves(bad.opt_state), strict=True)
    assert any(np.any(after != before) for after, before in moments)


def test_biases_and_layer_norm_do_not_decay():
    params = {
        "out": {"kernel": 1, "bias": 1},
        "norm": {"scale": 1, "bias": 1},
        "word": {"embedding": 1},
        "mlm": {"bias": 1},
    }
    assert optimizer.decay_mask(params) == {
        "out": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "word": {"embedding": True},
        "mlm": {"bias": False},
    }


def test_the_learning_rate_rises_then_falls_to_zero():
    schedule = optimizer.learning_rate(AdamW(learning_rate=1.0, warmup_share=0.1), 100)
    rates = [float(schedule(step)) for step in range(101)]
    assert rates[0] == 0
    assert rates[10] == max(rates) == 1
    np.testing.assert_allclose(np.diff(rates[10:]), -1 / 90, rtol=1e-4)
    assert rates[100] == pytest.approx(0, abs=1e-6)


def test_without_bias_correction_the_first_update_is_googles():
    fields = AdamW(
        learning_rate=1.0,
        warmup_share=0.0,
        weight_decay=0.0,
        bias_correction=False,
        max_grad_norm=0,
        schedule="constant",
    )
    transformation = optimizer.make(fields, 10)
    params = {"kernel": jnp.ones(2)}
    grads = {"kernel": jnp.array([0.5, -2.0])}
    updates, _ = transformation.update(grads, transformation.init(params), params)
    expected = -0.1 * np.array([0.5, -2.0]) / (np.sqrt(0.001) * np.array([0.5, 2.0]) + 1e-6)
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("gradient", "clipped"), [([300.0, 400.0], [0.6, 0.8]), ([0.06, -0.08], [0.06, -0.08])], ids=["long", "short"]
)
def test_gradients_are_clipped_to_their_global_norm(gradient, clipped):
    fields = AdamW(max_grad_norm=1.0)
    transformation = optimizer.make(fields, 10)
    params = {"kernel": jnp.zeros(2)}
    _, state = transformation.update({"kernel": jnp.array(gradient)}, transformation.init(params), params)
    # After one step, Adam's first moment is 1 - b1 times the gradient that it was given.
    np.testing.assert_allclose(optax.tree.get(state, "mu")["kernel"] / (1 - fields.b1), clipped, rtol=1e-5)


# The loop --------------------------------------------------------------------------------------------------------


@dataclass
class Finished:
    """A run that was never disturbed: a test that changes it changes a copy."""

    experiment: Experiment
    workdir: Path
    result: dict[str, Any]
    messages: list[str]

    @property
    def metrics(self) -> str:
        return (self.workdir / "metrics.jsonl").read_text()

    def copy_to(self, workdir: Path, first_steps: int = 0) -> Path:
        """Copies the run; with `first_steps`, as a `kill -9` after the checkpoint of that step would leave it."""
        shutil.copytree(self.workdir, workdir)
        if first_steps:
            shutil.rmtree(workdir / "checkpoints/12")
            (workdir / "result.json").unlink()
            assert Checkpoints(workdir / "checkpoints").latest() == first_steps
        return workdir


def finish(experiment: Experiment, workdir: Path) -> Finished:
    messages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "LINE_EVERY", 1e9)  # no signs of progress, however slow the machine is
        return Finished(experiment, workdir, train(experiment, workdir, say=messages.append), messages)


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> Finished:
    return finish(pretraining(data), tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory) -> Finished:
    experiment = fine_tuning(data, model=MODEL, steps=12, log_every=5, eval_every=6, checkpoint_every=4)
    return finish(experiment, tmp_path_factory.mktemp("tuned") / "run")


class Calls(Hook):
    """Records when it is called, and does something at some steps."""

    def __init__(self, every=1, at=None):
        self.every, self.at, self.calls = every, at or {}, []

    def begin(self, loop, step):
        self.calls.append(("begin", step))

    def __call__(self, loop, step):
        metrics = loop.seed_runs[0].workdir.path / "metrics.jsonl"
        self.calls.append((step, loop.collected, len(lines(metrics)) if metrics.exists() else 0))
        if step in self.at:
            self.at[step](loop)

    def end(self, loop, step):
        self.calls.append(("end", step))


def test_how_many_rows_are_evaluated_at_once_changes_no_figure(tuned, tmp_path):
    workdir = tuned.copy_to(tmp_path / "run", first_steps=8)
    seen = []

    def watch(self, done, total):
        seen.append(total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.ProgressBar, "evaluating", watch)
        result = train(replace(tuned.experiment, eval_batch_size=64), workdir, say=silent)
    assert set(seen) == {1}  # batches of 64; without the field, several of 4
    assert result["metrics"] == pytest.approx(tuned.result["metrics"], rel=1e-6)


def test_a_hook_is_called_at_its_period_after_evaluations_and_before_checkpoints(tuned, tmp_path):
    experiment = replace(tuned.experiment, log_every=6, checkpoint_every=0)
    fifth, last = Calls(every=5), Calls(every=0)
    stop = Calls(at={6: lambda loop: loop.stop()})
    messages = []
    train(experiment, tmp_path / "run", say=messages.append, hooks=[fifth, last, stop])
    # At step 6 the figures of all six steps are read, written and evaluated: a line each.
    assert [call for call in fifth.calls if call[0] in ("begin", "end")] == [("begin", 0), ("end", 6)]
    assert [call[0] for call in fifth.calls[1:-1]] == [5]
    assert last.calls == [("begin", 0), ("end", 6)]
    assert stop.calls[-2] == (6, 6, 2)
    assert messages[-1].startswith("Stopped at step 6 of 12")
    assert Checkpoints(tmp_path / "run/checkpoints").steps() == [6]

    fifth, last, each = Calls(every=5), Calls(every=0), Calls()
    result = train(experiment, tmp_path / "run", say=silent, hooks=[fifth, last, each])
    assert [call[0] for call in fifth.calls] == ["begin", 10, 12, "end"]
    assert last.calls == [("begin", 6), (12, 12, 4), ("end", 12)]
    assert [call[0] for call in each.calls] == ["begin", *range(7, 13), "end"]
    assert result["step"] == 12


def test_what_a_hook_changes_is_in_the_checkpoint_of_its_step(tuned, tmp_path):
    def clear(loop):
        (seed_run,) = loop.seed_runs
        blank = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), seed_run.state.params)
        seed_run.state = seed_run.state.replace(params=blank)

    workdir = tuned.copy_to(tmp_path / "run", first_steps=8)
    train(tuned.experiment, workdir, say=silent, hooks=[Calls(at={12: clear})])
    step, params = load_params(workdir / "checkpoints")
    assert step == 12
    assert not any(np.any(x) for x in jax.tree.leaves(params))


def test_a_model_learns_eight_sentences_by_heart(data, tmp_path):
    rows = [
        json.dumps({"text": f"{a} {b} {c}", "label": str(n)})
        for n, (a, b, c) in enumerate(zip(WORDS[:8], WORDS[3:11], WORDS[6:14], strict=True))
    ]
    (tmp_path / "eight.jsonl").write_text("\n".join(rows))
    task = SequenceClassification(
        train=str(tmp_path / "eight.jsonl"), eval=str(tmp_path / "eight.jsonl"), max_length=16
    )
    # With weights as large as these, a model as small as this learns fast.
    changes = {"model": replace(QUIET, initializer_range=0.2), "optimizer": AdamW(learning_rate=1e-2)}
    result = train(fine_tuning(data, task=task, batch_size=8, steps=150, **changes), tmp_path / "run", say=silent)
    assert result["metrics"]["accuracy"] == 1
    assert result["metrics"]["loss"] < 0.05


@pytest.mark.parametrize("kind", ["pretrained", "tuned"])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, request, kind):
    whole, workdir = request.getfixturevalue(kind), tmp_path / "stopped"
    signal_at = Calls(at={7: lambda loop: os.kill(os.getpid(), signal.SIGTERM)})  # in the middle of a window of figures
    train(whole.experiment, workdir, say=silent, hooks=[signal_at])
    assert lines(workdir / "metrics.jsonl")[-1]["step"] == 6
    again = train(whole.experiment, workdir, say=silent)
    assert (workdir / "metrics.jsonl").read_text() == whole.metrics
    assert again["metrics"] == whole.result["metrics"]
    assert again["tokens"] == whole.result["tokens"]


def test_the_mean_of_the_latest_checkpoints_is_a_source(tuned):
    def weights(at):
        return jax.tree.leaves(open_source(f"{tuned.workdir}{at}").read_params()[0])

    for mean, one, two in zip(weights("@mean:2"), weights("@8"), weights("@12"), strict=True):
        np.testing.assert_array_equal(mean, ((one.astype(float) + two.astype(float)) / 2).astype(one.dtype))
    with pytest.raises(InputError, match="mean of 3 checkpoints; there are 2, of the steps 8, 12"):
        weights("@mean:3")


def test_epochs_count_the_rows_of_batches_that_grow(data):
    run = resolve(fine_tuning(data, steps=0, epochs=1, batch_schedule=((0.5, 4), (0.5, 8))))
    sizes = batch_sizes(run.experiment, run.experiment.steps)
    batches = run.task.train_batches(batch_size=sizes, steps=run.experiment.steps, seed=0)
    assert [len(batches(step)["labels"]) for step in range(run.experiment.steps)] == [4] * 6 + [8] * 5
    rows = np.concatenate([batches.rows(step) for step in range(run.experiment.steps)])
    assert sorted(rows) == list(range(64))


def test_lines_written_after_the_last_checkpoint_are_written_once(pretrained, tmp_path):
    # The state after `kill -9` at step 10: checkpoints 4 and 8, lines up to 10, the last one cut short.
    workdir = pretrained.copy_to(tmp_path / "crashed", first_steps=8)
    metrics = workdir / "metrics.jsonl"
    written = [line for line in metrics.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 10]
    metrics.write_text("".join(written) + '{"step": 11, "spl')
    train(pretrained.experiment, workdir, say=silent)
    assert metrics.read_text() == pretrained.metrics


def test_fine_tuning_starts_from_the_pretrained_encoder_and_lists_new_weights(tuned, pretrained, tmp_path):
    messages = []
    experiment = replace(tuned.experiment, model=None, tokenizer=None, init_from=str(pretrained.workdir))
    stop = Calls(at={1: lambda loop: loop.stop()})
    train(experiment, tmp_path / "tuned", say=messages.append, hooks=[stop])
    report = next(text for text in messages if text.startswith("Weights from"))
    assert "newly initialised: sequence/out/bias, sequence/out/kernel" in report
    assert "left out: mlm/bias" in report
    stored = json.loads((tmp_path / "tuned/experiment.json").read_text())
    assert stored["model"]["hidden_size"] == 16
    assert stored["task"]["labels"] == ["no", "yes"]


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_workdir_of_another_experiment_is_refused_and_left_alone(tuned):
    before = everything_in(tuned.workdir)
    with pytest.raises(InputError, match=r"optimizer\.learning_rate is 0\.003 there and 0\.5 here"):
        train(replace(tuned.experiment, optimizer=AdamW(learning_rate=0.5)), tuned.workdir, say=silent)
    assert everything_in(tuned.workdir) == before


def test_a_workdir_in_use_is_refused(data, tmp_path):
    with Workdir(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        train(fine_tuning(data), tmp_path / "run", say=silent)


def test_a_finished_run_is_not_run_again(tuned, tmp_path):
    messages = []
    workdir = tuned.copy_to(tmp_path / "run")
    assert train(tuned.experiment, workdir, say=messages.append) == tuned.result
    assert "finished already" in messages[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["task"].update(kind="Sequences"), "task.kind: 'Sequences' is not one of Pretraining"),
        (lambda e: e["model"].update(dtype="bfloat16"), "model: unknown field 'dtype'"),
        (lambda e: e.update(sharding="mesh"), "unknown field 'sharding'"),
    ],
)
def test_a_run_of_a_version_with_other_names_is_refused_in_one_line(tmp_path, change, message):
    experiment = pretraining(tmp_path)
    stored = to_json(experiment)
    change(stored)
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(stored))
    expected = re.escape(f"{path}: {message}") + ".*; if another version of bert_jax wrote this file, use that version"
    with pytest.raises(InputError, match=expected):
        read_experiment(tmp_path)
    with Workdir(tmp_path) as workdir, pytest.raises(InputError, match=expected):
        workdir.claim(experiment, tokenizer=None)


def test_how_a_run_is_computed_may_change_when_it_is_continued(pretrained, tmp_path):
    messages, workdir = [], pretrained.copy_to(tmp_path / "run", first_steps=8)
    compute = Compute(sharding="single", param_dtype="bfloat16")
    experiment = replace(pretrained.experiment, checkpoint_every=2, compute=compute)
    with pytest.raises(InputError, match="batch_size is 8 there and 16 here; use another"):
        train(replace(experiment, batch_size=16), workdir, say=silent)
    with pytest.raises(InputError, match="pallas has no dropout"):
        train(replace(experiment, compute=Compute(attention="pallas")), workdir, say=silent)
    train(experiment, workdir, say=messages.append)
    assert f"Continuing {workdir} at step 8 of 12" in messages
    assert f"{workdir}: continues with compute.param_dtype bfloat16 instead of float32" in messages
    _, params = load_params(workdir / "checkpoints")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    stored = json.loads((workdir / "experiment.json").read_text())
    assert stored["compute"] == asdict(compute)


CONSTANT = AdamW(schedule="constant", warmup_share=0.0)  # with any number of steps, a step is the same program


def test_minutes_decide_the_steps_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "TRIAL_SHARE", 0.0)
    messages = []
    experiment = fine_tuning(data, steps=0, minutes=20.0, eval_every=500, optimizer=CONSTANT)
    result = train(experiment, tmp_path / "run", say=messages.append, hooks=[Calls(at={2: lambda loop: loop.stop()})])
    assert result == {}
    steps = json.loads((tmp_path / "run/experiment.json").read_text())["steps"]
    assert steps > 2
    assert any(f"{steps:,} steps fit into 20 minutes" in text for text in messages)
    stop = Calls(at={4: lambda loop: loop.stop()})
    train(experiment, tmp_path / "run", say=messages.append, hooks=[stop])
    assert f"Stopped at step 4 of {steps}; the same command continues from there" in messages


def test_too_few_minutes_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"minutes: 0\.0001 are too few: compiling takes"):
        train(fine_tuning(data, steps=0, minutes=0.0001, optimizer=CONSTANT), tmp_path / "run", say=silent)
    with pytest.raises(InputError, match="minutes: they decide the number of steps; leave out steps and epochs"):
        fine_tuning(data, steps=5, minutes=1.0)
    with pytest.raises(InputError, match="minutes: they count from the first step; a run with branch_from needs steps"):
        fine_tuning(data, steps=0, minutes=1.0, branch_from="run@4")


def test_a_branch_equals_a_run_that_decayed_from_the_start(data, tmp_path):
    def run(steps, stable, **changes):
        muon = Muon(learning_rate=1e-3, warmup_share=2 / steps, stable_share=stable / steps)
        shape = {"steps": steps, "log_every": 5, "checkpoint_every": 4, "keep_checkpoints": 9}
        return fine_tuning(data, model=MODEL, optimizer=muon, **shape, **changes)

    train(run(20, 18), tmp_path / "stable", say=silent, hooks=[Calls(at={9: lambda loop: loop.stop()})])
    train(run(12, 6), tmp_path / "whole", say=silent)
    branch = run(12, 6, branch_from=f"{tmp_path / 'stable'}@8")
    messages = []
    stop = Calls(at={10: lambda loop: loop.stop()})
    train(branch, tmp_path / "branch", say=messages.append, hooks=[stop])
    assert f"Continuing {tmp_path / 'stable'}@8 at step 8 of 12" in messages
    train(branch, tmp_path / "branch", say=silent)
    later = [line for line in lines(tmp_path / "whole/metrics.jsonl") if line["step"] > 8]
    # Equal to the bit with XLA's own settings. With those of the tests, other constants in a program change rounding.
    for a, b in zip(lines(tmp_path / "branch/metrics.jsonl"), later, strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-6)
    weights = [jax.tree.leaves(load_params(tmp_path / name / "checkpoints")[1]) for name in ("whole", "branch")]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 12}, "is at step 12; `steps` must be larger, got 12"),
        ({"optimizer": Muon()}, "has another optimizer than this run: AdamW"),
        ({"model": replace(MODEL, hidden_size=8)}, "has another model than this run"),
        ({"init_from": "elsewhere"}, "branch_from: takes all weights from its run; leave init_from out"),
        ({"branch_from": "no/such/run@4"}, "no/such/run@4: no such file or folder"),
        ({"branch_from": "{run}@3"}, "no checkpoint of step 3; there are those of 8, 12"),
    ],
)
def test_a_branch_that_does_not_fit_is_refused(pretrained, tmp_path, changes, message):
    source = changes.get("branch_from", "{run}@12").format(run=pretrained.workdir)
    changes = {"steps": 16} | changes | {"branch_from": source}
    with pytest.raises(InputError, match=re.escape(message)):
        train(replace(pretrained.experiment, **changes), tmp_path / "branch", say=silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "give `model`"),
        ({"tokenizer": None}, "give `tokenizer`"),
        ({"steps": 0}, "give `steps`, `epochs` or `minutes`"),
        ({"model": replace(MODEL, vocab_size=999)}, "999 tokens and the tokenizer"),
        ({"compute": Compute(microbatches=3)}, "compute.microbatches: 3 does not divide"),
        (
            {"compute": Compute(sharding="single", microbatches=2), "batch_schedule": ((1.0, 3),)},
            "2 does not divide the 3 rows",
        ),
        (
            {"compute": Compute(sharding="pmap"), "batch_schedule": ((0.5, 4), (0.5, 8))},
            "batch_schedule: 4 rows do not divide by the 8 devices",
        ),
        (
            {"compute": Compute(sharding="pmap"), "batch_size": 8, "eval_batch_size": 12},
            "eval_batch_size: 12 rows do not divide by the 8 devices",
        ),
        ({"compute": Compute(sharding="pmap"), "batch_size": 12}, "does not divide by the 8 devices"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused_with_the_field(data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(fine_tuning(data, **changes), tmp_path / "run", say=silent)


def signs_of_progress(messages: list[str]) -> list[str]:
    return [text for text in messages if re.fullmatch(r"step \d+/12|evaluating .*", text)]


def test_progress_of_slow_steps_is_shown_and_changes_nothing(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    messages: list[str] = []
    train(pretrained.experiment, tmp_path / "slow", say=messages.append)
    shown = signs_of_progress(messages)
    # Figures were shown after steps 5, 10 and 12, and an evaluation after steps 6 and 12.
    assert [text for text in shown if text.startswith("step")] == [f"step {n}/12" for n in (1, 2, 3, 4, 7, 8, 9, 11)]
    assert any(text.startswith("evaluating ") for text in shown)
    alone: list[str] = []
    load(pretrained.workdir).evaluate(say=alone.append)
    assert len(signs_of_progress(alone)) > 0
    assert not signs_of_progress(pretrained.messages)
    assert (tmp_path / "slow/metrics.jsonl").read_text() == pretrained.metrics


def test_training_works_outside_the_main_thread(tuned, tmp_path):
    workdir, results = tuned.copy_to(tmp_path / "run", first_steps=8), []
    thread = threading.Thread(target=lambda: results.append(train(tuned.experiment, workdir, say=silent)))
    thread.start()
    thread.join()
    assert results[0]["step"] == 12
