"""Retrieval sets: queries, documents and which document answers which query; from folders in BEIR's layout or pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bert_jax import files
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, number_of, read_rows, text_of
from bert_jax.errors import InputError

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
COMPRESSIONS = ("", ".gz", ".zst")
COLUMNS = ("query-id", "corpus-id", "score")  # of a file of judgements


@dataclass(frozen=True)
class JudgedText(Row):
    """A query or a document of a retrieval set; `values` has its "text"."""

    identifier: str = ""
    relevant: Mapping[str, float] | None = None  # of a query, the grades of documents; None for a document


def is_folder(name: str) -> bool:
    """True if `name` is a folder with a corpus, queries and judgements in BEIR's layout."""
    return _file(name, CORPUS) is not None


def read_folder(name: str, errors: RowErrors | None = None) -> list[Row]:
    """Reads corpus.jsonl ("_id", "title", "text"), queries.jsonl ("_id", "text") and the judgements of a folder.

    These are qrels.tsv, qrels/test.tsv, or the only file of the folder qrels, with the columns query-id, corpus-id and
    score. Queries without a judgement are left out. A document is its title and its text.

    Args:
      errors: collects the problems of bad rows, which are left out. Without it they are raised.

    Raises:
      InputError: a file is missing; two documents have the same id; a query is empty; a judgement names a document or a
        query that is not there.
    """
    problems = RowErrors() if errors is None else errors
    documents = _by_id(name, CORPUS, problems, titled=True)
    queries = _by_id(name, QUERIES, problems)
    relevant: dict[str, dict[str, float]] = {}
    judgements = _judgements(name)
    for row in read_rows(judgements):
        query, document = (str(row.values.get(column)) for column in COLUMNS[:2])
        if absent := [column for column in COLUMNS if column not in row.values]:
            raise InputError(f"{judgements}: the header must have {', '.join(COLUMNS)}; it lacks {', '.join(absent)}")
        known = {"document": (document, documents, CORPUS), "query": (query, queries, QUERIES)}
        missing = [(kind, one, file) for kind, (one, table, file) in known.items() if one not in table]
        for kind, one, file in missing:
            problems.add(row.where, f"names the {kind} {one!r}, which {file} does not have")
        if not missing:
            relevant.setdefault(query, {})[document] = number_of(row, COLUMNS[2], problems)
    if errors is None:
        problems.check()
    judged = [JudgedText(row.values, row.where, one, relevant[one]) for one, row in queries.items() if one in relevant]
    if not judged:
        problems.check()
        raise InputError(f"{judgements}: no query of {QUERIES} is judged there")
    return [*judged, *(JudgedText(row.values, row.where, one) for one, row in documents.items())]


def from_pairs(pairs: Iterable[tuple[Row, Sequence[str]]]) -> list[Row]:
    """Returns the retrieval set of pairs: each query is to find its text among the texts of all pairs.

    Args:
      pairs: rows, and of each the query, the text that belongs to it, and texts that do not.
    """
    queries: dict[str, tuple[Row, dict[str, float]]] = {}
    documents: dict[str, Row] = {}
    for row, (query, *texts) in pairs:
        for text in texts:
            documents.setdefault(text, row)
        queries.setdefault(query, (row, {}))[1][texts[0]] = 1.0
    judged = [JudgedText({"text": text}, row.where, text, grades) for text, (row, grades) in queries.items()]
    return [*judged, *(JudgedText({"text": text}, row.where, text) for text, row in documents.items())]


def _file(name: str, file: str) -> files.Path | None:
    return next((path for end in COMPRESSIONS if (path := files.path(name) / (file + end)).exists()), None)


def _judgements(name: str) -> str:
    folder = files.path(name) / QRELS
    several = [path for end in COMPRESSIONS for path in files.matching(folder, "*.tsv" + end)]
    test = [path for path in several if path.name.startswith("test.")]
    named = _file(name, f"{QRELS}.tsv") or next(iter(test), several[0] if len(several) == 1 else None)
    if named is None:
        raise InputError(f"{name}: no judgements there; expected {QRELS}.tsv or {QRELS}/test.tsv")
    return str(named)


def _by_id(name: str, file: str, problems: RowErrors, titled: bool = False) -> dict[str, Row]:
    """Returns the rows of a file by their id, each with its text."""
    path = _file(name, file)
    if path is None:
        raise InputError(f"{name}: no {file} there; a retrieval set has {CORPUS}, {QUERIES} and {QRELS}/test.tsv")
    rows: dict[str, Row] = {}
    for row in _rows(path, problems):
        identifier = row.values.get("_id")
        if not isinstance(identifier, str | int) or identifier == "":
            problems.add(row.where, "field '_id' is missing")
            continue
        if str(identifier) in rows:
            problems.add(row.where, f"the id {str(identifier)!r} is that of {rows[str(identifier)].where} too")
            continue
        problem = RowErrors()
        text = text_of(row, "text", problem, may_be_empty=titled)
        if problem.count:
            problems.add_all(problem)
            continue
        title = row.values.get("title")
        if titled and isinstance(title, str) and title.strip():
            text = f"{title} {text}"
        rows[str(identifier)] = Row({"text": text}, row.where)
    return rows


def _rows(path: files.Path, problems: RowErrors) -> Iterator[Row]:
    unread = RowErrors()
    yield from read_rows(str(path), errors=unread)
    problems.add_all(unread)
