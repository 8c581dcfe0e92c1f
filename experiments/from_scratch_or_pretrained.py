"""With how many labels does pre-training pay, and does it matter on which text?

Expected: with few labels a pre-trained start is far ahead of random weights, and the curves come together as labels
grow. Pre-training on film reviews helps sentences about films (SST-2) more than as many tokens of books do.

MiniLM, a published model, is compared with a model of its size that has random weights. bert-tiny is compared with
itself after 11 M tokens of film reviews or of books, which a small machine reads in ten minutes. The random start gets
as many steps as the others, enough to learn its training rows by heart up to 1,000 labels.

Time: bert-tiny, five seeds of each point: 1 to 9 minutes on one CPU core, half an hour for IMDb with all labels.

    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only imdb
    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only books
    bert_jax train experiments/from_scratch_or_pretrained.py --workdir runs/from_scratch_or_pretrained

At full scale, use the model of the pre-trainings and --optimizer.learning-rate 3e-5.
"""

from dataclasses import replace
from typing import Any

from bert_jax.config import AdamW, BertConfig, Experiment, SequenceClassification, preset

REPORT = {"curves": r"(?P<panel>\w+)-(?P<x>\d+|all)-(?P<line>.+)", "x": "labels"}
MODEL = preset("bert-tiny", vocab_size=0, max_position_embeddings=64, initializer_range=0.05)
STARTS = {"random": None, "books": "runs/in_domain_or_general/books", "imdb": "runs/in_domain_or_general/imdb"}
STEPS = {100: 150, 1000: 300, 10_000: 600, None: 2100}  # by the number of labels, None for all
TASKS = {
    "sst2": SequenceClassification(
        folder="data/sst2", train="train.jsonl.gz", eval="dev.jsonl.gz", max_length=64, packing=True
    ),
    "imdb": SequenceClassification(
        folder="data/imdb", train="train.jsonl.gz", eval="test.jsonl.gz", max_length=64, eval_limit=2000
    ),
}
# A published model, pre-trained on far more text than a small machine can read, and its size with random weights.
MINILM = BertConfig(vocab_size=0, hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536)
MINILM_STARTS = {"minilm-random": {"model": MINILM, "tokenizer": "runs/minilm"}, "minilm": {"init_from": "runs/minilm"}}


def tuned(task: str, limit: int | None, steps: int, learning_rate: float, **start: Any) -> Experiment:
    return Experiment(
        task=replace(TASKS[task], limit=limit),
        optimizer=AdamW(learning_rate=learning_rate, warmup_share=0.1),
        batch_size=32,
        steps=steps,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
        log_every=50,
        **start,
    )


sweep = {
    f"{task}-{limit or 'all'}-{start}": tuned(
        task, limit, steps, 1e-3, model=MODEL, tokenizer="runs/tokenizer", init_from=source
    )
    for task in TASKS
    for limit, steps in STEPS.items()
    for start, source in STARTS.items()
}
sweep |= {
    f"sst2-{limit}-{name}": tuned("sst2", limit, steps, 1e-4, **start)
    for limit, steps in ((100, 100), (1000, 200))
    for name, start in MINILM_STARTS.items()
}
