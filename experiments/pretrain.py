"""Pre-train BERT from scratch on your own text.

Claim: on a token store of ordinary prose, MLM loss leaves the unigram plateau (about 6 nats at 8,000 pieces) within the
first thousands of steps and MLM accuracy ends well above the commonest piece's share.
Time: bert-tiny, 20,000 steps of 32 x 128 tokens, about 25 minutes on 2 CPU cores.

    bert_jax train experiments/pretrain.py --workdir runs/pretrain --task.stores runs/store

At full scale, on a TPU VM or GPU node, change the preset in this file to bert-base and give
--batch-size 256 --steps 1000000 --optimizer.learning-rate 1e-4 --optimizer.warmup-share 0.01 --model.dtype bfloat16
"""

from bert_jax.config import Experiment, Optimizer, Pretraining, preset

experiment = Experiment(
    task=Pretraining(stores=("runs/store",)),
    model=preset("bert-tiny", vocab_size=0, hidden_dropout=0.0, attention_dropout=0.0),
    optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.05),
    batch_size=32,
    steps=20_000,
    log_every=100,
    eval_every=2000,
    checkpoint_every=1000,
)
