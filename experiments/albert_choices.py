"""What do ALBERT's choices cost and save: factorized embeddings, shared layers, sentence order?

Expected: narrower embeddings and shared layers save most of the parameters. Sharing costs MLM accuracy and no time.
Narrow embeddings cost little and save time in the MLM head. Sentence order is the harder of the two pair tasks.

The fine-tuned score is the F1 of entities (CoNLL-2003). The final figures compare equal numbers of steps. For equal
time, `python tools/benchmark.py sweep experiments/albert_choices.py` measures a step of each model in turn.

Time: bert-tiny, 1.9 M tokens each: three minutes on one CPU core, and two more for five seeds of the fine-tuning.

    bert_jax train experiments/albert_choices.py --workdir runs/albert_choices
    bert_jax report runs/albert_choices --out albert_choices.html

At full scale, change MODEL to preset("bert-base", vocab_size=0), the sizes to 64, 128 and 256, the lengths to 128 or
512, the steps to 100_000, and the learning rates to 1e-4 and 3e-5. The store is made as in in_domain_or_general.py.
"""

from dataclasses import replace

from common import MODEL, entities_probe, tiny_pretraining

from bert_jax.config import Pretraining

REPORT = {"columns": ("parameters",)}

bert = tiny_pretraining(Pretraining(("runs/stores/imdb",), sequence_length=32, eval_sequences=1000), steps=2000)
sweep = {
    "bert": bert,
    "bert-again": replace(bert, seed=1),  # shows how much pre-trainings with the same settings differ
    "embedding-64": replace(bert, model=replace(MODEL, embedding_size=64)),
    "embedding-32": replace(bert, model=replace(MODEL, embedding_size=32)),
    "shared": replace(bert, model=replace(MODEL, num_layer_groups=1)),
    "shared-embedding-32": replace(bert, model=replace(MODEL, num_layer_groups=1, embedding_size=32)),
    "sop": replace(bert, task=replace(bert.task, pairs="sop")),
    "no-pairs": replace(bert, task=replace(bert.task, pairs="none")),
}
sweep |= {f"entities-from-{name}": entities_probe(init_from=f"run:{name}") for name in list(sweep)}
sweep["entities-from-random"] = entities_probe(model=MODEL, tokenizer="runs/tokenizer")
