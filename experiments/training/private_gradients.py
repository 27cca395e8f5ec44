"""The gradient of a private run: DP-SGD (arXiv 1607.00133), as arXiv 2204.13650 trains with it.

Of each example: the gradient of the mean loss over its views, scaled to a norm of at most
`clipping_norm`, then divided by it, so that adding or removing an example moves the sum by at most
1. To the sum over all examples of all devices comes noise N(0, noise_multiplier^2), once, the same
on every device because its key is; the result is divided by the expected size of a batch.

Clipping, the loop over microbatches and the noise are jax_privacy's. Ours is what is around them:
the sum over devices, a noise key for each update, and the order of the examples.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax import flatten_util, lax

from experiments.data.batch import Batch
from experiments.training import secret as secrets
from experiments.training.gradients import StepSettings, cast, make_loss
from nfnets import optim

# (params, network_state, step, secret, batch [B, ...]) -> (gradients, metrics)
PrivateGradient = Callable[[Any, Any, jax.Array, Any, Batch], tuple[Any, dict[str, jax.Array]]]


def make_private_gradient(
  network: hk.TransformedWithState, settings: StepSettings, axis: str
) -> PrivateGradient:
  """Returns the gradient function of a private run, for one device of a mapped axis.

  Its gradients and metrics are those of all devices. They do not depend on how many these are, or
  on the microbatch, up to the order of summation.

  A batch holds `views` places of an example one after the other, with the same mask. Place i of
  device a holds example i * devices + a of those drawn, from which follows the key of its dropout.

  Metrics, float32, not private: 'loss' and 'top1', means over the examples; 'clipped_examples', the
  share of examples whose gradient was longer than the clipping norm.

  Args:
    network: pure functions, of a network whose examples do not depend on one another.
    settings: with `private`.
    axis: name of the mapped axis.
  """
  private = settings.private
  clipped_sums = _make_clipped_sums(network, settings)

  def gradient(params, network_state, step, secret, batch: Batch):
    key = secrets.key(secret, 'dropout', step)
    examples = jax.tree.map(lambda x: x.reshape(-1, private.views, *x.shape[1:]), batch)
    slots = jnp.arange(len(examples.labels))
    places = slots * lax.axis_size(axis) + lax.axis_index(axis)
    of_device = clipped_sums(params, network_state, key, places, examples)
    grads, sums = lax.psum(of_device, axis)
    grads = add_noise(grads, secrets.key(secret, 'noise', step), private.noise_multiplier)
    grads = jax.tree.map(lambda g: g / private.batch_size, grads)
    if settings.frozen:
      mask = optim.frozen_mask(params, settings.frozen)
      grads = jax.tree.map(lambda g, frozen: jnp.zeros_like(g) if frozen else g, grads, mask)
    count = jnp.maximum(sums.pop('count'), 1)
    return grads, {name: value / count for name, value in sums.items()}

  return gradient


def add_noise(sums: Any, key: jax.Array, noise_multiplier: float, sensitivity: float = 1.0) -> Any:
  """Adds independent noise N(0, (noise_multiplier * sensitivity)^2) to each number of a tree.

  Args:
    sums: tree of float32 arrays.
    key: of this noise, not used for anything else.
    noise_multiplier: above 0.
    sensitivity: how far an example can move the sums, as the norm of all arrays together.
  """
  from jax_privacy import noise_addition

  stddev = noise_multiplier * sensitivity
  privatizer = noise_addition.gaussian_privatizer(stddev=stddev, prng_key=key)
  # One draw for all arrays: hundreds of small ones take minutes to compile.
  flat, unravel = flatten_util.ravel_pytree(sums)
  noisy, _ = privatizer.update(flat, privatizer.init(flat))
  return unravel(noisy)


def _make_clipped_sums(
  network: hk.TransformedWithState, settings: StepSettings
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """(params, state, key, places [n], examples [n, views, ...]) -> sums over these examples.

  Gradients, each clipped; and of the examples that are no padding, metrics and 'count'.
  """
  import jax_privacy

  private = settings.private
  loss = make_loss(network, settings)

  def of_one(params, network_state, key, place, views: Batch):
    mean, (metrics, _) = loss(params, network_state, jax.random.fold_in(key, place), views)
    return mean, metrics

  clipped = jax_privacy.clipped_grad(
    of_one,
    has_aux=True,
    batch_argnums=(3, 4),
    keep_batch_dim=False,
    l2_clip_norm=private.clipping_norm,
    rescale_to_unit_norm=True,
    pre_clipping_transform=lambda grads: cast(grads, jnp.float32),
    microbatch_size=private.microbatch,
    nan_safe=True,  # a gradient that is not finite counts as zero: whether it is must not show
    return_grad_norms=True,
  )

  def sums(params, network_state, key, places, examples: Batch):
    # A microbatch is every n-th of so many examples there. Ours are neighbours, so that the padding
    # at the end fills whole microbatches, which are then left out.
    places, examples = jax.tree.map(
      lambda x: x.reshape(-1, private.microbatch, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape),
      (places, examples),
    )
    is_padding = examples.mask[:, 0] == 0
    grads, found = clipped(
      cast(params, jnp.dtype(settings.compute_dtype)),
      network_state,
      key,
      places,
      examples,
      is_padding_example=is_padding,
    )
    values = {
      **found.aux,
      'clipped_examples': (found.grad_norms > private.clipping_norm).astype(jnp.float32),
      'count': jnp.ones(len(places), jnp.float32),
    }
    return grads, {name: jnp.sum(jnp.where(is_padding, 0, x)) for name, x in values.items()}

  return sums
