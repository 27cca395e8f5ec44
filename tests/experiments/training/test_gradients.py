"""One device's gradient: SAM by hand, its share of the batch, slices, frozen parameters."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from experiments.data import Batch, ImageLayout
from experiments.data.augment import mixing
from experiments.training import gradients
from nfnets import execution, optim


def linear(images, is_training):
  return {'logits': hk.Linear(3, name='linear')(images)}


NETWORK = hk.transform_with_state(linear)
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def problem():
  """Parameters and a batch of 10 examples, mixed and not."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(10, 4)).astype(np.float32)
  labels = rng.integers(0, 3, 10)
  ratio = np.ones(10, np.float32)
  batch = Batch(*map(jnp.asarray, (images, labels, labels[::-1].copy(), ratio, ratio)))
  params, _ = NETWORK.init(KEY, images, True)
  return jax.tree.map(lambda x: x + 0.1, params), batch


def gradient(params, batch, **settings):
  settings = gradients.StepSettings(schedule=lambda step: 0.1, label_smoothing=0.0, **settings)
  grads, (metrics, _) = gradients.make_gradient(NETWORK, settings)(params, {}, KEY, batch)
  return grads['linear']['w'], metrics


def by_hand(w, b, batch):
  """Mean softmax cross-entropy of a linear layer: its gradient in w and b."""
  x, y = np.asarray(batch.images, np.float64), np.eye(3)[np.asarray(batch.labels)]
  logits = x @ w + b
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  return x.T @ (p - y) / len(x), (p - y).mean(0), -np.log((p * y).sum(1)).mean()


@pytest.mark.parametrize(('share', 'rows'), [(1.0, slice(None)), (0.2, [0, 5])])
def test_sam_is_the_gradient_after_a_step_along_the_gradient(problem, share, rows):
  params, batch = problem
  w, b = (np.asarray(params['linear'][name], np.float64) for name in 'wb')
  gw, gb, ascent_loss = by_hand(w, b, jax.tree.map(lambda x: x[np.arange(10)[rows]], batch))
  norm = np.sqrt((gw**2).sum() + (gb**2).sum())
  want, _, loss = by_hand(w + 0.05 * gw / norm, b + 0.05 * gb / norm, batch)
  got, metrics = gradient(params, batch, sam_rho=0.05, sam_ascent_share=share)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics['ascent_loss'], ascent_loss, rtol=1e-5)
  plain, _ = gradient(params, batch)
  assert np.abs(got - plain).max() > 1e-3


def test_one_ascent_serves_all_slices_of_an_accumulated_batch(problem):
  params, batch = problem
  for share in (1.0, 0.2):
    whole, _ = gradient(params, batch, sam_rho=0.05, sam_ascent_share=share)
    slices, metrics = gradient(
      params, batch, sam_rho=0.05, sam_ascent_share=share, accumulation_steps=2
    )
    np.testing.assert_allclose(slices, whole, rtol=1e-5, atol=1e-7)
    assert metrics['ascent_loss'].dtype == jnp.float32


def test_sam_in_half_precision_keeps_float32_gradients(problem):
  params, batch = problem
  exact, _ = gradient(params, batch, sam_rho=0.05)
  half, _ = gradient(params, batch, sam_rho=0.05, compute_dtype='bfloat16')
  assert half.dtype == jnp.float32
  difference = np.abs(half - exact).max()
  assert 0 < difference < 0.05 * np.abs(exact).max()


def test_the_share_is_spread_over_the_batch_and_has_an_example_of_every_slice(problem):
  _, batch = problem
  batch = batch._replace(labels=jnp.arange(10))
  for share, slices, want in (
    (0.2, 1, [0, 5]),
    (0.01, 1, [0]),
    (0.01, 5, [0, 3, 4, 7, 8]),  # of even and odd places, which are mixed differently
    (1.0, 2, list(range(10))),
  ):
    got = gradients.spread_share(batch, share, slices)
    assert got.labels.tolist() == want
    assert len(got.images) == len(want)


