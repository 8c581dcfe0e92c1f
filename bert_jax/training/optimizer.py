"""How weights change: the optimizers, the learning rate over time and depth, what decays and what is frozen."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import params as named
from bert_jax.config import LAMB, AdamW, BertConfig, Muon, Optimizer, OptimizerFields


def learning_rate(fields: Optimizer, steps: int) -> optax.Schedule:
    """Returns the learning rate at each step: a linear rise from 0, the peak for a while, then `fields.schedule`.

    Source: Hägele et al. 2024, arXiv:2405.18392, for a long stable phase and for the decay 1 - sqrt(t).
    """
    warmup, stable = round(fields.warmup_share * steps), round(fields.stable_share * steps)
    rest = max(steps - warmup - stable, 1)
    peak, last = fields.learning_rate, fields.final_share

    def sqrt_decay(count: jax.Array) -> jax.Array:
        return peak * (1 - (1 - last) * jnp.sqrt(jnp.minimum(count / rest, 1.0)))

    after = {
        "linear": optax.linear_schedule(peak, last * peak, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, last),
        "sqrt": sqrt_decay,
        "constant": optax.constant_schedule(peak),
    }[fields.schedule]
    rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
    if not stable:
        return optax.join_schedules([rise, after], [warmup])
    return optax.join_schedules([rise, optax.constant_schedule(peak), after], [warmup, warmup + stable])


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


def scale_by_muon(momentum: float) -> optax.GradientTransformation:
    """Averages gradients, looks one step ahead (Nesterov), and makes each matrix orthogonal.

    The parameters must all be matrices of blocks. Updates and state are those of `optax.contrib.scale_by_muon`, which
    computes one parameter after the other.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mean = optax.tree.update_moment(updates, state.mu, momentum, 1)
        next_mean = optax.tree.bias_correction(mean, momentum, count + 1)
        now = optax.tree.bias_correction(updates, momentum, count)
        ahead = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, next_mean, now)
        return orthogonal(ahead, state.ns_coeffs), state._replace(count=count, mu=mean)

    return optax.GradientTransformation(optax.contrib.scale_by_muon(beta=momentum).init, update)


def orthogonal(updates: optax.Updates, coefficients: jax.Array) -> optax.Updates:
    """Returns matrices with the singular vectors of `updates`, and singular values of about 1.

    All matrices of one shape are computed at once: a model of many layers compiles as soon as one of few.
    """

    def sides(name: str, u: jax.Array) -> tuple[list[int], list[int]]:
        """The axes in the order (number of the matrix, inputs, outputs), and how large each of the three is."""
        inputs, outputs = named.matrix_axes(name, u.ndim)
        others = [axis for axis in range(u.ndim) if axis not in (*inputs, *outputs)]
        sizes = [math.prod(u.shape[axis] for axis in axes) for axes in (others, inputs, outputs)]
        return [*others, *inputs, *outputs], sizes

    def apart(name: str, u: jax.Array) -> jax.Array:
        """The matrices of one array, [number of them, short side, long side]."""
        order, sizes = sides(name, u)
        x = u.transpose(order).reshape(sizes)
        return x if sizes[1] <= sizes[2] else x.mT

    def together(name: str, u: jax.Array, x: jax.Array) -> jax.Array:
        order, sizes = sides(name, u)
        x = x if sizes[1] <= sizes[2] else x.mT
        return x.reshape([u.shape[axis] for axis in order]).transpose(np.argsort(order))

    stacks, tree = jax.tree.flatten(named.map_named(apart, updates))
    for shape in sorted({x.shape[1:] for x in stacks}):
        same = [i for i, x in enumerate(stacks) if x.shape[1:] == shape]
        ends = np.cumsum([len(stacks[i]) for i in same])[:-1]
        changed = _newton_schulz(jnp.concatenate([stacks[i] for i in same]), coefficients)
        for i, x in zip(same, jnp.split(changed, ends), strict=True):
            stacks[i] = x
    return named.map_named(together, updates, jax.tree.unflatten(tree, stacks))


def _newton_schulz(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Returns matrices [..., short side, long side] after five steps towards orthogonal ones."""
    x /= jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8
    a, b, c = coefficients.astype(x.dtype)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x  # parentheses: a fifth less time on CPUs
    return x


def scale_to_rms(rms: float) -> optax.GradientTransformation:
    """Scales orthogonal matrices so that the root mean square of their entries is about `rms`, whatever their shape.

    Source: Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    def scaled(name, u):
        sides = [math.prod(u.shape[axis] for axis in axes) for axes in named.matrix_axes(name, u.ndim)]
        return u * (rms * max(sides) ** 0.5)

    return optax.stateless(lambda updates, params: named.map_named(scaled, updates))


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Scales the update of each matrix and embedding table to the norm of its weights; query, key and value apart.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2. As in ALBERT's code, biases and LayerNorm are not scaled.
    """

    def update(updates, state, params):
        def scaled(name, u, x):
            if not named.is_decayed(name):
                return u
            axes = tuple(range(u.ndim))
            if named.is_block_matrix(name):
                axes = tuple(axis for group in named.matrix_axes(name, u.ndim) for axis in group)
            weight, change = (jnp.sqrt(jnp.sum(jnp.square(y), axis=axes, keepdims=True)) for y in (x, u))
            ratio = jnp.where((weight > 0) & (change > 0), weight / jnp.where(change > 0, change, 1), 1)
            return u * ratio

        return named.map_named(scaled, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def update_rule(fields: OptimizerFields) -> tuple[optax.GradientTransformation, ...]:
    """Returns what makes updates of clipped gradients, before the learning rate: one branch for each optimizer."""
    decay = optax.add_decayed_weights(fields.weight_decay, decay_mask)
    match fields:
        case AdamW():
            adam = optax.scale_by_adam if fields.bias_correction else scale_by_uncorrected_adam
            return adam(fields.b1, fields.b2, fields.epsilon), decay
        case LAMB():
            return optax.scale_by_adam(fields.b1, fields.b2, fields.epsilon), decay, scale_by_trust_ratio()
        case Muon():
            muon = optax.chain(scale_by_muon(fields.momentum), scale_to_rms(fields.rms))
            adam = optax.scale_by_adam(fields.b1, fields.b2, fields.epsilon)
            return optax.partition({True: muon, False: adam}, _block_matrices), decay


def _block_matrices(params: optax.Params) -> optax.Params:
    return named.map_named(lambda name, _: named.is_block_matrix(name), params)


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
