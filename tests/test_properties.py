"""Random files, valid and damaged: a reader returns what was written, or raises one InputError; nothing in between.

`python tools/check.py properties` runs the same properties on many more examples.
"""

import contextlib
import csv
import io
import json
import os
import re
import string
import unicodedata
import warnings
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bert_jax import metrics, tasks, tokenizers
from bert_jax.config import (
    Experiment,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
    experiment_from_json,
    to_json,
)
from bert_jax.data.rows import Row, label_text, read_rows
from bert_jax.errors import InputError
from bert_jax.interop import huggingface
from bert_jax.tasks.question_answering import answers_of, locate, placed
from bert_jax.tasks.schemes import scheme
from bert_jax.tasks.words import word_spans
from helpers.models import MODEL

IN_ALL = int(os.environ.get("PROPERTY_EXAMPLES", "2000"))
OF_EACH = IN_ALL // 17
SMALL = replace(MODEL, num_layers=1, max_position_embeddings=128)

examples = settings(
    max_examples=OF_EACH,
    deadline=None,
    derandomize=IN_ALL <= 2000,  # the suite always has the same examples
    database=None,
    suppress_health_check=list(HealthCheck),
)

# Text without line ends, tabs and control characters, which tables and CoNLL files cannot hold in a cell.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
TEXT = st.text(CHARACTERS, max_size=12)
WORD = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
NAME = st.text(string.ascii_letters, min_size=1, max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


def write(path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read_quietly(function, *arguments, **options):
    """Returns the result of a call, or None after an InputError; every other exception fails the test."""
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        return function(*arguments, **options)
    return None


# What is valid is read as it was written


@st.composite
def tables(draw):
    """Names of columns, and rows of texts."""
    names = draw(st.lists(NAME, min_size=2, max_size=4, unique=True))
    rows = draw(st.lists(st.lists(TEXT, min_size=len(names), max_size=len(names)), min_size=1, max_size=5))
    assume(rows[0] != names)
    return names, rows


@examples
@given(tables(), st.sampled_from(["csv", "tsv", "jsonl", "json", "data"]), st.booleans())
def test_tables_are_read_as_they_were_written(folder, table, form, header):
    names, rows = table
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    if form in ("csv", "tsv"):
        lines = ([names] if header else []) + rows
        assume(header or not rows[0][0].startswith("\ufeff"))
        written = io.StringIO()
        if form == "csv":
            csv.writer(written).writerows(lines)
        else:
            written.write("".join("\t".join(line) + "\n" for line in lines))
        path = write(folder / f"table.{form}", written.getvalue())
        read = read_rows(path, columns=() if header else names)
    else:
        content = {
            "jsonl": "".join(json.dumps(row) + "\n" for row in expected),
            "json": json.dumps(expected, ensure_ascii=False),
            "data": json.dumps({"data": expected}, indent=1),
        }[form]
        read = read_rows(write(folder / f"table.{'jsonl' if form == 'jsonl' else 'json'}", content))
    assert [row.values for row in read] == expected


@examples
@given(
    st.lists(st.lists(st.tuples(WORD, WORD, NAME), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from(["\t", " "]),
    st.sampled_from(["\n", "\r\n", " \n", "\t\n"]),
    st.lists(st.sampled_from(["# id 7\n", "#\n", "-DOCSTART- O\n\n", "\n"]), max_size=3),
)
def test_conll_files_are_read_as_they_were_written(folder, sentences, between, end, before):
    assume(all(word[0] not in "#\ufeff" and word != "-DOCSTART-" for sentence in sentences for word, _, _ in sentence))
    written = ""
    for sentence in sentences:
        written += "".join(before) + "".join(between.join(line) + end for line in sentence) + "\n"
    rows = read_rows(write(folder / "words.conll", written))
    assert [list(zip(*row.values.values(), strict=True)) for row in rows] == sentences


KINDS = st.sampled_from(["PER", "LOC", "a-b", ""])


@st.composite
def entities(draw):
    """The length of a sentence, and its entities from left to right."""
    listed, end = [], 0
    for _ in range(draw(st.integers(0, 4))):
        start = end + draw(st.integers(0, 2))
        end = start + draw(st.integers(1, 3))
        listed.append(metrics.Entity(draw(KINDS), start, end))
    return end + draw(st.integers(0, 2)), listed


def tagged(length: int, listed: list, letters: dict[str, str]) -> list[str]:
    """The tags of entities; `letters` has those of a first, an inner, a last and an only word."""
    tags, before = ["O"] * length, metrics.Entity("", -1, -1)
    for entity in listed:
        first, inner, last, only = letters
        if letters == "IIII" and before.end == entity.start and before.kind == entity.kind:
            first = only = "B"  # IOB1
        shape = [first, *[inner] * (entity.end - entity.start - 2), last] if entity.end - entity.start > 1 else [only]
        for i, letter in enumerate(shape, entity.start):
            tags[i] = f"{letter}-{entity.kind}" if entity.kind else letter
        before = entity
    return tags


@examples
@given(entities(), st.sampled_from(["IIII", "BIIB", "BIES", "BILU", "BMES"]))
def test_entities_are_read_in_every_scheme(sentence, letters):
    tags = tagged(*sentence, letters)
    assert metrics.entities(tags) == sentence[1]
    assert metrics.entity_scores([tags], [tags])["f1"] == bool(sentence[1])


@examples
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=12),
    st.lists(WORD.filter(lambda word: word.strip(".-+").isalpha()), min_size=4, max_size=4, unique=True),
    st.sampled_from(["names", "numbers", "fractions", "spaces", "given"]),
)
def test_labels_are_read_as_they_are_meant(folder, tokenizer, indices, names, form):
    assume(not {name.lower() for name in names} & {"nan", "null"})
    spelled = {
        "names": names.__getitem__,
        "numbers": str,
        "fractions": float,
        "spaces": lambda i: f" {names[i]}\u00a0",
        "given": int,
    }[form]
    rows = [{"text": "red", "label": spelled(i)} for i in indices]
    path = write(folder / "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assume(len(set(indices)) > 1)
    fields = SequenceClassification(train=path, labels=tuple(names) if form == "given" else ())
    task = tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
    read = task.train_batches(batch_size=1, steps=1, seed=0).features.arrays["labels"].ravel()
    by_name = {str(i): i for i in range(4)} if form in ("numbers", "fractions") else {n: i for i, n in enumerate(names)}
    assert [by_name[task.fields.labels[i]] for i in read] == indices


@examples
@given(
    st.integers(2, 6), st.data(), st.sampled_from(["from 0", "from 1", "letters", "own letters", "own numbers", "text"])
)
def test_right_choices_are_read_as_they_are_meant(folder, tokenizer, count, data, form):
    indices = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    indices += [0] if form == "from 0" else [count - 1]
    texts = [f"red {name}" for name in string.ascii_lowercase[:count]]
    own = {"own letters": string.ascii_uppercase[:count], "own numbers": string.digits[1 : count + 1]}.get(form)
    choices = texts if own is None else {"text": texts, "label": list(own)}
    spelled = {
        "from 0": int,
        "from 1": lambda i: str(i + 1),
        "letters": string.ascii_uppercase.__getitem__,
        "text": texts.__getitem__,
    }.get(form, (own or "").__getitem__)
    rows = [{"context": "red", "choices": choices, "label": spelled(i)} for i in indices]
    path = write(folder / "choices.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    fields = MultipleChoice(train=path, max_length=16)
    task = tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
    read = task.train_batches(batch_size=1, steps=1, seed=0).features.arrays["labels"].ravel()
    assert read.tolist() == indices


@examples
@given(
    st.text(CHARACTERS, min_size=1, max_size=30),
    st.data(),
    st.sampled_from(["exact", "utf-16-le", "utf-8", "near", "none"]),
)
def test_an_answer_is_where_its_text_is(context, data, form):
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))]
    assume(text.strip())
    written = {
        "exact": start,
        "utf-16-le": len(context[:start].encode("utf-16-le", "surrogatepass")) // 2,
        "utf-8": len(context[:start].encode("utf-8", "surrogatepass")),
        "near": max(0, start + data.draw(st.integers(-3, 3))),
        "none": None,
    }[form]
    forms = [
        [{"text": text, "answer_start": written}],
        {"text": [text], "answer_start": [written]},
        json.dumps({"text": [text], "answer_start": [written]}),
        str({"text": [text], "answer_start": [written]}),
    ]
    row = Row({"context": context, "answers": data.draw(st.sampled_from(forms))}, "f:1")
    answers = answers_of(row, "answers")
    assert answers == [(text, written)]
    position = placed(context, answers)
    if form == "exact":
        assert position == (text, start)
    elif position is None:  # only if there are several occurrences
        assert len(re.findall(f"(?={re.escape(text)})", context)) > 1
    else:
        assert context.startswith(position[0], position[1])
    assert locate(context, "\0", written) is None


@examples
@given(st.text(max_size=30))
def test_words_cover_a_text_and_no_mark_begins_one(text):
    spans = word_spans(text)
    assert [span for pair in spans for span in pair] == sorted(span for pair in spans for span in pair)
    inside = {i for start, end in spans for i in range(start, end)}
    assert all(i in inside for i, c in enumerate(text) if unicodedata.category(c)[0] in "LNPS")
    for start, end in spans:
        assert text[start:end] == text[start:end].strip() != ""
        assert unicodedata.category(text[start])[0] != "M" or unicodedata.category(text[start - 1])[0] in "ZC"


@examples
@given(st.lists(NAME.map(str.lower), min_size=1, max_size=20, unique=True), st.booleans())
def test_ids_are_the_lines_of_a_vocabulary(folder, words, config):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "words").mkdir(exist_ok=True)
    write(folder / "words/vocab.txt", "".join(f"{piece}\n" for piece in special + words))
    (folder / "words/tokenizer_config.json").write_text('{"do_lower_case": true}' if config else "{}")
    tokenizer = tokenizers.load(folder / "words")
    ids = tokenizer.encode_ids([" ".join(words)])[0].tolist()
    assert ids == [5 + i for i in range(len(words))]
    assert tokenizer.pieces(ids) == words


