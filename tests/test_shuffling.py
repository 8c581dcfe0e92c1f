"""Shuffled orders and random numbers that need no state."""

import numpy as np
import pytest

from bert_jax.data.shuffling import RowRandom, permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_permute_is_a_permutation(size):
    for key in (0, 1, 2**63):
        result = permute(np.arange(size), size, np.full(size, key, np.uint64))
        np.testing.assert_array_equal(np.sort(result), np.arange(size))


def test_permute_takes_an_index_anywhere_with_equal_probability():
    keys = np.random.default_rng(0).integers(0, 2**64, 60_000, dtype=np.uint64)
    for index in (0, 5, 11):
        counts = np.bincount(permute(np.full(len(keys), index), 12, keys), minlength=12)
        np.testing.assert_allclose(counts, 5000, rtol=0.06)


def test_neighbours_do_not_stay_neighbours():
    order = permute(np.arange(10_000), 10_000, np.full(10_000, 7, np.uint64))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.002
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05


def test_rows_have_the_numbers_that_the_whole_batch_has_there():
    whole, part = RowRandom((1, 2), 0, 10), RowRandom((1, 2), 4, 3)
    for width in (5, 8):
        np.testing.assert_array_equal(whole.bits(width)[4:7], part.bits(width))


def test_draws_differ_from_each_other_and_from_those_of_another_key():
    random = RowRandom((1,), 0, 4)
    first, second = random.bits(6), random.bits(6)
    assert (first != second).all()
    assert (first != RowRandom((2,), 0, 4).bits(6)).all()
