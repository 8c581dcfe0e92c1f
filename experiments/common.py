"""The tiny model of four experiments, how it is pre-trained, and how it is probed.

Not an experiment itself. An experiment file may import the files in its own folder.
"""

from typing import Any

from bert_jax.config import AdamW, Experiment, Pretraining, TokenClassification, preset

# No dropout, and initial weights larger than BERT's 0.02, which suits widths of 768 and more.
MODEL = preset(
    "bert-tiny",
    vocab_size=0,
    max_position_embeddings=64,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.05,
)


def tiny_pretraining(task: Pretraining, steps: int, **changes: Any) -> Experiment:
    """Returns a pre-training of MODEL, with other fields of `Experiment` changed on request."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "optimizer": AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
        "batch_size": 32,
        "log_every": 100,
        "eval_every": 1000,
        "checkpoint_every": 1000,
        "keep_checkpoints": 1,
    }
    return Experiment(task=task, steps=steps, **(fields | changes))


def entities_probe(**start: Any) -> Experiment:
    """Returns a fine-tuning on 2,000 sentences of CoNLL-2003 that begins with `start`, fields of `Experiment`.

    Entities show what a short pre-training has taught. The class of a sentence does not: it is read from [CLS] alone.
    """
    limits: dict[str, Any] = {"limit": 2000, "eval_limit": 1000, "max_length": 32, "overlap": 8, "packing": True}
    return Experiment(
        task=TokenClassification("conll:eng.train", "conll:eng.testa", "data/conll2003", **limits),
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.1),
        batch_size=32,
        steps=375,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
        log_every=75,
        **start,
    )
