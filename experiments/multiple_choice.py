"""What does BERT's recipe for SWAG reach on multiple choice: which of four sentences follows (CODAH, SWAG)?

Expected: bert-base-uncased reaches 81.6 on SWAG's development set. CODAH was written to be hard for BERT, and from
1,665 questions alone a base model stays near the 25 of chance.

Time: SWAG an hour on one GPU. CODAH's 1,665 questions with MiniLM take twelve minutes a seed on one CPU core. A
learning rate of 1e-4 suits MiniLM better.

    bert_jax train experiments/multiple_choice.py --workdir runs/multiple_choice --only codah --task.folder data/codah
    bert_jax train experiments/multiple_choice.py --workdir runs/multiple_choice --only swag --task.folder data/swag
"""

from bert_jax.config import AdamW, Experiment, MultipleChoice

REPORT = {"picture": False}

RECIPE = {
    "init_from": "hf:google-bert/bert-base-uncased",
    "optimizer": AdamW(learning_rate=2e-5, warmup_share=0.1),
    "batch_size": 16,
    "epochs": 3,
    "seeds": 3,
}
sweep = {
    "codah": Experiment(
        task=MultipleChoice(folder="data/codah", train="train.jsonl.gz", eval="dev.jsonl.gz", packing=True), **RECIPE
    ),
    "swag": Experiment(
        task=MultipleChoice(
            folder="data/swag",
            train="train.csv",
            eval="val.csv",
            context="startphrase",
            choices=("ending0", "ending1", "ending2", "ending3"),
            max_length=128,
            packing=True,
        ),
        **RECIPE,
    ),
}
