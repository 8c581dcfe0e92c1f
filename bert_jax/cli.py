"""The command line: parsing only. Bad input is one line on stderr and exit code 2."""

import gc
import posixpath
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import tyro

from bert_jax import flags, memory, sweeps
from bert_jax.bulk_commands import Path, Paths, SourceArgument, TaskFlags, embed, predict, say_on_stderr
from bert_jax.config import Experiment
from bert_jax.config.ranges import COUNT, POSITIVE, RANGES, Range, check_range
from bert_jax.errors import InputError


def tokenizer(
    corpus: Paths,
    out: Path,
    kind: Literal["wordpiece", "sentencepiece", "bytelevel"] = "wordpiece",
    vocab_size: int = 30522,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    alphabet_limit: int | None = None,
    model_type: Literal["unigram", "bpe"] = "unigram",
    add_prefix_space: bool = False,
    sample_mb: float = 100.0,
    seed: int = 0,
) -> None:
    """Trains a vocabulary on text files.

    Args:
        corpus: Text, as for `bert_jax prepare`.
        out: Folder for the tokenizer; Hugging Face reads it too.
        kind: WordPiece as in BERT, SentencePiece as in ALBERT, or byte-level BPE as in RoBERTa and ModernBERT.
        vocab_size: Number of tokens in the vocabulary, special tokens included.
        lowercase: Lowercase the text first. Byte-level BPE never does, and keeps accents.
        strip_accents: Remove accents first. By default they are removed from text that is lowercased, unless it is in a
            script whose vowel signs would be lost too, such as Hindi or Thai.
        alphabet_limit: With --kind wordpiece: number of characters in the vocabulary, the commonest ones. By default a
            quarter of the vocabulary, at most 1,000, and more for text of ideographs or if there is room.
        model_type: With --kind sentencepiece: its algorithm.
        add_prefix_space: With --kind bytelevel: the first word of a text has the token that it has after a space.
        sample_mb: Train on a random sample of the text, at most this many megabytes.
        seed: Seed of that sample.
    """
    from bert_jax import files, tokenizers
    from bert_jax.data import corpus as corpora

    check_range("--vocab-size", vocab_size, COUNT)
    _check_sample(sample_mb, seed)
    tokenizers.check_target(files.path(out), kind)
    texts = corpora.sample(corpora.documents(corpus), int(sample_mb * 1e6), seed)
    options: dict[str, Any] = {"model_type": model_type} if kind == "sentencepiece" else {}
    options |= {
        "add_prefix_space": add_prefix_space,
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "alphabet_limit": alphabet_limit,
    }
    trained = tokenizers.train(kind, texts, vocab_size, **options)
    trained.save(files.path(out))
    print(f"{out}: {kind} tokenizer with {trained.vocab_size:,} tokens")
    lines, warnings = tokenizers.describe_training(trained, texts)
    print("\n".join(lines))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _check_sample(sample_mb: float, seed: int) -> None:
    check_range("--sample-mb", sample_mb, POSITIVE)
    check_range("--seed", seed, RANGES["seed"])


def prepare(
    corpus: Paths,
    tokenizer: Path,
    out: Path,
    workers: int = 1,
    drop_duplicates: bool = False,
    runner: str | None = None,
    shards: str | None = None,
    beam_options: tuple[str, ...] = (),
) -> None:
    """Tokenises text files once, into a token store for pre-training.

    Masking, sentence pairs, lengths and packing are chosen later, by the experiment that reads the store. If this
    command is interrupted, run it again to continue.

    Args:
        corpus: Files, folders or globs: text with a blank line between documents, JSON lines or Parquet with a "text"
            field; the first two also as .gz or .zst. Or tfds:NAME:SPLIT, such as tfds:wikipedia/20230601.en:train[:1%].
        tokenizer: Folder written by `bert_jax tokenizer`, or of a Hugging Face tokenizer.
        out: Folder for the token store.
        workers: Number of processes that tokenise.
        drop_duplicates: Leave out documents that repeat an earlier one. Duplicates are always counted.
        runner: Prepare on Apache Beam, with this runner (DirectRunner, DataflowRunner, ...); needs the extra `beam`.
        shards: With --runner: folder that all of its workers can write to. By default it is next to --out.
        beam_options: With --runner: options of Beam without their dashes, such as project=NAME region=europe-west1.
    """
    check_range("--workers", workers, COUNT)
    if runner is None:
        if shards is not None or beam_options:
            raise InputError("--shards and --beam-options need --runner, for Beam")
        from bert_jax.data import prepare as preparing

        header = preparing.prepare(
            corpus,
            tokenizer,
            out,
            workers=workers,
            drop_duplicates=drop_duplicates,
            progress=preparing.progress_printer(),
        )
    else:
        if workers != 1:
            raise InputError("--workers works without --runner only; with --runner, set Beam's own option")
        from bert_jax.data import beam

        options = [f"--{option}" for option in (f"runner={runner}", *beam_options)]
        header = beam.prepare(corpus, tokenizer, out, options=options, shards=shards, drop_duplicates=drop_duplicates)
    from bert_jax import tokenizers
    from bert_jax.data.store import TokenStore

    for name, value in header["summary"].items():
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value}")
    store = TokenStore.open(out)
    for note in tokenizers.load(tokenizer).notes:
        print(note)
    # Shows at a glance what the tokenizer made of the text: case, accents, unknown tokens.
    print(f"{'first_document':24} {tokenizers.load(store.tokenizer_folder).decode(store.document(0)[:32])} ...")


