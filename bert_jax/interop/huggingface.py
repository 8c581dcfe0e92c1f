"""Hugging Face folders of BERT and ALBERT, in and out: config.json and the tensors, by one name table each."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
from safetensors.numpy import save_file

from bert_jax import files, sources
from bert_jax import params as named
from bert_jax.config import PRESETS, BertConfig
from bert_jax.errors import InputError
from bert_jax.interop.table import Notes, Row, Table, expand, rename_unique, to_ours, to_theirs

_HEADS: Table = (
    ("{classifier}/out/kernel", "C<D", "classifier.weight"),
    ("{classifier}/out/bias", "C", "classifier.bias"),
    ("span/out/kernel", "2<D", "qa_outputs.weight"),
    ("span/out/bias", "2", "qa_outputs.bias"),
)

BERT: Table = (
    ("bert/embeddings/word/embedding", "VE", "{p}embeddings.word_embeddings.weight"),
    ("bert/embeddings/position/embedding", "TE", "{p}embeddings.position_embeddings.weight"),
    ("bert/embeddings/token_type/embedding", "SE", "{p}embeddings.token_type_embeddings.weight"),
    ("bert/embeddings/norm/scale", "E", "{p}embeddings.LayerNorm.weight"),
    ("bert/embeddings/norm/bias", "E", "{p}embeddings.LayerNorm.bias"),
    (
        "bert/blocks_{group}/attention/qkv/kernel",
        "3HK<D",
        (
            "{p}encoder.layer.{layer}.attention.self.query.weight",
            "{p}encoder.layer.{layer}.attention.self.key.weight",
            "{p}encoder.layer.{layer}.attention.self.value.weight",
        ),
    ),
    (
        "bert/blocks_{group}/attention/qkv/bias",
        "3HK",
        (
            "{p}encoder.layer.{layer}.attention.self.query.bias",
            "{p}encoder.layer.{layer}.attention.self.key.bias",
            "{p}encoder.layer.{layer}.attention.self.value.bias",
        ),
    ),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", "{p}encoder.layer.{layer}.attention.output.dense.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", "{p}encoder.layer.{layer}.attention.output.dense.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", "{p}encoder.layer.{layer}.attention.output.LayerNorm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", "{p}encoder.layer.{layer}.attention.output.LayerNorm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "F<D", "{p}encoder.layer.{layer}.intermediate.dense.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "F", "{p}encoder.layer.{layer}.intermediate.dense.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", "{p}encoder.layer.{layer}.output.dense.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", "{p}encoder.layer.{layer}.output.dense.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", "{p}encoder.layer.{layer}.output.LayerNorm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", "{p}encoder.layer.{layer}.output.LayerNorm.bias"),
    ("bert/pooler/kernel", "D<D", "{p}pooler.dense.weight"),
    ("bert/pooler/bias", "D", "{p}pooler.dense.bias"),
    ("mlm/dense/kernel", "E<D", "cls.predictions.transform.dense.weight"),
    ("mlm/dense/bias", "E", "cls.predictions.transform.dense.bias"),
    ("mlm/norm/scale", "E", "cls.predictions.transform.LayerNorm.weight"),
    ("mlm/norm/bias", "E", "cls.predictions.transform.LayerNorm.bias"),
    ("mlm/bias", "V", "cls.predictions.bias"),
    ("pair/out/kernel", "2<D", "cls.seq_relationship.weight"),
    ("pair/out/bias", "2", "cls.seq_relationship.bias"),
    *_HEADS,
)

_BLOCK = "{p}encoder.albert_layer_groups.{group}.albert_layers.0."

ALBERT: Table = (
    *BERT[:5],
    ("bert/embeddings/projection/kernel", "D<E", "{p}encoder.embedding_hidden_mapping_in.weight"),
    ("bert/embeddings/projection/bias", "D", "{p}encoder.embedding_hidden_mapping_in.bias"),
    (
        "bert/blocks_{group}/attention/qkv/kernel",
        "3HK<D",
        (_BLOCK + "attention.query.weight", _BLOCK + "attention.key.weight", _BLOCK + "attention.value.weight"),
    ),
    (
        "bert/blocks_{group}/attention/qkv/bias",
        "3HK",
        (_BLOCK + "attention.query.bias", _BLOCK + "attention.key.bias", _BLOCK + "attention.value.bias"),
    ),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", _BLOCK + "attention.dense.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", _BLOCK + "attention.dense.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", _BLOCK + "attention.LayerNorm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", _BLOCK + "attention.LayerNorm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "F<D", _BLOCK + "ffn.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "F", _BLOCK + "ffn.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", _BLOCK + "ffn_output.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", _BLOCK + "ffn_output.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", _BLOCK + "full_layer_layer_norm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", _BLOCK + "full_layer_layer_norm.bias"),
    ("bert/pooler/kernel", "D<D", "{p}pooler.weight"),
    ("bert/pooler/bias", "D", "{p}pooler.bias"),
    ("mlm/dense/kernel", "E<D", "predictions.dense.weight"),
    ("mlm/dense/bias", "E", "predictions.dense.bias"),
    ("mlm/norm/scale", "E", "predictions.LayerNorm.weight"),
    ("mlm/norm/bias", "E", "predictions.LayerNorm.bias"),
    ("mlm/bias", "V", "predictions.bias"),
    ("pair/out/kernel", "2<D", "sop_classifier.classifier.weight"),
    ("pair/out/bias", "2", "sop_classifier.classifier.bias"),
    *_HEADS,
)

TABLES = {"bert": BERT, "albert": ALBERT}

# Output weights that are the input embeddings, and a bias that goes by two names: copy -> original.
TIED = {
    "bert": {
        "cls.predictions.decoder.weight": "{p}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "albert": {
        "predictions.decoder.weight": "{p}embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
}

# Numbers 0, 1, 2... and zeros that older releases of transformers stored among the weights.
BUFFERS = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")

# Heads of the parameters -> the end of the class name in config.json.
ARCHITECTURES = {
    frozenset(): "Model",
    frozenset({named.MLM, named.PAIR}): "ForPreTraining",
    frozenset({named.MLM}): "ForMaskedLM",
    frozenset({named.PAIR}): "ForNextSentencePrediction",
    frozenset({named.SEQUENCE}): "ForSequenceClassification",
    frozenset({named.TOKEN}): "ForTokenClassification",
    frozenset({named.SPAN}): "ForQuestionAnswering",
    frozenset({named.CHOICE}): "ForMultipleChoice",
}
CLASSIFIERS = {
    "ForSequenceClassification": named.SEQUENCE,
    "ForTokenClassification": named.TOKEN,
    "ForMultipleChoice": named.CHOICE,
}
NAMED_CLASSES = {"ForSequenceClassification", "ForTokenClassification"}
WITHOUT_POOLER = {"ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"}

# config.json -> BertConfig, where the meaning is the same.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
}
ALBERT_FIELDS = FIELDS | {
    "embedding_size": "embedding_size",
    "num_hidden_groups": "num_layer_groups",
    "classifier_dropout_prob": "classifier_dropout",
}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "relu": "relu"}


@dataclass(frozen=True)
class Details:
    """What config.json says beside the architecture of the encoder."""

    architecture: str = ""  # end of the class name, such as "ForTokenClassification"; "" where it says nothing
    labels: tuple[str, ...] = ()  # names of the classes in the order of the outputs, of a class in NAMED_CLASSES
    problem_type: str | None = None  # "regression", "single_label_classification" or "multi_label_classification"


def family(config: BertConfig) -> str:
    """Returns "albert" for factorized embeddings, else "bert"."""
    return "bert" if config.embedding_size is None else "albert"


def fetch(source: str) -> files.Path:
    """Returns the local folder of "hf:org/name", downloaded, or from huggingface_hub's cache where it is complete.

    Raises:
      InputError: it is not in the cache and cannot be downloaded.
    """
    name = sources.parse(source).name
    wanted = ["config.json", "vocab.txt", "spiece.model", "tokenizer*.json", "special_tokens_map.json"]
    try:
        folder = files.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, "*.safetensors*"]))
        if not files.matching(folder, "*.safetensors"):
            folder = files.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, "pytorch_model*"]))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: not in the local cache, and not to be had from the hub: {first}") from None
    return folder


def read_config(folder: files.Path) -> tuple[BertConfig, Details]:
    """Reads config.json.

    Raises:
      InputError: it is missing, no JSON, lacks a size, or asks for something other than BERT or ALBERT.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json there; a Hugging Face folder has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return parse_config(found, str(path))


