"""Properties of the training step and of the loop around it."""

import json
import os
import re
import shutil
import signal
import threading
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax import Hook, train
from bert_jax.config import AdamW, Compute, Muon, SequenceClassification, to_json
from bert_jax.errors import InputError
from bert_jax.losses import Mean, Outcome
from bert_jax.pretrained import read_experiment
from bert_jax.runs.checkpoint import Checkpoints, load_params
from bert_jax.runs.workdir import Workdir
from bert_jax.training import budget, optimizer, progress
from bert_jax.training.step import TrainState, train_step
from helpers.corpora import WORDS
from helpers.experiments import fine_tuning, lines, pretraining, silent
from helpers.models import MODEL

# The step --------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    transformation = optimizer.make(AdamW(), 10)
    params = {"kernel": jnp.ones(3)}

    def loss_fn(params, batch, keys):
        return Outcome({"loss": Mean(jnp.sum(params["kernel"] * batch["x"]), jnp.ones(()))}, {}, {})

    step = partial(train_step, loss_fn=loss_fn, counts=lambda batch: {"loss": jnp.ones(())})
    state = TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params), jax.random.key(0), transformation)
    bad, sums = step(state, {"x": jnp.array([1.0, jnp.nan, 1.0]), "sequence_ids": jnp.ones((1, 3))})
    np.testing.assert_array_equal(bad.params["kernel"], params["kernel"])
    assert bad.step == 1
    assert sums["metrics"]["skipped"].sum == 1
    assert sums["losses"]["loss"].sum == 0
    good, sums = step(bad, {"x": jnp.ones(3), "sequence_ids": jnp.ones((1, 3))})
    assert sums["metrics"]["skipped"].sum == 0
    assert int(good.step) == 2


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


def test_a_hook_is_called_at_its_period_after_evaluations_and_before_checkpoints(data, tmp_path):
    experiment = pretraining(data, log_every=6, eval_every=6, checkpoint_every=0)
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


def test_what_a_hook_changes_is_in_the_checkpoint_of_its_step(data, tmp_path):
    def clear(loop):
        (seed_run,) = loop.seed_runs
        seed_run.state = seed_run.state.replace(params=jax.tree.map(jnp.zeros_like, seed_run.state.params))

    train(fine_tuning(data, steps=2), tmp_path / "run", say=silent, hooks=[Calls(at={2: clear})])
    step, params = load_params(tmp_path / "run/checkpoints")
    assert step == 2
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
    result = train(fine_tuning(data, task=task, batch_size=8, steps=800), tmp_path / "run", say=silent)
    assert result["metrics"]["accuracy"] == 1
    assert result["metrics"]["loss"] < 0.05


@pytest.mark.parametrize(
    "make",
    [pretraining, partial(fine_tuning, steps=12, eval_every=6, checkpoint_every=4, log_every=5, model=MODEL)],
    ids=["pretraining", "fine-tuning"],
)
def test_a_stopped_run_continues_to_the_same_bytes(data, tmp_path, make):
    whole = train(make(data), tmp_path / "whole", say=silent)
    signal_at = Calls(at={7: lambda loop: os.kill(os.getpid(), signal.SIGTERM)})  # in the middle of a window of figures
    train(make(data), tmp_path / "stopped", say=silent, hooks=[signal_at])
    assert lines(tmp_path / "stopped" / "metrics.jsonl")[-1]["step"] == 6
    again = train(make(data), tmp_path / "stopped", say=silent)
    assert (tmp_path / "stopped/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    assert again["metrics"] == whole["metrics"]
    assert again["tokens"] == whole["tokens"]


def test_lines_written_after_the_last_checkpoint_are_written_once(data, tmp_path):
    train(pretraining(data), tmp_path / "whole", say=silent)
    train(pretraining(data), tmp_path / "crashed", say=silent)
    # The state after `kill -9` at step 10: checkpoints 4 and 8, lines up to 10, the last one cut short.
    import shutil

    shutil.rmtree(tmp_path / "crashed/checkpoints/12")
    (tmp_path / "crashed/result.json").unlink()
    metrics = tmp_path / "crashed/metrics.jsonl"
    written = [line for line in metrics.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 10]
    metrics.write_text("".join(written) + '{"step": 11, "spl')
    train(pretraining(data), tmp_path / "crashed", say=silent)
    assert metrics.read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_fine_tuning_starts_from_the_pretrained_encoder_and_lists_new_weights(data, tmp_path):
    train(pretraining(data), tmp_path / "pretrained", say=silent)
    messages = []
    experiment = fine_tuning(data, model=None, tokenizer=None, init_from=str(tmp_path / "pretrained"), steps=1)
    train(experiment, tmp_path / "tuned", say=messages.append)
    report = next(text for text in messages if text.startswith("Weights from"))
    assert "newly initialised: sequence/out/bias, sequence/out/kernel" in report
    assert "left out: mlm/bias" in report
    stored = json.loads((tmp_path / "tuned/experiment.json").read_text())
    assert stored["model"]["hidden_size"] == 16
    assert stored["task"]["labels"] == ["no", "yes"]


def test_a_workdir_of_another_experiment_is_refused_and_left_alone(data, tmp_path):
    train(fine_tuning(data, steps=2), tmp_path / "run", say=silent)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"optimizer\.learning_rate is 0\.003 there and 0\.5 here"):
        train(fine_tuning(data, steps=2, optimizer=AdamW(learning_rate=0.5)), tmp_path / "run", say=silent)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_workdir_in_use_is_refused(data, tmp_path):
    with Workdir(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        train(fine_tuning(data), tmp_path / "run", say=silent)


def test_a_finished_run_is_not_run_again(data, tmp_path):
    first = train(fine_tuning(data, steps=2), tmp_path / "run", say=silent)
    messages = []
    assert train(fine_tuning(data, steps=2), tmp_path / "run", say=messages.append) == first
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


def test_how_a_run_is_computed_may_change_when_it_is_continued(data, tmp_path):
    messages, workdir = [], tmp_path / "run"
    train(pretraining(data, steps=8), workdir, say=silent)
    shutil.rmtree(workdir / "checkpoints" / "8")
    compute = Compute(sharding="single", param_dtype="bfloat16")
    experiment = pretraining(data, steps=8, checkpoint_every=2, compute=compute)
    with pytest.raises(InputError, match="batch_size is 8 there and 16 here; use another"):
        train(replace(experiment, batch_size=16), workdir, say=silent)
    with pytest.raises(InputError, match="pallas has no dropout"):
        train(replace(experiment, compute=Compute(attention="pallas")), workdir, say=silent)
    train(experiment, workdir, say=messages.append)
    assert f"Continuing {workdir} at step 4 of 8" in messages
    assert f"{workdir}: continues with compute.param_dtype bfloat16 instead of float32" in messages
    _, params = load_params(workdir / "checkpoints")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    stored = json.loads((workdir / "experiment.json").read_text())
    assert stored["compute"] == asdict(compute)


def test_minutes_decide_the_steps_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "TRIAL_SHARE", 0.0)
    messages = []
    experiment = fine_tuning(data, steps=0, minutes=20.0, eval_every=500)
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
        train(fine_tuning(data, steps=0, minutes=0.0001), tmp_path / "run", say=silent)
    with pytest.raises(InputError, match="minutes: they decide the number of steps; leave out steps and epochs"):
        fine_tuning(data, steps=5, minutes=1.0)
    with pytest.raises(InputError, match="minutes: they count from the first step; a run with branch_from needs steps"):
        fine_tuning(data, steps=0, minutes=1.0, branch_from="run@4")


