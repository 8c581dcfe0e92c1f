"""Stores in memory whose tokens tell their position, a tokenizer for them, and the batches made of both."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bert_jax.config import Pretraining
from bert_jax.data.examples import PretrainingBatches
from bert_jax.data.store import LONG_SENTENCE, TokenStore
from bert_jax.tokenizers import Frame

SPECIALS = 5
BERT = Frame(start=(2,), between=(3,), end=(3,))
ROBERTA = Frame(start=(2,), between=(3, 3), end=(3,), segments=False, first_position=2)
PLAIN = Pretraining(pairs="none", held_out=0.0, sequence_length=16, mask_rate=0.15)


def make_store(document_sizes, seed=0, first_token=SPECIALS, folder="store") -> TokenStore:
    """A store in memory in which token i is the number `first_token + i`; sentences of 1 to 9 tokens, or a long one."""
    random = np.random.default_rng(seed)
    lengths = []
    for size in document_sizes:
        left = size
        while left:
            sentence = min(left, 300 if random.random() < 0.02 else int(random.integers(1, 10)))
            lengths += [LONG_SENTENCE] * (sentence // LONG_SENTENCE) + [sentence % LONG_SENTENCE]
            left -= sentence
    total = sum(document_sizes)
    return TokenStore(
        folder=Path(folder),
        header={"tokenizer": {"fingerprint": "F", "vocab_size": SPECIALS + total, "kind": "fake"}},
        tokens=np.arange(first_token, first_token + total, dtype=np.uint32),
        sentence_lengths=np.array(lengths, np.uint8),
        document_starts=np.concatenate([[0], np.cumsum(document_sizes)]),
        document_hashes=random.integers(0, 2**64, len(document_sizes), dtype=np.uint64),
    )


def make_tokenizer(vocab_size, word_starts=None, frame=BERT):
    if word_starts is None:
        word_starts = np.arange(vocab_size) >= SPECIALS
    return SimpleNamespace(
        kind="fake",
        vocab_size=vocab_size,
        pad_id=0,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        special_ids=(0, 1, 2, 3, 4),
        frame=frame,
        fingerprint="F",
        word_starts=word_starts,
    )


SIZES = [1, 2, 700, 3, 40, 14, 13, 15, 90, 1, 28, 300]
STORE = make_store(SIZES)
TOKENIZER = make_tokenizer(SPECIALS + sum(SIZES))
DOCUMENT_OF = np.repeat(np.arange(len(SIZES)), SIZES)  # of token id - SPECIALS


def batches(fields, stores=(STORE,), tokenizer=TOKENIZER, **options):
    settings = {"batch_size": 8, "steps": 100, "seed": 1} | options
    return PretrainingBatches(fields, stores, tokenizer, **settings)


def unmasked(batch) -> np.ndarray:
    """input_ids as they were before masking."""
    ids = batch["input_ids"].copy()
    for row, (positions, labels, weights) in enumerate(
        zip(batch["masked_positions"], batch["masked_labels"], batch["masked_weights"], strict=True)
    ):
        ids[row, positions[weights > 0]] = labels[weights > 0]
    return ids
