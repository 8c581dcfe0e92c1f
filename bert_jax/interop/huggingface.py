"""Hugging Face folders: reads and writes config.json and the tensors of every family."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from bert_jax import files, sources, storage
from bert_jax import params as named
from bert_jax.config import PRESETS, BertConfig
from bert_jax.errors import InputError
from bert_jax.families import BERT, FAMILIES, Family
from bert_jax.interop import beside, sentence_transformers
from bert_jax.interop.table import NameMapping, SetAside, expand, rename_unique, to_ours, to_theirs

# Numbers 0, 1, 2... and zeros that older releases of transformers stored among the weights.
BUFFERS = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")

# What training code puts before every name: DataParallel, torch.compile, and modules that hold the model.
WRAPPERS = re.compile(r"^((module|_orig_mod|model|auto_model)\.)+")

# Ends of class names whose head goes by the name "classifier".
CLASSIFIERS = {
    "ForSequenceClassification": named.SEQUENCE,
    "ForTokenClassification": named.TOKEN,
    "ForMultipleChoice": named.CHOICE,
}
NAMED_CLASSES = {"ForSequenceClassification", "ForTokenClassification"}
# Heads of the classes whose outputs are compared with config.json, and the number of outputs; None: labels decide it.
OUTPUTS: dict[str, tuple[str, int | None]] = {
    "ForSequenceClassification": (named.SEQUENCE, None),
    "ForTokenClassification": (named.TOKEN, None),
    "ForMultipleChoice": (named.CHOICE, 1),
    "ForQuestionAnswering": (named.SPAN, 2),
}
# Fields of a BertConfig that a file need not have: the weights have the rows and blocks, and dropout changes no output.
UNWRITTEN = frozenset({"family", "num_layer_groups", "vocab_multiple", "hidden_dropout", "pooler_dropout"})
# Fields of a BertConfig that a config.json must have.
SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
# Fields whose other values are not supported in any family.
PLAIN = {"is_decoder": False}
POOLINGS = ("cls", "mean")
OTHER_WEIGHTS = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax"}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "relu": "relu"}


@dataclass(frozen=True)
class Details:
    """What config.json holds besides the architecture of the encoder."""

    architecture: str = ""  # end of the class name, such as "ForTokenClassification"; "" if it has none
    labels: tuple[
        str, ...
    ] = ()  # names of the outputs in their order; empty if config.json does not name or count them
    problem_type: str | None = None  # "regression", "single_label_classification" or "multi_label_classification"


def fetch(source: str) -> files.Path:
    """Returns the local folder of "hf:org/name", from the cache if it is complete there, or downloaded.

    Raises:
      InputError: it is not in the cache and cannot be downloaded.
    """
    import huggingface_hub  # takes a while, and a local folder needs none of it

    name = sources.parse(source).name
    wanted = ["config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer*.json"]
    wanted += ["special_tokens_map.json", "added_tokens.json", beside.NAME, *sentence_transformers.FILES]
    try:
        folder = files.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, "*.safetensors*"]))
        if not files.matching(folder, "*.safetensors"):
            folder = files.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, "pytorch_model*"]))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: not in the local cache, and the download failed: {first}") from None
    return folder


def read_config(folder: files.Path) -> tuple[BertConfig, Details]:
    """Reads config.json.

    Raises:
      InputError: it is missing or not JSON, lacks a size, or describes a model that is not supported.
    """
    path = folder / "config.json"
    try:
        hf_config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json there; a Hugging Face folder has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(hf_config, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(hf_config).__name__}")
    return parse_config(hf_config, str(path))


def family_of(hf_config: Mapping[str, Any], where: str) -> Family:
    """Returns the family that "model_type" names; without that field, the one whose own field is there, or BERT.

    Raises:
      InputError: the family is not supported.
    """
    marked = [f.name for f in FAMILIES.values() if f.recognised_by and f.recognised_by in hf_config]
    kind = hf_config.get("model_type", [*marked, BERT.name][0])
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = " and ".join(repr(name) for name in FAMILIES)
        raise InputError(f"{where}: model_type {kind!r} is not supported; {supported} are")
    return FAMILIES[kind]


def parse_config(hf_config: Mapping[str, Any], where: str) -> tuple[BertConfig, Details]:
    """Turns the fields of a config.json into ours; fields that do not describe the architecture are ignored.

    Raises:
      InputError: see `read_config`.
    """
    family = family_of(hf_config, where)
    hf_config = family.read_config(hf_config, where)
    theirs = {ours: name for name, ours in family.fields.items()}
    if missing := [theirs[ours] for ours in SIZES if theirs[ours] not in hf_config]:
        raise InputError(f"{where}: lacks {', '.join(missing)}")
    base = PRESETS[family.defaults]
    # Families without learned positions write any name of theirs in the field, and transformers does not read it.
    plain = PLAIN | ({"position_embedding_type": "absolute"} if base.positions == "learned" else {})
    for name, value in (plain | dict(family.constants)).items():
        if hf_config.get(name, value) != value:
            raise InputError(f"{where}: {name} is {hf_config[name]!r}; only {value!r} is supported")
    values = dict(family.class_defaults)
    values |= {ours: hf_config[name] for name, ours in family.fields.items() if name in hf_config}
    for name, other in family.fallbacks.items():
        if hf_config.get(name) is None:
            values[family.fields[name]] = values.get(other, getattr(base, other))
    if "activation" in values:
        if str(values["activation"]) not in ACTIVATIONS:
            raise InputError(
                f"{where}: {theirs['activation']} must be one of {', '.join(ACTIVATIONS)}, got {values['activation']!r}"
            )
        values["activation"] = ACTIVATIONS[values["activation"]]
    if values.get("pooling", "cls") not in POOLINGS:
        raise InputError(
            f"{where}: {theirs['pooling']} must be one of {', '.join(POOLINGS)}, got {values['pooling']!r}"
        )
    labels = _label_names(hf_config, where)
    listed = hf_config.get("architectures")
    classes = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    architecture = classes[0].removeprefix(family.class_prefix) if classes else ""
    for ours, value in values.items():
        wanted = type(getattr(base, ours))
        if wanted in (int, float) and type(value) not in (int, wanted):
            kind = "whole number" if wanted is int else "number"
            raise InputError(f"{where}: {theirs[ours]} must be a {kind}, got {value!r}")
        if wanted is int and value < 1:
            raise InputError(f"{where}: {theirs[ours]} must be at least 1, got {value}")
    try:
        config = replace(base, **values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return config, Details(architecture, labels, hf_config.get("problem_type"))


def _label_names(hf_config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns the names in id2label, or LABEL_0, LABEL_1... if there is only num_labels, or () without either."""
    id2label = hf_config.get("id2label")
    if not id2label:
        count = hf_config.get("num_labels")
        if count is None:
            return ()
        if type(count) is not int or count < 1:
            raise InputError(f"{where}: num_labels must be a whole number of at least 1, got {count!r}")
        return default_labels(count)
    if not isinstance(id2label, Mapping):
        raise InputError(f"{where}: id2label must be a JSON object, number -> name, got {type(id2label).__name__}")
    try:
        return tuple(str(id2label[str(i)]) for i in range(len(id2label)))
    except KeyError as error:
        raise InputError(f"{where}: id2label must name the labels 0 to {len(id2label) - 1}; it lacks {error}") from None