@pytest.mark.parametrize('share', [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 8, 0.3, 0.7])
@pytest.mark.parametrize(
  ('size', 'num_slices'), [(16, 1), (16, 2), (16, 8), (24, 1), (24, 4), (64, 1), (64, 8)]
)
def test_the_share_has_as_many_mixed_up_examples_as_cut_ones(size, num_slices, share):
  kinds = np.array([mixing.kind_of('mixup_cutmix', place) == 'cutmix' for place in range(size)])
  places = np.arange(size)
  batch = Batch(places, places, places, places, places)
  chosen = np.asarray(gradients.spread_share(batch, share, num_slices).labels)
  assert len(set(chosen.tolist())) == len(chosen)
  assert abs(len(chosen) - max(share * size, num_slices)) <= num_slices / 2
  cut = int(kinds[chosen].sum())
  assert abs(2 * cut - len(chosen)) <= len(chosen) % 2
  # Spread: no part of the batch is left out.
  assert max(np.diff(np.sort(chosen)), default=0) <= -(-size // len(chosen)) + 2


def test_a_label_is_not_right_beside_a_logit_that_is_not_a_number():
  nan, inf = np.nan, np.inf
  logits = jnp.array([[1, 2, nan], [1, 2, -inf], [1, 2, inf], [nan, nan, nan], [0, 2, 1]])
  labels = jnp.array([1, 1, 1, 0, 1])
  assert gradients.in_top(logits, labels, 1).tolist() == [0, 1, 0, 0, 1]
  assert gradients.in_top(logits, labels, 5).tolist() == [0, 1, 1, 0, 1]


def test_frozen_parameters_have_no_gradient_and_sam_leaves_them_where_they_are(problem):
  params, batch = problem
  settings = gradients.StepSettings(
    schedule=lambda step: 0.1, sam_rho=0.05, frozen=('linear/b',), label_smoothing=0.0
  )
  perturbed, _ = gradients.make_ascent(NETWORK, settings)(params, {}, KEY, batch)
  np.testing.assert_array_equal(perturbed['linear']['b'], params['linear']['b'])
  moved = np.linalg.norm(perturbed['linear']['w'] - params['linear']['w'])
  np.testing.assert_allclose(moved, 0.05, rtol=1e-4)
  grads, _ = gradients.make_gradient(NETWORK, settings)(params, {}, KEY, batch)
  assert not np.any(grads['linear']['b'])
  assert optim.frozen_mask(params, settings.frozen)['linear'] == {'b': True, 'w': False}


def test_rematerialized_stages_change_no_gradient():
  spec = nfnets.ModelSpec(
    width=(16, 16), depth=(2, 1), stride=(1, 2), group_width=8, drop_rate=0.5, stochdepth_rate=0.5
  )
  network = hk.transform_with_state(
    lambda images, is_training: nfnets.NFNet(3, spec)(images, is_training)
  )
  rng = np.random.default_rng(0)
  images = rng.standard_normal((4, 16, 16, 3)).astype(np.float32)
  labels = np.array([0, 1, 2, 0], np.int32)
  batch = Batch(images, labels, labels, np.ones(4, np.float32), np.ones(4, np.float32))
  params, state = network.init(jax.random.key(0), images, is_training=True)
  params = jax.tree.map(lambda x: x + 0.1, params)  # skip gains too

  def run(**fields):
    settings = gradients.StepSettings(schedule=lambda step: 0.1, **fields)
    gradient = gradients.make_gradient(network, settings)
    with execution.strategy('plain'):  # for a CPU activations are computed again as well
      text = str(jax.make_jaxpr(gradient)(params, state, jax.random.key(1), batch))
    return jax.jit(gradient)(params, state, jax.random.key(1), batch)[0], text

  plain, plain_text = run()
  remat, remat_text = run(remat=(0,))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
  assert 'prevent_cse' not in plain_text  # a parameter of JAX's checkpoint
  assert remat_text.count('prevent_cse') >= 2  # two blocks


@pytest.mark.parametrize(('packing', 'dtype'), [('on', 'bfloat16'), ('off', 'float32')])
def test_images_that_the_host_packed_change_no_gradient(packing, dtype):
  spec = nfnets.ModelSpec(width=(16,), depth=(1,), stride=(1,), group_width=8)
  network = hk.transform_with_state(
    lambda images, is_training: nfnets.NFNet(3, spec)(images, is_training)
  )
  images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
  labels = np.array([0, 1, 2, 0], np.int32)
  batch = Batch(images, labels, labels, np.ones(4, np.float32), np.ones(4, np.float32))
  params, state = network.init(jax.random.key(0), images, is_training=True)
  layout = ImageLayout(4, dtype)
  packed = layout.empty(4, 16)
  assert packed.shape == (4, 4, 4, 48)
  for image, out in zip(images, packed, strict=True):
    layout.store(image, out)

  def run(batch, **fields):
    settings = gradients.StepSettings(
      schedule=lambda step: 0.1, compute_dtype=dtype, accumulation_steps=2,
      stem_space_to_depth=packing, **fields,
    )  # fmt: skip
    gradient = gradients.make_gradient(network, settings)
    return jax.jit(gradient)(params, state, jax.random.key(1), batch)[0]

  jax.tree.map(
    np.testing.assert_array_equal,
    run(batch._replace(images=packed), layout=layout),
    run(batch),
  )


def test_bytes_give_the_gradient_of_the_pictures_that_the_host_normalised():
  def logits(images, is_training):
    out = hk.Linear(3)(hk.Flatten()(hk.Conv2D(8, 3, stride=2)(images)))
    return {'pool': out, 'logits': out}

  network = hk.transform_with_state(logits)
  pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
  labels = np.array([0, 1, 2, 0], np.int32)
  layout = ImageLayout(1, 'uint8', mean=(0.1, 0.2, 0.3), stddev=(0.4, 0.5, 0.7))
  normalised = nfnets.images.normalize(pixels, mean=layout.mean, stddev=layout.stddev)
  batch = Batch(normalised, labels, labels, np.ones(4, np.float32), np.ones(4, np.float32))
  params, state = network.init(jax.random.key(0), normalised, is_training=True)

  def run(batch, **fields):
    settings = gradients.StepSettings(schedule=lambda step: 0.1, sam_rho=0.05, **fields)
    gradient = gradients.make_gradient(network, settings)
    return jax.jit(gradient)(params, state, jax.random.key(1), batch)

  jax.tree.map(
    np.testing.assert_array_equal, run(batch._replace(images=pixels), layout=layout), run(batch)
  )
