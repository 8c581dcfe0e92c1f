"""The floating-point operations of a step, counted, and the peak rates of well-known accelerators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.config import BertConfig


def forward(config: BertConfig, rows: int, length: int, predictions: int = 0, read: int | None = None) -> int:
    """Returns the operations of one forward pass: multiplications and additions of its matrix products.

    Positions of padding, and keys in a chunk but outside a window, are computed and therefore count. Elementwise work,
    the pooler and heads other than MLM do not count; at BERT's sizes they are less than a percent together.

    Args:
      rows, length: B and T.
      predictions: P, positions per row at which the vocabulary is scored; 0 = no MLM head.
      read: positions per row that heads read, where alone the last layer is computed; None = all.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix.
    """
    width, embedding = config.hidden_size, config.embedding_width
    tokens = rows * length
    feed_forward = (3 if config.feed_forward == "glu" else 2) * width * config.intermediate_size
    after = width * width + feed_forward  # attention's output and the feed-forward, of one token
    last = length if read is None else read
    linear = config.num_layers * 3 * width * width * length + after * ((config.num_layers - 1) * length + last)
    chunk = config.chunk(length)
    pairs = 0  # of tokens in a row, over all layers
    for layer in range(config.num_layers):
        local = chunk and config.is_local(layer)
        queries = last if layer == config.num_layers - 1 else length
        pairs += -(-length // chunk) * chunk * 3 * chunk if local else queries * length
    blocks = 2 * rows * linear + 4 * rows * pairs * width
    projection = 0 if config.embedding_size is None else 2 * tokens * embedding * width
    mlm = 2 * rows * predictions * (width * embedding + embedding * config.vocab_size)
    return blocks + projection + mlm


def training_step(
    config: BertConfig, batch: Mapping[str, Any], generator: BertConfig | None = None, read: Sequence[str] = ()
) -> int:
    """Returns the operations of forward and backward pass over a batch; blocks that remat computes twice count once.

    Args:
      batch: arrays, or anything with a shape: input_ids [B, T] and, for MLM, masked_positions [B, P].
      generator: the encoder that fills masks in replaced-token detection, where `config` scores every token.
      read: names of the arrays [B, P] with the positions that heads read; empty = all tokens.
    """
    rows, length = batch["input_ids"].shape
    predictions = batch["masked_positions"].shape[1] if "masked_positions" in batch else 0
    if generator is None:
        positions = sum(batch[name].shape[1] for name in read) if read else None
        return 3 * forward(config, rows, length, predictions, positions)
    scores = 2 * rows * length * (config.hidden_size**2 + config.hidden_size)
    return 3 * (forward(config, rows, length) + scores + forward(generator, rows, length, predictions, predictions))


@dataclass(frozen=True)
class Accelerator:
    """The figures of one device, from its data sheet."""

    flops: float  # per second, dense bfloat16 (V100, T4: float16)
    memory: float  # bytes


# Keys are words of `device_kind` in JAX, in lower case, except for those below. Sources: the data sheets of the makers.
ACCELERATORS: dict[str, Accelerator] = {
    "h200": Accelerator(989e12, 141e9),
    "h100": Accelerator(989e12, 80e9),
    "a100": Accelerator(312e12, 80e9),
    "l4": Accelerator(121e12, 24e9),
    "v100": Accelerator(125e12, 32e9),
    "t4": Accelerator(65e12, 16e9),
    "v6e": Accelerator(918e12, 32e9),
    "v5p": Accelerator(459e12, 95e9),
    "v5e": Accelerator(197e12, 16e9),
    "v4": Accelerator(275e12, 32e9),
    "v3": Accelerator(61.5e12, 16e9),
    "v2": Accelerator(22.5e12, 8e9),
}
# `device_kind` of TPUs whose usual name is another one.
_KINDS = {"tpu v5 lite": "v5e", "tpu v6 lite": "v6e", "tpu v5": "v5p"}


def accelerator(kind: str) -> Accelerator | None:
    """Returns the accelerator that JAX's `device_kind` names; None if it is not in the table.

    >>> accelerator("NVIDIA H100 80GB HBM3") == ACCELERATORS["h100"]
    True
    """
    words = kind.lower().replace("-", " ").split()
    for theirs, ours in _KINDS.items():
        if " ".join(words) == theirs:
            return ACCELERATORS[ours]
    return next((ACCELERATORS[word] for word in words if word in ACCELERATORS), None)
