"""Byte-level BPE (Radford et al. 2019, section 2.2), as in RoBERTa: every text has tokens, and nothing is unknown."""

import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base

# Gemma's normalizer: a space is a character of its own, and only characters outside the vocabulary become bytes.
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
MERGES_HEADER = "#version: 0.2\n"
# The special tokens of a vocabulary that is trained, in the order of their ids. RoBERTa counts positions from the id of
# its padding + 1, and its first position is 2.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MIN_VOCAB_SIZE = 256 + len(SPECIAL)


def _alphabet() -> dict[str, int]:
    """Returns the byte of each character with which pieces are spelt: printable bytes are themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


ALPHABET = _alphabet()


def to_bytes(piece: str) -> bytes:
    """Returns the bytes that a piece of the vocabulary spells.

    >>> to_bytes("Ġcaf\u00c3\u00a9").decode()
    ' café'
    """
    return b"".join(bytes([ALPHABET[c]]) if c in ALPHABET else c.encode() for c in piece)


def step(pre_tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Returns the step of a pre-tokenizer that turns text into bytes; empty if there is none."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    return next((some for some in steps if some.get("type") == "ByteLevel"), {})


def read_files(vocab: dict[str, int], merges_file: files.Path) -> dict[str, Any]:
    """Returns the content of a tokenizer.json for the pieces of a vocab.json and its merges.txt."""
    if not merges_file.exists():
        raise InputError(f"{merges_file.parent}: has vocab.json, but neither merges.txt nor tokenizer.json")
    lines = merges_file.read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def checked(content: dict[str, Any], config: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the content of a tokenizer.json with BPE in one spelling, with the options of a tokenizer_config.json.

    Raises:
      InputError: it is neither byte-level BPE nor that of Gemma, which mmBERT has.
    """
    model, pre_tokenizer = content["model"], content.get("pre_tokenizer") or {}
    is_gemmas = not step(pre_tokenizer) and bool(model.get("byte_fallback")) and content.get("normalizer") == SPACES
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name) and not (is_gemmas and name == "byte_fallback"):
            raise InputError(f"{where}: model.{name} is {model[name]!r}; byte-level BPE has none")
    if not step(pre_tokenizer) and not is_gemmas:
        raise InputError(
            f"{where}: model.type is 'BPE' and pre_tokenizer.type {pre_tokenizer.get('type')!r}; BPE is supported "
            "over bytes only ('ByteLevel'), or as in Gemma"
        )
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model.get("merges", [])]
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise InputError(f"{where}: {' '.join(wrong[0])!r} in the merges is not two pieces")
    is_roberta = str(config.get("tokenizer_class")).removesuffix("Fast") == "RobertaTokenizer"
    if is_roberta:  # this class reads the vocabulary and the merges only
        content = content | {"normalizer": None, "pre_tokenizer": dict(step(pre_tokenizer), add_prefix_space=False)}
    if not is_gemmas:
        content = content | {"pre_tokenizer": _with_prefix(content["pre_tokenizer"], config.get("add_prefix_space"))}
    fields = {"type": "BPE", "vocab": model.get("vocab"), "merges": merges, "byte_fallback": is_gemmas}
    for name, usual in (("unk_token", None), ("fuse_unk", False), ("ignore_merges", False)):
        fields[name] = usual if is_roberta else model.get(name, usual)
    return content | {"model": fields}


def _with_prefix(pre_tokenizer: dict[str, Any], add_prefix_space: bool | None) -> dict[str, Any]:
    """Returns a pre-tokenizer that adds a space before a text, or does not; None leaves that as it is."""
    if add_prefix_space is None:
        return pre_tokenizer
    if pre_tokenizer["type"] == "Sequence":
        steps = [_with_prefix(some, add_prefix_space) for some in pre_tokenizer["pretokenizers"]]
        return pre_tokenizer | {"pretokenizers": steps}
    return pre_tokenizer | {"add_prefix_space": add_prefix_space} if step(pre_tokenizer) else pre_tokenizer


def train(texts: Iterable[str], vocab_size: int, *, add_prefix_space: bool = False) -> dict[str, Any]:
    """Learns a vocabulary; the same texts give the same vocabulary, on any machine.

    Args:
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) and the 256 bytes included.
      add_prefix_space: whether a text begins as if it followed a space.

    Returns:
      The content of a tokenizer.json.

    Raises:
      InputError: there is no text, or too little text for `vocab_size` pieces.
    """
    texts = base.encodable(list(texts))
    if not any(text.strip() for text in texts):
        raise InputError("there is no text to learn a vocabulary from")
    if vocab_size < MIN_VOCAB_SIZE:
        raise InputError(
            f"vocab_size {vocab_size} is too small for {len(SPECIAL)} special tokens and 256 bytes; give vocab_size "
            f"{MIN_VOCAB_SIZE} or more"
        )
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(ALPHABET),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    size = library.get_vocab_size(with_added_tokens=True)
    if size < vocab_size:
        raise InputError(
            f"vocab_size {vocab_size} does not fit: {len(texts)} texts yield {size} pieces; give more text or "
            f"vocab_size {size}"
        )
    content = json.loads(library.to_str()) | {"added_tokens": []}  # the trainer's mask would not take the space
    return checked(content, {}, "the trained vocabulary")
