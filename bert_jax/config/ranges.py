"""Which values the fields of a config, or a flag, may have: ranges of numbers, and lists of choices."""

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any

from bert_jax.errors import InputError

_AT_LEAST_1 = (
    "batch_size seeds keep_checkpoints max_skipped microbatches limit eval_limit unlabelled_limit eval_sequences "
    "max_ngram n_best max_answer_length max_question_length stride hidden_size num_layers num_heads intermediate_size "
    "embedding_size max_position_embeddings vocab_multiple global_every position_parts dimensions"
)
_AT_LEAST_0 = (
    "steps epochs minutes eval_batch_size log_every eval_every checkpoint_every patience reinit_layers fsdp "
    "frozen_layers overlap vocab_size learning_rate weight_decay max_grad_norm weights class_weights "
    "initializer_range type_vocab_size local_attention first_position generator_weight discriminator_weight "
    "teacher_weight mlm_weight cosine_weight score_weight"
)
_SHARES = (
    "warmup_share stable_share final_share unfreeze_share held_out short_sequences mask_rate last_mask_rate "
    "mask_token_share random_token_share hard_weight threshold label_shares "
    "generator_share"
)
_BELOW_1 = "b1 b2 momentum hidden_dropout attention_dropout classifier_dropout"
_ABOVE_0 = "temperature rms layer_decay epsilon layer_norm_epsilon rotary_theta local_rotary_theta"


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers between two bounds."""

    least: float = 0.0
    most: float = math.inf  # never allowed itself if it is infinite
    above: bool = False  # least itself is not allowed
    below: bool = False  # most itself is not allowed

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"{'above' if self.above else 'at least'} {self.least:.10g}"
        if self.above:
            return f"above {self.least:.10g} and at most {self.most:.10g}"
        if self.below:
            return f"at least {self.least:.10g} and below {self.most:.10g}"
        return f"between {self.least:.10g} and {self.most:.10g}"


COUNT, SHARE = Range(1), Range(0, 1)
POSITIVE = Range(above=True)
RANGES: dict[str, Range] = {
    **dict.fromkeys(_AT_LEAST_1.split(), COUNT),
    **dict.fromkeys(_AT_LEAST_0.split(), Range()),
    **dict.fromkeys(_SHARES.split(), SHARE),
    **dict.fromkeys(_BELOW_1.split(), Range(0, 1, below=True)),
    **dict.fromkeys(_ABOVE_0.split(), POSITIVE),
    "seed": Range(0, 2**31 - 1),  # of 32 bits, as JAX's keys are
    "max_length": Range(3),  # a token between [CLS] and [SEP]
    "sequence_length": Range(3),
}


def check_ranges(config: Any, prefix: str) -> None:
    """Checks every number of a config, the numbers of a tuple, and every field with a list of choices.

    None is allowed where the field allows it.

    Args:
      prefix: what comes before a field's name in its flag, such as "task.".

    Raises:
      InputError: a number is out of its range, or a value is not one of the choices.
    """
    choices = _choices(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in choices and value is not None and value not in choices[field.name]:
            allowed = ", ".join(map(str, choices[field.name]))
            raise InputError(f"{prefix}{field.name}: must be one of {allowed}, got {value!r}")
        if field.name in RANGES:
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None:
                    check_range(prefix + field.name, number, RANGES[field.name])


def check_schedule(name: str, schedule: Sequence[tuple[float, int]]) -> None:
    """Checks (share of the steps, value) in turn; an empty schedule is fine.

    Raises:
      InputError: a share is not above 0, a value is below 1, or the shares do not add up to 1.
    """
    for share, value in schedule:
        check_range(f"{name}, a share", share, Range(0, 1, above=True))
        check_range(f"{name}, a value", value, COUNT)
    if schedule and abs(sum(share for share, _ in schedule) - 1) > 1e-6:
        raise InputError(f"{name}: the shares of the steps must add up to 1")


def _choices(kind: type) -> dict[str, tuple[Any, ...]]:
    """Returns the choices of each field that is a Literal, or a Literal or None."""
    literals = {}
    for name, hint in typing.get_type_hints(kind).items():
        for part in (hint, *typing.get_args(hint)):
            if typing.get_origin(part) is typing.Literal:
                literals[name] = typing.get_args(part)
    return literals


def check_range(name: str, value: Any, allowed: Range) -> None:
    """Raises InputError, with the name and the range, if `value` is not in the range `allowed`."""
    if value not in allowed:
        raise InputError(f"{name}: must be {allowed}, got {value}")
