"""The networks that the page offers; one of them is loaded and labels."""

import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nfnets import classifier as classifiers

_LOG = logging.getLogger(__name__)
_TOP = 5


class Answer(NamedTuple):
  """A network's result for a picture."""

  number: int  # of the network, in the order of `Models.names`
  seconds: float  # from the encoded picture to the labels
  predictions: list[classifiers.Prediction]  # likeliest first


class _Loaded(NamedTuple):
  number: int
  classifier: classifiers.Classifier


class _Loading(NamedTuple):
  number: int
  start: float  # time.monotonic()
  step: str  # what is being done, for people


class Models:
  """Labels pictures with one of several networks, and can switch networks while labelling.

  All methods may be called from any thread.
  """

  def __init__(
    self,
    weights: Sequence[str],
    make: Callable[[str], classifiers.Classifier] = classifiers.Classifier.from_pretrained,
  ):
    """Takes what to offer; loads nothing yet.

    Args:
      weights: published names and paths, each once.
      make: makes a classifier of one of them.
    """
    self.names = display_names(weights)
    self._weights = tuple(weights)
    self._make = make
    self._one_picture = threading.Lock()  # one at a time: each uses the whole machine
    self._changing = threading.Lock()  # guards the three below
    self._loaded: _Loaded | None = None
    self._loading: _Loading | None = None
    self._problem: str | None = None

  def load(self, number: int) -> None:
    """Loads a network, compiles it and replaces the current one.

    Raises:
      OSError, ImportError, ValueError: as `Classifier.from_pretrained`.
      RuntimeError: another one is being loaded, or the hardware refuses the network.
    """
    self._begin(number)
    try:
      self._replace(number)
    finally:
      self._end()

  def start_loading(self, number: int) -> threading.Thread:
    """Does the same in a thread; the current network stays until that is done, or if it fails.

    Raises:
      RuntimeError: another one is being loaded.
    """
    self._begin(number)
    thread = threading.Thread(target=self._replace_or_say_why, args=(number,), daemon=True)
    thread.start()
    return thread

  def label(self, picture: bytes) -> Answer:
    """Labels an encoded picture with the network that is loaded.

    Raises:
      ValueError: it is no picture, or the network's numbers are not finite.
    """
    loaded = self._loaded
    with self._one_picture:
      start = time.perf_counter()
      predictions = loaded.classifier(picture, _TOP)
      return Answer(loaded.number, time.perf_counter() - start, predictions)

  def describe(self) -> dict[str, Any]:
    """What the page shows, as JSON types: networks, the one (being) loaded, what failed."""
    with self._changing:
      loaded, loading, problem = self._loaded, self._loading, self._problem
    return {
      'models': self.names,
      'current': loaded.number,
      'classes': loaded.classifier.num_classes,
      'size': loaded.classifier.size,
      'loading': loading
      and {
        'number': loading.number,
        'step': loading.step,
        'seconds': time.monotonic() - loading.start,
      },
      'problem': problem,
    }

  def _begin(self, number: int) -> None:
    with self._changing:
      if self._loading:
        name = self.names[self._loading.number]
        raise RuntimeError(f'{name} is being loaded: wait until it is ready.')
      is_here = os.path.exists(self._weights[number])
      step = 'reading the weights' if is_here else 'fetching the weights'
      self._loading = _Loading(number, time.monotonic(), step)
      self._problem = None

  def _replace(self, number: int) -> None:
    classifier = self._make(self._weights[number])
    with self._changing:
      self._loading = self._loading._replace(step='compiling')
    classifier(np.zeros((8, 8, 3), np.uint8))  # so that the first picture need not wait
    with self._changing:
      self._loaded = _Loaded(number, classifier)

  def _replace_or_say_why(self, number: int) -> None:
    problem = None
    try:
      self._replace(number)
    except Exception as error:  # whatever it is, the page must not wait for ever
      if not isinstance(error, ImportError | OSError | ValueError):
        _LOG.exception('%s could not be loaded', self.names[number])
      problem = f'{self.names[number]} could not be loaded: {sentence(error)}'
    finally:
      self._end(problem)

  def _end(self, problem: str | None = None) -> None:
    with self._changing:
      self._loading, self._problem = None, problem


def display_names(weights: Sequence[str]) -> list[str]:
  """Names that distinguish weights: published names as they are; for files, folder and name.

  If two would be the same, the files' paths.
  """
  paths = [pathlib.Path(text) for text in weights]
  short = [
    f'{path.parent.name}/{path.stem}' if path.parent.name and path.suffix else text
    for path, text in zip(paths, weights, strict=True)
  ]
  return short if len(set(short)) == len(short) else list(weights)


def sentence(error: BaseException) -> str:
  """An error's message as one sentence for people, with a capital and a stop."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text[0].upper() + text[1:].rstrip('.') + '.'
