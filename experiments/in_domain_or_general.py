"""Is text of the task's own domain better than the same amount of general text, and does general text first help?

Expected: of two pre-trainings with equal numbers of tokens, the one on text like the task's gives the better fine-tuned
scores, each against books. Film reviews (IMDb's unlabelled texts) before film tags and IMDb's classes. PubMed before
diseases (NCBI) and chemical-protein relations (ChemProt). Expect a few points.

`books-then-biomedical` is BioBERT's way, with half as many steps on the domain. `extended` also has 1,000 new tokens
for the domain's words. Each task has 2,000 labels. Film tags have 4,000: with fewer they are not learnt at all.

Time: bert-tiny, 11 M tokens in each pre-training: 8 to 17 minutes on one CPU core, and 2 to 8 minutes for five seeds
of each fine-tuning.

    bert_jax tokenizer --corpus data/books data/imdb --out runs/tokenizer --vocab-size 8000
    bert_jax prepare --corpus data/imdb/unsup.jsonl.gz --tokenizer runs/tokenizer --out runs/stores/imdb
    bert_jax prepare --corpus data/books --tokenizer runs/tokenizer --out runs/stores/books
    bert_jax prepare --corpus data/biomedical --tokenizer runs/tokenizer --out runs/stores/biomedical
    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only books
    bert_jax extend runs/in_domain_or_general/books runs/extended --corpus data/biomedical
    bert_jax prepare --corpus data/biomedical --tokenizer runs/extended/tokenizer --out runs/stores/extended
    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general

At full scale, change MODEL to preset("bert-base", vocab_size=0), LENGTHS to ((0.9, 128), (0.1, 512)), the batch size to
256, STEPS to 100_000, and the learning rates to 1e-4 and 3e-5.
"""

from dataclasses import replace

from common import MODEL, tiny_pretraining

from bert_jax.config import AdamW, Experiment, Pretraining, SequenceClassification, TokenClassification

LENGTHS = ((0.85, 32), (0.15, 64))
STEPS = 10_000
FEW = {"limit": 2000, "max_length": 64, "eval_limit": 1000}
MORE = FEW | {"limit": 4000}


def pretraining(store: str) -> Experiment:
    task = Pretraining(stores=(f"runs/stores/{store}",), length_schedule=LENGTHS, eval_sequences=1000)
    # what_the_weights_learn.py fine-tunes from the checkpoints.
    return tiny_pretraining(task, STEPS, checkpoint_every=500, keep_checkpoints=20)


def continued(store: str, source: str) -> Experiment:
    return replace(pretraining(store), model=None, init_from=source, steps=STEPS // 2)


def fine_tuning(task: SequenceClassification | TokenClassification, start: str) -> Experiment:
    scratch = start == "random"
    return Experiment(
        task=task,
        model=MODEL if scratch else None,
        tokenizer="runs/tokenizer" if scratch else None,
        init_from=None if scratch else f"run:{start}",
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.1),
        batch_size=32,
        epochs=6,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
        log_every=20,
    )


FILMS = {
    "film-tags": SequenceClassification(
        "train.jsonl.gz", "dev.jsonl.gz", "data/movie_tags", target="multi_label", label="tags", **MORE
    ),
    "imdb": SequenceClassification("train.jsonl.gz", "test.jsonl.gz", "data/imdb", **FEW),
}
MARKERS = ("<<", ">>", "[[", "]]")
BIOMEDICAL = {
    "ncbi": TokenClassification("conll:train.tsv", "conll:devel.tsv", "data/ncbi_disease", overlap=16, **FEW),
    "chemprot": SequenceClassification("train.jsonl.gz", "dev.jsonl.gz", "data/chemprot", markers=MARKERS, **FEW),
}

sweep = {name: pretraining(name) for name in ("books", "imdb", "biomedical")}
sweep["books-then-biomedical"] = continued("biomedical", "run:books")
sweep["extended"] = continued("extended", "runs/extended")
for tasks, starts in (
    (FILMS, ("random", "books", "imdb")),
    (BIOMEDICAL, ("random", "books", "biomedical", "books-then-biomedical", "extended")),
):
    sweep |= {f"{name}-from-{start}": fine_tuning(task, start) for name, task in tasks.items() for start in starts}
