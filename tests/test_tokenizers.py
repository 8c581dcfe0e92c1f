"""Tokenizers: the ids and offsets of transformers, determinism, fingerprints, extension, clear errors."""

import json
import math
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer

from bert_jax import tokenizers
from bert_jax.errors import InputError
from bert_jax.tokenizers import base, bytelevel, sentencepiece, wordpiece
from helpers.tokenization import assert_equal_to_transformers, corpus, fuzz

# Arguments of `tokenizers.train`.
KINDS: dict[str, dict] = {
    "wordpiece": {"kind": "wordpiece", "lowercase": True},
    "wordpiece-cased": {"kind": "wordpiece", "lowercase": False},
    "unigram": {"kind": "sentencepiece", "lowercase": True, "model_type": "unigram"},
    "unigram-cased": {"kind": "sentencepiece", "lowercase": False, "model_type": "unigram"},
    "bpe": {"kind": "sentencepiece", "lowercase": True, "model_type": "bpe"},
    "bytelevel": {"kind": "bytelevel", "lowercase": False, "vocab_size": 420},
    "bytelevel-prefixed": {"kind": "bytelevel", "lowercase": False, "vocab_size": 420, "add_prefix_space": True},
}
KINDS = {name: {"vocab_size": 220} | arguments for name, arguments in KINDS.items()}


