"""What do ALBERT's choices cost and save: factorized embeddings, shared layers, sentence order for next sentence?

Claim: at this size and so few tokens, shared layers save parameters and cost nothing; narrower embeddings save most of
them, and cost MLM accuracy and the fine-tuned score more than another seed does; without a sentence pair to tell, the
model is slower to leave the plateau where it only knows how frequent words are, with sentence order in between.
The fine-tuned score is that of entities (CoNLL-2003), which sees so small a pre-training; sentences' classes do not.
Equal steps are compared by the final figures; for equal time `python tools/benchmark.py sweep
experiments/albert_choices.py` measures a step of each model in turn, and the curves say where each was by then.
Time: a tiny model, 1.9 M tokens each: about three minutes on one CPU core, and two more for five seeds.

    bert_jax train experiments/albert_choices.py --workdir runs/albert_choices
    bert_jax report runs/albert_choices --out albert_choices.html

At full scale, change MODEL to preset("bert-base", vocab_size=0) and the sizes to 64, 128 and 256, the lengths to 128 or
512, STEPS to 100_000, and the learning rates to 1e-4 and 3e-5.
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

bert = Experiment(
    task=Pretraining(stores=("runs/stores/imdb",), sequence_length=32, eval_sequences=1000),
    model=MODEL,
    optimizer=Optimizer(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
    batch_size=32,
    steps=STEPS,
    log_every=100,
    eval_every=1000,
    checkpoint_every=1000,
    keep_checkpoints=1,
)
FEW = {"limit": 2000, "eval_limit": 1000, "max_length": 32, "overlap": 8, "packing": True}
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
sweep = {
    "bert": bert,
    "bert-again": replace(bert, seed=1),  # by so much pre-trainings differ that differ in nothing
    "embedding-64": replace(bert, model=replace(MODEL, embedding_size=64)),
    "embedding-32": replace(bert, model=replace(MODEL, embedding_size=32)),
    "shared": replace(bert, model=replace(MODEL, num_layer_groups=1)),
    "shared-embedding-32": replace(bert, model=replace(MODEL, num_layer_groups=1, embedding_size=32)),
    "sop": replace(bert, task=replace(bert.task, pairs="sop")),
    "no-pairs": replace(bert, task=replace(bert.task, pairs="none")),
}
sweep |= {f"entities-from-{name}": replace(tuned, init_from=f"run:{name}") for name in list(sweep)}
sweep["entities-from-random"] = replace(tuned, model=MODEL, tokenizer="runs/tokenizer")
