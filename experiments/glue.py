"""What does BERT's recipe reach on GLUE, nine tasks of one or two sentences?

Expected: bert-base-uncased reaches on the development sets about CoLA 59 (Matthews), SST-2 92, MRPC 84 / 89 (accuracy
and F1), STS-B 89 (Pearson), QQP 91 / 88, MNLI 84, QNLI 91, RTE 65 and WNLI 56.

56 is the share of WNLI's commonest class. One seed means little on the small tasks (CoLA, MRPC, RTE, WNLI), so each is
trained with three.

Time: MRPC takes minutes on one GPU, MNLI and QQP hours. With MiniLM (6 layers of 384) on one CPU core, a seed of CoLA
or STS-B takes about five minutes, of SST-2 about forty.

    bert_jax train experiments/glue.py --workdir runs/glue --only sst2 --task.folder data/sst2

The folder holds train.jsonl.gz and dev.jsonl.gz with "text" or "text_a" and "text_b", and "label" or, for STS-B,
"score". From TensorFlow Datasets, with the names of its fields:

    bert_jax train experiments/glue.py --workdir runs/glue --only sst2 \\
        --task.train tfds:glue/sst2:train --task.eval tfds:glue/sst2:validation --task.text sentence
"""

from typing import Any

from bert_jax.config import AdamW, Experiment, SequenceClassification

REPORT = {"picture": False, "figures": ("accuracy", "matthews", "pearson", "spearman")}


def glue(**fields: Any) -> Experiment:
    return Experiment(
        task=SequenceClassification(folder="data", train="train.jsonl.gz", eval="dev.jsonl.gz", packing=True, **fields),
        init_from="hf:google-bert/bert-base-uncased",
        optimizer=AdamW(learning_rate=3e-5, warmup_share=0.1),
        batch_size=32,
        epochs=3,
        seeds=3,
    )


PAIR = {"text": "text_a", "text_b": "text_b"}
sweep = {
    "cola": glue(),
    "sst2": glue(),
    "mrpc": glue(**PAIR),
    "stsb": glue(target="regression", label="score", **PAIR),
    "qqp": glue(**PAIR),
    "mnli": glue(**PAIR),
    "qnli": glue(**PAIR),
    "rte": glue(**PAIR),
    "wnli": glue(**PAIR),
}
