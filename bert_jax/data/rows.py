"""Rows of named values from files and TFDS data sets, and error messages that name the rows that are wrong."""

import ast
import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from bert_jax import files, sources
from bert_jax.data import parquet, tfds
from bert_jax.data.row_errors import RowErrors
from bert_jax.errors import InputError

_MISSING = frozenset({"", "nan", "null"})  # what a table holds, in any case, where a row has no label
_COMMENT = re.compile(r"#( |$)|#(begin|end) document")  # a line of a CoNLL file, before the first word of a sentence
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


@dataclass(frozen=True)
class Row:
    """One example as it is in its source."""

    values: dict[str, Any]  # by the name of the field or column
    where: str  # "file:line" or similar, for messages


def read_rows(
    source: str, columns: Sequence[str] = (), otherwise: str | None = None, errors: RowErrors | None = None
) -> list[Row]:
    """Reads all rows of `source`.

    A source is a file, plain or compressed (.gz, .zst). Its ending decides its format:

        .jsonl, .json         one JSON object per line; a .json file may also be an array of objects, or SQuAD's
        .tsv                  a header row, then values between tabs; quotes have no meaning (as in GLUE's files)
        .csv                  a header row, then values between commas, quoted where needed
        .conll, .iob, .bio    columns by sentence: "tokens" is the first, "tags" the last, "column_2" the second, ...;
                              lines such as "# id 7" before a sentence are comments
        .parquet, .arrow      one row per row of the table; the path may be a glob such as data/train-*.parquet
        SQuAD JSON (1.1, 2.0) one row per question: "context", "question", "id", "answers", "is_impossible", "title";
                              "data" may also hold these rows themselves

    With another ending the format goes before the path: `conll:train.tsv`, `squad:dev`. Or a source is a folder that
    `save_to_disk` of Hugging Face's `datasets` wrote; of several splits, the folder of one. Or it is a set of
    TensorFlow Datasets, `tfds:name[/config][:version]:split`, whose split may be a slice such as `train[:80%]`, and
    whose name may be the folder of a prepared set. Class labels come as their names where the source has these.

    Args:
      columns: names of the columns of .tsv and .csv files without a header row.
      otherwise: the format of a file whose ending names none.
      errors: collects the problems of bad rows, which are left out. Without it they are raised.

    Raises:
      InputError: the source is missing, empty, binary, not UTF-8 or not in its format, naming file and line.
    """
    problems = RowErrors() if errors is None else errors
    rows = list(_open(source, columns, otherwise, problems))
    if errors is None or not rows:
        problems.check()
    if not rows:
        raise InputError(f"{source}: the file holds no rows")
    return rows


def stream_rows(
    source: str, columns: Sequence[str] = (), otherwise: str | None = None, errors: RowErrors | None = None
) -> Iterator[Row]:
    """Yields the rows of a source one by one, as `read_rows` reads them; most formats are never in memory as a whole.

    These are JSON lines, tables, Parquet, Arrow, folders of `datasets` and TFDS.

    Args:
      errors: collects the problems of bad rows. Without it the first one is raised, after the rows before it.
    """
    problems, empty = RowErrors() if errors is None else errors, True
    for row in _open(source, columns, otherwise, problems):
        if errors is None:
            problems.check()
        empty = False
        yield row
    if errors is None or empty:
        problems.check()
    if empty:
        raise InputError(f"{source}: the file holds no rows")


def _open(source: str, columns: Sequence[str], otherwise: str | None, problems: RowErrors) -> Iterable[Row]:
    if sources.parse(source).kind == "tfds":
        elements, features = tfds.open_set(source)
        values = (tfds.plain(features, elements[number]) for number in range(len(elements)))
        return (Row(row, f"{source}: example {number}") for number, row in enumerate(values))
    name, path = _format_and_path(source, otherwise)
    if columns and name in _TABLES:
        return _with_header(path, _TABLES[name](path), problems, columns)
    return _FORMATS[name](path, problems)


def declared_labels(source: str, field: str) -> tuple[str, ...]:
    """Returns the names that a source declares for the classes in `field`, in its order; empty if it declares none."""
    if sources.parse(source).kind == "tfds":
        return tfds.class_names(tfds.open_set(source)[1], field)
    name, path = _format_and_path(source)
    return parquet.class_names(path, field, name) if name in ("parquet", "arrow", "datasets") else ()


def check_fields(rows: Sequence[Row], fields: Sequence[str]) -> None:
    """Raises BadRowsError if a field is in none of `rows`; the message lists the fields of the first row."""
    for field in fields:
        if not any(field in row.values for row in rows):
            known = ", ".join(repr(name) for name in rows[0].values)
            table = re.search(r"\.[ct]sv(\.gz|\.zst)?:\d+$", rows[0].where)
            advice = "; if the file has no header row, name its columns: --task.columns" if table else ""
            errors = RowErrors()
            problem = f"no row has a field or column {field!r}; this one has {known}{advice}"
            errors.add(rows[0].where, problem, others=[row.where for row in rows])
            errors.check()