# What is damaged is refused, or is still valid; nothing else happens


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replaces some bytes: (where, how many, by what) for each change."""
    for where, count, by in changes:
        where %= len(content) + 1
        content = content[:where] + by + content[where + count :]
    return content


TOKENS = [
    b"\t",
    b"\n",
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"\\",
    b"\xff",
    b"#",
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 8), st.sampled_from(TOKENS) | st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)
SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "Paris is large, Zürich is small",
                    "qas": [
                        {"id": "1", "question": "red", "answers": [{"text": "large", "answer_start": 9}]},
                        {"id": "2", "question": "blue", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
ROWS = [{"text": "red cats", "label": "no", "score": 0.5}, {"text": "blue, gold", "label": "yes", "score": 2}] * 2
CHOICES = [{"context": "red", "choices": ["a", "b", "c"], "label": n} for n in (0, 2)]
FILES = {
    "jsonl": (".jsonl", "".join(json.dumps(row) + "\n" for row in ROWS), SequenceClassification()),
    "array": (".json", json.dumps(ROWS), SequenceClassification()),
    "csv": (".csv", 'text,label\n"red, cats",no\nblue,yes\n', SequenceClassification()),
    "tsv": (".tsv", "text\tlabel\nred cats\tno\nblue\tyes\n", SequenceClassification()),
    "numbers": (".jsonl", json.dumps(ROWS[0]) + "\n", SequenceClassification(target="regression", label="score")),
    "several": (".csv", "text,a,b\nred,0,1\n", SequenceClassification(target="multi_label", label_columns=("a", "b"))),
    "lists": (".jsonl", '{"text": "red", "label": ["a", "b"]}\n', SequenceClassification(target="multi_label")),
    "conll": (".conll", "# 1\nEU\tB-ORG\nred\tO\n\nParis\tB-LOC\n", TokenClassification(overlap=2, max_length=16)),
    "tags": (".jsonl", '{"tokens": ["a", "b"], "tags": ["B-X", "O"]}\n', TokenClassification(overlap=2, max_length=16)),
    "squad": (".json", json.dumps(SQUAD), QuestionAnswering(max_length=64, max_question_length=8, unanswerable=True)),
    "choices": (".jsonl", "".join(json.dumps(row) + "\n" for row in CHOICES), MultipleChoice(max_length=16)),
}


def use(path: str, fields, tokenizer) -> None:
    """Reads a file as a task does that is trained and evaluated on it, and predicts for it."""
    fields = replace(fields, train=path, eval=path)
    task = tasks.resolve(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
    task.notes()
    task.train_batches(batch_size=1, steps=1, seed=0)
    task.eval_batches(batch_size=1)
    task.predict_batches(read_rows(path), batch_size=1)
    json.dumps([row.values for row in read_rows(path)])


@settings(examples, max_examples=3 * OF_EACH)
@given(st.sampled_from(sorted(FILES)), CHANGES)
def test_a_damaged_file_of_rows_is_read_or_refused(folder, tokenizer, name, changes):
    ending, content, fields = FILES[name]
    path = write(folder / f"damaged{ending}", damaged(content.encode(), changes))
    read_quietly(use, path, fields, tokenizer)


@examples
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_row_with_any_value_is_read_or_refused(folder, tokenizer, name, data):
    _, _, fields = FILES[name]
    if isinstance(fields, TokenClassification):
        rows = [{"tokens": ["a", "b"], "tags": ["B-X", "O"]}]
    elif isinstance(fields, QuestionAnswering):
        rows = [{"context": "Paris is large", "question": "q", "answers": [{"text": "large", "answer_start": 9}]}]
    else:
        rows = CHOICES if isinstance(fields, MultipleChoice) else ROWS
    row = dict(rows[0])
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(JSON)
    content = "".join(json.dumps(r) + "\n" for r in [row, *rows])
    read_quietly(use, write(folder / "values.jsonl", content), replace(fields), tokenizer)


@examples
@given(st.sampled_from(["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]), CHANGES)
def test_a_damaged_tokenizer_is_read_or_refused(folder, tokenizer, name, changes):
    tokenizer.save(folder / "tokenizer")
    path = folder / "tokenizer" / name
    content = path.read_bytes() if path.exists() else b'{"unk_token": "[UNK]", "additional_special_tokens": []}'
    path.write_bytes(damaged(content, changes))
    if name == "vocab.txt":
        (folder / "tokenizer/tokenizer.json").unlink()
    loaded = read_quietly(tokenizers.load, folder / "tokenizer")
    if loaded is not None:
        assert len(loaded.encode_ids(["red cats"])) == 1
    path.unlink()


CONFIG = huggingface.to_config(
    replace(SMALL, vocab_size=70), huggingface.Details("ForSequenceClassification", ("no", "yes"))
)


@examples
@given(st.dictionaries(st.sampled_from(sorted(CONFIG)), JSON, max_size=2), st.sets(st.sampled_from(sorted(CONFIG))))
def test_any_config_json_is_read_or_refused(changes, dropped):
    content = {name: value for name, value in (CONFIG | changes).items() if name in changes or name not in dropped}
    read = read_quietly(huggingface.parse_config, content, "config.json")
    if read is not None:
        config, details = read
        assert (config.hidden_size, config.num_layers) == (content["hidden_size"], content["num_hidden_layers"])
        assert config.initializer_range == content.get("initializer_range", config.initializer_range)
        assert read_quietly(huggingface.to_config, config, details) is not None


def replaced(data, content):
    """Puts a random value at a random position in JSON."""
    part = content
    while isinstance(part, dict | list) and part:
        keys = sorted(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(part[key], dict | list) or data.draw(st.booleans()):
            part[key] = data.draw(JSON)
            break
        part = part[key]
    return content


@examples
@given(st.data())
def test_any_json_in_the_form_of_squad_is_read_or_refused(folder, tokenizer, data):
    content = replaced(data, json.loads(json.dumps(SQUAD)))
    read_quietly(use, write(folder / "squad.json", json.dumps(content)), FILES["squad"][2], tokenizer)


EXPERIMENT = Experiment(task=SequenceClassification(train="t.jsonl", labels=("a", "b")), model=SMALL)


@examples
@given(st.data())
def test_any_experiment_json_is_read_or_refused(data):
    content = json.loads(json.dumps(to_json(EXPERIMENT)))
    assert experiment_from_json(content, "experiment.json") == EXPERIMENT
    read_quietly(experiment_from_json, replaced(data, content), "experiment.json")


@pytest.mark.parametrize("value", ["0", [[]], [[0.5, 8, 1]], [8]])
def test_a_schedule_of_another_form_is_refused_with_its_field(value):
    with pytest.raises(InputError, match=r"experiment\.json: batch_schedule: expected"):
        experiment_from_json({**to_json(EXPERIMENT), "batch_schedule": value}, "experiment.json")


@examples
@given(st.sets(WORD | st.sampled_from(["O", "B-A", "I-A", "B", "I", "L-A", "S-A", "1", "B-"]), min_size=1, max_size=6))
def test_any_set_of_tags_is_plain_or_of_a_scheme(tags):
    found_scheme = scheme(tags)
    assert str(found_scheme)
    if found_scheme.entities:
        assert all(label_text(tag) == tag for tag in tags if tag != "O" and tag.isascii())
        metrics.entities(sorted(tags))
