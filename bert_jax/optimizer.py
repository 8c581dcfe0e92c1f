"""How weights move: the learning rate over time, AdamW with BERT's details, and which weights decay."""

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Optimizer


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
    """True for matrices and embedding tables; False for biases and LayerNorm, which BERT does not decay."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


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


def make(fields: Optimizer, steps: int) -> optax.GradientTransformation:
    """Returns AdamW over `steps` steps: clip the global norm, Adam, decay, learning rate.

    Source: Devlin et al. 2019, appendix A.2, and Loshchilov & Hutter 2019 for the decoupled decay.
    """
    adam = optax.scale_by_adam if fields.bias_correction else scale_by_uncorrected_adam
    return optax.chain(
        optax.clip_by_global_norm(fields.max_grad_norm) if fields.max_grad_norm else optax.identity(),
        adam(fields.b1, fields.b2, fields.epsilon),
        optax.add_decayed_weights(fields.weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate(fields, steps)),
    )
