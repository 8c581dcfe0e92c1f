"""Hugging Face folders in and out: nothing is lost, nothing is dropped in silence, and bad files are named."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import huggingface_hub
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from bert_jax import heads, pretrained, tokenizers
from bert_jax.config import BertConfig, preset
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop import huggingface
from bert_jax.predict import PretrainedBert
from helpers.interop import (
    HEADS,
    assert_same_params,
    assert_same_tensors,
    inputs,
    our_batch,
    save_tokenizer,
    torch_model,
)
from helpers.weights import compiled

ALL_HEADS = [
    *HEADS,
    *((family, architecture) for family in FAMILIES for architecture in ("ForMultipleChoice", "Model")),
]
TINY = BertConfig(
    vocab_size=61, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_position_embeddings=40
)
SMALL = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_position_embeddings": 40}


def tensors(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def load_in_transformers(folder):
    """Loads with the class that config.json names; every key must find its place."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[problem]
    return model.eval()


@pytest.mark.parametrize(("family", "architecture"), ALL_HEADS)
def test_there_and_back_is_byte_equal(tmp_path, family, architecture):
    labelled = architecture in ("ForSequenceClassification", "ForTokenClassification")
    changes = {"id2label": {0: "no", 1: "yes", 2: "später"}} if labelled else {}
    if family == "albert":
        changes |= {"num_hidden_groups": 3}
    model = torch_model(family, architecture, **changes)
    model.save_pretrained(tmp_path / "theirs")
    config, details = huggingface.read_config(tmp_path / "theirs")
    params, notes = huggingface.read_params(tmp_path / "theirs")
    assert notes == huggingface.SetAside()
    assert details.architecture == architecture
    assert details.labels == (("no", "yes", "später") if labelled else ())
    huggingface.write(tmp_path / "ours", config, params, details)
    assert_same_tensors(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"))
    assert huggingface.read_config(tmp_path / "ours") == (config, details)
    again = load_in_transformers(tmp_path / "ours")
    for field in ("num_labels", "id2label", "rope_parameters", "layer_types", *FAMILIES[family].fields):
        if hasattr(model.config, field):
            assert getattr(again.config, field) == getattr(model.config, field)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_size": 6}, "model.embedding_size: is 6, but BertModel of transformers has none"),
        (
            {"positions": "rotary"},
            "model.positions: is 'rotary', but BertModel of transformers has 'learned', so no file",
        ),
        ({"family": "albert"}, "model.embedding_size: is None, but AlbertModel of transformers needs one"),
    ],
)
def test_a_model_that_transformers_cannot_express_is_not_written(tmp_path, changes, message):
    config = replace(TINY, **changes)
    batch = make_batch(np.ones((1, 2), np.int32))
    params = jax.eval_shape(heads.Bert(config).init, jax.random.key(0), batch)["params"]
    with pytest.raises(InputError, match=message):
        huggingface.write(tmp_path / "out", config, {"bert": params})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, embedding_size=6, num_layer_groups=1, activation="gelu_new", family="albert"),
        replace(TINY, embedding_size=6, family="albert"),
        replace(TINY, num_layer_groups=1),
        preset("roberta-tiny", **SMALL),
        preset("distilbert-base", **SMALL),
    ],
    ids=["bert", "albert", "factorized", "shared", "roberta", "distilbert"],
)
def test_our_own_model_works_in_transformers(tmp_path, config):
    pairs = any("pair" in heads for heads in FAMILIES[config.family].architectures)
    config = replace(config, vocab_size=save_tokenizer(tmp_path, config.family))
    model = heads.BertForPreTraining(config, pairs)
    theirs_config = transformers.BertConfig(
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size or 1,
        pad_token_id=config.first_position // 2,
    )
    arrays = inputs(theirs_config, rows=2)
    if not config.type_vocab_size:
        del arrays["token_type_ids"]
    batch = our_batch(arrays, config.first_position)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    huggingface.write(tmp_path, config, params)
    theirs = load_in_transformers(tmp_path)
    logits = compiled(model)({"params": params}, batch)
    out = theirs(**{name: torch.tensor(array, dtype=torch.long) for name, array in arrays.items()})
    real = arrays["attention_mask"].astype(bool)
    mlm = out.prediction_logits if pairs else out.logits
    np.testing.assert_allclose(logits["mlm"][real], mlm.detach().numpy()[real], atol=1e-4)
    if pairs:
        pair = out["seq_relationship_logits" if "seq_relationship_logits" in out else "sop_logits"]
        np.testing.assert_allclose(logits["pair"][:, 0], pair.detach().numpy(), atol=1e-4)

    tokenizer = pretrained.with_frame(tokenizers.load(tmp_path), config)
    text = f"the {tokenizer.names['mask']} sat on the mat."
    ours = PretrainedBert(config, params, tokenizer, None).fill_mask(text)
    fill = transformers.pipeline("fill-mask", model=str(tmp_path), top_k=5)
    for (piece, probability), answer in zip(ours, fill(text), strict=True):
        assert piece == fill.tokenizer.convert_ids_to_tokens(answer["token"])
        assert probability == pytest.approx(answer["score"], abs=1e-5)


