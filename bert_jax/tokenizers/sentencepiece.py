"""SentencePiece (unigram and BPE) as ALBERT uses it, through the library `sentencepiece`."""

import base64
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import sentencepiece
import tokenizers
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base
from bert_jax.tokenizers.frame import Frame

Model = Any  # a ModelProto, which protobuf makes at run time
ModelProto: Model = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of pieces in a model
UNIGRAM, BPE = 1, 2  # types of models
ALBERT_NAMES = base.SPECIAL_NAMES | {"pad": "<pad>", "unk": "<unk>"}
# Below every score a trained piece has, so that such a piece is used only where nothing else fits.
NUMBER_COMMA_PENALTY = -100.0
# SentencePiece adds scores in float32, transformers in float64. The same pieces in another order ("o" and "oo" of
# "ooo") have the same sum, and a rounding decides. Sums of multiples of a power of 2 are exact, in float32 up to 2**24
# times that power, and then both libraries choose alike. Models trained here have such scores. Those of other models
# are moved to the nearest multiples of a finer unit as they are loaded: by too little to have changed a choice between
# different pieces in 300,000 lines.
TRAINED_SCORE_UNIT = 2.0**-10
SCORE_UNIT = 2.0**-13


class CharacterMap(dict[int, str]):
    """A table for `str.translate`: what ALBERT does to text before SentencePiece's own normalisation (NFKC) sees it.

    Characters are lowercased one at a time, so that no capital sigma is treated by its place in the word, and accents
    are stripped as transformers does it: every combining mark goes.
    """

    def __init__(self, lowercase: bool, keep_accents: bool):
        super().__init__()
        self.lowercase = lowercase
        self.keep_accents = keep_accents

    def __missing__(self, code: int) -> str:
        text = chr(code)
        if "\ud800" <= text <= "\udfff":
            text = "\ufffd"  # half of a surrogate pair, which SentencePiece does not take
        if not self.keep_accents:
            text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] != "M")
        if self.lowercase:
            text = "".join(c.lower() for c in text)
        # SentencePiece would spell these out too, but could not say that a piece ends inside one.
        spelled_out = unicodedata.normalize("NFKC", text)
        text = spelled_out if len(spelled_out) > len(text) else text
        # "Next line" is white space to everybody but SentencePiece.
        self[code] = text = text.replace("\x85", " ")
        return text

    def apply(self, text: str) -> str:
        """Returns the text that SentencePiece gets."""
        text = text.replace("``", '"').replace("''", '"')
        if text.isascii():
            return text.lower() if self.lowercase else text  # equal to the table's result, several times quicker
        return text.translate(self)

    def sources(self, text: str) -> np.ndarray:
        """Returns, int32 [len(apply(text))], which character of the given text each character comes from.

        A quotation mark that stands for two characters is assigned to the second, as in transformers.
        """
        counted = np.ones(len(text), bool)
        for pair in re.finditer("``|''", text):
            counted[pair.start()] = False
        counts = np.where(counted, np.array([len(self[ord(c)]) for c in text], np.int32), 0)
        return np.repeat(np.arange(len(text), dtype=np.int32), counts)


class Visible(dict[str, bool]):
    """Whether SentencePiece's normalisation of a character leaves anything except spaces, by character."""

    def __init__(self, library: sentencepiece.SentencePieceProcessor):
        super().__init__()
        self._library = library

    def __missing__(self, character: str) -> bool:
        self[character] = visible = bool(self._library.normalize(character).strip(SPACE))
        return visible


