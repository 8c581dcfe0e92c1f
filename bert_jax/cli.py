"""The command line: parsing only. Bad input is one line on stderr and exit code 2."""

import dataclasses
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bert_jax import sweeps
from bert_jax.config import Experiment
from bert_jax.errors import InputError

Paths = tuple[str, ...]


def tokenizer(
    corpus: Paths,
    out: Path,
    kind: Literal["wordpiece", "sentencepiece"] = "wordpiece",
    vocab_size: int = 30522,
    lowercase: bool = True,
    model_type: Literal["unigram", "bpe"] = "unigram",
    sample_mb: float = 100.0,
    seed: int = 0,
) -> None:
    """Trains a vocabulary on text files.

    Args:
        corpus: Text, as for `bert_jax prepare`.
        out: Folder for the tokenizer; Hugging Face reads it too.
        kind: WordPiece as in BERT, or SentencePiece as in ALBERT.
        vocab_size: Pieces in the vocabulary, special tokens included.
        lowercase: Whether case and accents are dropped before splitting.
        model_type: With --kind sentencepiece: how pieces are chosen.
        sample_mb: Train on a random sample of at most so many megabytes of text.
        seed: Of that sample.
    """
    from bert_jax import tokenizers
    from bert_jax.data import corpus as corpora

    texts = corpora.sample(corpora.documents(corpus), int(sample_mb * 1e6), seed)
    options: dict[str, Any] = {"model_type": model_type} if kind == "sentencepiece" else {}
    trained = tokenizers.train(kind, texts, vocab_size, lowercase=lowercase, **options)
    trained.save(out)
    print(f"{out}: {kind} tokenizer with {trained.vocab_size:,} pieces")


def prepare(
    corpus: Paths,
    tokenizer: Path,
    out: Path,
    workers: int = 1,
    drop_duplicates: bool = False,
    runner: str | None = None,
    shards: str | None = None,
    beam_options: Paths = (),
) -> None:
    """Tokenises text files once, into a token store for pre-training.

    Masking, sentence pairs, lengths and packing are not decided here but by the experiment, when it reads the store. An
    interrupted run of this command goes on where it stopped when it is given again.

    Args:
        corpus: Files, folders or globs: text with a blank line between documents, JSON lines or Parquet with a "text"
            field; the first two also as .gz or .zst. Or tfds:NAME:SPLIT, such as tfds:wikipedia/20230601.en:train[:1%].
        tokenizer: Folder written by `bert_jax tokenizer`, or a Hugging Face tokenizer's.
        out: Folder for the token store.
        workers: Processes that tokenise.
        drop_duplicates: Whether documents that were seen before are left out; they are counted in any case.
        runner: Prepare on Apache Beam, on this runner (DirectRunner, DataflowRunner, ...); needs the extra `beam`.
        shards: With --runner: folder that all of its workers can write to; beside --out if left out.
        beam_options: With --runner: Beam's own options without their dashes, such as project=NAME region=europe-west1.
    """
    if runner is None:
        if shards is not None or beam_options:
            raise InputError("--shards and --beam-options are for Beam; name its --runner too")
        from bert_jax.data import prepare as preparing

        progress = preparing.progress_printer()
        header = preparing.prepare(
            corpus, tokenizer, out, workers=workers, drop_duplicates=drop_duplicates, progress=progress
        )
    else:
        if workers != 1:
            raise InputError("--workers is for preparing on this machine; with --runner, Beam's options say how many")
        from bert_jax.data import beam

        options = [f"--{option}" for option in (f"runner={runner}", *beam_options)]
        header = beam.prepare(corpus, tokenizer, out, options=options, shards=shards, drop_duplicates=drop_duplicates)
    for name, value in header["summary"].items():
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value}")


@dataclass(frozen=True)
class _Train:
    """An experiment and where it runs."""

    workdir: Path  # folder of the run (of a sweep: one folder in it for each experiment); made, or continued
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    several_hosts: bool = False  # this process is one of several: of a TPU pod, GPU nodes, or by JAX_... variables
    profile: tuple[int, int] | None = None  # first and last step of a trace for TensorBoard or Perfetto, in the workdir


