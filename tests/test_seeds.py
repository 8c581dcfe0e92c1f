"""Several seeds in one run, the best checkpoint, and stopping early."""

import json
import re
import shutil
import statistics
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import tokenizers, train
from bert_jax.answering import evaluate_source
from bert_jax.config import AdamW, Compute, Experiment, SequenceClassification
from bert_jax.devices import Devices, WrappedStep
from bert_jax.errors import InputError
from bert_jax.losses import Mean, Outcome
from bert_jax.predict import load
from bert_jax.runs.checkpoint import load_params
from bert_jax.tasks import Evaluation
from bert_jax.training import hooks, optimizer, run
from bert_jax.training.loop import stack_seeds
from bert_jax.training.step import TrainState, several_steps, train_step
from helpers.corpora import WORDS
from helpers.experiments import silent
from helpers.models import MODEL

# A step is the same program whatever the number of steps is.
CONSTANT = AdamW(learning_rate=1e-2, schedule="constant", warmup_share=0.0)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(60)]
    tokenizers.train("wordpiece", texts, 50).save(folder / "tokenizer")
    rows = [{"text": text, "label": "no" if i % 3 else "yes"} for i, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Experiment(
        task=SequenceClassification(folder=str(folder), train="rows.jsonl", eval="rows.jsonl", max_length=16),
        model=MODEL,
        tokenizer=str(folder / "tokenizer"),
        optimizer=CONSTANT,
        batch_size=8,
        steps=6,
        compute=Compute(sharding="single"),
        log_every=3,
        eval_every=3,
        checkpoint_every=3,
    )


def params_of(path):
    return jax.tree.map(np.asarray, load(path).params)


def test_each_seed_gives_what_its_own_run_gives(experiment, tmp_path):
    result = train(replace(experiment, seed=4, seeds=2), tmp_path / "many", say=silent)
    alone = train(replace(experiment, seed=5), tmp_path / "alone", say=silent)
    assert result["runs"]["5"] == alone["metrics"]
    assert (tmp_path / "many/seed-5/metrics.jsonl").read_text() == (tmp_path / "alone/metrics.jsonl").read_text()
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "many/seed-5"), params_of(tmp_path / "alone"))
    losses = [run["loss"] for run in result["runs"].values()]
    assert losses[0] != losses[1]
    assert result["metrics"]["loss"] == pytest.approx(statistics.mean(losses))
    assert result["spread"]["loss"] == pytest.approx(statistics.stdev(losses))
    assert json.loads((tmp_path / "many/seeds.json").read_text()) == result
    assert train(replace(experiment, seed=4, seeds=2), tmp_path / "many", say=silent) == result
    again = evaluate_source(str(tmp_path / "many"))
    assert again["metrics"] == pytest.approx(result["metrics"], rel=1e-5)
    assert again["spread"]["loss"] == pytest.approx(result["spread"]["loss"], rel=1e-3)


def test_random_weights_are_compiled_once_for_all_seeds(experiment, monkeypatch):
    traced = []
    monkeypatch.setattr(run, "random_state", lambda *args, whole=run.random_state: traced.append(0) or whole(*args))
    random = run.random_states(run.resolve(experiment), Devices("single", 2))
    seeds = (0, 1, 2**31 - 1)
    states = [random(seed) for seed in seeds]
    assert len(traced) == 2  # for the shapes, and to compile
    for seed, state in zip(seeds, states, strict=True):
        assert (jax.random.key_data(state.key) == jax.random.key_data(jax.random.key(seed))).all()
    assert len({float(jax.tree.leaves(jax.tree.map(jnp.std, state.params))[-1]) for state in states}) == len(seeds)


