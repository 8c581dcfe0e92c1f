"""The special tokens around texts: BERT's `[CLS] a [SEP] b [SEP]`, RoBERTa's `<s> a </s></s> b </s>`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_jax.errors import InputError


@dataclass(frozen=True)
class Frame:
    """The special tokens around and between the texts of one sequence.

    >>> bert = Frame(start=(2,), between=(3,), end=(3,))
    >>> [array.tolist() for array in bert.join([7, 8], [9])]
    [[2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1]]
    """

    start: tuple[int, ...]  # token ids before the first text; the first one is the token that classifiers read
    between: tuple[int, ...]  # token ids between two texts; they belong to the segment of the text before them
    end: tuple[int, ...]  # token ids after the last text
    segments: bool = True  # whether token_type_ids are 0 in the first text and 1 in the second; False = always 0
    first_position: int = 0  # position id of the first token; RoBERTa counts from 2
    pairs: bool = True  # whether the model has the segments that two texts need

    def size(self, parts: int) -> int:
        """Returns the number of special tokens in a sequence of `parts` texts, at least 1."""
        return len(self.start) + (parts - 1) * len(self.between) + len(self.end)

    def longest(self, max_position_embeddings: int) -> int:
        """Returns the number of tokens, special ones included, for which a model has positions."""
        return max_position_embeddings - self.first_position

    def check_pairs(self) -> None:
        """Raises InputError if the model lacks a segment for the second text of a pair."""
        if not self.pairs:
            raise InputError(
                "the model has one segment (model.type_vocab_size 1), and a pair of texts needs two; choose a model "
                "with 2 segments, or with 0, which are not embedded"
            )

    def join(self, *parts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sequence of some texts, given as token ids: (ids, segment of each token), both int32 [tokens].

        Raises:
          InputError: there are two texts, and the model has one segment.
        """
        if len(parts) > 1:
            self.check_pairs()
        pieces = []
        for number, part in enumerate(parts):
            before = self.between if number else self.start
            pieces += [before, part]
        ids = np.concatenate([*pieces, self.end]).astype(np.int32)
        if not self.segments:
            return ids, np.zeros_like(ids)
        # A text's segment begins after the special tokens before it; that of the first text begins at once.
        lengths = [len(part) for part in parts]
        ends = np.cumsum([size + len(self.between) for size in lengths[:-1]], dtype=np.int64) + len(self.start)
        return ids, np.searchsorted(ends, np.arange(len(ids)), side="right").astype(np.int32)
