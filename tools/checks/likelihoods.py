"""The scores of `bert_jax score` are those of the masked logits of `transformers`, in both variants.

    python tools/check.py likelihoods runs/pretrain [--text texts.jsonl.gz] [--lines 200]

Converts the run and loads the folder with `transformers` alone: its model, its tokenizer and its words. Each token of
each line is masked in turn. Exits with 1 if a log-probability differs by more than LIMIT. The text
is bert_jax's sample text if none is named. A few minutes on two cores.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import bert_jax
from bert_jax import samples
from bert_jax.data.corpus import documents
from bert_jax.pretrained import open_source, write_source

LIMIT = 1e-4
LONGEST = 200  # characters of a line


def log_probs(model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerFast, text: str, within_word: bool):
    """Returns the log-probability of each token of a text, float32 [tokens]."""
    encoding = tokenizer(text)
    ids, words = encoding["input_ids"], encoding.word_ids()
    positions = [i for i, word in enumerate(words) if word is not None]
    rows = torch.tensor([ids] * len(positions))
    for row, position in zip(rows, positions, strict=True):
        row[position] = tokenizer.mask_token_id
        for after in range(position + 1, len(ids)):
            if within_word and words[after] == words[position]:
                row[after] = tokenizer.mask_token_id
    with torch.no_grad():
        output = model(rows)
    logits = output.prediction_logits if "prediction_logits" in output else output.logits
    each = logits[torch.arange(len(positions)), positions].log_softmax(-1)
    return each[torch.arange(len(positions)), torch.tensor(ids)[positions]].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a pre-training run's workdir")
    parser.add_argument("--text", nargs="+", default=[], help="text files, as for `bert_jax prepare`")
    parser.add_argument("--lines", type=int, default=200)
    arguments = parser.parse_args()
    texts = documents(arguments.text) if arguments.text else (document.text for document in samples.documents())
    lines = (line[:LONGEST] for text in texts for line in text.splitlines() if line.strip())
    lines = list(itertools.islice(lines, arguments.lines))
    bert = bert_jax.load(arguments.source)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "exported"
        write_source(open_source(arguments.source), target)
        name = transformers.AutoConfig.from_pretrained(target).architectures[0]
        model = getattr(transformers, name).from_pretrained(target).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(target)
        for within_word in (False, True):
            ours = bert.score(lines, within_word=within_word).log_probs
            theirs = [log_probs(model, tokenizer, line, within_word) for line in lines]
            difference = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(ours, theirs, strict=True))
            tokens = sum(map(len, theirs))
            variant = "the rest of a word masked too" if within_word else "one token masked"
            print(f"{variant}: {len(lines)} lines, {tokens:,} tokens, largest difference {difference:.1e}")
            worst = max(worst, difference)
    raise SystemExit(not worst <= LIMIT)