@dataclass(frozen=True)
class _Train:
    """An experiment and where it runs."""

    workdir: Path  # folder of the run; created, or continued if it exists; a sweep has a folder in it per experiment
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    several_hosts: bool = False  # this process is one of several: on a TPU pod, GPU nodes, or set by JAX_... variables
    profile: tuple[int, int] | None = None  # first and last step to trace; the workdir gets it, for TensorBoard


@dataclass(frozen=True)
class _Plan:
    """An experiment and where it might run."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    accelerator: str = "cpu"  # such as h100, a100, v4, v5e; cpu means this machine
    devices: int = 1  # number of accelerators
    mfu: float = 0.4  # expected share of their peak operations per second
    effort: Literal["none", "low", "full"] = "low"  # of the compiler for TPUs; none: no compiler for TPUs or GPUs

    def __post_init__(self):
        check_range("--devices", self.devices, COUNT)
        check_range("--mfu", self.mfu, Range(0, 1, above=True))


TRAIN_USAGE = """usage: bert_jax train EXPERIMENT.py --workdir DIR [FLAGS]

Runs an experiment file: pre-training, continued pre-training, fine-tuning or distillation. Run the same command again
to continue from the last checkpoint. If the file defines `sweep`, all of its experiments are run, each in a folder of
its own in the workdir; --only NAME runs one. An experiment may start from another one's weights: its source is then
run:NAME. Every field of the experiment is a flag, such as --model.num-layers 4; the command
`bert_jax train EXPERIMENT.py --help` lists them. --model PRESET takes a model by name, such as modernbert-tiny."""


PLAN_USAGE = """usage: bert_jax plan EXPERIMENT.py --accelerator NAME --devices N [--mfu SHARE] [--effort WORD] [FLAGS]

