"""The architecture of an encoder, and the published ones by name."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bert_jax.errors import InputError


@dataclass(frozen=True)
class BertConfig:
    """The architecture of one encoder; the defaults are BERT-base as published."""

    vocab_size: int = 30522  # pieces in the vocabulary; 0 = as many as the run's tokenizer has
    hidden_size: int = 768  # width of the residual stream
    num_layers: int = 12  # how often a block is applied
    num_heads: int = 12  # attention heads; must divide hidden_size
    intermediate_size: int = 3072  # width inside the feed-forward
    embedding_size: int | None = None  # ALBERT's factorized embeddings: their width; None = hidden_size, no projection
    num_layer_groups: int | None = None  # blocks with weights of their own (ALBERT: 1); None = one for each layer
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"  # gelu is the exact (erf) one, gelu_new the tanh one
    max_position_embeddings: int = 512  # longest sequence
    type_vocab_size: int = 2  # segments (sentence A, sentence B)
    hidden_dropout: float = 0.1  # after the embeddings, attention and feed-forward
    attention_dropout: float = 0.1  # on attention probabilities
    classifier_dropout: float = 0.1  # before the output layer of a task's head
    layer_norm_epsilon: float = 1e-12  # added to the variance
    initializer_range: float = 0.02  # standard deviation of the truncated normal for every weight matrix

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise InputError(
                f"model: num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}; "
                "choose a number of heads that does"
            )
        if self.num_layer_groups is not None and not 1 <= self.num_layer_groups <= self.num_layers:
            raise InputError(
                f"model: num_layer_groups {self.num_layer_groups} must lie between 1 and num_layers {self.num_layers}"
            )
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model: {name} {getattr(self, name)} must be at least 0 and below 1")

    @property
    def embedding_width(self) -> int:
        """E: embedding_size where embeddings are factorized, else hidden_size."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def head_size(self) -> int:
        """K: the width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_groups(self) -> int:
        """How many blocks have weights of their own."""
        return self.num_layers if self.num_layer_groups is None else self.num_layer_groups

    def group(self, layer: int) -> int:
        """Which block layer number `layer` (from 0) applies."""
        return layer * self.layer_groups // self.num_layers


def _bert(hidden_size: int, num_layers: int, num_heads: int) -> BertConfig:
    return BertConfig(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=4 * hidden_size,
    )


def _albert(hidden_size: int, num_layers: int, num_heads: int, hidden_dropout: float = 0.0) -> BertConfig:
    return BertConfig(
        vocab_size=30000,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=4 * hidden_size,
        embedding_size=128,
        num_layer_groups=1,
        activation="gelu_new",
        hidden_dropout=hidden_dropout,
        attention_dropout=hidden_dropout,
    )


# BERT: Devlin et al. 2019 (base, large) and Turc et al. 2019, "Well-Read Students" (tiny to medium).
# ALBERT: version 2 of the published models (Lan et al. 2020), which dropped dropout.
PRESETS: dict[str, BertConfig] = {
    "bert-tiny": _bert(128, 2, 2),
    "bert-mini": _bert(256, 4, 4),
    "bert-small": _bert(512, 4, 8),
    "bert-medium": _bert(512, 8, 8),
    "bert-base": _bert(768, 12, 12),
    "bert-large": _bert(1024, 24, 16),
    "albert-base": _albert(768, 12, 12),
    "albert-large": _albert(1024, 24, 16),
    "albert-xlarge": _albert(2048, 24, 16),
    "albert-xxlarge": _albert(4096, 12, 64),
}


def preset(name: str, **changes: Any) -> BertConfig:
    """Returns the published configuration called `name`, with some fields changed.

    Raises:
      InputError: there is no such preset.

    >>> preset("bert-tiny", vocab_size=0).hidden_size
    128
    """
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)
