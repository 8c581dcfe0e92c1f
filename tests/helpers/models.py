"""Tiny models that several tests train, and a property that several tasks share."""

from dataclasses import replace

from bert_jax.config import BertConfig

MODEL = BertConfig(
    vocab_size=0,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
QUIET = replace(MODEL, hidden_dropout=0.0, attention_dropout=0.0)
