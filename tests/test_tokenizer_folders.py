"""Folders of RoBERTa's, ModernBERT's, XLM-R's and CamemBERT's tokenizers, as transformers writes them."""

import json

import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, AutoTokenizer

from bert_jax import tokenizers
from bert_jax.data.encode import encode_documents
from bert_jax.errors import InputError
from bert_jax.tokenizers import base, library
from helpers.tokenization import assert_equal_to_transformers, corpus, fuzz, unigram

CONFIG, FILE = "tokenizer_config.json", "tokenizer.json"
LINES = [*corpus(60, seed=1), *fuzz(400, seed=2), "  two  spaces   and\n\na line", " after a space "]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a byte-level vocabulary."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizers.train("bytelevel", corpus(), 420).save(folder)
    return folder


@pytest.fixture(scope="module")
def unigram_model():
    return tokenizers.train("sentencepiece", corpus(), 220, lowercase=False)


def changed(path, **changes):
    """Changes fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def roberta(trained, folder, **options):
    vocab = json.loads((trained / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (trained / "merges.txt").read_text().splitlines()[1:]]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    theirs = transformers.RobertaTokenizer(vocab=vocab, merges=merges, mask_token=mask, **options)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_a_folder_of_roberta_gives_the_ids_of_its_class(tmp_path, trained, add_prefix_space):
    theirs = roberta(trained, tmp_path, add_prefix_space=add_prefix_space)
    ours = tokenizers.load(tmp_path)
    assert ours.kind == "bytelevel"
    assert_equal_to_transformers(ours, theirs, LINES)
    if add_prefix_space:
        changed(tmp_path / CONFIG, add_prefix_space=None)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert_equal_to_transformers(tokenizers.load(tmp_path), again, ["the cat", " the cat"])


def test_vocab_and_merges_alone_give_the_same_tokenizer(tmp_path, trained):
    whole = tokenizers.load(trained)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert tokenizers.load(tmp_path).fingerprint == whole.fingerprint
    (tmp_path / FILE).write_bytes((trained / FILE).read_bytes())
    assert tokenizers.load(tmp_path).fingerprint == whole.fingerprint
    content = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i + 1 for piece, i in content.items()}))
    with pytest.raises(InputError, match="hold different vocabularies"):
        tokenizers.load(tmp_path)


def test_older_files_without_the_type_of_the_model_are_read(tmp_path, trained):
    content = json.loads((trained / FILE).read_text())
    whole = tokenizers.load(trained)
    del content["model"]["type"]
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    (tmp_path / FILE).write_text(json.dumps(content))
    assert tokenizers.load(tmp_path).fingerprint == whole.fingerprint


def test_words_one_by_one_are_those_of_a_sentence(trained, tmp_path):
    theirs = roberta(trained, tmp_path, add_prefix_space=True)
    ours = tokenizers.load(trained)
    words = ["the", "cat,", "état", "日本", " spaced", "x"]
    (expected,) = theirs([words], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    parts = ours.encode_ids(tokenizers.in_line(ours, words))
    assert [int(i) for part in parts for i in part] == expected
    (running,) = ours.encode_ids([" " + " ".join(words[:4])])
    assert [int(i) for part in parts[:4] for i in part] == running.tolist()
    assert tokenizers.in_line(tokenizers.train("wordpiece", corpus(50), 100), words) == words


def test_the_sentences_of_a_document_have_the_tokens_of_its_text(trained):
    text = "The cat sat on a mat. The other cats were sitting near the window. Nobody believed them."
    ours = tokenizers.load(trained)
    chunk = encode_documents([text, text], ours)
    assert chunk.counts["sentences"] == 6
    assert chunk.arrays["tokens"].tolist() == 2 * ours.encode_ids([text])[0].tolist()


@pytest.mark.parametrize(
    "text", ["the <mask> sat", "<mask> cat, <mask>", "un<mask>able", "a \t<mask>. ", "<mask><mask>"]
)
def test_the_mask_takes_the_space_before_it(tmp_path, trained, text):
    theirs = roberta(trained, tmp_path)
    ours = tokenizers.load(trained)
    first, *rest = ours.encode_ids(tokenizers.split_at_mask(ours, text))
    ids = [*first, *(i for part in rest for i in (ours.mask_id, *part))]
    assert [int(i) for i in ids] == theirs(text, add_special_tokens=False)["input_ids"]


def modernbert(trained, folder):
    """A folder as ModernBERT's: tokens outside the vocabulary, some of which text is searched for."""
    content = json.loads((trained / FILE).read_text())
    vocab = [piece for piece in content["model"]["vocab"] if piece not in library.ROBERTA_NAMES.values()]
    content["model"]["vocab"] = {piece: i for i, piece in enumerate(vocab)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    read = {"normalized": True, "special": False}
    added = [("   ", read), ("  ", read), ("|||IP_ADDRESS|||", read), ("<|endoftext|>", {})]
    added += [(name, {"lstrip": name == "[MASK]"}) for name in base.SPECIAL_NAMES.values()] + [("[unused0]", read)]
    content["added_tokens"] = [
        {"id": len(vocab) + i, "content": name} | flags | changes for i, (name, changes) in enumerate(added)
    ]
    cls, sep = (len(vocab) + [name for name, _ in added].index(name) for name in ("[CLS]", "[SEP]"))
    template = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*template, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [*template, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "special_tokens": {
            name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", cls), ("[SEP]", sep))
        },
    }
    content["normalizer"] = {"type": "NFC"}
    folder.mkdir()
    (folder / FILE).write_text(json.dumps(content))
    names = {f"{role}_token": name for role, name in base.SPECIAL_NAMES.items()}
    (folder / CONFIG).write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    return folder


def test_tokens_outside_the_vocabulary_are_read_from_text_as_transformers_does(tmp_path, trained):
    folder = modernbert(trained, tmp_path / "modernbert")
    ours, theirs = tokenizers.load(folder), AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == ours.vocab_size
    assert (ours.mask_takes_space, ours.frame.between) == (True, (theirs.sep_token_id,))
    lines = [*LINES, "at |||IP_ADDRESS||| and    four", "e\u0301 and [unused0]"]
    for text, ids, encoding in zip(lines, ours.encode_ids(lines), ours.encode(lines), strict=True):
        assert ids.tolist() == encoding.ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"], ascii(text)
        # The template alone leaves the space before a word in the piece's span.
        for piece, (start, end) in zip(ours.pieces(ids), encoding.offsets, strict=True):
            assert not piece.startswith("Ġ") or piece.strip("Ġ") == "" or not text[start:end].startswith(" ")
    (ids,) = ours.encode_ids(["the [MASK] and <|endoftext|>"])
    assert not {ours.mask_id, ours.piece_id("<|endoftext|>")} & set(ids.tolist())
    ours.save(tmp_path / "saved")
    again = tokenizers.load(tmp_path / "saved")
    assert again.fingerprint == ours.fingerprint
    assert_equal_to_transformers(again, AutoTokenizer.from_pretrained(tmp_path / "saved"), lines)
    more = ours.with_pieces(["<<"])
    assert more.piece_id("<<") == ours.vocab_size
    assert more.encode_ids(["a << b"])[0].tolist() == ours.encode_ids(["a << b"])[0].tolist()


@pytest.mark.parametrize("family", ["XLMRoberta", "Camembert"])
def test_a_unigram_folder_gives_the_ids_of_its_class(tmp_path, unigram_model, family):
    theirs = unigram(unigram_model, family)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tokenizers.load(tmp_path / "theirs")
    assert ours.kind == "unigram"
    assert len(theirs) == ours.vocab_size
    for role in base.SPECIAL_ROLES:
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")
    assert_equal_to_transformers(ours, theirs, LINES)
    joined, _ = ours.frame.join(*ours.encode_ids(["the cat", "a mat"]))
    assert joined.tolist() == theirs("the cat", "a mat")["input_ids"]
    (ids,) = ours.encode_ids(["a <s> and </s><mask>"])
    assert not {ours.cls_id, ours.sep_id, ours.mask_id} & set(ids.tolist())
    assert ours.decode([ours.cls_id, *ours.encode_ids(["the cat"])[0], ours.mask_id]) == "<s> the cat <mask>"
    ours.save(tmp_path / "ours")
    assert tokenizers.load(tmp_path / "ours").fingerprint == ours.fingerprint
    assert_equal_to_transformers(ours, AutoTokenizer.from_pretrained(tmp_path / "ours"), LINES)
    more = ours.with_pieces(["<<"])
    assert more.encode_ids(["the << cat"])[0].tolist() == ours.encode_ids(["the << cat"])[0].tolist()


def gemma(folder):
    """A folder with the kind of BPE that mmBERT has, from Gemma 2, and with tokens that text is searched for."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    # Learnt from words, so that no merge joins two; the tokenizer itself reads whole lines.
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False, limit_alphabet=60)
    bpe.train_from_iterator(corpus(200), trainer)
    content = json.loads(bpe.to_str())
    vocab = content["model"]["vocab"] | {"\n\n": len(content["model"]["vocab"])}
    theirs = transformers.GemmaTokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in content["model"]["merges"]],
        cls_token="<bos>",
        sep_token="<eos>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )
    theirs.add_tokens([AddedToken("\n\n", normalized=False)])
    theirs.save_pretrained(folder)
    return theirs


def test_gemmas_bpe_gives_the_ids_of_its_class(tmp_path):
    theirs = gemma(tmp_path / "theirs")
    ours = tokenizers.load(tmp_path / "theirs")
    assert ours.kind == "bpe"
    assert (ours.vocab_size, ours.cls_id, ours.sep_id, ours.mask_id) == (len(theirs), 2, 1, 4)
    for text, fast, encoding in zip(LINES, ours.encode_ids(LINES), ours.encode(LINES), strict=True):
        expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert fast.tolist() == encoding.ids.tolist() == expected["input_ids"], ascii(text)
        for mine, (start, end) in zip(encoding.offsets.tolist(), expected["offset_mapping"], strict=True):
            inside = text[start:end]
            leading = len(inside) - len(inside.lstrip(" "))
            assert mine == [start + leading, end], ascii(text)
        assert ours.decode(fast) == text.strip() or "\x85" in text
    words = ours.encode_ids(tokenizers.in_line(ours, ["the", "cat"]))
    assert [int(i) for part in words for i in part] == ours.encode_ids([" the cat"])[0].tolist()
    assert ours.word_starts[words[0][0]]
    (ids,) = ours.encode_ids(["a <mask> and<eos>"])
    assert not {ours.mask_id, ours.sep_id} & set(ids.tolist())
    ours.save(tmp_path / "ours")
    assert tokenizers.load(tmp_path / "ours").fingerprint == ours.fingerprint
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(LINES, add_special_tokens=False)["input_ids"] == [ids.tolist() for ids in ours.encode_ids(LINES)]


BAD = {
    "another class": ("RobertaTokenizer", {CONFIG: {"tokenizer_class": "BartTokenizer"}}, "BartTokenizer"),
    "another splitter": ("RobertaTokenizer", {FILE: {"pre_tokenizer": {"type": "Whitespace"}}}, "'Whitespace'"),
    "a class of WordPiece": ("RobertaTokenizer", {CONFIG: {"tokenizer_class": "BertTokenizer"}}, "BertTokenizer"),
    "no bytes for unknown pieces": ("XLMRobertaTokenizer", {FILE: {}}, "byte_fallback"),
    "a token beyond the vocabulary": ("RobertaTokenizer", {FILE: {}}, "without a gap; '<new>' has 900"),
    "a token of another file": ("RobertaTokenizer", {CONFIG: {"additional_special_tokens": ["<new>"]}}, "<new>"),
    "no prefix": ("XLMRobertaTokenizer", {CONFIG: {"add_prefix_space": False}}, "add_prefix_space is False"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_supported_is_named(tmp_path, trained, unigram_model, name):
    kind, changes, message = BAD[name]
    if kind == "RobertaTokenizer":
        roberta(trained, tmp_path)
    else:
        unigram(unigram_model, "XLMRoberta").save_pretrained(tmp_path)
    for file, fields in changes.items():
        changed(tmp_path / file, **fields)
    content = json.loads((tmp_path / FILE).read_text())
    if "byte_fallback" in message:
        changed(tmp_path / FILE, model=content["model"] | {"byte_fallback": True})
    if "900" in message:
        changed(tmp_path / FILE, added_tokens=[*content["added_tokens"], {"id": 900, "content": "<new>"}])
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
