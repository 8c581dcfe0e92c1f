"""Folders of sentence-transformers: texts get the vectors that the folder's files define, here and after `convert`."""

import json

import numpy as np
import pytest
import torch
import transformers

import bert_jax
from bert_jax import pretrained
from bert_jax.config import TextVectors
from bert_jax.errors import InputError
from bert_jax.interop import sentence_transformers
from helpers.interop import assert_same_params, small_tokenizer, torch_model

TEXTS = ["the cat sat", "a red house by the sea", "the mat"]
TYPES = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}


def write(path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def add_modules(folder, *kinds: str, pooling: str = "mean_tokens", **settings):
    """Makes an encoder's folder one of sentence-transformers, as version 2 wrote them."""
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": TYPES[kind]} for kind in kinds]
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": 24, f"pooling_mode_{pooling}": True})
    write(folder / "config_sentence_transformers.json", settings)
    return folder


@pytest.fixture(scope="module")
def encoder():
    return torch_model("bert", "Model", vocab_size=61, max_position_embeddings=40).eval()


@pytest.fixture
def folder(tmp_path, encoder):
    encoder.save_pretrained(tmp_path / "in")
    small_tokenizer().save(tmp_path / "in")
    return tmp_path / "in"


def by_hand(encoder, folder, texts, pooling: str, normalized: bool, length: int = 40) -> np.ndarray:
    """The vectors by PyTorch, as sentence-transformers pools them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        output = encoder(**batch)
    mask = batch["attention_mask"][..., None]
    states = output.last_hidden_state
    mean = (states * mask).sum(1) / mask.sum(1)
    vectors = {"mean": mean, "cls": states[:, 0], "pooler": output.pooler_output}[pooling]
    return (torch.nn.functional.normalize(vectors, dim=1) if normalized else vectors).numpy()


@pytest.mark.parametrize(
    ("pooling", "normalized", "length", "prompts"),
    [
        ("mean", True, 6, {}),
        ("cls", False, None, {"query": "the cat: ", "passage": ""}),
        ("pooler", True, None, {}),
    ],
)
def test_vectors_are_those_of_the_modules_and_stay_the_same_in_the_folder_that_convert_writes(
    tmp_path, folder, encoder, pooling, normalized, length, prompts
):
    kinds = ["Transformer", "Pooling", *(["Dense"] * (pooling == "pooler")), *(["Normalize"] * normalized)]
    add_modules(folder, *kinds, pooling="mean_tokens" if pooling == "mean" else "cls_token", prompts=prompts)
    if pooling == "pooler":
        config = sentence_transformers.TANH
        write(folder / "2_Dense/config.json", {"in_features": 24, "out_features": 24, "activation_function": config})
        weights = {f"linear.{name}": x for name, x in encoder.pooler.dense.state_dict().items()}
        torch.save(weights, folder / "2_Dense/pytorch_model.bin")
    write(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    expected = by_hand(encoder, folder, TEXTS, pooling, normalized, length or 40)
    pretrained.write_source(pretrained.open_source(folder), tmp_path / "out")
    bert, again = bert_jax.load(folder), bert_jax.load(tmp_path / "out")
    np.testing.assert_allclose(bert.encode(TEXTS).vectors, expected, atol=1e-5)
    assert bert.vectors == again.vectors == TextVectors(pooling, normalized, tuple(prompts.items()))
    assert bert.max_length == again.max_length == (length or 40)
    assert_same_params(bert.params, again.params)
    if prompts:
        asked = bert.encode(TEXTS, prompt="query").vectors
        assert asked.tolist() == bert.encode([f"the cat: {text}" for text in TEXTS]).vectors.tolist()


def test_any_encoder_can_be_written_for_sentence_transformers(tmp_path):
    torch_model("bert", "ForMaskedLM", vocab_size=61, max_position_embeddings=40).save_pretrained(tmp_path / "in")
    small_tokenizer().save(tmp_path / "in")
    opened = pretrained.open_source(tmp_path / "in")
    notes = pretrained.write_source(opened, tmp_path / "out", "sentence-transformers")
    assert [note for note in notes if note.startswith("left out: mlm")]
    bert = bert_jax.load(tmp_path / "out")
    encoded = bert.encode(TEXTS)
    np.testing.assert_allclose(encoded.vectors, encoded.mean, atol=1e-6)
    assert opened.vectors is None


def test_an_encoder_in_a_folder_of_its_own_is_read(tmp_path, folder):
    (tmp_path / "old").mkdir()
    folder.rename(tmp_path / "old/0_Transformer")
    add_modules(tmp_path / "old", "Transformer", "Pooling")
    modules = json.loads((tmp_path / "old/modules.json").read_text())
    write(tmp_path / "old/modules.json", [modules[0] | {"path": "0_Transformer"}, modules[1]])
    opened = pretrained.open_source(tmp_path / "old")
    assert opened.vectors == TextVectors()
    assert opened.config.hidden_size == 24


@pytest.mark.parametrize(
    ("kinds", "pooling", "settings", "problem"),
    [
        (["Transformer", "Pooling"], "max_tokens", {}, r"1_Pooling/config\.json: the pooling is max_tokens; supported"),
        (["Transformer", "Pooling", "Dense"], "mean_tokens", {}, r"2_Dense/config\.json: a Dense layer is supported"),
        (
            ["Transformer", "Normalize", "Pooling"],
            "mean_tokens",
            {},
            r"modules\.json: the modules are Transformer",
        ),
    ],
)
def test_vectors_that_cannot_be_computed_are_named_and_the_encoder_is_read(
    tmp_path, folder, kinds, pooling, settings, problem
):
    add_modules(folder, *kinds, pooling=pooling, **settings)
    write(folder / "2_Dense/config.json", {"in_features": 24, "out_features": 8})
    opened = pretrained.open_source(folder)
    assert opened.vectors is None
    assert any("no vectors of texts" in note for note in opened.notes)
    with pytest.raises(InputError, match=problem):
        pretrained.write_source(opened, tmp_path / "out", "sentence-transformers")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prompts": {"query": 1}}, "prompts must be a JSON object, name -> text"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "other"}, "default_prompt_name is 'other'; prompts has"),
    ],
)
def test_settings_that_are_wrong_are_an_error(folder, settings, problem):
    add_modules(folder, "Transformer", "Pooling", **settings)
    with pytest.raises(InputError, match=rf"config_sentence_transformers\.json: {problem}"):
        pretrained.open_source(folder)


def test_a_prompt_that_the_model_does_not_have_is_an_error(folder):
    bert = bert_jax.load(add_modules(folder, "Transformer", "Pooling", prompts={"query": "q: "}))
    with pytest.raises(InputError, match="no prompt is named 'passage'; the model's prompts: query"):
        bert.encode(TEXTS, prompt="passage")
