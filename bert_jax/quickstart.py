"""`bert_jax quickstart`: text, vocabulary, pre-training, fine-tuning with and without pre-training, a report.

The text is the documentation in the source files of the installed Python packages and the standard library. Nothing is
downloaded.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from bert_jax import files, report, samples, storage, tokenizers
from bert_jax.config import AdamW, Experiment, Pretraining, SequenceClassification, preset
from bert_jax.data.prepare import prepare
from bert_jax.predict import load
from bert_jax.runs import layout
from bert_jax.samples import LABELS, Document
from bert_jax.training.train import train

SEEDS = 5  # fine-tuning runs from each start
VOCAB_SIZE = 4096
LENGTH = 32  # tokens in a row, in pre-training and fine-tuning: a position that was never trained is useless later
# Steps per minute on two cores. A run is repeatable because it counts steps, not seconds.
STEPS_PER_MINUTE = 1800


def write_tfds(folder: files.Path, sets: dict[str, list[Document]]) -> files.Path:
    """Writes the labelled sets as a data set of TensorFlow Datasets, and returns its folder."""
    import tensorflow_datasets as tfds  # slow to import, and needed only here

    class LibraryDocs(tfds.core.GeneratorBasedBuilder):
        """Descriptions of functions and classes, labelled with the library they come from."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=LABELS)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(documents) for split, documents in sets.items()}

        def _generate_examples(self, documents: list[Document]) -> Iterator[Any]:
            for number, document in enumerate(documents):
                yield number, {"text": document.text, "label": document.library}

    tfds.disable_progress_bar()
    with storage.filling(folder) as local:  # TFDS writes its files on a local disk only
        builder = LibraryDocs(data_dir=str(local), file_format="array_record")
        builder.download_and_prepare()
        return folder / files.Path(builder.data_dir).relative_to(local)


