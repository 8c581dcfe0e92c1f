"""From text to ids and back: WordPiece and SentencePiece behind one protocol."""

from collections.abc import Iterable
from typing import Literal

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import sentencepiece, wordpiece
from bert_jax.tokenizers.base import Encoding, Tokenizer
from bert_jax.tokenizers.extension import Extension, extend
from bert_jax.tokenizers.frame import Frame

__all__ = ["Encoding", "Extension", "Frame", "Tokenizer", "extend", "load", "train"]


def load(folder: files.PathLike) -> Tokenizer:
    """Reads a tokenizer that `Tokenizer.save` or Hugging Face's libraries wrote.

    Raises:
      InputError: the folder does not contain a tokenizer, or a broken one, or one that is not supported.
    """
    folder = files.path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a tokenizer (vocab.txt or spiece.model)")
    if (folder / "spiece.model").exists():
        return sentencepiece.load(folder)
    if (folder / "tokenizer.json").exists():
        model = files.read_json(folder / "tokenizer.json").get("model")
        if isinstance(model, dict) and model.get("type") == "Unigram":
            return sentencepiece.load(folder)
    return wordpiece.load(folder)


def train(
    kind: Literal["wordpiece", "sentencepiece"],
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    model_type: Literal["unigram", "bpe"] = "unigram",
) -> Tokenizer:
    """Learns a vocabulary from texts; the same texts in the same order give the same tokenizer.

    Args:
      kind: the library and the algorithm.
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) included.
      lowercase: lowercase and strip accents.
      model_type: SentencePiece's algorithm; ignored for WordPiece.

    Raises:
      InputError: `kind` is unknown, there is no text, or too little text for `vocab_size` pieces.
    """
    if vocab_size < 32:
        raise InputError(f"vocab_size {vocab_size} is too small: 5 special tokens and the letters need at least 32")
    if kind == "wordpiece":
        return wordpiece.train(texts, vocab_size, lowercase=lowercase)
    if kind == "sentencepiece":
        return sentencepiece.train(texts, vocab_size, lowercase=lowercase, model_type=model_type)
    raise InputError(f"kind {kind!r} is neither 'wordpiece' nor 'sentencepiece'")