class SentencePiece:
    """ALBERT's tokenizer: a unigram or BPE model over text in which a space is a character.

    Satisfies `base.Tokenizer`. The reference is SentencePiece itself (Kudo and Richardson 2018) after the preparation
    of Lan et al. 2020; ids and offsets equal those of transformers.

    Args:
      model: a SentencePiece model; see `_with_split_numbers` for what is changed about it.
      lowercase: lowercase text first.
      keep_accents: leave combining marks in place.
      names: role -> special token, see `base.SPECIAL_ROLES`.
      where: the file the model came from, for messages.

    Raises:
      InputError: the model is neither unigram nor BPE, a piece occurs twice, or a special token is missing.
    """

    kind, mask_takes_space, word_prefix = "sentencepiece", False, ""

    def __init__(self, model: Model, lowercase: bool, keep_accents: bool, names: dict[str, str], where: str):
        if model.trainer_spec.model_type not in (UNIGRAM, BPE) or model.trainer_spec.byte_fallback:
            raise InputError(f"{where}: only unigram and BPE models without byte fallback are supported")
        self._model = model = _with_split_numbers(model)
        self.vocabulary = tuple(piece.piece for piece in model.pieces)
        base.check_unique(self.vocabulary, where)
        ids = base.special_ids(self.vocabulary, names, where)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in base.SPECIAL_ROLES)
        if model.pieces[self.unk_id].type != UNKNOWN:
            raise InputError(f"{where}: {names['unk']!r} is not the unknown piece of this model")
        self.special_ids = tuple(sorted(ids.values()))
        self.frame = Frame(start=(self.cls_id,), between=(self.sep_id,), end=(self.sep_id,))
        self.vocab_size = len(self.vocabulary)
        self.names = dict(names)
        self.lowercase, self.strip_accents = lowercase, not keep_accents
        self.notes: tuple[str, ...] = ()
        self._normalization = CharacterMap(lowercase, keep_accents)
        self.fingerprint = base.fingerprint(
            {
                "kind": self.kind,
                "pieces": [(piece.piece, piece.score, piece.type) for piece in model.pieces],
                "model_type": model.trainer_spec.model_type,
                "charsmap": model.normalizer_spec.precompiled_charsmap.hex(),
                "names": self.names,
                "lowercase": lowercase,
                "keep_accents": keep_accents,
            }
        )
        self.word_starts = np.array([piece.startswith(SPACE) for piece in self.vocabulary])
        self._index = {piece: i for i, piece in enumerate(self.vocabulary)}
        try:
            rounded = _with_rounded_scores(model, SCORE_UNIT)
            self._library = sentencepiece.SentencePieceProcessor(model_proto=rounded.SerializeToString())
        except RuntimeError as error:
            raise InputError(f"{where}: SentencePiece does not take this model: {error}") from None
        self._visible = Visible(self._library)

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `base.Tokenizer.encode_ids`."""
        return base.split_ids(*self.encode_flat(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `base.Tokenizer.encode_flat`."""
        prepared = [self._normalization.apply(text) for text in texts]
        # `prepare` sets this variable in its workers, which already use all cores.
        threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM") == "false" else -1
        by_text = self._library.encode(prepared, return_type="numpy", num_threads=threads)
        return np.concatenate([np.zeros(0, np.int32), *by_text]), np.array([len(ids) for ids in by_text], np.int64)

    def encode(self, texts: Sequence[str]) -> list[base.Encoding]:
        """See `base.Tokenizer.encode`; a lone "▁" lies on the first character of the word it begins."""
        prepared = [self._normalization.apply(text) for text in texts]
        # SentencePiece 0.2.2 does not accept an empty list here.
        encoded = self._library.encode(prepared, return_type="offset_mapping") if prepared else []
        return [
            base.Encoding(
                np.array(mapping["ids"], np.int32),
                _offsets(mapping["offsets"], [self._visible[c] for c in new], self._normalization.sources(old)),
            )
            for old, new, mapping in zip(texts, prepared, encoded, strict=True)
        ]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """See `base.Tokenizer.decode`."""
        shown = [f" {self.vocabulary[i]} " if i in self.special_ids else self.vocabulary[i] for i in ids]
        text = "".join(piece for i, piece in zip(ids, shown, strict=True) if i != self.pad_id)
        return " ".join(text.replace(SPACE, " ").split())

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """See `base.Tokenizer.pieces`."""
        return [self.vocabulary[i] for i in ids]

    def piece_id(self, piece: str) -> int | None:
        """See `base.Tokenizer.piece_id`."""
        return self._index.get(piece)

    def with_pieces(self, pieces: Sequence[str]) -> "SentencePiece":
        """See `base.Tokenizer.with_pieces`."""
        model = ModelProto()
        model.CopyFrom(self._model)
        for piece in pieces:
            model.pieces.add(piece=piece, score=0.0, type=CONTROL)
        normalization = self._normalization
        return SentencePiece(model, normalization.lowercase, normalization.keep_accents, self.names, "vocabulary")

    def save(self, folder: files.Path) -> None:
        """Writes spiece.model, tokenizer.json and tokenizer_config.json.

        transformers then uses tokenizer.json unchanged, because its own `AlbertTokenizer` supports neither BPE nor
        Hangul, and cuts text at every piece that a model's author reserved ("user-defined").
        """
        folder = files.make_folder(folder)
        (folder / "spiece.model").write_bytes(self._model.SerializeToString(deterministic=True))
        (folder / "tokenizer.json").write_text(self._as_fast().to_str(pretty=True), encoding="utf-8")
        files.write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "do_lower_case": self._normalization.lowercase,
                "keep_accents": self._normalization.keep_accents,
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            }
            | {f"{role}_token": name for role, name in self.names.items()},
        )

    def _as_fast(self) -> tokenizers.Tokenizer:
        """Returns the same tokenizer in terms of the library `tokenizers`."""
        unknown = self.names["unk"]
        model: Any
        if self._model.trainer_spec.model_type == UNIGRAM:
            model = models.Unigram([(p.piece, p.score) for p in self._model.pieces], self.unk_id, False)
        else:
            model = models.BPE(self._index, _merges(self._model), unk_token=unknown, fuse_unk=True)
        fast = tokenizers.Tokenizer(model)
        accents = [] if self._normalization.keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
        charsmap = self._model.normalizer_spec.precompiled_charsmap
        fast.normalizer = normalizers.Sequence(
            [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), *accents]
            # SentencePiece's normalisation composes Hangul syllables again; the library's version of it does not.
            + ([normalizers.NFC()] if accents else [])
            + ([normalizers.Lowercase()] if self._normalization.lowercase else [])
            + ([normalizers.Precompiled(charsmap)] if charsmap else [])
        )
        fast.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, "always")]
        )
        fast.decoder = decoders.Metaspace(SPACE, "always")
        fast.add_special_tokens([self.names[role] for role in base.SPECIAL_ROLES])
        fast.post_processor = base.template(self)
        return fast


