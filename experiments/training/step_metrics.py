"""What a train step reports beside its loss: clipped shares and norms, by group and by stage."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.gradients import StepSettings
from experiments.training.update_sharding import UpdateSharding
from nfnets import optim


def clipped_shares(
  grads: Any, params: Any, settings: StepSettings, sharding: UpdateSharding
) -> dict[str, jax.Array]:
  """The share of units over the clipping limit, of those that are clipped and not frozen.

  Args:
    grads: those of the parameters that this device owns.
    params: the same parameters.
    settings: of the clipping.
    sharding: which parameters those are.

  Returns:
    'clipped_share/<parameter group>' and, if `settings.stage_depths` says where the stages are,
    'clipped_share/<stage>' ('stem', 'stage_1', ..., 'head'): float32 scalars in 0..1.
  """
  counts = optim.clipped_share(grads, params, settings.clipping, settings.clipping_eps)
  clipped = sharding.total(jnp.array(jax.tree.leaves(counts.clipped)))
  units = jnp.array(jax.tree.leaves(sharding.whole_units(counts.units)))
  counted = jax.tree.leaves(_counted(params, settings.frozen))
  labels = [optim.assign(params)]
  if settings.stage_depths is not None:
    labels.append(stages(params, settings.stage_depths))
  shares = {}
  for tree in labels:
    places = [x if keep else '' for x, keep in zip(jax.tree.leaves(tree), counted, strict=True)]
    over, all_ = _sums(clipped, places), _sums(units, places)
    shares |= {
      f'clipped_share/{place}': (over[place] / all_[place]).astype(jnp.float32)
      for place in over
      if place
    }
  return shares


def global_norm(tree: Any, sharding: UpdateSharding) -> jax.Array:
  """The norm of all arrays together, a float32 scalar, of those that the devices own."""
  return jnp.sqrt(jnp.sum(sharding.total(_squares(tree))))


def weight_norms(params: Any, sharding: UpdateSharding) -> dict[str, jax.Array]:
  """'weight_norm/<parameter group>': the norm of all its parameters together, float32 scalars."""
  sums = _sums(sharding.total(_squares(params)), jax.tree.leaves(optim.assign(params)))
  return {f'weight_norm/{group}': jnp.sqrt(value) for group, value in sums.items()}


def _squares(tree: Any) -> jax.Array:
  """The squared norm of each array [number of arrays], by way of the sums of the clipping."""
  return jnp.stack([jnp.sum(optim.units.squares(x)) for x in jax.tree.leaves(tree)])


def _sums(values: jax.Array, places: list[str]) -> dict[str, jax.Array]:
  """Sums the numbers [n] of each place: few operations for hundreds of numbers."""
  names = list(dict.fromkeys(places))
  members = np.array([[place == name for place in places] for name in names])
  sums = jnp.sum(jnp.where(members, values, 0), axis=1)
  return {name: sums[i] for i, name in enumerate(names)}


def stages(params: Any, depths: tuple[int, ...]) -> Any:
  """A tree like params with the name of its stage at each leaf."""
  return {
    module: dict.fromkeys(entries, optim.stage_of(module, depths))
    for module, entries in params.items()
  }


def _counted(params: Any, frozen: tuple[str, ...]) -> Any:
  """A tree of bools: True for what is clipped and not frozen."""
  mask = optim.frozen_mask(params, frozen)
  return jax.tree.map(lambda clip, still: clip and not still, optim.clip_mask(params), mask)
