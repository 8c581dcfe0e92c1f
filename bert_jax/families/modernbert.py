"""ModernBERT (Warner et al. 2024), and its descendants Ettin (Weller et al. 2025) and mmBERT."""

from collections.abc import Mapping
from typing import Any

from bert_jax.errors import InputError
from bert_jax.families.base import Family, NameTable


def _size(hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, **fields: Any) -> dict[str, Any]:
    return {
        "vocab_size": 50368,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": 8192,
        "type_vocab_size": 0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "layer_norm_epsilon": 1e-5,
        "positions": "rotary",
        "rotary_theta": 160000.0,
        "local_rotary_theta": 10000.0,
        "local_attention": 128,
        "global_every": 3,
        "norm_position": "pre",
        "norm_bias": False,
        "feed_forward": "glu",
        "linear_bias": False,
        "pooling": "mean",
        "pooler": "gelu",
        "pooler_norm": True,
        "pooler_on_tokens": True,
        "mlm_activation": "gelu",
        **fields,
    }


def _ettin(*sizes: int) -> dict[str, Any]:
    return _size(*sizes, local_rotary_theta=160000.0, max_position_embeddings=7999)


FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "hidden_activation": "activation",
    "max_position_embeddings": "max_position_embeddings",
    "attention_dropout": "attention_dropout",
    "classifier_dropout": "classifier_dropout",
    "norm_eps": "layer_norm_epsilon",
    "norm_bias": "norm_bias",
    "attention_bias": "linear_bias",
    "initializer_range": "initializer_range",
    "local_attention": "local_attention",
    "global_attn_every_n_layers": "global_every",
    "global_rope_theta": "rotary_theta",
    "local_rope_theta": "local_rotary_theta",
    "classifier_pooling": "pooling",
}
# Fields of config.json that must be equal: one field of ours stands for them.
BIASES = ("attention_bias", "mlp_bias", "classifier_bias")
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def layer_types(num_layers: int, global_every: int) -> list[str]:
    """Returns the kind of each layer, as transformers 5 writes it."""
    return [LOCAL if layer % global_every else GLOBAL for layer in range(num_layers)]


