"""Numbers out of their range are refused before anything is done, with the range."""

import dataclasses
import math
import typing

import pytest

from bert_jax.config import OPTIMIZER_KINDS, AdamW, BertConfig, Compute, Experiment, Pretraining
from bert_jax.config.ranges import RANGES
from bert_jax.config.tasks import TASK_KINDS
from bert_jax.errors import InputError
from helpers.cli import run

KINDS = [("", Experiment), ("compute.", Compute), ("model.", BertConfig)]
KINDS += [("optimizer.", kind) for kind in OPTIMIZER_KINDS.values()]
KINDS += [("task.", kind) for kind in TASK_KINDS.values()]
ELSEWHERE = {"null_threshold", "num_layer_groups"}  # any number; at most num_layers


def numbers(kind):
    """Yields the fields that hold a number, or several."""
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) is not typing.ClassVar:
            inner = {hint, *typing.get_args(hint)}
            if inner & {int, float}:
                yield name, hint


def made(kind, **fields):
    """A config whose other fields are right."""
    wrong = {"task": Pretraining()} if kind is Experiment else {}
    needed = {f.name: 16 for f in dataclasses.fields(kind) if f.default is f.default_factory}
    return kind(**(needed if kind is BertConfig else {}) | wrong | fields)


@pytest.mark.parametrize(("prefix", "kind"), KINDS)
def test_every_number_of_a_config_is_refused_out_of_its_range(prefix, kind):
    for name, hint in numbers(kind):
        if name in ELSEWHERE:
            continue
        allowed = RANGES[name]
        wrong = [allowed.least - 1, math.nan, math.inf]
        wrong += [] if math.isinf(allowed.most) else [allowed.most + 1]
        wrong += [allowed.least] if allowed.above else []
        wrong += [allowed.most] if allowed.below else []
        for value in wrong:
            field = (value,) if typing.get_origin(hint) is tuple else value
            with pytest.raises(InputError, match=rf"^{prefix}{name}: must be .*, got"):
                made(kind, **{name: field})


@pytest.mark.parametrize(("prefix", "kind"), KINDS)
def test_a_value_that_is_not_a_choice_is_refused_with_the_choices(prefix, kind):
    for name, hint in typing.get_type_hints(kind).items():
        for part in {hint, *typing.get_args(hint)}:
            if typing.get_origin(part) is typing.Literal:
                choices = ", ".join(map(str, typing.get_args(part)))
                with pytest.raises(InputError, match=f"^{prefix}{name}: must be one of {choices}, got 'other'"):
                    made(kind, **{name: "other"})


def test_a_range_is_part_of_the_message():
    for make, message in [
        (lambda: AdamW(warmup_share=2), "optimizer.warmup_share: must be between 0 and 1, got 2"),
        (lambda: AdamW(b1=1.0), "optimizer.b1: must be at least 0 and below 1, got 1.0"),
        (lambda: AdamW(epsilon=0.0), "optimizer.epsilon: must be above 0, got 0.0"),
        (lambda: Compute(microbatches=0), "compute.microbatches: must be at least 1, got 0"),
        (lambda: Experiment(Pretraining(), seed=-1), "seed: must be between 0 and 2147483647, got -1"),
        (
            lambda: Experiment(Pretraining(), batch_schedule=((1.5, 8), (-0.5, 16))),
            "batch_schedule, a share: must be above 0 and at most 1, got 1.5",
        ),
        (
            lambda: Pretraining(length_schedule=((0.5, 8), (0.5, 0))),
            "task.length_schedule, a value: must be at least 1, got 0",
        ),
        (
            lambda: Experiment(Pretraining(), batch_schedule=((0.5, 8), (0.4, 16))),
            "batch_schedule: the shares of the steps must add up to 1",
        ),
    ]:
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value) == message


def test_commands_refuse_numbers_and_paths_that_cannot_be(tmp_path, capsys):
    (tmp_path / "e.py").write_text(
        "from bert_jax.config import *\nexperiment = Experiment(SequenceClassification(train='rows.jsonl'), steps=1)\n"
    )
    (tmp_path / "file").write_text("text")
    train = ("train", tmp_path / "e.py", "--workdir", tmp_path / "run")
    plan = ("plan", tmp_path / "e.py")
    corpus = ("--corpus", tmp_path / "file")
    commands = [
        ((*train, "--batch-size", -4), "batch_size: must be at least 1, got -4"),
        ((*train, "--task.max-length", 2), "task.max_length: must be at least 3, got 2"),
        ((*train, "--task.eval-limit", -1), "task.eval_limit: must be at least 1, got -1"),
        ((*train, "--seed", -1), "seed: must be between 0 and"),
        ((*plan, "--devices", 0), "--devices: must be at least 1, got 0"),
        ((*plan, "--mfu", 0), "--mfu: must be above 0 and at most 1, got 0.0"),
        (
            ("prepare", *corpus, "--tokenizer", "t", "--out", "o", "--workers", 0),
            "--workers: must be at least 1, got 0",
        ),
        (("tokenizer", *corpus, "--out", tmp_path / "file"), "file: is a file; give a folder"),
        (("tokenizer", *corpus, "--out", "o", "--sample-mb", -1), "--sample-mb: must be above 0, got -1.0"),
        (("quickstart", "--minutes", "nan"), "--minutes: must be above 0, got nan"),
        (("report",), "report: name the workdir of a run"),
    ]
    for command, message in commands:
        assert run(*command) == 2, command
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
