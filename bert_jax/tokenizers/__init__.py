"""From text to ids and back: WordPiece and SentencePiece behind one protocol."""

from collections.abc import Iterable
from typing import Literal

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base, coverage, options, sentencepiece, wordpiece
from bert_jax.tokenizers.base import Encoding, Tokenizer
from bert_jax.tokenizers.coverage import describe_training
from bert_jax.tokenizers.extension import Extension, extend
from bert_jax.tokenizers.frame import Frame

__all__ = ["Encoding", "Extension", "Frame", "Tokenizer", "describe_training", "extend", "load", "train"]


def load(folder: files.PathLike) -> Tokenizer:
    """Reads a tokenizer that `Tokenizer.save` or Hugging Face's libraries wrote.

    Raises:
      InputError: the folder does not contain a tokenizer, or a broken one, or one that is not supported.
    """
    folder = files.path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a tokenizer (vocab.txt or spiece.model)")
    is_sentencepiece = (folder / "spiece.model").exists()
    if not is_sentencepiece and (folder / "tokenizer.json").exists():
        model = files.read_json(folder / "tokenizer.json").get("model")
        is_sentencepiece = isinstance(model, dict) and model.get("type") == "Unigram"
    options.check(folder, "sentencepiece" if is_sentencepiece else "wordpiece")
    return sentencepiece.load(folder) if is_sentencepiece else wordpiece.load(folder)


def train(
    kind: Literal["wordpiece", "sentencepiece"],
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    alphabet_limit: int | None = None,
    model_type: Literal["unigram", "bpe"] = "unigram",
) -> Tokenizer:
    """Learns a vocabulary from texts; the same texts in the same order give the same tokenizer.

    Args:
      kind: the library and the algorithm.
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) included.
      lowercase: lowercase the text first.
      strip_accents: remove accents first. None: if `lowercase`, unless the text is in a script whose vowel signs would
        be removed as well.
      alphabet_limit: see `wordpiece.train`; only for WordPiece.
      model_type: SentencePiece's algorithm; ignored for WordPiece.

    Raises:
      InputError: `kind` is unknown, there is no text, or too little text for `vocab_size` pieces.
    """
    least = base.MIN_VOCAB_SIZE
    if vocab_size < least:
        raise InputError(
            f"vocab_size {vocab_size} is too small: 5 special tokens and the letters need at least {least}"
        )
    if alphabet_limit is not None and alphabet_limit < 1:
        raise InputError(f"alphabet_limit must be at least 1, got {alphabet_limit}")
    texts = list(texts)
    if strip_accents is None:
        strip_accents = lowercase and not coverage.is_written_with_vowel_signs(texts)
    if kind == "wordpiece":
        return wordpiece.train(
            texts, vocab_size, lowercase=lowercase, strip_accents=strip_accents, alphabet_limit=alphabet_limit
        )
    if kind == "sentencepiece":
        if alphabet_limit is not None:
            raise InputError("alphabet_limit is for kind 'wordpiece'; SentencePiece leaves out only the rarest")
        return sentencepiece.train(
            texts, vocab_size, lowercase=lowercase, strip_accents=strip_accents, model_type=model_type
        )
    raise InputError(f"kind {kind!r} is neither 'wordpiece' nor 'sentencepiece'")
