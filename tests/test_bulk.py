"""Any number of rows: vectors and answers in shards, which are the same if the work was interrupted."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import bert_jax
from bert_jax import bulk
from bert_jax.data.batches import ByLength, RowBatches, join
from bert_jax.data.rows import read_rows
from bert_jax.errors import InputError
from helpers.cli import run
from helpers.interop import small_tokenizer, torch_model

TEXTS = ["the cat sat", "a red house by the sea", "the mat", "sea", "the red cat by the house", "a mat", "house"]
LINES = [json.dumps({"text": text, "name": f"n{i}"}) for i, text in enumerate(TEXTS)]
BAD = [*LINES[:2], "not JSON", *LINES[2:5], '{"text": 3}', *LINES[5:]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch_model("bert", "Model", vocab_size=61, num_hidden_layers=1).save_pretrained(folder)
    small_tokenizer().save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def vectors(model) -> np.ndarray:
    return bert_jax.load(model).encode(TEXTS).mean


def write(path, lines) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def embed(model, inputs, out, **options):
    notes = []
    how = {"shard_rows": 3, "batch_size": 4} | {
        name: options.pop(name) for name in bulk.Options._fields if name in options
    }
    return bulk.embed_files(model, inputs, str(out), bulk.Options(**how), say=notes.append, **options), notes


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_vectors_are_those_of_encode_and_interruptions_change_no_byte(tmp_path, model, vectors):
    rows = write(tmp_path / "rows.jsonl", LINES)
    assert run("embed", model, "--input", rows, "--out", tmp_path / "out", "--shard-rows", 3, "--id", "name") == 0
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table["row"].to_pylist() == list(range(7))
    assert table["id"].to_pylist() == [f"n{i}" for i in range(7)]
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, atol=1e-6)
    whole = content(tmp_path / "out")
    assert whole.keys() == {f"part-0000{i}.parquet" for i in range(3)}
    (tmp_path / "out/part-00001.parquet").rename(tmp_path / "out/part-00001.parquet.partial")  # as a kill leaves it
    (tmp_path / "out/part-00002.parquet").unlink()
    assert run("embed", model, "--input", rows, "--out", tmp_path / "out", "--shard-rows", 3, "--id", "name") == 0
    assert content(tmp_path / "out") == whole
    with pytest.raises(InputError, match=r"out: was begun with another width: 24 there, 8 here; name another folder"):
        embed(model, [rows], tmp_path / "out", dimensions=8, shard_rows=3)


def test_hosts_make_the_shards_of_one(tmp_path, model):
    rows = write(tmp_path / "rows.jsonl", LINES)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/_settings.json.partial").write_text("{")  # as a kill leaves it
    embed(model, [rows], tmp_path / "one")
    for host in (1, 0):  # in any order
        total, _ = embed(model, [rows], tmp_path / "two", part=(host, 2))
        assert len(content(tmp_path / "two")) == (1 if host == 1 else 3)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert total["rows"] == 7


def test_long_rows_come_first_and_few_at_once():
    lengths = np.random.default_rng(0).permutation([*range(1, 31), 3, 3, 200])
    ids = [np.full(length, length, np.int32) for length in lengths]
    whole = RowBatches(join(ids, ids, {}), lengths, batch_size=8, max_length=200)
    batches = ByLength(whole, most_rows=8, most_tokens=64, multiple=2, buckets=(4, 8, 16, 32, 64))
    shapes = [batches(step)["input_ids"].shape for step in range(batches.num_steps)]
    assert shapes[:2] == [(2, 200), (2, 32)]
    assert shapes[-1] == (8, 4)
    assert all(rows * length <= 64 or rows == 2 for rows, length in shapes)
    rows = np.concatenate([batches.rows(step) for step in range(batches.num_steps)])
    assert sorted(rows[rows >= 0]) == list(range(batches.num_examples))
    for step in range(batches.num_steps):
        examples = batches.rows(step)
        real = batches(step)["sequence_ids"].sum(axis=1)
        np.testing.assert_array_equal(real, np.where(examples >= 0, lengths[examples], 0))


def test_bad_rows_are_refused_or_left_out_and_counted(tmp_path, model, vectors):
    rows = write(tmp_path / "rows.jsonl", BAD)
    with pytest.raises(InputError, match=r"rows\.jsonl:3: this line is not JSON"):
        embed(model, [rows], tmp_path / "stops")
    total, notes = embed(model, [rows], tmp_path / "out", skip=True, dtype="float16", form="arrow")
    assert (total["rows"], total["skipped"]) == (7, 2)
    assert any("2 of 9 rows were skipped" in line and ":3:" in line and ":7:" in line for line in notes)
    read = [row.values for i in range(3) for row in read_rows(f"{tmp_path}/out/part-0000{i}.arrow")]
    assert [row["row"] for row in read] == [0, 1, 3, 4, 5, 7, 8]
    np.testing.assert_allclose([row["vector"] for row in read], vectors, atol=2e-3)


def test_answers_come_in_shards_too(tmp_path, model, vectors):
    for i, lines in enumerate((LINES[:4], LINES[4:])):
        write(tmp_path / f"rows-{i}.jsonl", lines)
    modules = [{"type": f"x.{kind}", "path": path} for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"))]
    folder = tmp_path / "vectors"
    folder.mkdir()
    for path in Path(model).iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    pattern = str(tmp_path / "rows-*.jsonl")
    options = ["--shard-rows", 5, "--batch-size", 4]
    assert run("predict", folder, "--input", pattern, "--out", tmp_path / "out", *options) == 0
    parts = [(tmp_path / f"out/part-0000{i}.jsonl").read_text() for i in range(2)]
    lines = [json.loads(line) for i in range(2) for line in parts[i].splitlines()]
    assert [line["row"] for line in lines] == list(range(7))
    np.testing.assert_allclose([line["vector"] for line in lines], vectors, atol=1e-6)


def test_another_model_or_another_folder_is_refused(tmp_path, model):
    rows = write(tmp_path / "rows.jsonl", LINES[:1])
    embed(model, [rows], tmp_path / "out")
    torch_model("bert", "Model", seed=1, vocab_size=61, num_hidden_layers=1).save_pretrained(tmp_path / "other")
    small_tokenizer().save(tmp_path / "other")
    with pytest.raises(InputError, match=rf"out: was begun with another model: .* there, from {model}, .* here"):
        embed(str(tmp_path / "other"), [rows], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"full: holds something else; name a new folder"):
        embed(model, [rows], tmp_path / "full")
