"""Pre-train BERT from scratch on your own text.

Expected: on a token store of ordinary prose, a tiny model leaves the plateau where it has learnt only how frequent
tokens are. It guesses masked tokens at least twice as well as the commonest token would.

Short sequences come first and long ones at the end, as in BERT's paper. This is what gets a model this small off the
plateau.

Time: bert-tiny, 6,000 steps of 64 sequences of 32, then 128 tokens, about 12 minutes on 2 CPU cores.

    bert_jax train experiments/pretrain.py --workdir runs/pretrain --task.stores runs/store

Other families: --model modernbert-tiny or --model roberta-tiny, with --task.pairs none, or --model electra-tiny, with
--task.pairs none --task.objective rtd. Add --model.initializer-range 0.05. RoBERTa's tokenizer is made by
`bert_jax tokenizer --kind bytelevel`.

At full scale, on a TPU VM or GPU node, change the preset to bert-base with BERT's dropout and initializer_range, the
schedule to ((0.9, 128), (0.1, 512)), and add
--batch-size 256 --steps 1000000 --optimizer.learning-rate 1e-4 --optimizer.warmup-share 0.01 --compute.dtype bfloat16
"""

from bert_jax.config import AdamW, Experiment, Pretraining, preset

experiment = Experiment(
    task=Pretraining(stores=("runs/store",), length_schedule=((0.8, 32), (0.2, 128))),
    model=preset("bert-tiny", vocab_size=0, hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.05),
    optimizer=AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
    batch_size=64,
    steps=6000,
    log_every=50,
    eval_every=1000,
    checkpoint_every=500,
)
