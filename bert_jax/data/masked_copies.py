"""Copies of texts with one token of each masked: the batches that pseudo-log-likelihoods are computed from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.batch import Arrays
from bert_jax.data.batches import BUCKETS, join, padded
from bert_jax.tokenizers import Tokenizer

POSITIONS = 8192  # tokens in a batch, padding included
FEWEST = 64  # rows in a batch; fewer would be no faster, and another shape to compile
LENGTHS = (*range(8, 64, 8), *(bucket for bucket in BUCKETS if bucket >= 64))  # what copies are padded to


class MaskedCopies:
    """Batches of copies: one copy for each token of each text, in which that token is masked and to be predicted.

    Copies of similar length share a batch, and batches have few shapes.

    Args:
      texts: the token ids of each text, without special tokens.
      within_word: mask also the tokens that follow in the same word.
      positions: tokens in a batch, padding included.
    """

    def __init__(
        self,
        texts: Sequence[np.ndarray],
        tokenizer: Tokenizer,
        *,
        within_word: bool = False,
        positions: int = POSITIONS,
    ):
        frame = tokenizer.frame
        ids, types = zip(*(frame.join(text) for text in texts), strict=True)
        self._features = join(ids, types, {}, first_position=frame.first_position)
        self._mask_id = tokenizer.mask_id
        self._words = _word_numbers(self._features.input_ids, tokenizer) if within_word else None
        sizes = np.array([len(ids) for ids in texts])
        self.starts = np.concatenate([[0], np.cumsum(sizes)])  # text i has the copies starts[i] to starts[i + 1] - 1
        self.num_examples = int(self.starts[-1])
        self._text = np.repeat(np.arange(len(texts)), sizes)
        self._position = np.arange(self.num_examples) - self.starts[self._text] + len(frame.start)
        lengths = self._features.lengths[self._text]
        bucket = np.searchsorted(LENGTHS, lengths)
        padded_to = np.where(bucket < len(LENGTHS), np.take(LENGTHS, bucket, mode="clip"), lengths)
        self._batches: list[tuple[int, np.ndarray]] = []
        for length in np.unique(padded_to):
            copies = np.flatnonzero(padded_to == length)
            rows = max(1, positions // int(length))
            if self.num_examples < 4 * rows:  # many texts, such as a chunk of a file, have one shape for each length
                rows = min(rows, max(FEWEST, 1 << (len(copies) - 1).bit_length()))
            for start in range(0, len(copies), rows):
                part = copies[start : start + rows]
                self._batches.append((int(length), np.pad(part, (0, rows - len(part)), constant_values=-1)))
        self.num_steps = len(self._batches)

    def rows(self, step: int) -> np.ndarray:
        """Which copies batch `step` has, int64 [B]; -1 where a row is empty."""
        return self._batches[step][1]

    def put(self, flat: np.ndarray, step: int, values: Any) -> None:
        """Writes the values of the rows of batch `step`, [B], to those of their copies, flat [copies]."""
        rows = self.rows(step)
        flat[rows[rows >= 0]] = np.asarray(values)[rows >= 0]

    def __call__(self, step: int) -> Arrays:
        """Returns a batch with one masked position a row."""
        length, copies = self._batches[step]
        present = copies >= 0
        batch = padded(self._features, np.where(present, self._text[copies], -1), length)
        position = np.where(present, self._position[copies], 0).astype(np.int32)[:, None]
        masked = np.arange(length) == position
        if self._words is not None:
            text = self._text[copies]
            index = np.minimum(self._features.starts[text][:, None] + np.arange(length), len(self._words) - 1)
            words = np.where(batch["sequence_ids"] > 0, self._words[index], 0)
            masked |= (np.arange(length) > position) & (words == np.take_along_axis(words, position, axis=1))
        ids = batch["input_ids"]
        return batch | {
            "input_ids": np.where(masked & present[:, None], np.int32(self._mask_id), ids),
            "masked_positions": position,
            "masked_labels": np.take_along_axis(ids, position, axis=1),
        }


def _word_numbers(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Returns the number of the word of each token, from 1: int64 [tokens]. A special token is a word of its own."""
    special = np.isin(ids, tokenizer.special_ids)
    after_special = np.concatenate([[True], special[:-1]])
    return np.cumsum(tokenizer.word_starts[ids] | special | after_special)
