"""Vocabularies learnt from texts of every script: sizes, alphabets, accents, and what is said about them."""

import random
import re

import pytest
from transformers import AutoTokenizer

from bert_jax import cli, tokenizers
from bert_jax.errors import InputError
from bert_jax.tokenizers import wordpiece

IDEOGRAPHS = "".join(chr(0x5000 + i) for i in range(400))


def drawn(words, count=60, joined_by=" "):
    """Lines of words from a text, or of its characters if `joined_by` is empty; the first ones are the commonest."""
    words = words.split() if joined_by else words
    rng = random.Random(len(words))
    weights = [1 / (i + 5) for i in range(len(words))]
    return [joined_by.join(rng.choices(words, weights, k=12)) for _ in range(count)]


TEXTS = {
    "English": drawn("seven tailors sewed seventy sails while their sisters sold salted seeds"),
    "Chinese": drawn(IDEOGRAPHS, 300, ""),
    "mixed": drawn(IDEOGRAPHS[:90], 80, "") + drawn("a sailor sells 12 shells", 80),
    "Tamil": drawn("நான் நேற்று புதிய வீட்டில் தங்கினேன்"),
    "one line": ["seven sails and zebras quickly jump over big foxes with 0123456789"],
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "wordpiece"},
        {"kind": "wordpiece", "alphabet_limit": 40},
        {"kind": "sentencepiece"},
        {"kind": "bytelevel"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_a_vocab_size_named_in_an_error_works(name, options):
    for wrong in (32, 9000):
        message = ""
        try:
            tokenizers.train(texts=TEXTS[name], vocab_size=wrong, **options)
        except InputError as error:
            message = str(error)
        if size := re.search(r"(?:or|give) vocab_size (\d+)", message):
            trained = tokenizers.train(texts=TEXTS[name], vocab_size=int(size[1]), **options)
            assert trained.vocab_size == int(size[1])
        else:
            assert message.endswith("give more text") or (wrong == 32 and not message)


def test_an_ideograph_is_one_entry_and_every_one_has_one_if_there_is_room():
    with pytest.raises(InputError) as error:
        tokenizers.train("wordpiece", TEXTS["Chinese"], 30522)
    trained = tokenizers.train("wordpiece", TEXTS["Chinese"], int(str(error.value).split()[-1]))
    assert set("".join(TEXTS["Chinese"])) <= set(trained.vocabulary)
    assert not [piece for piece in trained.vocabulary if piece.startswith("##")]
    lines, warnings = tokenizers.describe_training(trained, TEXTS["Chinese"])
    assert "unknown in this text: 0.00% of the characters, 0.00% of the tokens" in lines
    assert not warnings


def test_among_latin_words_ideographs_get_the_entries_that_their_text_needs():
    words = " ".join(a + b + c for a in "bdfgklm" for b in "aeiou" for c in "nprst")
    texts = drawn(IDEOGRAPHS, 300, "") + drawn(words, 300)
    trained = tokenizers.train("wordpiece", texts, 600)  # a quarter are 150 characters
    assert trained.vocab_size == 600
    assert len(set(IDEOGRAPHS) & set(trained.vocabulary)) > 250
    limited = tokenizers.train("wordpiece", texts, 250, alphabet_limit=50)
    assert len([piece for piece in limited.vocabulary if len(piece.removeprefix("##")) == 1]) <= 100
    _, (warning,) = tokenizers.describe_training(limited, texts)
    assert re.search(r"\d\d\.\d% of the characters .* are unknown, such as .*alphabet limit", warning)


def test_an_alphabet_limit_that_does_not_fit_is_an_error():
    with pytest.raises(InputError, match=r"too small for an alphabet of 300 characters.*give vocab_size 305"):
        tokenizers.train("wordpiece", TEXTS["Chinese"], 200, alphabet_limit=300)
    with pytest.raises(InputError, match="at least 1"):
        tokenizers.train("wordpiece", TEXTS["English"], 60, alphabet_limit=0)
    for kind in ("sentencepiece", "bytelevel"):
        with pytest.raises(InputError, match="for kind 'wordpiece'"):
            tokenizers.train(kind, TEXTS["English"], 60, alphabet_limit=30)


def test_byte_level_bpe_leaves_no_character_out(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("\n\n".join(TEXTS["mixed"]), encoding="utf-8")
    train = ["tokenizer", "--corpus", str(tmp_path / "t.txt"), "--out", str(tmp_path / "a"), "--kind", "bytelevel"]
    assert cli.run([*train, "--vocab-size", "270"]) == 0
    out, err = capsys.readouterr()
    assert "text is not lowercased, accents are kept" in out
    assert "unknown in this text: 0.00% of the characters, 0.00% of the tokens" in out
    assert not err
    loaded = tokenizers.load(tmp_path / "a")
    for texts in TEXTS.values():
        for text, ids in zip(texts, loaded.encode_ids(texts), strict=True):
            assert loaded.decode(ids) == text
    with pytest.raises(InputError, match="256 bytes; give vocab_size 261 or more"):
        cli.run([*train, "--vocab-size", "200"])
    with pytest.raises(InputError, match="for kind 'bytelevel'"):
        tokenizers.train("wordpiece", TEXTS["English"], 60, add_prefix_space=True)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
@pytest.mark.parametrize("script", ["வீட்டில்", "ภาษาที่ดี", "हिंदी", "ごはんがだいすき"])
def test_vowel_signs_that_are_letters_come_back(tmp_path, kind, script):
    texts = [f"{script} {i} sails and seven ships sink" for i in range(100)]
    trained = tokenizers.train(kind, texts, 36 if kind == "sentencepiece" else 75)
    trained.save(tmp_path)
    for tokenizer in (trained, tokenizers.load(tmp_path)):
        assert tokenizer.lowercase
        assert not tokenizer.strip_accents
        assert tokenizer.decode(tokenizer.encode_ids([script])[0]).replace(" ", "") == script
    stripped = tokenizers.train(kind, texts, 35, strip_accents=True)
    _, warnings = tokenizers.describe_training(stripped, texts)
    assert any("vowel sign" in warning for warning in warnings)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_case_and_accents_are_set_apart(kind):
    texts = drawn("Kü Kü Kü Küche Kuchen Bär Bar Öl Ole Fuß Ähre ähnlich ohne Übung Udo xyz vwq jtp")
    marks = set()
    for lowercase in (True, False):
        for strip_accents in (None, True, False):
            trained = tokenizers.train(kind, texts, 40, lowercase=lowercase, strip_accents=strip_accents)
            expected = lowercase if strip_accents is None else strip_accents
            assert (trained.lowercase, trained.strip_accents) == (lowercase, expected)
            marks.add(trained.fingerprint)
            alphabet = set("".join(trained.vocabulary[5:]))
            assert ("ü" in alphabet) != expected
            assert ("K" in alphabet) != lowercase
    assert len(marks) == 4


def test_english_has_the_vocabulary_that_it_always_had():
    trained = tokenizers.train("wordpiece", TEXTS["English"], 60)
    assert trained.fingerprint == "65643d6c092c1ca4d9ac968deb571363cdf0b628348e913e0e3c638822025f57"
    assert len(set(trained.vocabulary)) == 60


def test_the_command_prints_what_happens_to_accents_and_rare_characters(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("\n\n".join(TEXTS["mixed"]), encoding="utf-8")
    train = ["tokenizer", "--corpus", str(tmp_path / "t.txt"), "--vocab-size", "47", "--strip-accents", "False"]
    assert cli.run([*train, "--out", str(tmp_path / "a"), "--alphabet-limit", "20"]) == 0
    out, err = capsys.readouterr()
    assert "text is lowercased, accents are kept" in out
    assert re.search(r"unknown in this text: [\d.]+% of the characters, [\d.]+% of the tokens", out)
    assert re.search(r"^warning: .* are unknown, such as ", err)
    assert isinstance(tokenizers.load(tmp_path / "a"), wordpiece.WordPiece)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# What a vocab.txt without any setting contains, and whether text is then lowercased and accents are removed.
BARE = {
    "words in capitals are read": ("Tree tree ##s", False, False),
    "special tokens in brackets of any kind are not words": (
        "<S> <T> {NUM} (X) «Y» 【Z】 __LABEL__ |A| pear 梨",
        True,
        True,
    ),
    "no entry has case": ("梨 樹 1", True, True),
    "a few words among many": (
        "COVID " + " ".join(a + b + c for a in "bcdfg" for b in "aeiou" for c in "lmnprst"),
        True,
        True,
    ),
    "accents of words are kept": ("fur für tur tür", True, False),
    "voicing marks are kept": ("か が は ぱ", True, False),
    "accents of special tokens decide nothing": ("<É> fur tur", True, True),
}


@pytest.mark.parametrize("name", BARE)
def test_words_decide_case_and_accents_of_a_bare_vocabulary(tmp_path, name):
    entries, lowercase, strip_accents = BARE[name]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *entries.split()]) + "\n", encoding="utf-8")
    loaded = tokenizers.load(tmp_path)
    assert (loaded.lowercase, loaded.strip_accents) == (lowercase, strip_accents)
    (note,) = loaded.notes
    assert note.startswith(f"{tmp_path / 'vocab.txt'}: ")
    assert f"text is {'' if lowercase else 'not '}lowercased" in note
    assert f"accents are {'removed' if strip_accents else 'kept'}" in note
    reachable = [i for i, entry in enumerate(loaded.vocabulary) if i > 4 and entry.isalnum() and entry != "COVID"]
    assert [loaded.piece_id(loaded.pieces(ids)[0]) for ids in loaded.encode_ids(loaded.pieces(reachable))] == reachable
    loaded.save(tmp_path / "saved")
    assert tokenizers.load(tmp_path / "saved").fingerprint == loaded.fingerprint
    assert not tokenizers.load(tmp_path / "saved").notes
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    stated = tokenizers.load(tmp_path)
    assert (stated.lowercase, stated.strip_accents, stated.notes) == (True, True, ())