def pretraining(store: files.Path, minutes: float, seed: int) -> Experiment:
    """Returns the pre-training experiment: MLM and NSP for about `minutes` on two cores.

    At first, a model learns only how frequent words are. With sequences of 32 tokens, this small model gets past that
    plateau within 1,000 steps; with 64 tokens it had not after 3,000. The initial weights are larger than BERT's 0.02,
    which suits widths of 768 and more.
    """
    steps = max(20, round(minutes * STEPS_PER_MINUTE))
    return Experiment(
        task=Pretraining(stores=(str(store),), sequence_length=LENGTH, held_out=0.02, eval_sequences=1000),
        model=preset(
            "bert-tiny",
            vocab_size=0,
            max_position_embeddings=LENGTH,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            initializer_range=0.05,
        ),
        optimizer=AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
        batch_size=32,
        steps=steps,
        seed=seed,
        log_every=max(1, steps // 60),
        eval_every=max(1, steps // 6),
        checkpoint_every=max(1, steps // 6),
    )


def fine_tuning(pretrained: files.Path, labelled: files.Path, start: str, seed: int) -> Experiment:
    """Returns a fine-tuning experiment. Only the first weights differ: pre-trained or random."""
    model = replace(load(pretrained).config, classifier_dropout=0.1, hidden_dropout=0.1)
    return Experiment(
        task=SequenceClassification(
            train=f"tfds:{labelled}:train", eval=f"tfds:{labelled}:test", labels=LABELS, max_length=LENGTH
        ),
        model=model,
        tokenizer=str(pretrained / layout.TOKENIZER),
        init_from=str(pretrained) if start == "pre-trained" else None,
        optimizer=AdamW(learning_rate=2e-3, warmup_share=0.1),
        batch_size=16,
        epochs=20,
        seed=seed,
        log_every=16,
        eval_every=64,
        checkpoint_every=10_000,
    )


BLANKS = (
    "Returns the number of [MASK] in the array.",
    "If True, a copy of the [MASK] is returned.",
    "Raises an error if the [MASK] is not valid.",
    "Fit the [MASK] to the training data.",
)


def quickstart(workdir: files.Path, minutes: float = 5.0, seed: int = 0) -> dict[str, Any]:
    """Runs all stages in `workdir`, prints the results and returns them. A second call continues an interrupted one."""
    console = Console()
    say = console.print
    files.make_folder(workdir)

    say("[bold]1. Text[/]: the documentation inside the installed Python packages")
    documents = samples.documents()
    sets = samples.labelled_sets(documents)
    labelled_texts = {d.text for documents in sets.values() for d in documents}
    corpus = workdir / "corpus.jsonl"
    texts = [d.text for d in documents if samples.description(d.text) not in labelled_texts]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    say(f"   {len(texts):,} documents, {sum(map(len, texts)) / 1e6:.1f} MB to pre-train on")
    labelled = write_tfds(workdir / "tfds", sets)
    say(f"   {len(sets['train'])} + {len(sets['test']):,} labelled descriptions, not used in pre-training: {labelled}")

    say(f"[bold]2. Vocabulary[/]: {VOCAB_SIZE:,} WordPieces, and the text as a token store")
    if not (workdir / "tokenizer").exists():
        tokenizers.train("wordpiece", texts, VOCAB_SIZE).save(workdir / "tokenizer")
    prepare([str(corpus)], workdir / "tokenizer", workdir / "store")

    experiment = pretraining(workdir / "store", minutes, seed)
    say(f"[bold]3. Pre-training[/]: {experiment.steps:,} steps of MLM and NSP, about {minutes:g} minutes on two cores")
    pretrained = train(experiment, workdir / "pretrain", say=say)["metrics"]

    accuracies: dict[str, list[float]] = {}
    for start in ("pre-trained", "random"):
        say(f"[bold]4. Fine-tuning[/] from {start} weights, {SEEDS} seeds: which library is described?")
        for number in range(SEEDS):
            folder = workdir / "finetune" / f"{start}-{number}"
            tuned = train(fine_tuning(workdir / "pretrain", labelled, start, seed + number), folder, say=quiet)
            if "metrics" not in tuned:
                raise SystemExit("Stopped; run the same command to continue")
            accuracies.setdefault(start, []).append(tuned["metrics"]["accuracy"])
            say(f"   seed {seed + number}: accuracy {accuracies[start][-1]:.1%}")

    blanks = guesses(workdir / "pretrain")
    rows = summary(pretrained, accuracies)
    show(console, rows, blanks)
    notes = {
        "tables": [{"title": "What pre-training gained", "columns": ["figure", "value", "compare"], "rows": rows}],
        "texts": [{"title": "Filling in blanks", "lines": blanks}],
    }
    files.write_json(workdir / layout.NOTES, notes)
    report.report([workdir], workdir / "report.html")
    say(f"Full report with curves: {workdir / 'report.html'}")
    return {"pretrained": pretrained, "accuracy": accuracies}


def quiet(text: str) -> None:
    """Prints nothing."""


def guesses(pretrained: files.Path) -> list[str]:
    """Returns one line per blank with the pre-trained model's most probable tokens."""
    bert = load(pretrained)
    lines = []
    for text in BLANKS:
        best = ", ".join(f"{token} {probability:.0%}" for token, probability in bert.fill_mask(text, 4))
        lines.append(f"{text}  ->  {best}")
    return lines


def summary(pretrained: dict[str, float], accuracies: dict[str, list[float]]) -> list[list[str]]:
    """Returns the rows of the final table: figure, value, what to compare it with."""

    def spread(start: str) -> str:
        scores = accuracies[start]
        return f"{statistics.mean(scores):.1%} ± {statistics.stdev(scores):.1%}"

    return [
        [
            "MLM accuracy",
            f"{pretrained['mlm_accuracy']:.1%}",
            f"{pretrained['unigram_accuracy']:.1%} by token frequency",
        ],
        ["NSP accuracy", f"{pretrained['pair_accuracy']:.1%}", "50.0% by chance"],
        ["library accuracy, pre-trained", spread("pre-trained"), f"{1 / len(LABELS):.1%} by chance"],
        ["library accuracy, random", spread("random"), f"same {SEEDS} seeds, data and steps"],
    ]


def show(console: Console, rows: list[list[str]], blanks: list[str]) -> None:
    """Prints the final table and the filled blanks."""
    table = Table("figure", "value", "compare", title="What pre-training gained")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in blanks:
        console.print("  " + line, highlight=False, markup=False)