def text_of(row: Row, field: str, errors: RowErrors, may_be_empty: bool = True) -> str:
    """Returns the text in `field`. If it is missing or not a text, adds an error and returns ""."""
    value = row.values.get(field)
    if isinstance(value, str) and not value.strip() and not may_be_empty:
        errors.add(row.where, f"field {field!r} is empty")
    elif value is None:
        errors.add(row.where, f"field {field!r} is missing")
    elif not isinstance(value, str):
        errors.add(row.where, f"field {field!r} should be a text, not {_shown(value)}")
    return value if isinstance(value, str) else ""


def number_of(row: Row, field: str, errors: RowErrors) -> float:
    """Returns the number in `field`. If it is missing or not a finite number, adds an error and returns 0."""
    value = _filled(row, field, errors)
    if value is None:
        return 0.0
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
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


_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?\d+(?![\w.])"""
_ITEMS = re.compile(_ITEM, re.DOTALL)
_LIST = re.compile(rf"\s*\[\s*(?:(?:{_ITEM})(?:\s*,\s*|\s+|(?=\])))*\]\s*", re.DOTALL)


def list_in_text(text: str) -> list[Any] | None:
    """Returns the list that a cell of a table spells, as JSON, Python or NumPy write lists; None if it is other text.

    >>> list_in_text('["a", "b c"]'), list_in_text("['a' 'b']"), list_in_text("[0, 1]"), list_in_text("[see 1]")
    (['a', 'b c'], ['a', 'b'], [0, 1], None)
    """
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else None
    except (ValueError, RecursionError):
        return [ast.literal_eval(item) for item in _ITEMS.findall(text)] if _LIST.fullmatch(text) else None


def words_in(row: Row, field: str) -> Row:
    """Returns the row with a list in `field`, where a table has the list as text, or the words between spaces."""
    value = row.values.get(field)
    if not isinstance(value, str):
        return row
    listed = list_in_text(value)
    if listed is None and re.match(r"\s*\[\s*['\"]", value):
        return row  # such as a list that NumPy printed with "..." in it: the error shows it
    return Row(row.values | {field: value.split() if listed is None else listed}, row.where)


def flag_of(row: Row, field: str, errors: RowErrors) -> bool:
    """Returns whether a column of 0 and 1 is 1. If it is missing or something else, adds an error."""
    value = _filled(row, field, errors)
    text = "" if value is None else label_text(value).lower()
    if value is not None and text not in _FLAGS:
        errors.add(row.where, f"field {field!r} should be 0 or 1, not {_shown(value)}")
    return _FLAGS.get(text, False)


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


def read_json_lines(stream: BinaryIO, name: str, errors: RowErrors | None = None) -> Iterator[list[Row]]:
    """Yields the rows of an open file of JSON lines as they arrive, some at a time.

    Args:
      errors: collects the problems of bad lines, which are left out. Without it they are raised.

    Raises:
      InputError: some lines are not JSON objects, or not UTF-8.
    """
    for lines in files.arriving_lines(stream, name):
        problems = RowErrors() if errors is None else errors
        rows = list(_json_rows(lines, name, problems))
        if errors is None:
            problems.check()
        yield rows


def _format_and_path(source: str, otherwise: str | None = None) -> tuple[str, str]:
    prefix, colon, rest = source.partition(":")
    if colon and prefix in _FORMATS:
        return prefix, rest
    if parquet.is_folder(source):
        return "datasets", source
    ending = files.path(files.without_compression(source)).suffix
    if ending in _ENDINGS:
        return _ENDINGS[ending], source
    if not files.path(source).exists():
        raise InputError(f"{source}: no such file")
    if otherwise is not None:
        return otherwise, source
    raise InputError(
        f"{source}: the ending {ending!r} does not name a format; use {', '.join(_ENDINGS)} (also with .gz or .zst), "
        f"or write the format before the path, as in conll:{source}; formats are {', '.join(_FORMATS)}, tfds"
    )


def _read_jsonl(path: str, errors: RowErrors) -> Iterator[Row]:
    return _json_rows(files.read_lines(path), path, errors)


def _json_rows(lines: Iterable[tuple[int, str]], path: str, errors: RowErrors) -> Iterator[Row]:
    for number, line in lines:
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            errors.add(where, f"this line is not JSON ({error.msg}, column {error.colno}): {_shown(line)}")
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets in brackets
            errors.add(where, f"this line cannot be read as JSON ({error}): {_shown(line)}")
            continue
        if isinstance(value, dict):
            yield Row(value, where)
        else:
            errors.add(where, f"expected one JSON object per line, found {_shown(value)}")


def _read_json(path: str, errors: RowErrors) -> Iterable[Row]:
    """Reads a .json file: JSON lines if its first line is an object without "data", otherwise one JSON value."""
    first = next((line for _, line in files.read_lines(path) if line.strip()), "")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    lines = isinstance(value, dict) and not isinstance(value.get("data"), list)
    return _read_jsonl(path, errors) if lines else _read_squad(path, errors)


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
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
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


def _tsv_table(path: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in files.read_lines(path) if line)


def _csv_table(path: str) -> Iterator[tuple[int, list[str]]]:
    # The module's default limit of 131,072 characters would refuse long documents.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line + "\n" for _, line in files.read_lines(path)), strict=True)
    begin = 1
    try:
        for values in reader:
            if values:
                yield begin, values
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{begin}: the row that begins here is not CSV: {error}") from None


def _read_tsv(path: str, errors: RowErrors) -> Iterator[Row]:
    return _with_header(path, _tsv_table(path), errors)


def _read_csv(path: str, errors: RowErrors) -> Iterator[Row]:
    return _with_header(path, _csv_table(path), errors)


def _with_header(
    path: str, table: Iterator[tuple[int, list[str]]], errors: RowErrors, columns: Sequence[str] = ()
) -> Iterator[Row]:
    """Yields the rows of a table; `columns` are the names of the columns where no header row has them."""
    header = list(columns)
    source = "task.columns names" if columns else "the header has"
    for number, values in table:
        where = f"{path}:{number}"
        if not header:
            header = values
            if twice := [name for name in header if header.count(name) > 1]:
                raise InputError(f"{where}: the header names column {twice[0]!r} twice")
        elif len(values) != len(header):
            errors.add(where, f"{len(values)} columns, but {source} {len(header)}: {', '.join(header)}")
        elif values != list(columns):  # a table may have its header row all the same
            yield Row(dict(zip(header, values, strict=True)), where)


def _read_conll(path: str, errors: RowErrors) -> list[Row]:
    rows: list[Row] = []
    sentence: list[list[str]] = []
    lines = [(number, line.rstrip(), _columns(line.rstrip())) for number, line in files.read_lines(path)]
    sure = [columns for _, line, columns in lines if line and columns[0] != "-DOCSTART-" and not _COMMENT.match(line)]
    width, tags = len(sure[0]) if sure else 0, {columns[-1] for columns in sure}
    begin, is_whole = 0, True
    for number, line, columns in lines:
        if not line or columns[0] == "-DOCSTART-":
            rows += _sentence(sentence, f"{path}:{begin}") if is_whole else []
            sentence, is_whole = [], True
            continue
        is_row = len(columns) == width and (width == 1 or columns[-1] in tags)  # of the word "#"
        if not sentence and _COMMENT.match(line) and not is_row:
            continue
        begin = begin if sentence else number
        if len(columns) == width:
            sentence.append(columns)
        else:
            is_whole = False
            errors.add(f"{path}:{number}", f"{len(columns)} columns, but the first line of the file has {width}")
    return rows + (_sentence(sentence, f"{path}:{begin}") if is_whole else [])


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else [column for column in line.split(" ") if column]


def _sentence(lines: list[list[str]], where: str) -> list[Row]:
    if not lines:
        return []
    columns = [list(column) for column in zip(*lines, strict=True)]
    values = {f"column_{number}": column for number, column in enumerate(columns[1:-1], start=2)}
    tags = {"tags": columns[-1]} if len(columns) > 1 else {}
    return [Row({"tokens": columns[0]} | values | tags, where)]


def _read_parquet(path: str, errors: RowErrors) -> Iterator[Row]:
    return _read_columns(path, parquet.read)


def _read_arrow(path: str, errors: RowErrors) -> Iterator[Row]:
    return _read_columns(path, parquet.read_arrow)


def _read_columns(path: str, read: Callable[[BinaryIO, str], Iterator[dict[str, Any]]]) -> Iterator[Row]:
    paths = [str(one) for one in files.expand(path)] if "*" in path else [path]
    if not paths:
        raise InputError(f"{path}: no file has such a name")
    for one in paths:
        with files.errors_named(one), files.open_bytes(one) as raw:
            table = read(files.decompressed(raw, one), one)
            yield from (Row(values, f"{one}: row {number}") for number, values in enumerate(table, start=1))


def _read_folder(path: str, errors: RowErrors) -> Iterator[Row]:
    table = parquet.read_folder(path)
    return (Row(values, f"{path}: row {number}") for number, values in enumerate(table, start=1))


_TABLES = {"tsv": _tsv_table, "csv": _csv_table}
_FORMATS: dict[str, Callable[[str, RowErrors], Iterable[Row]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "tsv": _read_tsv,
    "csv": _read_csv,
    "conll": _read_conll,
    "squad": _read_squad,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "datasets": _read_folder,
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
    ".arrow": "arrow",
}
