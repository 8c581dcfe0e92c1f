"""Checkpoints with the variable names of Google's BERT and ALBERT; run where the extra `tensorflow` is installed."""

import json
import sys

import jax
import numpy as np
import pytest
from test_interop import assert_same_params
from test_transformers import as_torch, assert_close, inputs, our_batch, torch_model

from bert_jax import heads
from bert_jax.errors import InputError
from bert_jax.interop import google, huggingface


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
    both = {*huggingface.SIZES, "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"}
    both |= {"type_vocab_size", "initializer_range"}
    return both | ({"embedding_size", "num_hidden_groups", "inner_group_num"} if family == "albert" else set())


@pytest.mark.parametrize("family", CASES)
def test_checkpoint_gives_equal_outputs(tmp_path, family):
    theirs = checkpoint(tmp_path, family)
    config = google.read_config(tmp_path)
    params, notes = google.read_params(tmp_path)
    variables = len([name for name in theirs.state_dict() if "decoder" not in name])
    assert len(notes.ignored) == 2 * variables + 1
    assert notes.left_out == ()
    arrays = inputs(theirs.config)
    logits = heads.BertForPreTraining(config).apply({"params": params}, our_batch(arrays))
    out = theirs(**as_torch(arrays))
    real = arrays["attention_mask"].astype(bool)
    assert_close(np.asarray(logits["mlm"])[real], out.prediction_logits.detach().numpy()[real], 1e-4)
    pairs = out["seq_relationship_logits" if family == "bert" else "sop_logits"]
    assert_close(logits["pair"][:, 0], pairs, 1e-4)


@pytest.mark.parametrize("family", CASES)
def test_there_and_back_is_equal(tmp_path, family):
    checkpoint(tmp_path, family)
    config = google.read_config(tmp_path)
    params, _ = google.read_params(tmp_path)
    google.write(tmp_path / "again" / "bert_model.ckpt", config, params)
    name = CASES[family][3]
    (tmp_path / "again" / name).write_text((tmp_path / name).read_text())
    again, notes = google.read_params(tmp_path / "again")
    assert notes == ((), ())
    assert_same_params(again, params)


@pytest.mark.parametrize(("head", "names"), [("sequence", "output_"), ("span", "cls/squad/output_")])
def test_fine_tuned_heads_are_read(tmp_path, head, names):
    model = torch_model("bert", "Model")
    variables = {f"bert/{name}": array for name, array in google_names(model.state_dict()).items()}
    kernel = np.arange(2 * 24, dtype=np.float32).reshape(2, 24)
    write(tmp_path / "m", variables | {names + "weights": kernel, names + "bias": np.ones(2, np.float32)})
    fields = {name: value for name, value in model.config.to_dict().items() if name in google_fields("bert")}
    (tmp_path / "bert_config.json").write_text(json.dumps(fields))
    params, _ = google.read_params(tmp_path / "m")
    assert params[head]["out"]["kernel"].tolist() == kernel.T.tolist()
    assert jax.tree.structure(params[head]) == jax.tree.structure({"out": {"bias": 0, "kernel": 0}})


def test_bad_checkpoints_are_named(tmp_path):
    checkpoint(tmp_path, "bert")
    data = tmp_path / "model.ckpt-1000.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 9])
    with pytest.raises(InputError, match=r"model\.ckpt-1000: not a TensorFlow checkpoint, or cut short"):
        google.read_params(tmp_path)
    data.write_bytes(whole)
    config = json.loads((tmp_path / "bert_config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps(config | {"vocab_size": 62}))
    with pytest.raises(InputError, match=r"word_embeddings has shape \(61, 24\), and the config makes it \(62, 24\)"):
        google.read_params(tmp_path)
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(InputError, match=r"neither bert_config\.json nor albert_config\.json"):
        google.read_config(tmp_path)
    with pytest.raises(InputError, match="no TensorFlow checkpoint there"):
        google.read_config(tmp_path / "nowhere")


def test_without_tensorflow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "m.index").touch()
    sizes = dict.fromkeys(huggingface.SIZES, 4)
    (tmp_path / "bert_config.json").write_text(json.dumps(sizes))
    with pytest.raises(InputError, match=r"pip install 'bert_jax\[tensorflow\]'"):
        google.read_params(tmp_path)
