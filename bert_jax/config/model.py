"""The architecture of an encoder, and the published ones by name."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bert_jax.config.ranges import check_ranges
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES, FamilyName

SMALLEST_CHUNK = 16  # tokens; matrix products of fewer rows are slow

Activation = Literal["gelu", "gelu_new", "relu"]


@dataclass(frozen=True)
class BertConfig:
    """The architecture of one encoder; the defaults are BERT-base as published."""

    vocab_size: int = 30522  # rows of the token table; 0 = as many as the run's tokenizer has tokens
    hidden_size: int = 768  # width of the residual stream
    num_layers: int = 12  # number of times that a block is applied
    num_heads: int = 12  # attention heads; must divide hidden_size
    intermediate_size: int = 3072  # width inside the feed-forward
    embedding_size: int | None = None  # width of factorized embeddings (ALBERT); None = hidden_size, no projection
    num_layer_groups: int | None = None  # blocks with their own weights (ALBERT: 1); None = one for each layer
    activation: Activation = "gelu"  # gelu is the exact (erf) one, gelu_new the tanh one
    max_position_embeddings: int = 512  # positions, those below first_position included
    type_vocab_size: int = 2  # segments (sentence A, sentence B); 0 = no segment embeddings
    hidden_dropout: float = 0.1  # after the embeddings, attention and feed-forward
    attention_dropout: float = 0.1  # on attention probabilities
    classifier_dropout: float = 0.1  # before the output layer of a task's head
    layer_norm_epsilon: float = 1e-12  # added to the variance
    initializer_range: float = 0.02  # standard deviation of the truncated normal for every weight matrix
    vocab_multiple: int = 1  # with vocab_size 0: spare rows fill the token table up to a multiple of this
    first_position: int = 0  # position of a sequence's first token; RoBERTa counts from 2
    positions: Literal["learned", "rotary", "none"] = "learned"  # how the encoder reads the order of tokens
    rotary_theta: float = 10000.0  # base of the rotary angles; larger for longer texts
    local_rotary_theta: float | None = None  # that of layers with local attention; None = rotary_theta
    local_attention: int = 0  # tokens of a local layer's window, half of it on each side; 0 = all layers are global
    global_every: int = 3  # with local attention, layers 0, n, 2n... are global for n = this
    norm_position: Literal["post", "pre"] = "post"  # after each residual sum, or before attention and feed-forward
    norm: Literal["layer", "rms"] = "layer"  # LayerNorm or RMSNorm
    norm_bias: bool = True  # whether LayerNorm has a bias; RMSNorm never has
    feed_forward: Literal["mlp", "glu"] = "mlp"  # glu: half of a first layer of 2 x intermediate_size gates the other
    linear_bias: bool = True  # biases of all linear layers except the output layers of heads, which always have one
    pooling: Literal["cls", "mean"] = "cls"  # what heads on whole sequences read: [CLS], or the mean over all tokens
    pooler: Literal["tanh", "relu", "gelu", "none"] = "tanh"  # activation after its linear layer; none = no such layer
    pooler_norm: bool = False  # a norm after the pooler's activation (ModernBERT)
    pooler_on_tokens: bool = False  # whether heads on single tokens read through the pooler too (ModernBERT)
    pooler_dropout: bool = False  # dropout before the pooler too, by classifier_dropout (RoBERTa, ELECTRA)
    mlm_activation: Activation | None = None  # in the MLM head; None = activation
    family: FamilyName = "bert"  # whose checkpoints, tokenizers and special tokens go with this encoder

    def __post_init__(self):
        check_ranges(self, "model.")
        if self.hidden_size % self.num_heads:
            raise InputError(f"model.num_heads: must divide hidden_size {self.hidden_size}, got {self.num_heads}")
        if self.num_layer_groups is not None and not 1 <= self.num_layer_groups <= self.num_layers:
            raise InputError(
                f"model.num_layer_groups: must be between 1 and num_layers {self.num_layers}, got "
                f"{self.num_layer_groups}"
            )
        if not 0 <= self.first_position < self.max_position_embeddings:
            raise InputError(
                f"model.first_position: must be at least 0 and below max_position_embeddings "
                f"{self.max_position_embeddings}, got {self.first_position}"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise InputError(f"model.num_heads: rotary positions need an even head size, got {self.head_size}")

    @property
    def embedding_width(self) -> int:
        """E: embedding_size if the embeddings are factorized, hidden_size if not."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def head_size(self) -> int:
        """K: the width of one attention head."""
        return self.hidden_size // self.num_heads

    def rows(self, tokens: int) -> int:
        """Returns how many rows a token table has for a vocabulary of `tokens` tokens, spare ones included."""
        return -(-tokens // self.vocab_multiple) * self.vocab_multiple

    @property
    def layer_groups(self) -> int:
        """The number of blocks with their own weights."""
        return self.num_layers if self.num_layer_groups is None else self.num_layer_groups

    def narrowed(self, share: float) -> "BertConfig":
        """Returns an encoder with a share of the heads and of the feed-forward, and embeddings of the same width."""
        heads = max(1, round(share * self.num_heads))
        width, embedding = heads * self.head_size, self.embedding_width
        return dataclasses.replace(
            self,
            hidden_size=width,
            num_heads=heads,
            intermediate_size=max(1, round(share * self.intermediate_size)),
            embedding_size=None if width == embedding else embedding,
            pooler="none",
        )

    def is_local(self, layer: int) -> bool:
        """Returns whether the layer attends to a window around each token rather than to the whole sequence."""
        return self.local_attention > 0 and layer % self.global_every != 0

    def chunk(self, length: int) -> int:
        """Returns the size of the chunks in which a local layer computes rows of `length` tokens; 0 = not in chunks.

        The tokens of a chunk attend to their own chunk and to both neighbours, which hold their windows.
        """
        size = max(self.local_attention // 2, SMALLEST_CHUNK)
        return size if self.local_attention and 3 * size < length else 0

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
