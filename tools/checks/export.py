"""A model trained here is the same model in `transformers`: keys, logits, token ids, fill-mask.

    python tools/check.py export runs/pretrain [--text texts.jsonl.gz] [--lines 10000]

Converts the run, of any family, and loads the folder with `transformers` alone. Exits with 1 if a key is missing,
unexpected or mismatched, if the tokens of a line differ, if a logit differs by more than LOGITS on real lines, or if
the five likeliest tokens of its fill-mask pipeline differ for more than one masked line in a hundred (near ties may
swap). A model of replaced-token detection, and one that was fine-tuned to classify texts, fill no masks. The text is
bert_jax's sample text if none is named.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

import bert_jax
from bert_jax import params, samples
from bert_jax.data.batch import make_batch
from bert_jax.data.corpus import documents
from bert_jax.heads import BertForPreTraining, BertForReplacedTokenDetection, BertForSequenceClassification
from bert_jax.pretrained import open_source, write_source

LOGITS = 1e-4  # largest difference in float32, as the tests' bound for a model
SAME_GUESSES = 0.99  # smallest share of masked lines


def lines_of(files: list[str], count: int) -> list[str]:
    """Returns the first `count` lines of the documents that are not empty."""
    texts = documents(files) if files else (document.text for document in samples.documents())
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    return list(itertools.islice(lines, count))


def our_logits(bert: bert_jax.PretrainedBert, rows: list[list[int]]) -> list[np.ndarray]:
    """Returns the scores of each sequence, float32: of MLM [T, V], of replaced-token detection [T], of classes [C]."""
    config, lengths = bert.config, [len(ids) for ids in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int32)
    for row, values in enumerate(rows):
        ids[row, : lengths[row]] = values
    columns = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    real = columns < np.asarray(lengths)[:, None]
    batch = make_batch(ids, sequence_ids=real.astype(np.int32), masked_positions=columns)
    batch["position_ids"] += np.int32(config.first_position)
    if params.SEQUENCE in bert.params:
        classifier = BertForSequenceClassification(config, params.num_classes(bert.params, params.SEQUENCE))
        return list(np.asarray(jax.jit(classifier.apply)({"params": bert.params}, batch))[:, 0])
    if params.MLM in bert.params:
        scores = jax.jit(BertForPreTraining(config, pairs=False).apply)({"params": bert.params}, batch)["mlm"]
    else:
        scores = jax.jit(BertForReplacedTokenDetection(config).apply)({"params": bert.params}, batch)
    return [row[:length] for row, length in zip(np.asarray(scores), lengths, strict=True)]


def same_guesses(bert: bert_jax.PretrainedBert, fill: transformers.Pipeline, lines: list[str]) -> tuple[int, int]:
    """Masks the fourth word of each line.

    Returns the number of lines that get the same five tokens, and the number of lines that fit into the model.
    """
    same = tried = 0
    longest = bert.config.max_position_embeddings
    for line in lines:
        words = line.split()
        if not 6 <= len(words) <= 40 or "[" in line or "<" in line:
            continue
        text = " ".join([*words[:3], bert.tokenizer.names["mask"], *words[4:]])
        if len(bert.tokenizer.encode_ids([text])[0]) + 2 > bert.tokenizer.frame.longest(longest):
            continue
        theirs = [guess["token"] for guess in fill(text, top_k=5)]
        ours = [bert.tokenizer.piece_id(piece) for piece, _ in bert.fill_mask(text, top_k=5)]
        tried += 1
        same += ours == theirs
    return same, tried


def largest_difference(bert: bert_jax.PretrainedBert, model: torch.nn.Module, rows: list[list[int]]) -> float:
    """Returns the largest difference of two logits."""
    worst = 0.0
    for ids, ours in zip(rows, our_logits(bert, rows), strict=True):
        with torch.no_grad():
            output = model.eval()(torch.tensor([ids]))
        logits = output.prediction_logits if "prediction_logits" in output else output.logits
        worst = max(worst, float(np.abs(ours - logits[0].numpy()).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="the workdir of a pre-training, or of a sequence classification")
    parser.add_argument("--text", nargs="+", default=[], help="text files, as for `bert_jax prepare`")
    parser.add_argument("--lines", type=int, default=10_000)
    arguments = parser.parse_args()
    lines = lines_of(arguments.text, arguments.lines)
    bert = bert_jax.load(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "exported"
        write_source(open_source(arguments.source), target)
        name = transformers.AutoConfig.from_pretrained(target).architectures[0]
        model, info = getattr(transformers, name).from_pretrained(target, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(target)
        keys = {kind: len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        print(f"{name}: " + ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in keys.items()))
        ours, theirs = bert.tokenizer.encode_ids(lines), tokenizer(lines, add_special_tokens=False)["input_ids"]
        alike = sum(list(a) == b for a, b in zip(ours, theirs, strict=True))
        print(f"token ids: {alike:,} of {len(lines):,} lines alike")
        longest = bert.tokenizer.frame.longest(bert.config.max_position_embeddings)
        worst = largest_difference(
            bert, model, [tokenizer(line, truncation=True, max_length=longest)["input_ids"] for line in lines[:20]]
        )
        print(f"logits: largest difference {worst:.1e}")
        right = not any(keys.values()) and alike == len(lines) and worst <= LOGITS
        if params.MLM in bert.params:
            same, tried = same_guesses(bert, transformers.pipeline("fill-mask", str(target)), lines[:200])
            print(f"fill-mask: the same five tokens for {same} of {tried} lines")
            right &= same >= SAME_GUESSES * tried > 0
    raise SystemExit(not right)
