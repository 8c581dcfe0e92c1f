"""Hugging Face folders with random options, and whether bert_jax and transformers give the same answers for them."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import bert_jax
from bert_jax import tokenizers
from bert_jax.errors import InputError
from helpers.corpora import texts
from helpers.interop import torch_model

CLOSE = 1e-4
LENGTH = 96  # positions of each model; questions of 64 tokens fit
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
LINES = [
    "Red cats, and a BLUE Bird!",
    "Thé dog runs 北京 now",
    "gold",
    "old fish sings here [MASK] there" + " red dog" * 30,
]
NAMES = ["sad", "glad", "B-LOC", "I-LOC", "O"]


@dataclass
class Folder:
    """A folder, and which of its options an error may name."""

    path: Path
    family: str
    head: str
    options: dict[str, Any]


def make(path: Path, seed: int) -> Folder:
    """Makes a folder of a tiny random model with options drawn with `seed`."""
    draw = random.Random(seed)
    family, head = draw.choice(["bert", "bert", "albert"]), draw.choice(HEADS)
    config = {
        "hidden_act": draw.choice(["gelu", "gelu_new", "relu", "gelu_pytorch_tanh", "gelu", "silu"]),
        "layer_norm_eps": draw.choice([1e-12, 1e-5, 1e-3]),
        "type_vocab_size": draw.choice([2, 2, 2, 1, 3]),
        "num_hidden_layers": draw.choice([1, 2]),
        "num_attention_heads": draw.choice([2, 4]),
        "max_position_embeddings": LENGTH,
    }
    if family == "albert":
        config |= {"embedding_size": draw.choice([10, 24]), "num_hidden_groups": draw.choice([1, 1, 2])}
        config["num_hidden_layers"] = 2
    labels = draw.choice([1, 2, 3, 5])
    if head in ("ForSequenceClassification", "ForTokenClassification"):
        config |= {"num_labels": labels} | _named(draw, labels)
    if head == "ForSequenceClassification":
        kinds = ["multi_label_classification", "regression"] + ["single_label_classification"] * (labels > 1)
        config["problem_type"] = draw.choice([None, *kinds])
    tokenizer = _tokenizer(path, family, draw)
    config["vocab_size"] = tokenizer.vocab_size + draw.choice([0, 0, 0, 3])
    _save(torch_model(family, head, seed=seed, **config), path)
    written = json.loads((path / "config.json").read_text())
    for name in draw.choice([(), (), ("id2label", "label2id"), ("problem_type",)]):
        written.pop(name, None)
    written |= draw.choice([{}, {}, {}, {"num_labels": labels}, {"id2label": {"0": "a", "1": "b"}}])
    (path / "config.json").write_text(json.dumps(written))
    options = {"config": config | written, "tokenizer": json.loads((path / "tokenizer_config.json").read_text())}
    return Folder(path, family, head, options)


def _named(draw: random.Random, labels: int) -> dict[str, Any]:
    names = NAMES[:labels]
    named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return draw.choice([{}, named])


def _save(model: torch.nn.Module, path: Path) -> None:
    model.save_pretrained(path)


def _tokenizer(path: Path, family: str, draw: random.Random) -> tokenizers.Tokenizer:
    """Saves a tokenizer with random options, sometimes without tokenizer.json."""
    kind = "wordpiece" if family == "bert" else "sentencepiece"
    made_up = ["".join(draw.choices("abcdefghijklmno", k=draw.randint(2, 7))) for _ in range(300)]
    lines = [*texts(200), " ".join(made_up), "Thé, thé dog 北京 " * 20]
    trained = tokenizers.train(kind, lines, 100, lowercase=draw.random() < 0.7)
    trained.save(path)
    options: dict[str, Any] = {"tokenizer_class": draw.choice(["BertTokenizer", "BertTokenizerFast"])}
    if family == "albert":
        options = {"tokenizer_class": "AlbertTokenizer", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    choices = {
        "do_lower_case": [True, False],
        "strip_accents": [True, False, None],
        "tokenize_chinese_chars": [True, False],
        "do_basic_tokenize": [True, True, False],
        "never_split": [None, ["red"]],
        "keep_accents": [True, False],
        "remove_space": [True, True, False],
        "additional_special_tokens": [[], ["cat"]],
        "added_tokens_decoder": [{}, {str(trained.piece_id("cat") or 99): {"content": "cat"}}],
        "clean_up_tokenization_spaces": [True, False],
    }
    theirs = ("do_lower_case", "keep_accents", "remove_space") if family == "albert" else tuple(choices)[:5]
    for name in (*theirs, *tuple(choices)[-3:]):
        if draw.random() < (
            0.12 if name in ("never_split", "additional_special_tokens", "added_tokens_decoder") else 0.5
        ):
            options[name] = draw.choice(choices[name])
    if draw.random() < 0.5:
        options["model_max_length"] = draw.choice([12, 30, LENGTH, 1000])
    (path / "tokenizer_config.json").write_text(json.dumps(options))
    if family == "albert" or draw.random() < 0.5:
        (path / "tokenizer.json").unlink()
    return trained


def compare(folder: Folder) -> str:
    """Returns "equal", or the error with which bert_jax refused the folder or a use of it.

    Raises:
      AssertionError: an answer differs from that of transformers, or the error names none of the folder's options.
    """
    refused = []
    try:
        ours = bert_jax.load(folder.path)
    except InputError as error:
        return _named_in(folder, error)
    if ours.tokenizer.notes:
        return "case and accents were decided by the words, and this is printed"
    theirs = transformers.AutoTokenizer.from_pretrained(folder.path)
    uses = [_compare_encode]
    if folder.head != "Model":
        uses.append(
            {"ForMaskedLM": _compare_masks, "ForQuestionAnswering": _compare_answers}.get(folder.head, _compare_labels)
        )
    for use in uses:
        try:
            use(folder, ours, theirs)
        except InputError as error:
            refused.append(_named_in(folder, error))
        except TheirError as error:
            refused.append(str(error))
    return "; ".join(refused) or "equal"


def _named_in(folder: Folder, error: InputError) -> str:
    names = [name for options in folder.options.values() for name in options] + ["num_labels"]
    if "model_max_length" in names:
        names.append("task.max_length")  # the field that gets its value
    assert any(name in str(error) for name in names), str(error)
    return str(error)


class TheirError(Exception):
    """transformers refuses a folder."""


def _their_model(folder: Folder, kind: str) -> torch.nn.Module:
    try:
        return _loaded(folder, kind)
    except Exception as error:
        raise TheirError(f"transformers: {type(error).__name__}") from error


def _loaded(folder: Folder, kind: str) -> torch.nn.Module:
    return (
        getattr(transformers, f"AutoModel{'' if kind == 'Model' else kind}")
        .from_pretrained(folder.path, attn_implementation="eager")
        .eval()
    )


def _inputs(theirs: Any, text: Any, **options: Any) -> Any:
    longest = min(theirs.model_max_length, LENGTH)
    return theirs(text, return_tensors="pt", truncation=True, max_length=longest, **options)


def assert_near(ours: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), atol=CLOSE, rtol=CLOSE)


def _compare_encode(folder: Folder, ours: Any, theirs: Any) -> None:
    model = _their_model(folder, "Model")
    encoded = ours.encode([*LINES[:-1], LINES[-1].replace("[MASK]", "cat")])
    for number, line in enumerate(LINES):
        inputs = _inputs(theirs, line.replace("[MASK]", "cat"))
        expected = theirs.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        assert encoded.tokens[number] == expected, f"{encoded.tokens[number]} for {expected}"
        with torch.no_grad():
            assert_near(encoded.hidden[number], model(**inputs).last_hidden_state[0])


def _compare_masks(folder: Folder, ours: Any, theirs: Any) -> None:
    model = _their_model(folder, "ForMaskedLM")
    for line in ("red [MASK] runs", "Thé [MASK], now"):
        inputs = _inputs(theirs, line)
        with torch.no_grad():
            logits = model(**inputs).logits[0, inputs["input_ids"][0] == theirs.mask_token_id][0]
        probabilities = logits.softmax(-1)
        best = probabilities[: len(theirs)].topk(5)  # spare rows of the table are never predicted
        answers = ours.fill_mask(line)
        assert_near([probability for _, probability in answers], best.values)
        # Equally likely tokens may come in another order.
        for token, probability in answers:
            assert_near(probability, probabilities[theirs.convert_tokens_to_ids(token)])


def _compare_labels(folder: Folder, ours: Any, theirs: Any) -> None:
    model = _their_model(folder, folder.head)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if folder.head == "ForTokenClassification":
        words = ["Red", "cats", ",", "and", "a", "BLUE", "Bird"]
        answers = ours.predict([{"tokens": words}])[0]["words"]
        inputs = _inputs(theirs, [words], is_split_into_words=True)
        if len(set(inputs.word_ids(0)) - {None}) < len(words):
            return  # cut there, and read in several windows here
        with torch.no_grad():
            probabilities = model(**inputs).logits[0].softmax(-1)
        firsts: dict[int, int] = {}
        for position, word in enumerate(inputs.word_ids(0)):
            if word is not None:
                firsts.setdefault(word, position)
        for number, answer in enumerate(answers):
            if number in firsts:
                assert_near(answer["probability"], probabilities[firsts[number]].max())
                assert answer["tag"] in names
        return
    for line, answer in zip(LINES, ours.predict(LINES), strict=True):
        inputs = _inputs(theirs, line)
        if (inputs["input_ids"][0] == theirs.mask_token_id).any():
            continue  # transformers reads "[MASK]" in a text as the token
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        kind = model.config.problem_type or ("regression" if len(names) == 1 else "single_label_classification")
        if kind == "regression":
            assert_near(answer["score"], logits[0])
            continue
        probabilities = logits.sigmoid() if kind.startswith("multi") else logits.softmax(-1)
        assert_near([answer["probabilities"][name] for name in names], probabilities)


def _compare_answers(folder: Folder, ours: Any, theirs: Any) -> None:
    question, context = "red cats", "Paris has a blue bird and an old fish"
    (answer,) = ours.predict([{"question": question, "context": context}])
    model = _their_model(folder, "ForQuestionAnswering")
    # AlbertTokenizer of transformers 5 leaves the segments out by default, with which ALBERT was trained.
    inputs = theirs(question, context, return_tensors="pt", return_token_type_ids=True)
    segment = [i for i, part in enumerate(inputs.sequence_ids(0)) if part == 1]
    with torch.no_grad():
        output = model(**inputs)
    begin, end = output.start_logits[0].numpy(), output.end_logits[0].numpy()
    spans = [begin[i] + end[j] for i in segment for j in segment if i <= j < i + 30]
    assert_near(answer["score"], max(spans))
