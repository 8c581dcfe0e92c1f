"""Folders of sentence-transformers: what they hold besides an encoder. Texts get the same vectors there and here.

modules.json lists what is done to a text: a Transformer (the encoder, a Hugging Face folder), Pooling, perhaps a Dense
layer, perhaps Normalize. Of these, a Dense layer after the first token's state is BERT's pooler.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from bert_jax import files, storage
from bert_jax import params as named
from bert_jax.config import BertConfig, TextVectors
from bert_jax.config.vectors import BY_POOLER
from bert_jax.errors import InputError
from bert_jax.interop.lengths import SENTENCE_CONFIG

MODULES, SETTINGS, CONFIG = "modules.json", "config_sentence_transformers.json", "config.json"
FILES = (MODULES, SETTINGS, SENTENCE_CONFIG, "[0-9]*_*/*")  # patterns of all files that are read
POOLINGS = {"cls": "cls", "mean": "mean"}  # theirs to ours
FLAG, FLAG_ENDS = "pooling_mode_", ("", "_token", "_tokens")  # older files have a flag for each pooling
TANH = "torch.nn.modules.activation.Tanh"


class Modules(NamedTuple):
    """What a folder's modules.json lists."""

    encoder: files.Path  # the folder of the Transformer
    vectors: TextVectors | None = None  # None if the folder is not one of sentence-transformers, or has a `problem`
    problem: str = ""  # why texts cannot be given the vectors that the folder defines
    dense: files.Path | None = None  # the folder of a Dense layer that takes the pooler's part


def read(folder: files.Path) -> Modules:
    """Reads which modules a folder has; a folder without modules.json is an encoder alone.

    Raises:
      InputError: a file is not JSON, or is not as sentence-transformers writes it.
    """
    path = folder / MODULES
    if not path.exists():
        return Modules(folder)
    listed = files.read_json_list(path)
    if not listed or not all(isinstance(m, Mapping) and isinstance(m.get("type"), str) for m in listed):
        raise InputError(f"{path}: expected a list of modules, each with type and path")
    kinds = [module["type"].rpartition(".")[2] for module in listed]
    folders = [folder / module["path"] if module.get("path") else folder for module in listed]
    encoder = folders[0] if kinds[0] == "Transformer" else folder
    try:
        vectors, dense = _read_modules(path, kinds, folders)
        return Modules(encoder, _with_prompts(vectors, folder / SETTINGS, folders[1] / CONFIG), dense=dense)
    except _UnsupportedError as problem:
        return Modules(encoder, problem=str(problem))


class _UnsupportedError(Exception):
    """The folder's vectors cannot be computed here; its encoder can be used."""


def _read_modules(
    path: files.Path, kinds: list[str], folders: list[files.Path]
) -> tuple[TextVectors, files.Path | None]:
    """Returns pooling and normalisation, and the folder of a Dense layer."""
    rest = kinds[2:]
    has_dense, normalized = rest[:1] == ["Dense"], rest[-1:] == ["Normalize"]
    if kinds[:2] != ["Transformer", "Pooling"] or len(rest) != has_dense + normalized:
        raise _UnsupportedError(
            f"{path}: the modules are {', '.join(kinds)}; supported are Transformer, Pooling, then Dense or not, then "
            "Normalize or not"
        )
    pooling = _pooling(folders[1] / CONFIG)
    if not has_dense:
        return TextVectors(pooling=pooling, normalized=normalized), None
    config = files.read_json(folders[2] / CONFIG)
    square = config.get("in_features") == config.get("out_features")
    plain = square and config.get("bias", True) and not config.get("use_residual")
    if pooling != "cls" or not plain or config.get("activation_function") != TANH:
        raise _UnsupportedError(
            f"{folders[2] / CONFIG}: a Dense layer is supported after the pooling of [CLS], if it has as many outputs "
            "as inputs, a bias and the activation Tanh, as BERT's pooler"
        )
    return TextVectors(pooling=BY_POOLER, normalized=normalized), folders[2]


def _pooling(path: files.Path) -> Any:
    config = files.read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        flags = [name for name, value in config.items() if name.startswith(FLAG) and value is True]
        modes = [name.removeprefix(FLAG) for name in flags] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    short = {name + end: name for name in POOLINGS for end in FLAG_ENDS}
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in short:
        shown = ", ".join(map(str, modes)) if isinstance(modes, list) else modes
        raise _UnsupportedError(f"{path}: the pooling is {shown}; supported is one of {', '.join(POOLINGS)}")
    return POOLINGS[short[modes[0]]]


