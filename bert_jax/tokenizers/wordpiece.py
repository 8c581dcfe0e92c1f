"""WordPiece as BERT uses it, through the library `tokenizers`."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base
from bert_jax.tokenizers.frame import Frame

CONTINUING = "##"
BYTE_ORDER_MARK = "\ufeff"
# By default, a vocabulary has at most this many of the commonest characters; each costs up to two entries, alone and
# inside a word. Words with others become [UNK].
MAX_ALPHABET = 1000
# By default, ideographs are added beyond that limit until this share of the text's characters is covered.
COVERAGE = 0.995
# From these shares of its words on, a vocabulary counts as cased, or as one with accents. People replace unused entries
# by words of their domain, so a few words decide nothing. English with its accents has them in 0.3 % of its words.
CAPITALS, ACCENTS = 0.01, 0.001


@dataclass(frozen=True)
class BertNormalization:
    """How a text is changed before it is split into words. Control characters are always removed."""

    lowercase: bool = True  # as in the uncased models
    strip_accents: bool = True  # é becomes e; in BERT the same as lowercase by default
    split_chinese: bool = True  # every CJK ideograph is a separate word


class WordPiece:
    """BERT's tokenizer: words by whitespace and punctuation, each cut into the longest pieces from the left.

    Satisfies `base.Tokenizer`. The reference is Devlin et al. 2019, and the `BertTokenizer` of transformers.

    Args:
      pieces: the vocabulary in the order of the ids; pieces inside a word begin with "##". Text gets the last id of a
        piece that occurs twice, and never that of an empty one.
      normalization: how text is prepared.
      names: role -> special token, see `base.SPECIAL_ROLES`.
      where: the file the vocabulary came from, for messages.
      notes: see `base.Tokenizer.notes`.

    Raises:
      InputError: a special token is missing.
    """

    kind, mask_takes_space, word_prefix = "wordpiece", False, ""

    def __init__(
        self,
        pieces: Sequence[str],
        normalization: BertNormalization = BertNormalization(),
        names: dict[str, str] = base.SPECIAL_NAMES,
        where: str = "vocabulary",
        notes: tuple[str, ...] = (),
    ):
        ids = base.special_ids(pieces, names, where)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in base.SPECIAL_ROLES)
        self.special_ids = tuple(sorted(ids.values()))
        self.frame = Frame(start=(self.cls_id,), between=(self.sep_id,), end=(self.sep_id,))
        self.vocabulary = tuple(pieces)
        self.vocab_size = len(pieces)
        self.normalization = normalization
        self.notes = notes
        self.lowercase, self.strip_accents = normalization.lowercase, normalization.strip_accents
        self.names = dict(names)
        self.fingerprint = base.fingerprint(
            {"kind": self.kind, "pieces": list(pieces), "names": self.names} | asdict(normalization)
        )
        self.word_starts = np.array([not piece.startswith(CONTINUING) for piece in pieces])
        self.word_starts[[i for i in self.special_ids if i != self.unk_id]] = False
        self._index = _index(pieces)
        # Special tokens are not registered with the library here, so they are not matched in text.
        self._library = self._build()
        self._decoder = decoders.WordPiece(prefix=CONTINUING)

    def _build(self) -> tokenizers.Tokenizer:
        library = tokenizers.Tokenizer(models.WordPiece(self._index, unk_token=self.names["unk"]))
        library.normalizer = _normalizer(self.normalization)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return library

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `base.Tokenizer.encode_ids`."""
        return base.split_ids(*self.encode_flat(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `base.Tokenizer.encode_flat`."""
        return base.flat_ids(self._library, texts)

    def encode(self, texts: Sequence[str]) -> list[base.Encoding]:
        """See `base.Tokenizer.encode`."""
        encoded = self._library.encode_batch(base.encodable(texts), add_special_tokens=False)
        return [base.Encoding(np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2)) for e in encoded]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """See `base.Tokenizer.decode`."""
        return self._decoder.decode([self.vocabulary[i] for i in ids if i != self.pad_id])

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """See `base.Tokenizer.pieces`."""
        return [self.vocabulary[i] for i in ids]

    def piece_id(self, piece: str) -> int | None:
        """See `base.Tokenizer.piece_id`."""
        return self._index.get(piece)

    def with_pieces(self, pieces: Sequence[str]) -> "WordPiece":
        """See `base.Tokenizer.with_pieces`."""
        base.check_unique([*dict.fromkeys(filter(None, self.vocabulary)), *pieces], "vocabulary")
        return WordPiece([*self.vocabulary, *pieces], self.normalization, self.names, notes=self.notes)

    def words(self, texts: Iterable[str]) -> Counter[str]:
        """Counts the normalised words of texts, which are then cut into pieces."""
        counts: Counter[str] = Counter()
        normalizer, splitter = self._library.normalizer, self._library.pre_tokenizer
        for text in texts:
            normal = normalizer.normalize_str(base.without_surrogates([text])[0])
            counts.update(word for word, _ in splitter.pre_tokenize_str(normal))
        return counts

    def save(self, folder: files.Path) -> None:
        """Writes vocab.txt, tokenizer.json and tokenizer_config.json, as `BertTokenizer` of transformers reads them."""
        folder = files.make_folder(folder)
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in self.vocabulary), encoding="utf-8")
        library = self._build()
        library.add_special_tokens([self.names[role] for role in base.SPECIAL_ROLES])
        library.post_processor = base.template(self)
        library.decoder = self._decoder
        (folder / "tokenizer.json").write_text(library.to_str(pretty=True), encoding="utf-8")
        files.write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": self.normalization.lowercase,
                "strip_accents": self.normalization.strip_accents,
                "tokenize_chinese_chars": self.normalization.split_chinese,
            }
            | {f"{role}_token": name for role, name in self.names.items()},
        )


def _normalizer(normalization: BertNormalization) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=normalization.split_chinese,
        strip_accents=normalization.strip_accents,
        lowercase=normalization.lowercase,
    )


def load(folder: files.Path) -> WordPiece:
    """Reads a folder with vocab.txt or a WordPiece tokenizer.json, and tokenizer_config.json if it exists.

    If no file defines whether text is lowercased (as in Google's checkpoints), the words of the vocabulary decide that,
    and whether accents are removed.

    Raises:
      InputError: a file is missing, broken, or describes another tokenizer than BERT's WordPiece; vocab.txt and
        tokenizer.json disagree.
    """
    config_file, vocab_file, library_file = (
        folder / name for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json")
    )
    config = files.read_json(config_file) if config_file.exists() else {}
    normalizer: dict[str, Any] = {}
    where, pieces = str(vocab_file), _read_vocabulary(vocab_file) if vocab_file.exists() else None
    if library_file.exists():
        listed, normalizer = _read_library_file(library_file)
        if pieces is not None and _index(pieces) != _index(listed):
            raise InputError(f"{vocab_file} and {library_file} hold different vocabularies; remove the wrong one")
        # vocab.txt has the entries that no text gets; tokenizer.json lacks their ids.
        where, pieces = str(library_file), listed if pieces is None else pieces
    if pieces is None:
        raise InputError(f"{folder}: no vocab.txt and no tokenizer.json")
    names = base.special_names(folder, config, base.SPECIAL_NAMES)
    settings = normalizer | {
        ours: config[theirs]
        for theirs, ours in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        )
        if theirs in config
    }
    lowercase, strip_accents, note = settings.get("lowercase"), settings.get("strip_accents"), ""
    if lowercase is None:
        decided, reason = _from_words(pieces)
        lowercase, note = decided.lowercase, f"{where}: {reason}"
        strip_accents = decided.strip_accents if strip_accents is None else strip_accents
    normalization = BertNormalization(
        lowercase=lowercase,
        strip_accents=lowercase if strip_accents is None else strip_accents,
        split_chinese=settings.get("handle_chinese_chars", True),
    )
    note = note or _other_defaults(config, normalization, where)
    return WordPiece(pieces, normalization, names, where, (note,) if note else ())


def _other_defaults(config: dict[str, Any], normalization: BertNormalization, where: str) -> str:
    """Returns a note if `BertTokenizer` of transformers changes text in another way, by its defaults; "" if not.

    It takes no option from tokenizer.json, and those that tokenizer_config.json lacks are its defaults.
    """
    lowercase, accents = config.get("do_lower_case", True), config.get("strip_accents")
    theirs = BertNormalization(
        lowercase, lowercase if accents is None else accents, config.get("tokenize_chinese_chars", True)
    )
    if theirs == normalization or not str(config.get("tokenizer_class", "BertTokenizer")).startswith("Bert"):
        return ""
    ours, others = asdict(normalization), asdict(theirs)
    different = ", ".join(
        f"{name} {ours[name]} in place of {others[name]}" for name in ours if ours[name] != others[name]
    )
    return (
        f"{where}: text is changed as this file defines: {different}, which is a default of BertTokenizer in "
        "transformers; put the option into tokenizer_config.json for both to agree"
    )


def _from_words(pieces: Sequence[str]) -> tuple[BertNormalization, str]:
    """Decides case and accents by the words of a vocabulary, and returns the reason too.

    Words consist of letters, marks and digits only, which special tokens such as [MASK] or <S> do not.
    """
    words = [piece.removeprefix(CONTINUING) for piece in pieces]
    words = [word for word in words if word and all(unicodedata.category(c)[0] in "LMN" for c in word)]
    with_case = [word for word in words if word.lower() != word.upper()]
    capital = [word for word in with_case if word != word.lower()]
    accented = [
        word for word in words if any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", word))
    ]
    lowercase = not capital or len(capital) < CAPITALS * len(with_case)
    strip_accents = lowercase and (not accented or len(accented) < ACCENTS * len(words))

    def counted(some: list[str], of: list[str], have: str) -> str:
        such = f", such as {some[0]!r}" if some else ""
        return f"{len(some):,} of {len(of):,} words have {have}{such}"

    return BertNormalization(lowercase, strip_accents), (
        f"case and accents are not set; by its words, text is {'' if lowercase else 'not '}lowercased "
        f"({counted(capital, with_case, 'capital letters')}) and accents are {'removed' if strip_accents else 'kept'} "
        f"({counted(accented, words, 'accents')}); do_lower_case and strip_accents in tokenizer_config.json set them"
    )


def _read_vocabulary(path: files.Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; expected one piece per line") from None
    pieces = text.rstrip("\n").split("\n")
    if len(pieces[0]) > 1 and pieces[0][0] == BYTE_ORDER_MARK:
        pieces[0] = pieces[0][1:]
        _warn(f"{path}: line 1 begins with a byte order mark, which is ignored")
    lines: dict[str, int] = {}
    twice, empty = [], []
    for number, piece in enumerate(pieces, 1):
        if not piece:
            empty.append(number)
        elif piece in lines:
            twice.append(f"{piece!r} is in lines {lines[piece]} and {number}")
        lines[piece] = number
    if twice:
        _warn(f"{path}: {len(twice)} entries are repeated, and only the last id is used: {'; '.join(twice[:5])}")
    if empty:
        shown = ", ".join(map(str, empty[:5]))
        _warn(f"{path}: {len(empty)} lines are empty, and no text gets their ids; the first are {shown}")
    return pieces


def _index(pieces: Sequence[str]) -> dict[str, int]:
    """Returns the id of each piece; the last one of a piece that occurs twice, as in transformers."""
    return {piece: i for i, piece in enumerate(pieces) if piece}


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _read_library_file(path: files.Path) -> tuple[list[str], dict[str, Any]]:
    """Returns the vocabulary and the normaliser's settings of a tokenizer.json."""
    content = files.read_json(path)
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    expected = {
        "model.type": (model.get("type", "WordPiece"), "WordPiece"),
        "model.continuing_subword_prefix": (model.get("continuing_subword_prefix"), CONTINUING),
        "model.max_input_chars_per_word": (model.get("max_input_chars_per_word"), 100),
        "normalizer.type": (normalizer.get("type"), "BertNormalizer"),
        "normalizer.clean_text": (normalizer.get("clean_text"), True),
        "pre_tokenizer.type": ((content.get("pre_tokenizer") or {}).get("type"), "BertPreTokenizer"),
    }
    for name, (actual, wanted) in expected.items():
        if actual != wanted:
            raise InputError(f"{path}: {name} is {actual!r}; expected {wanted!r}, as in BERT's WordPiece")
    index: dict[str, Any] = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    ids = list(index.values())
    gaps = max(ids, default=0) + 1 - len(ids) if all(type(i) is int and i >= 0 for i in ids) else -1
    if not ids or len(set(ids)) != len(ids) or not 0 <= gaps <= len(ids):
        raise InputError(f"{path}: model.vocab must map pieces to the ids 0, 1, 2..., each to one of its own")
    added = [token["content"] for token in content.get("added_tokens", []) if token["content"] not in index]
    if added:
        raise InputError(
            f"{path}: {len(added)} tokens were added outside the vocabulary (the first is {added[0]!r}); "
            "only pieces of the vocabulary itself are supported"
        )
    # An id is missing where the vocabulary had a piece twice: both then have the last id.
    piece_of = {i: piece for piece, i in index.items()}
    return [piece_of.get(i, "") for i in range(len(ids) + gaps)], normalizer


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    alphabet_limit: int | None = None,
) -> WordPiece:
    """Learns a vocabulary; the same texts give the same vocabulary, in any order and on any machine.

    Args:
      texts: held in memory while training; pass a sample of a large corpus.
      vocab_size: pieces, the five special tokens (ids 0 to 4) included.
      lowercase: lowercase, as the uncased models do.
      strip_accents: remove accents; None for the same as `lowercase`.
      alphabet_limit: number of characters that the vocabulary has, the commonest ones. None for a quarter of
        `vocab_size` and at most MAX_ALPHABET, and more where words leave room or the text consists of ideographs.

    Raises:
      InputError: there is no text, too little text for `vocab_size` pieces, or no room for the alphabet.
    """
    normalization = BertNormalization(lowercase, lowercase if strip_accents is None else strip_accents)
    learner = _Learner(normalization, base.encodable(list(texts)), alphabet_limit)
    pieces = learner.pieces(vocab_size)
    if len(pieces) > vocab_size:
        raise InputError(
            f"vocab_size {vocab_size} is too small for an alphabet of {alphabet_limit} characters, which takes "
            f"{len(pieces)} entries; give vocab_size {len(pieces)} or a lower alphabet limit"
        )
    if len(pieces) < vocab_size:
        size = learner.working_size(len(pieces))
        raise InputError(
            f"vocab_size {vocab_size} does not fit: {len(learner.texts)} texts yield {len(pieces)} pieces; "
            "give more text" + (f" or vocab_size {size}" if size else "")
        )
    return WordPiece(pieces, normalization)


class _Learner:
    """The texts of a training, their characters, and the library's trainer."""

    def __init__(self, normalization: BertNormalization, texts: list[str], alphabet_limit: int | None):
        self.texts = texts
        self._normalizer = _normalizer(normalization)
        self._limit = alphabet_limit
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(self._normalizer.normalize_str(text))
        self._counts = Counter({c: n for c, n in counts.items() if not c.isspace()})
        if not self._counts:
            raise InputError("there is no text to learn a vocabulary from")
        self._ranked = sorted(self._counts, key=lambda c: (-self._counts[c], c))  # the commonest first
        splitter = pre_tokenizers.BertPreTokenizer()
        behind_a = {c: self._normalizer.normalize_str("a" + c) for c in self._ranked}
        self._ideographs = {c for c, text in behind_a.items() if " " in text}
        self._inside = {c for c, text in behind_a.items() if len(splitter.pre_tokenize_str(text)) == 1}

    def pieces(self, vocab_size: int) -> list[str]:
        """Returns a vocabulary, with fewer pieces than `vocab_size` if the text yields no more with all characters.

        If an alphabet limit is set and the alphabet does not fit, the result has only the alphabet, and is longer.
        """
        alphabet = self._ranked[: self._limit] if self._limit is not None else self._default_alphabet(vocab_size)
        pieces = self._learn(alphabet, vocab_size)
        while self._limit is None and len(pieces) < vocab_size:
            longer = self._with_more(alphabet, vocab_size - len(pieces), vocab_size)
            if len(longer) == len(alphabet):
                break
            alphabet = longer
            pieces = self._learn(alphabet, vocab_size)
        return pieces

    def working_size(self, size: int) -> int | None:
        """Returns a vocab_size of at most `size` that this text yields, or None."""
        while size >= base.MIN_VOCAB_SIZE:
            actual = len(self.pieces(size))
            if actual == size:
                return size
            size = min(actual, size - 1)
        return None

    def _entries(self, alphabet: Iterable[str]) -> int:
        return len(base.SPECIAL_NAMES) + sum(1 + (c in self._inside) for c in alphabet)

    def _default_alphabet(self, vocab_size: int) -> list[str]:
        limit = min(MAX_ALPHABET, vocab_size // 4)
        alphabet, rarer = self._ranked[:limit], self._ranked[limit:]
        entries, missing = self._entries(alphabet), sum(self._counts[c] for c in rarer)
        for c in rarer:
            if missing <= (1 - COVERAGE) * self._counts.total() or entries >= vocab_size // 2:
                break
            if c in self._ideographs:
                alphabet.append(c)
                entries, missing = entries + 1, missing - self._counts[c]
        return alphabet

    def _with_more(self, alphabet: list[str], room: int, vocab_size: int) -> list[str]:
        """Adds the commonest other characters: as many as fill `room` entries, if there are that many."""
        longer, present, entries = list(alphabet), set(alphabet), self._entries(alphabet)
        for c in self._ranked:
            cost = 1 + (c in self._inside)
            if c in present or entries + cost > vocab_size:
                continue
            if room <= 0:
                break
            longer.append(c)
            entries, room = entries + cost, room - cost
        return longer

    def _learn(self, alphabet: list[str], vocab_size: int) -> list[str]:
        # The trainer numbers pieces in the order of a hash table, and breaks ties between merges by number: by default
        # its result differs from run to run. With all starting pieces numbered in advance, nothing is random.
        library = tokenizers.Tokenizer(models.WordPiece({}, unk_token=base.SPECIAL_NAMES["unk"]))
        library.normalizer, library.pre_tokenizer = self._normalizer, pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[
                *base.SPECIAL_NAMES.values(),
                *(CONTINUING + character for character in sorted(self._inside.intersection(alphabet))),
            ],
            initial_alphabet=sorted(alphabet),
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=CONTINUING,
            show_progress=False,
        )
        library.train_from_iterator(self.texts, trainer)
        index = library.get_vocab(with_added_tokens=True)
        return sorted(index, key=index.__getitem__)
