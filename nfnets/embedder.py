"""From sounds to embeddings, by a network for sounds and its weights."""

import os
from collections.abc import Mapping
from typing import Any, Self

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets import audio, weights, zoo
from nfnets.audio import SoundPreprocessing

_BATCH = 4  # excerpts at a time


class Embedder:
  """A network for sounds with all that it takes to embed them.

      embedder = nfnets.Embedder.from_pretrained('runs/sounds')
      vector = embedder(nfnets.sound_files.read('bell.wav', seconds=60).wave)

  The vector is the mean over excerpts that cover the sound, of the features before the classifier:
  3,456 numbers of a `SlowFast-NFNet-F0`.

  Attributes:
    spec: the network.
    preprocessing: how sounds are prepared for it.
    name: of the weights.
  """

  def __init__(
    self,
    params: Mapping[str, Mapping[str, Any]],
    spec: zoo.AnySpec,
    *,
    preprocessing: SoundPreprocessing | None = None,
    name: str = '',
  ):
    """Checks the parameters; the network is compiled at first use.

    Args:
      params: module path -> name -> array; a classifier is left out.
      spec: the network, of one channel.
      preprocessing: how sounds are prepared for it; None: at the spec's test size.
      name: of the weights.

    Raises:
      ValueError: the network is not for sounds, or the parameters are not its own.
    """
    *size, channels = zoo.input_shape(spec)
    if channels != 1:
      raise ValueError(
        f'this network takes images of {channels} channels, and spectrograms have one: use weights '
        'that were trained on sounds.'
      )
    self.spec, self.name = spec, name
    self.preprocessing = preprocessing or SoundPreprocessing(*size)
    params = dict(weights.fit(params, spec))
    params.pop(zoo.classifier_path(spec), None)
    self._params = jax.tree.map(jnp.asarray, params)
    self._apply = jax.jit(hk.without_apply_rng(hk.transform(self._pool)).apply)

  @classmethod
  def from_pretrained(cls, path: str | os.PathLike) -> Self:
    """Makes an embedder of a file of weights, or of a run's folder.

    Raises:
      OSError: there is no such file.
      ValueError: it is not a file of weights, or they are not for sounds.
    """
    loaded = weights.load_pretrained(path)
    if not isinstance(loaded.preprocessing, SoundPreprocessing):
      raise ValueError(f'{path} holds weights for pictures: give some that were trained on sounds.')
    return cls(loaded.params, loaded.spec, preprocessing=loaded.preprocessing, name=loaded.name)

  def __call__(self, wave: np.ndarray) -> np.ndarray:
    """Returns the embedding of a sound.

    Args:
      wave: float [n], samples at `audio.SAMPLE_RATE`, full scale 1. A sound that is shorter than an
        excerpt is put between zeros; a longer one is covered by excerpts at equal distances.

    Returns:
      float32 [D].

    Raises:
      ValueError: the wave is not such an array.
    """
    wave = np.asarray(wave)
    if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
      raise ValueError(f'a wave is an array [n] of finite numbers, got shape {wave.shape}.')
    length = self.preprocessing.frames * audio.HOP
    count = -(-len(wave) // length)
    places = np.linspace(0, 1, count) if count > 1 else [0.5]
    total = 0.0
    for start in range(0, count, _BATCH):
      chosen = [self.preprocessing(wave, place) for place in places[start : start + _BATCH]]
      batch = np.zeros((_BATCH, *chosen[0].shape), np.float32)
      batch[: len(chosen)] = chosen
      pools = np.asarray(self._apply(self._params, batch))[: len(chosen)]
      total = total + pools.sum(axis=0, dtype=np.float64)
    return (total / count).astype(np.float32)

  def _pool(self, spectrograms: jax.Array) -> jax.Array:
    network = zoo.create_model(self.spec, num_classes=None)
    return network(spectrograms, is_training=False)['pool']
