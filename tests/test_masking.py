"""Masking: how many tokens, which ones, and what replaces them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.config import Pretraining
from bert_jax.data.masking import Masking
from bert_jax.data.shuffling import RowRandom

VOCABULARY = 1005
FIRST_CONTINUATION = 705  # ids from here on continue a word
FIELDS = Pretraining()
WORDS = np.arange(VOCABULARY) < FIRST_CONTINUATION
TOKENIZER = SimpleNamespace(vocab_size=VOCABULARY, special_ids=(0, 1, 2, 3, 4), mask_id=4, word_starts=WORDS)


def rows_of_tokens(rows, length, used, seed=0, continuations=True):
    """[CLS], random ordinary tokens with an [UNK] among them, [SEP], padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCABULARY if continuations else FIRST_CONTINUATION, (rows, length)).astype(np.int32)
    ids[:, 0] = 2
    ids[np.arange(rows), used - 1] = 3
    ids[:, 5] = 1
    ids[np.arange(length) >= used[:, None]] = 0
    return ids


def mask(ids, used, seed=0, **changes):
    ids = ids.copy()
    fields = dataclasses.replace(FIELDS, **changes)
    out = Masking(fields, TOKENIZER).apply(ids, used, RowRandom((seed,), 0, len(ids)), fields.mask_rate)
    return ids, out


def chosen_mask(shape, out):
    chosen = np.zeros(shape, bool)
    row, slot = np.nonzero(out["masked_weights"])
    chosen[row, out["masked_positions"][row, slot]] = True
    return chosen


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
def test_each_row_has_its_share_masked_and_special_tokens_are_never_masked(unit):
    used = np.random.default_rng(1).integers(8, 129, 500)
    ids = rows_of_tokens(500, 128, used)
    masked, out = mask(ids, used, mask_unit=unit)
    assert out["masked_positions"].shape == (500, 19)
    chosen = chosen_mask(ids.shape, out)
    wanted = np.minimum(19, np.maximum(1, np.rint(used * 0.15)))
    if unit == "token":
        np.testing.assert_array_equal(chosen.sum(axis=1), wanted)
    else:
        assert (chosen.sum(axis=1) <= wanted).all()
        assert chosen.sum() > 0.97 * wanted.sum()
    assert not chosen[np.isin(ids, TOKENIZER.special_ids)].any()
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    row, slot = np.nonzero(out["masked_weights"])
    np.testing.assert_array_equal(out["masked_labels"][row, slot], ids[row, out["masked_positions"][row, slot]])
    empty = out["masked_weights"] == 0
    assert not out["masked_positions"][empty].any()
    assert not out["masked_labels"][empty].any()


@pytest.mark.parametrize("shares", [(0.8, 0.1), (1.0, 0.0), (0.5, 0.5), (0.0, 0.0)])
def test_of_the_masked_the_shares_are_mask_random_and_kept(shares):
    used = np.full(2000, 128)
    ids = rows_of_tokens(2000, 128, used)
    masked, out = mask(ids, used, mask_token_share=shares[0], random_token_share=shares[1])
    chosen = chosen_mask(ids.shape, out)
    shown, label = masked[chosen], ids[chosen]
    assert np.mean(shown == TOKENIZER.mask_id) == pytest.approx(shares[0], abs=0.01)
    assert np.mean((shown != TOKENIZER.mask_id) & (shown != label)) == pytest.approx(shares[1], abs=0.01)
    replaced = shown[(shown != TOKENIZER.mask_id) & (shown != label)]
    assert not np.isin(replaced, TOKENIZER.special_ids).any()
    if shares[1]:
        assert len(np.unique(replaced)) > 0.95 * VOCABULARY


def test_every_position_is_masked_equally_often():
    used = np.full(20_000, 32)
    ids = rows_of_tokens(20_000, 32, used)
    _, out = mask(ids, used)
    often = chosen_mask(ids.shape, out).mean(axis=0)
    maskable = np.array([*range(1, 5), *range(6, 31)])
    np.testing.assert_allclose(often[maskable], 5 / 29, atol=0.012)


def test_other_random_numbers_mask_other_tokens():
    used = np.full(50, 128)
    ids = rows_of_tokens(50, 128, used)
    a, b = (chosen_mask(ids.shape, mask(ids, used, seed=seed)[1]) for seed in (1, 2))
    assert (a & b).sum() < 0.3 * a.sum()


def words_of(ids):
    """A number for each word of the flattened rows; special tokens are words of their own."""
    special = np.isin(ids, TOKENIZER.special_ids)
    begins = WORDS[ids] | special
    begins[:, 1:] |= special[:, :-1]
    return np.cumsum(begins.ravel()).reshape(ids.shape) - 1


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_are_masked_whole(unit):
    used = np.random.default_rng(2).integers(8, 129, 500)
    ids = rows_of_tokens(500, 128, used)
    _, out = mask(ids, used, mask_unit=unit)
    chosen = chosen_mask(ids.shape, out)
    words = words_of(ids)
    size, masked = np.bincount(words.ravel()), np.bincount(words.ravel(), chosen.ravel())
    assert set(masked / size) == {0.0, 1.0}
    # The token unit does split words, so this test can tell.
    _, out = mask(ids, used, mask_unit="token")
    masked = np.bincount(words.ravel(), chosen_mask(ids.shape, out).ravel())
    assert len(set(masked / size)) > 2


@pytest.mark.parametrize("max_ngram", [1, 3, 5])
def test_runs_of_n_words_are_masked_with_probability_proportional_to_1_over_n(max_ngram):
    used = np.full(400, 2048)
    # At a low rate over long rows two runs hardly touch, so that runs can be counted from what is masked; and the
    # single words that fill up a row's last places are few.
    ids = rows_of_tokens(400, 2048, used, continuations=False)
    _, out = mask(ids, used, mask_unit="ngram", max_ngram=max_ngram, mask_rate=0.02)
    chosen = np.pad(chosen_mask(ids.shape, out), ((0, 0), (1, 1))).ravel()
    edges = np.flatnonzero(np.diff(chosen.astype(int)))
    runs = edges[1::2] - edges[::2]
    counts = np.bincount(runs, minlength=2 * max_ngram + 1)
    expected = 1 / np.arange(1, max_ngram + 1)
    np.testing.assert_allclose(
        counts[1 : max_ngram + 1] / counts[1 : max_ngram + 1].sum(), expected / expected.sum(), atol=0.04
    )


def test_no_run_of_words_reaches_over_a_special_token():
    ids = np.tile(np.array([2, 10, 3, 11, 3, FIRST_CONTINUATION, 3], np.int32), (4000, 1))
    # Room for one token: what hung together over a [SEP] would be too long and less often masked than the rest.
    _, out = mask(ids, np.full(4000, 7), mask_unit="ngram")
    often = chosen_mask(ids.shape, out).mean(axis=0)
    np.testing.assert_allclose(often[[1, 3, 5]], 1 / 3, atol=0.03)


def test_a_rate_beyond_what_can_be_masked_masks_all_of_it():
    used = np.full(4, 16)
    ids = rows_of_tokens(4, 16, used)
    _, out = mask(ids, used, mask_rate=1.0)
    np.testing.assert_array_equal(chosen_mask(ids.shape, out), ~np.isin(ids, TOKENIZER.special_ids))


def test_a_row_of_special_tokens_alone_has_nothing_masked():
    ids = np.array([[2, 3, 0, 0, 0, 0], [2, 1, 1, 3, 0, 0]], np.int32)
    masked, out = mask(ids, np.array([2, 4]))
    np.testing.assert_array_equal(masked, ids)
    assert not out["masked_weights"].any()
