"""The encoder: embeddings, attention, feed-forward, block, pooler. The whole forward pass, top to bottom.

BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) with post-LayerNorm blocks, and ALBERT's two changes
(Lan et al. 2020, https://arxiv.org/abs/1909.11942), factorized embeddings and shared blocks, as fields of `BertConfig`.
Letters in array names are explained in `bert_jax.config`.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from bert_jax import fused
from bert_jax.config import BertConfig, Compute

Batch = Mapping[str, jax.Array]

ACTIVATIONS = {
    # Not nn.gelu, whose erfc takes twice as long on CPU; the results differ by rounding.
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}

# The score of tokens that must not be attended to. It is finite, so that a row of padding gives a mean and not NaN.
MASKED_SCORE = -1e9


def initializer(config: BertConfig) -> nn.initializers.Initializer:
    """Returns BERT's initializer, a normal distribution truncated at two standard deviations."""
    return nn.initializers.truncated_normal(config.initializer_range)


class Dense(nn.Module):
    """A linear layer with BERT's initializer, from the last axes of x to `outputs`.

    It is computed as a matrix product: with nn.DenseGeneral, over several axes, XLA transposes every gradient.
    """

    config: BertConfig
    outputs: tuple[int, ...]
    inputs: int = 1  # number of axes of x
    bias: tuple[float, ...] = ()  # what the bias starts at; empty = zeros
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype, param_dtype = self.compute.dtype, jnp.dtype(self.compute.param_dtype)
        shape = (*x.shape[x.ndim - self.inputs :], *self.outputs)
        kernel = self.param("kernel", initializer(self.config), shape, param_dtype).astype(dtype)
        bias = self.param("bias", lambda _: jnp.broadcast_to(jnp.asarray(self.bias or 0.0, param_dtype), self.outputs))
        rows = x.shape[: x.ndim - self.inputs]
        y = x.reshape(*rows, -1).astype(dtype) @ kernel.reshape(-1, math.prod(self.outputs))
        return (y + bias.astype(dtype).reshape((1,) * len(rows) + (-1,))).reshape(*rows, *self.outputs)


def layer_norm(config: BertConfig, compute: Compute, name: str | None = None) -> nn.LayerNorm:
    """Returns a LayerNorm with the config's epsilon; its mean and variance are computed in float32."""
    return nn.LayerNorm(
        epsilon=config.layer_norm_epsilon,
        dtype=compute.dtype,
        param_dtype=compute.param_dtype,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits that comparisons with PyTorch need
        name=name,
    )


class Dropout(nn.Module):
    """Sets a share of entries to 0 at random, and scales the others up (Srivastava et al. 2014).

    The random number is a hash (the end of MurmurHash3, Appleby 2008) of an entry's index and the key. It is so cheap
    that the backward pass computes it again, whereas other generators must store their bits. It is the same on any
    number of devices.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or self.rate == 0:
            return x
        seeds = jax.random.key_data(self.make_rng("dropout"))
        index = jnp.zeros((), jnp.uint32)
        for axis, size in enumerate(x.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        bits = index * jnp.uint32(0x9E3779B9) + seeds[0]
        bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B) + seeds[1]
        bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
        bits ^= bits >> 16
        keep = bits < jnp.uint32((1 - self.rate) * 2**32)
        return jnp.where(keep, x * (1 / (1 - self.rate)), 0).astype(x.dtype)


def by_rows(x: jax.Array) -> jax.Array:
    """Marks activations [B, ...] as split over devices by rows; does nothing if they are not split."""
    return with_logical_constraint(x, ("rows",) + (None,) * (x.ndim - 1))


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised, and projected to the hidden size if factorized."""

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        c = self.config

        def table(rows: int) -> nn.Embed:
            return nn.Embed(
                rows,
                c.embedding_width,
                dtype=self.compute.dtype,
                param_dtype=self.compute.param_dtype,
                embedding_init=initializer(c),
            )

        self.word = table(c.vocab_size)
        self.position = table(c.max_position_embeddings)
        self.token_type = table(c.type_vocab_size)
        self.norm = layer_norm(c, self.compute)
        self.dropout = Dropout(c.hidden_dropout)
        if c.embedding_size is not None:
            self.projection = Dense(c, (c.hidden_size,), compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool) -> jax.Array:
        x_BTE = self.word(batch["input_ids"])
        x_BTE += self.position(batch["position_ids"]) + self.token_type(batch["token_type_ids"])
        x_BTE = self.dropout(self.norm(x_BTE), deterministic)
        return by_rows(x_BTE if self.config.embedding_size is None else self.projection(x_BTE))


