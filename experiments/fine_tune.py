"""Fine-tune on your own texts with labels: one class for each sentence, review or message.

Expected: a pre-trained start learns the task from fewer labels than random weights, as in train_from_scratch.py.

Time: bert-tiny on SST-2 (67,349 rows, 3 epochs), about 6 minutes on 2 CPU cores.

    bert_jax train experiments/fine_tune.py --workdir runs/fine_tune --init-from runs/pretrain \\
        --task.train train.jsonl --task.eval dev.jsonl --task.text text --task.label label
"""

from bert_jax.config import AdamW, Experiment, SequenceClassification

experiment = Experiment(
    task=SequenceClassification(train="train.jsonl", eval="dev.jsonl"),
    init_from="runs/pretrain",
    optimizer=AdamW(learning_rate=3e-4, warmup_share=0.1),
    batch_size=32,
    epochs=3,
    eval_every=500,
    checkpoint_every=1000,
)
