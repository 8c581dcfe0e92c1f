"""Every command, end to end on tiny data. Bad input gets one clear line and exit code 2, and nothing is lost."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax import predict, pretrained, tokenizers
from bert_jax.data.rows import Row
from bert_jax.errors import InputError
from bert_jax.predict import load
from helpers.cli import run
from helpers.corpora import WORDS

PRETRAIN = """
from bert_jax.config import BertConfig, Compute, Experiment, AdamW, Pretraining
experiment = Experiment(
    task=Pretraining(stores=("{folder}/store",), sequence_length=32, held_out=0.2),
    model=BertConfig(vocab_size=0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16,
                     max_position_embeddings=32, hidden_dropout=0.0, attention_dropout=0.0),
    optimizer=AdamW(learning_rate=1e-3, schedule="constant", warmup_share=0.0),
    batch_size=8, steps=4, log_every=2, compute=Compute(sharding="single"),
)
"""
FINE_TUNE = """
from bert_jax.config import Compute, Experiment, AdamW, SequenceClassification
base = dict(init_from="{folder}/pretrained", batch_size=8, steps=2, compute=Compute(sharding="single"))
task = SequenceClassification(train="{folder}/train.jsonl", eval="{folder}/dev.jsonl", max_length=16)
# A step with a constant learning rate is the same program in runs of any length.
slow, fast = (AdamW(learning_rate=rate, schedule="constant", warmup_share=0.0) for rate in (1e-4, 1e-2))
sweep = {{"slow": Experiment(task=task, optimizer=slow, **base), "fast": Experiment(task=task, optimizer=fast, **base)}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a tokenizer, a store, a pre-trained run and a fine-tuned sweep, all made by the commands."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, 6)).capitalize() + "."

    documents = ["\n".join(sentence() for _ in range(5)) for _ in range(60)]
    (folder / "a.txt").write_text("\n\n".join(documents[:30]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents[30:]))
    for name in ("train", "dev"):
        rows = [{"text": sentence(), "label": ["no", "yes"][n % 2]} for n in range(16)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pretrain.py").write_text(PRETRAIN.format(folder=folder))
    (folder / "fine_tune.py").write_text(FINE_TUNE.format(folder=folder))
    corpus = ["--corpus", folder / "a.txt", folder / "b.jsonl"]
    assert run("tokenizer", *corpus, "--out", folder / "tokenizer", "--vocab-size", 60) == 0
    assert run("prepare", *corpus, "--tokenizer", folder / "tokenizer", "--out", folder / "store") == 0
    assert run("train", folder / "pretrain.py", "--workdir", folder / "pretrained") == 0
    assert run("train", folder / "fine_tune.py", "--workdir", folder / "sweep") == 0
    return folder


def test_a_sweep_runs_each_experiment_in_a_folder_of_its_name(folder):
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        stored = json.loads((folder / "sweep" / name / "experiment.json").read_text())
        assert stored["optimizer"]["learning_rate"] == rate
        assert json.loads((folder / "sweep" / name / "result.json").read_text())["step"] == 2


def test_a_run_of_a_sweep_starts_from_a_checkpoint_of_another_one(folder, tmp_path):
    text = """
from dataclasses import replace
first = Experiment(task=task, optimizer=slow, checkpoint_every=1, **base)
sweep = {"first": first, "second": replace(first, init_from="run:first@1", steps=1)}
"""
    (tmp_path / "chain.py").write_text(FINE_TUNE.format(folder=folder) + text)
    assert run("train", tmp_path / "chain.py", "--workdir", tmp_path / "runs") == 0
    stored = json.loads((tmp_path / "runs/second/experiment.json").read_text())
    assert stored["init_from"] == str(tmp_path / "runs/first@1")
    names = ("first@1", "first@2", "first")
    weights = [jax.tree.leaves(pretrained.open_source(tmp_path / "runs" / name).read_params()[0]) for name in names]
    assert not all(map(np.array_equal, weights[0], weights[1]))
    assert all(map(np.array_equal, weights[1], weights[2]))
    with pytest.raises(InputError, match="no checkpoint of step 7; there are those of 1, 2"):
        pretrained.open_source(tmp_path / "runs/first@7").read_params()


def test_flags_change_the_model_of_a_run_whose_source_does_not_exist_yet(folder, tmp_path):
    text = """
from dataclasses import replace
first = Experiment(task=task, optimizer=slow, **base)
sources = {"second": "run:first", "itself": "run:itself"}
sweep = {name: replace(first, init_from=source) for name, source in sources.items()}
sweep["first"] = first
"""
    (tmp_path / "chain.py").write_text(FINE_TUNE.format(folder=folder) + text)
    flags = ["--model.initializer-range", 0.3, "--steps", 1, "--workdir", tmp_path / "runs"]
    assert run("train", tmp_path / "chain.py", "--only", "first", *flags) == 0
    assert run("train", tmp_path / "chain.py", "--only", "second", *flags) == 0
    for name in ("first", "second"):
        assert json.loads((tmp_path / f"runs/{name}/experiment.json").read_text())["model"]["initializer_range"] == 0.3
    assert run("train", tmp_path / "chain.py", "--only", "itself", *flags) == 2


def test_a_sweep_is_planned_before_any_of_its_runs_exists(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bert_jax.runtime.pretend_devices", lambda count: None)  # this process has devices already
    text = """
from dataclasses import replace
sweep = {"first": experiment, "second": replace(experiment, init_from="run:first", model=None, steps=3)}
"""
    (tmp_path / "chain.py").write_text(PRETRAIN.format(folder=folder) + text)
    assert run("plan", tmp_path / "chain.py") == 0
    first, second = capsys.readouterr().out.split("second")
    assert next(line for line in first.splitlines() if "parameters" in line) in second
    assert "steps               3" in second


def test_flags_change_fields_and_only_picks_one_of_a_sweep(folder, tmp_path):
    flags = ["--only", "fast", "--steps", 3, "--optimizer.weight-decay", 0.5, "--model.initializer-range", 0.3]
    assert run("train", folder / "fine_tune.py", "--workdir", tmp_path, *flags) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["fast"]
    stored = json.loads((tmp_path / "fast/experiment.json").read_text())
    assert (stored["steps"], stored["optimizer"]["weight_decay"]) == (3, 0.5)
    assert stored["model"]["initializer_range"] == 0.3
    assert stored["model"]["hidden_size"] == 16  # from the source: no flag changes it


def test_evaluate_prints_and_stores_the_figures_of_training(folder, capsys):
    before = json.loads((folder / "sweep/fast/result.json").read_text())
    assert run("evaluate", folder / "sweep/fast") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == pytest.approx(before["metrics"])
    assert run("evaluate", folder / "sweep/fast", "--data", folder / "train.jsonl") == 0
    printed = capsys.readouterr()
    after = json.loads((folder / "sweep/fast/result.json").read_text())
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["tokens"] == before["tokens"]
    other = json.loads((folder / "sweep/fast/results/train.jsonl.json").read_text())
    assert other["data"] == str(folder / "train.jsonl")
    assert other["rows"] == 16
    assert other["metrics"] == json.loads(printed.out)
    assert f"scored on all 16 rows of {folder / 'train.jsonl'}" in printed.err


def test_predict_answers_each_line_in_order(folder, capsys):
    assert run("predict", folder / "sweep/fast", "--input", folder / "dev.jsonl") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 16
    for answer in answers:
        assert answer["label"] in ("no", "yes")
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_predict_reads_every_format_that_train_reads(folder, tmp_path, capsys, monkeypatch):
    jsonl = '\ufeff{"text": "red cat"}\n\n{"text": "blue dog"}\n'
    (tmp_path / "a.jsonl").write_text(jsonl)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    (tmp_path / "a.csv").write_text("id,text\n1,red cat\n2,blue dog\n")
    (tmp_path / "a.lines").write_text(jsonl)  # an ending that names no format
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jsonl.encode())))
    outputs = []
    for data in (*sorted(tmp_path.iterdir()), "-"):
        assert run("predict", folder / "sweep/fast", "--input", data) == 0
        outputs.append(capsys.readouterr().out)
    assert len(outputs[0].splitlines()) == 2
    assert outputs == outputs[:1] * 5


