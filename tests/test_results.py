"""The results page comes from the experiment files and the files of results, and can be read in a minute."""

import json
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from bert_jax import train
from bert_jax.sweeps import load_experiments
from helpers.experiments import fine_tuning, pretraining, silent, write_model
from helpers.fake_runs import write_run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
results, page, pictures = (import_module(name) for name in ("results", "results_page", "results_pictures"))

TEXT = page.README.read_text()
EVERY = page.load()
FILES = sorted(path.stem for path in page.EXPERIMENTS.glob("*.py") if path.stem not in page.SHARED)
ONE = {"kind": "SequenceClassification", "steps": 9, "tokens": 5000, "seconds": 2.5, "parameters": 1234}


def of(experiment: str, runs: dict, **more) -> dict:
    """A file of results with a minimum of text."""
    by_hand = {"answer": "Yes.", "found": {"confirmed": "So it is."}, "limits": "One seed.", "compared": {}}
    return {"experiment": experiment, **by_hand, "runs": runs, **more}


def test_the_page_is_what_the_files_give():
    assert TEXT.partition(page.BEGIN)[2].partition(page.END)[0] == page.page(EVERY)


def test_a_picture_has_its_file_of_results():
    names = {path.stem for path in page.RESULTS.glob("*.svg")}
    assert names == {every["experiment"] for every in EVERY if page.report_of(every["experiment"])["picture"]}


def test_the_first_screen_answers_every_question():
    screen = TEXT.splitlines()[:60]
    for every in EVERY:
        rows = [line for line in screen if line.endswith(f"[more](#{every['experiment']}) |")]
        assert len(rows) == 1
        assert every["answer"] in rows[0]
        assert re.search(r"\d+\.\d", rows[0])
        assert f'<a id="{every["experiment"]}"></a>' in TEXT


def test_every_experiment_file_is_on_the_page():
    assert all(f"[{name}.py]({name}.py)" in TEXT for name in FILES)


def test_no_paragraph_is_too_long():
    paragraphs = [block for block in re.split(r"\n\s*\n", TEXT) if not block.startswith(("|", "    "))]
    assert [block for block in paragraphs if page.words(block) > page.PARAGRAPH_WORDS] == []


def test_what_was_expected_is_on_the_page_word_for_word():
    for name in FILES:
        if any(every["experiment"] == name for every in EVERY):
            expected = " ".join(page.expectation(page.docstring_of(name)))
            assert page.words(expected) > 5
            assert expected[1:] in " ".join(TEXT.split())


def test_texts_have_few_words_a_verdict_and_measured_figures():
    runs = {"a": ONE | {"figures": {"f1": [0.5, 0.7]}, "pytorch": {"f1": [0.4, 0.4]}}}
    right = {"found": {"refuted": "F1 60.0 ± 14.1 % against 40.0 ± 0.0 %, or 60.0 %."}, "compared": {"a/pytorch": "a"}}
    assert page.problems(of("glue", runs, **right)) == []
    wrong = {"found": {"refuted": "F1 60.1 % and 60.0 ± 0.0 %"}, "answer": "so " * 21, "compared": {"b": "b"}}
    assert [problem.partition(": ")[2] for problem in page.problems(of("glue", runs, **wrong))] == [
        "answer has 21 words, expected at most 20",
        "compared has the unknown run b",
        "found quotes 60.1, which is not in the results",
        "found quotes 60.0 ± 0.0, which is not in the results",
    ]
    assert len(page.problems(of("glue", runs, found={"maybe": "F1."}, limits=""))) == 2


def test_an_experiment_file_sets_how_its_results_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EXPERIMENTS", tmp_path)
    (tmp_path / "a.py").write_text("REPORT = {'columns': ('seconds',)}\n")
    assert page.report_of("a") == page.DEFAULTS | {"columns": ("seconds",)}
    (tmp_path / "a.py").write_text("REPORT = {'column': ('seconds',)}\n")
    with pytest.raises(SystemExit, match="column"):
        page.report_of("a")


def test_a_documented_workdir_is_collected():
    for name in FILES:
        for workdir in re.findall(rf"train experiments/{name}\.py.*?--workdir (\S+)", page.docstring_of(name)):
            assert results.experiment_file(Path(workdir)) == page.EXPERIMENTS / f"{name}.py"
    with pytest.raises(SystemExit, match=r"runs/ner: .*experiments/ner\.py is missing"):
        results.experiment_file(Path("runs/ner"))