def _offsets(spans: Sequence[tuple[int, int]], visible: Sequence[bool], sources: np.ndarray) -> np.ndarray:
    """Moves spans of prepared text to characters of the given text, less spaces and the like at either end.

    Args:
      spans: of the pieces; that of a word's first piece begins with the space before it.
      visible: of each prepared character, whether it leaves a trace in a piece.
      sources: of each prepared character, the given one it comes from.

    Returns:
      int32 [pieces, 2].
    """
    offsets = np.zeros((len(spans), 2), np.int32)
    for row, (start, end) in enumerate(spans):
        while start < len(visible) - 1 and not visible[start]:
            start += 1
        while end > start + 1 and not visible[end - 1]:
            end -= 1
        offsets[row] = sources[start], sources[max(start, end - 1)] + 1
    return offsets


def _with_split_numbers(model: Model) -> Model:
    """Returns a copy that never ends a piece in a digit and a comma.

    ALBERT's tokenizer splits such pieces again after the fact (Lan et al. 2020, as XLNet before it); a score nothing
    falls below has the same effect. Models that have been through here, or through transformers, stay as they are.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if model.trainer_spec.model_type == UNIGRAM:
        for piece in copy.pieces:
            if piece.type == NORMAL and piece.score > NUMBER_COMMA_PENALTY and re.search(r"\d,$", piece.piece):
                piece.score += NUMBER_COMMA_PENALTY
    return copy


def _with_rounded_scores(model: Model, unit: float) -> Model:
    """Returns a copy whose scores are multiples of `unit`; see SCORE_UNIT. Those of a BPE model are whole numbers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for piece in copy.pieces:
        piece.score = round(piece.score / unit) * unit
    return copy


def _merges(model: Model) -> list[tuple[str, str]]:
    """Returns the pairs of pieces a BPE model joins, the best first."""
    rank = {piece.piece: -piece.score for piece in model.pieces if piece.type == NORMAL}
    merges = [
        (rank[piece], rank[piece[:cut]], rank[piece[cut:]], piece[:cut], piece[cut:])
        for piece in rank
        for cut in range(1, len(piece))
        if piece[:cut] in rank and piece[cut:] in rank
    ]
    return [(left, right) for *_, left, right in sorted(merges)]


def load(folder: files.Path) -> SentencePiece:
    """Reads a folder with spiece.model or a unigram tokenizer.json, and tokenizer_config.json if it exists.

    Raises:
      InputError: a file is missing, broken, or describes another tokenizer than ALBERT's SentencePiece.
    """
    config_file, model_file, fast_file = (
        folder / name for name in ("tokenizer_config.json", "spiece.model", "tokenizer.json")
    )
    config = files.read_json(config_file) if config_file.exists() else {}
    names = base.special_names(folder, config, ALBERT_NAMES)
    if model_file.exists():
        model = ModelProto()
        try:
            model.ParseFromString(model_file.read_bytes())
        except DecodeError:
            raise InputError(f"{model_file}: not a SentencePiece model, or cut short") from None
        if not model.pieces:
            raise InputError(f"{model_file}: not a SentencePiece model: it has no pieces")
        where = str(model_file)
        lowercase, keep_accents = True, False
    elif fast_file.exists():
        where = str(fast_file)
        model, lowercase, keep_accents = _from_fast(files.read_json(fast_file), names, where)
    else:
        raise InputError(f"{folder}: no spiece.model and no tokenizer.json")
    return SentencePiece(
        model, config.get("do_lower_case", lowercase), config.get("keep_accents", keep_accents), names, where
    )


