"""Scores without fine-tuning: pseudo-log-likelihoods equal those of transformers, and pairs are counted right."""

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax import cli, heads, scoring
from bert_jax.config import BertConfig
from bert_jax.data.batch import make_batch
from bert_jax.data.masked_copies import MaskedCopies
from bert_jax.data.rows import Row
from bert_jax.errors import InputError
from bert_jax.interop import huggingface
from bert_jax.predict import PretrainedBert
from helpers.interop import small_tokenizer

TINY = BertConfig(
    vocab_size=61, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_position_embeddings=24
)
MODELS = {
    "wordpiece": TINY,
    "sentencepiece": replace(TINY, embedding_size=6, num_layer_groups=1, activation="gelu_new", family="albert"),
}
TEXTS = ["the cat sat on the mat", "reading", "on a hill, mats ran", "the house"]


@cache
def made(kind: str) -> tuple[PretrainedBert, torch.nn.Module]:
    """A model with random weights, here and in transformers."""
    config, tokenizer = MODELS[kind], small_tokenizer(kind)
    dummy = make_batch(np.ones((1, 2), np.int32), masked_positions=np.zeros((1, 1), np.int32))
    shapes = jax.eval_shape(heads.BertForPreTraining(config).init, jax.random.key(0), dummy)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: rng.normal(path[-1].key == "scale", 0.4, leaf.shape).astype(np.float32), shapes
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        huggingface.write(folder, config, params)
        theirs = getattr(transformers, f"{config.family.capitalize()}ForPreTraining").from_pretrained(folder).eval()
    return PretrainedBert(config, params, tokenizer, None), theirs


@pytest.fixture
def bert() -> PretrainedBert:
    return made("wordpiece")[0]


def one_by_one(bert: PretrainedBert, theirs: torch.nn.Module, text: str, within_word: bool) -> list[float]:
    """Log-probabilities of a text's tokens by transformers: a forward pass for each, without batches."""
    tokenizer = bert.tokenizer
    ids = tokenizer.frame.join(tokenizer.encode_ids([text])[0])[0].tolist()
    pieces = tokenizer.pieces(ids)
    answers = []
    for position in range(1, len(ids) - 1):
        masked = torch.tensor([ids])
        masked[0, position] = tokenizer.mask_id
        for after in range(position + 1, len(ids) - 1):
            begins = not pieces[after].startswith("##") if tokenizer.kind == "wordpiece" else pieces[after][0] == "▁"
            if not within_word or begins:
                break
            masked[0, after] = tokenizer.mask_id
        with torch.no_grad():
            logits = theirs(masked).prediction_logits[0, position]
        answers.append(float(logits.log_softmax(-1)[ids[position]]))
    return answers


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("within_word", [False, True])
def test_each_token_has_the_log_probability_that_transformers_gives_it(kind, within_word):
    bert, theirs = made(kind)
    scores = bert.score(TEXTS, within_word=within_word)
    for text, tokens, log_probs, total in zip(TEXTS, scores.tokens, scores.log_probs, scores.totals, strict=True):
        expected = one_by_one(bert, theirs, text, within_word)
        np.testing.assert_allclose(log_probs, expected, atol=1e-4)
        assert len(tokens) == len(expected)
        assert total == pytest.approx(sum(expected), abs=1e-3)


def test_only_words_of_several_tokens_make_the_two_scores_differ(bert):
    several = [any(token.startswith("##") for token in tokens) for tokens in bert.score(TEXTS).tokens]
    apart = np.abs(bert.score(TEXTS).totals - bert.score(TEXTS, within_word=True).totals)
    assert ((apart > 1e-2) == several).all()
    assert any(several)
    assert not all(several)


def test_batches_hold_every_copy_once_and_few_shapes():
    tokenizer = small_tokenizer()
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 61, size, dtype=np.int32) for size in [*rng.integers(1, 40, 50), 0, 70]]
    copies = MaskedCopies(texts, tokenizer, positions=512)
    seen = np.concatenate([copies.rows(step) for step in range(copies.num_steps)])
    assert sorted(seen[seen >= 0]) == list(range(sum(map(len, texts))))
    shapes = [copies(step)["input_ids"].shape for step in range(copies.num_steps)]
    assert {length for _, length in shapes} <= {8, 16, 24, 32, 40, 48, 128}
    assert all(rows * length <= 512 for rows, length in shapes)
    for step in range(copies.num_steps):
        batch, present = copies(step), copies.rows(step) >= 0
        masked = (batch["input_ids"] == tokenizer.mask_id) & (batch["sequence_ids"] > 0)
        assert (masked.sum(axis=1) == present).all()
        assert (masked.argmax(axis=1) == batch["masked_positions"][:, 0])[present].all()


def test_pairs_are_counted_in_all_and_by_group(bert):
    texts = TEXTS[:4]
    totals = bert.score(texts).totals
    rows = [
        Row({"good": good, "bad": bad, "group": group}, "a.jsonl:1")
        for group, good, bad in [("x", *texts[:2]), ("x", *texts[1::-1]), ("y", *texts[2:])]
    ]
    answers = list(scoring.score_rows(bert, rows))
    assert [answer["correct"] for answer in answers] == [
        totals[0] > totals[1],
        totals[1] > totals[0],
        totals[2] > totals[3],
    ]
    assert answers[0]["good_score"] == pytest.approx(totals[0], abs=1e-3)
    result = scoring.accuracies(answers)
    assert result["pairs"] == 3
    assert result["groups"] == {"x": 0.5, "y": float(totals[2] > totals[3])}
    assert result["accuracy"] == pytest.approx((1 + result["groups"]["y"]) / 3)
    assert "groups" not in scoring.accuracies(answers, "set")


def run(*arguments: object) -> int:
    try:
        return cli.run(["score", *map(str, arguments)])
    except InputError as error:
        print(error)
        return 2


def test_the_command_scores_texts_and_pairs_and_names_bad_rows(bert, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scoring, "load", lambda source: bert)
    texts, pairs, out = (tmp_path / name for name in ("texts.jsonl", "pairs.jsonl", "out.jsonl"))
    texts.write_text('{"text": "the cat", "id": 7}\n{"text": "a hill"}\n')
    assert run("model", "--input", texts) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["id"] == 7
    assert second["score"] == pytest.approx(float(bert.score(["a hill"]).totals[0]), abs=1e-3)
    pairs.write_text('{"text": ""}')
    assert run("model", "--input", pairs) == 0
    assert json.loads(capsys.readouterr().out)["score"] == 0
    pairs.write_text('{"good": "the cat", "bad": "cat the"}\n' * 2)
    assert run("model", "--input", pairs, "--out", out, "--within-word") == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == len(out.read_text().splitlines()) == 2
    for content, message in [
        ('{"good": "the cat", "bad": "cat the"}\n{"good": "the cat"}', "pairs.jsonl:2: field 'bad' is missing"),
        ('{"sentence": "the cat"}', "pairs.jsonl:1: expected a field 'text', or the fields 'good' and 'bad'"),
        (json.dumps({"text": "the cat sat " * 20}), "pairs.jsonl:1: the text has "),
    ]:
        pairs.write_text(content)
        assert run("model", "--input", pairs) == 2
        assert message in capsys.readouterr().out
    monkeypatch.delitem(bert.params, "mlm")
    assert run("model", "--input", texts) == 2
    assert "score needs an MLM head" in capsys.readouterr().out
