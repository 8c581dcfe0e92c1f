"""From text to ids and back: WordPiece, SentencePiece and byte-level BPE behind one protocol."""

from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Literal

from bert_jax import files, memory
from bert_jax.errors import InputError
from bert_jax.tokenizers import base, bytelevel, coverage, library, options, wordpiece
from bert_jax.tokenizers.base import Encoding, Tokenizer, in_line, split_at_mask
from bert_jax.tokenizers.coverage import describe_training
from bert_jax.tokenizers.extension import Extension, extend
from bert_jax.tokenizers.frame import Frame

__all__ = [
    "Encoding",
    "Extension",
    "Frame",
    "Tokenizer",
    "check_target",
    "describe_training",
    "extend",
    "in_line",
    "load",
    "split_at_mask",
    "train",
]

LOADERS: dict[str, Callable[[files.Path], Tokenizer]] = {
    "wordpiece": wordpiece.load,
    "sentencepiece": lambda folder: _sentencepiece().load(folder),
    "bytelevel": library.load,
    "bpe": library.load,
    "unigram": library.load,
}
# Which characters a kind leaves out where it has no alphabet limit.
ALPHABETS = {
    "sentencepiece": "SentencePiece leaves out only the rarest",
    "bytelevel": "byte-level BPE leaves out none",
}
# The files of a kind that others do not have.
OWN_FILES = {
    "wordpiece": {"vocab.txt"},
    "sentencepiece": {"spiece.model"},
    "bytelevel": {"vocab.json", "merges.txt"},
}


def load(folder: files.PathLike) -> Tokenizer:
    """Reads a tokenizer that `Tokenizer.save` or Hugging Face's libraries wrote.

    Raises:
      InputError: the folder does not contain a tokenizer, or a broken one, or one that is not supported.
    """
    folder = files.path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; expected a tokenizer there (tokenizer.json, vocab.txt or spiece.model)"
        )
    kind = _kind(folder)
    options.check(folder, kind)
    return LOADERS[kind](folder)


def _kind(folder: files.Path) -> str:
    """Returns the kind of the tokenizer in a folder; "wordpiece" if nothing shows another one."""
    if (folder / "spiece.model").exists():
        return "sentencepiece"
    if (folder / "tokenizer.json").exists():
        content = files.read_json(folder / "tokenizer.json")
        kind = library.kind_of(content) or "wordpiece"
        return "sentencepiece" if kind == "unigram" and _sentencepiece().is_alberts(content) else kind
    has_merges = (folder / "vocab.json").exists() and not (folder / "vocab.txt").exists()
    return "bytelevel" if has_merges else "wordpiece"


def _sentencepiece() -> ModuleType:
    # Its libraries take a while to import, and most folders do not need them.
    return import_module("bert_jax.tokenizers.sentencepiece")


def check_target(folder: files.Path, kind: str) -> None:
    """Raises InputError if a folder to write a tokenizer to holds something else than a tokenizer of this kind."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    ours = OWN_FILES.get(kind, set()) | {"tokenizer.json", "tokenizer_config.json"}
    others = sorted({path.name for path in folder.iterdir()} - ours) if folder.is_dir() else []
    if others:
        raise InputError(f"{folder}: holds other files, such as {others[0]}; name a new folder")


def train(
    kind: Literal["wordpiece", "sentencepiece", "bytelevel"],
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    alphabet_limit: int | None = None,
    model_type: Literal["unigram", "bpe"] = "unigram",
    add_prefix_space: bool = False,
) -> Tokenizer:
    """Learns a vocabulary from texts; the same texts in the same order give the same tokenizer.

    Args:
      kind: the library and the algorithm.
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) included.
      lowercase: lowercase the text first; ignored for byte-level BPE, which keeps every character.
      strip_accents: remove accents first. None: if `lowercase`, unless the text is in a script whose vowel signs would
        be removed as well. Ignored for byte-level BPE.
      alphabet_limit: see `wordpiece.train`; only for WordPiece.
      model_type: SentencePiece's algorithm; ignored for the others.
      add_prefix_space: whether a text begins as if it followed a space; only for byte-level BPE.

    Raises:
      InputError: `kind` is unknown, there is no text, or too little text for `vocab_size` pieces.
    """
    memory.keep_freed()  # before the library starts threads
    least = base.MIN_VOCAB_SIZE
    if vocab_size < least:
        raise InputError(
            f"vocab_size {vocab_size} is too small: 5 special tokens and the letters need at least {least}"
        )
    if alphabet_limit is not None and alphabet_limit < 1:
        raise InputError(f"alphabet_limit must be at least 1, got {alphabet_limit}")
    if alphabet_limit is not None and kind != "wordpiece":
        raise InputError(f"alphabet_limit is for kind 'wordpiece'; {ALPHABETS.get(kind, kind)}")
    if add_prefix_space and kind != "bytelevel":
        raise InputError("add_prefix_space is for kind 'bytelevel'; the others begin every text as after a space")
    texts = list(texts)
    if kind == "bytelevel":
        content = bytelevel.train(texts, vocab_size, add_prefix_space=add_prefix_space)
        return library.from_content(content, library.ROBERTA_NAMES, "the trained vocabulary")
    if strip_accents is None:
        strip_accents = lowercase and not coverage.is_written_with_vowel_signs(texts)
    if kind == "wordpiece":
        return wordpiece.train(
            texts, vocab_size, lowercase=lowercase, strip_accents=strip_accents, alphabet_limit=alphabet_limit
        )
    if kind == "sentencepiece":
        return _sentencepiece().train(
            texts, vocab_size, lowercase=lowercase, strip_accents=strip_accents, model_type=model_type
        )
    raise InputError(f"kind {kind!r} is none of 'wordpiece', 'sentencepiece' and 'bytelevel'")
