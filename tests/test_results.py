"""The table of results and its figures come from the files beside them, and from nothing else."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax import train
from helpers.experiments import fine_tuning, pretraining, silent

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("results", ROOT / "tools/results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_says_what_the_files_say(tool):
    text = tool.README.read_text()
    assert text.partition(tool.BEGIN)[2].partition(tool.END)[0] == tool.part()


def test_no_figure_stands_without_its_file_of_results(tool):
    figures, files = ({path.stem for path in tool.RESULTS.glob(f"*.{ending}")} for ending in ("svg", "json"))
    assert figures == files - set(tool.TASKS)


@pytest.mark.parametrize(
    ("experiment", "runs"),
    [
        ("from_scratch_or_pretrained", ["sst2-100-random", "sst2-100-imdb", "sst2-all-random"]),
        ("freezing", ["sst2-none", "sst2-all-layers"]),
    ],
)
def test_a_figure_and_a_table_are_made_of_a_file_alone(tool, tmp_path, experiment, runs):
    one = {"kind": "SequenceClassification", "steps": 9, "tokens": 5000, "seconds": 2.5, "parameters": 1234}
    found = {run: {"figures": {"accuracy": [0.5, 0.7]}, **one} for run in runs}
    results = {"experiment": experiment, "finding": "Found.", "does_not_show": "", "runs": found}
    tool.draw(json.loads(json.dumps(results)), tmp_path / "a.svg")
    tool.draw(results, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    lines = tool.section(results).splitlines()
    assert f"| {runs[0]} | accuracy 60.0 ± 14.1 % | 2 | 1,234 | 9 | 5,000 | 2 |" in lines
    assert "**Found.**" in lines


def test_what_a_checkpoint_said_of_itself_stands_beside_what_was_tuned_from_it(tool, tmp_path):
    lines = [
        {"step": 10, "split": split, "loss": 9.0, "mlm_loss": 5.5, "pair_accuracy": 0.6} for split in ("train", "eval")
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    begun = tool.start(f"{tmp_path}@10")
    assert begun == {"mlm_loss": 5.5, "pair_accuracy": 0.6}
    assert tool.start(f"{tmp_path}@20") == tool.start(str(tmp_path)) == tool.start("") == {}
    one = {"kind": "SequenceClassification", "steps": 9, "tokens": 5000, "seconds": 2.5, "parameters": 1234}
    found = {"sst2-after-0": one | {"figures": {"accuracy": [0.5]}}}
    found["sst2-after-10"] = one | {"figures": {"accuracy": [0.6]}, "start": begun}
    found["entities-after-10"] = one | {"figures": {"f1": [0.5]}, "start": begun}
    results = {"experiment": "what_the_weights_learn", "finding": "", "does_not_show": "", "runs": found}
    assert "| sst2-after-10 | accuracy 60.0 %; before: mlm loss 5.50, pair accuracy 60.0 % |" in tool.section(results)
    tool.draw(results, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f"<!-- {panel} -->" in drawn for panel in ("sst2", "entities", "mlm loss", "pair accuracy"))


def test_pre_trainings_of_a_sweep_are_drawn_as_curves(tool, tmp_path):
    one = {"kind": "Pretraining", "steps": 20, "tokens": 5000, "seconds": 2.5, "parameters": 1234}
    one |= {"figures": {"mlm_accuracy": [0.2]}, "curve": {"10": 6.0, "20": 5.0}}
    runs = {"15": one, "30": one, "asked-once": one | {"curve": {"1": 6.0}}}
    tool.draw({"experiment": "masking", "finding": "", "does_not_show": "", "runs": runs}, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<!-- step of pre-training -->" in drawn
    # Each has a point and its name beside it; a curve and a name in the legend is for those measured again.
    assert [drawn.count(f"<!-- {run} -->") for run in runs] == [2, 2, 1]


def test_what_pytorch_found_and_what_was_changed_stand_in_the_table_of_tasks(tool):
    one = {"kind": "TokenClassification", "steps": 9, "tokens": 5000, "seconds": 2.5, "parameters": 1234}
    one |= {"figures": {"f1": [0.5, 0.7]}}
    named = {"ncbi_disease": one | {"flags": {"task.eval_limit": 700}, "pytorch": {"f1": [0.4, 0.4]}}}
    more = {"finding": "Found.", "does_not_show": ""}
    every = [
        {"experiment": "named_entities", "runs": named, **more},
        {"experiment": "chemprot", "runs": {"chemprot": one}, **more},
    ]
    text = tool.tasks_section(every)
    assert "| named_entities ncbi_disease `--task.eval-limit 700` | f1 60.0 ± 14.1 % | f1 40.0 ± 0.0 % | 2 |" in text
    assert "| chemprot | f1 60.0 ± 14.1 % |  | 2 |" in text
    assert text.count("**Found.**") == 2
    assert "PyTorch" in text


def write_experiment(tool, data, folder, monkeypatch, text):
    """Writes the experiment file tuned.py, and has `tool` look for it, and write its results, in `folder`."""
    monkeypatch.setattr(tool, "EXPERIMENTS", folder)
    monkeypatch.setattr(tool, "RESULTS", folder / "results")
    imports = f"from pathlib import Path\nfrom helpers.experiments import fine_tuning\ndata = Path({str(data)!r})\n"
    (folder / "tuned.py").write_text(imports + text)


def test_collecting_reads_each_seed_of_a_run_and_keeps_what_was_written_by_hand(tool, data, tmp_path, monkeypatch):
    write_experiment(tool, data, tmp_path, monkeypatch, "experiment = fine_tuning(data, steps=2, seeds=2)")
    experiment = tool.load_experiments(tmp_path / "tuned.py")[""]
    limited = replace(experiment, task=replace(experiment.task, limit=20))
    train(limited, tmp_path / "runs/tuned", say=silent)
    lines = [{"seed": seed, "metrics": {"accuracy": 0.1 * seed}} for seed in (1, 0)]
    (tmp_path / "tuned-tuned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tool.collect(tmp_path / "runs/tuned", tmp_path)
    found = json.loads(path.read_text())
    scores = json.loads((tmp_path / "runs/tuned/seeds.json").read_text())["runs"]
    assert found["runs"]["tuned"]["figures"]["accuracy"] == [round(scores[seed]["accuracy"], 5) for seed in "01"]
    assert found["runs"]["tuned"]["pytorch"] == {"accuracy": [0.0, 0.1]}
    assert found["runs"]["tuned"]["flags"] == {"task.limit": 20}
    path.write_text(json.dumps(found | {"finding": "By hand."}))
    tool.collect(tmp_path / "runs/tuned", tmp_path)
    assert json.loads(path.read_text())["finding"] == "By hand."


def test_runs_of_another_machine_stay_when_asked(tool, data, tmp_path, monkeypatch):
    write_experiment(tool, data, tmp_path, monkeypatch, "sweep = dict.fromkeys('abc', fine_tuning(data, steps=2))")
    train(tool.load_experiments(tmp_path / "tuned.py")["b"], tmp_path / "runs/tuned/b", say=silent)
    elsewhere = {name: {"figures": {"accuracy": [0.1]}} for name in ("gone", "b", "c")}
    for add, wanted in ((True, {"b", "c"}), (False, {"b"})):
        tool.RESULTS.mkdir(exist_ok=True)
        (tool.RESULTS / "tuned.json").write_text(json.dumps({"runs": elsewhere}))
        found = json.loads(tool.collect(tmp_path / "runs/tuned", add=add).read_text())["runs"]
        assert set(found) == wanted
        assert found["b"] != elsewhere["b"]
        assert found.get("c", elsewhere["c"]) == elsewhere["c"]


def test_the_quickstart_is_collected_by_its_stages_whatever_steps_a_seed_took(tool, data, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "RESULTS", tmp_path / "results")
    folder = tmp_path / "quickstart"
    train(pretraining(data, steps=2), folder / "pretrain", say=silent)
    for seed in (0, 1):
        train(fine_tuning(data, steps=2 + seed, seed=seed), folder / f"finetune/random-{seed}", say=silent)
    found = json.loads(tool.collect(folder).read_text())
    assert list(found["runs"]) == ["pretrain", "random"]
    assert len(found["runs"]["random"]["figures"]["accuracy"]) == 2
    assert found["runs"]["pretrain"]["figures"]["mlm_loss"] == [pytest.approx(3.0, abs=1.5)]
    lines = tool.section(found).splitlines()
    assert "`make quickstart`" in lines
    assert any(line.startswith("| random | accuracy ") for line in lines)
