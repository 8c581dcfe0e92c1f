"""The encoder: embeddings, attention, feed-forward, block, pooler. The whole forward pass, top to bottom.

BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805). What its descendants changed are fields of `BertConfig`:
ALBERT's factorized embeddings and shared blocks (Lan et al. 2020, https://arxiv.org/abs/1909.11942), and ModernBERT's
pre-normalisation, rotary positions, gated feed-forward and local attention (Warner et al. 2024,
https://arxiv.org/abs/2412.13663). Letters in array names are explained in `bert_jax.config`.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from bert_jax import fused, gradients, views
from bert_jax.config import BertConfig, Compute
from bert_jax.views import Batch, View

ACTIVATIONS = {
    # Not nn.gelu, whose erfc takes twice as long on CPU; the results differ by rounding.
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "tanh": nn.tanh,  # of the pooler
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
    biased: bool = True  # whether it has a bias
    bias: tuple[float, ...] = ()  # what the bias starts at; empty = zeros
    initial: nn.initializers.Initializer | None = None  # of the kernel; None = BERT's
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype, param_dtype = self.compute.dtype, jnp.dtype(self.compute.param_dtype)
        shape = (*x.shape[x.ndim - self.inputs :], *self.outputs)
        kernel = self.param("kernel", self.initial or initializer(self.config), shape, param_dtype).astype(dtype)
        rows = x.shape[: x.ndim - self.inputs]
        y = gradients.product(x.reshape(*rows, -1).astype(dtype), kernel.reshape(-1, math.prod(self.outputs)))
        if self.biased:
            start = jnp.asarray(self.bias or 0.0, param_dtype)
            bias = self.param("bias", lambda _: jnp.broadcast_to(start, self.outputs))
            y += bias.astype(dtype).reshape((1,) * len(rows) + (-1,))
        return y.reshape(*rows, *self.outputs)


def normalization(config: BertConfig, compute: Compute, name: str | None = None) -> nn.LayerNorm | nn.RMSNorm:
    """Returns a LayerNorm or RMSNorm with the config's epsilon; its mean and variance are computed in float32."""
    options: dict[str, Any] = {
        "epsilon": config.layer_norm_epsilon,
        "dtype": compute.dtype,
        "param_dtype": compute.param_dtype,
        "use_fast_variance": False,  # E[x^2] - E[x]^2 loses digits that comparisons with PyTorch need
        "name": name,
    }
    return nn.RMSNorm(**options) if config.norm == "rms" else nn.LayerNorm(**options, use_bias=config.norm_bias)


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
                dtype=jnp.float32,  # of its gradient: in bfloat16 the sum over a frequent token stops growing
                param_dtype=self.compute.param_dtype,
                embedding_init=initializer(c),
            )

        self.word = table(c.vocab_size)
        if c.positions == "learned":
            self.position = table(c.max_position_embeddings)
        if c.type_vocab_size:
            self.token_type = table(c.type_vocab_size)
        self.norm = normalization(c, self.compute)
        self.dropout = Dropout(c.hidden_dropout)
        if c.embedding_size is not None:
            self.projection = Dense(c, (c.hidden_size,), biased=c.linear_bias, compute=self.compute)

    def look_up(self, batch: Batch, deterministic: bool) -> jax.Array:
        """Returns the embeddings, [B, T, E]."""
        dtype = self.compute.dtype
        x_BTE = self.word(batch["input_ids"]).astype(dtype)
        added = []
        if self.config.positions == "learned":
            added.append(self.position(batch["position_ids"]).astype(dtype))
        if self.config.type_vocab_size:
            added.append(self.token_type(batch["token_type_ids"]).astype(dtype))
        if added:
            x_BTE += sum(added[1:], added[0])
        return self.dropout(self.norm(x_BTE), deterministic)

    def project(self, x_BTE: jax.Array) -> jax.Array:
        """Returns embeddings at the width of the blocks, [B, T, D]."""
        return by_rows(x_BTE if self.config.embedding_size is None else self.projection(x_BTE))


