"""What a folder defines about its tokenizer is honoured, or an error names the class, the option or the token."""

import json

import pytest
import transformers

from bert_jax import tokenizers
from bert_jax.errors import InputError
from helpers.interop import small_tokenizer

TOKENIZER, CONFIG = "tokenizer_config.json", "config.json"


def folder_of(path, kind: str, written: dict[str, dict]):
    """A tokenizer's folder with the bare vocabulary and further JSON files."""
    small_tokenizer(kind).save(path)
    for name in ("tokenizer.json", TOKENIZER):
        (path / name).unlink()
    names = {} if kind == "wordpiece" else {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    for name, content in {TOKENIZER: {}, **written}.items():
        (path / name).write_text(json.dumps((names if name == TOKENIZER else {}) | content))
    return path


REFUSED = {
    "another splitter": ("wordpiece", TOKENIZER, {"tokenizer_class": "BertJapaneseTokenizer"}),
    "as in older folders": ("wordpiece", CONFIG, {"tokenizer_class": "BertJapaneseTokenizer"}),
    "byte pairs": ("wordpiece", TOKENIZER, {"tokenizer_class": "RobertaTokenizerFast"}),
    "tweets": ("wordpiece", TOKENIZER, {"tokenizer_class": "BertweetTokenizer"}),
    "pieces of another kind": ("wordpiece", TOKENIZER, {"tokenizer_class": "AlbertTokenizer"}),
    "words of another kind": ("sentencepiece", TOKENIZER, {"tokenizer_class": "BertTokenizer"}),
    "code of its own": ("wordpiece", TOKENIZER, {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}),
    "no splitter": ("wordpiece", TOKENIZER, {"do_basic_tokenize": False}),
    "whole words": ("wordpiece", TOKENIZER, {"never_split": ["[MASK]", "red"]}),
    "a word splitter": ("wordpiece", TOKENIZER, {"word_tokenizer_type": "mecab"}),
    "characters": ("wordpiece", TOKENIZER, {"subword_tokenizer_type": "character"}),
    "control characters": ("wordpiece", TOKENIZER, {"clean_text": False}),
    "text for a truth value": ("wordpiece", TOKENIZER, {"do_lower_case": "false"}),
    "white space": ("sentencepiece", TOKENIZER, {"remove_space": False}),
    "samples": ("sentencepiece", TOKENIZER, {"sp_model_kwargs": {"enable_sampling": True}}),
    "a token of its own": ("wordpiece", TOKENIZER, {"additional_special_tokens": ["red"]}),
    "a numbered token": ("wordpiece", TOKENIZER, {"added_tokens_decoder": {"7": {"content": "red"}}}),
    "a token in an older file": ("wordpiece", "special_tokens_map.json", {"additional_special_tokens": ["red"]}),
    "a token in a file": ("sentencepiece", "added_tokens.json", {"red": 61}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_named(tmp_path, name):
    kind, file, content = REFUSED[name]
    with pytest.raises(InputError) as caught:
        tokenizers.load(folder_of(tmp_path / "folder", kind, {file: content}))
    option, value = next(iter(content.items()))
    word = "red" if "red" in json.dumps(content) else value if option == "tokenizer_class" else option
    assert file in str(caught.value)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"tokenizer_class": "BertTokenizer", "do_basic_tokenize": True, "never_split": None, "model_max_length": 40},
        {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False, "strip_accents": None},
        {"do_lower_case": True, "strip_accents": False, "additional_special_tokens": [], "clean_text": True},
        {"tokenize_chinese_chars": False, "added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}}},
    ],
)
def test_supported_options_give_the_ids_of_transformers(tmp_path, options):
    folder = folder_of(tmp_path / "folder", "wordpiece", {TOKENIZER: options})
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    texts = ["The cat, and thé dog", "北京 red", "ran-to THE house"]
    for text, ids in zip(texts, tokenizers.load(folder).encode_ids(texts), strict=True):
        assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_default_of_transformers_that_tokenizer_json_does_not_have_is_mentioned(tmp_path):
    tokenizers.train(
        "wordpiece", ["The cat sat on the Mat, and the dog ran to THE red house on a hill"] * 3, 61, lowercase=False
    ).save(tmp_path)
    assert tokenizers.load(tmp_path).notes == ()
    (tmp_path / "vocab.txt").unlink()
    for name in ("BertTokenizer", "PreTrainedTokenizerFast"):
        (tmp_path / TOKENIZER).write_text(json.dumps({"tokenizer_class": name, "unk_token": "[UNK]"}))
        ours, theirs = tokenizers.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
        same = ours.encode_ids(["THE Mat"])[0].tolist() == theirs("THE Mat", add_special_tokens=False)["input_ids"]
        assert same == (ours.notes == ())
        assert not ours.lowercase
        assert all("lowercase False in place of True" in note for note in ours.notes)
