"""How much to mask, and what: 15, 30 or 40 %, tokens, whole words or runs of words, 80/10/10 or always [MASK].

Claim: a tiny model that sees few tokens learns more with 30 or 40 % masked than with 15, and less with [MASK] every
time than with 80/10/10; words, runs of words and tokens do not differ. (Wettig et al. 2023, "Should You Mask 15% in
Masked Language Modeling?", find 40 % better for large models, and [MASK] every time no worse.)
MLM losses of different rates or units are of different difficulty, and 80/10/10 leaves a tenth of the pieces to be
copied: `asked-alike-...` asks each model for the same pieces, all of them masked. The fine-tuned score is that of
entities (CoNLL-2003), which sees so small a pre-training; sentences' classes do not.
Time: bert-tiny, 2 M tokens each: about three minutes on one CPU core, and two more for five seeds.

    bert_jax train experiments/masking.py --workdir runs/masking

It takes a GPU to say anything about larger models: change MODEL to preset("bert-small", vocab_size=0) or more, STEPS to
20_000 and the learning rates to 3e-4 and 5e-5, and give --model.dtype bfloat16.
"""

from dataclasses import replace

from bert_jax.config import Experiment, Optimizer, Pretraining, TokenClassification, preset

MODEL = preset(
    "bert-tiny",
    vocab_size=0,
    max_position_embeddings=64,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.05,
)
STEPS = 2000
FEW = {"limit": 2000, "eval_limit": 1000, "max_length": 32, "overlap": 8, "packing": True}
MASKINGS = {
    "15": Pretraining(mask_rate=0.15),
    "30": Pretraining(mask_rate=0.30),
    "40": Pretraining(mask_rate=0.40),
    "15-words": Pretraining(mask_rate=0.15, mask_unit="word"),
    "15-ngrams": Pretraining(mask_rate=0.15, mask_unit="ngram"),
    "15-always-mask": Pretraining(mask_rate=0.15, mask_token_share=1.0, random_token_share=0.0),
}


def pretraining(masking: Pretraining, seed: int = 0) -> Experiment:
    return Experiment(
        task=replace(masking, stores=("runs/stores/imdb",), sequence_length=32, eval_sequences=1000),
        seed=seed,
        model=MODEL,
        optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
        batch_size=32,
        steps=STEPS,
        log_every=100,
        eval_every=1000,
        checkpoint_every=1000,
        keep_checkpoints=1,
    )


tuned = Experiment(
    task=TokenClassification("conll:eng.train", "conll:eng.testa", "data/conll2003", **FEW),
    optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.1),
    batch_size=32,
    steps=375,
    seeds=5,
    eval_every=0,
    checkpoint_every=0,
    log_every=75,
)

sweep = {name: pretraining(masking) for name, masking in MASKINGS.items()}
sweep["15-again"] = pretraining(MASKINGS["15"], seed=1)  # by so much pre-trainings differ that differ in nothing
alike = replace(
    pretraining(MASKINGS["15-always-mask"]),
    model=None,
    optimizer=Optimizer(learning_rate=0.0),
    steps=1,
    eval_every=0,
    checkpoint_every=0,
)
trained = list(sweep)
sweep |= {f"asked-alike-{name}": replace(alike, init_from=f"run:{name}") for name in trained}
sweep |= {f"entities-from-{name}": replace(tuned, init_from=f"run:{name}") for name in trained}
sweep["entities-from-random"] = replace(tuned, model=MODEL, tokenizer="runs/tokenizer")
