"""Fine-tune on texts with labels: sentences, reviews, messages, one class each.

Claim: a pre-trained start learns the task from fewer labels than random weights, which train_from_scratch.py gives.
Time: bert-tiny on SST-2 (67,349 rows, 3 epochs), about 6 minutes on 2 CPU cores.

    bert_jax train experiments/fine_tune.py --workdir runs/tuned --init-from runs/pretrain \\
        --task.train train.jsonl --task.eval dev.jsonl --task.text text --task.label label
"""

from bert_jax.config import Experiment, Optimizer, SequenceClassification

experiment = Experiment(
    task=SequenceClassification(train="train.jsonl", eval="dev.jsonl"),
    init_from="runs/pretrain",
    optimizer=Optimizer(learning_rate=3e-4, warmup_share=0.1),
    batch_size=32,
    epochs=3,
    eval_every=500,
    checkpoint_every=1000,
)