@dataclass(frozen=True)
class _Plan:
    """An experiment and where it might run."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    accelerator: str = "cpu"  # such as h100, a100, v4, v5e; cpu is this machine
    devices: int = 1  # how many of them
    mfu: float = 0.4  # share of their peak that the run is expected to reach


TRAIN_USAGE = """usage: bert_jax train EXPERIMENT.py --workdir DIR [FLAGS]

Runs an experiment file: pre-training, continued pre-training, fine-tuning or distillation. Given again with the same
workdir, it continues from the last checkpoint. A file that defines `sweep` runs all of its experiments, each in a
folder of its name in the workdir, where run:NAME as a source is another of them; --only NAME picks one. Every field of
the experiment is a flag, such as --model.num-layers 4; `bert_jax train EXPERIMENT.py --help` lists them."""


PLAN_USAGE = """usage: bert_jax plan EXPERIMENT.py --accelerator NAME --devices N [--mfu SHARE] [FLAGS]

Says what a run would take without running it: parameters, memory on each device, operations, hours. Flags are those of
`bert_jax train`; `bert_jax plan EXPERIMENT.py --help` lists them."""


def train(args: Sequence[str]) -> None:
    """Runs an experiment file, or continues it."""
    parsed = _parse_experiments("train", args, _Train, {"workdir": tyro.MISSING}, TRAIN_USAGE)

    from bert_jax import runtime
    from bert_jax.training.train import train as run

    if any(options.several_hosts for options in parsed.values()):
        runtime.join_hosts()
    for name, options in parsed.items():
        experiment = sweeps.for_training(options.experiment, options.workdir)
        result = run(experiment, options.workdir / name, profile=options.profile)
        if runtime.is_first_host():
            figures = {**result.get("metrics", {}), **({"spread": result["spread"]} if "spread" in result else {})}
            print(json.dumps({"experiment": name or args[0], "step": result.get("step"), **figures}))


def plan(args: Sequence[str]) -> None:
    """Says what a run would take: memory, operations, hours."""
    parsed = _parse_experiments("plan", args, _Plan, {}, PLAN_USAGE)
    if not parsed:
        return

    from bert_jax.plan import plan as run
    from bert_jax.runtime import pretend_devices

    pretend_devices(max(options.devices for options in parsed.values()))
    sweep = sweeps.load_experiments(args[0])
    for name, options in parsed.items():
        if name:
            print(name)
        print(run(sweeps.for_planning(options.experiment, sweep), options.accelerator, options.devices, options.mfu))


def _parse_experiments(
    command: str, args: Sequence[str], kind: Any, fields: dict[str, Any], usage: str
) -> dict[str, Any]:
    """Returns the parsed options, a `kind`, of each experiment by its name; empty if only the usage was asked for."""
    if not args or args[0].startswith("-"):
        print(usage)
        if not args or args[0] not in ("-h", "--help"):
            raise InputError("the first argument must be an experiment file")
        return {}
    path, flags = args[0], args[1:]
    # --init-from decides which model the flags --model... change, so it is read before the others.
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--init-from")
    first.add_argument("--only")
    early, rest = first.parse_known_args(flags)
    sweep = sweeps.load_experiments(path)
    parsed = {}
    for name, experiment in sweeps.select(sweep, early.only, path).items():
        if early.init_from is not None:
            experiment = dataclasses.replace(experiment, init_from=early.init_from)
        if any(flag.startswith("--model.") for flag in rest):
            experiment = dataclasses.replace(experiment, model=sweeps.model_of(experiment, sweep))
        parsed[name] = tyro.cli(
            kind,
            config=(tyro.conf.AvoidSubcommands,),
            default=kind(experiment=experiment, **fields),
            args=rest,
            prog=f"bert_jax {command} {path}",
        )
    return parsed


def evaluate(source: Annotated[str, tyro.conf.Positional], data: str | None = None) -> None:
    """Evaluates a trained model; prints its metrics, and stores them beside a run.

    Args:
        source: Anything that holds weights and a task: a run's workdir.
        data: Rows to evaluate on, in the format of the training rows; the run's own evaluation rows if left out.
    """
    from bert_jax.predict import evaluate_source

    print(json.dumps(evaluate_source(source, data), indent=2))


def predict(source: Annotated[str, tyro.conf.Positional], input: str = "-") -> None:
    """Answers JSON lines: with the run's task, or, for a pre-training run, the likeliest pieces for each [MASK].

    Args:
        source: Anything that holds weights: a run's workdir.
        input: A file of JSON lines with the fields that the task reads (such as "text"); - for standard input.
    """
    from bert_jax.predict import predict_lines

    with sys.stdin if input == "-" else _open(input) as lines:
        for answer in predict_lines(source, lines, "stdin" if input == "-" else input):
            print(json.dumps(answer, ensure_ascii=False))


def convert(
    source: Annotated[str, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    to: Literal["huggingface", "orbax"] = "huggingface",
    strict: bool = True,
) -> None:
    """Writes any checkpoint that can be read as a Hugging Face folder, or as one for Orbax.

    Args:
        source: A run's workdir, a Hugging Face folder, hf:org/name, or a Google BERT or ALBERT TensorFlow checkpoint.
        target: The folder to write; it must not exist yet, or be empty.
        to: What `transformers` loads, or a workdir with one checkpoint.
        strict: Whether a tensor that nobody knows is an error; --no-strict leaves it out.
    """
    from bert_jax.pretrained import open_source, write_source

    write_source(open_source(source, strict=strict), target, to)
    print(f"wrote {target}")


def extend(
    source: Annotated[str, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    corpus: Paths,
    num_tokens: int = 1000,
    to: Literal["huggingface", "orbax"] = "orbax",
    sample_mb: float = 100.0,
    seed: int = 0,
) -> None:
    """Adds tokens for a domain to a model's WordPiece vocabulary, for further pre-training.

    Args:
        source: Anything that holds weights and a WordPiece vocabulary.
        target: The folder to write; it must not exist yet, or be empty.
        corpus: Files of the domain, as for `bert_jax prepare`.
        num_tokens: Number of tokens to add.
        to: A workdir with one checkpoint, or what `transformers` loads.
        sample_mb: Learn from a random sample of at most so many megabytes of text.
        seed: Of that sample.
    """
    from bert_jax.data import corpus as corpora
    from bert_jax.pretrained import extend_vocabulary, open_source, write_source

    texts = corpora.sample(corpora.documents(corpus), int(sample_mb * 1e6), seed)
    extended, learnt = extend_vocabulary(open_source(source), texts, num_tokens)
    write_source(extended, target, to)
    print(f"wrote {target}: {len(learnt.pieces):,} new tokens, such as {', '.join(learnt.pieces[:8])}")
    print(f"tokens per word: {learnt.tokens_per_word_before:.3f} before, {learnt.tokens_per_word_after:.3f} after")


def _open(path: str) -> Any:
    try:
        return open(path, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def report(
    workdirs: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path = Path("report.html"), watch: bool = False
) -> None:
    """Writes one HTML page with the curves and tables of one run or several, side by side.

    Args:
        workdirs: Workdirs of runs, or folders of such.
        out: The page to write.
        watch: Follow one running workdir in the terminal instead.
    """
    from bert_jax import report as reports

    if watch:
        reports.watch(workdirs[0])
        return
    reports.report(workdirs, out)
    reports.print_summary(workdirs)
    print(f"wrote {out}")


def quickstart(workdir: Path = Path("runs/quickstart"), minutes: float = 5.0, seed: int = 0) -> None:
    """Pre-trains and fine-tunes a small BERT on text that is on every machine, and shows what that gained.

    Args:
        workdir: Folder for everything it makes.
        minutes: Length of the pre-training, at the speed of a machine with 2 cores. The number of steps follows from it
            alone, so that the same seed gives the same figures however busy the machine is.
        seed: Of everything random.
    """
    from bert_jax.quickstart import quickstart as run

    run(workdir, minutes, seed)


COMMANDS: dict[str, Callable[..., Any]] = {
    "quickstart": quickstart,
    "tokenizer": tokenizer,
    "prepare": prepare,
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "predict": predict,
    "convert": convert,
    "extend": extend,
    "report": report,
}


def _usage() -> str:
    lines = ["usage: bert_jax COMMAND [--help] ...", ""]
    lines += [f"  {name:11} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


def run(args: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        raise InputError(f"no command is called {args[0]!r}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[args[0]]
    if command in (train, plan):
        command(args[1:])
    else:
        tyro.cli(command, args=list(args[1:]), prog=f"bert_jax {args[0]}")
    return 0


def main() -> None:
    """The console script `bert_jax`."""
    try:
        code = run(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