def default_labels(count: int) -> tuple[str, ...]:
    """Returns the names that transformers gives to outputs without names."""
    return tuple(f"LABEL_{i}" for i in range(count))


def with_head_labels(folder: files.Path, config: BertConfig, details: Details) -> Details:
    """Returns `details` with a name for each output of the head, for a class in NAMED_CLASSES.

    Raises:
      InputError: the weights lack the head of the class, or have another number of outputs than config.json.
    """
    if details.architecture not in OUTPUTS:
        return details
    head, wanted = OUTPUTS[details.architecture]
    (tensor,) = [
        row.theirs[0] for row in name_mappings(config, details.architecture, "") if row.ours == named.output_path(head)
    ]
    outputs, where = _outputs(folder, tensor), folder / "config.json"
    if outputs is None:
        raise InputError(f"{where}: architectures names {details.architecture}, but the weights lack {tensor}")
    if wanted is not None and outputs != wanted:
        raise InputError(f"{where}: {details.architecture} has a head of {wanted} outputs, but {tensor} has {outputs}")
    if details.architecture not in NAMED_CLASSES:
        return details
    labels = details.labels or default_labels(outputs)
    if len(labels) != outputs:
        raise InputError(
            f"{where}: id2label or num_labels makes {len(labels)} labels, but the head has {outputs} outputs "
            f"({tensor}); give one name for each output, or remove both fields"
        )
    if repeated := [name for name in labels if labels.count(name) > 1]:
        raise InputError(f"{where}: id2label has the name {repeated[0]!r} twice; each output needs a name of its own")
    return replace(details, labels=labels)


