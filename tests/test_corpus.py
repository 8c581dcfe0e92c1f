"""Documents from every kind of source, sentences from documents, and errors for bad input."""

import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from bert_jax.data import corpus
from bert_jax.errors import InputError

TEXTS = ["First one. It has two sentences.", "Ein zweites mit Umlauten: äöü.", "第三。"]


def read(*sources):
    return [text.strip() for text in corpus.documents([str(source) for source in sources])]


def json_lines(texts) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def gzipped(data: bytes) -> bytes:
    # Without the time: a test's name holds its data, and pytest-xdist's workers must all find tests of the same names.
    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "\n\n".join(TEXTS).encode()),
        ("a", "\n \t\n\n".join(TEXTS).encode()),
        ("a.txt", b"\xef\xbb\xbf" + "\r\n\r\n".join(TEXTS).encode()),
        ("a.txt.gz", gzipped("\n\n".join(TEXTS).encode())),
        ("a.txt.zst", zstd("\n\n".join(TEXTS).encode())),
        ("a.jsonl", json_lines(TEXTS)),
        ("a.jsonl.gz", gzipped(json_lines(TEXTS))),
        ("a.jsonl.zst", zstd(json_lines(TEXTS[:1])) + zstd(json_lines(TEXTS[1:]))),
    ],
)
def test_every_format_yields_the_same_documents(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == TEXTS


def test_parquet_yields_its_column_text(tmp_path):
    table = pyarrow.table({"id": [1, 2, 3], "text": TEXTS})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert read(tmp_path / "a.parquet") == TEXTS


def test_folders_and_patterns_are_read_in_order_and_each_file_once(tmp_path):
    for name, text in {"b.txt": "b", "sub/a.txt": "a", "c.txt": "c", "_SUCCESS": "no", ".hidden": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == ["b", "c", "a"]
    assert read(tmp_path / "*.txt", tmp_path / "b.txt") == ["b", "c"]
    assert read(tmp_path / "**" / "a.txt") == ["a"]


def test_tfds_sets_are_read_by_name_and_slice(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds.disable_progress_bar()

    class TinyTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"text": f"text {i}"}) for i in range(10))}

        def _generate_examples(self):
            return ()

    TinyTexts(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    assert sorted(read("tfds:tiny_texts:train")) == [f"text {i}" for i in range(10)]
    assert len(read(f"tfds:{tmp_path / 'tiny_texts/1.0.0'}:train[:30%]")) == 3
    assert corpus.find_files(["tfds:tiny_texts:train[:50%]"])[0].size == 5
    with pytest.raises(InputError, match="tfds:tiny_texts:nothing: no split 'nothing', there are train"):
        read("tfds:tiny_texts:nothing")
    with pytest.raises(InputError, match="which split"):
        read("tfds:tiny_texts")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "a.txt: empty"),
        ("a.txt", b"\n \n", "a.txt: empty"),
        ("a.txt", "one\n\ncaf\u00e9".encode("latin-1"), "a.txt:3: not UTF-8 .byte 0xe9.; convert"),
        ("a.txt", "one".encode("utf-16"), "a.txt:1: not UTF-8 .*iconv -f utf-16 -t utf-8"),
        ("a.txt", "one".encode("utf-16-le"), "a.txt:1: a zero byte; this is a binary file or UTF-16"),
        ("a.txt", b"one\n\0\1two\0", "a.txt:2: a zero byte; this is a binary file"),
        ("a.txt", gzipped(b"text"), "a.txt:1: not UTF-8"),
        ("a.txt.gz", b"plain", "a.txt.gz: not a gzip file"),
        ("a.txt.gz", gzipped(b"text" * 10000)[:-9], "a.txt.gz: damaged or cut off"),
        ("a.txt.zst", b"plain", "a.txt.zst: damaged"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"title": "a"}\n', 'a.jsonl:1: expected {"text": "..."}, found the fields title'),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: expected"),
        ("a.jsonl", b'"text"\n', "a.jsonl:1: expected .* found str"),
        ("a.parquet", b"no", "a.parquet: not a Parquet file"),
    ],
)
def test_bad_input_is_named_by_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for name in ("missing.txt", "*.txt"):
        with pytest.raises(InputError, match="no such file or folder"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no text was named"):
        read()


def test_parquet_without_text_names_its_columns(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column text; its columns are id, body"):
        read(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="row 2: text is NoneType"):
        read(tmp_path / "b.parquet")


def test_a_document_too_large_for_memory_is_refused_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 1000)
    (tmp_path / "a.txt").write_text("small\n\n" + "a line\n" * 500)
    with pytest.raises(InputError, match=r"a.txt:3: a document of more than 1,000 characters; put a blank line"):
        read(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("small\n" + "word " * 500)
    with pytest.raises(InputError, match=r"b.txt:2: longer than 1,000 bytes"):
        read(tmp_path / "b.txt")


def test_reading_is_lazy():
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = (b"word \n\n" * len(buffer))[: len(buffer)]
            return len(buffer)

    texts = corpus.read_stream(io.BufferedReader(Endless()), "endless.txt")
    assert [next(texts).strip() for _ in range(3)] == ["word"] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "Mr. A. Smith vs. Dr. B. Jones et al. won. Yes.",
            ["Mr. A. Smith vs. Dr. B. Jones et al. won.", "Yes."],
        ),
        ("It cost 3.14 dollars, e.g. Monday. Fine.", ["It cost 3.14 dollars, e.g. Monday.", "Fine."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Wait... what? (Yes.) Ok", ["Wait... what?", "(Yes.)", "Ok"]),
        ("So did I. He knew.", ["So did I.", "He knew."]),
        ("A title\nThe text. More", ["A title", "The text.", "More"]),
        ("Dr. No.\nMr. Ho said so", ["Dr. No.", "Mr. Ho said so"]),
        ("It was signed (Dr. L.)\nThen he left", ["It was signed (Dr. L.)", "Then he left"]),
        ("J. R. R. Lee came. The U.S. He said", ["J. R. R. Lee came.", "The U.S.", "He said"]),
        ("第一句。第二句！“第三句。”第四", ["第一句。", "第二句！", "“第三句。”", "第四"]),
        ("Привет. Как дела? Хорошо.", ["Привет.", "Как дела?", "Хорошо."]),
        ("  \n ", []),
        ("no end", ["no end"]),
    ],
)
def test_text_is_cut_where_a_sentence_ends(text, expected):
    assert corpus.sentences(text) == expected


def test_hard_wrapped_lines_are_joined_and_one_sentence_a_line_is_not():
    sentence = "the quick brown fox jumps over a lazy dog and then it sleeps for a time near the old river bank"
    words = sentence.split()
    lines, line = [], ""
    for word in words * 4:
        if len(line) + len(word) + 1 > 72:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    wrapped = "\n".join([*lines, line + ".", "", "A new paragraph."])
    assert corpus.sentences(wrapped) == [" ".join(words * 4) + ".", "A new paragraph."]
    listed = "\n".join(f"sentence number {i} of a list without any stop " + "and more " * (i % 4) for i in range(9))
    assert len(corpus.sentences(listed)) == 9


def test_sentences_without_an_end_are_cut_between_words_and_nothing_is_lost():
    text = "word " * 5000
    sentences = corpus.sentences(text)
    assert max(map(len, sentences)) <= corpus.MAX_SENTENCE_CHARACTERS
    assert " ".join(sentences) == text.strip()
    assert "".join(corpus.sentences("x" * 5000)) == "x" * 5000


def test_a_sample_is_bounded_seeded_and_spread_over_the_text():
    texts = [f"document number {i} " * 20 for i in range(500)]
    drawn = corpus.sample(texts, characters=50_000, seed=1)
    assert 45_000 < sum(map(len, drawn)) <= 50_000
    assert drawn == corpus.sample(texts[::-1], characters=50_000, seed=1)
    assert drawn != corpus.sample(texts, characters=50_000, seed=2)
    numbers = [int(text.split()[2]) for text in drawn]
    assert 200 < sum(numbers) / len(numbers) < 300
    assert corpus.sample(texts, characters=10**9, seed=1).__len__() == 500


def test_one_line_of_fifty_megabytes(tmp_path):
    path = Path(tmp_path / "long.txt")
    path.write_text("A sentence of some words. " * 2_000_000)
    (text,) = corpus.documents([str(path)])
    assert len(text) == 52_000_000
