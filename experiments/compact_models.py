"""How does a compact model learn best: by pre-training, by distillation, or by one after the other?

Expected: pre-training, then distillation on unlabelled text beats each alone (Turc et al. 2019, "Well-Read Students").

The teacher is MiniLM (6 layers of 384), fine-tuned on 1,000 labels. The students learn from the same 1,000 labels, or
from the teacher's answers for 10,000 texts, whose own labels are not used.

Time: on 2 CPU cores, the teacher 2 minutes, its answers 1 minute for each student, five seeds of a student 2 minutes.

    bert_jax convert hf:sentence-transformers/all-MiniLM-L6-v2 runs/minilm
    bert_jax train experiments/in_domain_or_general.py --workdir runs/in_domain_or_general --only imdb
    bert_jax train experiments/compact_models.py --workdir runs/compact_models

At full scale the teacher is bert-large, the students are bert-tiny to bert-medium, each pre-trained first, and there is
as much transfer text as possible.
"""

from bert_jax.config import AdamW, Distillation, Experiment, SequenceClassification, preset

FILES = {"folder": "data/sst2", "eval": "dev.jsonl.gz", "max_length": 64, "packing": True}
LABELLED = {"train": "train.jsonl.gz", "limit": 1000}
STUDENT = preset("bert-tiny", vocab_size=0, max_position_embeddings=64, initializer_range=0.05)


def student(task: SequenceClassification, pretrained: bool) -> Experiment:
    return Experiment(
        task=task,
        model=STUDENT,
        tokenizer="runs/tokenizer",
        init_from="runs/in_domain_or_general/imdb" if pretrained else None,
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.1),
        batch_size=32,
        steps=600,
        seeds=5,
        eval_every=0,
        checkpoint_every=0,
        log_every=50,
    )


labels = SequenceClassification(**FILES, **LABELLED)
taught = Distillation(**FILES, unlabelled="train.jsonl.gz", unlabelled_limit=10_000, teacher="run:teacher")
sweep = {
    "teacher": Experiment(
        task=labels,
        init_from="runs/minilm",
        optimizer=AdamW(learning_rate=1e-4, warmup_share=0.1),
        batch_size=16,
        epochs=3,
        eval_every=0,
        checkpoint_every=0,
    ),
    "labels-alone": student(labels, pretrained=False),
    "pre-training": student(labels, pretrained=True),
    "distillation": student(taught, pretrained=False),
    "pre-training-then-distillation": student(taught, pretrained=True),
}
