"""What do BERT's changes since 2018 do for a small model: pre-norm, rotary positions, gating, no biases, local layers?

Expected: rotary positions do most. The model learns to use positions much sooner, so MLM accuracy at equal steps is at
least five points higher, and entities gain two points of F1. Each other change alone moves MLM accuracy by less than
two points. No biases and local attention cost nothing; local attention saves no time, because rows of 32 tokens are
too short for it. A gated feed-forward costs time and gains nothing. All together are about as good as rotary positions
alone at equal steps, and slightly behind them at equal time.

`steps-...` are pre-trained for 1,000 steps, `time-...` for as many as take the time of 1,000 of BERT's, where these
are other ones. Each is pre-trained with two seeds (-0 and -1). After equal steps, each of these is fine-tuned with
five seeds on entities (CoNLL-2003). The gated feed-forward is two thirds as wide, so that it has as many parameters.
The local layer sees eight tokens on each side.

Time: 22 pre-trainings of 155 s and 15 fine-tunings of five seeds, 330 s each, in seconds of CPU time: about 75 minutes
on 2 quiet CPU cores.

    bert_jax train experiments/since_2018.py --workdir runs/since_2018

At full scale, change MODEL to preset("bert-base", vocab_size=0), the window to 128 with global_every=3, the lengths to
512, STEPS to 100_000, and the learning rates to 1e-4 and 3e-5, and measure STEP_TIME again. The store is made as in
in_domain_or_general.py.
"""

from dataclasses import replace
from typing import Any

from common import MODEL, entities_probe, tiny_pretraining

from bert_jax.config import Pretraining

REPORT = {"picture": False, "columns": ("parameters", "steps")}
STEPS = 1000
CHANGES: dict[str, dict[str, Any]] = {
    "pre-norm": {"norm_position": "pre"},
    "rotary": {"positions": "rotary"},
    "gated": {"feed_forward": "glu", "intermediate_size": 344},
    "no-biases": {"linear_bias": False, "norm_bias": False},
    "local": {"local_attention": 16, "global_every": 2},
}
# Time of a training step, divided by that of "bert": medians of 20 rounds in which the models took turns, in CPU time,
# because other programs ran on the machine. With less than 4 % between them, equal steps are equal time.
STEP_TIME = {"pre-norm": 1.07, "rotary": 1.05, "no-biases": 0.96, "all": 1.09}  # gated: 1.02, local: 0.98
MODELS = {"bert": MODEL} | {name: replace(MODEL, **change) for name, change in CHANGES.items()}
MODELS["all"] = replace(MODEL, **{field: value for change in CHANGES.values() for field, value in change.items()})

base = tiny_pretraining(
    Pretraining(("runs/stores/imdb",), sequence_length=32, eval_sequences=1000), STEPS, eval_every=250
)
sweep = {
    f"steps-{name}-{seed}": replace(base, model=model, seed=seed) for name, model in MODELS.items() for seed in (0, 1)
}
sweep |= {f"entities-from-{name}": entities_probe(init_from=f"run:{name}") for name in list(sweep)}
sweep["entities-from-random"] = entities_probe(model=MODEL, tokenizer="runs/tokenizer")
sweep |= {
    f"time-{name}-{seed}": replace(base, model=MODELS[name], steps=round(STEPS / share), seed=seed)
    for name, share in STEP_TIME.items()
    for seed in (0, 1)
}
