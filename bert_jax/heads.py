"""Heads, one small module for each kind of prediction, and the models made of an encoder and heads.

A model's parameters are {"bert": encoder, HEAD: head, ...}; `init_from` reuses each part that fits.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax import gradients
from bert_jax.config import BertConfig, Compute, TextVectors
from bert_jax.model import ACTIVATIONS, Bert, Dense, Dropout, by_rows, mean_state, normalization
from bert_jax.views import Batch, take


def pooled(bert: Bert, batch: Batch, deterministic: bool) -> jax.Array:
    """Returns the summary of each sequence of the batch, [B, N, D]."""
    none_B0 = batch["cls_positions"][:, :0]
    return masked_and_pooled(bert, batch, none_B0, deterministic)[1]


def masked_and_pooled(
    bert: Bert, batch: Batch, masked_BP: jax.Array, deterministic: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the states at positions, [B, P, D], and the summary of each sequence of the batch, [B, N, D]."""
    cls_BN = batch["cls_positions"]
    if bert.config.pooling == "cls":
        read = masked_BP.shape[1]
        x_BRD = bert(batch, deterministic, at_BP=jnp.concatenate([masked_BP, cls_BN], axis=1))
        return x_BRD[:, :read], bert.summarise(by_rows(x_BRD[:, read:]), deterministic)
    x_BTD = bert(batch, deterministic)
    return take(x_BTD, masked_BP), bert.pool(x_BTD, cls_BN, batch["sequence_ids"], deterministic)


def of_tokens(bert: Bert, batch: Batch, deterministic: bool) -> jax.Array:
    """Returns what heads on single tokens read, [B, T, D]."""
    x_BTD = bert(batch, deterministic)
    return bert.summarise(x_BTD, deterministic) if bert.config.pooler_on_tokens else x_BTD


def text_vectors(how: TextVectors, x_BTD: jax.Array, batch: Batch, pooled_BND: jax.Array | None) -> jax.Array:
    """Returns the vector of each sequence of the batch, float32 [B, N, D]; those of unused sequences mean nothing.

    Args:
      how: pooling, and whether vectors get the length 1.
      pooled_BND: states through the pooler; read only if `how` needs them.
    """
    if how.pooling == "pooler":
        assert pooled_BND is not None
        return finished(how, pooled_BND)
    if how.pooling == "cls":
        return finished(how, take(x_BTD, batch["cls_positions"]))
    return finished(how, mean_state(x_BTD.astype(jnp.float32), batch["cls_positions"], batch["sequence_ids"]))


def finished(how: TextVectors, x_BND: jax.Array) -> jax.Array:
    """Returns vectors as `how` wants them, float32 [B, N, D]."""
    x_BND = x_BND.astype(jnp.float32)
    return unit_length(x_BND) if how.normalized else x_BND


def unit_length(vectors: jax.Array) -> jax.Array:
    """Returns vectors [..., D] divided by their lengths; one of zeros stays, with a gradient of zeros."""
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


