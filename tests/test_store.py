"""Preparing token stores: their content, interruptions, duplicates and refused input."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax import files, tokenizers
from bert_jax.data import beam as on_beam
from bert_jax.data import corpus, duplicates
from bert_jax.data import prepare as preparing
from bert_jax.data.layouts import sentence_starts
from bert_jax.data.prepare import prepare
from bert_jax.data.store import ARRAYS, TokenStore, content_hash, is_held_out
from bert_jax.errors import InputError
from bert_jax.files import partial

WORDS = ["the", "a", "cat", "dog", "river", "sees", "likes", "old", "new", "red", ".", ",", "house", "un", "##known"]


def document(number: int, sentences: int = 4) -> str:
    random = np.random.default_rng(number)
    words = [*WORDS[:9], "zebra"]
    parts = (" ".join(random.choice(words, int(random.integers(2, 12)))) for _ in range(sentences))
    return " ".join(sentence.capitalize() + "." for sentence in parts)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.mkdir()
    (path / "a.txt").write_text("\n\n".join(document(i) for i in range(40)))
    (path / "b.jsonl").write_text("".join(json.dumps({"text": document(i, 1 + i % 7)}) + "\n" for i in range(50, 90)))
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(preparing, "CHUNK_CHARACTERS", 700)


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_store_holds_the_tokens_sentences_and_documents_of_its_text(tmp_path, text, tokenizer_folder, small_blocks):
    header = prepare([str(text)], tokenizer_folder, tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    tokenizer = tokenizers.load(tokenizer_folder)
    texts = list(corpus.documents([str(text)]))
    assert store.num_documents == len(texts) == 80
    starts = []
    for i, sentences in enumerate(map(corpus.sentences, texts)):
        ids = tokenizer.encode_ids(sentences)
        np.testing.assert_array_equal(store.document(i), np.concatenate(ids))
        starts += list(store.document_starts[i] + np.cumsum([0, *map(len, ids)])[:-1])
    _, stored_starts = sentence_starts(store, np.array([0]), np.array([store.num_tokens]))
    np.testing.assert_array_equal(stored_starts, starts)
    np.testing.assert_array_equal(store.document_hashes, [content_hash(text) for text in texts])
    assert store.tokens.dtype == np.uint16
    assert store.fingerprint == tokenizer.fingerprint == tokenizers.load(store.tokenizer_folder).fingerprint
    assert header == store.header
    summary = header["summary"]
    assert summary["documents"] == summary["kept_documents"] == 80
    assert summary["sentences"] == len(starts)
    assert summary["words"] == sum(len(text.split()) for text in texts)
    assert summary["bytes"] == sum(len(text.encode()) for text in texts)
    assert 0 < summary["unknown_rate"] < 1
    files = {f"{name}.bin" for name in ARRAYS} | {"header.json"}
    assert {path for path in contents(tmp_path / "store") if not path.startswith("tokenizer/")} == files


def test_zero_bytes_in_text_are_left_out_and_counted(tmp_path, tokenizer_folder):
    for name, text in (("a", "a red\0 cat\n\nthe \0sea"), ("b", "a red cat\n\nthe sea")):
        (tmp_path / f"{name}.txt").write_text(text)
        summary = prepare([str(tmp_path / f"{name}.txt")], tokenizer_folder, tmp_path / name)["summary"]
        assert summary["zero_bytes"] == text.count("\0")
    a, b = (TokenStore.open(tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.document_hashes, b.document_hashes)


def test_long_sentences_keep_their_length(tmp_path, tokenizer_folder):
    (tmp_path / "a.txt").write_text("\n".join(["cat " * n for n in (254, 255, 256, 300, 499, 1)]))
    prepare([str(tmp_path / "a.txt")], tokenizer_folder, tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    _, starts = sentence_starts(store, np.array([0]), np.array([store.num_tokens]))
    assert list(np.diff([*starts, store.num_tokens])) == [254, 255, 256, 300, 499, 1]


def test_workers_and_block_sizes_change_no_byte(tmp_path, text, tokenizer_folder, monkeypatch):
    prepare([str(text)], tokenizer_folder, tmp_path / "one")
    monkeypatch.setattr(preparing, "CHUNK_CHARACTERS", 500)
    prepare([str(text)], tokenizer_folder, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class CrashError(Exception):
    """Acts as a crash."""


@pytest.mark.parametrize("record_seconds", [0.0, 1e9])
def test_an_interrupted_preparation_continues_to_the_same_bytes(
    tmp_path, text, tokenizer_folder, small_blocks, monkeypatch, record_seconds
):
    prepare([str(text)], tokenizer_folder, tmp_path / "whole")
    monkeypatch.setattr(preparing, "RECORD_SECONDS", record_seconds)
    encoded = []
    encode = preparing.encode_documents
    monkeypatch.setattr(preparing, "encode_documents", lambda *args: encoded.append(1) or encode(*args))
    for stop_after in (3, 5, 1, 2):
        left = [stop_after]

        def stop(_, left=left):
            left[0] -= 1
            if not left[0]:
                raise CrashError

        with pytest.raises(CrashError):
            prepare([str(text)], tokenizer_folder, tmp_path / "store", progress=stop)
        assert not (tmp_path / "store").exists()
        with open(partial(tmp_path / "store") / "tokens.bin", "ab") as file:
            file.write(b"half a block")
    before = len(encoded)
    prepare([str(text)], tokenizer_folder, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    if record_seconds == 0.0:
        blocks = len(list(preparing.read_chunks(corpus.find_files([str(text)]), preparing.Cursor(0, 0, 0))))
        assert len(encoded) - before < blocks  # what was recorded is not tokenised again


@pytest.mark.parametrize("drop_duplicates", [False, True])
def test_a_crash_at_any_step_of_finishing_is_recovered_from(
    tmp_path, text, tokenizer_folder, monkeypatch, drop_duplicates
):
    (text / "c.txt").write_text(document(3) + "\n\n" + document(7))
    options = {"drop_duplicates": drop_duplicates}
    prepare([str(text)], tokenizer_folder, tmp_path / "whole", **options)
    assert TokenStore.open(tmp_path / "whole").num_documents == (80 if drop_duplicates else 82)
    crashes = 0
    for crash_at in range(40):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        calls = [0]
        with monkeypatch.context() as patched:
            for module, name in [(os, "replace"), (os, "remove"), (files, "write_json")]:
                original = getattr(module, name)

                def failing(*args, original=original, calls=calls, crash_at=crash_at, **kwargs):
                    calls[0] += 1
                    if calls[0] == crash_at + 1:
                        raise CrashError
                    return original(*args, **kwargs)

                patched.setattr(module, name, failing)
            try:
                prepare([str(text)], tokenizer_folder, tmp_path / "store", **options)
            except CrashError:
                crashes += 1
        prepare([str(text)], tokenizer_folder, tmp_path / "store", **options)
        assert contents(tmp_path / "store") == contents(tmp_path / "whole")
        assert not partial(tmp_path / "store").exists()
        if calls[0] <= crash_at:
            break
    assert crashes >= 8


def test_a_finished_store_is_left_as_it_is(tmp_path, text, tokenizer_folder):
    first = prepare([str(text)], tokenizer_folder, tmp_path / "store")
    (tmp_path / "store/tokens.bin").touch()
    before = os.stat(tmp_path / "store/tokens.bin").st_mtime_ns
    assert prepare([str(text)], tokenizer_folder, tmp_path / "store") == first
    assert os.stat(tmp_path / "store/tokens.bin").st_mtime_ns == before


def test_a_full_disk_is_named_and_the_work_goes_on_later(tmp_path, text, tokenizer_folder, small_blocks, monkeypatch):
    prepare([str(text)], tokenizer_folder, tmp_path / "whole")
    monkeypatch.setattr(preparing, "RECORD_SECONDS", 0.0)
    write = preparing.Writer._write

    def full(self, name, array):
        if self.entries["tokens"] > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, array)

    with monkeypatch.context() as patched:
        patched.setattr(preparing.Writer, "_write", full)
        with pytest.raises(InputError, match="store: the disk is full; free some space and run the same command again"):
            prepare([str(text)], tokenizer_folder, tmp_path / "store")
    prepare([str(text)], tokenizer_folder, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_an_existing_folder_is_not_overwritten(tmp_path, text, tokenizer_folder, small_blocks):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(InputError, match="other: exists and is not a token store"):
        prepare([str(text)], tokenizer_folder, tmp_path / "other")
    prepare([str(text)], tokenizer_folder, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(InputError, match="store: already holds a store of other text"):
        prepare([str(text / "a.txt")], tokenizer_folder, tmp_path / "store")
    assert contents(tmp_path / "store") == before

    def stop(_):
        raise CrashError

    with pytest.raises(CrashError):
        prepare([str(text)], tokenizer_folder, tmp_path / "begun", progress=stop)
    before = contents(tmp_path / "begun.partial")
    with pytest.raises(InputError, match=r"begun.partial: holds an unfinished store of other text"):
        prepare([str(text)], tokenizer_folder, tmp_path / "begun", drop_duplicates=True)
    assert contents(tmp_path / "begun.partial") == before


def test_bad_text_leaves_no_store(tmp_path, text, tokenizer_folder, small_blocks):
    good = (text / "b.jsonl").read_text()
    (text / "b.jsonl").write_text(good[:-10])
    with pytest.raises(InputError, match=r"b.jsonl:40: not JSON"):
        prepare([str(text)], tokenizer_folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_text_without_any_token_is_refused(tmp_path, tokenizer_folder):
    (tmp_path / "a.txt").write_text("\u200b\u200d")
    with pytest.raises(InputError, match=r"a.txt: no document with any token"):
        prepare([str(tmp_path / "a.txt")], tokenizer_folder, tmp_path / "store")


def test_a_vocabulary_over_65536_takes_four_bytes_a_token(tmp_path, text):
    (tmp_path / "tokenizer").mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(70_000)), *WORDS]
    (tmp_path / "tokenizer/vocab.txt").write_text("\n".join(vocabulary) + "\n")
    prepare([str(text)], tmp_path / "tokenizer", tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    assert store.tokens.dtype == np.uint32
    assert store.tokens.max() > 70_000


def test_progress_reaches_the_end(tmp_path, text, tokenizer_folder, small_blocks, capsys):
    seen = []
    prepare([str(text)], tokenizer_folder, tmp_path / "store", progress=seen.append)
    assert [state.share for state in seen] == sorted(state.share for state in seen)
    assert seen[-1].share == 1
    assert seen[-1].documents == 80
    assert seen[-1].seconds_left == 0
    show = preparing.progress_printer()
    for state in seen:
        show(state)
        show(state)
    lines = capsys.readouterr().err.splitlines()  # no terminal: no carriage returns, and a line each tenth at most
    assert "100%  80 documents" in lines[-1]
    assert len(lines) == len({line[:3] for line in lines}) <= 10


def test_beam_without_its_extra_is_refused_with_its_name(tmp_path, text, tokenizer_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'bert_jax\[beam\]'"):
        on_beam.prepare([str(text)], tokenizer_folder, tmp_path / "store")


# Opening ------------------------------------------------------------------------------------------------------------


def test_a_damaged_or_missing_store_is_named(tmp_path, text, tokenizer_folder):
    with pytest.raises(InputError, match="nothing: not a token store"):
        TokenStore.open(tmp_path / "nothing")
    prepare([str(text)], tokenizer_folder, tmp_path / "store")
    os.truncate(tmp_path / "store/tokens.bin", 100)
    with pytest.raises(InputError, match=r"tokens.bin: has 100 bytes, expected 4,936 from the header"):
        TokenStore.open(tmp_path / "store")
    (tmp_path / "store/header.json").write_text('{"format": "something else"}')
    with pytest.raises(InputError, match="its format is 'something else'"):
        TokenStore.open(tmp_path / "store")


def test_layout_does_not_change_the_hash_and_content_does():
    assert content_hash("A text.\nOf two lines. ") == content_hash("A text. Of  two lines.")
    assert content_hash("A text.") != content_hash("A test.")


def test_the_held_out_share_is_as_set():
    hashes = np.array([content_hash(f"document {i}") for i in range(20_000)], np.uint64)
    assert is_held_out(hashes, 0.1).mean() == pytest.approx(0.1, abs=0.01)
    assert not is_held_out(hashes, 0.0).any()
    assert is_held_out(hashes, 1.0).all()
    assert (is_held_out(hashes, 0.1) <= is_held_out(hashes, 0.2)).all()


# Duplicates ---------------------------------------------------------------------------------------------------------


def changed(text: str, words: int) -> str:
    """The text with some of its words replaced."""
    parts = text.split()
    for i in np.random.default_rng(0).choice(len(parts), words, replace=False):
        parts[i] = "house"
    return " ".join(parts)


def long_text(number):
    return " ".join(np.random.default_rng(number).choice(2000, 300).astype(str))


def find(texts):
    tokens = [np.array([int(word) if word.isdigit() else 5000 for word in text.split()]) for text in texts]
    sketches = duplicates.sketches(np.concatenate(tokens), np.array([len(some) for some in tokens]))
    return duplicates.find_duplicates(np.array([content_hash(text) for text in texts], np.uint64), sketches)


def test_exact_and_near_exact_duplicates_are_found_and_others_are_not():
    originals = [long_text(i) for i in range(100)]
    exact, near = find([*originals, *originals[:10], *(changed(text, 2) for text in originals[10:60])])
    assert list(np.flatnonzero(exact)) == list(range(100, 110))
    assert not near[:110].any()
    assert near[110:].mean() > 0.9
    exact, near = find([*originals, *(changed(text, 100) for text in originals)])
    assert not exact.any()
    assert not near.any()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_tokens_hashed_at_a_time_change_no_sketch(monkeypatch, size):
    random = np.random.default_rng(0)
    sizes = random.integers(1, 40, 30)
    tokens = random.integers(0, 1 << 16, sizes.sum(), dtype=np.uint16)
    whole = duplicates.sketches(tokens, sizes)
    monkeypatch.setattr(duplicates, "SLICE", size)
    np.testing.assert_array_equal(duplicates.sketches(tokens, sizes), whole)
    alone = [duplicates.sketches(some, np.array([len(some)])) for some in np.split(tokens, np.cumsum(sizes)[:-1])]
    np.testing.assert_array_equal(np.concatenate(alone), whole)


def test_short_documents_are_duplicates_only_of_themselves():
    exact, near = find(["1", "2", "1 2", "1", "2 1"])
    assert list(exact) == [False, False, False, True, False]
    assert not near.any()


def test_dropping_duplicates_keeps_everything_else(tmp_path, tokenizer_folder, monkeypatch):
    texts = [document(i, 30) for i in range(30)]
    (tmp_path / "a.txt").write_text("\n\n".join([*texts[:20], texts[3], changed(texts[4], 1), *texts[20:], texts[25]]))
    (tmp_path / "b.txt").write_text("\n\n".join(texts))
    header = prepare([str(tmp_path / "a.txt")], tokenizer_folder, tmp_path / "a", drop_duplicates=True)
    prepare([str(tmp_path / "b.txt")], tokenizer_folder, tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    for name in ARRAYS:
        assert a[f"{name}.bin"] == b[f"{name}.bin"]
    summary = header["summary"]
    assert (summary["exact_duplicates"], summary["near_duplicates"]) == (2, 1)
    assert (summary["documents"], summary["kept_documents"]) == (33, 30)
