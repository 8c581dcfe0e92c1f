"""Data sets of TensorFlow Datasets, read through `as_data_source`, which does not need TensorFlow."""

import os
from collections.abc import Sequence
from typing import Any

from bert_jax import files, sources, storage
from bert_jax.errors import InputError


def open_set(source: str) -> tuple[Sequence[dict[str, Any]], Any]:
    """Opens `tfds:name[/config][:version]:split` for random access; returns its elements and their features.

    The split may be a slice such as `train[:80%]`. The name may be the folder of a prepared data set. A data set that
    is not prepared yet is prepared as array_record, which may need a network and the extra `tensorflow`.

    Raises:
      InputError: the data set or split does not exist, or it cannot be prepared or read here.
    """
    # Imported here, because it takes half a second and files do not need it.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.question_answering
    import tensorflow_datasets.text  # these two register the text data sets by name

    parts = sources.parse(source)
    if parts.kind != "tfds" or not parts.name:
        raise InputError(f"{source}: expected tfds:name[/config][:version]:split")
    split = parts.split
    builder = _builder(tfds, parts.name, source)
    known = ", ".join(builder.info.splits)
    if split is None:
        raise InputError(f"{source}: which split? write {source}:SPLIT; there are {known}")
    try:
        return builder.as_data_source(split), builder.info.features
    except NotImplementedError as error:
        raise InputError(f"{source}: prepare it with file_format='array_record' ({error})") from None
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f"{source}: no split {split!r}, there are {known} ({error})") from None


def _builder(tfds: Any, name: str, source: str) -> Any:
    try:
        if (files.path(name) / "dataset_info.json").is_file():
            # A copy, because array_record does not read gs://, and then waits forever.
            return tfds.builder_from_directory(os.fspath(storage.local_copy(name)))
        # tfds reads this variable only once, when it is imported.
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"), file_format="array_record")
        builder.download_and_prepare()
    except InputError:
        raise
    except Exception as error:  # anything can fail in a data set's builder, its download or its imports
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{source}: this data set cannot be opened or prepared here "
            f"({type(error).__name__}: {reason[0] if reason else ''}); data sets are searched in TFDS_DATA_DIR, "
            "and preparing one may need a network and `pip install bert_jax[tensorflow]`"
        ) from None
    return builder


def plain(feature: Any, value: Any) -> Any:
    """Converts a feature's value from TFDS to str, int, float, bool, list or dict, and a label to its name."""
    inner = getattr(feature, "feature", None)
    if inner is not None and isinstance(value, dict):  # TFDS represents a list of objects as an object of lists
        return {name: [plain(inner[name], item) for item in items] for name, items in value.items()}
    if isinstance(value, dict):
        return {name: plain(feature[name], item) for name, item in value.items()}
    if inner is not None:
        return [plain(inner, item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    number = value.tolist() if hasattr(value, "tolist") else value
    if hasattr(feature, "int2str"):
        return None if number < 0 else feature.int2str(number)  # GLUE's test splits hide their labels behind -1
    return number


def class_names(features: Any, field: str) -> tuple[str, ...]:
    """Returns the names of the classes of a ClassLabel, in their order; empty if `field` is something else."""
    feature: Any = dict(features).get(field)
    feature = getattr(feature, "feature", feature)  # of a list of classes, that of its items
    return tuple(feature.names) if hasattr(feature, "int2str") else ()