Estimates what a run will take, without running it: parameters, memory on each device, operations and hours. For TPUs
(v4, v5e, v5p, v6e) and GPUs (a100, h100, h200) their own compiler is used as well, if the extra `tpu` or `cuda` is
installed. For TPUs that takes minutes with --effort low, up to an hour with --effort full, which is how a run is
compiled; for GPUs it takes minutes with both. With --effort none no compiler is used. The other flags are those of
`bert_jax train`; the command `bert_jax plan EXPERIMENT.py --help` lists them."""


def train(args: Sequence[str]) -> int:
    """Runs an experiment file, or continues it from its last checkpoint.

    After a signal, no other experiment of a sweep is begun, and the exit code is 128 + the number of the signal, unless
    everything was finished.
    """
    parsed = flags.parse_experiments("train", args, _Train, {"workdir": tyro.MISSING}, TRAIN_USAGE)

    from bert_jax import hosts

    if any(options.several_hosts for options in parsed.values()):
        hosts.join()
        with hosts.together():
            return _train_each(args, parsed)
    return _train_each(args, parsed)


def _train_each(args: Sequence[str], parsed: dict[str, _Train]) -> int:
    """Trains the experiments one after another."""
    from bert_jax import files, hosts
    from bert_jax.training.hooks import RecordEnd
    from bert_jax.training.train import train as run

    for name, options in parsed.items():
        experiment = sweeps.for_training(options.experiment, options.workdir)
        workdir = posixpath.join(options.workdir, name) if name else options.workdir
        end = RecordEnd()
        result = run(experiment, workdir, profile=options.profile, hooks=[end])
        if hosts.is_first():
            figures = {**result.get("metrics", {}), **({"spread": result["spread"]} if "spread" in result else {})}
            # Figures of an earlier evaluation are not those of the step at which the run was stopped.
            line = {"step": result.get("step"), **figures} if end.finished else {"step": end.step, "stopped": True}
            print(files.json_text({"experiment": name or args[0], **line}))
        if not end.finished or (end.signal is not None and name != list(parsed)[-1]):
            return 128 + (end.signal or signal.SIGTERM)  # without one of its own, another host was stopped
    return 0


def plan(args: Sequence[str]) -> None:
    """Estimates what a run will take: memory, operations, hours."""
    parsed = flags.parse_experiments("plan", args, _Plan, {}, PLAN_USAGE)
    if not parsed:
        return

    from bert_jax.plan import plan as run
    from bert_jax.runtime import pretend_devices

    pretend_devices(max(options.devices for options in parsed.values()))
    sweep = sweeps.load_experiments(args[0])
    for name, options in parsed.items():
        if name:
            print(name)
        experiment = sweeps.for_planning(options.experiment, sweep)
        where = options.accelerator, options.devices, options.mfu, options.effort
        print(run(experiment, *where, say_on_stderr))


def evaluate(
    source: SourceArgument,
    data: str | None = None,
    on_bad_row: Literal["stop", "skip"] | None = None,
    task_flags: TaskFlags = (),
) -> None:
    """Evaluates a trained model and prints its metrics; in a run's workdir they are stored, too.

    After the source, fields of its task can be given other values by the flags of `bert_jax train`, such as --task.text
    sentence or --task.unanswerable.

    Args:
        source: The model: a run's workdir, WORKDIR@STEP, WORKDIR@mean:N (the mean of its latest N checkpoints), a
            Hugging Face folder or hf:org/name.
        data: Rows to evaluate on, all of them, in the format of the training rows. Their scores are kept apart from the
            run's own, in its folder results. Default: the run's own evaluation rows.
        on_bad_row: What to do with a row that cannot be used: stop, or skip it, with a line that counts and names such
            rows. By default as in training for the run's own rows, and stop for --data.
    """
    from bert_jax import files
    from bert_jax.answering import evaluate_source

    change = partial(flags.task_values, "evaluate", task_flags)
    metrics = evaluate_source(source, data, say_on_stderr, change, on_bad_row)
    print(files.json_text(metrics, indent=2))


def score(
    source: SourceArgument, input: str = "-", out: Path | None = None, within_word: bool = False, group: str = "group"
) -> None:
    """Scores texts by how likely a pre-trained model finds them, or counts in how many pairs it prefers the good text.

    Rows with a field "text" give a line each, with the text's pseudo-log-likelihood. Rows with "good" and "bad", such
    as BLiMP's minimal pairs, give the accuracy: how often the good text is likelier.

    Args:
        source: The model, with an MLM head: a run's workdir, WORKDIR@STEP, a Hugging Face folder or hf:org/name.
        input: Rows, in any format of the training rows; - is standard input, in JSON lines.
        out: A file for the lines, instead of standard output; for pairs, it gets each pair's scores.
        within_word: Mask also the tokens that follow in the same word, which otherwise give away rare words.
        group: The field of a pair with its group; the accuracy is also shown for each group.
    """
    from bert_jax.scoring import score_file

    options: dict[str, Any] = {"within_word": within_word, "group": group}
    for line in score_file(source, input, out, **options):
        print(line)


def convert(
    source: SourceArgument,
    target: Annotated[Path, tyro.conf.Positional],
    to: Literal["huggingface", "sentence-transformers", "orbax"] = "huggingface",
    strict: bool = True,
    generator: bool = False,
) -> None:
    """Converts a checkpoint to a folder of Hugging Face or sentence-transformers, or to a workdir for `bert_jax`.

    Args:
        source: A run's workdir, a Hugging Face folder, hf:org/name, or a Google BERT or ALBERT TensorFlow checkpoint.
        target: The folder to write; it must be new or empty.
        to: huggingface: a folder that `transformers` loads; sentence-transformers: the encoder in a folder that this
            library loads too, as is written without this flag for a model that was trained for vectors of texts; orbax:
            a workdir with one checkpoint.
        strict: Stop if the checkpoint has a tensor with an unknown name; --no-strict leaves that tensor out.
        generator: Of a run with replaced-token detection, write the generator, which fills masks, instead of the model.
    """
    from bert_jax import files
    from bert_jax.pretrained import generator_of, open_source, write_source

    opened = open_source(source, strict=strict)
    opened = generator_of(opened) if generator else opened
    notes = write_source(opened, files.path(target), to)
    for note in (*opened.tokenizer.notes, *notes):
        print(note)
    print(f"wrote {target}")


def extend(
    source: SourceArgument,
    target: Annotated[Path, tyro.conf.Positional],
    corpus: Paths,
    num_tokens: int = 1000,
    to: Literal["huggingface", "orbax"] = "orbax",
    sample_mb: float = 100.0,
    seed: int = 0,
) -> None:
    """Adds a domain's words to a model's WordPiece vocabulary, before continued pre-training.

    Args:
        source: A model with a WordPiece vocabulary: a run's workdir, a Hugging Face folder or hf:org/name.
        target: The folder to write; it must be new or empty.
        corpus: Text of the domain, as for `bert_jax prepare`.
        num_tokens: Number of tokens to add.
        to: orbax: a workdir with one checkpoint; huggingface: a folder that `transformers` loads.
        sample_mb: Learn the tokens from a random sample of the text, at most this many megabytes.
        seed: Seed of that sample.
    """
    from bert_jax import files
    from bert_jax.data import corpus as corpora
    from bert_jax.pretrained import extend_vocabulary, open_source, write_source

    check_range("--num-tokens", num_tokens, COUNT)
    _check_sample(sample_mb, seed)
    texts = corpora.sample(corpora.documents(corpus), int(sample_mb * 1e6), seed)
    extended, learnt = extend_vocabulary(open_source(source), texts, num_tokens)
    notes = write_source(extended, files.path(target), to)
    for note in notes:
        print(note)
    print(f"wrote {target}: {len(learnt.pieces):,} new tokens, such as {', '.join(learnt.pieces[:8])}")
    before, after = learnt.tokens_per_word_before, learnt.tokens_per_word_after
    print(f"tokens per word in these {learnt.words:,} words: {before:.3f} before, {after:.3f} after")


def report(
    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]")],
    out: Path = "report.html",
    watch: bool = False,
) -> None:
    """Writes one HTML page with curves and tables that compare runs.

    Args:
        workdirs: Workdirs of runs, or folders with workdirs in them.
        out: The page to write.
        watch: Show the progress of a run in the terminal instead.
    """
    from bert_jax import report as reports

    if not workdirs:
        raise InputError("report: name the workdir of a run, or a folder with workdirs in it")
    if watch:
        reports.watch(workdirs[0])
        return
    reports.report(workdirs, out)
    reports.print_summary(workdirs)
    print(f"wrote {out}")


def quickstart(workdir: Path = "runs/quickstart", minutes: float = 2, seed: int = 0) -> None:
    """Pre-trains and fine-tunes a small BERT on text that every machine has, and shows what pre-training gains.

    Args:
        workdir: Folder for everything that is written.
        minutes: Length of the pre-training on a machine with 2 cores. It is turned into a fixed number of steps, so
            that the same seed gives the same figures on a busy machine, too.
        seed: Seed of everything random.
    """
    from bert_jax import files
    from bert_jax.quickstart import quickstart as run

    check_range("--minutes", minutes, POSITIVE)
    check_range("--seed", seed, RANGES["seed"])
    run(files.path(workdir), minutes, seed)


COMMANDS: dict[str, Callable[..., Any]] = {
    "quickstart": quickstart,
    "tokenizer": tokenizer,
    "prepare": prepare,
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "predict": predict,
    "embed": embed,
    "score": score,
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
        raise InputError(f"no command is called {args[0]!r}; the commands are {', '.join(COMMANDS)}")
    command = COMMANDS[args[0]]
    if command in (tokenizer, prepare):
        memory.computes_nothing()
    memory.keep_freed()  # before any library starts threads
    if command in (train, plan):
        return command(args[1:]) or 0
    rest = list(args[1:])
    if command in (evaluate, predict, embed):
        rest, of_task = flags.without_task_flags(rest)
        command = partial(command, task_flags=tuple(of_task))
    tyro.cli(command, args=rest, prog=f"bert_jax {args[0]}")
    return 0


def main() -> None:
    """The console script `bert_jax`."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        from bert_jax import files

        files.discard_output()
        code = 128 + signal.SIGPIPE  # as of other programs, in `bert_jax predict ... | head`
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        from bert_jax import buckets

        problem = buckets.problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        code = 2
    gc.freeze()  # nothing is left to collect for; at its end, Python would look through all libraries once more
    sys.exit(code)


if __name__ == "__main__":
    main()
