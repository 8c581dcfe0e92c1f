"""What a batch holds: the contract between the data, the model, the tasks, and everything that makes a batch.

A batch is a dict of arrays whose first axis is the rows of the batch. `ENCODER` lists the arrays that every batch has,
and `OBJECTIVES` those of objectives that several modules share. A task may add arrays of its own, such as
`labels`; a float32 array whose name ends in "weights" weighs what is predicted, and is 0 where a row is empty.

Shapes use the letters of `bert_jax.config`: B rows, T positions, N sequences in a row, P masked positions predicted.
"""

from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Array(NamedTuple):
    """One array of a batch."""

    dtype: str
    shape: str  # a letter for each axis
    meaning: str


ENCODER = {
    "input_ids": Array("int32", "BT", "token ids; [PAD] in padding"),
    "token_type_ids": Array("int32", "BT", "segment of each token: 0 = the first text, 1 = the second"),
    "position_ids": Array("int32", "BT", "position of each token in its own sequence"),
    "sequence_ids": Array("int32", "BT", "number of the token's sequence in its row, from 1; 0 = padding"),
    "cls_positions": Array("int32", "BN", "position in the row of each sequence's first token; 0 = unused"),
}
OBJECTIVES = {
    "masked_positions": Array("int32", "BP", "positions in the row of the tokens to predict"),
    "masked_labels": Array("int32", "BP", "the tokens that were there"),
    "masked_weights": Array("float32", "BP", "1 for each of them, 0 in unused slots"),
    "pair_labels": Array("int32", "BN", "class of each sequence as a pair of texts"),
    "pair_weights": Array("float32", "BN", "1 for each pair, 0 for a sequence that is not a pair, or unused"),
}
LISTED = ENCODER | OBJECTIVES


def make_batch(input_ids: np.ndarray, **arrays: np.ndarray) -> Arrays:
    """Returns a batch, in which the arrays of `ENCODER` that are left out are filled in.

    Without `sequence_ids`, each row is one sequence without padding. Without `token_type_ids`, all tokens belong to
    segment 0. `position_ids` count from 0 in each sequence, and `cls_positions` are where each sequence begins.

    Raises:
      ValueError: an array does not have the dtype or shape of the contract.

    >>> make_batch(np.zeros((1, 5), np.int32), sequence_ids=np.array([[1, 1, 2, 2, 0]], np.int32))["position_ids"]
    array([[0, 1, 0, 1, 0]], dtype=int32)
    """
    sequence_ids = arrays.get("sequence_ids")
    if sequence_ids is None:
        sequence_ids = np.ones_like(input_ids)
    batch = {"input_ids": input_ids, "token_type_ids": np.zeros_like(input_ids), "sequence_ids": sequence_ids} | arrays
    if "position_ids" not in batch:
        columns = np.arange(input_ids.shape[1])
        begins = np.diff(sequence_ids, prepend=0, axis=1) != 0
        inside = columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
        batch["position_ids"] = np.where(sequence_ids > 0, inside, 0).astype(np.int32)
    if "cls_positions" not in batch:
        numbers = np.arange(1, max(1, int(sequence_ids.max(initial=1))) + 1)
        batch["cls_positions"] = (sequence_ids[:, :, None] == numbers).argmax(axis=1).astype(np.int32)
    check_batch(batch)
    return batch


def check_batch(batch: Arrays) -> None:
    """Raises ValueError if an array of a batch does not have the dtype or shape of the contract."""
    sizes: dict[str, int] = {}
    for name, (dtype, shape, _) in LISTED.items():
        if name not in batch:
            continue
        array = batch[name]
        if array.dtype != dtype or array.ndim != len(shape):
            raise ValueError(f"{name} should be {dtype} [{', '.join(shape)}], not {array.dtype} {list(array.shape)}")
        for letter, size in zip(shape, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"{name} [{', '.join(shape)}] has {letter} = {size}, other arrays {sizes[letter]}")
    for name, array in batch.items():
        if len(array) != sizes["B"]:
            raise ValueError(f"{name} has {len(array)} rows, input_ids {sizes['B']}")
