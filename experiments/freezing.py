"""What does freezing the lower layers cost, and what does it save?

Expected: with few labels, freezing a third of a good model's layers costs less than one seed differs from another, and
makes a step clearly faster. Freezing all of them, so that only the classifier learns, costs more than it saves.

The model is MiniLM (6 layers of 384), converted from all-MiniLM-L6-v2.

Time: five seeds, 300 labels: 2 to 10 minutes a run on one CPU core.

    bert_jax convert hf:sentence-transformers/all-MiniLM-L6-v2 runs/minilm
    bert_jax train experiments/freezing.py --workdir runs/freezing

At full scale, --init-from hf:google-bert/bert-base-uncased, twice the numbers in FROZEN, and no limits.
"""

from bert_jax.config import AdamW, Experiment, SequenceClassification, TokenClassification

REPORT = {"columns": ("seconds",)}
FROZEN = {"none": None, "embeddings": 0, "a-third": 2, "two-thirds": 4, "all-layers": 6}
FEW = {"limit": 300, "eval_limit": 400, "max_length": 64, "packing": True}
TASKS = {
    "sst2": SequenceClassification("train.jsonl.gz", "dev.jsonl.gz", "data/sst2", **FEW),
    "imdb": SequenceClassification("train.jsonl.gz", "test.jsonl.gz", "data/imdb", **FEW),
    "ncbi": TokenClassification("conll:train.tsv", "conll:devel.tsv", "data/ncbi_disease", overlap=16, **FEW),
}
# At 1e-4, some seeds predict no entity at all after these 58 steps.
LEARNING_RATES = {"sst2": 1e-4, "imdb": 1e-4, "ncbi": 3e-4}

sweep = {
    f"{task}-{name}": Experiment(
        task=TASKS[task],
        init_from="runs/minilm",
        optimizer=AdamW(learning_rate=LEARNING_RATES[task], warmup_share=0.1, frozen_layers=layers),
        batch_size=16,
        epochs=3,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
        log_every=20,
    )
    for task in TASKS
    for name, layers in FROZEN.items()
}