@pytest.mark.parametrize(
    ("experiment", "runs"),
    [
        ("from_scratch_or_pretrained", ["sst2-100-random", "sst2-100-imdb", "sst2-all-random"]),
        ("freezing", ["sst2-none", "sst2-all-layers"]),
    ],
)
def test_a_picture_and_a_table_are_made_of_a_file_alone(tmp_path, experiment, runs):
    some = of(experiment, {run: {"figures": {"accuracy": [0.5, 0.7]}, **ONE} for run in runs})
    pattern = page.report_of(experiment)["curves"]
    pictures.draw(json.loads(json.dumps(some)), tmp_path / "a.svg", pattern)
    pictures.draw(some, tmp_path / "b.svg", pattern)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    seconds = " | 2" if experiment == "freezing" else ""
    assert f"| {runs[0]} | accuracy 60.0 ± 14.1 % | 2{seconds} |" in page.section(some)
    assert "**Found:** *confirmed*. So it is." in page.section(some)


def test_a_checkpoint_has_its_figures_next_to_what_was_tuned_from_it(tmp_path):
    lines = [
        {"step": 10, "split": split, "loss": 9.0, "mlm_loss": 5.5, "pair_accuracy": 0.6} for split in ("train", "eval")
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert results.start(f"{tmp_path}@10") == {"mlm_loss": 5.5, "pair_accuracy": 0.6}
    assert results.start(f"{tmp_path}@20") == results.start(str(tmp_path)) == results.start("") == {}
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/10.json").write_text('{"accuracy": 0.625, "pairs": 8}')
    begun = results.start(f"{tmp_path}@10", tmp_path / "pairs")
    assert begun == {"mlm_loss": 5.5, "pair_accuracy": 0.6, "pairs_preferred": 0.625}
    runs = {"sst2-after-0": ONE | {"figures": {"accuracy": [0.5]}}}
    runs["sst2-after-10"] = ONE | {"figures": {"accuracy": [0.6]}, "start": begun}
    runs["entities-after-10"] = ONE | {"figures": {"f1": [0.5]}, "start": begun}
    some = of("what_the_weights_learn", runs)
    before = "MLM loss 5.50, pair accuracy 60.0 %, minimal pairs 62.5 %"
    assert f"| sst2-after-10 | accuracy 60.0 %; before fine-tuning: {before} | 1 |" in page.section(some)
    report = page.report_of("what_the_weights_learn")
    pictures.draw(some, tmp_path / "a.svg", report["curves"], report["x"])
    drawn = (tmp_path / "a.svg").read_text()
    assert all(
        f"<!-- {text} -->" in drawn
        for text in ("sst2", "entities", "MLM loss", "pair accuracy (%)", "minimal pairs (%)")
    )


def test_pre_trainings_of_a_sweep_are_drawn_as_curves(tmp_path):
    one = ONE | {"figures": {"mlm_accuracy": [0.2]}, "curve": {"10": 6.0, "20": 5.0}}
    runs = {"15": one, "30-b": one, "once": one | {"curve": {"1": 6.0}}}
    pictures.draw(of("masking", runs), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<!-- step of pre-training -->" in drawn
    # Each run has a point with its name. Only a run with several evaluations has a curve with its name in the legend.
    assert [drawn.count(f"<!-- {run} -->") for run in ("15", "30 b", "once")] == [2, 2, 1]


def test_scores_of_pytorch_and_changed_flags_have_columns():
    one = ONE | {"figures": {"f1": [0.5, 0.7]}}
    runs = {"a": one | {"flags": {"task.eval_limit": 700}, "pytorch": {"f1": [0.4, 0.4]}}, "b": one}
    assert page.table({"runs": runs})[2:] == [
        "| a | F1 60.0 ± 14.1 % | 2 | F1 40.0 ± 0.0 % | 20.0 (-107.1 to 147.1) | `--task.eval-limit 700` |",
        "| b | F1 60.0 ± 14.1 % | 2 |  |  |  |",
    ]


def test_the_difference_to_pytorch_is_that_of_the_same_seeds():
    """Student's t for two degrees of freedom is 4.303; the differences 1, 2 and 3 have the standard error 0.577."""
    run = {"figures": {"f1": [0.51, 0.62, 0.73]}, "pytorch": {"f1": [0.50, 0.60, 0.70]}}
    assert page.differences(run)["f1"] == pytest.approx((2.0, 2 - 4.303 * 0.57735, 2 + 4.303 * 0.57735), abs=1e-3)


def write_experiment(data, folder, monkeypatch, text):
    """Writes the experiment file tuned.py, and makes `folder` that of the experiments and their results."""
    monkeypatch.setattr(page, "EXPERIMENTS", folder)
    monkeypatch.setattr(page, "RESULTS", folder / "results")
    imports = f"from pathlib import Path\nfrom helpers.experiments import fine_tuning\ndata = Path({str(data)!r})\n"
    (folder / "tuned.py").write_text(imports + text)


def test_collecting_reads_each_seed_of_a_run_and_keeps_what_was_written_by_hand(data, tmp_path, monkeypatch):
    write_experiment(data, tmp_path, monkeypatch, "experiment = fine_tuning(data, steps=2, seeds=2)")
    experiment = load_experiments(tmp_path / "tuned.py")[""]
    limited = replace(experiment, task=replace(experiment.task, limit=20))
    train(limited, tmp_path / "runs/tuned", say=silent)
    lines = [{"seed": seed, "metrics": {"accuracy": 0.1 * seed}} for seed in (1, 0)]
    (tmp_path / "tuned-tuned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = results.collect(tmp_path / "runs/tuned", tmp_path)
    content = json.loads(path.read_text())
    scores = json.loads((tmp_path / "runs/tuned/seeds.json").read_text())["runs"]
    assert content["runs"]["tuned"]["figures"]["accuracy"] == [round(scores[seed]["accuracy"], 5) for seed in "01"]
    assert content["runs"]["tuned"]["pytorch"] == {"accuracy": [0.0, 0.1]}
    assert content["runs"]["tuned"]["flags"] == {"task.limit": 20}
    path.write_text(json.dumps(content | {"limits": "By hand."}))
    results.collect(tmp_path / "runs/tuned", tmp_path)
    assert json.loads(path.read_text())["limits"] == "By hand."


def pretend_to_train(workdir, experiment):
    write_run(workdir, write_model(workdir, experiment), 0.9)


def test_runs_of_another_machine_stay_when_asked(data, tmp_path, monkeypatch):
    write_experiment(
        data, tmp_path, monkeypatch, "sweep = dict.fromkeys('abc', fine_tuning(data, log_every=5, eval_every=10))"
    )
    pretend_to_train(tmp_path / "runs/tuned/b", load_experiments(tmp_path / "tuned.py")["b"])
    elsewhere = {name: {"figures": {"accuracy": [0.1]}} for name in ("gone", "b", "c")}
    for add, wanted in ((True, {"b", "c"}), (False, {"b"})):
        page.RESULTS.mkdir(exist_ok=True)
        (page.RESULTS / "tuned.json").write_text(json.dumps({"runs": elsewhere}))
        runs = json.loads(results.collect(tmp_path / "runs/tuned", add=add).read_text())["runs"]
        assert set(runs) == wanted
        assert runs["b"] != elsewhere["b"]
        assert runs.get("c", elsewhere["c"]) == elsewhere["c"]


def test_the_quickstart_is_collected_by_its_stages_whatever_steps_a_seed_took(data, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    folder = tmp_path / "quickstart"
    pretend_to_train(folder / "pretrain", pretraining(data, eval_every=10))
    names = ["finetune/random/seed-0", "finetune/random/seed-1"]
    for seed, name in enumerate(names):
        pretend_to_train(folder / name, fine_tuning(data, steps=20 + 10 * seed, eval_every=10, log_every=5, seed=seed))
    runs = json.loads(results.collect(folder).read_text())["runs"]
    assert list(runs) == ["pretrain", "random"]
    scores = {name: json.loads((folder / name / "result.json").read_text())["metrics"] for name in ["pretrain", *names]}
    assert runs["random"]["figures"]["accuracy"] == [round(scores[name]["accuracy"], 5) for name in names]
    assert runs["pretrain"]["figures"]["mlm_loss"] == [round(scores["pretrain"]["mlm_loss"], 5)]
    lines = page.section(of("quickstart", runs))
    assert "`make quickstart` runs it." in lines
    assert any(line.startswith("| random | accuracy ") for line in lines)
