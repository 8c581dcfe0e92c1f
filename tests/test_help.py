"""The help of each command has its purpose and its flags."""

import inspect
import re

import pytest

from bert_jax import cli
from helpers.cli import run


@pytest.mark.parametrize("command", sorted(cli.COMMANDS.keys() - {"train", "plan"}))
def test_help_of_every_command_has_its_purpose_and_options(command, capsys):
    assert run(command, "--help") == 0
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    purpose, *_, options = cli.COMMANDS[command].__doc__.partition("Args:")
    assert " ".join(purpose.split()) in shown
    described = re.findall(r"(?m)^ {8}(\w+): (.*)$", options)
    parameters = inspect.signature(cli.COMMANDS[command]).parameters.keys() - {"task_flags"}
    assert {name for name, _ in described} == parameters
    for name, first_line in described:
        assert first_line in shown
        flag = f"--{name.replace('_', '-')}"
        assert flag in re.findall(r"--[\w-]+", shown) or name in ("source", "target", "workdirs")


@pytest.mark.parametrize(
    ("command", "flags"), [("train", ["--workdir", "--only"]), ("plan", ["--accelerator", "--devices", "--mfu"])]
)
def test_help_without_an_experiment_has_the_usage_and_the_commands_own_flags(command, flags, capsys):
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bert_jax {command} EXPERIMENT.py ")
    assert set(flags) <= set(re.findall(r"--[\w-]+", out))