class Attention(nn.Module):
    """Multi-head self-attention among the tokens that `view` lets see each other."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, view: View, deterministic: bool) -> jax.Array:
        c = self.config
        out = Dense(c, (c.hidden_size,), inputs=2, biased=c.linear_bias, compute=self.compute, name="out")
        qkv = Dense(c, (3, c.num_heads, c.head_size), biased=c.linear_bias, compute=self.compute, name="qkv")
        qkv_BT3HK = qkv(x_BTD)
        q_BTHK, k_BSHK, v_BSHK = (qkv_BT3HK[:, :, i] for i in range(3))
        if view.rotation is not None:
            q_BTHK, k_BSHK = views.rotate(q_BTHK, view.rotation), views.rotate(k_BSHK, view.rotation)
        q_BTHK = view.queries(q_BTHK) * c.head_size**-0.5
        if view.allowed is None:
            ids, kind = view.sequence_ids, self.compute.attention
            return out(view.mixed(fused.attend(kind, q_BTHK, k_BSHK, v_BSHK, ids, view.single)))
        if view.chunk:
            q_BTHK = views.in_chunks(q_BTHK, view.chunk)
            k_BSHK, v_BSHK = (views.in_chunks(x, view.chunk, neighbours=True) for x in (k_BSHK, v_BSHK))
        scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK)
        scores_BHTS = jnp.where(view.allowed, scores_BHTS.astype(jnp.float32), MASKED_SCORE)
        probs_BHTS = nn.softmax(scores_BHTS).astype(self.compute.dtype)
        self.sow("intermediates", "attention", probs_BHTS)
        probs_BHTS = Dropout(c.attention_dropout)(probs_BHTS, deterministic)
        mixed_BTHK = jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)
        if view.chunk:
            mixed_BTHK = views.out_of_chunks(mixed_BTHK, *x_BTD.shape[:2])
        return out(view.mixed(mixed_BTHK))


class FeedForward(nn.Module):
    """Two linear layers with the activation between them, at each position separately.

    With `glu`, half of the first layer gates the other half, which alone goes through the activation (Shazeer 2020).
    """

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        gated = c.feed_forward == "glu"
        outputs = (2, c.intermediate_size) if gated else (c.intermediate_size,)
        h_BTF = Dense(c, outputs, biased=c.linear_bias, compute=self.compute, name="in")(x_BTD)
        activation = ACTIVATIONS[c.activation]
        h_BTF = activation(h_BTF[:, :, 0]) * h_BTF[:, :, 1] if gated else activation(h_BTF)
        return Dense(c, (c.hidden_size,), biased=c.linear_bias, compute=self.compute, name="out")(h_BTF)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to its input.

    The norms are after each sum, or before attention and feed-forward. There, the first layer's attention reads the
    embeddings, which are normalised already, without a norm.
    """

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, view: View, first: bool, deterministic: bool) -> jax.Array:
        c = self.config
        pre = c.norm_position == "pre"
        dropout = Dropout(c.hidden_dropout)
        attention_norm = normalization(c, self.compute, "attention_norm")
        feed_forward_norm = normalization(c, self.compute, "feed_forward_norm")
        h_BTD = attention_norm(x_BTD) if pre and not first else x_BTD
        a_BTD = Attention(c, self.compute, name="attention")(h_BTD, view, deterministic)
        x_BTD = views.take(x_BTD, view.at) + dropout(a_BTD, deterministic)
        x_BTD = by_rows(x_BTD if pre else attention_norm(x_BTD))
        h_BTD = feed_forward_norm(x_BTD) if pre else x_BTD
        f_BTD = FeedForward(c, self.compute, name="feed_forward")(h_BTD)
        x_BTD = x_BTD + dropout(f_BTD, deterministic)
        return by_rows(x_BTD if pre else feed_forward_norm(x_BTD))


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
    [B, T, D]; the last one after the final norm, if there is one), and in each block `attention` [B, H, T, S], a shared
    block's in the order of its uses. Dropout needs the rng "dropout" where `deterministic` is False. With x_BTE, the
    embeddings of another encoder, it has no tables of its own.

    With at_BP, the last layer is computed at these positions of each row alone, and [B, P, D] is returned: the same
    states in less time, for heads that read few tokens. Only the random numbers of the layer's dropout are others.
    """

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        c = self.config
        block = nn.remat(Block, static_argnums=(3, 4)) if self.compute.remat else Block
        self.compute.check(c)
        self.embeddings = Embeddings(c, self.compute)
        self.blocks = [block(c, self.compute) for _ in range(c.layer_groups)]
        if c.norm_position == "pre":
            self.final_norm = normalization(c, self.compute)
        if c.pooler != "none":
            self.pooler = Dense(c, (c.hidden_size,), biased=c.linear_bias, compute=self.compute)
            self.pooler_norm = normalization(c, self.compute)
            self.pooler_dropout = Dropout(c.classifier_dropout if c.pooler_dropout else 0.0)

    def __call__(
        self,
        batch: Batch,
        deterministic: bool = True,
        x_BTE: jax.Array | None = None,
        at_BP: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        whole = self.is_mutable_collection("intermediates")  # the attention of whole rows is returned
        local = [c.is_local(layer) for layer in range(c.num_layers)]
        of_kind = {kind: views.make(c, self.compute, batch, kind, whole) for kind in set(local)}
        seen = [of_kind[kind] for kind in local]
        seen[-1] = seen[-1].reading(None if whole else at_BP)
        x_BTD = self.embeddings.project(self.look_up(batch, deterministic) if x_BTE is None else x_BTE)
        for layer, view in enumerate(seen):
            self.sow("intermediates", "hidden", x_BTD)
            x_BTD = self.blocks[c.group(layer)](x_BTD, view, layer == 0, deterministic)
        if c.norm_position == "pre":
            x_BTD = by_rows(self.final_norm(x_BTD))
        self.sow("intermediates", "hidden", x_BTD)
        return views.take(x_BTD, at_BP if whole else None)

    def pool(
        self,
        x_BTD: jax.Array,
        cls_positions_BN: jax.Array,
        ids_BT: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns the summary of each sequence, its [CLS] or mean state through the pooler, [B, N, D].

        Args:
          cls_positions_BN, ids_BT: cls_positions and sequence_ids of the batch; the mean needs both.
        """
        c = self.config
        if c.pooling == "cls":
            x_BND = views.take(x_BTD, cls_positions_BN)
        else:
            assert ids_BT is not None
            x_BND = mean_state(x_BTD, cls_positions_BN, ids_BT)
        return self.summarise(by_rows(x_BND), deterministic)

    def summarise(self, x_BND: jax.Array, deterministic: bool = True) -> jax.Array:
        """Returns states through the pooler, [B, N, D]: a linear layer, its activation and its norm, if it has one."""
        c = self.config
        if c.pooler == "none":
            return x_BND
        x_BND = ACTIVATIONS[c.pooler](self.pooler(self.pooler_dropout(x_BND, deterministic)))
        return by_rows(self.pooler_norm(x_BND) if c.pooler_norm else x_BND)

    def look_up(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        """Returns the embeddings, [B, T, E], which a generator shares."""
        return self.embeddings.look_up(batch, deterministic)

    def word_table(self) -> jax.Array:
        """Returns the token embeddings, [V, E] in param_dtype, which the MLM head shares."""
        return self.embeddings.word.embedding


def mean_state(x_BTD: jax.Array, cls_positions_BN: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Returns the mean state of each sequence's tokens, [B, N, D] in the dtype of x; 0 where a row has no token."""
    numbers_BN = jnp.take_along_axis(ids_BT, cls_positions_BN, axis=1)
    inside_BNT = (ids_BT[:, None, :] == numbers_BN[:, :, None]) & (ids_BT[:, None, :] != 0)
    weights_BNT = inside_BNT.astype(jnp.float32)
    weights_BNT /= jnp.maximum(weights_BNT.sum(axis=2, keepdims=True), 1)
    return jnp.einsum("BNT,BTD->BND", weights_BNT.astype(x_BTD.dtype), x_BTD)


def attention_probabilities(config: BertConfig, intermediates: Mapping[str, Any]) -> list[jax.Array]:
    """Returns each layer's attention probabilities [B, H, T, S], from the intermediates of `Bert`."""
    blocks = [f"blocks_{config.group(layer)}" for layer in range(config.num_layers)]
    return [intermediates[block]["attention"]["attention"][blocks[:i].count(block)] for i, block in enumerate(blocks)]