@pytest.fixture(scope="module")
def all_kinds() -> dict[str, base.Tokenizer]:
    return {name: tokenizers.train(texts=corpus(), **arguments) for name, arguments in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_offsets_equal_transformers(tmp_path, all_kinds, kind):
    ours = all_kinds[kind]
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == ours.vocab_size
    for role in base.SPECIAL_ROLES:
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")
    lines = corpus(300, seed=1) + fuzz(1500, seed=2)
    assert assert_equal_to_transformers(ours, theirs, lines).total() < len(lines) / 2


def test_between_the_same_pieces_in_two_orders_the_choice_is_that_of_transformers(tmp_path, all_kinds):
    """With scores as SentencePiece's trainer leaves them, roundings decide."""
    model = type(all_kinds["unigram"]._model)()
    model.CopyFrom(all_kinds["unigram"]._model)
    del model.pieces[5:]
    for number, piece in enumerate(("▁", "a", "aa", "aaaa", "b", "ab", "bb", "▁a", "▁bb")):
        model.pieces.add(piece=piece, score=-math.sqrt(2 + number), type=sentencepiece.NORMAL)
    ours = sentencepiece.SentencePiece(model, True, False, base.SPECIAL_NAMES, "test")
    ours.save(tmp_path)
    assert [piece.score for piece in tokenizers.load(tmp_path)._model.pieces] == [p.score for p in model.pieces]
    rng = random.Random(0)
    lines = ["".join(rng.choices("aaab ", k=100)) for _ in range(200)]
    assert not assert_equal_to_transformers(ours, AutoTokenizer.from_pretrained(tmp_path), lines).total()


def test_transformers_builds_pairs_as_the_model_expects(tmp_path, all_kinds):
    for kind, ours in all_kinds.items():
        ours.save(tmp_path / kind)
        theirs = AutoTokenizer.from_pretrained(tmp_path / kind)
        a, b = ours.encode_ids(["the cat", "a mat"])
        pair = theirs("the cat", "a mat")
        if ours.kind == "bytelevel":
            assert pair["input_ids"] == [0, *a.tolist(), 2, 2, *b.tolist(), 2]
            assert "token_type_ids" not in pair
        else:
            assert pair["input_ids"] == [2, *a.tolist(), 3, *b.tolist(), 3]
            assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_spiece_model_of_albert_gives_the_ids_of_albert_tokenizer(tmp_path, all_kinds):
    ours = all_kinds["unigram"]
    ours.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    names = {f"{role}_token": name for role, name in base.SPECIAL_NAMES.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer", **names}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "AlbertTokenizer"
    loaded = tokenizers.load(tmp_path)
    assert loaded.fingerprint == ours.fingerprint
    # Its normaliser splits Hangul syllables into letters and does not join them again; no vocabulary has those letters.
    lines = [line for line in fuzz(1500, seed=3) if not any("가" <= c <= "힣" for c in line)]
    assert_equal_to_transformers(loaded, theirs, lines)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keeps_fingerprint_and_ids(tmp_path, all_kinds, kind):
    ours = all_kinds[kind]
    ours.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.fingerprint == ours.fingerprint
    assert again.kind == ours.kind
    lines = fuzz(200, seed=5)
    for a, b in zip(ours.encode_ids(lines), again.encode_ids(lines), strict=True):
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_added_pieces_come_last_and_change_no_text(tmp_path, all_kinds, kind):
    old = all_kinds[kind]
    new = old.with_pieces(["<<", "GENE"])
    assert new.vocab_size == old.vocab_size + 2
    assert new.piece_id("<<") == old.vocab_size
    assert new.pieces(range(old.vocab_size)) == old.pieces(range(old.vocab_size))
    assert new.special_ids == old.special_ids
    lines = fuzz(200, seed=6)
    for a, b in zip(old.encode_ids(lines), new.encode_ids(lines), strict=True):
        assert a.tolist() == b.tolist()
    if old.kind != "wordpiece":
        spelt = ["the << cat GENE"]
        assert new.encode_ids(spelt)[0].tolist() == old.encode_ids(spelt)[0].tolist()
    new.save(tmp_path)
    assert tokenizers.load(tmp_path).fingerprint == new.fingerprint != old.fingerprint
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert_equal_to_transformers(new, theirs, lines)
    with pytest.raises(InputError, match="'<<' is in the vocabulary twice"):
        new.with_pieces(["<<"])


def test_fingerprint_changes_with_everything_that_decides_ids(all_kinds):
    marks = {tokenizer.fingerprint for tokenizer in all_kinds.values()}
    pieces = list(all_kinds["wordpiece"].vocabulary)
    marks |= {
        wordpiece.WordPiece(pieces, wordpiece.BertNormalization(lowercase=True, strip_accents=False)).fingerprint,
        wordpiece.WordPiece(pieces, wordpiece.BertNormalization(split_chinese=False)).fingerprint,
        wordpiece.WordPiece([*pieces[:-2], pieces[-1], pieces[-2]]).fingerprint,
    }
    assert len(marks) == len(KINDS) + 3


def test_unigram_tokenizer_json_alone_gives_the_same_tokenizer(tmp_path, all_kinds):
    ours = all_kinds["unigram"]
    ours.save(tmp_path)
    (tmp_path / "spiece.model").unlink()
    again = tokenizers.load(tmp_path)
    assert again.fingerprint == ours.fingerprint


def test_training_does_not_differ_from_process_to_process(all_kinds):
    code = (
        "import json, sys; from bert_jax import tokenizers; texts, kinds = json.load(sys.stdin)\n"
        "print(*[tokenizers.train(texts=texts, **kind).fingerprint for kind in kinds])"
    )
    arguments = json.dumps([corpus(), list(KINDS.values())])
    done = subprocess.run([sys.executable, "-c", code], input=arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [tokenizer.fingerprint for tokenizer in all_kinds.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_are_not_read_from_text(all_kinds, kind):
    tokenizer = all_kinds[kind]
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    special = list(bytelevel.SPECIAL if tokenizer.kind == "bytelevel" else base.SPECIAL_NAMES.values())
    assert tokenizer.pieces(range(5)) == special
    names = tokenizer.names
    (ids,) = tokenizer.encode_ids([f"the {names['mask']} cat {names['sep']} sat{names['cls']} {names['pad']}"])
    assert not set(ids.tolist()) & ({*range(5)} - {tokenizer.unk_id})
    sequence = [tokenizer.cls_id, *tokenizer.encode_ids(["the cat"])[0], tokenizer.mask_id, tokenizer.sep_id]
    shown = tokenizer.decode([*sequence, tokenizer.pad_id, tokenizer.pad_id]).split()
    assert shown == [names["cls"], "the", "cat", names["mask"], names["sep"]]


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_cut_the_pieces_out_of_the_text(all_kinds, kind):
    tokenizer = all_kinds[kind]
    for text in corpus(50, seed=6):
        encoding = tokenizer.encode([text])[0]
        assert encoding.ids.dtype == encoding.offsets.dtype == np.int32
        for piece, (start, end) in zip(tokenizer.pieces(encoding.ids), encoding.offsets, strict=True):
            if piece in ("[UNK]", "▁"):  # these do not contain the text they were made from
                continue
            if tokenizer.kind == "bytelevel":
                piece = bytelevel.to_bytes(piece).decode(errors="replace").strip()
                if "\ufffd" in piece:  # a part of a character
                    continue
            part, piece = text[start:end], piece.removeprefix("##").removeprefix("▁")
            if KINDS[kind]["lowercase"]:
                letters = (c for c in unicodedata.normalize("NFKD", part) if not unicodedata.combining(c))
                part, piece = "".join(letters).lower(), unicodedata.normalize("NFKD", piece)
            assert part == piece
    assert tokenizer.encode([""])[0].offsets.shape == (0, 2)
    assert tokenizer.encode([]) == tokenizer.encode_ids([]) == []


def test_word_starts_mark_one_piece_of_each_word(all_kinds):
    for tokenizer in all_kinds.values():
        for word in ("sitting", "unbelievably", "window"):
            (ids,) = tokenizer.encode_ids(tokenizers.in_line(tokenizer, [word]))
            assert len(ids) > 1
            assert tokenizer.word_starts[ids].tolist() == [True] + [False] * (len(ids) - 1)
        assert not tokenizer.word_starts[[i for i in range(5) if i != tokenizer.unk_id]].any()


def test_half_a_surrogate_pair_is_encoded(all_kinds):
    for tokenizer in all_kinds.values():
        assert len(tokenizer.encode_ids(["the \ud800 cat"])[0]) == len(tokenizer.encode(["the \ud800 cat"])[0].ids) > 1


def test_albert_never_ends_a_piece_in_a_digit_and_a_comma(tmp_path, all_kinds):
    """ALBERT splits "1,000," in its output; here the model is changed, once, so that the piece never occurs."""
    model = type(all_kinds["unigram"]._model)()
    model.CopyFrom(all_kinds["unigram"]._model)
    piece = model.pieces[-1]
    assert not piece.piece.endswith(",")
    piece.piece, piece.score = "▁10,", -1.0
    tokenizer = sentencepiece.SentencePiece(model, True, False, base.SPECIAL_NAMES, "test")
    pieces = tokenizer.pieces(tokenizer.encode_ids(["the 10, cats"])[0])
    assert "".join(pieces) == "▁the▁10,▁cats"
    assert "▁10," not in pieces
    tokenizer.save(tmp_path)
    assert tokenizers.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_a_cased_vocabulary_without_a_setting_for_case_is_not_lowercased(tmp_path, all_kinds):
    for kind in ("wordpiece", "wordpiece-cased"):
        folder = tmp_path / kind
        all_kinds[kind].save(folder)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        assert tokenizers.load(folder).fingerprint == all_kinds[kind].fingerprint


def test_extension_shortens_words_and_leaves_the_old_ids_alone(all_kinds):
    old = all_kinds["wordpiece"]
    texts = ["immunoglobulin binding of lymphocytes", "lymphocytes and immunoglobulin", "the cat"] * 5
    new, extension = tokenizers.extend(old, texts, 6)
    assert new.vocabulary[: old.vocab_size] == old.vocabulary
    assert new.vocabulary[old.vocab_size :] == extension.pieces
    assert len(extension.pieces) == 6
    assert extension.words == 45
    assert extension.tokens_per_word_after < extension.tokens_per_word_before
    (whole,) = new.encode_ids(["immunoglobulin"])
    assert new.pieces(whole) == ["immunoglobulin"]
    for piece, made_of in zip(extension.pieces, extension.made_of, strict=True):
        joined = "".join(part.removeprefix("##") for part in old.pieces(made_of))
        assert joined == piece.removeprefix("##")
    assert old.encode_ids(["mats sat"])[0].tolist() == new.encode_ids(["mats sat"])[0].tolist()
    with pytest.raises(InputError, match=r"yields .* new pieces"):
        tokenizers.extend(old, texts, 500)
    with pytest.raises(InputError, match="WordPiece"):
        tokenizers.extend(all_kinds["bpe"], texts, 5)


BAD = {
    "no folder": (None, "no such folder"),
    "empty folder": (lambda folder: None, "no vocab.txt"),
    "no mask": (lambda f: (f / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"), r"mask token '\[MASK\]'"),
    "binary": (lambda f: (f / "vocab.txt").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "config": (lambda f: (f / "vocab.txt").write_text("a") and (f / "tokenizer_config.json").write_text("{"), "line 1"),
    "model": (lambda f: (f / "spiece.model").write_bytes(b"\x0a\xff\xff nonsense"), "not a SentencePiece model"),
    "no model": (lambda f: (f / "spiece.model").write_bytes(b""), "no pieces"),
    "json": (lambda f: (f / "tokenizer.json").write_text("[1]"), "expected a JSON object"),
    "other kind": (lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "BPE"}}'), "model.type is 'BPE'"),
    "no merges": (lambda f: (f / "vocab.json").write_text('{"<s>": 0}'), "neither merges.txt nor tokenizer.json"),
    "a gap": (
        lambda f: (f / "vocab.json").write_text('{"<s>": 1}') and (f / "merges.txt").write_text("a b\n"),
        "ids 0, 1, 2",
    ),
    "a merge of unknown pieces": (
        lambda f: (
            (f / "vocab.json").write_text('{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}')
            and (f / "merges.txt").write_text("a b\n")
        ),
        "does not take this tokenizer",
    ),
    "a merge of three": (
        lambda f: (f / "vocab.json").write_text('{"<s>": 0}') and (f / "merges.txt").write_text("a b c\n"),
        "'a b c' in the merges is not two pieces",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, name):
    make, message = BAD[name]
    folder = tmp_path / "tokenizer"
    if make is not None:
        folder.mkdir()
        make(folder)
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.load(folder)
    assert str(folder) in str(caught.value)


def test_cut_off_model_is_an_error(tmp_path, all_kinds):
    all_kinds["unigram"].save(tmp_path)
    whole = (tmp_path / "spiece.model").read_bytes()
    (tmp_path / "spiece.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"spiece\.model"):
        tokenizers.load(tmp_path)


def test_two_vocabularies_that_disagree_are_an_error(tmp_path, all_kinds):
    all_kinds["wordpiece"].save(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*lines[:-1], "other"]))
    with pytest.raises(InputError, match="different vocabularies"):
        tokenizers.load(tmp_path)


def test_tokens_added_to_the_vocabulary_of_a_file_are_an_error(tmp_path, all_kinds):
    all_kinds["wordpiece"].save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": 220, "content": "<new>", "special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"1 tokens were added .*<new>"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "bytelevel"])
def test_too_little_text_is_an_error_with_the_largest_vocab_size(kind):
    with pytest.raises(InputError, match="vocab_size 5000"):
        tokenizers.train(kind, ["a few words only"], 5000)
    with pytest.raises(InputError, match="no text"):
        tokenizers.train(kind, ["", " \n"], 100)
    with pytest.raises(InputError, match="too small"):
        tokenizers.train(kind, corpus(10), 7)
