import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import activations
from nfnets.execution import context, convolution, convolve, strategy


def reference(x, w, stride, rate, groups):
  """SAME convolution in float64, a loop over kernel taps."""
  n, height, width, _ = x.shape
  kh, kw, _, out_channels = w.shape
  out_h, out_w = -(-height // stride), -(-width // stride)
  pads = []
  for size, out, k in ((height, out_h, kh), (width, out_w, kw)):
    total = max((out - 1) * stride + (k - 1) * rate + 1 - size, 0)
    pads.append((total // 2, total - total // 2))
  x = np.pad(x, ((0, 0), *pads, (0, 0)))
  y = np.zeros((n, out_h, out_w, out_channels))
  for group_x, group_w, group_y in zip(
    np.split(x, groups, -1), np.split(w, groups, -1), np.split(y, groups, -1), strict=True
  ):
    for i in range(kh):
      for j in range(kw):
        rows = slice(i * rate, i * rate + (out_h - 1) * stride + 1, stride)
        columns = slice(j * rate, j * rate + (out_w - 1) * stride + 1, stride)
        group_y += group_x[:, rows, columns] @ group_w[i, j]
  return y


@pytest.fixture
def wide_from_one(monkeypatch):
  """Groups of any width go along an axis: small ones are quicker to test."""
  monkeypatch.setattr(convolution, '_WIDE', 1)


@pytest.mark.parametrize('convolutions', ['plain', 'cpu', 'tpu'])
@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'rate', 'groups'),
  [
    (8, 3, 1, 1, 1),
    (9, 3, 2, 1, 3),
    (7, 1, 1, 1, 2),
    (10, 3, 1, 2, 6),
    (11, 7, 2, 1, 1),
    (8, 1, 1, 1, 1),
    (9, 1, 2, 1, 1),
  ],
)
def test_equals_a_loop_over_taps(convolutions, size, kernel, stride, rate, groups):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, size, size + 1, 12))
  w = rng.standard_normal((kernel, kernel, 12 // groups, 18))
  with strategy(convolutions):
    y = convolve(jnp.float32(x), jnp.float32(w), stride=stride, rate=rate, groups=groups)
  np.testing.assert_allclose(y, reference(x, w, stride, rate, groups), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_do_not_depend_on_the_strategy(stride):
  rng = np.random.default_rng(1)
  x = jnp.float32(rng.standard_normal((2, 9, 9, 16)))
  w = jnp.float32(rng.standard_normal((3, 3, 4, 32)))

  def gradients(convolutions):
    def loss(x, w):
      return jnp.sum(jnp.sin(convolve(x, w, stride=stride, groups=4)))

    with strategy(convolutions):
      return jax.grad(loss, (0, 1))(x, w)

  for cpu, plain in zip(gradients('cpu'), gradients('plain'), strict=True):
    np.testing.assert_allclose(cpu, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('kernel', 'stride', 'rate'), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1)]
)
def test_depthwise_equals_a_loop_over_taps_and_has_its_gradients(kernel, stride, rate):
  rng = np.random.default_rng(2)
  x = rng.standard_normal((2, 9, 10, 6))
  w = rng.standard_normal((kernel, kernel, 1, 6))

  def outcome(convolutions):
    def loss(x, w):
      y = convolve(x, w, stride=stride, rate=rate, groups=6)
      return jnp.sum(jnp.sin(y)), y

    with strategy(convolutions):
      gradients, y = jax.grad(loss, (0, 1), has_aux=True)(jnp.float32(x), jnp.float32(w))
    return (y, *gradients)

  cpu, plain = outcome('cpu'), outcome('plain')
  np.testing.assert_allclose(cpu[0], reference(x, w, stride, rate, 6), rtol=1e-4, atol=1e-4)
  for a, b in zip(cpu, plain, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('padding', ['VALID', ((1, 0), (2, 3))])
def test_depthwise_pads_as_the_plain_convolution(padding):
  x = jax.random.normal(jax.random.key(0), (1, 7, 8, 4))
  w = jax.random.normal(jax.random.key(1), (3, 3, 1, 4))
  outputs = []
  for convolutions in ('cpu', 'plain'):
    with strategy(convolutions):
      outputs.append(convolve(x, w, stride=2, padding=padding, groups=4))
  np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'rate', 'groups'),
  [(8, 3, 1, 1, 2), (9, 3, 2, 1, 3), (7, 1, 1, 1, 2), (10, 3, 1, 2, 6), (8, 3, 2, 1, 12)],
)
def test_groups_along_an_axis_equal_a_loop_over_taps(
  wide_from_one, size, kernel, stride, rate, groups
):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, size, size + 1, 12))
  w = rng.standard_normal((kernel, kernel, 12 // groups, 24))
  with strategy('tpu'):
    y = convolve(jnp.float32(x), jnp.float32(w), stride=stride, rate=rate, groups=groups)
  np.testing.assert_allclose(y, reference(x, w, stride, rate, groups), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('padding', ['VALID', ((1, 0), (2, 3))])
@pytest.mark.parametrize('num_spatial_dims', [1, 2])
def test_groups_along_an_axis_have_both_modes_of_differentiation(
  wide_from_one, padding, num_spatial_dims
):
  rng = np.random.default_rng(1)
  shape = (7, 8)[:num_spatial_dims]
  padding = padding if isinstance(padding, str) else padding[:num_spatial_dims]
  x = jnp.float32(rng.standard_normal((2, *shape, 6)))
  w = jnp.float32(rng.standard_normal((*(3,) * num_spatial_dims, 2, 9)))

  def outcome(convolutions):
    def loss(x, w):
      return jnp.sum(jnp.sin(convolve(x, w, stride=2, padding=padding, groups=3)))

    with strategy(convolutions):
      forward = jax.jvp(loss, (x, w), (jnp.cos(x), jnp.cos(w)))
      second = jax.grad(lambda x: jnp.sum(jax.grad(loss)(x, w) ** 2))(x)
      return (*jax.grad(loss, (0, 1))(x, w), *forward, second)

  for ours, plain in zip(outcome('tpu'), outcome('plain'), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('width', 'num_spatial_dims', 'is_rewritten'), [(64, 2, True), (32, 2, False), (64, 3, False)]
)
def test_only_wide_groups_of_maps_go_along_an_axis(width, num_spatial_dims, is_rewritten):
  x = jnp.ones((1, *(4,) * num_spatial_dims, 2 * width))
  w = jnp.ones((*(3,) * num_spatial_dims, width, 2 * width))
  with strategy('tpu'):
    text = jax.jit(lambda x, w: convolve(x, w, groups=2)).lower(x, w).as_text()
  assert ('feature_group_count = 2' in text) != is_rewritten


@pytest.mark.parametrize(
  ('convolutions', 'groups', 'activation', 'seen'),
  [
    ('tpu', 3, 'gelu', (1, 2, 2, 3, 64)),
    ('tpu', 1, 'gelu', (1, 2, 2, 192)),
    ('tpu', 6, 'gelu', (1, 2, 2, 192)),  # groups of 32 channels are too narrow
    ('plain', 3, 'gelu', (1, 2, 2, 192)),
    ('tpu', 3, 'log_softmax', (1, 2, 2, 192)),  # over all channels, whatever their groups
  ],
)
def test_an_elementwise_function_before_a_convolution_sees_its_groups_on_a_tpu(
  monkeypatch, convolutions, groups, activation, seen
):
  shapes = []

  def function(x):
    shapes.append(x.shape)
    return activations.get(activation).function(x)

  before = activations.Scaled(activations.get(activation)._replace(function=function))
  x, w = jnp.ones((1, 2, 2, 192)), jnp.ones((1, 1, 192 // groups, 6))
  with strategy(convolutions):
    convolve(x, w, before=before, groups=groups)
  assert shapes == [seen]


def test_auto_is_written_for_the_backend_and_plain_for_a_gpu(monkeypatch):
  found = []
  for backend in ('cpu', 'tpu', 'gpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
    found.append(context.written_for())
  assert found == ['cpu', 'tpu', 'plain']


def test_cpu_leaves_no_grouped_convolution_and_plain_leaves_one():
  x, w = jnp.ones((1, 8, 8, 12)), jnp.ones((3, 3, 4, 12))

  def lowered(convolutions):
    with strategy(convolutions):
      return jax.jit(lambda x, w: convolve(x, w, groups=3)).lower(x, w).as_text()

  assert 'feature_group_count = 3' in lowered('plain')
  assert 'feature_group_count = 3' not in lowered('cpu')


@pytest.mark.parametrize(
  ('groups', 'width', 'convolutions'), [(9, 8, 3), (5, 12, 3), (2, 32, 2), (3, 64, 3)]
)
def test_narrow_groups_are_convolved_together(groups, width, convolutions):
  rng = np.random.default_rng(3)
  x = jnp.float32(rng.standard_normal((2, 5, 5, groups * width)))
  w = jnp.float32(rng.standard_normal((3, 3, width, groups * 2 * width)))

  def outcome(convolutions):
    def loss(x, w):
      y = convolve(x, w, stride=2, groups=groups)
      return jnp.sum(jnp.sin(0.1 * y)), y

    with strategy(convolutions):
      text = jax.jit(loss).lower(x, w).as_text()
      gradients, y = jax.grad(loss, (0, 1), has_aux=True)(x, w)
    return text, (y, *gradients)

  text, cpu = outcome('cpu')
  assert text.count('stablehlo.convolution') == convolutions
  for a, b in zip(cpu, outcome('plain')[1], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('kernel', 'stride', 'groups'),
  [(1, 1, 1), (1, 2, 1), (3, 1, 4), (3, 2, 1), (3, 2, 2)],
)
@pytest.mark.parametrize('convolutions', ['cpu', 'tpu'])
def test_gradients_against_differences_in_float64(
  wide_from_one, convolutions, kernel, stride, groups
):
  rng = np.random.default_rng(4)
  x = rng.standard_normal((2, 6, 7, 8))
  w = rng.standard_normal((kernel, kernel, 8 // groups, 12))
  dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)

  def loss(x, w):
    y = np.sin(reference(x, w, stride, 1, groups))
    return y.sum()

  step = 1e-5  # central differences of the loop over taps: an error of about 1e-9
  expected = (loss(x + step * dx, w + step * dw) - loss(x - step * dx, w - step * dw)) / (2 * step)
  with jax.enable_x64(True), strategy(convolutions):

    def ours(x, w):
      return jnp.sum(jnp.sin(convolve(x, w, stride=stride, groups=groups)))

    gradients = jax.grad(ours, (0, 1))(jnp.asarray(x), jnp.asarray(w))
    slope = jnp.sum(gradients[0] * dx) + jnp.sum(gradients[1] * dw)
  np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_a_padded_1x1_convolution():
  x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((1, 1, 3, 2))
  with strategy('cpu'):
    y = convolve(x, w, padding=((1, 1), (0, 2)))
  assert y.shape == (1, 6, 6, 2)
  assert float(jnp.sum(y)) == 16 * 3 * 2


def test_dtypes_are_those_of_the_weights():
  x, w = jnp.ones((1, 4, 4, 3), jnp.float32), jnp.ones((3, 3, 3, 2), jnp.bfloat16)
  assert convolve(x, w, jnp.zeros(2, jnp.bfloat16)).dtype == jnp.bfloat16
  assert convolve(x.astype(jnp.bfloat16), w.astype(jnp.float32)).dtype == jnp.float32
