"""What is in the weights after so many steps of pre-training, as a fine-tuned task sees it?

Claim: pre-training is a better initialisation, and one can watch it become one: the fine-tuned score of the checkpoints
along one run rises with its MLM accuracy, most of it early, and next-sentence accuracy comes later than both.
Time: bert-tiny, five seeds from each checkpoint: half a minute each on 2 quiet CPU cores.

    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only imdb
    bert_jax train experiments/what_the_weights_learn.py --workdir runs/what_the_weights_learn

At full scale, change RUN and STEPS to those of the long pre-training, and the learning rate to 3e-5.
"""

from dataclasses import replace

from bert_jax.config import Experiment, Optimizer, Sequences, preset

RUN = "runs/in_domain_or_general/imdb"
STEPS = (1000, 2000, 4000, 7000, 10_000)  # where the run was evaluated

scratch = Experiment(
    task=Sequences("train.jsonl.gz", "dev.jsonl.gz", "data/sst2", limit=1000, max_length=64, packing=True),
    model=preset("bert-tiny", vocab_size=0, max_position_embeddings=64, initializer_range=0.05),
    tokenizer="runs/tokenizer",
    optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.1),
    batch_size=32,
    steps=150,
    seeds=5,
    eval_every=0,
    checkpoint_every=0,
    log_every=50,
)
sweep = {"after-0": scratch}
sweep |= {f"after-{step}": replace(scratch, init_from=f"{RUN}@{step}") for step in STEPS}