def is_alberts(content: dict[str, Any]) -> bool:
    """Returns whether a unigram tokenizer.json is ALBERT's, whose normalizer replaces quotation marks."""
    steps = (content.get("normalizer") or {}).get("normalizers") or []
    return any(step.get("pattern") == {"String": "``"} for step in steps)


def _from_fast(content: dict[str, Any], names: dict[str, str], where: str) -> tuple[Model, bool, bool]:
    """Rebuilds a model from a unigram tokenizer.json: the model, and whether to lowercase and to keep accents."""
    fast = content.get("model") or {}
    pieces = fast.get("vocab")
    if fast.get("type") != "Unigram" or fast.get("byte_fallback") or not isinstance(pieces, list):
        raise InputError(f"{where}: only unigram models without byte fallback are read from a tokenizer.json")
    steps = (content.get("normalizer") or {}).get("normalizers") or []
    kinds = {step.get("type") for step in steps}
    if unknown := kinds - {"Replace", "NFKD", "NFC", "StripAccents", "Lowercase", "Precompiled"}:
        raise InputError(f"{where}: normalizer {sorted(unknown)[0]!r} is none that ALBERT uses")
    model = ModelProto()
    model.trainer_spec.model_type = UNIGRAM
    for role, number in zip(("pad", "unk"), (0, fast.get("unk_id")), strict=True):
        setattr(model.trainer_spec, f"{role}_piece", names[role])
        setattr(model.trainer_spec, f"{role}_id", number)
    model.trainer_spec.bos_id = model.trainer_spec.eos_id = -1
    special = set(names.values())
    for i, (piece, score) in enumerate(pieces):
        kind = UNKNOWN if i == fast.get("unk_id") else CONTROL if piece in special else NORMAL
        model.pieces.add(piece=piece, score=score, type=kind)
    for step in steps:
        if step["type"] == "Precompiled":
            model.normalizer_spec.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"])
    return model, "Lowercase" in kinds, "StripAccents" not in kinds


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model_type: Literal["unigram", "bpe"] = "unigram",
    lowercase: bool = True,
    strip_accents: bool | None = None,
) -> SentencePiece:
    """Learns a model; the same texts in the same order give the same bytes with the same release of SentencePiece.

    Args:
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) included.
      model_type: the algorithm.
      lowercase: lowercase, as ALBERT does.
      strip_accents: remove accents; None for the same as `lowercase`.

    Raises:
      InputError: there is no text, or too little text for `vocab_size` pieces.
    """
    keep_accents = not (lowercase if strip_accents is None else strip_accents)
    normalization = CharacterMap(lowercase, keep_accents)
    # NUL ends a string in the trainer.
    prepared = [normalization.apply(line).replace("\0", "") for text in texts for line in text.splitlines()]
    prepared = [line for line in prepared if line.strip()]
    if not prepared:
        raise InputError("there is no text to learn a vocabulary from")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(prepared),
            model_writer=written,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=0.99995,  # ALBERT's
            max_sentence_length=2**30,  # in bytes; longer ones would be left out silently
            num_threads=1,  # more threads give other pieces
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=base.SPECIAL_NAMES["pad"],
            unk_piece=base.SPECIAL_NAMES["unk"],
            control_symbols=[base.SPECIAL_NAMES[role] for role in ("cls", "sep", "mask")],
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"vocab_size {vocab_size} {_reason(str(error))}") from None
    model = _with_rounded_scores(ModelProto.FromString(written.getvalue()), TRAINED_SCORE_UNIT)
    return SentencePiece(model, lowercase, keep_accents, base.SPECIAL_NAMES, "the trained model")


def _reason(message: str) -> str:
    """Returns a message of the library about the size of a vocabulary, in our terms."""
    if most := re.search(r"set it to a value <= (\d+)", message):
        size = int(most[1])
        works = f" or vocab_size {size}" if size >= base.MIN_VOCAB_SIZE else ""
        return f"does not fit: the text yields {size} pieces; give more text{works}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"is too small for the characters of this text; give vocab_size {least[1]} or more"
    return f"with this text: SentencePiece reports: {message.rsplit('] ', 1)[-1].strip() or message.strip()}"
