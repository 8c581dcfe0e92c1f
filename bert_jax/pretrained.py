"""Opens every kind of SOURCE of weights: its config, parameters, tokenizer and task, and fits them to a model."""

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from bert_jax import files, sources, tokenizers
from bert_jax import params as named
from bert_jax.config import (
    BertConfig,
    Compute,
    Experiment,
    Pretraining,
    SentenceEmbedding,
    TaskFields,
    TextVectors,
    experiment_from_json,
    to_json,
)
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop import beside, google, huggingface, lengths, sentence_transformers
from bert_jax.interop.table import SetAside
from bert_jax.runs import checkpoint, layout
from bert_jax.tokenizers import Extension, Frame, Tokenizer


@dataclass(frozen=True)
class Weights:
    """An opened SOURCE; everything is read at once except the weights themselves."""

    where: str  # the SOURCE as the user wrote it
    config: BertConfig
    tokenizer: Tokenizer
    task: TaskFields | None  # what the weights were trained for, if that is known
    read_params: Callable[[], tuple[Any, SetAside]]  # {"bert": ..., HEAD: ...} of NumPy arrays
    compute: Compute = Compute()  # only the number formats of the training
    task_problem: str = ""  # why the task of the files cannot be used; the encoder can
    assumes_fields: bool = False  # whether the task's fields of rows are defaults, which the files do not say
    max_length: int | None = None  # tokens of the longest text, as the files say; None = the model's longest sequence
    vectors: TextVectors | None = None  # how a text becomes one vector, if the files define it
    vectors_problem: str = ""  # why that cannot be done as the files define it

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence for which the model has positions, special ones included."""
        return self.tokenizer.frame.longest(self.config.max_position_embeddings)

    @property
    def notes(self) -> list[str]:
        """Sentences of the loading report about the files themselves."""
        notes = [f"no vectors of texts: {self.vectors_problem}"] if self.vectors_problem else []
        if self.config.vocab_size == self.tokenizer.vocab_size:
            return notes
        spare = (
            f"the model has {self.config.vocab_size} tokens and the tokenizer {self.tokenizer.vocab_size}; the spare "
            "rows are kept, and are never predicted"
        )
        return [*notes, spare]

    def check_task(self) -> None:
        """Raises InputError if the files define a task that cannot be used."""
        if self.task_problem:
            raise InputError(self.task_problem)


def read_experiment(workdir: files.Path) -> Experiment:
    """Reads a workdir's experiment.json.

    Raises:
      InputError: it is missing, not JSON, or has an unknown field.
    """
    path = workdir / layout.EXPERIMENT
    try:
        return experiment_from_json(json.loads(path.read_text()), str(path))
    except FileNotFoundError:
        raise InputError(f"{workdir}: no {layout.EXPERIMENT} there; a run's workdir has one") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: {error}; it should be as `bert_jax train` wrote it") from None


_ELSEWHERE = {"run": "another run of the same sweep, in an experiment file", "tfds": "a data set"}


def seeds_in(folder: files.Path) -> list[str]:
    """Returns the seeds of a run with several, in order; empty if the folder is not its workdir."""
    path = folder / layout.SEEDS
    return sorted(files.read_json(path)["runs"], key=int) if path.exists() else []


def is_workdir(path: files.PathLike) -> bool:
    """True if the folder is the workdir of a run."""
    return (files.path(path) / layout.EXPERIMENT).exists()


def open_source(source: files.PathLike, *, strict: bool = True) -> Weights:
    """Opens a SOURCE: a run's workdir, a Hugging Face folder, "hf:org/name", or a Google TensorFlow checkpoint.

    "WORKDIR@STEP" is the checkpoint of that step, if the run kept it. "WORKDIR@mean:N" is the mean of its latest N.

    Args:
      strict: whether a tensor that is not in the table is an error; if not, it is left out.

    Raises:
      InputError: it does not exist, is none of these, is incomplete, or its tokenizer has more tokens than its model.
    """
    parts = sources.parse(str(source), is_workdir)
    if parts.kind not in ("path", "hub"):
        raise InputError(f"{source}: holds no weights here; {parts.kind}: names {_ELSEWHERE[parts.kind]}")
    path = huggingface.fetch(str(source)) if parts.kind == "hub" else files.path(parts.name)
    if is_workdir(path):
        opened = _open_workdir(str(source), path, parts)
    elif any((path / name).exists() for name in ("config.json", sentence_transformers.MODULES)):
        opened = _open_huggingface(str(source), path, strict)
    elif path.with_name(path.name + ".index").exists() or files.matching(path, "*.index"):
        folder = google.find(path).parent
        opened = Weights(
            where=str(source),
            config=google.read_config(path),
            tokenizer=tokenizers.load(folder),
            task=None,
            read_params=lambda: google.read_params(path, strict=strict),
        )
    elif seeds := seeds_in(path):
        runs = ", ".join(str(path / layout.seed_run(seed)) for seed in seeds)
        raise InputError(f"{source}: holds the runs of {len(seeds)} seeds; name one of them: {runs}")
    else:
        problem = "no weights are there" if path.exists() else "no such file or folder"
        raise InputError(
            f"{source}: {problem}; a SOURCE is a run's workdir ({layout.EXPERIMENT}), WORKDIR@STEP, "
            "WORKDIR@mean:N, a Hugging Face folder (config.json), hf:org/name, or a TensorFlow checkpoint (*.index)"
        )
    if opened.config.vocab_size < opened.tokenizer.vocab_size:
        raise InputError(
            f"{source}: the model has {opened.config.vocab_size} tokens and the tokenizer next to it "
            f"{opened.tokenizer.vocab_size}; they do not belong together"
        )
    return replace(opened, tokenizer=with_frame(opened.tokenizer, opened.config))


def with_frame(tokenizer: Tokenizer, config: BertConfig) -> Tokenizer:
    """Returns the tokenizer with the special tokens of the model's family around its texts.

    Raises:
      InputError: the family counts positions from another padding token.
    """
    family = FAMILIES[config.family]
    pad_id = family.constants.get("pad_token_id", tokenizer.pad_id)
    if tokenizer.pad_id != pad_id:
        raise InputError(
            f"model.family: {family.name} counts positions from the id of the padding token, which must be {pad_id}; "
            f"{tokenizer.names['pad']!r} is {tokenizer.pad_id}. `bert_jax tokenizer --kind bytelevel` makes it {pad_id}"
        )
    cls, sep = (tokenizer.cls_id,), (tokenizer.sep_id,)
    framed = copy.copy(tokenizer)
    # Without segment embeddings, no family tells two texts apart by segments; with one, there is none for the second.
    segments = family.segments and config.type_vocab_size > 0
    pairs = not segments or config.type_vocab_size > 1
    framed.frame = Frame(cls, sep * family.separators, sep, segments, config.first_position, pairs)
    return framed


def _open_workdir(where: str, path: files.Path, parts: sources.Source) -> Weights:
    experiment = read_experiment(path)
    if experiment.model is None:
        raise InputError(f"{path / layout.EXPERIMENT}: it lacks the model; it should be as `bert_jax train` wrote it")
    has_best = not parts.at and checkpoint.latest_step(path / layout.BEST) is not None
    folder = path / (layout.BEST if has_best else layout.CHECKPOINTS)
    of_vectors = experiment.task if isinstance(experiment.task, SentenceEmbedding) else None
    return Weights(
        where=where,
        config=experiment.model,
        tokenizer=tokenizers.load(path / layout.TOKENIZER),
        task=_with_fitted(experiment.task, path / layout.RESULT),
        read_params=lambda: (_read_checkpoints(folder, parts), SetAside()),
        compute=Compute(experiment.compute.dtype, experiment.compute.param_dtype),
        assumes_fields=beside.is_assumed(experiment.task),
        max_length=of_vectors.max_length if of_vectors else None,
        vectors=of_vectors,
    )


def _read_checkpoints(folder: files.Path, parts: sources.Source) -> Any:
    if parts.mean:
        return checkpoint.mean_params(folder, parts.mean)
    return checkpoint.load_params(folder, parts.step)[1]


def _open_huggingface(where: str, path: files.Path, strict: bool) -> Weights:
    modules = sentence_transformers.read(path)
    path = modules.encoder
    config, details = huggingface.read_config(path)
    tokenizer = tokenizers.load(path)
    longest = config.max_position_embeddings - config.first_position
    length, text_length = lengths.read_lengths(path, longest, tokenizer.lowercase)
    ours, where_ours = beside.read(path), str(path / beside.NAME)
    task: TaskFields | None = None
    problem = ""
    try:
        if modules.vectors is not None:
            task = SentenceEmbedding(max_length=text_length, **vars(modules.vectors))
        else:
            task = _task_of(path, config, details, length)
        if "task" in ours:
            task = beside.with_fields(task, ours["task"], where_ours)
    except InputError as error:
        problem = str(error)
    if task is None:
        problem = problem or modules.problem

    def read_params() -> tuple[Any, SetAside]:
        params, set_aside = huggingface.read_params(path, strict=strict)
        if modules.dense is None:
            return params, set_aside
        tensors = huggingface.read_tensors(modules.dense)
        return sentence_transformers.with_dense(params, tensors, config.hidden_size, modules.dense), set_aside

    return Weights(
        where=where,
        config=config,
        tokenizer=tokenizer,
        task=task,
        read_params=read_params,
        compute=beside.compute_of(ours, where_ours),
        task_problem=problem,
        assumes_fields="task" not in ours,
        max_length=text_length,
        vectors=modules.vectors,
        vectors_problem=modules.problem,
    )


def _task_of(path: files.Path, config: BertConfig, details: huggingface.Details, max_length: int) -> TaskFields | None:
    """Returns the task of a class of transformers, with the fields that its config has; None if it has no task.

    Raises:
      InputError: config.json and the head do not agree, or the task is not supported.
    """
    kind = beside.kind_of(details.architecture)
    if kind is None:
        return None
    details = huggingface.with_head_labels(path, config, details)
    try:
        return kind.from_hugging_face(details.labels, details.problem_type, max_length)
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from None


def _details_of(task: TaskFields | None) -> huggingface.Details:
    """Returns what a Hugging Face folder holds of a task; the inverse of `_task_of`."""
    return (
        huggingface.Details(labels=task.output_names, problem_type=task.problem_type) if task else huggingface.Details()
    )


def write_source(source: Weights, target: files.Path, to: str = "huggingface") -> list[str]:
    """Writes a source's model, weights and tokenizer to the folder `target`.

    Args:
      to: "huggingface" for what `transformers` loads, "sentence-transformers" for the encoder with what that library
        needs, "orbax" for a workdir with one checkpoint. A source of vectors of texts is a folder of both libraries.

    Returns:
      What is different in the folder, as sentences for the user.

    Raises:
      InputError: the folder is not empty, the source's task cannot be used, or no class of `transformers` has this
        model and these heads.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a new folder")
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty; name a new folder")
    source.check_task()
    files.make_folder(target)
    params, set_aside = source.read_params()
    notes = [*set_aside.notes, *source.notes]
    vectors = source.vectors
    if to == "sentence-transformers":
        vectors, more = sentence_transformers.of_encoder(params, vectors, source.vectors_problem)
        source, params, notes = replace(source, task=None), named.without_heads(params), notes + more
    if to != "orbax":
        names = FAMILIES[source.config.family].token_ids
        token_ids = {name: getattr(source.tokenizer, attribute) for name, attribute in names.items()}
        notes += huggingface.write(target, source.config, params, _details_of(source.task), token_ids)
        source.tokenizer.save(target)
        longest = source.max_length or source.longest
        lengths.write_length(target, longest)
        if vectors is not None:
            sentence_transformers.write(target, vectors, longest, source.config, params)
        return notes + beside.write(target, None if source.assumes_fields else source.task, source.compute)
    checkpoint.save_params(target / layout.CHECKPOINTS, params)
    source.tokenizer.save(target / layout.TOKENIZER)
    experiment = Experiment(task=source.task or Pretraining(), model=source.config, compute=source.compute)
    files.write_json(target / layout.EXPERIMENT, to_json(experiment))
    return notes


