"""The token store: a corpus as memory-mapped arrays of token ids. Examples are made from it later.

A store is a folder of

    header.json            format, counts, and the tokenizer's kind, fingerprint and vocabulary size
    tokens.bin             uint16 [tokens] (uint32 where the vocabulary has more than 65,536 entries)
    sentence_lengths.bin   uint8 [..], in tokens; 255 means that the sentence continues in the next entry
    document_starts.bin    int64 [documents + 1], in tokens; the last one is the number of tokens
    document_hashes.bin    uint64 [documents], of each document's text
    tokenizer/             the tokenizer it was made with

all little-endian. Lengths take one byte, starts would take eight: at 25 tokens a sentence that is 0.04 bytes per token
instead of 0.32, and adding up a few lengths is quicker than reading a start from disk.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bert_jax import files, storage
from bert_jax.errors import InputError

FORMAT = "bert_jax token store, version 1"
ARRAYS = ("tokens", "sentence_lengths", "document_starts", "document_hashes")
LONG_SENTENCE = 255  # an entry of sentence_lengths with this value is continued by the next
SENTENCES_INDEXED = 32  # the start of every 32nd entry of sentence_lengths is held in memory

_WHITESPACE = b" \t\n\r\v\f"


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the narrowest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def array_dtypes(vocab_size: int) -> dict[str, np.dtype]:
    """Returns the element type of each of ARRAYS."""
    kinds = (token_dtype(vocab_size), np.dtype("u1"), np.dtype("<i8"), np.dtype("<u8"))
    return dict(zip(ARRAYS, kinds, strict=True))


def content_hash(text: str | bytes) -> int:
    """Returns 64 bits of BLAKE2b of a document's text (or its UTF-8) without whitespace: layout does not change it."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    digest = hashlib.blake2b(content.translate(None, _WHITESPACE), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def is_held_out(document_hashes: np.ndarray, share: float) -> np.ndarray:
    """Returns which documents, by their uint64 content hashes, belong to the held-out `share`: bool, same shape.

    Only the text decides, so a document is held out in every store, run and mixture, or in none.
    """
    return document_hashes < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))


@dataclass(frozen=True)
class TokenStore:
    """One opened store; its arrays are memory maps, so opening costs neither time nor memory."""

    folder: files.Path
    header: dict[str, Any]  # header.json
    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_lengths: np.ndarray  # uint8, see the top of the file
    document_starts: np.ndarray  # int64 [documents + 1]
    document_hashes: np.ndarray  # uint64 [documents]

    @classmethod
    def open(cls, folder: files.PathLike) -> "TokenStore":
        """Maps the arrays of a store; of one in a bucket, those of a copy in the cache.

        Raises:
          InputError: the folder does not hold a store, or one of another version, or a damaged one.
        """
        folder = files.path(folder)
        header = read_header(folder)
        if header is None:
            unfinished = storage.partial(folder).exists()
            where = "in this machine's cache" if files.is_remote(folder) else "next to it"
            hint = f"an unfinished one is {where}; run the same prepare again" if unfinished else ""
            raise InputError(f"{folder}: not a token store ({hint or 'bert_jax prepare writes one'})")
        dtypes = array_dtypes(header["tokenizer"]["vocab_size"])
        for name, dtype in dtypes.items():
            path = folder / f"{name}.bin"
            expected = header["entries"][name] * dtype.itemsize
            if not path.is_file() or files.size(path) != expected:
                state = f"has {files.size(path):,} bytes" if path.is_file() else "is missing"
                raise InputError(f"{path}: {state}, expected {expected:,} from the header; prepare the store again")
        local = storage.local_copy(folder)
        arrays = {name: np.asarray(files.memory_map(local / f"{name}.bin", dtype)) for name, dtype in dtypes.items()}
        return cls(folder, header, **arrays)

    @property
    def tokenizer_folder(self) -> files.Path:
        """The copy of the tokenizer the store was made with."""
        return tokenizer_folder(self.folder)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that tokenizer."""
        return self.header["tokenizer"]["fingerprint"]

    @property
    def num_documents(self) -> int:
        return len(self.document_hashes)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def document(self, index: int) -> np.ndarray:
        """Returns the token ids of one document."""
        return self.tokens[self.document_starts[index] : self.document_starts[index + 1]]

    @cached_property
    def sentence_index(self) -> np.ndarray:
        """Where every SENTENCES_INDEXED-th entry of sentence_lengths starts, and the end of all: int64, in tokens.

        Computed on first use; 8 bytes for about 700 tokens.
        """
        lengths, whole = self.sentence_lengths, len(self.sentence_lengths) // SENTENCES_INDEXED
        index = np.zeros(-(-len(lengths) // SENTENCES_INDEXED) + 1, np.int64)
        rows = lengths[: whole * SENTENCES_INDEXED].reshape(whole, SENTENCES_INDEXED)
        index[1 : whole + 1] = rows.sum(axis=1, dtype=np.uint16)  # at most 32 * 255
        index[whole + 1 :] = lengths[whole * SENTENCES_INDEXED :].sum(dtype=np.int64)
        return np.cumsum(index, out=index)


def tokenizer_folder(folder: files.PathLike) -> files.Path:
    """Returns where a store keeps the tokenizer it was made with."""
    return files.Path(folder) / "tokenizer"


def read_header(folder: files.Path) -> dict[str, Any] | None:
    """Returns the header of a store, or None if there is no store.

    Raises:
      InputError: the header cannot be read or is of another version.
    """
    path = folder / "header.json"
    if not path.is_file():
        return None
    try:
        header = files.read_json(path)
    except InputError as error:
        raise InputError(f"{error}; prepare the store again") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {header.get('format')!r}, expected {FORMAT!r}; prepare it again")
    return header