def test_another_file_is_scored_in_full_and_leaves_the_runs_own_score(experiment, tmp_path):
    few = replace(experiment, task=replace(experiment.task, eval_limit=5), steps=1, seeds=2)
    own = train(few, tmp_path / "run", say=silent)
    rows = [f'{{"text": "red cat {i}", "label": "{"no" if i % 2 else "yes"}"}}\n' for i in range(12)]
    for folder in ("one", "two"):  # two files of one name
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text("".join(rows[: 12 if folder == "one" else 4]))
        printed = []
        evaluate_source(str(tmp_path / "run"), str(tmp_path / folder / "test.jsonl"), printed.append)
        assert len(printed) == 2  # a line for each seed
    assert json.loads((tmp_path / "run/seeds.json").read_text()) == own
    for seed in ("0", "1"):
        run = tmp_path / f"run/seed-{seed}"
        assert json.loads((run / "result.json").read_text())["metrics"] == own["runs"][seed]
        results = [
            json.loads((run / "results" / name).read_text()) for name in ("test.jsonl.json", "test.jsonl-2.json")
        ]
        assert [result["rows"] for result in results] == [12, 4]
        assert sum(label["support"] for label in results[0]["tables"]["per_label"].values()) == 12
    mean = json.loads((tmp_path / "run/results/test.jsonl.json").read_text())
    assert mean["metrics"]["loss"] == pytest.approx(statistics.mean(run["loss"] for run in mean["runs"].values()))
    evaluate_source(str(tmp_path / "run"), str(tmp_path / "one/test.jsonl"), silent)  # again: nothing is added
    assert len(list((tmp_path / "run/seed-0/results").iterdir())) == 2


def linear(params, batch, keys):
    """A loss that compiles at once."""
    error = batch["x"] @ params["kernel"] - 1
    noise = 0 if keys.dropout is None else jax.random.normal(keys.dropout)
    return Outcome({"loss": Mean(jnp.sum(error**2) + noise, jnp.float32(error.size))}, {}, {})


def linear_counts(batch):
    return {"loss": jnp.float32(4 * len(batch["x"]))}


def linear_state(seed):
    change = optimizer.make(AdamW(learning_rate=0.1, warmup_share=0.0), 10)
    params = {"kernel": jax.random.normal(jax.random.key(seed), (8, 4))}
    return TrainState(jnp.int32(0), params, change.init(params), jax.random.key(seed), change)


def linear_batch(seed, rows=16):
    x = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return {"x": x, "sequence_ids": np.ones((rows, 1), np.int32)}


@pytest.mark.parametrize("sharding", ["single", "pmap", "mesh"])
def test_several_steps_at_once_are_single_steps(sharding):
    devices = Devices(sharding, 16)
    batches = [linear_batch(seed) for seed in range(3)]
    together = {name: np.stack([batch[name] for batch in batches], axis=1) for name in batches[0]}
    states = tuple(linear_state(seed) for seed in range(3))
    several = devices.wrap(several_steps, loss_fn=linear, counts=linear_counts)
    assert several.fits(states, together)
    at_once, sums = several(states, together)
    single = devices.wrap(train_step, loss_fn=linear, counts=linear_counts)
    for seed in range(3):
        expected, expected_sums = single(linear_state(seed), batches[seed])
        np.testing.assert_allclose(at_once[seed].params["kernel"], expected.params["kernel"], rtol=1e-5)
        np.testing.assert_allclose(sums[seed]["losses"]["loss"].sum, expected_sums["losses"]["loss"].sum, rtol=1e-5)
        assert int(sums[seed]["tokens"]) == 16


@pytest.mark.parametrize(
    ("parallel", "fits", "rows", "at_once"),
    [(True, True, 16, True), (True, False, 16, False), (True, True, 8, False), (False, True, 16, False)],
    ids=["at once", "no memory", "other shapes", "cpu"],
)
def test_seeds_take_their_steps_at_once_where_that_is_possible_and_faster(monkeypatch, parallel, fits, rows, at_once):
    monkeypatch.setattr(Devices, "parallel", parallel)
    monkeypatch.setattr(WrappedStep, "fits", lambda *args: fits)
    several = Devices("single", 16).wrap(several_steps, loss_fn=linear, counts=linear_counts)
    states, batches = [linear_state(0), linear_state(1)], [linear_batch(0), linear_batch(1, rows)]
    stacked = stack_seeds(several, states, batches)
    assert (stacked is not None) == at_once
    if stacked is not None:
        assert stacked["x"].shape == (16, 2, 8)
        np.testing.assert_array_equal(stacked["x"][:, 1], batches[1]["x"])
    assert stack_seeds(several, states[:1], batches[:1]) is None


