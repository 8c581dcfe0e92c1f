"""From documents to tokens: the function that every way of preparing a store applies to its text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data import corpus, duplicates
from bert_jax.data.store import LONG_SENTENCE, array_dtypes, content_hash
from bert_jax.tokenizers import Tokenizer, in_line

SENTENCES_AT_ONCE = 2_000  # the libraries' results take far more memory than the ids in them

# Besides the store's own arrays: what is needed per document to find and drop duplicates.
SCRATCH: dict[str, np.dtype] = {"document_entries": np.dtype("<i8"), "sketches": np.dtype("<u4")}
COUNTS = ("documents", "sentences", "tokens", "words", "unknown", "bytes", "zero_bytes")


class TextChunk(NamedTuple):
    """Some documents, tokenised."""

    arrays: dict[str, np.ndarray]  # ARRAYS and SCRATCH by name; document_starts holds ends, counted from the chunk
    counts: dict[str, int]  # COUNTS by name


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> TextChunk:
    """Tokenises documents, sentence by sentence; those that yield no token are left out, and so are zero bytes."""
    zero_bytes = sum(text.count("\0") for text in texts)
    if zero_bytes:
        texts = [text.replace("\0", "") for text in texts]
    dtypes = array_dtypes(tokenizer.vocab_size)
    split = [corpus.sentences(text) for text in texts]
    # In a row, a sentence follows the one before it in the same line.
    sentences = [s for parts in split for s in (*parts[:1], *in_line(tokenizer, parts[1:]))]
    document = np.repeat(np.arange(len(texts)), [len(parts) for parts in split])
    sizes = np.zeros(len(sentences), np.int64)
    tokens = [np.zeros(0, dtypes["tokens"])]
    for start in range(0, len(sentences), SENTENCES_AT_ONCE):
        ids, sizes[start : start + SENTENCES_AT_ONCE] = tokenizer.encode_flat(
            sentences[start : start + SENTENCES_AT_ONCE]
        )
        tokens.append(ids.astype(dtypes["tokens"]))
    all_tokens = np.concatenate(tokens)

    document, sizes = document[sizes > 0], sizes[sizes > 0]
    entries = sizes // LONG_SENTENCE + 1
    lengths = np.full(entries.sum(), LONG_SENTENCE, np.uint8)
    lengths[np.cumsum(entries) - 1] = sizes % LONG_SENTENCE
    document_sizes = np.bincount(document, sizes, len(texts)).astype(np.int64)
    used = np.flatnonzero(document_sizes).tolist()
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    space = np.frombuffer(b" " + b" ".join(encoded), np.uint8) <= ord(" ")
    arrays = {
        "tokens": all_tokens,
        "sentence_lengths": lengths,
        "document_starts": np.cumsum(document_sizes[used]),
        "document_hashes": np.array([content_hash(encoded[i]) for i in used], np.uint64),
        "document_entries": np.bincount(document, entries, len(texts)).astype(np.int64)[used],
        "sketches": duplicates.sketches(all_tokens, document_sizes[used]).reshape(-1),
    }
    counts = {
        "documents": len(used),
        "sentences": len(sizes),
        "tokens": len(all_tokens),
        "words": int(np.count_nonzero(space[:-1] > space[1:])),
        "unknown": int(np.count_nonzero(all_tokens == tokenizer.unk_id)),
        "bytes": sum(map(len, encoded)),
        "zero_bytes": zero_bytes,
    }
    return TextChunk(arrays, counts)
