"""Rows come out of every format the same, and what is wrong with them is said with file and line."""

import datetime
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from bert_jax.data import rows as data_rows
from bert_jax.errors import InputError

ROWS = [{"text": "naïve café", "label": "good"}, {"text": "line\u2028separator", "label": "bad"}]


def write(path, data: str | bytes):
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("compressed", ["", ".gz"])
@pytest.mark.parametrize(
    ("ending", "data"),
    [
        (".jsonl", jsonl(ROWS)),
        (".json", jsonl(ROWS)),
        (".json", json.dumps(ROWS)),
        (".json", "\ufeff" + json.dumps(ROWS, indent=1)),
        (".json", json.dumps({"version": "1", "data": ROWS})),
        (".jsonl", "\ufeff" + jsonl(ROWS).replace("\n", "\r\n\r\n")),
        (".tsv", "text\tlabel\nnaïve café\tgood\nline\u2028separator\tbad"),
        (".csv", '\ufefftext,label\r\n"naïve café",good\r\nline\u2028separator,bad\r\n'),
    ],
    ids=["jsonl", "json", "array", "indented-array", "flat-data", "bom-crlf-blanks", "tsv", "csv"],
)
def test_all_formats_give_the_same_rows(tmp_path, ending, data, compressed):
    rows = data_rows.read_rows(write(tmp_path / f"rows{ending}{compressed}", data))
    assert [row.values for row in rows] == ROWS


def test_where_is_the_line_on_which_a_row_begins(tmp_path):
    path = write(tmp_path / "rows.csv", 'text,label\n"two\nlines",a\n\nplain,b\n')
    assert [(row.values["text"], row.where) for row in data_rows.read_rows(path)] == [
        ("two\nlines", f"{path}:2"),
        ("plain", f"{path}:5"),
    ]


def test_quotes_in_tsv_are_only_characters(tmp_path):
    path = write(tmp_path / "rows.tsv", 'text\tlabel\n"a lone quote\t1\nplain\t0\n')
    assert [row.values["text"] for row in data_rows.read_rows(path)] == ['"a lone quote', "plain"]


