"""Files: what is written is whole, and what is remote is read or refused by name."""

import gzip
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from bert_jax import buckets, files, tokenizers
from bert_jax.data import corpus, rows
from bert_jax.errors import InputError
from bert_jax.runs.workdir import Workdir

LINES = '\ufeff{"text": "äh", "label": 1}\n{"text": "no\u2028break", "label": 0}\r\n'


class Bucket(MemoryFileSystem):
    """A bucket in memory; fsspec's own memory file system, under another name."""

    protocol = ("s3",)
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3://"))

    def glob(self, path, **options):
        return [match.lstrip("/") for match in super().glob(path, **options)]

    def info(self, path, **options):
        return {"type": "directory"} if path == "bucket" else super().info(path, **options)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(buckets, "PACKAGES", {"s3": "fsspec"})  # a package that is installed
    monkeypatch.setattr(buckets, "_connected", set())
    monkeypatch.setitem(_registry, "s3", Bucket)
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    return "s3://bucket/folder"


def test_json_never_holds_numbers_that_json_does_not_have(tmp_path):
    value = {"a": [1.5, float("nan")], "b": (float("inf"), {"c": -float("inf")}), "d": "NaN", "e": "Ä\udce9"}
    files.write_json(tmp_path / "a.json", value)
    for text in ((tmp_path / "a.json").read_text(), files.json_text(value)):
        read = json.loads(text, parse_constant=lambda name: pytest.fail(f"holds {name}"))
        assert read == {"a": [1.5, None], "b": [None, {"c": None}], "d": "NaN", "e": "Ä\udce9"}


def test_a_failed_write_leaves_the_old_file_and_a_good_one_no_other(tmp_path):
    files.write_json(tmp_path / "a.json", {"new": [1, "ä"]})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"new": object()})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "new": [\n    1,\n    "ä"\n  ]\n}\n'.encode()
    files.write_json(tmp_path / "a.json", "\udcff")
    assert json.loads((tmp_path / "a.json").read_text()) == "\udcff"
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "folder") as folder:
        files.make_folder(folder / str(1 // 0))
    assert not (tmp_path / "folder").exists()
    with files.replacing(tmp_path / "folder") as folder:
        assert not folder.exists()
        files.make_folder(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)]
)
def test_rows_and_text_are_read_alike_whatever_their_compression(tmp_path, ending, pack):
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(pack(LINES.encode()))
    assert [row.values["text"] for row in rows.read_rows(str(path))] == ["äh", "no\u2028break"]
    assert list(corpus.documents([str(path)])) == ["äh", "no\u2028break"]
    damaged = {
        "latin1": (pack(LINES.encode("latin1", "replace")[1:]), r"rows.jsonl.*:1: not UTF-8 .byte 0xe4.; convert"),
        "zero": (pack(b'{"text": "\0"}\n'), r"rows.jsonl.*:1: a zero byte"),
    }
    if ending:
        packed = pack(LINES.encode() + json.dumps({"text": np.random.default_rng(0).bytes(9999).hex()}).encode())
        damaged |= {f"cut by {n}": (packed[:-n], "damaged or cut off within its compressed data") for n in (1, 5, 500)}
        damaged["plain"] = (LINES.encode(), "not a gzip file" if ending == ".gz" else "damaged or cut off")
    for content, message in damaged.values():
        path.write_bytes(content)
        for read in (lambda: rows.read_rows(str(path)), lambda: list(corpus.documents([str(path)]))):
            with pytest.raises(InputError, match=message):
                read()


def test_a_parquet_file_is_rows_as_it_is_text(tmp_path):
    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a b", "c"], "label": [1, 0]}), path)
    assert [row.values for row in rows.read_rows(path)] == [{"text": "a b", "label": 1}, {"text": "c", "label": 0}]
    assert rows.read_rows(path)[1].where == f"{path}: row 2"
    assert list(corpus.documents([path])) == ["a b", "c"]
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match=r"text\.parquet: not a Parquet file"):
        rows.read_rows(str(tmp_path / "text.parquet"))


def test_what_a_bucket_holds_is_read_where_no_local_disk_is_needed(bucket, tmp_path):
    remote = files.path(bucket)
    assert str(remote / "a.jsonl.gz") == "s3://bucket/folder/a.jsonl.gz"
    files.write_whole(remote / "a.jsonl.gz", gzip.compress(LINES.encode()))
    files.write_whole(remote / "below/b.txt", "one\n\ntwo")
    assert files.size(remote / "below/b.txt") == 8
    assert [row.values["label"] for row in rows.read_rows(f"{bucket}/a.jsonl.gz")] == [1, 0]
    assert list(corpus.documents([bucket])) == ["äh", "no\u2028break", "one\n", "two"]
    assert list(corpus.documents([f"{bucket}/below/*.txt"])) == ["one\n", "two"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one"]
    files.write_whole(remote / "tokenizer/vocab.txt", "\n".join(words) + "\n")
    tokenizer = tokenizers.load(f"{bucket}/tokenizer")
    tokenizer.save(remote / "copy")
    assert tokenizers.load(f"{bucket}/copy").fingerprint == tokenizer.fingerprint


def test_a_remote_path_is_refused_where_a_local_disk_is_needed(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="s3://bucket/run: checkpoints can be on a local disk or in gs://"):
        Workdir(files.Path("s3://bucket/run"))
    with pytest.raises(
        InputError, match=r"s3://bucket/folder/tokens\.bin: a token store is read and written on a local"
    ):
        files.memory_map(files.path(bucket) / "tokens.bin", np.dtype("u1"))
    with pytest.raises(InputError, match="a file that grows is read and written on a local disk only"):
        files.append_line(files.path(bucket) / "metrics.jsonl", "{}")
    assert not list(tmp_path.iterdir())  # no folder called "s3:"


def test_a_scheme_that_cannot_be_read_is_refused(monkeypatch):
    with pytest.raises(InputError, match="ftp:// is not supported; expected a local path, gs:// or s3://"):
        rows.read_rows("ftp://host/rows.jsonl")
    monkeypatch.setattr(buckets, "PACKAGES", {"gs": "no_such_package"})
    with pytest.raises(InputError, match=r"gs://b/text: reading gs:// needs a package: pip install 'bert_jax\[gcs\]'"):
        list(corpus.documents(["gs://b/text"]))
    with pytest.raises(InputError, match="gs:/b/text: has lost a slash"):
        list(corpus.documents([str(Path("gs://b/text"))]))


def test_a_folder_is_walked_in_order_and_searched_by_its_own_name(tmp_path):
    folder = tmp_path / "a[1]"
    for name in ("b/z.txt", "b/c/y.txt", "skip/x.txt", "a.index"):
        files.make_folder((folder / name).parent)
        (folder / name).touch()
    walk = [path for path, _ in files.walk(folder, skip=lambda name: name == "skip")]
    assert walk == [folder, folder / "b", folder / "b/c"]
    assert files.matching(folder, "*.index") == [folder / "a.index"]
    assert files.resolve(folder / "..") == tmp_path.resolve()