def read_config(hf_config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the content of a config.json in the spelling of transformers 4, also if it has that of 5.

    Raises:
      InputError: the base of the local layers' rotary angles is missing, or a value is not supported.
    """
    values = dict(hf_config)
    if values.get("layer_types") is not None:
        kinds = list(values["layer_types"])
        periods = [n for n in range(1, len(kinds) + 1) if layer_types(len(kinds), n) == kinds]
        if not periods or len(kinds) != values.get("num_hidden_layers"):
            raise InputError(
                f"{where}: layer_types must have an entry for each layer, {GLOBAL!r} for layers 0, n, 2n... and "
                f"{LOCAL!r} for the others; other patterns are not supported"
            )
        values["global_attn_every_n_layers"] = periods[0]
    values.setdefault("global_attn_every_n_layers", 3)
    for kind, name in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta")):
        rope = (values.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise InputError(
                f"{where}: rope_parameters.{kind}.rope_type is {rope['rope_type']!r}; only 'default' is supported"
            )
        if "rope_theta" in rope:
            values[name] = rope["rope_theta"]
    if values.get("rope_scaling"):
        raise InputError(f"{where}: rope_scaling is not supported")
    has_local = values["global_attn_every_n_layers"] > 1
    if has_local and "local_rope_theta" not in values:
        # transformers takes 10,000 then, which would be wrong for Ettin without any other sign of it.
        raise InputError(
            f"{where}: lacks local_rope_theta (or rope_parameters.{LOCAL}.rope_theta); it is 10000 in ModernBERT's "
            "files and 160000 in Ettin's"
        )
    biases = {name: values.get(name, False) for name in BIASES}
    if len(set(biases.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in biases.items())
        raise InputError(f"{where}: {' and '.join(BIASES)} must be equal; they are {listed}")
    return values


def write_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content to write, in the spellings of transformers 4 and 5."""
    local_theta = values["local_rope_theta"]
    thetas = {
        GLOBAL: values["global_rope_theta"],
        LOCAL: values["global_rope_theta"] if local_theta is None else local_theta,
    }
    return {
        **values,
        **dict.fromkeys(BIASES, values["attention_bias"]),
        "local_rope_theta": thetas[LOCAL],
        "layer_types": layer_types(values["num_hidden_layers"], values["global_attn_every_n_layers"]),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
    }


_BLOCK = "{p}layers.{layer}."

TENSORS: NameTable = (
    ("bert/embeddings/word/embedding", "VE", "{p}embeddings.tok_embeddings.weight"),
    ("bert/embeddings/norm/scale", "E", "{p}embeddings.norm.weight"),
    ("bert/embeddings/norm/bias", "E", "{p}embeddings.norm.bias"),
    ("bert/blocks_{group}/attention_norm/scale", "D", _BLOCK + "attn_norm.weight"),
    ("bert/blocks_{group}/attention_norm/bias", "D", _BLOCK + "attn_norm.bias"),
    ("bert/blocks_{group}/attention/qkv/kernel", "3HK<D", _BLOCK + "attn.Wqkv.weight"),
    ("bert/blocks_{group}/attention/qkv/bias", "3HK<", _BLOCK + "attn.Wqkv.bias"),
    ("bert/blocks_{group}/attention/out/kernel", "D<HK", _BLOCK + "attn.Wo.weight"),
    ("bert/blocks_{group}/attention/out/bias", "D", _BLOCK + "attn.Wo.bias"),
    ("bert/blocks_{group}/feed_forward_norm/scale", "D", _BLOCK + "mlp_norm.weight"),
    ("bert/blocks_{group}/feed_forward_norm/bias", "D", _BLOCK + "mlp_norm.bias"),
    ("bert/blocks_{group}/feed_forward/in/kernel", "2F<D", _BLOCK + "mlp.Wi.weight"),
    ("bert/blocks_{group}/feed_forward/in/bias", "2F<", _BLOCK + "mlp.Wi.bias"),
    ("bert/blocks_{group}/feed_forward/out/kernel", "D<F", _BLOCK + "mlp.Wo.weight"),
    ("bert/blocks_{group}/feed_forward/out/bias", "D", _BLOCK + "mlp.Wo.bias"),
    ("bert/final_norm/scale", "D", "{p}final_norm.weight"),
    ("bert/final_norm/bias", "D", "{p}final_norm.bias"),
)

# One head of theirs is part of the MLM head in one class, and the pooler in the others.
MLM: NameTable = (
    ("mlm/dense/kernel", "E<D", "head.dense.weight"),
    ("mlm/dense/bias", "E", "head.dense.bias"),
    ("mlm/norm/scale", "E", "head.norm.weight"),
    ("mlm/norm/bias", "E", "head.norm.bias"),
    ("mlm/bias", "V", "decoder.bias"),
)


def _pooled(head: str, outputs: str) -> NameTable:
    return (
        ("bert/pooler/kernel", "D<D", "head.dense.weight"),
        ("bert/pooler/bias", "D", "head.dense.bias"),
        ("bert/pooler_norm/scale", "D", "head.norm.weight"),
        ("bert/pooler_norm/bias", "D", "head.norm.bias"),
        (f"{head}/out/kernel", f"{outputs}<D", "classifier.weight"),
        (f"{head}/out/bias", outputs, "classifier.bias"),
    )


MODERNBERT = Family(
    name="modernbert",
    presets={
        "modernbert-tiny": _size(128, 3, 2, 192, vocab_size=4096, max_position_embeddings=1024, local_attention=32),
        "modernbert-base": _size(768, 22, 12, 1152),
        "modernbert-large": _size(1024, 28, 16, 2624),
        "ettin-17m": _ettin(256, 7, 4, 384),
        "ettin-32m": _ettin(384, 10, 6, 576),
        "ettin-68m": _ettin(512, 19, 8, 768),
        "ettin-150m": _ettin(768, 22, 12, 1152),
    },
    defaults="modernbert-base",
    segments=False,
    fields=FIELDS,
    constants={"decoder_bias": True, "classifier_activation": "gelu", "tie_word_embeddings": True},
    written={"pad_token_id": 0},
    token_ids={
        "pad_token_id": "pad_id",
        "bos_token_id": "cls_id",
        "cls_token_id": "cls_id",
        "eos_token_id": "sep_id",
        "sep_token_id": "sep_id",
    },
    read_config=read_config,
    write_config=write_config,
    class_prefix="ModernBert",
    prefix="model.",
    architectures={
        frozenset(): "Model",
        frozenset({"mlm"}): "ForMaskedLM",
        frozenset({"sequence"}): "ForSequenceClassification",
        frozenset({"token"}): "ForTokenClassification",
        frozenset({"span"}): "ForQuestionAnswering",
        frozenset({"choice"}): "ForMultipleChoice",
    },
    without_pooler=frozenset({"Model", "ForMaskedLM"}),
    tensors=TENSORS,
    class_tensors={
        "ForMaskedLM": MLM,
        "ForSequenceClassification": _pooled("sequence", "C"),
        "ForTokenClassification": _pooled("token", "C"),
        "ForQuestionAnswering": _pooled("span", "2"),
        "ForMultipleChoice": _pooled("choice", "1"),
    },
    pooler_is_mlm=True,
    tied={"decoder.weight": "{p}embeddings.tok_embeddings.weight"},
)
