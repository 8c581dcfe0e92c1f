"""Experiment files: what each docstring contains, and what a file may import."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax import sweeps
from bert_jax.config import PRESETS, Experiment, Pretraining, preset, recipe
from bert_jax.errors import InputError

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "common.py")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_docstring_has_question_expectation_time_and_command(path):
    experiments = sweeps.load_experiments(path)
    assert all(isinstance(experiment, Experiment) for experiment in experiments.values())
    first, blank, *rest = docstring(path).splitlines()
    assert first[-1] in "?."
    assert blank == ""
    starts = [line.partition(": ")[0] for line in rest if line.startswith(("Expected: ", "Time: "))]
    assert starts == ["Expected", "Time"]
    assert f"    bert_jax train experiments/{path.name} --workdir runs/" in docstring(path)


@pytest.mark.parametrize("path", [*FILES, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_a_documented_workdir_has_the_name_of_its_file(path):
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"bert_jax train experiments/(\w+)\.py.*?--workdir runs/(\w[\w/.-]*)", text)
    assert all(workdir == name for name, workdir in commands if name != "FILE")


def test_a_file_imports_its_neighbours_from_any_workdir(tmp_path, monkeypatch):
    for folder, steps in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shared_recipe.py").write_text(
            "from bert_jax import Experiment, Pretraining, preset\n"
            f"run = Experiment(Pretraining(('store',)), model=preset('bert-tiny'), steps={steps})\n"
        )
        (tmp_path / folder / "file.py").write_text("from shared_recipe import run\nexperiment = run\n")
    monkeypatch.chdir(tmp_path)
    assert [sweeps.load_experiments(Path(folder, "file.py"))[""].steps for folder in "ab"] == [3, 4]


def test_a_recipe_takes_fields_of_the_experiment_and_of_its_task():
    fast = recipe("fast", stores=("store",), sequence_length=128, steps=7)
    assert (fast.task.stores, fast.task.sequence_length, fast.steps) == (("store",), 128, 7)
    assert replace(fast, steps=9) == recipe("fast", stores=("store",), sequence_length=128, steps=9)
    with pytest.raises(InputError, match=r"no recipe is called 'slow'; there are bert, fast"):
        recipe("slow")
    with pytest.raises(InputError, match=r"stages: neither Experiment nor Pretraining has this field"):
        recipe("fast", stages=3)


def test_bert_is_as_published():
    bert = recipe("bert")
    assert bert.batch_size * bert.steps == 256_000_000
    assert bert.optimizer.warmup_share * bert.steps == 10_000
    assert replace(bert.model, vocab_size=30522) == PRESETS["bert-base"]
    assert (bert.task.pairs, bert.task.mask_rate, bert.task.last_mask_rate) == ("nsp", 0.15, None)


def test_a_run_that_begins_with_one_seed_of_another_is_planned_like_it_and_trained_from_its_folder():
    first = Experiment(Pretraining(("store",)), model=preset("bert-tiny"), steps=3, seeds=2)
    sweep = {"first": first, "second": replace(first, model=None, init_from="run:first/seed-1")}
    assert sweeps.for_planning(sweep["second"], sweep) == replace(first, init_from=None, tokenizer="store/tokenizer")
    assert sweeps.for_training(sweep["second"], "runs").init_from == "runs/first/seed-1"
