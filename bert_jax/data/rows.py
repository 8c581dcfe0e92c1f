"""Rows of named values from files and TFDS data sets, and error messages that name the rows that are wrong."""

import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax import files, sources
from bert_jax.data import parquet, tfds
from bert_jax.errors import InputError

MOST_REPORTED = 20  # bad rows that a message lists; the others are counted
_MISSING = frozenset({"", "nan", "null"})  # what a table holds, in any case, where a row has no label
_COMMENT = re.compile(r"#( |$)|#(begin|end) document")  # a line of a CoNLL file, before the first word of a sentence
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


@dataclass(frozen=True)
class Row:
    """One example as it is in its source."""

    values: dict[str, Any]  # by the name of the field or column
    where: str  # "file:line" or similar, for messages


class RowErrors:
    """Collects the problems of rows, so that one message lists them before training starts."""

    def __init__(self):
        self._problems: list[str] = []

    def add(self, where: str, problem: str) -> None:
        """Adds a problem of the row at `where`."""
        self._problems.append(f"{where}: {problem}")

    def check(self) -> None:
        """Raises InputError with the first 20 problems, one per line, if there are any."""
        if not self._problems:
            return
        lines = self._problems[:MOST_REPORTED]
        if more := len(self._problems) - len(lines):
            lines.append(f"... and {more} more")
        raise InputError("\n".join(lines))


def read_rows(source: str) -> list[Row]:
    """Reads all rows of `source`.

    A source is a file, plain or compressed (.gz, .zst). Its ending decides its format:

        .jsonl, .json         one JSON object per line; a .json file may also be an array of objects, or SQuAD's
        .tsv                  a header row, then values between tabs; quotes have no meaning (as in GLUE's files)
        .csv                  a header row, then values between commas, quoted where needed
        .conll, .iob, .bio    columns by sentence: "tokens" is the first, "tags" the last, "column_2" the second, ...;
                              lines such as "# id 7" before a sentence are comments
        .parquet              one row per row of the table
        SQuAD JSON (1.1, 2.0) one row per question: "context", "question", "id", "answers", "is_impossible", "title";
                              "data" may also hold these rows themselves

    With another ending the format goes before the path: `conll:train.tsv`, `squad:dev`. Or a source is a set of
    TensorFlow Datasets, `tfds:name[/config][:version]:split`, whose split may be a slice such as `train[:80%]`, and
    whose name may be the folder of a prepared set; class labels come as their names.

    Raises:
      InputError: the source is missing, empty, binary, not UTF-8 or not in its format, naming file and line.
    """
    if sources.parse(source).kind == "tfds":
        elements, features = tfds.open_set(source)
        values = (tfds.plain(features, elements[number]) for number in range(len(elements)))
        return [Row(row, f"{source}: example {number}") for number, row in enumerate(values)]
    name, path = _format_and_path(source)
    errors = RowErrors()
    rows = _FORMATS[name](path, errors)
    errors.check()
    if not rows:
        raise InputError(f"{path}: the file holds no rows")
    return rows


def check_fields(rows: Sequence[Row], fields: Sequence[str]) -> None:
    """Raises InputError if a field is in none of `rows`; the message lists the fields of the first row."""
    for field in fields:
        if not any(field in row.values for row in rows):
            known = ", ".join(repr(name) for name in rows[0].values)
            raise InputError(f"{rows[0].where}: no row has a field or column {field!r}; this one has {known}")


def text_of(row: Row, field: str, errors: RowErrors) -> str:
    """Returns the text in `field`. If it is missing, empty or not a text, adds an error and returns ""."""
    value = _filled(row, field, errors)
    if value is not None and not isinstance(value, str):
        errors.add(row.where, f"field {field!r} should be a text, not {_shown(value)}")
    return value if isinstance(value, str) else ""


def number_of(row: Row, field: str, errors: RowErrors) -> float:
    """Returns the number in `field`. If it is missing or not a finite number, adds an error and returns 0."""
    value = _filled(row, field, errors)
    if value is None:
        return 0.0
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    errors.add(row.where, f"field {field!r} should be a number, not {_shown(value)}")
    return 0.0


