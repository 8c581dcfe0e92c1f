"""The names in a parameter tree, and functions that answer questions about them. No other file spells these names.

A model's parameters are nested dicts, {"bert": encoder, HEAD: head, ...}. A parameter's name is its path, such as
"bert/blocks_0/attention/qkv/kernel". Flax takes the names from the modules in `model.py` and `heads.py`; the tables of
`families/` spell them once more, next to the names that other projects use.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax.config import BertConfig

ENCODER = "bert"
# A model may hold a second encoder, as ELECTRA's small generator. It is frozen and its layers count as the first one's.
GENERATOR = "generator"
ENCODERS = frozenset({ENCODER, GENERATOR})
EMBEDDINGS = "embeddings"
POOLER = "pooler"
POOLER_PARTS = frozenset({POOLER, "pooler_norm"})

# Heads, by what they predict from.
MLM, PAIR, SEQUENCE, TOKEN, SPAN, CHOICE = "mlm", "pair", "sequence", "token", "span", "choice"
DISCRIMINATOR, GENERATOR_MLM = "discriminator", "generator_mlm"

# Modules of the encoder and of the MLM head that are linear layers.
LINEAR = frozenset({"qkv", "in", "out", "projection", "dense", POOLER})
DECAYED = frozenset({"kernel", "embedding"})
VOCABULARY = frozenset({"word/embedding", "mlm/bias", "generator_mlm/bias"})


def block(group: int) -> str:
    """Returns what the encoder calls the weights of block `group`."""
    return f"blocks_{group}"


def block_path(group: int) -> str:
    """Returns the path of block `group`, such as "bert/blocks_0"."""
    return f"{ENCODER}/{block(group)}"


def output_path(head: str) -> str:
    """Returns the path of the output weights of a head with classes."""
    return f"{head}/out/kernel"


def pooler_paths() -> list[str]:
    """Returns the paths of the pooler's parts."""
    return [f"{ENCODER}/{name}" for name in sorted(POOLER_PARTS)]


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {name: array} of nested dicts.

    >>> flatten({"bert": {"pooler": {"bias": 0}}})
    {'bert/pooler/bias': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def map_named(function: Callable[..., Any], params: Any, *others: Any) -> Any:
    """Returns the tree of function(name, array), or of function(name, array, ...) with arrays of further trees."""
    return jax.tree.map_with_path(
        lambda path, *arrays: function("/".join(key.key for key in path), *arrays), params, *others
    )


def is_encoder(name: str) -> bool:
    """Returns whether the parameter belongs to an encoder rather than to a head."""
    return name.split("/")[0] in ENCODERS


def part(name: str) -> str:
    """Returns the part that a checkpoint has whole or not at all: an encoder without its pooler, the pooler, or a head.

    >>> part("bert/pooler/kernel"), part("bert/embeddings/norm/bias"), part("mlm/bias")
    ('bert/pooler', 'bert', 'mlm')
    """
    first, second = name.split("/")[:2]
    return f"{first}/{POOLER}" if first in ENCODERS and second in POOLER_PARTS else first


def exists(name: str, config: BertConfig) -> bool:
    """Returns whether a model of this architecture can have the parameter; output layers of heads always can."""
    first, *modules, leaf = name.split("/")
    module = modules[-1] if modules else first
    if leaf == "bias" and module.endswith("norm"):
        return config.norm == "layer" and config.norm_bias and exists(name.replace("/bias", "/scale"), config)
    if leaf == "bias" and module in LINEAR and not config.linear_bias and (first in ENCODERS or module == "dense"):
        return False
    if module == "attention_norm" and config.norm_position == "pre" and block(0) in modules:
        return config.num_layers > 1 and config.group(1) == 0  # the first layer has none, others that share it have
    optional = {
        "position": config.positions == "learned",
        "token_type": config.type_vocab_size > 0,
        "projection": config.embedding_size is not None,
        "final_norm": config.norm_position == "pre",
        "pooler": config.pooler != "none",
        "pooler_norm": config.pooler != "none" and config.pooler_norm,
    }
    return optional.get(module, True)


def depth(name: str, config: BertConfig) -> int:
    """Returns how high in the model a parameter is: 0 embeddings, k layer k, num_layers + 1 pooler and heads.

    A block that several layers share is as high as the last of them.
    """
    above = config.num_layers + 1
    if not is_encoder(name):
        return above
    section = name.split("/")[1]
    last_use = {block(config.group(layer)): layer + 1 for layer in range(config.num_layers)}
    return 0 if section == EMBEDDINGS else last_use.get(section, above)


def is_decayed(name: str) -> bool:
    """Returns whether weight decay applies: to matrices and embedding tables, but not to biases and LayerNorm."""
    return name.split("/")[-1] in DECAYED


def is_block_matrix(name: str) -> bool:
    """Returns whether the parameter is a weight matrix of a block, or several of them in one array."""
    return is_encoder(name) and name.split("/")[1] not in (EMBEDDINGS, POOLER) and name.endswith("/kernel")


def matrix_axes(name: str, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns which axes of a kernel are inputs, and which are outputs; any other axis numbers separate matrices.

    >>> matrix_axes("bert/blocks_0/attention/qkv/kernel", 4)  # [D, 3, H, K]: query, key and value are a matrix each
    ((0,), (2, 3))
    >>> matrix_axes("bert/blocks_0/attention/out/kernel", 3)  # [H, K, D]
    ((0, 1), (2,))
    """
    if name.endswith("out/kernel"):
        return tuple(range(rank - 1)), (rank - 1,)
    return (0,), (1,) if rank == 2 else tuple(range(2, rank))


def grows_with_vocabulary(name: str) -> bool:
    """Returns whether the parameter has a row, or a number, for each token of the vocabulary."""
    return "/".join(name.split("/")[-2:]) in VOCABULARY


def follows_config(name: str) -> bool:
    """Returns whether the model's config decides the parameter's shape; for other heads the task's classes do."""
    return is_encoder(name) or part(name) in (MLM, DISCRIMINATOR, GENERATOR_MLM)


def follows_labels(name: str) -> bool:
    """Returns whether the last dimension of the parameter is the task's labels, in their order."""
    return part(name) in (SEQUENCE, TOKEN)


def heads(params: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of a model's heads."""
    return frozenset(params) - ENCODERS


def has_pooler(params: Mapping[str, Any]) -> bool:
    """Returns whether the model's encoder has a pooler."""
    return POOLER in params[ENCODER]


def without_pooler(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of the encoder's pooler."""
    encoder = {name: part for name, part in params[ENCODER].items() if name not in POOLER_PARTS}
    return {**params, ENCODER: encoder}


def pooler_arrays(params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel [D, D], inputs first, and the bias [D] of the encoder's pooler."""
    pooler = params[ENCODER][POOLER]
    return pooler["kernel"], pooler["bias"]


def with_pooler(params: Mapping[str, Any], kernel: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    """Returns the parameters with this pooler in place of the encoder's own."""
    return {**params, ENCODER: {**params[ENCODER], POOLER: {"kernel": kernel, "bias": bias}}}


def without_heads(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the encoder alone."""
    return {ENCODER: params[ENCODER]}


def with_open_gates(params: Mapping[str, Any]) -> Any:
    """Returns the parameters of a gated model with the same outputs: gates that are 1 for every input.

    The first linear layer of each feed-forward, NumPy kernel [D, F] and bias [F], becomes [D, 2, F] and [2, F].
    """

    def opened(name: str, x: Any) -> Any:
        layer, _, leaf = name.rpartition("/")
        if not layer.endswith("feed_forward/in"):
            return x
        return np.stack([x, np.zeros_like(x) if leaf == "kernel" else np.ones_like(x)], axis=-2)

    return map_named(opened, params)


def with_pooler_of_mlm(names: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters by name, with a pooler that is the MLM head's layer and norm if there is no other pooler."""
    pooler = {
        f"{ENCODER}/{ours}/{leaf}": names[f"{MLM}/{head}/{leaf}"]
        for ours, head in ((POOLER, "dense"), ("pooler_norm", "norm"))
        for leaf in ("kernel", "scale", "bias")
        if f"{MLM}/{head}/{leaf}" in names
    }
    return pooler | dict(names)


def without_generator(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of the generator and of its head."""
    return {name: part for name, part in params.items() if name not in (GENERATOR, GENERATOR_MLM)}


def of_generator(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the generator and its head as a model of its own, with the embeddings that it shares."""
    projection = "projection"  # leads to the width of the encoder, so each has its own
    shared = {name: part for name, part in params[ENCODER][EMBEDDINGS].items() if name != projection}
    encoder = params[GENERATOR]
    return {ENCODER: {**encoder, EMBEDDINGS: shared | encoder.get(EMBEDDINGS, {})}, MLM: params[GENERATOR_MLM]}


def without_pair_head(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of the head for sentence pairs."""
    return {name: part for name, part in params.items() if name != PAIR}


def num_classes(params: Mapping[str, Any], head: str) -> int:
    """Returns the number of outputs of a head with classes."""
    return params[head]["out"]["kernel"].shape[-1]
