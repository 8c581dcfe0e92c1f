"""What gets a tiny model off the plateau where it only knows how frequent words are?

Claim: short sequences do: after 2,400 steps of 1,024 positions, 32 sequences of 32 tokens have left the plateau, 16
sequences of 64 hardly. Whether larger weights than BERT's 0.02, the learning rate, the second moment's decay or the
pair task matter as much, the other runs say. The sweep has not been run yet: what is claimed was seen on other text.
`base` is trained with three seeds: by so much runs differ that differ in nothing.
Time: bert-tiny, 2.5 M positions a run and seed: four minutes each on one slow CPU core.

    bert_jax train experiments/off_the_plateau.py --workdir runs/off_the_plateau

The store is that of in_domain_or_general.py; with --task.stores it runs on any other. At full scale there is no plateau
to leave: this is a question about small models and small budgets.
"""

from dataclasses import replace

from bert_jax.config import Experiment, Optimizer, Pretraining, preset

MODEL = preset(
    "bert-tiny",
    vocab_size=0,
    max_position_embeddings=64,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.05,
)

base = Experiment(
    task=Pretraining(stores=("runs/stores/imdb",), sequence_length=32, eval_sequences=1000),
    model=MODEL,
    optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
    batch_size=32,
    steps=2400,
    log_every=100,
    eval_every=400,
    checkpoint_every=800,
    keep_checkpoints=1,
)
sweep = {
    "base": replace(base, seeds=3),
    "sequences-of-64": replace(base, task=replace(base.task, sequence_length=64), batch_size=16),
    "no-pairs": replace(base, task=replace(base.task, pairs="none")),
    "weights-from-0.02": replace(base, model=replace(MODEL, initializer_range=0.02)),
    "half-the-learning-rate": replace(base, optimizer=replace(base.optimizer, learning_rate=5e-4)),
    "b2-0.999": replace(base, optimizer=replace(base.optimizer, b2=0.999)),
}