def _outputs(folder: files.Path, tensor: str) -> int | None:
    """Returns the first dimension of a tensor in a folder's weights; None if they do not have it."""
    shape = _stored_shape(folder, tensor)
    return shape[0] if shape else None


def to_config(config: BertConfig, details: Details) -> dict[str, Any]:
    """Returns the content of config.json for a model; the inverse of `parse_config`.

    Raises:
      InputError: the family's class in transformers does not have such an architecture.
    """
    family = FAMILIES[config.family]
    for name, wanted in family.requires.items():
        if (getattr(config, name) is not None) != wanted:
            raise InputError(
                f"model.{name}: is {getattr(config, name)}, but {family.class_prefix}Model of transformers "
                f"{'needs one' if wanted else 'has none'}, so no file can hold this model; it can be used as a run"
            )
    base = PRESETS[family.defaults]
    for name in [field.name for field in fields(config) if field.name not in {*UNWRITTEN, *family.fields.values()}]:
        if getattr(config, name) != getattr(base, name):
            raise InputError(
                f"model.{name}: is {getattr(config, name)!r}, but {family.class_prefix}Model of transformers has "
                f"{getattr(base, name)!r}, so no file can hold this model; it can be used as a run"
            )
    hf_config: dict[str, Any] = {
        "architectures": [family.class_prefix + details.architecture],
        "model_type": family.name,
        **family.constants,
        **family.written,
        "dtype": "float32",
        **{theirs: getattr(config, ours) for theirs, ours in family.fields.items()},
    }
    for theirs, ours in family.fields.items():
        if ours == "num_layer_groups":
            hf_config[theirs] = config.layer_groups
    if details.labels and details.architecture in NAMED_CLASSES:
        hf_config["id2label"] = {str(i): name for i, name in enumerate(details.labels)}
        hf_config["label2id"] = {name: i for i, name in enumerate(details.labels)}
    if details.problem_type:
        hf_config["problem_type"] = details.problem_type
    return dict(family.write_config(hf_config))


def read_params(folder: files.Path, *, strict: bool = True) -> tuple[dict[str, Any], SetAside]:
    """Reads all weights of a folder: {"bert": ..., HEAD: ...}, float32 (or bfloat16 as stored).

    The pooler and the heads are those whose tensors are present; the class in config.json does not matter.

    Args:
      folder: a Hugging Face folder.
      strict: whether a tensor that is not in the table is an error; if not, it is left out and listed.

    Raises:
      InputError: files are missing, broken or truncated; names or shapes do not fit config.json; output weights are not
        the input embeddings.
    """
    config, details = read_config(folder)
    family, where = FAMILIES[config.family], str(folder)
    tensors, notes = _unwrapped(read_tensors(folder), where)
    tensors = rename_unique(tensors, {name: _modern(name) for name in tensors}, where)
    ignored = [name for name in tensors if BUFFERS.search(name)]
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    for copy, original in family.tied.items():
        ignored += _check_tied(tensors, copy, original.format(p=prefix), where)
    if "classifier.weight" in tensors and details.architecture not in {*CLASSIFIERS, *family.class_tensors}:
        raise InputError(
            f"{where}: has a classifier, but config.json does not name its kind: architectures must name a class that "
            f"ends in {', '.join(CLASSIFIERS)}"
        )
    mappings = name_mappings(config, details.architecture, prefix)
    listed = {name for mapping in mappings for name in mapping.theirs}
    unused = [name for pattern in family.unused if (name := pattern.format(p=prefix)) in tensors.keys() - listed]
    if unused:
        ignored += unused
        notes += (f"left out: {', '.join(unused)}, which {family.class_prefix}{details.architecture} does not use",)
    weights = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    params, left_out = to_ours(mappings, weights, config, where, strict)
    return params, SetAside(tuple(ignored), left_out, notes)


