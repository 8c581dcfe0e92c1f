"""How a model is computed: number formats, kernels, memory and devices."""

from dataclasses import dataclass
from typing import Literal

from bert_jax.config.model import BertConfig
from bert_jax.config.ranges import check_ranges
from bert_jax.errors import InputError


@dataclass(frozen=True)
class Compute:
    """How a model is computed, apart from what it is; all of it may change when a run is continued."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of computation; losses are always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the stored parameters
    attention: Literal["explicit", "cudnn", "pallas"] = "explicit"  # cudnn, pallas: fused, no dropout
    remat: bool = False  # recompute each block in the backward pass: less memory, a third more operations
    sharding: Literal["auto", "pmap", "mesh", "single"] = "auto"  # auto = pmap where there are several devices
    fsdp: int = 0  # with sharding mesh: devices that parameters and optimizer state are split over; 0 = all
    microbatches: int = 1  # parts a batch is split into, one after another, to save memory

    def __post_init__(self):
        check_ranges(self, "compute.")

    def check(self, model: BertConfig) -> None:
        """Checks that the attention kernel can compute `model`.

        Raises:
          InputError: the model has attention dropout, or a head size or number format that the kernel does not take.
        """
        if self.attention != "explicit" and model.attention_dropout > 0:
            raise InputError(
                f"compute.attention: {self.attention} has no dropout; set model.attention_dropout to 0, or choose "
                "explicit"
            )
        if self.attention == "cudnn" and (self.dtype == "float32" or model.head_size % 8 or model.head_size > 128):
            raise InputError(
                "compute.attention: cudnn needs compute.dtype bfloat16 or float16 and a head size that is a multiple "
                f"of 8 and at most 128; dtype is {self.dtype} and the head size {model.head_size}; or choose explicit"
            )
