"""Tokenizers that the library `tokenizers` runs as a tokenizer.json describes them: byte-level BPE and Unigram."""

import copy
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import processors

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base, bytelevel
from bert_jax.tokenizers.frame import Frame

SPACE = "▁"  # how pieces spell the space before a word, unless they are over bytes
ROBERTA_NAMES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
BYTE = re.compile("<0x([0-9A-F]{2})>")  # how Gemma's BPE spells a byte
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token


class LibraryTokenizer:
    """Byte-level BPE as in RoBERTa and ModernBERT, Gemma's BPE as in mmBERT, or Unigram as in XLM-R and CamemBERT.

    Satisfies `base.Tokenizer`. Ids and offsets are those of transformers, which runs the same library. Tokens that a
    file adds and does not call special, such as ModernBERT's runs of spaces, are one token wherever a text has them.

    Args:
      content: normalizer, pre_tokenizer, decoder, model and added_tokens of a tokenizer.json, as `_canonical` returns
        them.
      names: role -> special token, see `base.SPECIAL_ROLES`.
      where: the file it came from, for messages.

    Raises:
      InputError: a piece occurs twice, a special token is missing, or the library refuses the content.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, content: dict[str, Any], names: dict[str, str], where: str = "vocabulary"):
        self._content, self.names = content, dict(names)
        self.kind = kind_of(content) or ""
        self.vocabulary = _pieces(content["model"])
        base.check_unique(self.vocabulary, where)
        ids = base.special_ids(self.vocabulary, names, where)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in base.SPECIAL_ROLES)
        self.special_ids = tuple(sorted(ids.values()))
        self.vocab_size = len(self.vocabulary)
        separators = 2 if names["cls"] == ROBERTA_NAMES["cls"] else 1
        self.frame = Frame((self.cls_id,), (self.sep_id,) * separators, (self.sep_id,), segments=False)
        normalizer = content["normalizer"] or {}
        steps = {step.get("type") for step in normalizer.get("normalizers", [normalizer])}
        self.lowercase, self.strip_accents = "Lowercase" in steps, "StripAccents" in steps
        self.word_prefix = "" if self.kind == "unigram" else " "
        by_content = {token["content"]: token for token in content["added_tokens"]}
        self.mask_takes_space = bool(by_content[names["mask"]]["lstrip"])
        self.fingerprint = base.fingerprint(
            {"kind": self.kind, "names": self.names} | {k: v for k, v in content.items() if k != "decoder"}
        )
        self._index = {piece: i for i, piece in enumerate(self.vocabulary)}
        # Added tokens are spelt as they are, not in the alphabet of bytes.
        self._verbatim = {self._index[piece] for piece in by_content}
        self.word_starts = np.array([self._starts_word(i) for i in range(self.vocab_size)])
        try:
            self._library = tokenizers.Tokenizer.from_str(json.dumps(self._for_encoding()))
        except Exception as error:  # the library has no class of its own for this
            raise InputError(f"{where}: the library `tokenizers` does not take this tokenizer: {error}") from None

    def _starts_word(self, i: int) -> bool:
        if i in self.special_ids:
            return False
        return self._bytes(i)[:1].isspace()

    def _bytes(self, i: int) -> bytes:
        piece = self.vocabulary[i]
        if self.kind == "bytelevel":
            return piece.encode() if i in self._verbatim else bytelevel.to_bytes(piece)
        if self.kind == "bpe" and (byte := BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return piece.replace(SPACE, " ").encode()

    def _for_encoding(self) -> dict[str, Any]:
        """Returns the content of a tokenizer.json that reads no special token from text."""
        content = dict(self._content)
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
        # No merge makes a special token, so none is read.
        if self.kind == "bytelevel":
            # A piece's offsets leave out the space before the word.
            content["post_processor"] = json.loads(self._trimming().__getstate__())
        if self.kind != "unigram":
            return content
        special = {token["content"] for token in self._content["added_tokens"] if token["special"]}
        vocab = self._content["model"]["vocab"]
        # Text is split at spaces, so no part of it is equal to a piece with a space.
        hidden = [[" " + piece if piece in special else piece, score] for piece, score in vocab]
        content["model"] = content["model"] | {"vocab": hidden}
        return content

    def _trimming(self) -> processors.ByteLevel:
        step = bytelevel.step(self._content["pre_tokenizer"])
        return processors.ByteLevel(add_prefix_space=step["add_prefix_space"], trim_offsets=True)

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `base.Tokenizer.encode_ids`."""
        return base.split_ids(*self.encode_flat(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `base.Tokenizer.encode_flat`."""
        return base.flat_ids(self._library, texts)

    def encode(self, texts: Sequence[str]) -> list[base.Encoding]:
        """See `base.Tokenizer.encode`."""
        encodings = []
        for encoded in self._library.encode_batch(base.encodable(texts), add_special_tokens=False):
            offsets = np.array(encoded.offsets, np.int32).reshape(-1, 2)
            if self.kind == "bpe":  # the library leaves no space out here
                offsets = _trimmed(offsets, encoded.tokens)
            encodings.append(base.Encoding(np.array(encoded.ids, np.int32), offsets))
        return encodings

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """See `base.Tokenizer.decode`."""
        parts = []
        for is_special, run in itertools.groupby(map(int, ids), key=lambda i: i in self.special_ids):
            if is_special:
                parts += [self.vocabulary[i] for i in run if i != self.pad_id]
            else:
                parts.append(b"".join(map(self._bytes, run)).decode(errors="replace"))
        return " ".join(stripped for part in parts if (stripped := part.strip()))

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """See `base.Tokenizer.pieces`."""
        return [self.vocabulary[i] for i in ids]

    def piece_id(self, piece: str) -> int | None:
        """See `base.Tokenizer.piece_id`."""
        return self._index.get(piece)

    def with_pieces(self, pieces: Sequence[str]) -> "LibraryTokenizer":
        """See `base.Tokenizer.with_pieces`."""
        base.check_unique([*self.vocabulary, *pieces], "vocabulary")
        content = copy.deepcopy(self._content)
        tokens = [
            _added_token(piece, special=True) | {"id": self.vocab_size + number} for number, piece in enumerate(pieces)
        ]
        content["added_tokens"] += tokens
        content["model"]["vocab"] = _with_added(content["model"]["vocab"], tokens)
        return LibraryTokenizer(content, self.names)

    def save(self, folder: files.Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json; for RoBERTa's kind also vocab.json and merges.txt.

        transformers uses tokenizer.json unchanged.
        """
        folder = files.make_folder(folder)
        library = tokenizers.Tokenizer.from_str(json.dumps(self._content))
        frame = base.template(self)
        is_bytelevel = self.kind == "bytelevel"
        library.post_processor = processors.Sequence([self._trimming(), frame]) if is_bytelevel else frame
        (folder / "tokenizer.json").write_text(library.to_str(pretty=True), encoding="utf-8")
        is_plain = self._content["normalizer"] is None and all(t["special"] for t in self._content["added_tokens"])
        if is_bytelevel and is_plain:
            merges = "".join(f"{left} {right}\n" for left, right in self._content["model"]["merges"])
            (folder / "merges.txt").write_text(bytelevel.MERGES_HEADER + merges, encoding="utf-8")
            files.write_json(folder / "vocab.json", self._index)
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if is_bytelevel:
            settings["add_prefix_space"] = bytelevel.step(self._content["pre_tokenizer"])["add_prefix_space"]
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        settings["model_input_names"] = inputs if self.frame.segments else [inputs[0], inputs[2]]
        names = {f"{role}_token": name for role, name in self.names.items()}
        names |= {"bos_token": self.names["cls"], "eos_token": self.names["sep"]}
        files.write_json(folder / "tokenizer_config.json", settings | names)


def _trimmed(offsets: np.ndarray, pieces: Sequence[str]) -> np.ndarray:
    """Returns offsets, int32 [pieces, 2], without the spaces at the start of each piece."""
    spaces = np.array([len(piece) - len(piece.lstrip(SPACE)) for piece in pieces], np.int32)
    offsets[:, 0] = np.minimum(offsets[:, 0] + spaces, offsets[:, 1])
    return offsets


def kind_of(content: dict[str, Any]) -> str | None:
    """Returns the kind of a tokenizer.json: "bytelevel", "bpe" (Gemma's) or "unigram"; None if it is another one."""
    if type_of(content) == "BPE":
        is_gemmas = content["model"].get("byte_fallback") and not bytelevel.step(content.get("pre_tokenizer") or {})
        return "bpe" if is_gemmas else "bytelevel"
    return "unigram" if type_of(content) == "Unigram" else None


def type_of(content: dict[str, Any]) -> str | None:
    """Returns the type of the model in a tokenizer.json. Older files do not state it; their fields show it."""
    model = content.get("model")
    if not isinstance(model, dict):
        return None
    guess = "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"
    return model.get("type", guess)


def load(folder: files.Path) -> LibraryTokenizer:
    """Reads a folder with a tokenizer.json of byte-level BPE or Unigram, or with vocab.json and merges.txt.

    Raises:
      InputError: a file is missing, broken, or describes another kind of tokenizer; vocab.json and tokenizer.json
        disagree.
    """
    config_file, library_file, vocab_file = (
        folder / name for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json")
    )
    config = files.read_json(config_file) if config_file.exists() else {}
    vocab = files.read_json(vocab_file) if vocab_file.exists() else None
    if library_file.exists():
        where, content = str(library_file), files.read_json(library_file)
    else:
        where, content = str(vocab_file), bytelevel.read_files(vocab or {}, folder / "merges.txt")
        content["added_tokens"] = [
            dict(token) | {"id": int(i)} for i, token in config.get("added_tokens_decoder", {}).items()
        ]
    content = content | {"model": content["model"] | {"type": type_of(content)}}
    if content["model"]["type"] == "BPE":
        content = bytelevel.checked(content, config, where)
    elif content["model"].get("byte_fallback"):
        raise InputError(f"{where}: model.byte_fallback is True; only Unigram without it is supported")
    pieces = _pieces(content["model"], where)
    added = [token.get("content") for token in content.get("added_tokens", [])]
    defaults = ROBERTA_NAMES if ROBERTA_NAMES["cls"] in {*pieces, *added} else base.SPECIAL_NAMES
    names = base.special_names(folder, config, defaults)
    tokenizer = from_content(content, names, where)
    if vocab is not None and any(tokenizer.piece_id(piece) != i for piece, i in vocab.items()):
        raise InputError(f"{vocab_file} and {library_file} hold different vocabularies; remove the wrong one")
    if tokenizer.kind == "unigram" and content["model"].get("unk_id") != tokenizer.unk_id:
        raise InputError(
            f"{where}: model.unk_id is {content['model'].get('unk_id')}, but {names['unk']!r} is {tokenizer.unk_id}"
        )
    return tokenizer


def from_content(content: dict[str, Any], names: dict[str, str], where: str) -> LibraryTokenizer:
    """Returns the tokenizer of a tokenizer.json's content.

    Raises:
      InputError: a special token is missing, or the ids have a gap.
    """
    return LibraryTokenizer(_canonical(content, names, where), names, where)


def _canonical(content: dict[str, Any], names: dict[str, str], where: str) -> dict[str, Any]:
    """Returns what decides ids and offsets in a tokenizer.json, in one spelling.

    The model's vocabulary then has all tokens, and `added_tokens` has the five special ones.

    Raises:
      InputError: the ids are not 0, 1, 2...
    """
    vocab = content["model"]["vocab"]
    pieces = _pieces(content["model"], where)
    index = {piece: i for i, piece in enumerate(pieces)}
    added = {token["content"]: _added_token(**token) for token in content.get("added_tokens", [])}
    for role, name in names.items():
        if name in index and name not in added:
            added[name] = _added_token(name, special=True, lstrip=role == "mask")
        if name in added:
            added[name]["special"] = True
    for name, token in added.items():
        token["id"] = index.get(name, token.get("id"))
    tokens = sorted(added.values(), key=lambda token: token["id"])
    new = [token for token in tokens if token["content"] not in index]
    if [token["id"] for token in new] != list(range(len(pieces), len(pieces) + len(new))):
        raise InputError(
            f"{where}: the ids of the {len(new)} added tokens must follow those of the {len(pieces)} pieces without a "
            f"gap; {new[0]['content']!r} has {new[0]['id']}"
        )
    steps = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    return steps | {"added_tokens": tokens, "model": content["model"] | {"vocab": _with_added(vocab, new)}}


def _added_token(content: str, id: int | None = None, **flags: bool) -> dict[str, Any]:
    """Returns an added token as a tokenizer.json has it."""
    return {"id": id, "content": content} | {flag: bool(flags.get(flag, False)) for flag in FLAGS}


def _with_added(vocab: Any, tokens: Iterable[dict[str, Any]]) -> Any:
    """Returns the vocabulary of a model, a dict or a list, with more tokens at its end."""
    if isinstance(vocab, dict):
        return vocab | {token["content"]: token["id"] for token in tokens}
    return [*vocab, *([token["content"], 0.0] for token in tokens)]


def _pieces(model: dict[str, Any], where: str = "vocabulary") -> tuple[str, ...]:
    """Returns the vocabulary of a model in the order of the ids."""
    vocab = model.get("vocab")
    if isinstance(vocab, list) and all(isinstance(entry, list) and len(entry) == 2 for entry in vocab):
        return tuple(piece for piece, _ in vocab)
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))):
        raise InputError(f"{where}: the vocabulary must map pieces to the ids 0, 1, 2... without a gap")
    return tuple(sorted(vocab, key=vocab.__getitem__))
