"""Models of transformers with random weights, the batches that both sides read, and how results are compared."""

import numpy as np
import torch
import transformers

from bert_jax import tokenizers
from bert_jax.data.batch import make_batch
from bert_jax.families import FAMILIES
from bert_jax.params import flatten
from helpers.tokenization import corpus, unigram

# Fields of a BertConfig, which each family's table turns into the names of its config.json.
SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 19,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "classifier_dropout": 0.0,
}
# Fields of config.json that a family's tests need besides. Windows of 2 tokens on each side, in rows of 13.
MORE = {
    "albert": {"embedding_size": 10},
    "electra": {"embedding_size": 10, "summary_last_dropout": 0.0},
    "modernbert": {"local_attention": 4, "pad_token_id": 0, "local_rope_theta": 100.0, "classifier_pooling": "mean"},
    "distilbert": {"qa_dropout": 0.0},
}
# These have RoBERTa's tables, so one head is enough.
LIKE_ROBERTA = ("xlm-roberta", "camembert")
# Those with an output of each kind. What a choice reads is tested apart.
HEADS = [
    (family.name, architecture)
    for family in FAMILIES.values()
    for architecture in family.architectures.values()
    if architecture not in ("Model", "ForMultipleChoice")
    if family.name not in LIKE_ROBERTA or architecture == "ForMaskedLM"
]


def torch_model(family: str, architecture: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A model whose every parameter is random: biases of 0 and scales of 1 would hide mistakes.

    Args:
      **changes: fields of config.json.
    """
    spec = FAMILIES[family]
    sizes = {theirs: SIZES[ours] for theirs, ours in spec.fields.items() if ours in SIZES}
    fields = {"attn_implementation": "eager"} | sizes | MORE.get(family, {}) | changes
    config = getattr(transformers, f"{spec.class_prefix}Config")(**fields)
    model = getattr(transformers, f"{spec.class_prefix}{architecture}")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(center + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(config, padded: bool = True, rows: int = 4, length: int = 13, seed: int = 1) -> dict[str, np.ndarray]:
    """Rows of odd lengths, one of them full, padded with the padding token, in all segments if the model has any."""
    rng = np.random.default_rng(seed)
    pad = config.pad_token_id
    lengths = np.array([length, *rng.integers(2, length, rows - 1)]) if padded else np.full(rows, length)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(pad + 1, config.vocab_size, (rows, length), dtype=np.int32)
    arrays = {"input_ids": np.where(mask, ids, np.int32(pad))}
    if hasattr(config, "type_vocab_size"):
        arrays["token_type_ids"] = rng.integers(0, config.type_vocab_size, (rows, length), dtype=np.int32) * mask
    return arrays | {"attention_mask": mask}


def our_batch(arrays: dict[str, np.ndarray], first_position: int = 0) -> dict[str, np.ndarray]:
    rows, length = arrays["input_ids"].shape
    columns = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return make_batch(
        arrays["input_ids"],
        sequence_ids=arrays["attention_mask"],
        position_ids=(columns + np.int32(first_position)) * arrays["attention_mask"],
        masked_positions=columns,
        **{name: array for name, array in arrays.items() if name == "token_type_ids"},
    )


def as_torch(arrays):
    return {name: torch.tensor(array, dtype=torch.long) for name, array in arrays.items()}


def assert_close(ours, theirs, tolerance: float):
    ours = np.asarray(ours)
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


def assert_same_tensors(one: dict[str, np.ndarray], other: dict[str, np.ndarray]):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert tensor.tobytes() == other[name].tobytes(), name


def assert_same_params(one, other):
    assert_same_tensors(flatten(one), flatten(other))


TEXTS = ["the cat sat on the mat, and the dog ran to the red house on a hill by the sea, as she said, reading"] * 3


def small_tokenizer(kind: str = "wordpiece") -> tokenizers.Tokenizer:
    """A tokenizer with a vocabulary of 61."""
    return tokenizers.train(kind, TEXTS, 61, model_type="bpe")  # unigram needs more text


def save_tokenizer(folder, family: str) -> int:
    """Writes a small tokenizer of the kind that a family has, and returns the size of its vocabulary."""
    if family in LIKE_ROBERTA:
        pieces = tokenizers.train("sentencepiece", corpus(), 220, lowercase=False)
        theirs = unigram(pieces, FAMILIES[family].class_prefix)
        theirs.save_pretrained(folder)
        return len(theirs)
    kind = {"albert": "sentencepiece"}.get(family, "wordpiece")
    ours = tokenizers.train("bytelevel", TEXTS, 290) if family == "roberta" else small_tokenizer(kind)
    ours.save(folder)
    return ours.vocab_size
