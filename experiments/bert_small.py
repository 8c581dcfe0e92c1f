"""How good a BERT do 20 minutes of one GPU give?

Expected: bert-small (4 layers of 512), pre-trained on books and film reviews with the recipe that did best on small
models, lies above the pre-trained curves of from_scratch_or_pretrained.py and in_domain_or_general.py. SST-2 is in the
middle eighties (published: 89.7, Turc et al. 2019, after far more text).

Time: 20 minutes on one GPU such as an H100 or H200, and 10 for the fine-tunings. Nobody has run it yet. On 2 CPU cores
it takes days: `bert_jax plan` estimates how many.

    bert_jax train experiments/bert_small.py --workdir runs/bert_small

For another size, change the preset. For bert-base, also change the learning rate to 4e-4.
"""

from bert_jax.config import (
    AdamW,
    Compute,
    Experiment,
    Pretraining,
    SequenceClassification,
    TokenClassification,
    preset,
)

MODEL = preset("bert-small", vocab_size=0, hidden_dropout=0.0, attention_dropout=0.0)
BFLOAT16 = Compute(dtype="bfloat16")


def fine_tuning(task: SequenceClassification | TokenClassification) -> Experiment:
    return Experiment(
        task=task,
        init_from="run:pretrain",
        optimizer=AdamW(learning_rate=1e-4, warmup_share=0.1),
        compute=BFLOAT16,
        batch_size=32,
        epochs=3,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
    )


sweep = {
    "pretrain": Experiment(
        task=Pretraining(stores=("runs/stores/books", "runs/stores/imdb"), pairs="none", packing="packed"),
        model=MODEL,
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
        compute=BFLOAT16,
        batch_size=256,
        steps=20_000,
        eval_every=2000,
        checkpoint_every=2000,
    ),
    "sst2": fine_tuning(SequenceClassification("train.jsonl.gz", "dev.jsonl.gz", "data/sst2", packing=True)),
    "film-tags": fine_tuning(
        SequenceClassification(
            "train.jsonl.gz", "dev.jsonl.gz", "data/movie_tags", target="multi_label", label="tags", packing=True
        )
    ),
    "ncbi": fine_tuning(TokenClassification("conll:train.tsv", "conll:devel.tsv", "data/ncbi_disease", packing=True)),
}
