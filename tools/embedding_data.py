"""Writes the rows that experiments/sentence_embedding.py learns from and is scored on.

    python tools/embedding_data.py data runs/embedding

`data` has the folders books, imdb, sts, stsb, mrpc and squad. Written are

    sentences.jsonl   40,000 sentences, half of books, half of film reviews
    train.jsonl       scored pairs (STS-B, SICK), paraphrases (MRPC), questions and their paragraphs (SQuAD)
    eval.jsonl        at most 250 scored pairs of each of the STS sets of 2012 to 2015, SICK and STS-B, and a question
                      for each paragraph of SQuAD's development set
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bert_jax import files
from bert_jax.data.rows import Row, read_rows, stream_rows

SENTENCES = 40_000
MOST = 250  # pairs of a set
WORDS = range(6, 41)  # in a sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made = {"sentences": sentences(options.data), "train": train(options.data), "eval": evaluation(options.data)}
    for name, rows in made.items():
        path = options.out / f"{name}.jsonl"
        files.write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        print(f"{path}: {len(rows):,} rows")


def sentences(data: Path) -> list[dict[str, str]]:
    """Returns different sentences in random order, as many of books as of reviews."""
    chosen: list[str] = []
    draw = random.Random(0)
    for source in (data / "books/part-0.jsonl.gz", data / "imdb/unsup.jsonl.gz"):
        texts = list(dict.fromkeys(islice(_sentences(source), 10 * SENTENCES)))
        chosen += draw.sample(texts, SENTENCES // 2)
    draw.shuffle(chosen)
    return [{"text": text} for text in chosen]


def _sentences(source: Path) -> Iterator[str]:
    for row in stream_rows(str(source)):
        text = re.sub(r"<br />|\s+", " ", row.values["text"])
        yield from (part for part in re.split(r"(?<=[.!?]) +", text) if len(part.split()) in WORDS)


def train(data: Path) -> list[dict[str, Any]]:
    """Returns all pairs to learn from, in random order."""
    rows = [_scored(row.values) for name in ("stsb/train", "sts/sick_train") for row in _rows(data, name)]
    same = (row.values for row in _rows(data, "mrpc/train") if row.values["label"] == "equivalent")
    rows += [{"query": values["text_a"], "positive": values["text_b"]} for values in same]
    rows += questions(data / "squad/train-4k.json.gz")
    random.Random(0).shuffle(rows)
    return rows


def evaluation(data: Path) -> list[dict[str, Any]]:
    """Returns scored pairs, each with its set, and one question for each paragraph."""
    rows, count = [], Counter[str]()
    for name in ("sts/2012", "sts/2013", "sts/2014", "sts/2015", "sts/sick_r", "stsb/test"):
        for row in _rows(data, name):
            of = row.values.get("set", name)
            count[of] += 1
            if count[of] <= MOST:
                rows.append(_scored(row.values) | {"set": of})
    by_paragraph = {row["positive"]: row for row in questions(data / "squad/dev-v1.1.json.gz")}
    return rows + list(by_paragraph.values())


def questions(path: Path) -> list[dict[str, str]]:
    """Returns the questions of a file in SQuAD's format, each with its paragraph."""
    rows = [row.values for row in read_rows(str(path))]
    return [{"query": values["question"], "positive": values["context"]} for values in rows]


def _rows(data: Path, name: str) -> list[Row]:
    return read_rows(str(data / f"{name}.jsonl.gz"))


def _scored(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("text_a", "text_b", "score")}


if __name__ == "__main__":
    main()
