"""A model trained here is the same model in `transformers`: keys, logits, token ids, fill-mask.

    python tools/check.py export runs/pretrain --text texts.jsonl.gz --lines 10000

Converts the run, loads the folder with `transformers` alone, and prints how many keys were missing, unexpected or
mismatched, the largest difference of MLM logits on real lines, how many lines are tokenised alike, and how many masked
lines have the same five likeliest pieces in its fill-mask pipeline.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import bert_jax
from bert_jax.data.batch import make_batch
from bert_jax.data.corpus import documents
from bert_jax.heads import BertForPreTraining
from bert_jax.pretrained import open_source, write_source


def lines_of(files: list[str], count: int) -> list[str]:
    """The first `count` lines of the documents, empty ones left out."""
    every = (line for text in documents(files) for line in text.splitlines() if line.strip())
    return list(itertools.islice(every, count))


def our_logits(bert: bert_jax.PretrainedBert, ids: list[int]) -> np.ndarray:
    """MLM scores at each position of one sequence, [T, V]."""
    row = np.asarray([ids], np.int32)
    batch = make_batch(row, masked_positions=np.arange(row.shape[1], dtype=np.int32)[None])
    model = BertForPreTraining(bert.config, pairs=False)
    return np.asarray(model.apply({"params": bert.params}, batch)["mlm"][0])


def same_guesses(bert: bert_jax.PretrainedBert, fill: transformers.Pipeline, lines: list[str]) -> tuple[int, int]:
    """How many of the lines, the fourth word of each masked, get the same five pieces; and how many there were."""
    same = asked = 0
    for line in lines:
        words = line.split()
        if not 6 <= len(words) <= 40 or "[" in line:
            continue
        text = " ".join([*words[:3], "[MASK]", *words[4:]])
        theirs = [guess["token"] for guess in fill(text, top_k=5)]
        ours = [bert.tokenizer.piece_id(piece) for piece, _ in bert.fill_mask(text, top_k=5)]
        asked += 1
        same += ours == theirs
    return same, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a pre-training run's workdir")
    parser.add_argument("--text", nargs="+", required=True, help="text files, as `bert_jax prepare` takes them")
    parser.add_argument("--lines", type=int, default=10_000)
    arguments = parser.parse_args()
    lines = lines_of(arguments.text, arguments.lines)
    bert = bert_jax.load(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "exported"
        write_source(open_source(arguments.source), target)
        model, info = transformers.AutoModelForPreTraining.from_pretrained(target, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(target)
        print(f"class: {type(model).__name__}")
        print(
            "keys: " + ", ".join(f"{len(info[kind])} {kind.split('_')[0]}" for kind in info if kind.endswith("_keys"))
        )
        ours = bert.tokenizer.encode_ids(lines)
        theirs = tokenizer(lines, add_special_tokens=False)["input_ids"]
        alike = sum(list(a) == b for a, b in zip(ours, theirs, strict=True))
        print(f"token ids: {alike:,} of {len(lines):,} lines alike")
        worst = 0.0
        for line in lines[:20]:
            ids = tokenizer(line, truncation=True, max_length=bert.config.max_position_embeddings)["input_ids"]
            with torch.no_grad():
                logits = model.eval()(torch.tensor([ids])).prediction_logits[0].numpy()
            worst = max(worst, float(np.abs(our_logits(bert, ids) - logits).max()))
        print(f"MLM logits: largest difference {worst:.1e}")
        fill = transformers.pipeline("fill-mask", str(target))
        print("fill-mask: the same five pieces for {} of {} lines".format(*same_guesses(bert, fill, lines[:200])))