def label_of(row: Row, field: str, errors: RowErrors, known: Collection[str] = ()) -> str:
    """Returns the label in `field` as text, see `label_text`. If it is missing or wrong, adds an error and returns "".

    Args:
      known: names of labels, which are labels even if they read "nan" or "null".
    """
    value = _filled(row, field, errors)
    if value is None:
        return ""
    if isinstance(value, list | dict):
        errors.add(row.where, f"field {field!r} should be one label, not {_shown(value)}")
        return ""
    text = label_text(value)
    if text.lower() in _MISSING and text not in known:
        errors.add(row.where, f"field {field!r} is missing ({_shown(value)})")
        return ""
    return text


def labels_of(row: Row, field: str, errors: RowErrors, known: Collection[str] = ()) -> list[str]:
    """Returns the labels in `field`, a list that may be empty. If one is wrong, adds an error and returns [].

    Args:
      known: names of labels, which are labels even if they read "nan" or "null".
    """
    value = row.values.get(field)
    if not isinstance(value, list) or any(isinstance(item, list | dict | None) for item in value):
        errors.add(row.where, f"field {field!r} should be a list of labels, not {_shown(value)}")
        return []
    labels = [label_text(item) for item in value]
    for number, (label, item) in enumerate(zip(labels, value, strict=True), start=1):
        if label.lower() in _MISSING and label not in known:
            errors.add(row.where, f"label {number} in field {field!r} is missing ({_shown(item)})")
            return []
    return labels


def label_text(value: Any) -> str:
    """Returns a label as text, without white space around it.

    >>> [label_text(value) for value in (1, 1.0, "1.0", 1.5, True, " good\\t")]
    ['1', '1', '1', '1.5', 'true', 'good']
    """
    text = (value if isinstance(value, str) else json.dumps(value, default=str)).strip()
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else text


def label_index(names: Sequence[str]) -> dict[str, int]:
    """Returns the index of each label by its name, and by its `label_text` if that differs."""
    return {label_text(name): i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}


def _filled(row: Row, field: str, errors: RowErrors) -> Any:
    """Returns the value of `field`. If it is missing or empty, adds an error and returns None."""
    value = row.values.get(field)
    if value is None:
        errors.add(row.where, f"field {field!r} is missing")
    elif isinstance(value, str) and not value.strip():
        errors.add(row.where, f"field {field!r} is empty")
        return None
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _format_and_path(source: str) -> tuple[str, str]:
    prefix, colon, rest = source.partition(":")
    if colon and prefix in _FORMATS:
        return prefix, rest
    ending = files.path(files.without_compression(source)).suffix
    if ending in _ENDINGS:
        return _ENDINGS[ending], source
    raise InputError(
        f"{source}: the ending {ending!r} does not name a format; use {', '.join(_ENDINGS)} (also with .gz or .zst), "
        f"or write the format before the path, as in conll:{source}; formats are {', '.join(_FORMATS)}, tfds"
    )


def _read_jsonl(path: str, errors: RowErrors) -> list[Row]:
    rows = []
    for number, line in files.read_lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            errors.add(where, f"this line is not JSON ({error.msg}, column {error.colno}): {_shown(line)}")
            continue
        if isinstance(value, dict):
            rows.append(Row(value, where))
        else:
            errors.add(where, f"expected one JSON object per line, found {_shown(value)}")
    return rows


def _read_json(path: str, errors: RowErrors) -> list[Row]:
    """Reads a .json file: JSON lines if its first line is an object without "data", otherwise one JSON value."""
    first = next((line for _, line in files.read_lines(path) if line.strip()), "")
    try:
        value = json.loads(first)
    except json.JSONDecodeError:
        value = None
    lines = isinstance(value, dict) and not isinstance(value.get("data"), list)
    return (_read_jsonl if lines else _read_squad)(path, errors)


def _read_squad(path: str, errors: RowErrors) -> list[Row]:
    """Reads a file that is one JSON value: SQuAD's articles, an object whose "data" is a list of rows, or this list."""
    text = "\n".join(line for _, line in files.read_lines(path))
    if not text.strip():
        return []
    try:
        value = json.loads(text)
        articles = value if isinstance(value, list) else value["data"]
        if not any(isinstance(article, dict) and "paragraphs" in article for article in articles):
            return _objects(articles, path, errors)
        paragraphs = [(article, paragraph) for article in articles for paragraph in article["paragraphs"]]
        questions = [(article, paragraph, qa) for article, paragraph in paragraphs for qa in paragraph["qas"]]
        return [
            Row(
                {"title": article.get("title", ""), "context": paragraph["context"]} | qa,
                f"{path}: question {qa.get('id', number)!r}",
            )
            for number, (article, paragraph, qa) in enumerate(questions, start=1)
        ]
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: this is neither JSON lines nor one JSON array nor SQuAD's JSON: {error.msg}"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: this is neither JSON lines nor a JSON array of rows nor SQuAD's JSON, "
            f'{{"data": [{{"paragraphs": [{{"context": ..., "qas": [...]}}]}}]}} ({type(error).__name__}: {error})'
        ) from None


