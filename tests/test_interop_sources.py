"""Every kind of SOURCE through the public functions: loaded, used, converted, extended."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import bert_jax
from bert_jax import pretrained
from bert_jax.errors import InputError
from bert_jax.tokenizers import Frame
from helpers.google import checkpoint
from helpers.interop import assert_same_params, assert_same_tensors, save_tokenizer, small_tokenizer, torch_model

TEXTS = ["the cat sat on the mat", "she said", "reading by the red sea, the dog ran to the house"]


def hugging_face_folder(folder, architecture: str = "ForPreTraining", family: str = "bert", **changes):
    sizes = {"vocab_size": save_tokenizer(folder, family), "max_position_embeddings": 130}
    torch_model(family, architecture, **sizes | changes).save_pretrained(folder)
    return folder


# Of each kind of tokenizer and of positions one.
USED = ("bert", "roberta", "xlm-roberta", "distilbert")


@pytest.mark.parametrize("family", USED)
def test_hidden_states_and_pooled_vectors_are_those_of_transformers(tmp_path, family):
    folder = hugging_face_folder(tmp_path, "Model", family)
    encoded = bert_jax.load(folder).encode(TEXTS, layers=True, attentions=True)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for i, text in enumerate(TEXTS):
        out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True, output_attentions=True)
        for ours, theirs in (
            (encoded.hidden[i], out.last_hidden_state[0]),
            (encoded.mean[i], out.last_hidden_state[0].mean(0)),
            *([] if encoded.pooled is None else [(encoded.pooled[i], out.pooler_output[0])]),
            (encoded.layers[i], torch.stack(out.hidden_states)[:, 0]),
            (encoded.attentions[i], torch.stack(out.attentions)[:, 0]),
        ):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)


def compiled_by(function) -> int:
    """How many programs calling `function` compiles."""
    durations = []

    def listen(event: str, seconds: float, **options):
        if event == "/jax/core/compile/backend_compile_duration":
            durations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(durations)


def test_few_shapes_are_compiled_and_each_once(tmp_path):
    changes = {"id2label": {0: "sad", 1: "glad"}, "max_position_embeddings": 66}
    bert = bert_jax.load(hugging_face_folder(tmp_path, "ForSequenceClassification", **changes))
    short, long = ["the cat"] * 33, ["the cat " * (n % 45 + 1) for n in range(200)]
    bert.encode(short)
    bert.predict(short)
    # A model of 66 positions uses widths of 16, 32, 64 and 66; 16 has been compiled.
    assert 1 <= compiled_by(lambda: bert.encode(long)) <= 3
    assert 1 <= compiled_by(lambda: bert.predict(long)) <= 3
    assert compiled_by(lambda: (bert.encode(long[::-1]), bert.predict(long[::-1]))) == 0


@pytest.mark.parametrize("family", USED)
def test_masks_are_filled_as_by_the_pipeline_of_transformers(tmp_path, family):
    bert = bert_jax.load(hugging_face_folder(tmp_path, "ForMaskedLM", family))
    fill = transformers.pipeline("fill-mask", model=str(tmp_path), top_k=5)
    text = f"the {bert.tokenizer.names['mask']} sat on a mat."
    for (piece, probability), answer in zip(bert.fill_mask(text), fill(text), strict=True):
        assert piece == fill.tokenizer.convert_ids_to_tokens(answer["token"])
        assert probability == pytest.approx(answer["score"], abs=1e-5)


@pytest.mark.parametrize("family", USED)
def test_a_classifier_predicts_as_the_pipeline_of_transformers(tmp_path, family):
    labels = {0: "sad", 1: "so-so", 2: "glad"}
    folder = hugging_face_folder(tmp_path, "ForSequenceClassification", family, id2label=labels)
    answers = bert_jax.load(folder).predict(TEXTS)
    classify = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    for ours, theirs in zip(answers, classify(TEXTS), strict=True):
        assert ours["label"] == theirs[0]["label"]
        for answer in theirs:
            assert ours["probabilities"][answer["label"]] == pytest.approx(answer["score"], abs=1e-5)


def test_conversion_to_a_workdir_and_back_loses_nothing(tmp_path):
    folder = hugging_face_folder(tmp_path / "hf")
    opened = pretrained.open_source(folder)
    pretrained.write_source(opened, tmp_path / "orbax", "orbax")
    again = pretrained.open_source(tmp_path / "orbax")
    assert again.config == opened.config
    assert again.tokenizer.fingerprint == opened.tokenizer.fingerprint
    assert_same_params(again.read_params()[0], opened.read_params()[0])
    pretrained.write_source(again, tmp_path / "back")
    assert_same_tensors(load_file(tmp_path / "back/model.safetensors"), load_file(folder / "model.safetensors"))
    with pytest.raises(InputError, match="is not empty"):
        pretrained.write_source(again, tmp_path / "back")


def test_an_extended_model_starts_from_means_and_loads_in_transformers(tmp_path):
    opened = pretrained.open_source(hugging_face_folder(tmp_path / "hf"))
    texts = ["a thousand dresses", "the dresses reddened"] * 3
    longer, extension = pretrained.extend_vocabulary(opened, texts, 2)
    old, new = opened.read_params()[0], longer.read_params()[0]
    before, after = (tree["bert"]["embeddings"]["word"]["embedding"] for tree in (old, new))
    assert after[:61].tobytes() == before.tobytes()
    for i, ids in enumerate(extension.made_of):
        np.testing.assert_allclose(after[61 + i], before[list(ids)].mean(0), atol=1e-6)
        np.testing.assert_allclose(new["mlm"]["bias"][61 + i], old["mlm"]["bias"][list(ids)].mean(), atol=1e-6)
    pretrained.write_source(longer, tmp_path / "out")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.get_output_embeddings().weight.shape[0] == 63
    for text in texts:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == longer.tokenizer.encode_ids([text])[0].tolist()
    assert bert_jax.load(tmp_path / "out").fill_mask("the [MASK] sat")


def test_a_vocabulary_that_is_not_the_models_is_an_error(tmp_path):
    folder = hugging_face_folder(tmp_path, vocab_size=60)
    with pytest.raises(InputError, match="60 tokens and the tokenizer next to it 61"):
        bert_jax.load(folder)


def test_a_folder_that_is_not_a_source_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=rf"{path}: .*a SOURCE is"):
            pretrained.open_source(path)


def test_a_google_checkpoint_is_a_source(tmp_path):
    pytest.importorskip("tensorflow")
    theirs = checkpoint(tmp_path, "bert")
    small_tokenizer().save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    bert = bert_jax.load(tmp_path)
    assert bert.config.num_layers == theirs.config.num_hidden_layers
    word = bert.params["bert"]["embeddings"]["word"]["embedding"]
    assert np.asarray(word).tobytes() == theirs.get_input_embeddings().weight.detach().numpy().tobytes()
    assert json.loads((tmp_path / "bert_config.json").read_text())["vocab_size"] == bert.tokenizer.vocab_size


def test_the_special_tokens_around_texts_are_those_of_the_family(tmp_path):
    for family, separators, segments, first_position in (("bert", 1, True, 0), ("roberta", 2, False, 2)):
        tokenizer = pretrained.open_source(hugging_face_folder(tmp_path / family, "ForMaskedLM", family)).tokenizer
        cls, sep = (tokenizer.cls_id,), (tokenizer.sep_id,)
        assert tokenizer.frame == Frame(cls, sep * separators, sep, segments, first_position)


def test_a_tokenizer_whose_padding_moves_the_positions_is_an_error(tmp_path):
    folder = hugging_face_folder(tmp_path, "ForMaskedLM", "roberta", vocab_size=300)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (folder / file).unlink()
    small_tokenizer().save(folder)
    with pytest.raises(InputError, match=r"positions .* padding token, which must be 1; '\[PAD\]' is 0"):
        bert_jax.load(folder)