def generator_of(source: Weights) -> Weights:
    """Returns the generator of a run with replaced-token detection, as a model that fills masks.

    Raises:
      InputError: the source has no generator.
    """
    config = source.task.generator(source.config) if source.task else None
    if config is None or not isinstance(source.task, Pretraining):
        raise InputError(f"{source.where}: has no generator; a run that was trained with --task.objective rtd has one")

    def read_params() -> tuple[Any, SetAside]:
        params, set_aside = source.read_params()
        return named.of_generator(params), set_aside

    # A config.json names the pooler of its family, even where the model has none.
    config = replace(config, pooler=source.config.pooler)
    return replace(source, config=config, task=replace(source.task, objective="mlm"), read_params=read_params)


def extend_vocabulary(source: Weights, texts: Iterable[str], num_pieces: int) -> tuple[Weights, Extension]:
    """Learns `num_pieces` new tokens from texts; the row of each is the mean of the rows of the tokens it replaces.

    Returns:
      The source with the longer vocabulary, embedding table and MLM bias, and what was learnt.

    Raises:
      InputError: the tokenizer is not WordPiece, or the texts do not yield that number of tokens.
    """
    tokenizer, extension = tokenizers.extend(source.tokenizer, texts, num_pieces)

    def means(rows: np.ndarray) -> np.ndarray:
        return np.stack([rows[list(parts)].mean(0) for parts in extension.made_of])

    return _lengthened(source, tokenizer, means), extension


