"""The architecture of an encoder, and the published ones by name."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bert_jax.errors import InputError
from bert_jax.families import FAMILIES, FamilyName


@dataclass(frozen=True)
class BertConfig:
    """The architecture of one encoder; the defaults are BERT-base as published."""

    vocab_size: int = 30522  # tokens in the vocabulary; 0 = as many as the run's tokenizer has
    hidden_size: int = 768  # width of the residual stream
    num_layers: int = 12  # number of times that a block is applied
    num_heads: int = 12  # attention heads; must divide hidden_size
    intermediate_size: int = 3072  # width inside the feed-forward
    embedding_size: int | None = None  # width of factorized embeddings (ALBERT); None = hidden_size, no projection
    num_layer_groups: int | None = None  # blocks with their own weights (ALBERT: 1); None = one for each layer
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"  # gelu is the exact (erf) one, gelu_new the tanh one
    max_position_embeddings: int = 512  # longest sequence
    type_vocab_size: int = 2  # segments (sentence A, sentence B)
    hidden_dropout: float = 0.1  # after the embeddings, attention and feed-forward
    attention_dropout: float = 0.1  # on attention probabilities
    classifier_dropout: float = 0.1  # before the output layer of a task's head
    layer_norm_epsilon: float = 1e-12  # added to the variance
    initializer_range: float = 0.02  # standard deviation of the truncated normal for every weight matrix
    family: FamilyName = "bert"  # whose checkpoints, tokenizers and special tokens go with this encoder

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise InputError(f"model.num_heads: must divide hidden_size {self.hidden_size}, got {self.num_heads}")
        if self.num_layer_groups is not None and not 1 <= self.num_layer_groups <= self.num_layers:
            raise InputError(
                f"model.num_layer_groups: must be between 1 and num_layers {self.num_layers}, got "
                f"{self.num_layer_groups}"
            )
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name}: must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def embedding_width(self) -> int:
        """E: embedding_size if the embeddings are factorized, hidden_size if not."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def head_size(self) -> int:
        """K: the width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_groups(self) -> int:
        """The number of blocks with their own weights."""
        return self.num_layers if self.num_layer_groups is None else self.num_layer_groups

    def group(self, layer: int) -> int:
        """Returns the number of the block that layer number `layer` applies; both count from 0."""
        return layer * self.layer_groups // self.num_layers


PRESETS: dict[str, BertConfig] = {
    name: BertConfig(**fields, family=family.name)  # type: ignore[arg-type]
    for family in FAMILIES.values()
    for name, fields in family.presets.items()
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


def check_group_boundary(count: int, model: BertConfig, field: str) -> None:
    """Checks that a model can be divided above its `count` lowest layers.

    Raises:
      InputError: `count` is not between 0 and the number of layers, or the layers above and below share weights.
    """
    if not 0 <= count <= model.num_layers:
        raise InputError(f"{field}: must be between 0 and the model's {model.num_layers} layers")
    if 0 < count < model.num_layers and model.group(count - 1) == model.group(count):
        raise InputError(
            f"{field}: layers {count} and {count + 1} share their weights; choose a number that does not separate them"
        )
