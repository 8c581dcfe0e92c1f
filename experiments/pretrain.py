"""Pre-train a small model from scratch on your own text, with the recipe that learns most from a few minutes.

Expected: on a token store of ordinary prose, a tiny model leaves the plateau where it has learnt only how frequent
tokens are, within the first few hundred steps. It guesses masked tokens at least three times as well as the commonest
token would.

The recipe "fast" is a small ModernBERT with Muon, without sentence pairs, at a mask rate that goes down. BERT as
published is in bert_base.py. Short sequences come first and long ones at the end, as in BERT's paper.

Time: 2 layers of 128, 3,000 steps of 32 sequences of 64, then 128 tokens, by estimate 12 minutes on 2 CPU cores.

    bert_jax train experiments/pretrain.py --workdir runs/pretrain --task.stores runs/store

Other families: --model modernbert-tiny or --model roberta-tiny, with --model.initializer-range 0.05. RoBERTa's
tokenizer is made by `bert_jax tokenizer --kind bytelevel`. ELECTRA needs a lower rate. At this file's, its
discriminator collapsed: after 1,500 steps all tokens but the special ones had nearly the same state.

    --model electra-tiny --task.objective rtd --model.initializer-range 0.05 --model.hidden-dropout 0
    --model.attention-dropout 0 --optimizer.learning-rate 5e-4

It also learns later than a model of masked tokens. With AdamW at this rate and --model.positions rotary, which no
folder of transformers can hold, it began after 600 steps. With learned positions, 500 steps were too few.

For a larger model, add --model ettin-17m or --model modernbert-base and a lower --optimizer.learning-rate: wider models
need smaller ones. On an accelerator add --batch-size 256 --compute.dtype bfloat16.
"""

from bert_jax.config import recipe

experiment = recipe(
    "fast",
    stores=("runs/store",),
    length_schedule=((0.8, 64), (0.2, 128)),
    steps=3000,
    log_every=50,
    eval_every=500,
    checkpoint_every=500,
)