def add_pieces(source: Weights, pieces: Sequence[str]) -> Weights:
    """Adds tokens that do not consist of others, such as markers; their rows are drawn at random.

    Each column is drawn from the normal distribution with the mean and standard deviation of that column of the table.

    Returns:
      The source with the longer vocabulary, embedding table and MLM bias.

    Raises:
      InputError: the vocabulary has one of them already.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    size = len(pieces)

    def drawn(rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).normal(rows.mean(0), rows.std(0), (size, *rows.shape[1:]))

    return _lengthened(source, source.tokenizer.with_pieces(pieces), drawn)


def _lengthened(source: Weights, tokenizer: Tokenizer, added: Callable[[np.ndarray], np.ndarray]) -> Weights:
    """Returns the source with `tokenizer`, whose vocabulary is longer; `added` makes the new rows from the old ones.

    The new rows take the place of spare ones, as far as there are any.
    """

    def longer(name: str, rows: np.ndarray) -> np.ndarray:
        if not named.grows_with_vocabulary(name):
            return rows
        used = rows[: source.tokenizer.vocab_size]
        return np.concatenate([used, added(used).astype(rows.dtype), rows[tokenizer.vocab_size :]])

    def read_params() -> tuple[Any, SetAside]:
        params, set_aside = source.read_params()
        return named.map_named(longer, params), set_aside

    config = replace(source.config, vocab_size=max(source.config.vocab_size, tokenizer.vocab_size))
    return replace(source, config=config, tokenizer=tokenizer, read_params=read_params)


def _with_fitted(task: TaskFields, result: files.Path) -> TaskFields:
    """Returns the task with the fields that its evaluation rows decided, such as the threshold for no answer."""
    values = json.loads(result.read_text()) if result.exists() else {}
    return replace(task, **values.get("fitted", {}))


@dataclass
class LoadingReport:
    """What happened to each parameter when weights were fitted to a model; names such as "bert/pooler/kernel"."""

    source: str
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)  # in the model but not in the source: newly initialised
    left_out: list[str] = field(default_factory=list)  # in the source but not in the model
    ignored: list[str] = field(default_factory=list)  # not weights: buffers, optimizer state, tied copies
    notes: list[str] = field(default_factory=list)  # what was read in another way than the files have it

    def __str__(self) -> str:
        lines = [f"Weights from {self.source}: {len(self.loaded)} arrays loaded"]
        if self.new:
            lines.append(f"  newly initialised: {', '.join(self.new)}")
        if self.left_out:
            lines.append(f"  left out: {', '.join(self.left_out)}")
        if self.ignored:
            lines.append(f"  no weights: {', '.join(self.ignored)}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def top_layers(config: BertConfig, count: int) -> list[str]:
    """Returns the paths of the `count` top layers and of the pooler; none if `count` is 0.

    Source: Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning", section 5.
    """
    groups = sorted({config.group(layer) for layer in range(config.num_layers - count, config.num_layers)})
    return [*named.pooler_paths(), *(named.block_path(group) for group in groups)] if count else []


def fit(
    params: Any, source: Weights, reinitialised: Sequence[str] = (), labels: Sequence[str] = ()
) -> tuple[Any, LoadingReport]:
    """Returns `params` with each array that `source` also has replaced by that of `source`, and a report.

    A task's head fits if its shape and its labels are the same, in any order: a classifier for other labels stays newly
    initialised and is reported. If a side does not name its outputs, only the shape counts.

    Args:
      reinitialised: paths such as "bert/pooler" whose arrays stay those of `params`.
      labels: names of the outputs of the head in `params`, in their order; empty if they have no names.

    Raises:
      InputError: an array of the encoder has another shape in the source, or the source has no array of the encoder.
    """
    source_params, set_aside = source.read_params()
    theirs = named.flatten(source_params)
    ours = named.flatten(params)
    notes = [*source.tokenizer.notes, *set_aside.notes, *source.notes]
    if FAMILIES[source.config.family].pooler_is_mlm and named.has_pooler(params):
        if named.MLM in source_params and not named.has_pooler(source_params):
            notes.append("the pooler starts as the layer of the MLM head, as in transformers")
        theirs = named.with_pooler_of_mlm(theirs)
    report = LoadingReport(source.where, ignored=list(set_aside.ignored), notes=notes)
    order = _label_order(source.task.output_names if source.task else (), labels)
    for name, array in ours.items():
        if name not in theirs or any(name.startswith(path + "/") for path in reinitialised):
            report.new.append(name)
        elif named.follows_labels(name) and theirs[name].shape == array.shape and not order.same_labels:
            report.new.append(f"{name} ({order.note})")
        elif theirs[name].shape == array.shape:
            report.loaded.append(name)
        elif named.follows_config(name):
            raise InputError(
                f"{source.where}: {name} has shape {theirs[name].shape} there and {array.shape} in this experiment's "
                "model; leave out `model` in the experiment to use that of the source"
            )
        else:
            report.new.append(f"{name} ({theirs[name].shape} there, {array.shape} here)")
    report.left_out = sorted({*(theirs.keys() - ours.keys()), *set_aside.left_out})
    if not any(named.is_encoder(name) for name in report.loaded):
        raise InputError(f"{source.where}: has no array of the encoder, only {', '.join(sorted(theirs))}")
    loaded = set(report.loaded)
    if order.note and any(named.follows_labels(name) for name in loaded):
        report.notes.append(order.note)

    def choose(name: str, array: Any) -> Any:
        if name not in loaded:
            return array
        values = np.asarray(theirs[name], dtype=array.dtype)
        return values[..., list(order.outputs)] if order.outputs and named.follows_labels(name) else values

    return named.map_named(choose, params), report


class _LabelOrder(NamedTuple):
    """How the outputs of a source's head become those of ours."""

    same_labels: bool = True
    outputs: tuple[int, ...] = ()  # the source's output for each of ours; empty = in the same order
    note: str = ""  # for the loading report


def _label_order(theirs: Sequence[str], ours: Sequence[str]) -> _LabelOrder:
    """Compares the names of a source's outputs with ours."""
    if not ours or tuple(theirs) == tuple(ours):
        return _LabelOrder()
    listed = f"labels {_listed(theirs)} there, {_listed(ours)} here"
    if sorted(theirs) == sorted(ours):
        return _LabelOrder(True, tuple(theirs.index(name) for name in ours), f"outputs were reordered: {listed}")
    if tuple(theirs) in ((), huggingface.default_labels(len(theirs))):
        return _LabelOrder(True, (), f"the source does not name its outputs; their order was kept for {_listed(ours)}")
    return _LabelOrder(False, (), listed)


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])
