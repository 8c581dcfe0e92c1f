"""The fields of each optimizer: one frozen dataclass per optimizer, on a base of what all have."""

from dataclasses import dataclass
from typing import Literal

from bert_jax.config.ranges import check_ranges
from bert_jax.errors import InputError

__all__ = ["LAMB", "OPTIMIZER_KINDS", "AdamW", "Muon", "Optimizer", "OptimizerFields"]


@dataclass(frozen=True)
class Optimizer:
    """What every optimizer has: the learning rate over time and depth, clipping, and what is frozen."""

    learning_rate: float = 1e-4  # at the end of the warmup
    warmup_share: float = 0.1  # share of the steps in which the learning rate rises from 0
    # After the warmup: how the learning rate goes down. "sqrt" is 1 - sqrt(t), which falls fastest at first.
    schedule: Literal["linear", "cosine", "sqrt", "constant"] = "linear"
    stable_share: float = 0.0  # share of the steps after the warmup in which the learning rate stays at its peak
    final_share: float = 0.0  # what is left of the peak at the last step
    weight_decay: float = 0.01  # of matrices and embeddings; never of biases and LayerNorm
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm; 0 = never
    frozen_layers: int | None = None  # number of lowest layers that are not trained, nor the embeddings; None = none
    head_only: bool = False  # the encoder is not trained
    layer_decay: float = 1.0  # learning rate of a layer, divided by that of the layer above it; the head has all of it
    unfreeze_share: float = 0.0  # gradual unfreezing: one more layer, from the top, after each such share of the steps

    def __post_init__(self):
        check_ranges(self, "optimizer.")
        if self.warmup_share + self.stable_share > 1:
            total = self.warmup_share + self.stable_share
            raise InputError(f"optimizer.stable_share: with warmup_share, must be at most 1, got {total:g} in all")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW as BERT uses it (Devlin et al. 2019; Loshchilov & Hutter 2019 for the decoupled weight decay)."""

    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    epsilon: float = 1e-6  # added to the root of the second moment
    bias_correction: bool = True  # False is Google's original BERT


@dataclass(frozen=True)
class LAMB(Optimizer):
    """Adam whose updates are scaled to the size of the weights, for large batches (You et al. 2020)."""

    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    epsilon: float = 1e-6  # added to the root of the second moment


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices of the blocks, AdamW for all other parameters.

    The momentum of a matrix is made nearly orthogonal by five Newton-Schulz steps; query, key and value are a matrix
    each (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982, for the size of an update).
    """

    momentum: float = 0.95  # of the matrices, with Nesterov's correction
    rms: float = 0.2  # root mean square of a matrix's update, as a multiple of the learning rate; 0.2 is like AdamW's
    b1: float = 0.9  # AdamW: decay of the first moment
    b2: float = 0.999  # AdamW: decay of the second moment
    epsilon: float = 1e-6  # AdamW: added to the root of the second moment


OptimizerFields = AdamW | LAMB | Muon
OPTIMIZER_KINDS: dict[str, type[OptimizerFields]] = {kind.__name__: kind for kind in (AdamW, LAMB, Muon)}
