"""The encoder: embeddings, attention, feed-forward, block, pooler. The whole forward pass, top to bottom.

BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) with post-LayerNorm blocks, and ALBERT's two changes
(Lan et al. 2020, https://arxiv.org/abs/1909.11942), factorized embeddings and shared blocks, as fields of `BertConfig`.
Letters in array names are explained in `bert_jax.config`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from bert_jax.config import BertConfig

Batch = Mapping[str, jax.Array]

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}

# Added to scores that must not count. Finite, so that a row of nothing but padding gives a mean and not a NaN.
MASKED_SCORE = -1e9


def initializer(config: BertConfig) -> nn.initializers.Initializer:
    """BERT's initializer: a normal cut at two standard deviations."""
    return nn.initializers.truncated_normal(config.initializer_range)


def dense(config: BertConfig, features: int | tuple[int, ...], name: str, axis: int | tuple[int, ...] = -1):
    """A linear layer with BERT's initializer and the config's dtypes."""
    return nn.DenseGeneral(
        features,
        axis=axis,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        kernel_init=initializer(config),
        name=name,
    )


def layer_norm(config: BertConfig, name: str) -> nn.LayerNorm:
    """LayerNorm with the config's epsilon; its mean and variance are computed in float32."""
    return nn.LayerNorm(
        epsilon=config.layer_norm_epsilon,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits that comparisons with PyTorch need
        name=name,
    )


def by_rows(x: jax.Array) -> jax.Array:
    """Says that activations [B, ...] are split among devices by their rows; nothing where they are not split at all."""
    return with_logical_constraint(x, ("rows",) + (None,) * (x.ndim - 1))


class Embeddings(nn.Module):
    """Sum of piece, position and segment embeddings, normalised, and projected to the hidden size if factorized."""

    config: BertConfig

    def setup(self):
        c = self.config

        def table(rows: int) -> nn.Embed:
            return nn.Embed(
                rows,
                c.embedding_width,
                dtype=c.dtype,
                param_dtype=c.param_dtype,
                embedding_init=initializer(c),
            )

        self.word = table(c.vocab_size)
        self.position = table(c.max_position_embeddings)
        self.token_type = table(c.type_vocab_size)
        self.norm = layer_norm(c, "norm")
        self.dropout = nn.Dropout(c.hidden_dropout)
        if c.embedding_size is not None:
            self.projection = dense(c, c.hidden_size, "projection")

    def __call__(self, batch: Batch, deterministic: bool) -> jax.Array:
        x_BTE = self.word(batch["input_ids"])
        x_BTE += self.position(batch["position_ids"]) + self.token_type(batch["token_type_ids"])
        x_BTE = self.dropout(self.norm(x_BTE), deterministic=deterministic)
        return by_rows(x_BTE if self.config.embedding_size is None else self.projection(x_BTE))


class Attention(nn.Module):
    """Multi-head self-attention among the positions that `allowed_B1TS` lets see each other."""

    config: BertConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, allowed_B1TS: jax.Array, deterministic: bool) -> jax.Array:
        c = self.config
        qkv_BT3HK = dense(c, (3, c.num_heads, c.head_size), "qkv")(x_BTD)
        q_BTHK, k_BSHK, v_BSHK = (qkv_BT3HK[:, :, i] for i in range(3))
        scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK * c.head_size**-0.5, k_BSHK)
        scores_BHTS = jnp.where(allowed_B1TS, scores_BHTS.astype(jnp.float32), MASKED_SCORE)
        probs_BHTS = nn.softmax(scores_BHTS).astype(c.dtype)
        self.sow("intermediates", "attention", probs_BHTS)
        probs_BHTS = nn.Dropout(c.attention_dropout)(probs_BHTS, deterministic=deterministic)
        mixed_BTHK = jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)
        return dense(c, c.hidden_size, "out", axis=(-2, -1))(mixed_BTHK)


class FeedForward(nn.Module):
    """Two linear layers with the activation between them, at each position alone."""

    config: BertConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        h_BTF = ACTIVATIONS[c.activation](dense(c, c.intermediate_size, "in")(x_BTD))
        return dense(c, c.hidden_size, "out")(h_BTF)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to its input and normalised after (post-LayerNorm)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, allowed_B1TS: jax.Array, deterministic: bool) -> jax.Array:
        c = self.config
        dropout = nn.Dropout(c.hidden_dropout)
        a_BTD = Attention(c, name="attention")(x_BTD, allowed_B1TS, deterministic)
        x_BTD = by_rows(layer_norm(c, "attention_norm")(x_BTD + dropout(a_BTD, deterministic=deterministic)))
        f_BTD = FeedForward(c, name="feed_forward")(x_BTD)
        return by_rows(layer_norm(c, "feed_forward_norm")(x_BTD + dropout(f_BTD, deterministic=deterministic)))


class Bert(nn.Module):
    """The encoder.

    Called with a batch of int32 arrays [B, T], it returns the hidden states of the last layer, [B, T, D] in
    `config.dtype`:

        input_ids       pieces
        token_type_ids  segment of each token
        position_ids    position of each token in its own sequence
        sequence_ids    0 on padding, else which sequence of the row the token belongs to; tokens see each other where
                        the ids are equal and not 0

    `apply(..., mutable="intermediates")` also returns `hidden`, the embeddings and every layer's output (each
    [B, T, D]), and in each block `attention` [B, H, T, S], a shared block's in the order of its uses. Dropout needs the
    rng "dropout" where `deterministic` is False.
    """

    config: BertConfig

    def setup(self):
        c = self.config
        block = nn.remat(Block, static_argnums=(3,)) if c.remat else Block
        self.embeddings = Embeddings(c)
        self.blocks = [block(c) for _ in range(c.layer_groups)]
        self.pooler = dense(c, c.hidden_size, "pooler")

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        c = self.config
        ids_BT = batch["sequence_ids"]
        same_BTS = (ids_BT[:, :, None] == ids_BT[:, None, :]) & (ids_BT[:, None, :] != 0)
        allowed_B1TS = same_BTS[:, None]
        x_BTD = self.embeddings(batch, deterministic)
        self.sow("intermediates", "hidden", x_BTD)
        for layer in range(c.num_layers):
            x_BTD = self.blocks[c.group(layer)](x_BTD, allowed_B1TS, deterministic)
            self.sow("intermediates", "hidden", x_BTD)
        return x_BTD

    def pool(self, x_BTD: jax.Array, cls_positions_BN: jax.Array) -> jax.Array:
        """The summary of each sequence: its [CLS] state through a linear layer and tanh, [B, N, D]."""
        cls_BND = by_rows(jnp.take_along_axis(x_BTD, cls_positions_BN[:, :, None], axis=1))
        return by_rows(nn.tanh(self.pooler(cls_BND)))

    def word_table(self) -> jax.Array:
        """The piece embeddings, [V, E] in param_dtype, which the MLM head shares."""
        return self.embeddings.word.embedding
