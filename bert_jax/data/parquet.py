"""Rows of Parquet files."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from bert_jax.errors import InputError


def read(stream: BinaryIO, name: str, column: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of an open file as dicts of Python values, of one column or of all, a few hundred at a time.

    Raises:
      InputError: the file is not Parquet, or has no such column.
    """
    import pyarrow  # imported here because it takes a tenth of a second that other formats do not need
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{name}: not a Parquet file ({error})") from error
    names = table.schema_arrow.names
    if column is not None and column not in names:
        raise InputError(f"{name}: no column {column}; its columns are {', '.join(names)}")
    for batch in table.iter_batches(batch_size=256, columns=None if column is None else [column]):
        yield from batch.to_pylist()