def script(monkeypatch, accuracies):
    """Makes one evaluation after another return these accuracies, without running the model."""
    values = iter(accuracies)

    def scripted(*args):
        accuracy = next(values)
        return Evaluation({"accuracy": accuracy, "loss": -accuracy}, {}, {}, [])

    monkeypatch.setattr(hooks, "evaluate", scripted)


@pytest.mark.parametrize("figure", ["accuracy", "loss"])
def test_the_best_weights_are_kept_and_loaded(experiment, tmp_path, monkeypatch, figure):
    script(monkeypatch, [0.5, 0.9, 0.7])
    run = replace(experiment, steps=3, eval_every=1, checkpoint_every=1, keep_best=figure)
    result = train(run, tmp_path / "best", say=silent)
    assert result["metrics"]["accuracy"] == 0.9
    assert (result["step"], result["best_step"], result["stopped_early"]) == (3, 2, False)
    last = load_params(tmp_path / "best/checkpoints")
    shutil.rmtree(tmp_path / "best/checkpoints/3")
    second = load_params(tmp_path / "best/checkpoints")
    assert (last[0], second[0]) == (3, 2)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "best"), second[1])
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (last[1], second[1])), strict=True))


def test_a_figure_that_is_not_finite_is_never_the_best(experiment, tmp_path, monkeypatch):
    nan, infinite = float("nan"), float("inf")
    script(monkeypatch, [nan, infinite, 0.4, nan, 0.6])
    run = replace(experiment, steps=5, eval_every=1, checkpoint_every=0, keep_best="accuracy", patience=3)
    result = train(run, tmp_path / "run", say=silent)
    assert (result["step"], result["best_step"], result["metrics"]["accuracy"]) == (5, 5, 0.6)
    script(monkeypatch, [nan, nan])
    result = train(replace(run, steps=2), tmp_path / "never", say=silent)
    assert (result["best_step"], result["metrics"]) == (None, {"accuracy": None, "loss": None})
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")]:
        assert not re.search(r"\b(NaN|Infinity)\b", path.read_text()), path
    script(monkeypatch, [nan, 0.5, nan, 0.5])
    both = train(replace(run, steps=1, seeds=2, keep_best="", patience=0), tmp_path / "both", say=silent)
    assert both["metrics"] == both["spread"] == {}


def test_a_seed_that_runs_out_of_patience_stops_and_the_others_continue(experiment, tmp_path, monkeypatch):
    # Both seeds in turn, until the first one stops at step 3.
    script(monkeypatch, [0.5, 0.5, 0.4, 0.6, 0.3, 0.5, 0.7, 0.6, 0.5])
    run = replace(experiment, eval_every=1, log_every=1, keep_best="accuracy", patience=2, seeds=2)
    figures = train(run, tmp_path / "run", say=silent)
    assert figures["runs"]["0"]["accuracy"] == 0.5
    assert figures["runs"]["1"]["accuracy"] == 0.7
    results = [json.loads((tmp_path / f"run/seed-{seed}/result.json").read_text()) for seed in (0, 1)]
    assert [(r["step"], r["best_step"], r["stopped_early"]) for r in results] == [(3, 1, True), (6, 4, True)]
    last = [json.loads((tmp_path / f"run/seed-{s}/metrics.jsonl").read_text().splitlines()[-1])["step"] for s in (0, 1)]
    assert last == [3, 6]
    messages = []
    assert train(run, tmp_path / "run", say=messages.append) == figures  # and stays stopped, though both saved step 3
    assert messages[-1].endswith("finished already, at step 6")


def test_impossible_settings_are_refused_before_anything_is_written(experiment, tmp_path):
    with pytest.raises(InputError, match="patience: name the figure"):
        train(replace(experiment, patience=1), tmp_path / "a", say=silent)
    with pytest.raises(InputError, match="seeds: must be at least 1, got 0"):
        train(replace(experiment, seeds=0), tmp_path / "a", say=silent)
    assert not (tmp_path / "a").exists()
    train(replace(experiment, steps=1), tmp_path / "b", say=silent)
    with pytest.raises(InputError, match="holds a run with one seed"):
        train(replace(experiment, seeds=2), tmp_path / "b", say=silent)
    with pytest.raises(InputError, match="keep_best: the evaluation has no figure 'f2'; it has loss, class_loss"):
        train(replace(experiment, keep_best="f2", steps=1), tmp_path / "c", say=silent)