def parse_config(found: Mapping[str, Any], where: str) -> tuple[BertConfig, Details]:
    """Turns the fields of a config.json into ours; fields that say nothing of the architecture are passed over.

    Raises:
      InputError: see `read_config`.
    """
    kind = found.get("model_type", "albert" if "embedding_size" in found else "bert")
    if kind not in TABLES:
        raise InputError(f"{where}: model_type {kind!r} is not supported; 'bert' and 'albert' are")
    if missing := [name for name in SIZES if name not in found]:
        raise InputError(f"{where}: lacks {', '.join(missing)}")
    plain = {"position_embedding_type": "absolute", "is_decoder": False, "inner_group_num": 1}
    for name, value in plain.items():
        if found.get(name, value) != value:
            raise InputError(f"{where}: {name} is {found[name]!r}; only {value!r} is supported")
    fields = ALBERT_FIELDS if kind == "albert" else FIELDS
    base = PRESETS["albert-base" if kind == "albert" else "bert-base"]
    values = {ours: found[theirs] for theirs, ours in fields.items() if theirs in found}
    if "hidden_act" in found:
        if found["hidden_act"] not in ACTIVATIONS:
            raise InputError(f"{where}: hidden_act {found['hidden_act']!r} is none of {', '.join(ACTIVATIONS)}")
        values["activation"] = ACTIVATIONS[found["hidden_act"]]
    if kind == "bert":
        dropout = found.get("classifier_dropout")
        values["classifier_dropout"] = values.get("hidden_dropout", base.hidden_dropout) if dropout is None else dropout
    named = found.get("id2label") or {}
    try:
        labels = tuple(named[str(i)] for i in range(len(named)))
    except KeyError as error:
        raise InputError(f"{where}: id2label must name the labels 0 to {len(named) - 1}; it lacks {error}") from None
    classes = [name for name in found.get("architectures") or [] if isinstance(name, str)]
    architecture = re.sub("^(Bert|Albert)", "", classes[0]) if classes else ""
    if not labels and architecture in NAMED_CLASSES:
        labels = ("LABEL_0", "LABEL_1")  # what transformers leaves unsaid
    return replace(base, **values), Details(architecture, labels, found.get("problem_type"))


