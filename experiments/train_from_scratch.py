"""Train on your own texts with labels from random weights, without pre-training: the comparison for fine_tune.py.

Expected: with few labels the random start stays far behind a pre-trained one. With many the gap narrows.

Time: bert-tiny on SST-2 (67,349 rows, 1 epoch), about 2 minutes on 2 CPU cores.

    bert_jax train experiments/train_from_scratch.py --workdir runs/train_from_scratch --tokenizer runs/tokenizer \\
        --task.train train.jsonl --task.eval dev.jsonl --task.text text --task.label label
"""

from bert_jax.config import AdamW, Experiment, SequenceClassification, preset

experiment = Experiment(
    task=SequenceClassification(train="train.jsonl", eval="dev.jsonl"),
    model=preset("bert-tiny", vocab_size=0, initializer_range=0.05),
    tokenizer="runs/tokenizer",
    optimizer=AdamW(learning_rate=3e-4, warmup_share=0.1),
    batch_size=32,
    epochs=3,
    eval_every=500,
    checkpoint_every=1000,
)
