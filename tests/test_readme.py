"""What the README shows works as printed."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from bert_jax import cli
from bert_jax.config import Experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))


def commands() -> list[list[str]]:
    """The `bert_jax` lines of the README, with continued lines joined."""
    joined = README.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"(?m)^ {4}(bert_jax .*)$", joined)]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_exists_with_its_flags(command, capsys):
    name, *rest = command[1:]
    assert name in cli.COMMANDS
    shown = [rest[0], "--help"] if name == "train" and rest else ["--help"]
    if name == "train" and not (ROOT / rest[0]).exists():
        return
    with pytest.raises(SystemExit):
        cli.run([name, str(ROOT / shown[0]) if len(shown) == 2 else shown[0], *shown[1:]])
    help_text = capsys.readouterr().out
    for flag in rest:
        assert not flag.startswith("--") or flag in help_text


def test_the_python_examples_name_what_exists():
    import bert_jax

    blocks = re.findall(r"(?s)```python\n(.*?)```", README)
    assert len(blocks) == 2
    assert len(blocks[0].strip().splitlines()) <= 12
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bert_jax":
                assert hasattr(bert_jax, node.attr)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_says_its_claim_time_and_command(path):
    experiments = cli.load_experiments(path)
    assert all(isinstance(experiment, Experiment) for experiment in experiments.values())
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Claim" in text
    assert "Time" in text
    assert f"bert_jax train experiments/{path.name} --workdir" in text
