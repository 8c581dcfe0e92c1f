"""Rows of Parquet and Arrow files, and of the folders that Hugging Face's `datasets` saves.

Such files may have the names of classes, whose numbers are then read as names.
"""

import datetime
import decimal
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from bert_jax import files
from bert_jax.errors import InputError

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"  # files of a folder of `datasets`
BATCH = 256  # rows that are converted at a time


def read(stream: BinaryIO, name: str, column: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of an open Parquet file as dicts of Python values, of one column or of all.

    Raises:
      InputError: the file is not Parquet, or has no such column.
    """
    table = _open(stream, name)
    names = table.schema_arrow.names
    if column is not None and column not in names:
        raise InputError(f"{name}: no column {column}; its columns are {', '.join(names)}")
    features = _features(table.schema_arrow)
    for batch in table.iter_batches(batch_size=BATCH, columns=None if column is None else [column]):
        yield from (_row(values, features, name) for values in batch.to_pylist())


def read_arrow(stream: BinaryIO, name: str, features: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of an open Arrow file, a stream of record batches, as dicts of Python values.

    Args:
      features: what dataset_info.json has about the columns; None to read it from the file.

    Raises:
      InputError: it is not such a file.
    """
    import pyarrow  # imported here because it takes a tenth of a second that other formats do not need

    try:
        with pyarrow.ipc.open_stream(stream) as batches:
            features = _features(batches.schema) if features is None else features
            for batch in batches:
                yield from (_row(values, features, name) for values in batch.to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{name}: not an Arrow file as `datasets` writes it, or cut short ({error})") from error


def vectors_table(columns: dict[str, Any], vectors: np.ndarray, form: str) -> bytes:
    """Returns a file with a row for each vector.

    Args:
      columns: the values of other columns: whole numbers or texts, by the name of the column.
      vectors: float32 or float16 [rows, D]; the column "vector", lists of D numbers.
      form: "parquet", or "arrow" for a stream of record batches, as `read_arrow` reads it.
    """
    import pyarrow
    import pyarrow.parquet

    numbers = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])
    table = pyarrow.table(columns | {"vector": column})
    out = pyarrow.BufferOutputStream()
    if form == "parquet":
        pyarrow.parquet.write_table(table, out, compression="NONE", use_dictionary=False)
    else:
        with pyarrow.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    return out.getvalue().to_pybytes()


def num_rows(name: str) -> int:
    """Returns the number of rows in a Parquet file."""
    with files.errors_named(name), files.open_bytes(name) as stream:
        return int(_open(stream, name).metadata.num_rows)


def is_folder(name: str) -> bool:
    """True if `name` is a folder that `save_to_disk` of `datasets` wrote, of one split or of several."""
    return any((files.path(name) / file).is_file() for file in (STATE, SPLITS))


def read_folder(name: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a folder that `save_to_disk` of `datasets` wrote.

    Raises:
      InputError: the folder holds several splits, rows are chosen by an index, or a file is missing or broken.
    """
    folder, features = files.path(name), _folder_features(name)
    state = files.read_json(folder / STATE)
    if state.get("_indices_data_files"):
        raise InputError(f"{folder / STATE}: the rows are chosen by an index; save the result of flatten_indices()")
    for file in state.get("_data_files") or []:
        path = str(folder / file["filename"])
        with files.errors_named(path), files.open_bytes(path) as stream:
            yield from read_arrow(stream, path, features)


def class_names(source: str, field: str, form: str) -> tuple[str, ...]:
    """Returns the names that a source declares for the classes in `field`, in its order; empty without any.

    Args:
      form: "parquet", "arrow" or "datasets".
    """
    if form == "datasets":
        features = _folder_features(source)
    else:
        first = str(files.expand(source)[0]) if "*" in source else source
        with files.errors_named(first), files.open_bytes(first) as raw:
            stream = files.decompressed(raw, first)
            features = _features(_open(stream, first).schema_arrow if form == "parquet" else _arrow_schema(stream))
    feature = features.get(field)
    while isinstance(feature, list | dict) and not _is_class(feature):
        feature = feature[0] if isinstance(feature, list) and feature else _inner(feature)
    return tuple(map(str, feature["names"])) if isinstance(feature, dict) else ()


def _open(stream: BinaryIO, name: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{name}: not a Parquet file ({error})") from error


def _arrow_schema(stream: BinaryIO) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(stream) as batches:
        return batches.schema


def _folder_features(name: str) -> dict[str, Any]:
    folder = files.path(name)
    if not (folder / STATE).is_file():
        splits = files.read_json(folder / SPLITS).get("splits") or []
        raise InputError(f"{name}: which split? write {name.rstrip('/')}/SPLIT; there are {', '.join(splits)}")
    return (files.read_json(folder / INFO).get("features") or {}) if (folder / INFO).is_file() else {}


def _features(schema: Any) -> dict[str, Any]:
    """Returns what `datasets` wrote about the columns into a schema; empty if another program wrote the file."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"] or {}
    except (KeyError, TypeError, ValueError):
        return {}


def _row(values: dict[str, Any], features: dict[str, Any], name: str) -> dict[str, Any]:
    return {column: _plain(value, features.get(column), f"{name}: {column}") for column, value in values.items()}


def _is_class(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and bool(feature.get("names"))


def _inner(feature: Any) -> Any:
    """Returns the feature of the items of a list; None if `feature` is not that of a list."""
    listed = isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList")
    return feature.get("feature") if listed else None


def _plain(value: Any, feature: Any, where: str) -> Any:
    """Converts a value to what JSON can hold, and the number of a class to its name; -1 is a missing one."""
    if isinstance(value, dict):
        inner = _inner(feature) or feature  # `datasets` represents a list of objects as an object of lists
        of = inner if isinstance(inner, dict) else {}
        listed = inner is not feature
        return {
            key: _plain(item, [of.get(key)] if listed else of.get(key), f"{where}.{key}") for key, item in value.items()
        }
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) and feature else _inner(feature)
        return [_plain(item, inner, where) for item in value]
    if _is_class(feature) and isinstance(value, int):
        if value >= len(feature["names"]):
            raise InputError(f"{where}: class {value}, but the file names {len(feature['names'])} classes")
        return str(feature["names"][value]) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return value