class Attention(nn.Module):
    """Multi-head self-attention among the tokens whose `ids_BT` (sequence_ids) are equal and not 0."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, ids_BT: jax.Array, single: bool, deterministic: bool) -> jax.Array:
        c, attention = self.config, self.compute.attention
        qkv_BT3HK = Dense(c, (3, c.num_heads, c.head_size), compute=self.compute, name="qkv")(x_BTD)
        q_BTHK, k_BSHK, v_BSHK = (qkv_BT3HK[:, :, i] for i in range(3))
        q_BTHK *= c.head_size**-0.5
        if attention == "cudnn" or (attention == "pallas" and fused.fits(x_BTD.shape[1])):
            mixed_BTHK = fused.attend(attention, q_BTHK, k_BSHK, v_BSHK, ids_BT, single)
            return Dense(c, (c.hidden_size,), inputs=2, compute=self.compute, name="out")(mixed_BTHK)
        same_BTS = (ids_BT[:, :, None] == ids_BT[:, None, :]) & (ids_BT[:, None, :] != 0)
        allowed_B1TS = same_BTS[:, None]
        scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK)
        scores_BHTS = jnp.where(allowed_B1TS, scores_BHTS.astype(jnp.float32), MASKED_SCORE)
        probs_BHTS = nn.softmax(scores_BHTS).astype(self.compute.dtype)
        self.sow("intermediates", "attention", probs_BHTS)
        probs_BHTS = Dropout(c.attention_dropout)(probs_BHTS, deterministic)
        mixed_BTHK = jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)
        return Dense(c, (c.hidden_size,), inputs=2, compute=self.compute, name="out")(mixed_BTHK)


class FeedForward(nn.Module):
    """Two linear layers with the activation between them, at each position separately."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        h_BTF = ACTIVATIONS[c.activation](Dense(c, (c.intermediate_size,), compute=self.compute, name="in")(x_BTD))
        return Dense(c, (c.hidden_size,), compute=self.compute, name="out")(h_BTF)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to its input and then normalised (post-LayerNorm)."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, ids_BT: jax.Array, single: bool, deterministic: bool) -> jax.Array:
        c = self.config
        dropout = Dropout(c.hidden_dropout)
        a_BTD = Attention(c, self.compute, name="attention")(x_BTD, ids_BT, single, deterministic)
        x_BTD = by_rows(layer_norm(c, self.compute, "attention_norm")(x_BTD + dropout(a_BTD, deterministic)))
        f_BTD = FeedForward(c, self.compute, name="feed_forward")(x_BTD)
        return by_rows(layer_norm(c, self.compute, "feed_forward_norm")(x_BTD + dropout(f_BTD, deterministic)))


class Bert(nn.Module):
    """The encoder.

    Called with a batch of int32 arrays [B, T], it returns the hidden states of the last layer, [B, T, D] in
    `compute.dtype`:

        input_ids       tokens
        token_type_ids  segment of each token
        position_ids    position of each token in its own sequence
        sequence_ids    0 on padding, otherwise the number of the token's sequence in its row; tokens attend to each
                        other if their ids are equal and not 0
        cls_positions   [B, N], N the most sequences in a row; only cuDNN's attention looks at N

    `apply(..., mutable="intermediates")` also returns `hidden`, the embeddings and every layer's output (each
    [B, T, D]), and in each block `attention` [B, H, T, S], a shared block's in the order of its uses. Dropout needs the
    rng "dropout" where `deterministic` is False.
    """

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        c = self.config
        block = nn.remat(Block, static_argnums=(3, 4)) if self.compute.remat else Block
        self.compute.check(c)
        self.embeddings = Embeddings(c, self.compute)
        self.blocks = [block(c, self.compute) for _ in range(c.layer_groups)]
        self.pooler = Dense(c, (c.hidden_size,), compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        c = self.config
        single = self.compute.attention == "cudnn" and batch["cls_positions"].shape[1] == 1  # a row holds one sequence
        x_BTD = self.embeddings(batch, deterministic)
        self.sow("intermediates", "hidden", x_BTD)
        for layer in range(c.num_layers):
            x_BTD = self.blocks[c.group(layer)](x_BTD, batch["sequence_ids"], single, deterministic)
            self.sow("intermediates", "hidden", x_BTD)
        return x_BTD

    def pool(self, x_BTD: jax.Array, cls_positions_BN: jax.Array) -> jax.Array:
        """Returns the summary of each sequence, its [CLS] state through a linear layer and tanh, [B, N, D]."""
        cls_BND = by_rows(jnp.take_along_axis(x_BTD, cls_positions_BN[:, :, None], axis=1))
        return by_rows(nn.tanh(self.pooler(cls_BND)))

    def word_table(self) -> jax.Array:
        """Returns the token embeddings, [V, E] in param_dtype, which the MLM head shares."""
        return self.embeddings.word.embedding


def attention_probabilities(config: BertConfig, intermediates: Mapping[str, Any]) -> list[jax.Array]:
    """Returns each layer's attention probabilities [B, H, T, S], from the intermediates of `Bert`."""
    blocks = [f"blocks_{config.group(layer)}" for layer in range(config.num_layers)]
    return [intermediates[block]["attention"]["attention"][blocks[:i].count(block)] for i, block in enumerate(blocks)]
