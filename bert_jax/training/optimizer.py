"""How weights change: the optimizers, the learning rate over time and depth, what decays and what is frozen."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import optax

from bert_jax import params as named
from bert_jax.config import AdamW, BertConfig, Optimizer, OptimizerFields


def learning_rate(fields: Optimizer, steps: int) -> optax.Schedule:
    """Returns the learning rate at each step: a linear rise from 0, then `fields.schedule` down to 0 at `steps`."""
    warmup = round(fields.warmup_share * steps)
    rest = max(steps - warmup, 1)
    peak = fields.learning_rate
    after = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[fields.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def decay_mask(params: optax.Params) -> optax.Params:
    """Returns which parameters decay: matrices and embedding tables, but not biases and LayerNorm."""
    return named.map_named(lambda name, _: named.is_decayed(name), params)


def scale_by_uncorrected_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam without its bias correction, as Google's BERT was trained: early steps are smaller than Adam's.

    Source: Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning", section 3.
    """

    def init(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count=state.count + 1, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def depths(params: optax.Params, config: BertConfig) -> optax.Params:
    """Returns how high in the model each parameter is, as `params.depth` counts."""
    return named.map_named(lambda name, _: named.depth(name, config), params)


def frozen(params: optax.Params, fields: Optimizer, config: BertConfig) -> optax.Params:
    """Returns which parameters are not trained: a bool for each."""
    count = fields.frozen_layers
    if fields.head_only:
        return named.map_named(lambda name, _: named.is_encoder(name), params)
    if count is None:
        return jax.tree.map(lambda _: False, params)
    return jax.tree.map(lambda depth: depth <= count, depths(params, config))


def scale_by_depth(fields: Optimizer, steps: int, config: BertConfig) -> optax.GradientTransformation:
    """Scales updates by `layer_decay` for each layer further down, and to 0 before a layer is unfrozen.

    The moments of all layers are updated from the first step on, so that no layer starts with Adam's large first steps.

    Source: Howard & Ruder 2018, "Universal language model fine-tuning", sections 3.2 and 3.3.
    """
    above = config.num_layers + 1

    def update(updates, state, params=None):
        def scaled(u, depth):
            unfrozen = state.count >= round((above - depth) * fields.unfreeze_share * steps)
            return u * (fields.layer_decay ** (above - depth) * unfrozen.astype(jnp.float32)).astype(u.dtype)

        updates = jax.tree.map(scaled, updates, depths(updates, config))
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update)


def update_rule(fields: OptimizerFields) -> tuple[optax.GradientTransformation, ...]:
    """Returns what makes updates of clipped gradients, before the learning rate: one branch for each optimizer."""
    decay = optax.add_decayed_weights(fields.weight_decay, decay_mask)
    match fields:
        case AdamW():
            adam = optax.scale_by_adam if fields.bias_correction else scale_by_uncorrected_adam
            return adam(fields.b1, fields.b2, fields.epsilon), decay


@lru_cache  # so that states of equal experiments have equal optimizers, and share what was compiled for one
def make(fields: OptimizerFields, steps: int, config: BertConfig | None = None) -> optax.GradientTransformation:
    """Returns the optimizer for `steps` steps: clip the global norm, update rule and decay, depth, learning rate.

    Frozen parameters have no moments and do not count in the norm.

    Args:
      config: the model's; needed if `fields` treat its layers differently.

    Source: Devlin et al. 2019, appendix A.2.
    """
    depth = optax.identity()
    if fields.layer_decay != 1 or fields.unfreeze_share > 0:
        assert config is not None
        depth = scale_by_depth(fields, steps, config)
    chain = optax.chain(
        optax.clip_by_global_norm(fields.max_grad_norm) if fields.max_grad_norm else optax.identity(),
        *update_rule(fields),
        depth,
        optax.scale_by_learning_rate(learning_rate(fields, steps)),
    )
    if fields.frozen_layers is None and not fields.head_only:
        return chain
    assert config is not None
    return optax.partition({False: chain, True: optax.set_to_zero()}, lambda params: frozen(params, fields, config))