def _with_prompts(vectors: TextVectors, path: files.Path, pooling: files.Path) -> TextVectors:
    """Returns the vectors with the prompts in the folder's settings."""
    settings = files.read_json(path) if path.exists() else {}
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    texts = prompts.values() if isinstance(prompts, Mapping) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{path}: prompts must be a JSON object, name -> text")
    if default is not None and default not in prompts:
        raise InputError(f"{path}: default_prompt_name is {default!r}; prompts has {', '.join(prompts) or 'none'}")
    if any(texts) and files.read_json(pooling).get("include_prompt", True) is False:
        raise _UnsupportedError(f"{pooling}: include_prompt is false; here a prompt is part of the text")
    return replace(vectors, prompts=tuple(prompts.items()), default_prompt=default)


def of_encoder(params: Mapping[str, Any], vectors: TextVectors | None, problem: str) -> tuple[TextVectors, list[str]]:
    """Returns how a source's texts become vectors, and what a folder of its encoder alone leaves out, as sentences.

    Args:
      vectors: as the source defines them, if it does.
      problem: why that cannot be computed.

    Raises:
      InputError: there is a problem.
    """
    if problem:
        raise InputError(problem)
    heads = ", ".join(sorted(named.heads(params)))
    notes = [f"left out: {heads}; the folder holds the encoder"] if heads else []
    if vectors is None:
        notes.append("the source does not define vectors of texts; those of the folder are the means of all states")
    return vectors or TextVectors(), notes


def with_dense(
    params: Mapping[str, Any], tensors: Mapping[str, np.ndarray], width: int, where: files.Path
) -> dict[str, Any]:
    """Returns an encoder's parameters with the pooler that a Dense layer's tensors are.

    Raises:
      InputError: they are not those of a Dense layer of the encoder's width.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = {"linear.weight": (width, width), "linear.bias": (width,)}
    if shapes != wanted:
        raise InputError(f"{where}: the Dense layer has the tensors {shapes}, expected {wanted}")
    return named.with_pooler(params, tensors["linear.weight"].T, tensors["linear.bias"])


def write(
    folder: files.Path, vectors: TextVectors, max_length: int, config: BertConfig, params: Mapping[str, Any]
) -> None:
    """Adds to an encoder's Hugging Face folder what makes it one of sentence-transformers.

    Raises:
      InputError: the vectors need a pooler that no module of sentence-transformers has.
    """
    by_pooler = vectors.pooling == BY_POOLER
    if by_pooler and (config.pooling, config.pooler, config.pooler_norm, config.linear_bias) != (
        "cls",
        "tanh",
        False,
        True,
    ):
        raise InputError(
            f"pooling pooler: the pooler ({config.pooling}, {config.pooler}) has no module in sentence-transformers, "
            "which has that of BERT (cls, tanh)"
        )
    optional = {"Dense": by_pooler, "Normalize": vectors.normalized}
    kinds = ["Transformer", "Pooling", *(kind for kind, used in optional.items() if used)]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    for path in paths[1:]:
        files.make_folder(folder / path)
    width = config.hidden_size
    # The fields of version 2, which later ones read too.
    flags = {
        f"{FLAG}cls_token": vectors.pooling != "mean",
        f"{FLAG}mean_tokens": vectors.pooling == "mean",
        f"{FLAG}max_tokens": False,
        f"{FLAG}mean_sqrt_len_tokens": False,
    }
    files.write_json(folder / paths[1] / CONFIG, {"word_embedding_dimension": width} | flags)
    if by_pooler:
        kernel, bias = named.pooler_arrays(params)
        dense = {"in_features": width, "out_features": width, "bias": True, "activation_function": TANH}
        files.write_json(folder / paths[2] / CONFIG, dense)
        tensors = {
            "linear.weight": np.ascontiguousarray(kernel.T, np.float32),
            "linear.bias": np.asarray(bias, np.float32),
        }
        with storage.replacing(folder / paths[2] / "model.safetensors") as unfinished:
            save_file(tensors, str(unfinished), metadata={"format": "pt"})
    files.write_json(folder / SENTENCE_CONFIG, {"max_seq_length": max_length, "do_lower_case": False})
    prompts = {"prompts": dict(vectors.prompts), "default_prompt_name": vectors.default_prompt}
    files.write_json(folder / SETTINGS, {"model_type": "SentenceTransformer"} | prompts)
    files.write_whole(folder / MODULES, files.json_text(modules, indent=2) + "\n")
