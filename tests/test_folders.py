"""Folders are read whole: every field of a file is honoured, or an error or the loading report names it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import bert_jax
from bert_jax import pretrained, tasks
from bert_jax.config import (
    Compute,
    Distillation,
    Experiment,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from bert_jax.errors import InputError
from bert_jax.training.run import resolve
from helpers.interop import assert_same_params, assert_same_tensors, small_tokenizer, torch_model
from helpers.weights import random_weights

SEQUENCES, TAGS = "ForSequenceClassification", "ForTokenClassification"
TEXTS = ["the cat sat", "a red house by the sea"]


def folder_of(path, architecture: str, outputs: int = 2, drop: tuple[str, ...] = (), vocab_size: int = 61, **edits):
    """A folder whose head has `outputs` outputs, and whose config.json is then changed."""
    sizes = {"num_labels": outputs, "max_position_embeddings": 40, "vocab_size": vocab_size}
    torch_model("bert", architecture, **sizes).save_pretrained(path)
    small_tokenizer().save(path)
    config = json.loads((path / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in drop} | edits
    (path / "config.json").write_text(json.dumps(config))
    return path


def names(*labels: str) -> dict[str, str]:
    return {str(i): label for i, label in enumerate(labels)}


UNNAMED = ("id2label", "label2id", "num_labels")


@pytest.mark.parametrize("architecture", [SEQUENCES, TAGS])
@pytest.mark.parametrize(("outputs", "edits"), [(2, {}), (4, {}), (4, {"num_labels": 4})])
def test_outputs_without_names_are_called_as_in_transformers(tmp_path, architecture, outputs, edits):
    folder = folder_of(tmp_path / "in", architecture, outputs, UNNAMED, **edits)
    opened = pretrained.open_source(folder)
    assert opened.task.labels == tuple(f"LABEL_{i}" for i in range(outputs))
    pretrained.write_source(opened, tmp_path / "out")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_labels == outputs


@pytest.mark.parametrize(
    ("architecture", "outputs", "edits", "message"),
    [
        (SEQUENCES, 3, {"id2label": names("sad", "glad")}, r"makes 2 labels, but the head has 3 outputs"),
        (TAGS, 5, {"id2label": names("O", "B", "I")}, r"makes 3 labels, but the head has 5 outputs"),
        (SEQUENCES, 3, {"id2label": {}, "num_labels": 7}, r"makes 7 labels, but the head has 3 outputs"),
        (SEQUENCES, 2, {"id2label": names("sad", "sad")}, r"has the name 'sad' twice"),
        (SEQUENCES, 3, {"problem_type": "regression"}, r"regression needs one output, and the head has 3"),
        (
            SEQUENCES,
            1,
            {"problem_type": "single_label_classification"},
            r"needs at least two outputs, and the head has 1",
        ),
        (SEQUENCES, 1, {"problem_type": "regression", "id2label": names("a", "b")}, r"makes 2 labels.* has 1 outputs"),
        (SEQUENCES, 2, {"problem_type": "ranking"}, r"problem_type must be one of .*, got 'ranking'"),
        ("ForQuestionAnswering", 2, {"architectures": ["BertForMultipleChoice"]}, r"the weights lack classifier"),
    ],
)
def test_a_head_that_config_json_contradicts_is_an_error_where_it_is_used(
    tmp_path, architecture, outputs, edits, message
):
    folder = folder_of(tmp_path / "in", architecture, outputs, **edits)
    bert = bert_jax.load(folder)
    assert bert.params  # the encoder can be used
    for use in (
        lambda: bert.predict(TEXTS),
        lambda: bert.evaluate("rows.jsonl"),
        lambda: pretrained.write_source(pretrained.open_source(folder), tmp_path / "out"),
        lambda: teach(folder, "single_label"),
    ):
        with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
            use()
    assert not (tmp_path / "out").exists()


def teach(folder, target: str):
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    fields = Distillation(teacher=str(folder), unlabelled=str(rows), target=target, max_length=16)
    opened = pretrained.open_source(folder)
    task = tasks.resolve(fields, opened.config, opened.tokenizer)
    return task.train_batches(batch_size=2, steps=1, seed=0)(0)["teacher_logits"].ravel().tolist()


@pytest.mark.parametrize("edits", [{}, {"problem_type": "regression"}])
def test_one_output_is_a_number(tmp_path, edits):
    folder = folder_of(tmp_path / "in", SEQUENCES, 1, UNNAMED, id2label=names("stars"), **edits)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**tokenizer(TEXTS, return_tensors="pt", padding=True)).logits[:, 0].tolist()
    assert [a["score"] for a in bert_jax.load(folder).predict(TEXTS)] == pytest.approx(expected, abs=1e-5)
    assert sorted(teach(folder, "regression")) == pytest.approx(sorted(expected), abs=1e-5)
    with pytest.raises(InputError, match=r"was trained for target regression.* or set task\.target to regression"):
        teach(folder, "single_label")
    pretrained.write_source(pretrained.open_source(folder), tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["problem_type"], written["id2label"]) == ("regression", names("stars"))


def renamed(folder, change) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): array for name, array in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_wrapper_before_every_name_is_dropped_and_reported(tmp_path, prefix):
    folder = folder_of(tmp_path / "in", SEQUENCES, 3)
    opened = pretrained.open_source(folder)
    expected, _ = opened.read_params()
    renamed(folder, lambda name: prefix + name)
    again = pretrained.open_source(folder)
    assert again.task == opened.task
    params, report = pretrained.fit(expected, again)
    assert_same_params(params, expected)
    note = f"{prefix!r} before every name was dropped"
    assert note in str(report)
    assert pretrained.write_source(again, tmp_path / "out") == [note]


def test_a_wrapper_before_some_names_is_an_error_that_names_few_of_them(tmp_path):
    folder = folder_of(tmp_path / "in", SEQUENCES)
    renamed(folder, lambda name: name if "pooler" in name else f"module.{name}")
    with pytest.raises(InputError, match=r"unknown: module\.bert.* more") as caught:
        bert_jax.load(folder)
    assert len(str(caught.value)) < 4000


def test_weights_of_another_library_are_named(tmp_path):
    folder = folder_of(tmp_path / "in", SEQUENCES)
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(InputError, match=r"tf_model\.h5 of TensorFlow is not read"):
        bert_jax.load(folder)


def test_spare_rows_are_kept_and_never_predicted(tmp_path):
    folder = folder_of(tmp_path / "in", "ForMaskedLM", vocab_size=70)
    stored = load_file(folder / "model.safetensors")
    stored["cls.predictions.bias"][small_tokenizer().vocab_size :] += 3
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    text = "the [MASK] sat on the mat"
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    assert logits.argmax() >= len(tokenizer)
    expected = logits.softmax(-1)[: len(tokenizer)].sort(descending=True)
    answers = bert_jax.load(folder).fill_mask(text, top_k=len(tokenizer))
    assert [token for token, _ in answers] == tokenizer.convert_ids_to_tokens(expected.indices)
    assert [p for _, p in answers] == pytest.approx(expected.values.tolist(), abs=1e-5)

    opened = pretrained.open_source(folder)
    _, report = pretrained.fit(opened.read_params()[0], opened)
    assert "the model has 70 tokens and the tokenizer 61; the spare rows are kept" in str(report)
    assert pretrained.write_source(opened, tmp_path / "out") == opened.notes
    assert_same_tensors(load_file(tmp_path / "out/model.safetensors"), stored)


def test_new_tokens_take_spare_rows_first(tmp_path):
    opened = pretrained.open_source(folder_of(tmp_path / "in", "ForMaskedLM", vocab_size=64))
    old = opened.read_params()[0]["mlm"]["bias"]
    for count in (2, 5):
        longer = pretrained.add_pieces(opened, [f"<{i}>" for i in range(count)])
        new = longer.read_params()[0]["mlm"]["bias"]
        assert len(new) == longer.config.vocab_size == max(64, 61 + count)
        assert new[:61].tolist() == old[:61].tolist()
        assert new[61 + count :].tolist() == old[61 + count :].tolist()
        assert not set(new[61 : 61 + count].tolist()) & set(old.tolist())


def test_training_keeps_the_spare_rows_of_its_source(tmp_path):
    folder = folder_of(tmp_path / "in", "ForMaskedLM", vocab_size=64)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat", "label": "a"}\n{"text": "the dog", "label": "b"}\n')
    task = SequenceClassification(train=str(rows), max_length=16)
    experiment = Experiment(task=task, init_from=str(folder), steps=1, batch_size=2)
    assert resolve(experiment).experiment.model.vocab_size == 64
    with pytest.raises(InputError, match="the model has 65 tokens and the tokenizer 61"):
        resolve(replace(experiment, model=replace(pretrained.open_source(folder).config, vocab_size=65)))


@pytest.mark.parametrize("architecture", ["ForMaskedLM", TAGS, "ForQuestionAnswering"])
def test_a_pooler_that_the_class_does_not_use_is_left_out_and_reported(tmp_path, architecture):
    folder = folder_of(tmp_path / "in", architecture)
    stored = load_file(folder / "model.safetensors")
    pooler = {
        "bert.pooler.dense.weight": np.ones((24, 24), np.float32),
        "bert.pooler.dense.bias": np.ones(24, np.float32),
    }
    save_file(stored | pooler, folder / "model.safetensors", metadata={"format": "pt"})
    opened = pretrained.open_source(folder)
    note = f"left out: the pooler, which Bert{architecture} of transformers does not use"
    assert pretrained.write_source(opened, tmp_path / "out") == [note]
    assert_same_tensors(load_file(tmp_path / "out/model.safetensors"), stored)
    assert pretrained.write_source(opened, tmp_path / "orbax", "orbax") == []
    assert pretrained.write_source(pretrained.open_source(tmp_path / "orbax"), tmp_path / "again") == [note]


def started(folder, labels: tuple[str, ...], architecture: str = SEQUENCES):
    """The weights that training on `labels` starts from, and its loading report."""
    kind, field = (SequenceClassification, "label") if architecture == SEQUENCES else (TokenClassification, "tags")
    rows = folder.parent / "rows.jsonl"
    of_name = (lambda name: name) if field == "label" else (lambda name: [name] * 2)
    written = [{"text": "the cat", "tokens": ["the", "cat"], field: of_name(name)} for name in labels]
    rows.write_text("".join(json.dumps(row) + "\n" for row in written))
    task = kind(train=str(rows), labels=labels, max_length=40)
    run = resolve(Experiment(task=task, init_from=str(folder), steps=1, batch_size=2))
    assert run.source is not None
    new = random_weights(run.task.model, run.task.dummy_batch())
    params, report = pretrained.fit(new, run.source, [], run.experiment.task.output_names)
    return params, str(report)


@pytest.mark.parametrize("architecture", [SEQUENCES, TAGS])
def test_outputs_of_a_head_follow_their_labels(tmp_path, architecture):
    folder = folder_of(tmp_path / "in", architecture, 3, id2label=names("sad", "so-so", "glad"))
    head = "sequence" if architecture == SEQUENCES else "token"
    theirs = pretrained.open_source(folder).read_params()[0][head]["out"]
    same, report = started(folder, ("sad", "so-so", "glad"), architecture)
    assert same[head]["out"]["kernel"].tolist() == theirs["kernel"].tolist()
    assert "labels" not in report
    moved, report = started(folder, ("glad", "sad", "so-so"), architecture)
    for name in ("kernel", "bias"):
        assert moved[head]["out"][name].tolist() == theirs[name][..., [2, 0, 1]].tolist()
    assert "outputs were reordered: labels sad, so-so, glad there, glad, sad, so-so here" in report


def test_a_head_for_other_labels_is_new_and_reported(tmp_path):
    folder = folder_of(tmp_path / "in", SEQUENCES, 2, id2label=names("sad", "glad"))
    theirs = pretrained.open_source(folder).read_params()[0]["sequence"]["out"]
    ours, report = started(folder, ("spam", "ham"))
    assert ours["sequence"]["out"]["kernel"].tolist() != theirs["kernel"].tolist()
    assert "sequence/out/kernel (labels sad, glad there, spam, ham here)" in report


def test_a_head_without_names_keeps_its_order_and_the_report_has_it(tmp_path):
    folder = folder_of(tmp_path / "in", SEQUENCES, 2, UNNAMED)
    theirs = pretrained.open_source(folder).read_params()[0]["sequence"]["out"]
    ours, report = started(folder, ("spam", "ham"))
    assert ours["sequence"]["out"]["kernel"].tolist() == theirs["kernel"].tolist()
    assert "the source does not name its outputs; their order was kept for spam, ham" in report


PAIRS = SequenceClassification(
    train="a.jsonl", limit=8, text="premise", text_b="hypothesis", markers=("<<",), labels=("no", "yes"), max_length=24
)
SEVERAL = SequenceClassification(
    eval="b.jsonl",
    target="multi_label",
    labels=("a", "b"),
    threshold=0.9,
    class_weights=(1.0, 2.0),
    label_shares=(0.5,) * 2,
)
UNANSWERABLE = QuestionAnswering(unanswerable=True, null_threshold=-1.5)
TAUGHT = Distillation(teacher="run", hard_weight=0.5, labels=("no", "yes"), text="premise", max_length=24)


@pytest.mark.parametrize(
    ("architecture", "task", "differences"),
    [
        (SEQUENCES, PAIRS, ["cut at 24 tokens", "pairs, 'premise' and 'hypothesis'", "splits the markers <<"]),
        (SEQUENCES, SEVERAL, ["cut at 128 tokens", "threshold 0.9"]),
        (SEQUENCES, TAUGHT, ["cut at 24 tokens"]),
        (TAGS, TokenClassification(tokens="words", labels=("O", "B-X"), overlap=4), []),
        (
            "ForQuestionAnswering",
            QuestionAnswering(unanswerable=True, null_threshold=-1.5),
            ["handle_impossible_answer"],
        ),
        ("ForMultipleChoice", MultipleChoice(choices=("end1", "end2"), max_length=30), ["cut at 30 tokens"]),
    ],
)
def test_a_converted_run_keeps_its_task_and_its_number_formats(tmp_path, architecture, task, differences):
    compute = Compute(dtype="bfloat16")
    opened = pretrained.open_source(folder_of(tmp_path / "in", architecture))
    notes = pretrained.write_source(replace(opened, task=task, compute=compute, assumes_fields=False), tmp_path / "out")
    again = pretrained.open_source(tmp_path / "out")
    values = {name: getattr(task, name) for name in vars(again.task) if name not in task.for_training}
    assert {name: getattr(again.task, name) for name in values} == values
    assert not any(getattr(again.task, name) for name in ("train", "eval", "limit"))
    assert (again.compute, again.assumes_fields) == (compute, False)
    assert len(notes) == len(differences) + 2  # and those of the formats and of the file
    for part, note in zip([*differences, "computes in bfloat16", "bert_jax.json has what"], notes, strict=True):
        assert part in note
    pretrained.write_source(again, tmp_path / "orbax", "orbax")
    assert pretrained.open_source(tmp_path / "orbax").task == again.task


def test_a_folder_of_others_gets_no_file_of_ours(tmp_path):
    opened = pretrained.open_source(folder_of(tmp_path / "in", SEQUENCES))
    assert pretrained.write_source(opened, tmp_path / "out") == []
    assert not (tmp_path / "out/bert_jax.json").exists()


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (
            {"kind": "TokenClassification"},
            "fields of the task 'TokenClassification', but .* is 'SequenceClassification'",
        ),
        ({"kind": "SequenceClassification", "labels": ["a"]}, "unknown field 'labels'; known are .*text_b"),
        ({"kind": "SequenceClassification", "threshold": 3}, "threshold: must be between 0 and 1"),
        (["text"], "fields of the task"),
    ],
)
def test_a_wrong_file_of_ours_is_an_error_where_the_task_is_used(tmp_path, ours, message):
    folder = folder_of(tmp_path / "in", SEQUENCES)
    (folder / "bert_jax.json").write_text(json.dumps({"task": ours}))
    with pytest.raises(InputError, match=message):
        pretrained.open_source(folder).check_task()


def with_lengths(folder, tokenizer: dict, sentence: dict | None = None):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokenizer))
    if sentence is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(sentence))
    return folder


@pytest.mark.parametrize(
    ("tokenizer", "sentence", "task", "vectors"),
    [
        ({}, None, 40, 40),
        ({"model_max_length": 10**30}, None, 40, 40),
        ({"model_max_length": 20}, None, 20, 20),
        ({"model_max_length": 30}, {"max_seq_length": 8, "do_lower_case": False}, 30, 8),
        ({"model_max_length": 30}, {"max_seq_length": None}, 30, 30),
    ],
)
def test_texts_are_cut_at_the_length_that_the_folder_names(tmp_path, tokenizer, sentence, task, vectors):
    opened = pretrained.open_source(with_lengths(folder_of(tmp_path / "in", SEQUENCES), tokenizer, sentence))
    assert (opened.task.max_length, opened.max_length) == (task, vectors)
    pretrained.write_source(opened, tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == vectors


@pytest.mark.parametrize("value", [0, "long", True, 2])
def test_a_length_that_is_none_is_an_error(tmp_path, value):
    with pytest.raises(InputError, match=r"tokenizer_config\.json: model_max_length must be a whole number"):
        pretrained.open_source(with_lengths(folder_of(tmp_path / "in", SEQUENCES), {"model_max_length": value}))


def test_lowercasing_by_sentence_transformers_alone_is_an_error(tmp_path):
    folder = with_lengths(folder_of(tmp_path / "in", SEQUENCES), {"do_lower_case": False}, {"do_lower_case": True})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"do_lower_case is true, but the tokenizer there does not lowercase"):
        pretrained.open_source(folder)


def test_vectors_are_those_of_the_beginning_of_a_long_text(tmp_path):
    bert = bert_jax.load(with_lengths(folder_of(tmp_path / "in", SEQUENCES), {}, {"max_seq_length": 6}))
    long = "the cat sat on the mat by the sea"
    encoded = bert.encode([long, "the cat"])
    size = len(bert.encode([long], max_length=40).tokens[0])
    assert (len(encoded.tokens[0]), encoded.cut) == (6, [size - 6, 0])
    assert bert.encode([long], max_length=6).mean.tolist() == encoded.mean[:1].tolist()
    for length in (2, 41):
        with pytest.raises(InputError, match="encode: max_length: must be between 3 and 40"):
            bert.encode([long], max_length=length)


def test_a_second_text_is_read_or_named(tmp_path):
    bert = bert_jax.load(folder_of(tmp_path / "in", SEQUENCES))
    rows = [{"text": "the cat sat", "text_b": other} for other in ("on the mat", "by the sea")]
    with pytest.raises(InputError, match=r"input 1: field 'text_b' is not read.* set task\.text_b"):
        bert.predict(rows)
    pairs, alone = bert.with_fields(text_b="text_b").predict(rows), bert.with_fields(text="text").predict(rows)
    assert pairs[0] != pairs[1]
    assert alone[0] == alone[1]
    assert alone[0]["probabilities"] == pytest.approx(bert.predict(["the cat sat"])[0]["probabilities"], abs=1e-6)
    with pytest.raises(InputError, match=r"task\.textb: no such field; the task has .*text_b"):
        bert.with_fields(textb="text_b")
