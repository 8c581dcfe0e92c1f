"""The batch contract: what is left out is filled in, and what breaks the contract is refused."""

import numpy as np
import pytest

from bert_jax.config import Pretraining
from bert_jax.data.batch import ENCODER, OBJECTIVES, check_batch, make_batch
from bert_jax.tasks.pretraining import PretrainingTask
from helpers.models import MODEL
from helpers.stores import PLAIN, batches

IDS = np.arange(10, dtype=np.int32).reshape(2, 5)


def test_a_batch_of_ids_alone_is_rows_of_one_sequence():
    batch = make_batch(IDS)
    assert batch.keys() == ENCODER.keys()
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert (batch["sequence_ids"] == 1).all()
    assert not batch["token_type_ids"].any()
    assert batch["cls_positions"].tolist() == [[0], [0]]


def test_positions_and_beginnings_follow_from_the_sequences():
    batch = make_batch(IDS, sequence_ids=np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]], np.int32))
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]]
    assert batch["cls_positions"].tolist() == [[0, 2], [0, 0]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"token_type_ids": np.zeros((2, 5), np.int64)}, r"token_type_ids should be int32 \[B, T\], not int64"),
        ({"cls_positions": np.zeros(2, np.int32)}, r"cls_positions should be int32 \[B, N\], not int32 \[2\]"),
        ({"sequence_ids": np.ones((2, 4), np.int32), "position_ids": IDS}, "T = 4, other arrays 5"),
        ({"masked_positions": IDS, "masked_weights": np.ones((2, 3), np.float32)}, "P = 3, other arrays 5"),
        ({"labels": np.zeros(3)}, "labels has 3 rows, input_ids 2"),
    ],
)
def test_what_breaks_the_contract_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        make_batch(IDS, **arrays)


def test_pretraining_batches_hold_all_arrays_of_the_contract():
    batch = batches(Pretraining(pairs="nsp", packing="packed", held_out=0.0, sequence_length=32))(0)
    assert batch.keys() == (ENCODER | OBJECTIVES).keys()
    check_batch(batch)
    check_batch(batches(PLAIN)(0))


def test_only_pretraining_creates_parameters_from_masked_positions():
    assert PretrainingTask(Pretraining(), MODEL, tokenizer=None).dummy_batch().keys() == {*ENCODER, "masked_positions"}