def test_a_pooler_that_a_class_of_roberta_does_not_use_is_left_out(tmp_path):
    """Older files have it next to the classifier's own."""
    torch_model("roberta", "ForSequenceClassification").save_pretrained(tmp_path)
    expected, _ = huggingface.read_params(tmp_path)
    pooler = {
        f"roberta.pooler.dense.{part}": np.ones((24, 24)[:rank], np.float32)
        for part, rank in (("weight", 2), ("bias", 1))
    }
    rewrite(tmp_path, lambda arrays: arrays.update(pooler))
    params, set_aside = huggingface.read_params(tmp_path)
    assert_same_params(params, expected)
    assert set(set_aside.ignored) == set(pooler)
    assert "which RobertaForSequenceClassification does not use" in set_aside.notes[0]


def test_fields_that_a_config_lacks_are_those_of_the_class(tmp_path):
    theirs = torch_model("roberta", "Model")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for name in ("layer_norm_eps", "type_vocab_size", "max_position_embeddings"):
        del content[name]
    path.write_text(json.dumps(content))
    config, _ = huggingface.read_config(tmp_path)
    defaults = transformers.RobertaConfig()
    assert config.layer_norm_epsilon == defaults.layer_norm_eps
    assert config.type_vocab_size == defaults.type_vocab_size
    assert config.max_position_embeddings == defaults.max_position_embeddings
    reconfigure(tmp_path, pad_token_id=0)
    with pytest.raises(InputError, match="pad_token_id is 0; only 1 is supported"):
        huggingface.read_config(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A BertForPreTraining as transformers saves it, to be spoiled."""
    torch_model("bert", "ForPreTraining").save_pretrained(tmp_path / "good")
    return tmp_path / "good"


def rewrite(folder, change) -> None:
    arrays = tensors(folder)
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def reconfigure(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_old_names_buffers_and_tied_copies_are_understood(folder):
    expected, _ = huggingface.read_params(folder)

    def age(arrays):
        for name in list(arrays):
            if "LayerNorm.weight" in name:
                arrays[name.replace("weight", "gamma")] = arrays.pop(name)
            if "LayerNorm.bias" in name:
                arrays[name.replace("bias", "beta")] = arrays.pop(name)
        arrays["bert.embeddings.position_ids"] = np.arange(19)[None]
        arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"].copy()
        arrays["cls.predictions.decoder.bias"] = arrays.pop("cls.predictions.bias")

    rewrite(folder, age)
    params, notes = huggingface.read_params(folder)
    assert_same_params(params, expected)
    assert notes.ignored == ("bert.embeddings.position_ids", "cls.predictions.decoder.weight")


def test_names_without_the_prefix_are_understood(folder):
    expected, _ = huggingface.read_params(folder)

    def strip(arrays):
        for name in list(arrays):
            arrays[name.removeprefix("bert.")] = arrays.pop(name)

    rewrite(folder, strip)
    assert_same_params(huggingface.read_params(folder)[0], expected)


def test_shards_and_pytorch_files_give_the_same(tmp_path, folder):
    expected, _ = huggingface.read_params(folder)
    model = torch_model("bert", "ForPreTraining")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_same_params(huggingface.read_params(tmp_path / "shards")[0], expected)
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    params, notes = huggingface.read_params(tmp_path)
    assert_same_params(params, expected)
    assert set(notes.ignored) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def test_bfloat16_becomes_float32_without_loss(tmp_path, folder):
    model = torch_model("bert", "ForPreTraining").bfloat16()
    model.save_pretrained(tmp_path / "half")
    params, _ = huggingface.read_params(tmp_path / "half")
    word = params["bert"]["embeddings"]["word"]["embedding"]
    assert word.dtype == np.float32
    assert word.tobytes() == model.get_input_embeddings().weight.float().detach().numpy().tobytes()


class Evil:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_pickle_that_runs_code_is_refused(tmp_path, folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "mark"), protocol=2))
    with pytest.raises(InputError, match=r"pytorch_model\.bin: not a file of tensors only"):
        huggingface.read_params(folder)
    assert not (tmp_path / "mark").exists()


def test_unknown_tensors_are_left_out_only_on_request(folder):
    expected, _ = huggingface.read_params(folder)
    rewrite(folder, lambda arrays: arrays.update(extra=np.ones(3)))
    with pytest.raises(InputError, match="missing: none; unknown: extra"):
        huggingface.read_params(folder)
    params, notes = huggingface.read_params(folder, strict=False)
    assert notes.left_out == ("extra",)
    assert_same_params(params, expected)


def cut(folder, share: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


POOLER = "bert.pooler.dense.weight"
SECOND_LAYER = "bert.encoder.layer.1."
BAD = {
    "no folder": (lambda f: shutil.rmtree(f), "no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights there"),
    "empty": (lambda f: cut(f, 0), "truncated"),
    "cut header": (lambda f: cut(f, 0.01), "truncated"),
    "cut": (lambda f: cut(f, 0.9), "truncated"),
    "other file": (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 999), "truncated"),
    "renamed": (lambda f: rewrite(f, lambda t: t.update(other=t.pop(POOLER))), f"missing: {POOLER}; unknown: other"),
    "half missing": (
        lambda f: rewrite(f, lambda t: [t.pop(name) for name in list(t) if name.startswith(SECOND_LAYER)]),
        r"missing: bert\.encoder\.layer\.1\.attention.*; unknown: none",
    ),
    "half a head": (lambda f: rewrite(f, lambda t: t.pop("cls.seq_relationship.bias")), "missing: cls.seq_rel"),
    "no encoder": (lambda f: rewrite(f, lambda t: [t.pop(n) for n in list(t) if "bert" in n]), "missing: embeddings"),
    "wrong size": (
        lambda f: rewrite(f, lambda t: t.update({POOLER: t[POOLER][:5]})),
        r"pooler\.dense\.weight has shape \(5, 24\), but the config makes it \(24, 24\)",
    ),
    "twice": (
        lambda f: rewrite(f, lambda t: t.update({"bert.embeddings.LayerNorm.gamma": np.ones(24, np.float32)})),
        r"bert\.embeddings\.LayerNorm\.weight is set twice",
    ),
    "not tied": (
        lambda f: rewrite(f, lambda t: t.update({"cls.predictions.decoder.weight": np.ones((61, 24), np.float32)})),
        "decoder.weight is not equal to bert.embeddings.word_embeddings.weight",
    ),
    "unnamed classifier": (
        lambda f: rewrite(f, lambda t: t.update({"classifier.weight": np.ones((2, 24), np.float32)})),
        "does not name its kind",
    ),
    "other vocabulary": (
        lambda f: reconfigure(f, vocab_size=62),
        r"word_embeddings\.weight has shape \(61, 24\), but the config makes it \(62, 24\)",
    ),
    "more layers": (lambda f: reconfigure(f, num_hidden_layers=4), r"missing: bert\.encoder\.layer\.3"),
    "other model": (lambda f: reconfigure(f, model_type="gpt2"), "model_type 'gpt2' is not supported"),
    "activation": (
        lambda f: reconfigure(f, hidden_act="swish"),
        "hidden_act must be one of gelu, .*, got .swish",
    ),
    "relative positions": (
        lambda f: reconfigure(f, position_embedding_type="relative_key"),
        "position_embedding_type is 'relative_key'; only 'absolute'",
    ),
    "heads": (lambda f: reconfigure(f, num_attention_heads=7), "model.num_heads: must divide hidden_size 24, got 7"),
    "no heads": (lambda f: reconfigure(f, num_attention_heads=0), "num_attention_heads must be at least 1, got 0"),
    "text": (lambda f: reconfigure(f, hidden_size="24"), "hidden_size must be a whole number, got '24'"),
    "null": (lambda f: reconfigure(f, layer_norm_eps=None), "layer_norm_eps must be a number, got None"),
    "dropout": (
        lambda f: reconfigure(f, hidden_dropout_prob=1.5),
        "model.hidden_dropout: must be at least 0 and below",
    ),
    "labels": (lambda f: reconfigure(f, id2label={"0": "a", "2": "b"}), "must name the labels 0 to 1"),
    "config": (lambda f: (f / "config.json").write_text('{"vocab_size": '), "not readable as JSON"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "no sizes": (lambda f: (f / "config.json").write_text('{"hidden_size": 4}'), "lacks vocab_size, num_hidden_layers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints_are_named_with_what_is_wrong(folder, name):
    spoil, message = BAD[name]
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        huggingface.read_params(folder)
    assert str(folder) in str(caught.value)


def test_bad_shards_are_named(tmp_path):
    torch_model("bert", "Model").save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    first = sorted(set(good["weight_map"].values()))[0]
    moved = tmp_path / "elsewhere"
    (tmp_path / first).rename(moved)
    with pytest.raises(InputError, match=f"names the file {first}, which is not there"):
        huggingface.read_params(tmp_path)
    moved.rename(tmp_path / first)
    name = next(name for name, file in good["weight_map"].items() if file == first)
    del good["weight_map"][name]
    index.write_text(json.dumps(good))
    with pytest.raises(InputError, match=rf"has \['{name}'\], which are not"):
        huggingface.read_params(tmp_path)
    index.write_text("{}")
    with pytest.raises(InputError, match="weight_map"):
        huggingface.read_params(tmp_path)


def test_what_transformers_has_no_class_for_is_not_written(tmp_path, folder):
    config, _ = huggingface.read_config(folder)
    params, _ = huggingface.read_params(folder)
    with pytest.raises(InputError, match="exactly the heads mlm, pair, span"):
        huggingface.write(tmp_path / "out", config, params | {"span": {}})
    encoder = {name: part for name, part in params["bert"].items() if name != "pooler"}
    with pytest.raises(InputError, match="BertForPreTraining of transformers needs a pooler, which these parameters"):
        huggingface.write(tmp_path / "out", config, params | {"bert": encoder})
    with pytest.raises(InputError, match="unknown: bert/new"):
        huggingface.write(tmp_path / "out", config, params | {"bert": params["bert"] | {"new": np.ones(2)}})
    assert not (tmp_path / "out").exists()


def test_hub_names_are_read_from_the_cache_without_a_network(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--bert"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert huggingface.read_config(huggingface.fetch("hf:some/bert"))[0].hidden_size == 24
    with pytest.raises(InputError, match="hf:some/other: not in the local cache"):
        huggingface.fetch("hf:some/other")
    with pytest.raises(InputError, match="hf:no name at all"):
        huggingface.fetch("hf:no name at all")
