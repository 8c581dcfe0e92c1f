"""Dynamic masking: which tokens are predicted, and by what they are replaced (Devlin et al. 2019, section 3.1)."""

import numpy as np

from bert_jax.config import Pretraining
from bert_jax.data.shuffling import RowRandom, bounded
from bert_jax.tokenizers import Tokenizer


class Masking:
    """Masks batches, with the options of an experiment's fields."""

    def __init__(self, fields: Pretraining, tokenizer: Tokenizer):
        self._fields = fields
        self._mask_id = tokenizer.mask_id
        self._maskable = np.ones(tokenizer.vocab_size, bool)  # special tokens are never masked, [UNK] among them
        self._maskable[list(tokenizer.special_ids)] = False
        self._ordinary_ids = np.flatnonzero(self._maskable).astype(np.int32)
        self._begins_word = tokenizer.word_starts | ~self._maskable
        runs = 1 / np.arange(1, fields.max_ngram + 1)
        # Drawn against uint32 bits: a run has 1 word, and one more for each of these bounds that the bits reach.
        self._run_bounds = (np.cumsum(runs)[:-1] / runs.sum() * 2.0**32).astype(np.uint32)

    def predictions(self, length: int) -> int:
        """Returns P, how many tokens of a row are masked at most: all batches of a run have the same shape."""
        return max(1, round(length * max(self._fields.mask_rate, self.rate(1.0))))

    def rate(self, done: float) -> float:
        """Returns the share of tokens to mask when `done`, from 0 to 1, of the run's steps are taken."""
        first, last = self._fields.mask_rate, self._fields.last_mask_rate
        return first if last is None else first + (last - first) * done

    def apply(self, input_ids: np.ndarray, used: np.ndarray, random: RowRandom, rate: float) -> dict[str, np.ndarray]:
        """Masks a batch in place.

        A row of n tokens, special ones included, has max(1, round(n * rate)) tokens masked, or as many as it can.

        Args:
          input_ids: int32 [B, T].
          used: int64 [B], tokens of each row, special ones included, padding not.
          random: the rows' random numbers.
          rate: share of tokens to mask; `rate(...)` of this class.

        Returns:
          masked_positions and masked_labels, int32 [B, P], and masked_weights, float32 [B, P]; 0 in unused slots.
        """
        length = input_ids.shape[1]
        wanted = np.minimum(np.maximum(1, np.rint(used * rate)), self.predictions(length))
        wanted = wanted.astype(np.uint32)[:, None]
        maskable = self._maskable[input_ids]
        # A token's key: random bits on top, the same for all tokens of a unit, and its position below.
        position_bits = np.uint32((1 << (length - 1).bit_length()) - 1)
        none = np.uint32(0xFFFFFFFF)
        bits = random.bits(length)
        if self._fields.mask_unit != "token":
            bits = self._of_unit(bits, input_ids, maskable, random)
        keys = np.where(maskable, (bits & ~position_bits) | np.arange(length, dtype=np.uint32), none)
        if self._fields.mask_unit == "token":
            chosen = _smallest(keys, self.predictions(length))
            chosen[np.arange(chosen.shape[1]) >= wanted] = none
        else:
            chosen = _whole_units(keys, position_bits, wanted)
        positions = _smallest(np.where(chosen == none, none, chosen & position_bits), self.predictions(length))
        weights = positions != none
        positions[~weights] = 0
        return self._replace(input_ids, positions.astype(np.int32), weights, random)

    def _of_unit(self, bits: np.ndarray, input_ids: np.ndarray, maskable: np.ndarray, random: RowRandom) -> np.ndarray:
        """Gives all tokens of a word, or of a run of words, the bits of its first one; [B, T] each."""
        rows, length = input_ids.shape
        begins = self._begins_word[input_ids]
        after_special = np.ones_like(maskable)
        after_special[:, 1:] = ~maskable[:, :-1]
        begins |= after_special
        if self._fields.mask_unit == "ngram":
            draws = random.bits(length)
            words = np.ones((rows, length), np.int32)
            for bound in self._run_bounds:
                words += draws >= bound
            # Runs are laid side by side over the row's words; `opens` is True for word i if a run begins there.
            ends = np.cumsum(words, axis=1, dtype=np.int32)
            opens = np.zeros((rows, length + 1), bool)
            opens[:, 0] = True
            np.put_along_axis(opens, np.minimum(ends, length), True, axis=1)
            word = np.cumsum(begins & maskable, axis=1, dtype=np.int32)
            begins &= after_special | np.take_along_axis(opens, np.maximum(word - 1, 0), axis=1)
        flat = np.where(begins.ravel(), np.arange(rows * length, dtype=np.int32), 0)
        return bits.ravel()[np.maximum.accumulate(flat)].reshape(rows, length)

    def _replace(
        self, input_ids: np.ndarray, positions: np.ndarray, weights: np.ndarray, random: RowRandom
    ) -> dict[str, np.ndarray]:
        labels = np.where(weights, np.take_along_axis(input_ids, positions, axis=1), 0)
        draw = random.bits(positions.shape[1]) / 2.0**32
        share = self._fields.mask_token_share
        ordinary = self._ordinary_ids[bounded(random.bits(positions.shape[1]), len(self._ordinary_ids))]
        shown = np.where(draw < share + self._fields.random_token_share, ordinary, labels)
        shown = np.where(draw < share, self._mask_id, shown)
        row, slot = np.nonzero(weights)
        input_ids[row, positions[row, slot]] = shown[row, slot]
        return {
            "masked_positions": positions,
            "masked_labels": labels.astype(np.int32),
            "masked_weights": weights.astype(np.float32),
        }


def _smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` smallest of each row, in order."""
    return np.sort(keys, axis=1)[:, :count]


def _whole_units(keys: np.ndarray, position_bits: np.uint32, wanted: np.ndarray) -> np.ndarray:
    """Chooses units (tokens with equal bits above the position) in random order, never more than `wanted` tokens.

    Units are taken until the next one is too long; what room is left is filled by the next units of a single token.

    Args:
      keys: uint32 [B, T]; the largest value where a token may not be masked.
      position_bits: the bits of a key that hold the position.
      wanted: uint32 [B, 1].

    Returns:
      uint32 [B, T]: the keys in order, with the largest value instead of those not chosen.
    """
    none = np.uint32(0xFFFFFFFF)
    keys = np.sort(keys, axis=1)
    units = keys & ~position_bits
    starts = np.ones((len(keys), keys.shape[1] + 1), bool)  # a unit starts at this position of the order
    starts[:, 1:-1] = units[:, 1:] != units[:, :-1]
    order = np.arange(keys.shape[1] + 1, dtype=np.uint32)
    full = np.where(starts & (order <= wanted), order, 0).max(axis=1, keepdims=True)
    single = starts[:, :-1] & starts[:, 1:] & (order[:-1] >= full) & (keys != none)
    chosen = (order[:-1] < full) | (single & (np.cumsum(single, axis=1, dtype=np.uint32) <= wanted - full))
    return np.where(chosen, keys, none)
