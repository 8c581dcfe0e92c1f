"""The fields of the optimizer and of its learning rate's schedule."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Optimizer:
    """AdamW as BERT uses it, and the schedule of its learning rate."""

    learning_rate: float = 1e-4  # at the end of the warmup
    warmup_share: float = 0.1  # share of the steps in which the learning rate rises from 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warmup, down to 0 (or not)
    weight_decay: float = 0.01  # of matrices and embeddings; never of biases and LayerNorm
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    epsilon: float = 1e-6  # added to the root of the second moment
    bias_correction: bool = True  # False is Google's original BERT
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm; 0 = never
    frozen_layers: int | None = None  # so many of the lowest layers, and the embeddings, stay as they are; None = none
    head_only: bool = False  # the whole encoder stays as it is
    layer_decay: float = 1.0  # learning rate of each layer over that of the one above it, from the head's down
    unfreeze_share: float = 0.0  # gradual unfreezing: one layer more, from the top, after each such share of the steps
