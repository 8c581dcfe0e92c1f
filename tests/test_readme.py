"""What the README shows is true: commands, flags, the Python example, figures and the file tree."""

import dataclasses
import json
import re
import shlex
import statistics
from pathlib import Path

import jax
import pytest

from bert_jax import cli, sweeps, tokenizers
from bert_jax.config.tasks import TASK_KINDS
from bert_jax.data.prepare import prepare
from helpers.corpora import texts as some_texts
from helpers.experiments import pretraining, write_model
from helpers.models import MODEL

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "experiments" / "results"
PLACEHOLDER = re.compile(r"[A-Z]+\.py")  # a file of the reader's own, such as EXPERIMENT.py


def commands() -> list[list[str]]:
    """The `bert_jax` lines of the README and those inside its sentences, with continued lines joined."""
    joined = README.replace("\\\n", " ")
    lines = re.findall(r"(?m)^ {4}(?:.*\| )?(bert_jax .*)$", joined) + re.findall(r"`(bert_jax [^`]*)`", joined)
    return [shlex.split(line, comments=True) for line in lines]


def options(help_text: str) -> set[str]:
    """The options that a help text describes."""
    return set(re.findall(r"(?<![\w.-])--[a-z][\w.-]*\w", help_text))


def python_blocks() -> list[str]:
    return re.findall(r"(?s)```python\n(.*?)```", README)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_exists_with_its_flags(command, capsys):
    name, *rest = command[1:]
    assert name in cli.COMMANDS
    files = [argument for argument in rest[:1] if name == "train"]
    if files and PLACEHOLDER.fullmatch(files[0]):
        files = ["experiments/pretrain.py"]
    assert all((ROOT / file).exists() for file in files)
    with pytest.raises(SystemExit):
        cli.run([name, *(str(ROOT / file) for file in files), "--help"])
    flags = {argument for argument in rest if argument.startswith("--")} - {"--only"}  # read before the experiment
    allowed = options(capsys.readouterr().out) | {"--help"}
    if name != "train":  # the source decides the task
        names = {field.name for kind in TASK_KINDS.values() for field in dataclasses.fields(kind)}
        allowed |= {"--task." + field.replace("_", "-") for field in names}
    assert flags <= allowed


def test_options_are_compared_whole():
    assert options("--task.text-b STR  second text\n[--seed INT]") == {"--task.text-b", "--seed"}


def test_the_first_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    words = ["returns", "the", "number", "of", "in", "array", "sort", "list", "order", "elements", "add", "legend"]
    texts = [*some_texts(40), *(" ".join(words) + "." for _ in range(5))]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    tokenizers.train("wordpiece", texts, 120).save(tmp_path / "tokenizer")
    prepare([str(tmp_path / "corpus.txt")], tmp_path / "tokenizer", tmp_path / "store")
    write_model(tmp_path / "runs" / "quickstart" / "pretrain", pretraining(tmp_path))
    rows = "".join(f"{word} the {word}\t{'list' if n % 2 else 'array'}\n" for n, word in enumerate(words * 2))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(f"text\tlabel\n{rows}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])  # as on a laptop
    capsys.readouterr()
    exec(compile(python_blocks()[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert any(line == f"(2, {MODEL.hidden_size})" for line in printed)
    assert "'label'" in printed[-1]


def test_the_experiment_of_the_example_is_a_sweep(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(python_blocks()[1])
    assert list(sweeps.load_experiments(path)) == ["fast", "shared"]


def spreads(path: Path) -> set[str]:
    """Mean ± standard deviation in percent of every figure of a results file."""
    runs = json.loads(path.read_text())["runs"].values()
    figures = [figure for run in runs for figure in (run["figures"], run.get("pytorch", {}))]
    values = [scores for figure in figures for scores in figure.values() if len(scores) > 1]
    return {f"{100 * statistics.mean(scores):.1f} ± {100 * statistics.stdev(scores):.1f}" for scores in values}


def results_rows() -> list[str]:
    return [line for line in README.splitlines() if line.startswith("|") and "±" in line]


@pytest.mark.parametrize("row", results_rows(), ids=lambda row: row.split("|")[1].strip())
def test_figures_are_those_of_the_results_files(row):
    stem = match[1] if (match := re.search(r"experiments/(\w+)\.py", row)) else "quickstart"
    shown = re.findall(r"\d+\.\d ± \d+\.\d", row)
    assert len(shown) == 2
    assert set(shown) <= spreads(RESULTS / f"{stem}.json")


def test_the_picture_shows_the_figures_of_the_results_file():
    picture = (ROOT / "docs" / "quickstart.svg").read_text()
    assert "docs/quickstart.svg" in README
    shown = {f"{mean} ± {deviation}" for mean, deviation in re.findall(r"(\d+\.\d) % ± (\d+\.\d)", picture)}
    assert len(shown) == 2
    assert shown <= spreads(RESULTS / "quickstart.json")


def test_the_file_tree_lists_every_unit_and_nothing_that_is_missing():
    tree = README.partition("## What is where")[2].partition("## ")[0]
    listed = set(re.findall(r"(?m)^ {6}([\w.]+/?) ", tree))
    package = ROOT / "bert_jax"
    units = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    units |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert listed == units
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"(?m)^ {4}(\w+/) ", tree))