def to_config(config: BertConfig, details: Details) -> dict[str, Any]:
    """Returns what config.json holds for a model; the inverse of `parse_config`."""
    kind = family(config)
    fields = ALBERT_FIELDS if kind == "albert" else FIELDS | {"classifier_dropout": "classifier_dropout"}
    written: dict[str, Any] = {
        "architectures": [kind.capitalize() + details.architecture],
        "model_type": kind,
        "hidden_act": config.activation,
        "pad_token_id": 0,
        "dtype": "float32",
        **{theirs: getattr(config, ours) for theirs, ours in fields.items()},
    }
    if kind == "albert":
        written |= {"inner_group_num": 1, "num_hidden_groups": config.layer_groups}
    if details.labels and details.architecture in NAMED_CLASSES:
        written["id2label"] = {str(i): name for i, name in enumerate(details.labels)}
        written["label2id"] = {name: i for i, name in enumerate(details.labels)}
    if details.problem_type:
        written["problem_type"] = details.problem_type
    return written


def read_params(folder: files.Path, *, strict: bool = True) -> tuple[dict[str, Any], Notes]:
    """Reads all weights of a folder: {"bert": ..., HEAD: ...}, float32 (or bfloat16 as stored).

    The pooler and the heads are those whose tensors are there, whatever class config.json names.

    Args:
      folder: a Hugging Face folder.
      strict: whether a tensor nobody knows is an error; else it is left out and noted.

    Raises:
      InputError: files are missing, broken or cut short; names or shapes do not fit config.json; output weights are not
        the input embeddings.
    """
    config, details = read_config(folder)
    kind, where = family(config), str(folder)
    tensors = _read_tensors(folder)
    tensors = rename_unique(tensors, {name: _modern(name) for name in tensors}, where)
    ignored = [name for name in tensors if BUFFERS.search(name)]
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in tensors) else ""
    for copy, original in TIED[kind].items():
        ignored += _check_tied(tensors, copy, original.format(p=prefix), where)
    if "classifier.weight" in tensors and details.architecture not in CLASSIFIERS:
        raise InputError(
            f"{where}: holds a classifier, and config.json does not say of what: architectures must name a class that "
            f"ends in {', '.join(CLASSIFIERS)}"
        )
    rows = _rows(config, details.architecture, prefix)
    kept = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    params, left_out = to_ours(rows, kept, config, where, strict)
    return params, Notes(tuple(ignored), left_out)


def _rows(config: BertConfig, architecture: str, prefix: str) -> list[Row]:
    classifier = CLASSIFIERS.get(architecture, named.SEQUENCE)
    return expand(TABLES[family(config)], config, p=prefix, classifier=classifier)