def test_a_branch_equals_a_run_that_decayed_from_the_start(data, tmp_path):
    def run(steps, stable, **changes):
        muon = Muon(learning_rate=1e-3, warmup_share=2 / steps, stable_share=stable / steps)
        return pretraining(data, steps=steps, optimizer=muon, eval_every=4, keep_checkpoints=9, **changes)

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
        ({"steps": 4}, "is at step 4; `steps` must be larger, got 4"),
        ({"optimizer": Muon()}, "has another optimizer than this run: AdamW"),
        ({"model": replace(MODEL, num_layers=1)}, "has another model than this run"),
        ({"init_from": "elsewhere"}, "branch_from: takes all weights from its run; leave init_from out"),
        ({"branch_from": "no/such/run@4"}, "no/such/run@4: no such file or folder"),
        ({"branch_from": "{run}@3"}, "no checkpoint of step 3; there are those of 4"),
    ],
)
def test_a_branch_that_does_not_fit_is_refused(data, tmp_path, changes, message):
    train(pretraining(data, steps=4, eval_every=0), tmp_path / "run", say=silent)
    source = changes.get("branch_from", "{run}@4").format(run=tmp_path / "run")
    with pytest.raises(InputError, match=re.escape(message)):
        train(pretraining(data, **{"steps": 9} | changes | {"branch_from": source}), tmp_path / "branch", say=silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "give `model`"),
        ({"tokenizer": None}, "give `tokenizer`"),
        ({"steps": 0}, "give `steps`, `epochs` or `minutes`"),
        ({"model": replace(MODEL, vocab_size=999)}, "999 tokens and the tokenizer"),
        ({"compute": Compute(microbatches=3)}, "compute.microbatches: 3 does not divide"),
        ({"compute": Compute(sharding="pmap"), "batch_size": 12}, "does not divide by the 8 devices"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused_with_the_field(data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(fine_tuning(data, **changes), tmp_path / "run", say=silent)


@pytest.mark.parametrize(("apart", "signs"), [(0.0, 11), (1e9, 0)])
def test_progress_of_slow_steps_is_shown_and_changes_nothing(data, tmp_path, monkeypatch, apart, signs):
    monkeypatch.setattr(progress, "LINE_EVERY", apart)
    messages = []
    train(pretraining(data, log_every=12, eval_every=0), tmp_path / "slow", say=messages.append)
    assert sum(f"step {step}/12" in messages for step in range(1, 12)) == signs
    assert any(text.startswith("evaluating ") for text in messages) == (signs > 0)
    monkeypatch.undo()
    train(pretraining(data, log_every=12, eval_every=0), tmp_path / "plain", say=silent)
    assert lines(tmp_path / "slow" / "metrics.jsonl") == lines(tmp_path / "plain" / "metrics.jsonl")


def test_training_works_outside_the_main_thread(data, tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(fine_tuning(data, steps=2), tmp_path / "run", say=silent))
    )
    thread.start()
    thread.join()
    assert results[0]["step"] == 2
