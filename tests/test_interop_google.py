"""Checkpoints with the variable names of Google's BERT and ALBERT; run where the extra `tensorflow` is installed."""

import json
import sys

import jax
import numpy as np
import pytest

from bert_jax import heads
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop import google
from bert_jax.interop.table import expand, to_theirs
from helpers.google import CASES, SIZES, checkpoint, google_fields, google_names, write
from helpers.interop import as_torch, assert_close, assert_same_tensors, inputs, our_batch, torch_model
from helpers.weights import compiled


@pytest.mark.parametrize("family", CASES)
def test_checkpoint_gives_equal_outputs(tmp_path, family):
    theirs = checkpoint(tmp_path, family)
    config = google.read_config(tmp_path)
    params, notes = google.read_params(tmp_path)
    variables = len([name for name in theirs.state_dict() if "decoder" not in name])
    assert len(notes.ignored) == 2 * variables + 1
    assert notes.left_out == ()
    arrays = inputs(theirs.config)
    logits = compiled(heads.BertForPreTraining(config))({"params": params}, our_batch(arrays))
    out = theirs(**as_torch(arrays))
    real = arrays["attention_mask"].astype(bool)
    assert_close(np.asarray(logits["mlm"])[real], out.prediction_logits.detach().numpy()[real], 1e-4)
    pairs = out["seq_relationship_logits" if family == "bert" else "sop_logits"]
    assert_close(logits["pair"][:, 0], pairs, 1e-4)


@pytest.mark.parametrize("family", CASES)
def test_there_and_back_is_byte_equal(tmp_path, family):
    theirs = checkpoint(tmp_path, family)
    config = google.read_config(tmp_path)
    params, _ = google.read_params(tmp_path)
    variables = to_theirs(expand(FAMILIES[config.family].google_tensors, config), params, config)
    rename, *_ = CASES[family]
    assert_same_tensors(variables, rename(theirs.state_dict()))


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
    with pytest.raises(InputError, match=r"model\.ckpt-1000: not a TensorFlow checkpoint, or truncated"):
        google.read_params(tmp_path)
    data.write_bytes(whole)
    config = json.loads((tmp_path / "bert_config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps(config | {"vocab_size": 62}))
    with pytest.raises(InputError, match=r"word_embeddings has shape \(61, 24\), but the config makes it \(62, 24\)"):
        google.read_params(tmp_path)
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(InputError, match=r"expected bert_config\.json or albert_config\.json"):
        google.read_config(tmp_path)
    with pytest.raises(InputError, match="no TensorFlow checkpoint there"):
        google.read_config(tmp_path / "nowhere")


def test_a_checkpoint_of_tensorflow_2_is_named_as_such(tmp_path):
    tf = pytest.importorskip("tensorflow")
    (tmp_path / "bert_config.json").write_text(json.dumps(dict.fromkeys(SIZES, 4)))
    module = tf.Module()
    module.kernel = tf.Variable(tf.zeros((4, 4)))
    tf.train.Checkpoint(model=module).save(str(tmp_path / "ckpt"))
    with pytest.raises(InputError, match=r"ckpt-1: is in TensorFlow 2's layout .* save the model as a Hugging Face"):
        google.read_params(tmp_path)


def test_without_tensorflow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "m.index").touch()
    sizes = dict.fromkeys(SIZES, 4)
    (tmp_path / "bert_config.json").write_text(json.dumps(sizes))
    with pytest.raises(InputError, match=r"pip install 'bert_jax\[tensorflow\]'"):
        google.read_params(tmp_path)
