"""What gets a tiny model off the plateau where it has learnt only how frequent tokens are?

Expected: short sequences do. After 2,400 steps of 1,024 positions, 32 sequences of 32 tokens have left the plateau, 16
sequences of 64 hardly. This was seen on other text. Whether larger initial weights than BERT's 0.02, the learning rate,
the decay of the second moment or the pair task matter as much, the other runs show.

`base` is trained with three seeds, to show how much runs with the same settings differ.

Time: bert-tiny, 2.5 M positions for each run and seed: four minutes each on one slow CPU core. Nobody has run it yet.

    bert_jax train experiments/off_the_plateau.py --workdir runs/off_the_plateau

The store is made as in in_domain_or_general.py. With --task.stores it runs on any other. At full scale there is no such
plateau: this is a question about small models and small budgets.
"""

from dataclasses import replace

from common import MODEL, tiny_pretraining

from bert_jax.config import Pretraining

base = tiny_pretraining(
    Pretraining(stores=("runs/stores/imdb",), sequence_length=32, eval_sequences=1000),
    steps=2400,
    eval_every=400,
    checkpoint_every=800,
)
sweep = {
    "base": replace(base, seeds=3),
    "sequences-of-64": replace(base, task=replace(base.task, sequence_length=64), batch_size=16),
    "no-pairs": replace(base, task=replace(base.task, pairs="none")),
    "weights-from-0.02": replace(base, model=replace(MODEL, initializer_range=0.02)),
    "half-the-learning-rate": replace(base, optimizer=replace(base.optimizer, learning_rate=5e-4)),
    "b2-0.999": replace(base, optimizer=replace(base.optimizer, b2=0.999)),
}