BAD_INPUTS = {
    "latin-1": ("b.jsonl", '{"text": "cat"}\n{"text": "caf\xe9"}\n'.encode("latin-1"), "b.jsonl:2: not UTF-8"),
    "utf-16": ("b.jsonl", '{"text": "cat"}\n'.encode("utf-16"), "iconv -f utf-16"),
    "cut off": ("b.jsonl.gz", gzip.compress(b'{"text": "cat"}\n')[:-9], "damaged or cut off"),
    "no text": ("b.tsv", b"words\ncat\n", "no row has a field or column 'text'"),
    "missing": ("b.txt", None, "b.txt: no such file"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
@pytest.mark.parametrize("command", [("predict", "--input"), ("evaluate", "--data")])
def test_bad_rows_to_predict_or_evaluate_are_one_line(folder, tmp_path, capsys, kind, command):
    name, content, message = BAD_INPUTS[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run(command[0], folder / "sweep/fast", command[1], tmp_path / name) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_predict_ends_quietly_if_nobody_reads_on(folder, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "red cat"}\n' * 2000)
    shown = f"{sys.executable} -m bert_jax.cli predict {folder / 'sweep/fast'} --input {tmp_path / 'in.jsonl'}"
    done = subprocess.run(f"{shown} | head -1", shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["label"] in ("no", "yes")
    assert done.stderr == ""


def test_predict_in_python_takes_a_list_and_nothing_else(folder):
    bert = load(folder / "sweep/fast")
    first, second = bert.predict(["red cat", {"text": "red cat"}])
    assert first == second
    for one in ("good", {"text": "good"}, Row({"text": "good"}, "here")):
        with pytest.raises(InputError, match="give a list of texts or rows, not one"):
            bert.predict(one)
    for item in (None, 5, ["red", "cat"]):
        with pytest.raises(InputError, match=r"input 2: expected a text, or a row such as \{'text': \.\.\.\}"):
            bert.predict(["red cat", item])


def test_predict_fills_masks_with_any_mlm_head(folder, tmp_path, capsys):
    assert run("convert", folder / "pretrained", tmp_path / "exported") == 0
    (tmp_path / "in.csv").write_text("text\nThe [MASK] runs.\n")
    capsys.readouterr()
    answers = []
    for source in (folder / "pretrained", tmp_path / "exported"):
        assert run("predict", source, "--input", tmp_path / "in.csv") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [token for token, _ in answers[0]["fill_mask"]] == [token for token, _ in answers[1]["fill_mask"]]
    (tmp_path / "in.jsonl").write_text('{"text": 5}\n')
    assert run("predict", tmp_path / "exported", "--input", tmp_path / "in.jsonl") == 2
    assert "in.jsonl:1: field 'text' should be a text, not 5" in capsys.readouterr().err


def test_predict_fills_masks_after_pretraining(folder, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": "The [MASK] runs [MASK]."}\n')
    assert run("predict", folder / "pretrained", "--input", tmp_path / "in.jsonl") == 0
    (first, second) = json.loads(capsys.readouterr().out)["fill_mask"]
    assert len(first) == len(second) == 5


def test_report_shows_runs_side_by_side(folder, tmp_path, capsys):
    assert run("report", folder / "sweep", folder / "pretrained", "--out", tmp_path / "r.html") == 0
    assert "accuracy" in capsys.readouterr().out
    page = (tmp_path / "r.html").read_text()
    for name in ("slow", "fast"):
        accuracy = json.loads((folder / "sweep" / name / "result.json").read_text())["metrics"]["accuracy"]
        rows = [row for row in page.split("<tr") if f"sweep/{name}</th>" in row]
        assert any(f">{accuracy:.4f}<" in row for row in rows)
    assert "<th>pretrained</th>" in page


def test_prepare_on_beam_without_the_extra_names_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    flags = ["--corpus", folder / "a.txt", "--tokenizer", folder / "tokenizer", "--out", tmp_path / "store"]
    assert run("prepare", *flags, "--runner", "DirectRunner", "--beam-options", "direct_num_workers=1") == 2
    assert "bert_jax[beam]" in capsys.readouterr().err
    assert run("prepare", *flags, "--beam-options", "direct_num_workers=1") == 2
    assert "--runner" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_of_train_lists_the_fields_of_the_file(folder, capsys):
    assert run("train", folder / "pretrain.py", "--help") == 0
    out = capsys.readouterr().out
    assert "--task.mask-rate" in out
    assert "default: 0.15" in out


def test_the_installed_command_ends_with_code_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.cli", "evaluate", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere:")
    assert len(done.stderr.splitlines()) == 1


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# The content of a bad file, and the file and line that the message must name.
BAD_CORPORA = {
    "missing": (None, "bad.txt"),
    "empty": (b"", "bad.txt"),
    "binary": (b"text\n\n\x00\x01\x02\xff\xfe" * 50, "bad.txt"),
    "latin-1": ("Déjà vu.\n".encode("latin-1"), "bad.txt:1"),
}
BAD_JSON_LINES = {
    "no JSON": (b'{"text": "fine"}\n{"text": \n', "bad.jsonl:2"),
    "no text": (b'{"text": "fine"}\n{"words": "none"}\n', "bad.jsonl:2"),
}


@pytest.mark.parametrize("kind", BAD_CORPORA | BAD_JSON_LINES)
@pytest.mark.parametrize("command", ["tokenizer", "prepare"])
def test_a_bad_corpus_is_named(folder, tmp_path, capsys, command, kind):
    content, where = (BAD_CORPORA | BAD_JSON_LINES)[kind]
    path = tmp_path / where.partition(":")[0]
    if content is not None:
        path.write_bytes(content)
    before = everything_in(folder)
    flags = ["--vocab-size", 60] if command == "tokenizer" else ["--tokenizer", folder / "tokenizer"]
    assert run(command, "--corpus", path, *flags, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert where in error
    assert "Traceback" not in error
    assert everything_in(folder) == before


def test_a_line_of_megabytes_is_read_whole(folder, tmp_path):
    (tmp_path / "long.txt").write_text("red blue cat " * (2_000_000 // 13))
    flags = ["--tokenizer", folder / "tokenizer", "--out", tmp_path / "store"]
    assert run("prepare", "--corpus", tmp_path / "long.txt", *flags) == 0
    header = json.loads((tmp_path / "store/header.json").read_text())
    assert header["summary"]["words"] == 3 * (2_000_000 // 13)


BAD_RUNS = {
    "unknown flag": (["--model.num-layer", "4"], "--model.num-layer"),
    "mistyped value": (["--steps", "many"], "--steps"),
    "missing column": (["--task.label", "colour"], "colour"),
    "missing rows": (["--task.train", "nowhere.jsonl"], "nowhere.jsonl"),
    "missing source": (["--init-from", "nowhere"], "nowhere"),
    "another experiment": (["--optimizer.b1", "0.5"], "optimizer.b1"),
    "unknown name": (["--only", "middling"], "middling"),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_a_bad_run_is_refused_and_leaves_the_workdir_alone(folder, capsys, kind):
    flags, named = BAD_RUNS[kind]
    before = everything_in(folder)
    assert run("train", folder / "fine_tune.py", "--workdir", folder / "sweep", *flags) == 2
    captured = capsys.readouterr()
    assert named in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert everything_in(folder) == before


def test_an_unknown_label_at_evaluation_is_named_with_its_line(folder, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"text": "red", "label": "no"}\n{"text": "red", "label": "maybe"}\n')
    assert run("evaluate", folder / "sweep/fast", "--data", tmp_path / "rows.jsonl") == 2
    error = capsys.readouterr().err
    assert "rows.jsonl:2" in error
    assert "maybe" in error


def test_a_line_to_predict_that_lacks_its_text_is_named(folder, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"text": "red"}\n{"label": "no"}\n')
    assert run("predict", folder / "sweep/fast", "--input", tmp_path / "rows.jsonl") == 2
    assert "rows.jsonl:2" in capsys.readouterr().err


def test_a_store_of_another_tokenizer_is_refused(folder, tmp_path, capsys):
    flags = ["--corpus", folder / "a.txt", "--out", tmp_path / "other", "--vocab-size", 50]
    assert run("tokenizer", *flags) == 0
    capsys.readouterr()  # the small vocabulary gives a warning
    assert run("train", folder / "pretrain.py", "--workdir", tmp_path / "w", "--tokenizer", tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'store'}: was made with another tokenizer (fingerprint ")
    assert error.endswith(f"prepare the text again, or use {folder / 'store/tokenizer'}\n")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("x = 1\n", "experiment"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("experiment = (\n", "bad.py"),
    ],
)
def test_an_experiment_file_without_an_experiment_is_named(tmp_path, capsys, content, named):
    (tmp_path / "bad.py").write_text(content)
    assert run("train", tmp_path / "bad.py", "--workdir", tmp_path / "w") == 2
    error = capsys.readouterr().err
    assert "bad.py" in error
    assert named in error


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    assert run("tain") == 2
    assert "train" in capsys.readouterr().err


def test_convert_writes_what_transformers_loads_and_back(folder, tmp_path):
    assert run("convert", folder / "pretrained", tmp_path / "exported") == 0
    assert (tmp_path / "exported/model.safetensors").exists()
    assert run("convert", tmp_path / "exported", tmp_path / "back", "--to", "orbax") == 0
    flags = ["--only", "slow", "--init-from", tmp_path / "back"]
    assert run("train", folder / "fine_tune.py", "--workdir", tmp_path / "w", *flags) == 0


def test_convert_leaves_a_folder_with_files_in_it_alone(folder, capsys):
    before = everything_in(folder / "store")
    assert run("convert", folder / "pretrained", folder / "store") == 2
    assert "not empty" in capsys.readouterr().err
    assert everything_in(folder / "store") == before


def test_a_model_gets_markers_with_flags_too_and_is_continued(folder, tmp_path):
    pieces = tokenizers.load(folder / "pretrained/tokenizer").vocab_size
    flags = ["--only", "slow", "--workdir", tmp_path / "runs", "--task.markers", "<<", ">>"]
    # With a --model flag, the model is the source's, whose vocabulary is smaller; the second command continues.
    for _ in range(2):
        assert run("train", folder / "fine_tune.py", *flags, "--model.initializer-range", 0.3) == 0
    stored = json.loads((tmp_path / "runs/slow/experiment.json").read_text())
    assert (stored["model"]["vocab_size"], stored["model"]["initializer_range"]) == (pieces + 2, 0.3)
    assert run("convert", tmp_path / "runs/slow", tmp_path / "exported") == 0
    exported = tokenizers.load(tmp_path / "exported")
    assert [exported.piece_id(marker) for marker in ("<<", ">>")] == [pieces, pieces + 1]


def test_extend_adds_tokens_and_the_result_can_be_trained_on(folder, tmp_path, capsys):
    text = " ".join(["angiogenesis", "thrombosis", "red"] * 20)
    (tmp_path / "domain.txt").write_text(f"{text}.\n\n{text}.\n")
    flags = ["--corpus", tmp_path / "domain.txt", "--num-tokens", 2]
    assert run("extend", folder / "pretrained", tmp_path / "longer", *flags) == 0
    assert "tokens per word" in capsys.readouterr().out
    stored = json.loads((tmp_path / "longer/experiment.json").read_text())
    assert stored["model"]["vocab_size"] == 62
    corpus = ["--corpus", folder / "a.txt", tmp_path / "domain.txt"]
    flags = ["--tokenizer", tmp_path / "longer/tokenizer", "--out", tmp_path / "store"]
    assert run("prepare", *corpus, *flags) == 0
    flags = ["--init-from", tmp_path / "longer", "--task.stores", tmp_path / "store", "--model.vocab-size", 0]
    assert run("train", folder / "pretrain.py", "--workdir", tmp_path / "w", *flags) == 0


def test_fields_of_the_task_are_flags_of_evaluate_and_predict(folder, tmp_path, capsys):
    run_of, rows = folder / "sweep/slow", tmp_path / "rows.jsonl"
    own, result = (run_of / "result.json").read_text(), run_of / "results/rows.jsonl.json"
    rows.write_text('{"body": "cat", "polarity": "yes"}\n{"body": "dog", "polarity": "no"}\n')
    asked = ["--data", rows, "--task.text", "body", "--task.label=polarity"]
    assert run("evaluate", run_of, *asked) == 0
    stored = json.loads(result.read_text())
    assert (stored["rows"], stored["task"]) == (2, {"text": "body", "label": "polarity"})
    rows.write_text('{"text": "cat", "label": "1"}\n')
    assert run("evaluate", run_of, "--data", rows, "--task.labels", 0, 1) == 0
    assert json.loads((run_of / "results/rows.jsonl-2.json").read_text())["task"] == {"labels": ["0", "1"]}
    assert json.loads(result.read_text()) == stored
    assert run("evaluate", run_of, "--task.max-length", 8) == 0
    assert (run_of / "result.json").read_text() == own
    rows.write_text('{"body": "cat"}\n')
    capsys.readouterr()
    assert run("predict", run_of, "--input", rows, "--task.text", "body") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("no", "yes")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task.train", "x.jsonl"], "task.train: only training reads it"),
        (["--task.labels", "a", "b", "c"], "needs 3 outputs with these fields, and the model has 2"),
        (["--task.threshold", "2"], "task.threshold: must be between 0 and 1"),
        (["--task.colour", "red"], "colour"),
    ],
)
def test_a_wrong_flag_of_the_task_is_one_error(folder, flags, message, capsys):
    assert run("evaluate", folder / "sweep/slow", *flags) == 2
    assert message in capsys.readouterr().err


def test_an_output_that_holds_something_else_is_refused_and_left_as_it_is(folder, tmp_path, capsys):
    others = [("config.json", "{}"), ("vocab.txt", "[PAD]")]
    for name, text in others:
        (tmp_path / name).write_text(text)
    corpus, model = ["--corpus", folder / "a.txt"], folder / "sweep/slow"
    for command in (
        ["tokenizer", *corpus, "--out", tmp_path, "--vocab-size", 60],
        ["prepare", *corpus, "--tokenizer", folder / "tokenizer", "--out", tmp_path],
        ["train", folder / "pretrain.py", "--workdir", tmp_path],
        ["convert", model, tmp_path],
        ["extend", model, tmp_path, *corpus, "--num-tokens", 1],
        ["report", model, "--out", tmp_path / "vocab.txt"],
    ):
        assert run(*command) == 2, command
        assert str(tmp_path) in capsys.readouterr().err
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == others
    again = ["tokenizer", *corpus, "--out", folder / "tokenizer", "--vocab-size", 60, "--kind"]
    assert (run(*again, "wordpiece"), run(*again, "sentencepiece")) == (0, 2)  # two in one folder would be read as one


def test_an_output_that_cannot_be_written_is_one_error_before_the_work(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "rows.jsonl").write_text('{"text": "cat"}\n')
    monkeypatch.setattr(predict.PretrainedBert, "score", None)  # fails where a text is scored before the check
    below, corpus, model = tmp_path / "file" / "out", ["--corpus", folder / "a.txt"], folder / "sweep/slow"
    rows = ["--input", tmp_path / "rows.jsonl"]
    for command in (
        ["tokenizer", *corpus, "--out", below, "--vocab-size", 60],
        ["prepare", *corpus, "--tokenizer", folder / "tokenizer", "--out", below],
        ["train", folder / "pretrain.py", "--workdir", below],
        ["convert", model, below],
        ["extend", model, below, *corpus, "--num-tokens", 1],
        ["predict", model, *rows, "--out", below],
        ["embed", model, *rows, "--out", below],
        ["score", model, *rows, "--out", below],
        ["score", model, *rows, "--out", tmp_path],
        ["report", model, "--out", below],
    ):
        assert run(*command) == 2, command
        assert str(tmp_path) in capsys.readouterr().err, command
    assert (tmp_path / "file").read_text() == "mine"