def _modern(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _check_tied(tensors: dict[str, np.ndarray], copy: str, original: str, where: str) -> list[str]:
    """Returns [copy] where it may be ignored; puts it in the original's place where that is absent."""
    if copy not in tensors:
        return []
    if original not in tensors:
        tensors[original] = tensors.pop(copy)
        return []
    if tensors[copy].shape != tensors[original].shape or not np.array_equal(tensors[copy], tensors[original]):
        raise InputError(f"{where}: {copy} is not equal to {original}; only models that tie the two are supported")
    return [copy]


def _read_tensors(folder: files.Path) -> dict[str, np.ndarray]:
    for stem, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_torch)):
        if (folder / f"{stem}.index.json").exists():
            return _read_shards(folder / f"{stem}.index.json", read)
        if (folder / stem).exists():
            return read(folder / stem)
    raise InputError(f"{folder}: no weights there: neither model.safetensors (or its index) nor pytorch_model.bin")


def _read_shards(index: files.Path, read: Any) -> dict[str, np.ndarray]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: expected a JSON object with weight_map, tensor name -> file") from None
    tensors: dict[str, np.ndarray] = {}
    for file in shards:
        if not (index.parent / file).exists():
            raise InputError(f"{index}: names the file {file}, which is not there")
        found = read(index.parent / file)
        listed = {name for name, place in places.items() if place == file}
        if found.keys() != listed:
            missing, extra = sorted(listed - found.keys()), sorted(found.keys() - listed)
            raise InputError(f"{index}: {file} should hold {missing} and does not, or holds {extra} unlisted")
        tensors |= found
    return tensors


def _read_safetensors(path: files.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(files.local(path), framework="numpy") as file:
            return {name: _as_float(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file, or cut short: {error}") from None


def _read_torch(path: files.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: reading this format needs torch; install it, or convert the file to model.safetensors"
        ) from None
    try:
        # Never anything but tensors: a pickle can run code.
        found = torch.load(files.local(path), map_location="cpu", weights_only=True)
        return {name: _as_float(tensor.float().numpy()) for name, tensor in found.items()}
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a file of tensors alone, or cut short: {reason}") from None


def _as_float(tensor: np.ndarray) -> np.ndarray:
    """Half precision becomes float32, which holds it exactly; float32 and integers stay."""
    return tensor.astype(np.float32) if tensor.dtype.itemsize == 2 else tensor


def write(folder: files.Path, config: BertConfig, params: Mapping[str, Any], details: Details = Details()) -> None:
    """Writes config.json and model.safetensors, float32, as transformers' own classes save them.

    Args:
      folder: made where it is not there; a tokenizer's `save` may write to the same.
      config: the encoder; without factorized embeddings it becomes BERT, where a shared block is written once for
        each layer that applies it.
      params: {"bert": ..., HEAD: ...}, of the heads in `ARCHITECTURES`.
      details: labels and problem type; the architecture follows from the heads.

    Raises:
      InputError: no class of transformers has these heads, or arrays are missing or left over.
    """
    heads = named.heads(params)
    kind = family(config)
    if heads not in ARCHITECTURES or (kind == "albert" and heads == {named.PAIR}):
        raise InputError(f"no {kind.upper()} class of transformers has just the heads {', '.join(sorted(heads))}")
    architecture = ARCHITECTURES[heads]
    if heads and named.has_pooler(params) == (architecture in WITHOUT_POOLER):
        has = "has no" if architecture in WITHOUT_POOLER else "needs a"
        raise InputError(f"{kind.capitalize()}{architecture} of transformers {has} pooler; these parameters differ")
    details = replace(details, architecture=architecture, labels=_labels(params, heads, details.labels))
    rows = _rows(config, architecture, f"{kind}." if heads else "")
    tensors = to_theirs(rows, params, config)
    files.make_folder(folder)
    files.write_json(folder / "config.json", to_config(config, details))
    floats = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(floats, files.local(folder / "model.safetensors"), metadata={"format": "pt"})


def _labels(params: Mapping[str, Any], heads: frozenset[str], labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a name for each class of a head with classes: transformers counts the names to size the head."""
    for head in heads & {named.SEQUENCE, named.TOKEN}:
        classes = named.num_classes(params, head)
        if labels and len(labels) != classes:
            raise InputError(f"{len(labels)} labels are named, and the {head} head has {classes} outputs")
        return labels or tuple(f"LABEL_{i}" for i in range(classes))
    return ()