def test_conll_columns_become_sentences(tmp_path):
    data = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP I-PER"
    path = write(tmp_path / "eng.train", data)
    rows = data_rows.read_rows(f"conll:{path}")
    assert [(row.values["tokens"], row.values["tags"]) for row in rows] == [
        (["EU", "rejects"], ["I-ORG", "O"]),
        (["Peter"], ["I-PER"]),
    ]
    assert rows[0].values["column_2"] == ["NNP", "VBZ"]
    assert [row.where for row in rows] == [f"{path}:3", f"{path}:7"]
    spaced = data_rows.read_rows(write(tmp_path / "words.conll", "New York\tB-LOC\nis\tO\n"))
    assert spaced[0].values == {"tokens": ["New York", "is"], "tags": ["B-LOC", "O"]}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_gives_a_row_a_question(tmp_path, indent):
    answer = {"text": "Paris", "answer_start": 0}
    questions = [
        {"id": "q1", "question": "Where?", "answers": [answer]},
        {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    squad = {
        "version": "v2.0",
        "data": [{"title": "t", "paragraphs": [{"context": "Paris is big.", "qas": questions}]}],
    }
    path = write(tmp_path / "dev.json.gz", json.dumps(squad, indent=indent))
    first, second = data_rows.read_rows(path)
    assert first.values == questions[0] | {"title": "t", "context": "Paris is big."}
    assert second.values["is_impossible"] is True
    assert second.where == f"{path}: question 'q2'"


class TinySet(tfds.core.GeneratorBasedBuilder):
    """Two reviews with every kind of feature that text tasks use."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["neg", "pos"])
        features = {
            "text": tfds.features.Text(),
            "label": label,
            "score": np.float32,
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(label),
            "answers": tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(1)}

    def _generate_examples(self, count):
        for i in range(count):
            answers = {"text": ["né"], "answer_start": [i]}
            tags = ["neg", "pos"]
            yield (
                i,
                {
                    "text": f"né {i}",
                    "label": -1 if i == 3 else i % 2,
                    "score": i / 2,
                    "tokens": tags,
                    "tags": tags,
                    "answers": answers,
                },
            )


@pytest.fixture
def tiny_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    TinySet(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    return tmp_path / "tiny_set" / "1.0.0"


def test_tfds_rows_are_plain_values_with_label_names(tiny_set):
    rows = sorted(data_rows.read_rows("tfds:tiny_set:train"), key=lambda row: row.values["text"])
    assert [row.values["label"] for row in rows] == ["neg", "pos", "neg", None]
    assert rows[1].values == {
        "text": "né 1",
        "label": "pos",
        "score": 0.5,
        "tokens": ["neg", "pos"],
        "tags": ["neg", "pos"],
        "answers": {"text": ["né"], "answer_start": [1]},
    }
    assert json.dumps([row.values for row in rows])
    assert data_rows.declared_labels("tfds:tiny_set:train", "label") == ("neg", "pos")
    assert data_rows.declared_labels("tfds:tiny_set:train", "text") == ()
    assert len(data_rows.read_rows("tfds:tiny_set:1.0.0:train[:50%]")) == 2
    assert len(data_rows.read_rows(f"tfds:{tiny_set}:test")) == 1


def test_tfds_errors_name_the_splits(tiny_set, monkeypatch):
    with pytest.raises(InputError, match=r"there are train, test"):
        data_rows.read_rows("tfds:tiny_set")
    with pytest.raises(InputError, match=r"tfds:tiny_set:dev: .*train, test"):
        data_rows.read_rows("tfds:tiny_set:dev")
    with pytest.raises(InputError, match=r"tfds:no_such_set:train: .*cannot be opened"):
        data_rows.read_rows("tfds:no_such_set:train")


BAD_FILES = {
    "empty.jsonl": ("", r"empty\.jsonl: the file holds no rows"),
    "header-only.tsv": ("text\tlabel\n", r"header-only\.tsv: the file holds no rows"),
    "binary.jsonl": (b"\x7fELF\x00\x01", r"binary\.jsonl:1: a zero byte; this is a binary file"),
    "latin.tsv": ("text\tlabel\ncafé\t1\n".encode("latin-1"), r"latin\.tsv:2: not UTF-8 .byte 0xe9."),
    "broken.jsonl": ('{"text": "a"}\n{"text": \n', r"broken\.jsonl:2: this line is not JSON"),
    "list.jsonl": ('["text"]\n', r"list\.jsonl:1: expected one JSON object"),
    "array.json": ('[{"text": "a"}, "b"]', r"array\.json: row 2: expected a JSON object, found \"b\""),
    "cut.json": ('[{"text": "a"},\n', r"cut\.json:\d: this is neither JSON lines nor one JSON array"),
    "none.json": ("[]", r"none\.json: the file holds no rows"),
    "other.json": ('{\n"a": 1}\n', r"other\.json: this is neither JSON lines nor a JSON array of rows nor SQuAD"),
    "ragged.tsv": ("text\tlabel\na\t1\nb\n", r"ragged\.tsv:3: 1 columns, but the header has 2: text, label"),
    "twice.csv": ("text,text\na,b\n", r"twice\.csv:1: the header names column 'text' twice"),
    "quote.csv": ('text,label\na,1\n"b,1\nc,0\n', r"quote\.csv:3: the row that begins here is not CSV"),
    "ragged.conll": ("EU B-ORG\nis\n", r"ragged\.conll:2: 1 columns, but the first line of the file has 2"),
    "half.jsonl.gz": (None, r"half\.jsonl\.gz: damaged or cut off within its compressed data"),
    "no-gzip.jsonl.gz": (None, r"no-gzip\.jsonl\.gz: not a gzip file although its name ends in \.gz"),
    "rows.xyz": ("a", r"rows\.xyz: the ending '\.xyz' does not name a format; .*conll:"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_the_line(tmp_path, name):
    data, message = BAD_FILES[name]
    path = tmp_path / name
    if name == "half.jsonl.gz":
        path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(10_000).hex().encode())[:-500])
    elif name == "no-gzip.jsonl.gz":
        path.write_bytes(b'{"text": "a"}\n')
    else:
        write(path, data)
    with pytest.raises(InputError, match=message):
        data_rows.read_rows(str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        data_rows.read_rows(str(tmp_path / "none.tsv"))
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(InputError, match=r"this is a folder"):
        data_rows.read_rows(str(tmp_path / "folder.tsv"))


def test_a_field_that_no_row_has_is_answered_with_those_that_there_are(tmp_path):
    rows = data_rows.read_rows(write(tmp_path / "rows.tsv", "text\tlabel\na\t1\n"))
    data_rows.check_fields(rows, ["text", "label"])
    with pytest.raises(InputError, match=r"no row has a field or column 'lable'; this one has 'text', 'label'"):
        data_rows.check_fields(rows, ["text", "lable"])


def test_bad_values_are_reported_with_file_and_line_up_to_twenty(tmp_path):
    rows = [
        {"text": None, "label": [1], "score": "nan", "tags": "a"},
        {"text": 3, "score": True, "tags": [[]]},
    ] + 20 * [{}]
    errors = data_rows.RowErrors()
    for row in data_rows.read_rows(write(tmp_path / "rows.jsonl", jsonl(rows))):
        assert data_rows.text_of(row, "text", errors) == ""
        assert data_rows.label_of(row, "label", errors) == ""
        assert data_rows.number_of(row, "score", errors) == 0
        assert data_rows.labels_of(row, "tags", errors) == []
    with pytest.raises(InputError) as caught:
        errors.check()
    path = tmp_path / "rows.jsonl"
    lines = str(caught.value).splitlines()
    assert lines[:8] == [
        f"{path}:1: field 'text' is missing",
        f"{path}:1: field 'label' should be one label, not [1]",
        f"{path}:1: field 'score' should be a number, not \"nan\"",
        f"{path}:1: field 'tags' should be a list of labels, not \"a\"",
        f"{path}:2: field 'text' should be a text, not 3",
        f"{path}:2: field 'label' is missing",
        f"{path}:2: field 'score' should be a number, not true",
        f"{path}:2: field 'tags' should be a list of labels, not [[]]",
    ]
    assert len(lines) == 21
    assert lines[-1] == f"... and {4 * 22 - 20} more"


def test_good_values_are_read_as_what_they_mean():
    errors = data_rows.RowErrors()
    row = data_rows.Row({"text": "a", "one": 1, "yes": True, "word": "pos", "score": "2.5", "tags": ["x", 2]}, "f:1")
    assert data_rows.text_of(row, "text", errors) == "a"
    assert data_rows.text_of(data_rows.Row({"text": ""}, "f:1"), "text", errors) == ""
    assert [data_rows.label_of(row, field, errors) for field in ("one", "yes", "word")] == ["1", "true", "pos"]
    assert data_rows.number_of(row, "score", errors) == 2.5
    assert data_rows.labels_of(row, "tags", errors) == ["x", "2"]
    errors.check()


def test_white_space_around_a_label_or_a_tag_is_not_part_of_it(tmp_path):
    errors = data_rows.RowErrors()
    (table,) = data_rows.read_rows(write(tmp_path / "t.csv", "text,label\ncat, tame \n"))
    (sentence,) = data_rows.read_rows(write(tmp_path / "t.conll", "red\tB-X \ncat\tO\t\u3000\n"))
    (listed,) = data_rows.read_rows(write(tmp_path / "t.jsonl", jsonl([{"tags": ["a\t", " b", "\u00a0c"]}])))
    assert data_rows.label_of(table, "label", errors) == "tame"
    assert data_rows.labels_of(sentence, "tags", errors) == ["B-X", "O"]
    assert data_rows.labels_of(listed, "tags", errors) == ["a", "b", "c"]
    errors.check()


@pytest.mark.parametrize("end", ["\t", " ", " \t ", ""])
@pytest.mark.parametrize("between", ["\t", " "])
def test_tabs_and_blanks_at_the_ends_of_conll_lines_are_not_columns(tmp_path, between, end):
    lines = [["red", "JJ", "O"], ["cat", "NN", "B-X"], [], ["dog", "NN", "B-X"]]
    path = write(tmp_path / "t.conll", "".join(between.join(line) + end + "\n" for line in lines))
    assert [row.values for row in data_rows.read_rows(path)] == [
        {"tokens": ["red", "cat"], "column_2": ["JJ", "NN"], "tags": ["O", "B-X"]},
        {"tokens": ["dog"], "column_2": ["NN"], "tags": ["B-X"]},
    ]


@pytest.mark.parametrize("value", ["NaN", "null", '""', '" "', '"nan"', '"NULL"'])
def test_a_missing_label_is_an_error_in_every_spelling(tmp_path, value):
    (row,) = data_rows.read_rows(write(tmp_path / "t.jsonl", f'{{"label": {value}, "tags": ["a", {value}]}}\n'))
    for read, field in ((data_rows.label_of, "label"), (data_rows.labels_of, "tags")):
        errors = data_rows.RowErrors()
        assert not read(row, field, errors)
        with pytest.raises(InputError, match=rf"t\.jsonl:1: .*field '{field}'"):
            errors.check()


def test_a_class_may_be_called_null_where_the_names_are_known():
    errors, row = data_rows.RowErrors(), data_rows.Row({"label": "null", "tags": ["nan"]}, "f:1")
    assert data_rows.label_of(row, "label", errors, known=("null", "one")) == "null"
    assert data_rows.labels_of(row, "tags", errors, known=("nan",)) == ["nan"]
    errors.check()


def test_whole_numbers_are_one_label_in_every_spelling():
    errors = data_rows.RowErrors()
    for value in (1, 1.0, "1", "1.0", " 1.00"):
        assert data_rows.label_of(data_rows.Row({"label": value}, "f:1"), "label", errors) == "1"
    assert data_rows.labels_of(data_rows.Row({"tags": [0.0, 2, 1.5]}, "f:1"), "tags", errors) == ["0", "2", "1.5"]
    assert data_rows.label_index(["0.0", " yes"]) == {"0": 0, "0.0": 0, "yes": 1, " yes": 1}
    errors.check()


@pytest.mark.parametrize("between", ["\t", " "])
def test_comments_before_a_sentence_are_not_words(tmp_path, between):
    words = "# id 7\tsource=web\n# red cat\n#\nred O\ncat B-X\n\n# 8\n# ?\ndog B-X\n\n#end document\n"
    path = write(tmp_path / "t.conll", words.replace(" O", between + "O").replace(" B-X", between + "B-X"))
    rows = data_rows.read_rows(path)
    assert [row.values for row in rows] == [
        {"tokens": ["red", "cat"], "tags": ["O", "B-X"]},
        {"tokens": ["dog"], "tags": ["B-X"]},
    ]
    assert [row.where for row in rows] == [f"{path}:4", f"{path}:9"]


def test_the_word_hash_is_a_word_within_a_sentence_and_where_it_has_a_tag(tmp_path):
    path = write(tmp_path / "t.conll", "# O\n1 O\n\nred O\n# X\n")
    assert [row.values["tokens"] for row in data_rows.read_rows(path)] == [["#", "1"], ["red", "#"]]
    path = write(tmp_path / "tabs.conll", "#\tB-X\n\nred\tO\n#cat\tO\n")
    assert [row.values["tokens"] for row in data_rows.read_rows(path)] == [["#"], ["red", "#cat"]]
    path = write(tmp_path / "words.conll", "#\nred\n\n# one\ncat\n")
    assert [row.values["tokens"] for row in data_rows.read_rows(path)] == [["#", "red"], ["cat"]]


def test_a_table_without_a_header_has_the_columns_that_are_named(tmp_path):
    named = ("id", "label", "text")
    expected = [{"id": "7", "label": "1", "text": "a cat"}, {"id": "8", "label": "0", "text": "dogs"}]
    for name, content in {
        "t.tsv": "7\t1\ta cat\n8\t0\tdogs\n",
        "t.csv": "7,1,a cat\n8,0,dogs\n",
        "with_header.csv": "id,label,text\n7,1,a cat\n8,0,dogs\n",
        "t.jsonl": jsonl(expected),
    }.items():
        rows = data_rows.read_rows(write(tmp_path / name, content), columns=named)
        assert [row.values for row in rows] == expected
    with pytest.raises(InputError, match=r"t\.tsv:1: 3 columns, but task\.columns names 2: id, text"):
        data_rows.read_rows(str(tmp_path / "t.tsv"), columns=("id", "text"))
    with pytest.raises(InputError, match=r"t\.tsv:2: .*'a cat'; if the file has no header row, .*--task\.columns"):
        data_rows.check_fields(data_rows.read_rows(str(tmp_path / "t.tsv")), ["text"])


CLASSES = {"names": ["not", "is"], "_type": "ClassLabel"}
FEATURES = {
    "label": CLASSES,
    "tags": {"feature": CLASSES, "_type": "List"},
    "answers": {"feature": {"text": {"dtype": "string", "_type": "Value"}, "kind": CLASSES}, "_type": "Sequence"},
}
NUMBERED = [
    {"label": 1, "tags": [0, 1], "answers": {"text": ["a"], "kind": [1]}, "day": datetime.date(2020, 1, 2)},
    {"label": -1, "tags": [], "answers": {"text": [], "kind": []}, "day": None},
]
NAMED = [
    {"label": "is", "tags": ["not", "is"], "answers": {"text": ["a"], "kind": ["is"]}, "day": "2020-01-02"},
    {"label": None, "tags": [], "answers": {"text": [], "kind": []}, "day": None},
]


def saved(folder, described: bool = True):
    """The rows as `datasets` saves them: a folder, one Arrow file, and two Parquet files."""
    table = pa.Table.from_pylist(NUMBERED)
    if described:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    (folder / "set/train").mkdir(parents=True)
    path = folder / "set/train/data-00000-of-00001.arrow"
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (folder / "set/train/state.json").write_text(json.dumps(state))
    (folder / "set/train/dataset_info.json").write_text(json.dumps({"features": FEATURES if described else None}))
    (folder / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for i in range(2):
        pa.parquet.write_table(table.slice(i, 1), folder / f"train-{i}.parquet")


def test_sets_of_hugging_face_have_the_names_of_their_classes(tmp_path):
    saved(tmp_path)
    arrow = tmp_path / "set/train/data-00000-of-00001.arrow"
    for source in (tmp_path / "set/train", arrow, tmp_path / "train-*.parquet"):
        assert [row.values for row in data_rows.read_rows(str(source))] == NAMED
        assert data_rows.declared_labels(str(source), "label") == ("not", "is")
        assert data_rows.declared_labels(str(source), "tags") == ("not", "is")
        assert data_rows.declared_labels(str(source), "day") == ()
    assert data_rows.read_rows(str(tmp_path / "train-*.parquet"))[1].where == f"{tmp_path}/train-1.parquet: row 1"
    with pytest.raises(InputError, match=r"set: which split\? write .*set/SPLIT; there are train, test"):
        data_rows.read_rows(str(tmp_path / "set"))
    with pytest.raises(InputError, match=r"none-\*\.parquet: no file has such a name"):
        data_rows.read_rows(str(tmp_path / "none-*.parquet"))
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(InputError, match=r"arrow: not an Arrow file as `datasets` writes it, or cut short"):
        data_rows.read_rows(str(tmp_path / "set/train"))


def test_classes_without_names_stay_numbers(tmp_path):
    saved(tmp_path, described=False)
    for source in (tmp_path / "set/train", tmp_path / "train-0.parquet"):
        assert data_rows.read_rows(str(source))[0].values["label"] == 1
        assert data_rows.declared_labels(str(source), "label") == ()


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_json_that_python_refuses_is_an_error_with_its_line(tmp_path, value):
    for name, where in (("t.jsonl", r"t\.jsonl:1"), ("t.json", r"t\.json")):
        with pytest.raises(InputError, match=where):
            data_rows.read_rows(
                write(tmp_path / name, f'{{"text": {value}\n' if value[0] == "[" else f'{{"text": {value}}}\n')
            )
