"""Files of labelled rows, and the task that reads them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert_jax import tasks
from bert_jax.config import SequenceClassification
from helpers.models import MODEL

SMALL = replace(MODEL, num_layers=1, max_position_embeddings=128)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(fields: SequenceClassification, tokenizer: Any) -> Any:
    """The task, its fields completed if there are rows to learn from."""
    open_task = tasks.make if fields.train == "t" else tasks.resolve
    return open_task(fields, replace(SMALL, vocab_size=tokenizer.vocab_size), tokenizer)
