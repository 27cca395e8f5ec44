"""Which network labels, and how one takes the place of another."""

import threading
import time

import numpy as np
import pytest

from nfnets import classifier as classifiers
from nfnets.demo import models


class Network:
  """Stands for a classifier: labels everything with its name, `wait` before it does."""

  num_classes, size = 3, 24

  def __init__(self, name, wait=None):
    self.name = name
    self.wait = wait

  def __call__(self, picture, top=5):
    if self.wait and isinstance(picture, np.ndarray):  # what it is compiled with
      assert self.wait.wait(10)
    return [classifiers.Prediction(self.name, 1.0, 0)]


def test_names_tell_files_apart():
  names = ['F0', 'runs/a/ema_weights.safetensors', '/runs/b/ema_weights.safetensors', 'c.npz']
  assert models.display_names(names) == ['F0', 'a/ema_weights', 'b/ema_weights', 'c.npz']
  same = ['x/a/ema.safetensors', 'y/a/ema.safetensors']
  assert models.display_names(same) == same


def test_sentences():
  assert models.sentence(ValueError('the file\n is bad')) == 'The file is bad.'
  assert models.sentence(ValueError('Bad.')) == 'Bad.'
  assert models.sentence(KeyError()) == 'KeyError.'


def test_the_old_network_labels_until_the_new_one_is_compiled():
  go = threading.Event()
  offered = models.Models(['a', 'b'], lambda name: Network(name, go if name == 'b' else None))
  offered.load(0)
  assert offered.describe()['loading'] is None
  thread = offered.start_loading(1)
  assert offered.describe()['loading']['step'] in ('fetching the weights', 'compiling')
  assert offered.label(b'').predictions[0].label == 'a'
  with pytest.raises(RuntimeError, match='b is being loaded'):
    offered.start_loading(0)
  while offered.describe()['loading']['step'] != 'compiling':
    time.sleep(0.01)
  assert offered.describe()['loading']['number'] == 1
  assert offered.describe()['current'] == 0
  go.set()
  thread.join(10)
  assert (offered.describe()['current'], offered.describe()['loading']) == (1, None)
  answer = offered.label(b'')
  assert (answer.number, answer.predictions[0].label) == (1, 'b')


@pytest.mark.parametrize(
  ('error', 'logged'),
  [(ValueError('no such\nfile'), False), (OSError('gone'), False), (KeyError('w'), True)],
)
def test_a_network_that_cannot_be_loaded_leaves_the_old_one(error, logged, caplog):
  def make(name):
    if name == 'b':
      raise error
    return Network(name)

  offered = models.Models(['a', 'b'], make)
  offered.load(0)
  offered.start_loading(1).join(10)
  state = offered.describe()
  assert state['problem'] == f'b could not be loaded: {models.sentence(error)}'
  assert (state['current'], state['loading']) == (0, None)
  assert bool(caplog.records) == logged
  assert offered.label(b'').predictions[0].label == 'a'
  offered.start_loading(0).join(10)
  assert offered.describe()['problem'] is None


def test_the_first_network_must_load():
  def make(name):
    raise ValueError('damaged')

  offered = models.Models(['a'], make)
  with pytest.raises(ValueError, match='damaged'):
    offered.load(0)
  offered.start_loading(0).join(10)  # it does not think that one is on its way


def test_one_picture_at_a_time():
  running, most = [], []

  class Slow(Network):
    def __call__(self, picture, top=5):
      running.append(1)
      most.append(len(running))
      time.sleep(0.02)
      running.pop()
      return []

  offered = models.Models(['a'], Slow)
  offered.load(0)
  threads = [threading.Thread(target=offered.label, args=(b'',)) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(10)
  assert most == [1] * 5  # one of them is the compilation
