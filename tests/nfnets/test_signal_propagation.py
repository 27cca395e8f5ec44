import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import signal_propagation as sp


def test_the_two_statistics_by_hand():
  # Two channels: means 1 and -3, variances 0 and 4.
  x = jnp.stack([jnp.ones((1, 2, 2)), jnp.array([[[-1.0, -5.0], [-1.0, -5.0]]])], axis=-1)
  assert float(sp.average_squared_mean(x)) == pytest.approx((1 + 9) / 2)
  assert float(sp.average_variance(x)) == pytest.approx((0 + 4) / 2)


def test_any_network_is_measured_in_order_without_code_in_it():
  def network(x):
    x = hk.Conv2D(4, 3, name='second_by_name')(x)
    return hk.Conv2D(6, 3, name='a_last')(x)

  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params = hk.transform(network).init(jax.random.key(1), x)
  statistics, out = sp.measure(network, params, x)
  assert list(statistics) == ['second_by_name', 'a_last']
  expected = hk.transform(network).apply(params, None, x)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  got = statistics['a_last']['average_variance']
  assert float(got) == pytest.approx(np.asarray(expected).var(axis=(0, 1, 2)).mean(), rel=1e-4)


class Block(hk.Module):
  """x + factor * branch, whose parts a test can compute."""

  def __init__(self, factor, name):
    super().__init__(name=name)
    self.factor = factor

  def __call__(self, x):
    out = hk.Conv2D(4, 1, name='conv0')(x)
    attention = hk.Conv2D(4, 1, name='attention')(out.mean((1, 2), keepdims=True))
    return x + self.factor * hk.Conv2D(4, 3, name='conv1')(out) * (1 + 0 * attention)


def two_blocks(x):
  x = hk.Conv2D(4, 1, name='stem')(x)
  return Block(3.0, 'later')(Block(0.5, 'sooner')(x)).mean((1, 2))


@pytest.fixture(scope='module')
def measured():
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params = jax.jit(hk.transform(two_blocks).init)(jax.random.key(1), x)
  return sp.measure_blocks(two_blocks, params, x), params, x


def test_blocks_are_the_modules_with_convolutions_in_them(measured):
  rows, params, x = measured
  assert [row.path for row in rows] == ['sooner', 'later']
  w, b = params['stem']['w'][0, 0], params['stem']['b']
  stem = np.asarray(x) @ np.asarray(w) + np.asarray(b)
  assert rows[0].input_variance == pytest.approx(stem.var(axis=(0, 1, 2)).mean(), rel=1e-4)
  assert rows[1].input_variance == pytest.approx(rows[0].average_variance, rel=1e-5)
  assert not rows[0].changes_shape


def test_the_branch_is_what_a_block_adds(measured):
  rows, params, x = measured
  no_branch = {m: e for m, e in params.items() if not m.startswith('later')}
  later = {m: jax.tree.map(lambda v: 2 * v, e) for m, e in params.items() if m == 'later/conv1'}
  others = {m: e for m, e in params.items() if m.startswith('later') and m not in later}
  doubled = sp.measure_blocks(two_blocks, {**no_branch, **others, **later}, x)
  assert doubled[1].branch_variance == pytest.approx(4 * rows[1].branch_variance, rel=1e-4)
  assert doubled[0] == rows[0]


def test_a_network_without_blocks_has_its_convolutions_measured():
  def network(x):
    return hk.Conv2D(4, 3, name='b')(hk.Conv2D(4, 3, name='a')(x))

  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params = hk.transform(network).init(jax.random.key(1), x)
  rows = sp.measure_blocks(network, params, x)
  assert [row.path for row in rows] == ['a', 'b']
  assert rows[0].branch_variance is None  # it has another shape
  statistics, _ = sp.measure(network, params, x)
  for row in rows:
    expected = statistics[row.path]
    assert row.average_variance == pytest.approx(float(expected['average_variance']), rel=1e-4)
  with pytest.raises(ValueError, match='no convolution'):
    sp.measure_blocks(
      lambda x: hk.Linear(3)(x), {'linear': {'w': jnp.ones((3, 3)), 'b': jnp.ones(3)}}, x
    )


def test_batch_normalised_networks_have_state():
  def network(x):
    x = hk.Conv2D(4, 3, name='conv')(x)
    return hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training=hk.running_init())

  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params, state = hk.transform_with_state(network).init(jax.random.key(1), x)
  state = jax.tree.map(jnp.ones_like, state)  # mean 1, variance 1: y = x - 1
  statistics, out = sp.measure(network, params, x, state=state)
  plain = sp.measure(lambda x: hk.Conv2D(4, 3, name='conv')(x), params, x)[1]
  np.testing.assert_allclose(out, plain - 1, atol=1e-3)
  assert 'norm' in statistics
  assert sp.measure_blocks(network, params, x, state=state)[0].path == 'conv'


def row(variance, squared_mean=0.0, branch=1.0, start=1.0, scaled=False):
  return sp.BlockStatistics('m', squared_mean, variance, branch, scaled, start, False)


@pytest.mark.parametrize(
  ('rows', 'beginnings'),
  [
    ([row(1.04), row(1.08), row(1.0)], []),
    ([row(k) for k in range(2, 52)], []),  # batch normalisation: linear growth
    ([row(2.0**k) for k in range(1, 9)], ['Exploding variance']),
    ([row(0.1), row(0.01)], ['Collapsing variance']),
    ([row(1.0, 0.5), row(1.0, 1.5)], ['Mean shift']),
    ([row(1.0), row(1.0, branch=0.01)], ['Fading branches']),
    ([row(1.0), row(1.0, branch=0.01, scaled=True)], []),  # alpha 0.1
    ([row(1.0), row(float('nan')), row(float('nan'))], ['Not finite']),
    ([row(200.0, 1000.0), row(float('inf'))], ['Not finite', 'Exploding', 'Mean shift']),
  ],
)
def test_what_is_wrong_is_said(rows, beginnings):
  findings = sp.diagnose(rows)
  assert len(findings) == len(beginnings)
  assert all(f.startswith(b) for f, b in zip(findings, beginnings, strict=True))


def test_the_block_where_it_begins_is_named():
  rows = [row(10.0**k)._replace(path=f'block{k}') for k in range(1, 5)]
  (finding,) = sp.diagnose(rows)
  assert 'after block 4 of 4 (block4), on average 10 times with each block' in finding
  assert 'past 100 times the start at block 3 of 4 (block3)' in finding
