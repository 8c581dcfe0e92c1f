"""Checkpoints as Google's code writes them, for models of transformers."""

import json

import numpy as np
import pytest

from helpers.interop import torch_model

SIZES = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}


def google_names(state: dict) -> dict[str, np.ndarray]:
    """Names and layouts of Google's BERT for a transformers model, written down apart from the tables under test."""
    variables = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        name = name.replace(".", "/").replace("layer/", "layer_")
        if name.startswith(("cls/seq_relationship", "classifier")):
            variables[
                name.replace("classifier/", "").replace("weight", "output_weights").replace("/bias", "/output_bias")
            ] = array
        elif name == "cls/predictions/bias":
            variables["cls/predictions/output_bias"] = array
        elif "decoder" in name:
            continue
        elif "embeddings" in name and name.endswith("/weight") and "LayerNorm" not in name:
            variables[name.removesuffix("/weight")] = array
        elif "LayerNorm" in name:
            variables[name.replace("weight", "gamma").replace("bias", "beta")] = array
        elif name.endswith("/weight"):
            variables[name.removesuffix("weight") + "kernel"] = array.T
        else:
            variables[name] = array
    return variables


ALBERT_NAMES = (
    ("albert/", "bert/"),
    ("encoder/albert_layer_groups/", "encoder/transformer/group_"),
    ("/albert_layers/", "/inner_group_"),
    ("attention/LayerNorm", "LayerNorm"),
    ("full_layer_layer_norm", "LayerNorm_1"),
    ("/attention/dense", "/attention_1/output/dense"),
    ("/attention/", "/attention_1/self/"),
    ("/ffn_output/", "/ffn_1/intermediate/output/dense/"),
    ("/ffn/", "/ffn_1/intermediate/dense/"),
    ("pooler/", "pooler/dense/"),
    ("sop_classifier/classifier", "cls/seq_relationship"),
)


def google_albert_names(state: dict) -> dict[str, np.ndarray]:
    renamed = {}
    for name, tensor in state.items():
        name = name.replace(".", "/")
        if name.startswith("predictions/"):
            name = "cls/" + name.replace("dense", "transform/dense").replace("LayerNorm", "transform/LayerNorm")
        for theirs, googles in ALBERT_NAMES:
            if not (theirs == "attention/LayerNorm" and "cls/" in name):
                name = name.replace(theirs, googles)
        renamed[name] = tensor
    return google_names(renamed)


def write(prefix, variables: dict[str, np.ndarray]) -> None:
    tf = pytest.importorskip("tensorflow")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[variables[name] for name in names],
    )


def with_optimizer(variables: dict[str, np.ndarray], slots: tuple[str, str]) -> dict[str, np.ndarray]:
    extra = {f"{name}/{slot}": np.zeros_like(array) for name, array in variables.items() for slot in slots}
    return variables | extra | {"global_step": np.int64(1000)}


CASES = {
    "bert": (google_names, {}, ("adam_m", "adam_v"), "bert_config.json"),
    "albert": (
        google_albert_names,
        {"num_hidden_groups": 3},
        ("LAMBOptimizer", "LAMBOptimizer_1"),
        "albert_config.json",
    ),
}


def checkpoint(folder, family: str):
    """Writes a checkpoint as Google's code does; returns the model of transformers with the same weights."""
    rename, changes, slots, config_name = CASES[family]
    model = torch_model(family, "ForPreTraining", **changes)
    write(folder / "model.ckpt-1000", with_optimizer(rename(model.state_dict()), slots))
    fields = {name: value for name, value in model.config.to_dict().items() if name in google_fields(family)}
    (folder / config_name).write_text(json.dumps(fields | {"hidden_act": "gelu"}))
    return model


def google_fields(family: str) -> set[str]:
    both = SIZES | {"hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"}
    both |= {"type_vocab_size", "initializer_range"}
    return both | ({"embedding_size", "num_hidden_groups", "inner_group_num"} if family == "albert" else set())
