"""Maps parameters to the tensors of other libraries, and back, by one table.

A row of a table is (our name, shape, their name or names). A shape has one letter per dimension, as in
`bert_jax.config`; T is also the positions of the position table, and S the segments. In the weights of a linear layer
an arrow shows how the other library stores them: "D>F" as we do, inputs first; "F<D" with outputs first. Heads, and
queries, keys and values ("3"), and halves of a gated layer ("2"), are dimensions here that others merge into one, or
store as several tensors; "3HK<" is a bias whose dimensions are merged.

Names may contain {layer} and {group}: such a row becomes one row per layer, and {group} is the number of the block that
the layer applies.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax import params as named
from bert_jax.config import BertConfig
from bert_jax.errors import InputError
from bert_jax.families import NameTable

MOST_NAMES = 20  # of each list in an error


class NameMapping(NamedTuple):
    """A parameter and the names of its tensors in another library."""

    ours: str  # path of a parameter, such as "bert/pooler/kernel"
    shape: str
    theirs: tuple[str, ...]


class SetAside(NamedTuple):
    """The names of tensors that are not in the result."""

    ignored: tuple[str, ...] = ()  # not weights: buffers, optimizer state, tied copies
    left_out: tuple[str, ...] = ()  # not in the table; empty if reading is strict
    notes: tuple[str, ...] = ()  # sentences for the loading report: what was read in another way than it is written


def expand(table: NameTable, config: BertConfig, **names: str) -> list[NameMapping]:
    """Returns the rows of a table for one architecture, without those of parameters that it does not have.

    Args:
      table: rows with {layer}, {group} and the other names in braces.
      config: how many layers, and which block each applies.
      **names: the values of the other names in braces.
    """
    rows: dict[NameMapping, None] = {}
    for ours, shape, theirs in table:
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        for layer in range(config.num_layers):
            values = names | {"layer": str(layer), "group": str(config.group(layer))}
            mapping = NameMapping(ours.format(**values), shape, tuple(name.format(**values) for name in theirs))
            if named.exists(mapping.ours, config):
                rows[mapping] = None
    return list(rows)


def to_ours(
    rows: Sequence[NameMapping], tensors: Mapping[str, np.ndarray], config: BertConfig, where: str, strict: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Turns their tensors into our parameters.

    The encoder must be present. The pooler and each head are optional.

    Args:
      rows: the expanded table.
      tensors: by name, without those that are ignored.
      config: the sizes.
      where: the checkpoint, for error messages.
      strict: whether a name that is not in the table is an error.

    Returns:
      The parameters, nested dicts of arrays, and the names that were left out (none if `strict`).

    Raises:
      InputError: names are missing, or left over if `strict`; a shape does not fit the config. Both lists, or both
        shapes, are in the message.
    """
    present = {named.part(row.ours) for row in rows if any(name in tensors for name in row.theirs)} | {named.ENCODER}
    wanted = [row for row in rows if named.part(row.ours) in present]
    known = {name for row in wanted for name in row.theirs}
    missing, extra = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or (extra and strict):
        raise InputError(
            f"{where}: tensors and config do not fit together; missing: {_listed(missing)}; unknown: {_listed(extra)}"
        )
    sizes = _sizes(config)
    params: dict[str, Any] = {}
    for row in wanted:
        leaf = params
        *folders, name = row.ours.split("/")
        for folder in folders:
            leaf = leaf.setdefault(folder, {})
        if name in leaf:
            raise InputError(f"{where}: {row.ours} is set twice, the second time by {_listed(row.theirs)}")
        leaf[name] = _joined(row, [tensors[name] for name in row.theirs], sizes, where)
    return params, tuple(extra)


