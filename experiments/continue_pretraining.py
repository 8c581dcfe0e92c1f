"""Continue to pre-train a published checkpoint on text of your own domain (BioBERT's way).

Expected: MLM loss on held-out text of the domain falls from the first evaluation on, and a task of the domain gains.

The learning rate is that of BERT's own pre-training, low enough to keep what the checkpoint has learnt. The model, its
tokenizer and its MLM head come from the source. A source without an MLM head gets a new one.

Time: MiniLM (6 layers of 384), 2,000 steps of 32 x 128 tokens, about an hour on 2 CPU cores.

    bert_jax train experiments/continue_pretraining.py --workdir runs/continue_pretraining \\
        --init-from hf:google-bert/bert-base-uncased --task.stores runs/domain-store
"""

from bert_jax.config import AdamW, Experiment, Pretraining

experiment = Experiment(
    task=Pretraining(stores=("runs/domain-store",)),
    init_from="hf:google-bert/bert-base-uncased",
    optimizer=AdamW(learning_rate=1e-4, warmup_share=0.1),
    batch_size=32,
    steps=2000,
    log_every=50,
    eval_every=500,
    checkpoint_every=500,
)
