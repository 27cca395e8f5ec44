"""scripts/plot_signal.py: subjects, words, exit codes and figures, on small networks."""

import json

import numpy as np
import pytest

from nfnets import zoo
from nfnets.signal_propagation import BlockStatistics
from scripts import plot_signal, signal_networks

NETWORKS = """
import haiku as hk
import jax


class Block(hk.Module):
  def __init__(self, factor):
    super().__init__()
    self.factor = factor

  def __call__(self, x):
    out = hk.Conv2D(8, 1)(jax.nn.relu(x))
    return x + self.factor * hk.Conv2D(8, 3)(jax.nn.relu(out))


def loud(images):
  x = hk.Conv2D(8, 3)(images)
  for _ in range(4):
    x = Block(20.0)(x)
  return x.mean((1, 2))


def quiet(images):
  x = hk.Conv2D(8, 3)(images)
  for _ in range(2):
    x = Block(0.5)(x)
  return x


number = 3
"""


@pytest.fixture
def networks(tmp_path):
  path = tmp_path / 'networks.py'
  path.write_text(NETWORKS)
  return path


def test_a_functions_fault_is_said_and_drawn(networks, tmp_path, capsys):
  out = tmp_path / 'figures/loud.png'
  arguments = ['--check', '--function', f'{networks}:loud', '--size', '16', '--batch', '2']
  assert plot_signal.main([*arguments, '--out', str(out)]) == 1
  assert 'Exploding variance' in capsys.readouterr().out
  assert out.read_bytes().startswith(b'\x89PNG')
  numbers = json.loads(out.with_suffix('.json').read_text())
  assert numbers['settings'] == {'images': 'pink', 'batch': 2, 'size': 16, 'seed': 0}
  variances = numbers[f'{networks}:loud']['average_variance']
  assert len(variances) == 4
  assert variances[-1] > 100 * variances[0]


def test_weights_and_functions_without_fault(networks, weights_file, capsys):
  assert plot_signal.main(['--check', '--function', f'{networks}:quiet', '--size', '16']) == 0
  assert 'nothing wrong. 2 blocks' in capsys.readouterr().out
  plot_signal.main(['--check', '--weights', str(weights_file), '--size', '24'])
  assert '1 blocks' in (said := capsys.readouterr().out) or 'block 1 of 1' in said


def test_what_cannot_be_measured_is_one_sentence(networks, tmp_path, capsys):
  for arguments, sentence in (
    (['--model', 'F9'], 'Unknown model'),
    (['--function', 'quiet'], 'not of the form module:function'),
    (['--function', 'no.such.module:f'], 'no.such.module cannot be imported'),
    (['--function', f'{tmp_path}/none.py:f'], 'cannot be imported'),
    (['--function', f'{networks}:number'], "no function 'number'"),
    (['--weights', str(tmp_path / 'none.safetensors')], 'none.safetensors'),
    ([], '--check needs'),
  ):
    assert plot_signal.main(['--check', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith('Error: ')
    assert sentence in error
    assert error.count('\n') == 1


def test_noise():
  white, pink = (
    np.asarray(signal_networks.make_images(kind, 4, 32, 0)) for kind in ('white', 'pink')
  )
  for noise in (white, pink):
    assert noise.shape == (4, 32, 32, 3)
    assert noise.std() == pytest.approx(1, abs=0.01)
  neighbours = [np.mean(x[:, 1:] * x[:, :-1]) for x in (white, pink)]
  assert abs(neighbours[0]) < 0.05
  assert neighbours[1] > 0.4
  np.testing.assert_allclose(pink.mean((1, 2)), 0, atol=1e-6)


def row(variance):
  return BlockStatistics('b', 0.1, variance, 0.5, False, 1.0, False)


def test_the_largest_gap_is_relative():
  assert plot_signal.largest_gap([1.1, 0.2, 30], [1.0, 0.1, 29]) == (pytest.approx(1.0), 1)


def test_what_is_not_finite_is_not_drawn():
  curve = [row(1.0), row(float('inf')), row(4.0)]
  assert plot_signal._points(curve, 'average_variance') == ([1, 3], [1.0, 4.0])
  text = plot_signal.as_json({}, {'n': curve})
  assert json.loads(text)['n']['average_variance'] == [1.0, None, 4.0]


@pytest.mark.slow
def test_the_comparison_shows_what_the_paper_says(tmp_path, capsys):
  out = tmp_path / 'all.png'
  assert plot_signal.main(['--depth', 'ResNet-50', '--out', str(out), '--size', '64']) == 0
  numbers = json.loads(out.with_suffix('.json').read_text())
  last = {name: v['average_variance'][-1] for name, v in numbers.items() if name != 'settings'}
  assert last['no normalisation at all'] > 100
  assert last['normalizer-free without gamma'] < 0.01
  full = last['normalizer-free: scaled weight standardisation and gamma']
  assert full == pytest.approx(1.12, rel=0.2)
  assert last['batch normalisation'] == pytest.approx(4 * (1 - 1 / np.pi), rel=0.15)


def test_networks_for_sounds_get_noise_of_their_shape_and_two_trunks_have_no_theory():
  subject = signal_networks.of_spec('sounds', zoo.get_spec('SlowFast-NFNet-F0'))
  assert signal_networks.theory(subject) is None
  assert subject.size == (400, 128)
  images = np.asarray(signal_networks.make_images('pink', 2, (20, 16), 0, channels=1))
  assert images.shape == (2, 20, 16, 1)
  assert abs(images.std() - 1) < 1e-3
  assert (
    len(signal_networks.theory(signal_networks.of_spec('x', zoo.get_spec('NFNet-F0-fast')))) == 12
  )