def _unwrapped(tensors: dict[str, np.ndarray], where: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns tensors without the wrapper's name that is before every name, and a note about it."""
    prefixes = {match.group() if (match := WRAPPERS.match(name)) else "" for name in tensors}
    prefix = next(iter(prefixes), "")
    if len(prefixes) != 1 or not prefix:
        return tensors, ()
    bare = rename_unique(tensors, {name: name.removeprefix(prefix) for name in tensors}, where)
    return bare, (f"{prefix!r} before every name was dropped",)


def name_mappings(config: BertConfig, architecture: str, prefix: str) -> list[NameMapping]:
    """Returns which parameters go by which names in a class such as "ForMaskedLM", with `prefix` in the encoder's."""
    family, classifier = FAMILIES[config.family], CLASSIFIERS.get(architecture, named.SEQUENCE)
    table = [*family.tensors, *family.class_tensors.get(architecture or "Model", ())]
    return expand(table, config, p=prefix, classifier=classifier)


def _modern(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _check_tied(tensors: dict[str, np.ndarray], copy: str, original: str, where: str) -> list[str]:
    """Returns [copy] if it may be ignored; if the original is missing, renames the copy to it."""
    if copy not in tensors:
        return []
    if original not in tensors:
        tensors[original] = tensors.pop(copy)
        return []
    if tensors[copy].shape != tensors[original].shape or not np.array_equal(tensors[copy], tensors[original]):
        raise InputError(f"{where}: {copy} is not equal to {original}; only models that tie the two are supported")
    return [copy]


def _weight_files(folder: files.Path) -> tuple[files.Path, bool]:
    """Returns the file of a folder's weights, and whether it is the index of several."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        for name, is_index in ((f"{stem}.index.json", True), (stem, False)):
            if (folder / name).exists():
                return folder / name, is_index
    others = [f"{name} of {library}" for name, library in OTHER_WEIGHTS.items() if (folder / name).exists()]
    also = f"; {', '.join(others)} is not read: load the model in transformers and save it again" if others else ""
    raise InputError(
        f"{folder}: no weights there: neither model.safetensors (or its index) nor pytorch_model.bin{also}"
    )


def _reader(path: files.Path) -> Any:
    return _read_torch if path.name.startswith("pytorch_model") else _read_safetensors


def read_tensors(folder: files.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a folder's weights by name; half precision as float32."""
    path, is_index = _weight_files(folder)
    return _read_shards(path, _reader(path)) if is_index else _reader(path)(path)


def _stored_shape(folder: files.Path, tensor: str) -> tuple[int, ...] | None:
    """Returns the shape of a tensor, None without it; of a safetensors file, only the header is read."""
    path, is_index = _weight_files(folder)
    if is_index:
        files_with = [file for name, file in _read_index(path).items() if WRAPPERS.sub("", name) == tensor]
        if not files_with or not (folder / files_with[0]).exists():
            return None
        path = folder / files_with[0]
    if path.suffix != ".safetensors":
        shapes = {WRAPPERS.sub("", name): array.shape for name, array in _read_torch(path).items()}
        return shapes.get(tensor)
    with _open_safetensors(path) as opened:
        names = {WRAPPERS.sub("", name): name for name in opened.keys()}  # noqa: SIM118
        return tuple(opened.get_slice(names[tensor]).get_shape()) if tensor in names else None


def _read_index(index: files.Path) -> dict[str, str]:
    """Returns which file has each tensor."""
    try:
        shard_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        sorted(set(shard_of.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: expected a JSON object with weight_map, tensor name -> file") from None
    return shard_of


def _read_shards(index: files.Path, read: Any) -> dict[str, np.ndarray]:
    shard_of = _read_index(index)
    shards = sorted(set(shard_of.values()))
    tensors: dict[str, np.ndarray] = {}
    for file in shards:
        if not (index.parent / file).exists():
            raise InputError(f"{index}: names the file {file}, which is not there")
        part = read(index.parent / file)
        listed = {name for name, shard in shard_of.items() if shard == file}
        if part.keys() != listed:
            missing, extra = sorted(listed - part.keys()), sorted(part.keys() - listed)
            raise InputError(f"{index}: {file} lacks {missing}, which are listed, or has {extra}, which are not")
        tensors |= part
    return tensors


@contextmanager
def _open_safetensors(path: files.Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(str(storage.local_copy(path)), framework="numpy") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file, or truncated: {error}") from None


def _read_safetensors(path: files.Path) -> dict[str, np.ndarray]:
    with _open_safetensors(path) as file:
        return {name: _as_float(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def _read_torch(path: files.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: reading this format needs torch; install it, or convert the file to model.safetensors"
        ) from None
    try:
        # Only tensors: a pickle can run code.
        loaded = torch.load(str(storage.local_copy(path)), map_location="cpu", weights_only=True)
        return {name: _as_float(tensor.float().numpy()) for name, tensor in loaded.items()}
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a file of tensors only, or truncated: {reason}") from None


def _as_float(tensor: np.ndarray) -> np.ndarray:
    """Returns half precision as float32, which holds it exactly; float32 and integers are unchanged."""
    return tensor.astype(np.float32) if tensor.dtype.itemsize == 2 else tensor


def write(
    folder: files.Path,
    config: BertConfig,
    params: Mapping[str, Any],
    details: Details = Details(),
    token_ids: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """Writes config.json and model.safetensors, float32, as transformers' own classes save them.

    Args:
      folder: is made if needed; a tokenizer's `save` may write to the same folder.
      config: the encoder; in a family without shared blocks, a block is written once for each layer that applies it.
      params: {"bert": ..., HEAD: ...}, with heads that a class of the family has.
      details: labels and problem type; the architecture follows from the heads.
      token_ids: fields of config.json with the id of a special token.

    Returns:
      What was left out of the folder, or added to fit the class without changing an output, as sentences for the user:
      a generator, a head for pairs or a pooler that no class of the family has; gates.

    Raises:
      InputError: no class of transformers has this architecture or these heads, or arrays are missing or left over.
    """
    notes: tuple[str, ...] = ()
    if named.GENERATOR in params:
        params = named.without_generator(params)
        notes = ("left out: the generator; `bert_jax convert --generator` writes it into another folder",)
    heads, family = named.heads(params), FAMILIES[config.family]
    if named.MLM in heads and heads not in family.architectures and heads - {named.PAIR} in family.architectures:
        params, heads = named.without_pair_head(params), heads - {named.PAIR}
        notes += (f"left out: the head for sentence pairs, which no {family.class_prefix} class of transformers has",)
    if heads not in family.architectures:
        raise InputError(
            f"no {family.class_prefix} class of transformers has exactly the heads {', '.join(sorted(heads))}"
        )
    architecture = family.architectures[heads]
    name = family.class_prefix + architecture
    if architecture in family.without_pooler and named.has_pooler(params):
        params = named.without_pooler(params)
        notes += (f"left out: the pooler, which {name} of transformers does not use",)
    elif heads and architecture not in family.without_pooler and not named.has_pooler(params):
        raise InputError(f"{name} of transformers needs a pooler, which these parameters lack")
    details = replace(details, architecture=architecture, labels=_labels(params, heads, details.labels))
    if PRESETS[family.defaults].feed_forward == "glu" and config.feed_forward == "mlp" and config.linear_bias:
        config, params = replace(config, feed_forward="glu"), named.with_open_gates(params)
        notes += (f"{name} of transformers has gates; those of the folder are always 1, so that nothing changes",)
    hf_config = to_config(config, details) | dict(token_ids or {})
    mappings = name_mappings(config, architecture, family.prefix if heads else "")
    tensors = to_theirs(mappings, params, config)
    files.make_folder(folder)
    files.write_json(folder / "config.json", hf_config)
    floats = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    with storage.replacing(folder / "model.safetensors") as unfinished:
        save_file(floats, str(unfinished), metadata={"format": "pt"})
    return notes


def _labels(params: Mapping[str, Any], heads: frozenset[str], labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a name for each class of a head with classes: transformers counts the names to size the head."""
    for head in heads & {named.SEQUENCE, named.TOKEN}:
        classes = named.num_classes(params, head)
        if labels and len(labels) != classes:
            raise InputError(f"there are {len(labels)} names of labels, but the {head} head has {classes} outputs")
        return labels or default_labels(classes)
    return ()
