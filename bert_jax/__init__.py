"""BERT in JAX and Flax: pre-train, adapt and fine-tune through one training step."""
