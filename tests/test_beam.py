"""Preparing on Beam's DirectRunner; needs the extra `beam`."""

import json
import shutil

import pytest

pytest.importorskip("apache_beam", reason="needs the extra beam")

from bert_jax.data import beam as on_beam
from bert_jax.data import prepare as preparing
from bert_jax.errors import InputError

TEXTS = [f"Document {i} has words. It has {i % 7} more of them. " * (1 + i % 5) for i in range(60)]
LOCAL = ["--runner=DirectRunner", "--direct_num_workers=1"]


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    vocabulary = "[PAD] [UNK] [CLS] [SEP] [MASK] document has words . it more of them 1 2 3 ##1 ##2 ##3"
    (folder / "vocab.txt").write_text(vocabulary.replace(" ", "\n") + "\n")
    return folder


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "CHUNK_CHARACTERS", 500)
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(TEXTS[:30]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[30:]))
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("drop_duplicates", [False, True])
def test_beam_writes_the_store_that_prepare_writes(tmp_path, text, tokenizer, drop_duplicates):
    preparing.prepare([str(text)], tokenizer, tmp_path / "local", drop_duplicates=drop_duplicates)
    on_beam.prepare([str(text)], tokenizer, tmp_path / "beam", options=LOCAL, drop_duplicates=drop_duplicates)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beam", "local", "text", "tokenizer"]


@pytest.fixture
def interrupted(tmp_path, text, tokenizer, monkeypatch):
    """A pipeline that was interrupted after it wrote its shards."""

    def interrupt(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(on_beam, "read_shards", interrupt)
        with pytest.raises(KeyboardInterrupt):
            on_beam.prepare([str(text)], tokenizer, tmp_path / "beam", options=LOCAL)


@pytest.mark.usefixtures("interrupted")
def test_shards_of_an_interrupted_pipeline_are_used(tmp_path, text, tokenizer, monkeypatch):
    preparing.prepare([str(text)], tokenizer, tmp_path / "local")
    shards = list(tmp_path.glob("beam.shards-*/*.npz"))
    assert len(shards) > 3

    def not_again(texts, tokenizer):
        raise AssertionError("a block was tokenised a second time")

    monkeypatch.setattr(on_beam, "encode_documents", not_again)
    on_beam.prepare([str(text)], tokenizer, tmp_path / "beam", options=LOCAL)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


@pytest.mark.usefixtures("interrupted")
def test_shards_of_another_text_are_not_used(tmp_path, text, tokenizer):
    preparing.prepare([str(text / "b.jsonl")], tokenizer, tmp_path / "local")
    shutil.rmtree(tmp_path / "beam.partial", ignore_errors=True)
    on_beam.prepare([str(text / "b.jsonl")], tokenizer, tmp_path / "beam", options=LOCAL)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


def test_bad_text_is_named(tmp_path, text, tokenizer):
    (text / "b.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(InputError, match=r"b.jsonl:1: expected"):
        on_beam.prepare([str(text)], tokenizer, tmp_path / "beam", options=LOCAL)
    assert not (tmp_path / "beam").exists()