ODD = {
    "a token twice": ("x £ y £ z", "1 entries are repeated.*'£' is in lines 7 and 9"),
    "a token three times": ("##q q £ ##q £ ##q z", "3 entries are repeated.*'##q' is in lines 6 and 9"),
    "an empty line": ("x  £ y z", "1 lines are empty.*the first are 7"),
    "a special token twice": ("x [UNK] £ y z", r"1 entries are repeated.*'\[UNK\]' is in lines 2 and 7"),
}


@pytest.mark.parametrize("name", ODD)
def test_ids_are_lines_and_the_last_of_two_equal_ones_wins_as_in_transformers(tmp_path, name):
    entries, message = ODD[name]
    folder = tmp_path / "given"
    folder.mkdir()
    lines = [*SPECIAL, *entries.split(" ")]
    (folder / "vocab.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    with pytest.warns(UserWarning, match=message):
        loaded = tokenizers.load(folder)
    texts = ["x £ y z", "qq q £z?"]
    expected = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False)["input_ids"]
    assert [ids.tolist() for ids in loaded.encode_ids(texts)] == expected
    assert loaded.piece_id("z") == len(lines) - 1
    assert loaded.vocab_size == len(lines)
    loaded.save(tmp_path / "saved")
    with pytest.warns(UserWarning, match=message):
        again = tokenizers.load(tmp_path / "saved")
    assert again.fingerprint == loaded.fingerprint
    (tmp_path / "saved/vocab.txt").unlink()
    for tokenizer in (again, tokenizers.load(tmp_path / "saved"), loaded.with_pieces(["w"])):
        assert [ids.tolist() for ids in tokenizer.encode_ids(texts)] == expected


def test_a_byte_order_mark_is_not_part_of_the_first_token(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "pear"]), encoding="utf-8-sig")
    with pytest.warns(UserWarning, match="line 1 begins with a byte order mark"):
        loaded = tokenizers.load(tmp_path)
    assert loaded.vocabulary == (*SPECIAL, "pear")
