"""How much should be masked, and how: 15, 30 or 40 %; tokens, whole words or n-grams; 80/10/10 or always [MASK]?

Expected: at a large model's size 40 % beats 15 %, and [MASK] every time does as well as 80/10/10 (Wettig et al. 2023,
"Should You Mask 15% in Masked Language Modeling?"). A small model prefers the lower rate.

MLM accuracies at different rates or units cannot be compared, and 80/10/10 leaves a tenth of the chosen tokens as they
are. The runs `asked-alike-...` evaluate each model on the same tokens, all of them masked. The fine-tuned score is the
F1 of entities (CoNLL-2003).

Time: bert-tiny, 1.9 M tokens each: three minutes on one CPU core, and two more for five seeds of the fine-tuning.

    bert_jax train experiments/masking.py --workdir runs/masking

Larger models need a GPU: change MODEL to preset("bert-small", vocab_size=0) or more, STEPS to 20_000 and the learning
rates to 3e-4 and 5e-5, and add --compute.dtype bfloat16. The store is made as in in_domain_or_general.py.
"""

from dataclasses import replace

from common import MODEL, entities_probe, tiny_pretraining

from bert_jax.config import AdamW, Experiment, Pretraining

STEPS = 2000
MASKINGS = {
    "15": Pretraining(mask_rate=0.15),
    "30": Pretraining(mask_rate=0.30),
    "40": Pretraining(mask_rate=0.40),
    "15-words": Pretraining(mask_rate=0.15, mask_unit="word"),
    "15-ngrams": Pretraining(mask_rate=0.15, mask_unit="ngram"),
    "15-always-mask": Pretraining(mask_rate=0.15, mask_token_share=1.0, random_token_share=0.0),
}


def pretraining(masking: Pretraining, seed: int = 0) -> Experiment:
    task = replace(masking, stores=("runs/stores/imdb",), sequence_length=32, eval_sequences=1000)
    return tiny_pretraining(task, STEPS, seed=seed)


sweep = {name: pretraining(masking) for name, masking in MASKINGS.items()}
sweep["15-again"] = pretraining(MASKINGS["15"], seed=1)  # shows how much pre-trainings with the same settings differ
trained = list(sweep)
# One step that changes nothing, and an evaluation: the same tokens for each model, all of them masked.
alike = replace(
    pretraining(MASKINGS["15-always-mask"]),
    model=None,
    optimizer=AdamW(learning_rate=0.0),
    steps=1,
    eval_every=0,
    checkpoint_every=0,
)
sweep |= {f"asked-alike-{name}": replace(alike, init_from=f"run:{name}") for name in trained}
sweep |= {f"entities-from-{name}": entities_probe(init_from=f"run:{name}") for name in trained}
sweep["entities-from-random"] = entities_probe(model=MODEL, tokenizer="runs/tokenizer")
