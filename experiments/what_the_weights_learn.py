"""How good a start for fine-tuning are the checkpoints along one pre-training run?

Expected: pre-training is a better initialisation, and one can watch it become one. The fine-tuned score of the
checkpoints along one run rises with its MLM accuracy, most of it early, and next-sentence accuracy comes later than
both.

Two tasks are fine-tuned from each checkpoint: entities (CoNLL-2003), and the class of a sentence (SST-2), which is read
from [CLS] alone. Next-sentence prediction is what trains [CLS] in pre-training.

Time: bert-tiny, five seeds from each checkpoint: one or two minutes each on one CPU core.

    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only imdb
    bert_jax train experiments/what_the_weights_learn.py --workdir runs/what_the_weights_learn

At full scale, change RUN and STEPS to those of the long pre-training, and the learning rate to 3e-5.
"""

from dataclasses import replace

from bert_jax.config import AdamW, Experiment, SequenceClassification, TokenClassification, preset

REPORT = {"curves": r"(?P<panel>.+)-after-(?P<x>\d+)", "x": "steps of pre-training"}
RUN = "runs/in_domain_or_general/imdb"
STEPS = (1000, 2000, 4000, 7000, 10_000)  # where the run was evaluated
FEW = {"max_length": 64, "packing": True}
ENTITIES = {"limit": 2000, "eval_limit": 1000, "overlap": 16}

sst2 = Experiment(
    task=SequenceClassification("train.jsonl.gz", "dev.jsonl.gz", "data/sst2", limit=1000, **FEW),
    model=preset("bert-tiny", vocab_size=0, max_position_embeddings=64, initializer_range=0.05),
    tokenizer="runs/tokenizer",
    optimizer=AdamW(learning_rate=1e-3, warmup_share=0.1),
    batch_size=32,
    steps=150,
    seeds=5,
    eval_every=0,
    checkpoint_every=0,
    log_every=50,
)
entities = replace(
    sst2, task=TokenClassification("conll:eng.train", "conll:eng.testa", "data/conll2003", **ENTITIES, **FEW), steps=375
)

sweep = {}
for name, scratch in {"sst2": sst2, "entities": entities}.items():
    sweep[f"{name}-after-0"] = scratch
    sweep |= {f"{name}-after-{step}": replace(scratch, init_from=f"{RUN}@{step}") for step in STEPS}
