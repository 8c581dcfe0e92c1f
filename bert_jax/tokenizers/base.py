"""What all tokenizers have: pieces with ids, character offsets, five special tokens, and a fingerprint."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tokenizers
from tokenizers import processors

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers.frame import Frame

SPECIAL_ROLES = ("pad", "unk", "cls", "sep", "mask")
MIN_VOCAB_SIZE = 32  # of a vocabulary that is trained
SPECIAL_NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class Encoding(NamedTuple):
    """The pieces of one text."""

    ids: np.ndarray  # int32 [pieces]
    offsets: np.ndarray  # int32 [pieces, 2]: the characters of the text that a piece covers, half open


class Tokenizer(Protocol):
    """Turns text into ids and back; the same for every kind of vocabulary.

    Special tokens are never read from text: a text that contains "[MASK]" yields the pieces of those six characters.
    To get the token, insert `mask_id` between the ids.
    """

    kind: str  # "wordpiece", "sentencepiece", "bytelevel", "bpe" (Gemma's) or "unigram"
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special_ids: tuple[int, ...]  # the five above, ascending
    names: dict[str, str]  # role -> special token as the vocabulary spells it
    mask_takes_space: bool  # the mask token includes the space before it
    word_prefix: str  # what belongs before a text that follows others in a line: a space in byte-level BPE
    lowercase: bool  # text is lowercased first
    strip_accents: bool  # combining marks are removed from text first
    notes: tuple[str, ...]  # what was decided while loading because no file states it; for the user
    frame: Frame  # special tokens around one text or two; the files that `save` writes have it too
    fingerprint: str  # sha256 (hex) of everything that decides ids; survives saving, loading and export
    word_starts: (
        np.ndarray
    )  # bool [vocab_size]: the piece begins a word; False for special tokens, except WordPiece's UNK

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, int32 [pieces], without special tokens: the fast path."""
        ...

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts in a row, int32 [pieces], and the number of ids of each, int64 [texts]."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Returns ids and character offsets of each text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns readable text; padding is left out, other special tokens are shown by name."""
        ...

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Returns the piece of each id as the vocabulary spells it."""
        ...

    def piece_id(self, piece: str) -> int | None:
        """Returns the id of a piece as the vocabulary spells it, or None."""
        ...

    def with_pieces(self, pieces: Sequence[str]) -> "Tokenizer":
        """Returns the same tokenizer with more pieces at the end of its vocabulary.

        SentencePiece never splits text into them; WordPiece does where no longer piece fits.

        Raises:
          InputError: the vocabulary already has one of them.
        """
        ...

    def save(self, folder: files.Path) -> None:
        """Writes files that `load` and Hugging Face's tokenizers read."""
        ...


def flat_ids(library: tokenizers.Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `Tokenizer.encode_flat` does, from a tokenizer of the library `tokenizers`."""
    by_text = [encoded.ids for encoded in library.encode_batch_fast(encodable(texts), add_special_tokens=False)]
    ids = np.fromiter(itertools.chain.from_iterable(by_text), np.int32)
    return ids, np.array([len(some) for some in by_text], np.int64)


def split_ids(ids: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Splits the result of `Tokenizer.encode_flat` into one view per text."""
    ends = np.cumsum(sizes).tolist()
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def in_line(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Returns texts that are encoded one by one, such as words, as they are written behind another text."""
    prefix = tokenizer.word_prefix
    return [text if text.startswith(prefix) else prefix + text for text in texts]


def split_at_mask(tokenizer: Tokenizer, text: str) -> list[str]:
    """Returns the parts of a text before, between and after its mask tokens, without the spaces that these take."""
    *before, last = text.split(tokenizer.names["mask"])
    return [*(part.rstrip() if tokenizer.mask_takes_space else part for part in before), last]


def special_ids(pieces: Sequence[str], names: dict[str, str], where: str) -> dict[str, int]:
    """Finds the special tokens in a vocabulary.

    Args:
      pieces: the vocabulary, in the order of the ids.
      names: role (one of SPECIAL_ROLES) -> piece.
      where: the file, for the message.

    Raises:
      InputError: one is missing.
    """
    index = {piece: i for i, piece in enumerate(pieces)}
    for role in SPECIAL_ROLES:
        if names[role] not in index:
            raise InputError(f"{where}: the vocabulary lacks the {role} token {names[role]!r}")
    return {role: index[names[role]] for role in SPECIAL_ROLES}


def template(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Returns the tokenizer's frame, for one text and for two, in terms of the library `tokenizers`."""
    frame = tokenizer.frame

    def written(ids: Sequence[int], segment: int) -> list[str]:
        return [f"{piece}:{segment}" for piece in tokenizer.pieces(ids)]

    b = int(frame.segments)
    one = [*written(frame.start, 0), "$A:0"]
    special = sorted({*frame.start, *frame.between, *frame.end})
    return processors.TemplateProcessing(
        single=[*one, *written(frame.end, 0)],
        pair=[*one, *written(frame.between, 0), f"$B:{b}", *written(frame.end, b)],
        special_tokens=list(zip(tokenizer.pieces(special), special, strict=True)),
    )


def check_unique(pieces: Sequence[str], where: str) -> None:
    """Raises InputError if a vocabulary has a piece twice or an empty one; the message has the entries' numbers."""
    seen: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if not piece:
            raise InputError(f"{where}: entry {i + 1} is empty; every entry must be a piece")
        if piece in seen:
            raise InputError(f"{where}: {piece!r} is in the vocabulary twice, as entries {seen[piece] + 1} and {i + 1}")
        seen[piece] = i


def fingerprint(facts: dict[str, Any]) -> str:
    """Returns the sha256 (hex) of facts that `json` can write. The order of the keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def encodable(texts: Sequence[str]) -> list[str]:
    """Returns texts that every encoder accepts; see `without_surrogates`."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return without_surrogates(texts)
    return list(texts)


def without_surrogates(texts: Sequence[str]) -> list[str]:
    """Replaces halves of surrogate pairs, which no encoder accepts, by U+FFFD; offsets stay the same."""
    return ["".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text) for text in texts]


def special_names(folder: files.Path, config: dict[str, Any], defaults: dict[str, str]) -> dict[str, str]:
    """Returns role -> piece, as a Hugging Face folder defines its special tokens.

    Args:
      folder: may contain an older special_tokens_map.json.
      config: tokenizer_config.json, which has priority.
      defaults: the names of roles that neither file mentions.
    """
    older = folder / "special_tokens_map.json"
    merged = (files.read_json(older) if older.exists() else {}) | config
    names = dict(defaults)
    for role in SPECIAL_ROLES:
        value = merged.get(f"{role}_token")
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            names[role] = value
    return names