def to_theirs(rows: Sequence[NameMapping], params: Mapping[str, Any], config: BertConfig) -> dict[str, np.ndarray]:
    """Turns our parameters into their tensors; the inverse of `to_ours`.

    Raises:
      InputError: a parameter is not in the table, one of a part is missing, or a shape does not fit the config.
    """
    flat = named.flatten(params)
    parts = {named.part(name) for name in flat} | {named.ENCODER}
    wanted = [row for row in rows if named.part(row.ours) in parts]
    known = {row.ours for row in wanted}
    missing, extra = sorted(known - flat.keys()), sorted(flat.keys() - known)
    if missing or extra:
        raise InputError(
            f"the parameters are not those of this architecture; missing: {_listed(missing)}; unknown: {_listed(extra)}"
        )
    sizes = _sizes(config)
    tensors: dict[str, np.ndarray] = {}
    for row in wanted:
        for name, tensor in zip(row.theirs, _split(row, np.asarray(flat[row.ours]), sizes), strict=True):
            if name in tensors:
                raise InputError(f"{name} is set twice, the second time by {row.ours}")
            tensors[name] = np.ascontiguousarray(tensor)
    return tensors


def rename_unique(tensors: Mapping[str, np.ndarray], new_names: Mapping[str, str], where: str) -> dict[str, np.ndarray]:
    """Renames tensors.

    Raises:
      InputError: two tensors get the same name.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        new = new_names[name]
        if new in renamed:
            raise InputError(f"{where}: {new} is set twice, once under the name {name}")
        renamed[new] = tensor
    return renamed


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join(names[:MOST_NAMES] + more) or "none"


def _sizes(config: BertConfig) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "E": config.embedding_width,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "H": config.num_heads,
        "K": config.head_size,
        "T": config.max_position_embeddings,
        "S": config.type_vocab_size,
    } | {digit: int(digit) for digit in "123"}


def _sides(row: NameMapping) -> tuple[str, str, bool]:
    """Returns the letters of inputs (may be "") and outputs, and whether the other library stores outputs first."""
    if "<" in row.shape:
        outputs, inputs = row.shape.split("<")
        return inputs, outputs, True
    inputs, outputs = row.shape.split(">") if ">" in row.shape else ("", row.shape)
    return inputs, outputs, False


def _joined(row: NameMapping, tensors: Sequence[np.ndarray], sizes: dict[str, int], where: str) -> np.ndarray:
    inputs, outputs, outputs_first = _sides(row)
    parts = len(row.theirs)
    folded = outputs[1:] if parts > 1 else outputs
    # The number of classes is not in the config; the shape of the tensor has it.
    classes = next(iter(tensors[0].shape[:1] if outputs_first else tensors[0].shape[-1:]), 0)
    sizes = sizes | {"C": classes}
    if inputs:
        flat = [math.prod(sizes[d] for d in side) for side in (inputs, folded)]
    else:
        merged = parts > 1 or outputs_first
        flat = [math.prod(sizes[d] for d in folded)] if merged else [sizes[d] for d in folded]
    expected = tuple(reversed(flat)) if outputs_first else tuple(flat)
    for name, tensor in zip(row.theirs, tensors, strict=True):
        if tensor.shape != expected:
            raise InputError(
                f"{where}: {name} has shape {tensor.shape}, but the config makes it {expected} ({row.shape})"
            )
    shape_in = tuple(sizes[d] for d in inputs)
    shape_out = tuple(sizes[d] for d in folded)
    arrays = [(t.T if outputs_first else t).reshape(shape_in + shape_out) for t in tensors]
    return np.ascontiguousarray(arrays[0] if parts == 1 else np.stack(arrays, axis=len(shape_in)))


def _split(row: NameMapping, array: np.ndarray, sizes: dict[str, int]) -> list[np.ndarray]:
    inputs, outputs, outputs_first = _sides(row)
    parts = len(row.theirs)
    sizes = sizes | {"C": array.shape[-1]}
    expected = tuple(sizes[d] for d in inputs + outputs)
    if array.shape != expected:
        raise InputError(f"{row.ours} has shape {array.shape}, but the config makes it {expected} ({row.shape})")
    rank = len(inputs)
    arrays = [array] if parts == 1 else [np.take(array, i, axis=rank) for i in range(parts)]
    if inputs:
        size_in = math.prod(sizes[d] for d in inputs)
        arrays = [a.reshape(size_in, -1) for a in arrays]
    elif parts > 1 or outputs_first:
        arrays = [a.reshape(-1) for a in arrays]
    return [a.T if outputs_first else a for a in arrays]
