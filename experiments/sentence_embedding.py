"""What do pre-training on books and reviews, SimCSE and labelled pairs each give for similarity and retrieval?

Expected: pre-training gives most. With the same labelled pairs, the small pre-trained model is at least ten points of
Spearman ahead of the same model with random weights, and finds at least twice as many paragraphs. Labelled pairs give
at least ten points of Spearman over SimCSE alone. SimCSE before the pairs adds less than two points. A model of
MiniLM's size with random weights is behind the small pre-trained one, because in the same time it takes a seventh of
its steps. All stay far behind MiniLM, which has learned from a billion pairs.

SimCSE learns from single sentences: a sentence is a pair with itself, under other dropout. Pairs are scored ones
(STS-B, SICK), paraphrases (MRPC), and 4,284 questions with their paragraphs (SQuAD). Spearman is the mean over the sets
of STS 2012 to 2015, SICK and STS-B. nDCG@10 is of 2,067 questions of SQuAD's development set, each of which looks for
its paragraph among as many. Three seeds; the runs after SimCSE begin with its first one. Texts have 64 tokens at most.

Time: on 2 CPU cores that did other work too, 40 minutes for the pre-training, 5 to 10 for three seeds of each small
model and 15 to 20 for the large one.

    bert_jax tokenizer --corpus data/books data/imdb --out runs/tokenizer --vocab-size 8000
    bert_jax prepare --corpus data/imdb/unsup.jsonl.gz --tokenizer runs/tokenizer --out runs/stores/imdb
    bert_jax prepare --corpus data/books/part-0.jsonl.gz --tokenizer runs/tokenizer --out runs/stores/books
    python tools/embedding_data.py data runs/embedding
    bert_jax train experiments/sentence_embedding.py --workdir runs/sentence_embedding

At full scale, pre-train BERT-base with `recipe("bert")`, and learn from a million sentences and all of NLI's pairs.
"""

from dataclasses import replace
from typing import Any

from bert_jax.config import AdamW, BertConfig, Experiment, SentenceEmbedding, recipe

REPORT = {
    "picture": False,
    "figures": ("mean_spearman", "ndcg_at_10", "mlm_accuracy"),
    "columns": ("parameters", "steps"),
}
STEPS, FEW = 320, 45  # of the small model, and of one of MiniLM's size in the same time
pretraining = recipe("fast", stores=("runs/stores/books", "runs/stores/imdb"), steps=1500, eval_sequences=1000)
assert pretraining.model is not None
SMALL = replace(pretraining.model, hidden_dropout=0.1, attention_dropout=0.1)
LARGE = BertConfig(vocab_size=0, hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536)


def learning(rows: str, steps: int, **start: Any) -> Experiment:
    """Returns a training on `rows` of runs/embedding that begins with `start`, fields of `Experiment`."""
    return Experiment(
        task=SentenceEmbedding(
            train=f"{rows}.jsonl",
            eval="eval.jsonl",
            folder="runs/embedding",
            score_range=(0.0, 5.0),
            max_length=64,
            packing=True,
        ),
        optimizer=AdamW(learning_rate=5e-4, warmup_share=0.1),
        batch_size=64,
        steps=steps,
        seeds=3,
        eval_every=0,
        checkpoint_every=0,
        log_every=20,
        **start,
    )


starts: dict[str, dict[str, Any]] = {
    "pretrained": {"model": SMALL, "init_from": "run:pretrain"},
    "small": {"model": SMALL, "tokenizer": "runs/tokenizer"},
    "large": {"model": LARGE, "tokenizer": "runs/tokenizer"},
}
sweep = {"pretrain": pretraining}
sweep |= {f"pairs-from-{name}": learning("train", STEPS, **starts[name]) for name in ("pretrained", "small")}
for name, steps in (("pretrained", STEPS), ("large", FEW)):
    sweep[f"simcse-from-{name}"] = learning("sentences", steps, **starts[name])
    after = {"model": starts[name]["model"], "init_from": f"run:simcse-from-{name}/seed-0"}
    sweep[f"pairs-after-simcse-from-{name}"] = learning("train", steps, **after)
