"""The fields of each optimizer: one frozen dataclass per optimizer, on a base of what all have."""

from dataclasses import dataclass
from typing import Literal

from bert_jax.config.ranges import check_ranges

__all__ = ["OPTIMIZER_KINDS", "AdamW", "Optimizer", "OptimizerFields"]


@dataclass(frozen=True)
class Optimizer:
    """What every optimizer has: the learning rate over time and depth, clipping, and what is frozen."""

    learning_rate: float = 1e-4  # at the end of the warmup
    warmup_share: float = 0.1  # share of the steps in which the learning rate rises from 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warmup: down to 0, or constant
    weight_decay: float = 0.01  # of matrices and embeddings; never of biases and LayerNorm
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm; 0 = never
    frozen_layers: int | None = None  # number of lowest layers that are not trained, nor the embeddings; None = none
    head_only: bool = False  # the encoder is not trained
    layer_decay: float = 1.0  # learning rate of a layer, divided by that of the layer above it; the head has all of it
    unfreeze_share: float = 0.0  # gradual unfreezing: one more layer, from the top, after each such share of the steps

    def __post_init__(self):
        check_ranges(self, "optimizer.")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW as BERT uses it (Devlin et al. 2019; Loshchilov & Hutter 2019 for the decoupled weight decay)."""

    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    epsilon: float = 1e-6  # added to the root of the second moment
    bias_correction: bool = True  # False is Google's original BERT


OptimizerFields = AdamW  # another optimizer makes this a union: AdamW | ...
OPTIMIZER_KINDS: dict[str, type[OptimizerFields]] = {kind.__name__: kind for kind in (AdamW,)}