def _objects(values: list[Any], path: str, errors: RowErrors) -> list[Row]:
    """Returns the rows of a JSON array."""
    rows = []
    for number, value in enumerate(values, start=1):
        where = f"{path}: row {number}"
        if isinstance(value, dict):
            rows.append(Row(value, where))
        else:
            errors.add(where, f"expected a JSON object, found {_shown(value)}")
    return rows


def _read_tsv(path: str, errors: RowErrors) -> list[Row]:
    table = ((number, line.split("\t")) for number, line in files.read_lines(path) if line)
    return _with_header(path, table, errors)


def _read_csv(path: str, errors: RowErrors) -> list[Row]:
    # The module's default limit of 131,072 characters would refuse long documents.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line + "\n" for _, line in files.read_lines(path)), strict=True)

    def table() -> Iterator[tuple[int, list[str]]]:
        begin = 1
        try:
            for values in reader:
                if values:
                    yield begin, values
                begin = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path}:{begin}: the row that begins here is not CSV: {error}") from None

    return _with_header(path, table(), errors)


def _with_header(path: str, table: Iterator[tuple[int, list[str]]], errors: RowErrors) -> list[Row]:
    header: list[str] | None = None
    rows = []
    for number, values in table:
        where = f"{path}:{number}"
        if header is None:
            header = values
            if twice := [name for name in header if header.count(name) > 1]:
                raise InputError(f"{where}: the header names column {twice[0]!r} twice")
        elif len(values) != len(header):
            errors.add(where, f"{len(values)} columns, but the header has {len(header)}: {', '.join(header)}")
        else:
            rows.append(Row(dict(zip(header, values, strict=True)), where))
    return rows


def _read_conll(path: str, errors: RowErrors) -> list[Row]:
    rows: list[Row] = []
    sentence: list[list[str]] = []
    lines = [(number, line.rstrip(), _columns(line.rstrip())) for number, line in files.read_lines(path)]
    sure = [columns for _, line, columns in lines if line and columns[0] != "-DOCSTART-" and not _COMMENT.match(line)]
    width, tags = len(sure[0]) if sure else 0, {columns[-1] for columns in sure}
    begin = 0
    for number, line, columns in lines:
        if not line or columns[0] == "-DOCSTART-":
            rows += _sentence(sentence, f"{path}:{begin}")
            sentence = []
            continue
        is_row = len(columns) == width and (width == 1 or columns[-1] in tags)  # of the word "#"
        if not sentence and _COMMENT.match(line) and not is_row:
            continue
        begin = begin if sentence else number
        if len(columns) == width:
            sentence.append(columns)
        else:
            errors.add(f"{path}:{number}", f"{len(columns)} columns, but the first line of the file has {width}")
    return rows + _sentence(sentence, f"{path}:{begin}")


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else [column for column in line.split(" ") if column]


def _sentence(lines: list[list[str]], where: str) -> list[Row]:
    if not lines:
        return []
    columns = [list(column) for column in zip(*lines, strict=True)]
    values = {f"column_{number}": column for number, column in enumerate(columns[1:-1], start=2)}
    tags = {"tags": columns[-1]} if len(columns) > 1 else {}
    return [Row({"tokens": columns[0]} | values | tags, where)]


def _read_parquet(path: str, errors: RowErrors) -> list[Row]:
    with files.errors_named(path), files.path(path).open("rb") as raw:
        table = parquet.read(files.decompressed(raw, path), path)
        return [Row(values, f"{path}: row {number}") for number, values in enumerate(table, start=1)]


_FORMATS: dict[str, Callable[[str, RowErrors], list[Row]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "tsv": _read_tsv,
    "csv": _read_csv,
    "conll": _read_conll,
    "squad": _read_squad,
    "parquet": _read_parquet,
}
_ENDINGS = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".tsv": "tsv",
    ".csv": "csv",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".parquet": "parquet",
}
