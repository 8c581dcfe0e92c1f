"""What does a tiny model learn from ten million words, read ten times, and when?

Expected: everything rises with the logarithm of the words read, and nothing stops rising within a hundred million.
BLiMP goes from 50 % at random weights to between 60 and 65 %: well below the 70.4 % of BabyLM's 2025 baseline
(GPT-BERT, ten passes over 10 M words), which has some thirty times as many parameters and other text. Diseases (NCBI)
gain most, about 20 points of F1, and most of it within the first pass. The class of a sentence (SST-2) gains about ten
points, and later. Film tags gain a few.

The words are counted by spaces, as BabyLM counts them. `sst2-after-5` is fine-tuned from the checkpoint after five
million words. All texts are cut at 64 tokens, the length of the pre-training.

Time: 138 minutes on one core for the pre-training, and up to a minute for a seed of a fine-tuning.

    for part in data/books/*.gz; do zcat $part | head -n 1100; done > runs/books-10m.jsonl
    bert_jax tokenizer --corpus runs/books-10m.jsonl --out runs/tokenizer --vocab-size 8192
    bert_jax prepare --corpus runs/books-10m.jsonl --tokenizer runs/tokenizer --out runs/store
    bert_jax train experiments/ten_million_words.py --workdir runs/ten_million_words
    bert_jax score runs/ten_million_words/pretraining@335 --input data/blimp/blimp.jsonl.gz > pairs/335.json
    python tools/results.py collect runs/ten_million_words --pairs pairs

`pairs/335.json` belongs to the checkpoint after a million words; every tenth pair of each of BLiMP's sets was scored.

At full scale, add --only pretraining --model ettin-17m --model.vocab-size 0 --optimizer.learning-rate 1e-3 to the last
line, and then run it again without.
"""

from dataclasses import replace

from bert_jax.config import AdamW, Experiment, Muon, SequenceClassification, TokenClassification, recipe

REPORT = {"curves": r"(?P<panel>.+)-after-(?P<x>\d+)", "x": "million words read"}
WORDS = (1, 2, 5, 10, 20, 50, 100)  # millions read, where tasks are fine-tuned
MILLION = 335  # steps for a million words: 1,371,635 tokens, of which 1 % are held out, in rows of 64 tokens

pretraining = recipe(
    "fast",
    stores=("runs/store",),
    sequence_length=64,
    eval_sequences=1000,
    batch_size=64,
    optimizer=Muon(learning_rate=3e-3, rms=0.6, warmup_share=0.05, b2=0.98),
    steps=100 * MILLION,
    log_every=MILLION,
    eval_every=MILLION,
    checkpoint_every=MILLION,
    keep_checkpoints=100,
)
FEW = {"max_length": 64, "limit": 4000, "eval_limit": 1000}
TASKS = {
    "sst2": SequenceClassification("train.jsonl.gz", "dev.jsonl.gz", "data/sst2", packing=True, **FEW),
    "ncbi": TokenClassification("conll:train.tsv", "conll:devel.tsv", "data/ncbi_disease", overlap=16, **FEW),
    "film-tags": SequenceClassification(
        "train.jsonl.gz", "dev.jsonl.gz", "data/movie_tags", target="multi_label", label="tags", **FEW
    ),
}


def fine_tuning(task: SequenceClassification | TokenClassification, million_words: int) -> Experiment:
    start = Experiment(
        task=task,
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.1),
        batch_size=32,
        epochs=4,
        seeds=3,
        eval_every=0,
        checkpoint_every=0,
        log_every=50,
    )
    if not million_words:
        return replace(start, model=pretraining.model, tokenizer="runs/tokenizer")
    return replace(start, init_from=f"runs/ten_million_words/pretraining@{million_words * MILLION}")


sweep = {"pretraining": pretraining} | {
    f"{name}-after-{millions}": fine_tuning(task, millions) for name, task in TASKS.items() for millions in (0, *WORDS)
}