class MlmHead(nn.Module):
    """Scores of every token of the vocabulary at given positions, with the embedding table as output weights."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BPD: jax.Array, table_VE: jax.Array) -> jax.Array:
        c = self.config
        x_BPE = Dense(c, (c.embedding_width,), biased=c.linear_bias, compute=self.compute, name="dense")(x_BPD)
        x_BPE = ACTIVATIONS[c.mlm_activation or c.activation](x_BPE)
        x_BPE = by_rows(normalization(c, self.compute, "norm")(x_BPE))
        bias_V = self.param("bias", nn.initializers.zeros, (c.vocab_size,), jnp.dtype(self.compute.param_dtype))
        table_VE = table_VE.astype(self.compute.dtype)
        logits_BPV = gradients.scores(x_BPE, table_VE)
        # Added by a matrix product, so that its gradient, a sum over a huge array, is one too: much faster on CPU.
        ones_BP1 = jnp.ones((*x_BPE.shape[:2], 1), jnp.float32)
        return by_rows(logits_BPV + ones_BP1 @ bias_V[None].astype(jnp.float32))


class ClassHead(nn.Module):
    """Scores of `num_classes` classes for each vector, in float32, after dropout as in BERT's classifiers.

    It starts as in `transformers`, from a normal distribution that is not truncated. Small learning rates hardly change
    a head's size, so one that starts smaller learns less from few labels: experiments/beside_pytorch.py.
    """

    config: BertConfig
    num_classes: int
    dropout: bool = True
    bias: tuple[float, ...] = ()  # what the scores start at; empty = zeros
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BND: jax.Array, deterministic: bool = True) -> jax.Array:
        c = self.config
        if self.dropout:
            x_BND = Dropout(c.classifier_dropout)(x_BND, deterministic)
        start = nn.initializers.normal(c.initializer_range)
        scores = Dense(c, (self.num_classes,), bias=self.bias, initial=start, compute=self.compute, name="out")
        return by_rows(scores(x_BND).astype(jnp.float32))


class DiscriminatorHead(nn.Module):
    """One score for each token, above 0 if the token was replaced: [B, T], float32 (Clark et al. 2020, ELECTRA)."""

    config: BertConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        x_BTD = Dense(c, (c.hidden_size,), biased=c.linear_bias, compute=self.compute, name="dense")(x_BTD)
        scores_BT1 = Dense(c, (1,), compute=self.compute, name="out")(ACTIVATIONS[c.activation](x_BTD))
        return by_rows(scores_BT1[:, :, 0].astype(jnp.float32))


class BertForPreTraining(nn.Module):
    """MLM at the masked positions only and, with `pairs`, two classes for each sentence pair (NSP or SOP).

    Returns {"mlm": [B, P, V], "pair": [B, N, 2]}, float32.
    """

    config: BertConfig
    pairs: bool = True
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.mlm = MlmHead(self.config, self.compute)
        if self.pairs:
            self.pair = ClassHead(self.config, 2, dropout=False, compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> dict[str, jax.Array]:
        masked_BP, table_VE = batch["masked_positions"], self.bert.word_table
        if not self.pairs:
            return {"mlm": self.mlm(self.bert(batch, deterministic, at_BP=masked_BP), table_VE())}
        x_BPD, x_BND = masked_and_pooled(self.bert, batch, masked_BP, deterministic)
        return {"mlm": self.mlm(x_BPD, table_VE()), "pair": self.pair(x_BND, deterministic)}


class BertForReplacedTokenDetection(nn.Module):
    """One score for each token, above 0 if the token was replaced: [B, T], float32."""

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.discriminator = DiscriminatorHead(self.config, self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        return self.discriminator(self.bert(batch, deterministic))


class BertWithGenerator(nn.Module):
    """Replaced-token detection, with the generator whose samples replace tokens: both learn at once.

    `generate` returns the generator's scores of the vocabulary at the masked positions, [B, P, V], and `discriminate`
    one score for each token, above 0 if it was replaced, [B, T], both float32. A call returns both for the same tokens.
    """

    config: BertConfig
    generator_config: BertConfig
    shared: bool = True  # whether the generator reads the model's embeddings
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.discriminator = DiscriminatorHead(self.config, self.compute)
        self.generator = Bert(self.generator_config, self.compute)
        self.generator_mlm = MlmHead(self.generator_config, self.compute)

    def generate(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        """Returns what the generator fills masks with; see the class."""
        x_BTE = self.bert.look_up(batch, deterministic) if self.shared else None
        x_BPD = self.generator(batch, deterministic, x_BTE, batch["masked_positions"])
        return self.generator_mlm(x_BPD, (self.bert if self.shared else self.generator).word_table())

    def discriminate(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        """Returns which tokens were replaced; see the class."""
        return self.discriminator(self.bert(batch, deterministic))

    def __call__(self, batch: Batch, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        return self.generate(batch, deterministic), self.discriminate(batch, deterministic)


class BertForSequenceClassification(nn.Module):
    """`num_classes` scores for each sequence, from its pooled [CLS]: [B, N, C], float32."""

    config: BertConfig
    num_classes: int
    bias: tuple[float, ...] = ()  # what the scores start at; empty = zeros
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.sequence = ClassHead(self.config, self.num_classes, bias=self.bias, compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        return self.sequence(pooled(self.bert, batch, deterministic), deterministic)


class BertForTextVectors(nn.Module):
    """One vector for each sequence: [B, N, D], float32."""

    config: BertConfig
    how: TextVectors = TextVectors()
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        if self.how.pooling == "pooler":
            return finished(self.how, pooled(self.bert, batch, deterministic))
        if self.how.pooling == "cls":
            return finished(self.how, self.bert(batch, deterministic, at_BP=batch["cls_positions"]))
        return text_vectors(self.how, self.bert(batch, deterministic), batch, None)


class BertForTokenClassification(nn.Module):
    """`num_classes` scores for each token: [B, T, C], float32."""

    config: BertConfig
    num_classes: int
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.token = ClassHead(self.config, self.num_classes, compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        return self.token(of_tokens(self.bert, batch, deterministic), deterministic)


class BertForQuestionAnswering(nn.Module):
    """Scores of each token as the start and as the end of an answer: [B, T, 2], float32."""

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.span = ClassHead(self.config, 2, dropout=False, compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        return self.span(of_tokens(self.bert, batch, deterministic), deterministic)


class BertForMultipleChoice(nn.Module):
    """One score for each choice; the choices of an example are the sequences of its row: [B, N], float32."""

    config: BertConfig
    compute: Compute = Compute()

    def setup(self):
        self.bert = Bert(self.config, self.compute)
        self.choice = ClassHead(self.config, 1, compute=self.compute)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        return self.choice(pooled(self.bert, batch, deterministic), deterministic)[..., 0]
