"""What does BERT's recipe reach on SQuAD 1.1 and 2.0, answers as spans of a paragraph?

Expected: bert-base-uncased reaches on the development sets exact match 80.8 and F1 88.5 (1.1), and about 73 and 76
(2.0), where the threshold for no answer is the one fitted there ("best_f1" in result.json), as in the paper.

Time: an hour on one GPU. With MiniLM on one CPU core, 2,000 questions (--task.limit 2000) take half an hour a seed. A
learning rate of 1e-4 suits MiniLM better.

    bert_jax train experiments/squad.py --workdir runs/squad --only v1.1 --task.folder data/squad

The folder holds the official files. From TensorFlow Datasets: --task.train tfds:squad:train
--task.eval tfds:squad:validation, or tfds:squad/v2.0:train and tfds:squad/v2.0:validation.
"""

from bert_jax.config import AdamW, Experiment, QuestionAnswering

REPORT = {"picture": False}


def squad(version: str, unanswerable: bool) -> Experiment:
    return Experiment(
        task=QuestionAnswering(
            folder="data/squad",
            train=f"train-{version}.json",
            eval=f"dev-{version}.json",
            unanswerable=unanswerable,
            packing=True,
        ),
        init_from="hf:google-bert/bert-base-uncased",
        optimizer=AdamW(learning_rate=5e-5, warmup_share=0.1),
        batch_size=32,
        epochs=2,
        eval_every=0,
    )


sweep = {"v1.1": squad("v1.1", unanswerable=False), "v2.0": squad("v2.0", unanswerable=True)}
