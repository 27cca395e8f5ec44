"""Pictures in, labels out."""

import functools
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, overload

import jax
import numpy as np

from nfnets import labels, picture_sources, weights, zoo
from nfnets.deploy import runtimes
from nfnets.inference import Picture
from nfnets.preprocessing import Preprocessing

DTYPES = ('float32', 'bfloat16')

_Params = Mapping[str, Mapping[str, Any]]


class Prediction(NamedTuple):
  """One class that a picture may belong to."""

  label: str
  probability: float  # of this class; over all classes they sum to 1
  index: int  # of the class


class Labelled(NamedTuple):
  """One picture of many."""

  name: str  # its path, 'film.mp4, frame 0', or 'picture 0'
  predictions: list[Prediction]  # likeliest first; empty if there is a problem
  problem: str  # why it could not be labelled; '': it was


class Classifier:
  """A network with everything that is needed to label pictures.

      classifier = nfnets.Classifier.from_pretrained('F0')
      for label, probability, index in classifier('cat.jpg'):
        ...

  A picture is a path, a URL, the bytes of an encoded file, an open file, an array or a Pillow
  image, see `inference.read_picture`. One picture runs alone, several in batches of `batch_size`.
  With XLA the last batch is padded, so that the network is compiled only once for each of the two
  sizes, at first use.

  Any number of threads may use one classifier. It can be pickled.

  Attributes:
    spec: the network.
    num_classes: K.
    class_names: K names.
    preprocessing: how pictures are prepared for the network.
    dtype: the dtype that it computes in.
    runtime: 'jax' or 'onnx'.
    batch_size: number of pictures per batch.
    name: the name of the weights.
  """

  def __init__(
    self,
    params: _Params,
    spec: zoo.AnySpec,
    class_names: Sequence[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    size: int | None = None,
    mode: str | None = None,
    dtype: str = 'float32',
    batch_size: int | None = None,
    runtime: str | None = None,
    name: str | None = None,
  ):
    """Checks the parameters and prepares the network; XLA compiles it at first use.

    Args:
      params: module path -> name -> array, the parameters of `create_model(spec, K)`; for a
        batch-normalised network with its state, see `baselines.join_state`.
      spec: the network. `*nfnets.deploy.fold(params, spec)` gives a folded pair that runs faster.
      class_names: K names. None: ImageNet's if K is 1000, else 'class 0', 'class 1', ...
      preprocessing: how pictures are prepared for the network; None: DeepMind's way, at
        spec.test_size.
      size: height and width in pixels, if different from the preprocessing's.
      mode: how pictures are resized, if different from the preprocessing's, see
        `inference.resize_for_evaluation`.
      dtype: the dtype that the network computes in, one of DTYPES. Results are float32.
      batch_size: number of pictures per batch. None: 4 on a CPU, otherwise 32.
      runtime: 'jax': XLA, on JAX's default device; 'onnx': ONNX Runtime, on the CPU. None: the
        latter where JAX has a CPU only, dtype is 'float32' and the extra `serve` is installed; the
        results are the same to about 1e-6.
      name: name of the weights, for `repr`; None: the network's, if it has one.

    Raises:
      ImportError: the runtime is not installed.
      ValueError: the parameters are not those of the network, the number of names is not K, or an
        option has no such value.
    """
    self.runtime = _check_options(size, mode, dtype, batch_size, runtime)
    if not zoo.is_for_pictures(spec):
      raise ValueError('this network is for sounds and labels no pictures: see nfnets.Embedder.')
    self.spec = spec
    preprocessing = preprocessing or Preprocessing(spec.test_size)
    self.preprocessing = preprocessing.replace(size=size, mode=mode)
    self.dtype = dtype
    self.batch_size = batch_size or (4 if jax.default_backend() == 'cpu' else 32)
    self._params = weights.fit(params, spec, needs_classifier=True)
    self.num_classes = weights.count_classes(self._params, spec)
    self.class_names = _complete_names(class_names, self.num_classes)
    self.name = name or _find_name(spec)
    self._lock = threading.Lock()

  @classmethod
  def from_pretrained(
    cls,
    name_or_path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    preprocessing: Preprocessing | None = None,
    size: int | None = None,
    mode: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    runtime: str | None = None,
  ) -> Self:
    """Makes a classifier from published weights or a local file.

    Args:
      name_or_path: as in `nfnets.load_pretrained`: 'F0', 'eca_nfnet_l0', a file of DeepMind's
        release, or a file that `nfnets.weights.save` or a training run wrote.
      class_names: K names; None: the file's own, or else as in the constructor.
      cache_dir: where downloads are kept, as in `nfnets.load_pretrained`.
      preprocessing: None: that of the weights, as they were evaluated when published.
      size: as in the constructor.
      mode: as in the constructor.
      dtype: as in the constructor; None: 'float32'.
      batch_size: as in the constructor.
      runtime: as in the constructor.

    Raises:
      ConnectionError: the weights cannot be downloaded.
      ImportError: the runtime is not installed.
      ValueError: as `nfnets.load_pretrained` or the constructor.
    """
    dtype = dtype or DTYPES[0]
    _check_options(size, mode, dtype, batch_size, runtime)  # before a long download
    loaded = weights.load_pretrained(name_or_path, cache_dir=cache_dir)
    return cls(
      loaded.params,
      loaded.spec,
      loaded.class_names if class_names is None else class_names,
      preprocessing=preprocessing or loaded.preprocessing,
      size=size,
      mode=mode,
      dtype=dtype,
      batch_size=batch_size,
      runtime=runtime,
      name=loaded.name,
    )

  def save(self, path: str | os.PathLike) -> None:
    """Writes a file that `from_pretrained` reads: weights, network, class names, preprocessing.

    Args:
      path: a .safetensors file, in an existing folder.

    Raises:
      OSError: it cannot be written.
    """
    weights.save(
      path,
      self._params,
      spec=self.spec,
      class_names=self.class_names,
      preprocessing=self.preprocessing,
    )

  @property
  def size(self) -> int:
    """Height and width to which pictures are resized, in pixels."""
    return self.preprocessing.size

  @property
  def mode(self) -> str:
    """How pictures are resized, see `inference.resize_for_evaluation`."""
    return self.preprocessing.mode

  def __repr__(self) -> str:
    """One line: the weights, the classes, how pictures are prepared, the runtime."""
    return (
      f'Classifier({self.name!r}, {self.num_classes:,} classes, {self.preprocessing}, '
      f'{self.dtype}, runtime={self.runtime!r})'
    )

  def __getstate__(self) -> dict[str, Any]:
    """Everything except what is made again: the lock and the runtimes."""
    unwanted = ('_lock', '_engine', '_xla')
    return {name: value for name, value in vars(self).items() if name not in unwanted}

  def __setstate__(self, state: Mapping[str, Any]) -> None:
    """Restores what `__getstate__` returned."""
    vars(self).update(state)
    self._lock = threading.Lock()

  @overload
  def __call__(self, pictures: Picture, top: int = 5) -> list[Prediction]: ...

  @overload
  def __call__(self, pictures: Iterable[Picture], top: int = 5) -> list[list[Prediction]]: ...

  def __call__(
    self, pictures: Picture | Iterable[Picture], top: int = 5
  ) -> list[Prediction] | list[list[Prediction]]:
    """Labels a picture, or several. `each` labels folders and videos.

    Args:
      pictures: one picture; or several: a list, a generator or an array [N, H, W, 3].
      top: how many classes to name, at most all.

    Returns:
      The most likely classes, most likely first; for several pictures a list of these.

    Raises:
      OSError: a file cannot be read.
      ValueError: something is not a picture (the message says which one), or top is less than 1.
    """
    _check_top(top)
    ranked = []
    for outputs in self._run(pictures, ('logits',)):
      ranked += [self.rank(logits, top) for logits in outputs['logits']]
    return ranked if picture_sources.is_iterable(pictures) else ranked[0]

  def each(self, source: Picture | Iterable[Picture], top: int = 5) -> Iterator[Labelled]:
    """Labels many pictures one by one, and gives the name of each.

        for name, predictions, problem in classifier.each('photos/'):
          print(name, problem or predictions[0].label)

    Args:
      source: a folder, searched at every depth; a pattern, 'photos/*.jpg'; a video; or anything
        that the call takes. It is read as the results are consumed.
      top: how many classes to name, at most all.

    Yields:
      A `Labelled` for each picture, in order. One that cannot be used says why; the rest follow.

    Raises:
      OSError: there is no such file, or a video cannot be read.
      ValueError: top is less than 1.
    """
    _check_top(top)
    for chunk in _batched(picture_sources.named(source), self.batch_size):
      problems, good = {}, []
      for _, picture in chunk:
        try:
          good.append(self.preprocessing(picture))
        except (OSError, ValueError) as error:
          problems[len(problems) + len(good)] = getattr(error, 'strerror', None) or str(error)
      logits = iter(self._compute(good, ('logits',))['logits'] if good else ())
      for place, (name, _) in enumerate(chunk):
        problem = problems.get(place, '')
        yield Labelled(name, [] if problem else self.rank(next(logits), top), problem)

  def features(
    self, pictures: Picture | Iterable[Picture], names: Sequence[str] | None = None
  ) -> dict[str, np.ndarray]:
    """Returns the features and logits that the network computes from pictures.

    Args:
      pictures: one picture or several, as above.
      names: which of `feature_names` to return; None: all of them.

    Returns:
      'logits' [N, K], 'pool' [N, C] and the maps 'stem', 'stage0', 'stage1', ... [N, h, w, c]: all
      float32, N = 1 for one picture. XLA computes the maps, whatever the runtime.

    Raises:
      OSError: a file cannot be read.
      ValueError: something is not a picture, there is none, a feature does not exist, or names is
        not a list.
    """
    if isinstance(names, str):
      raise ValueError(
        f'names must be a list of names, such as [{names!r}], got the text {names!r}.'
      )
    names = self.feature_names if names is None else tuple(names)
    # Every network has these; its maps are known to XLA, which is not made ready for nothing.
    if not names or not set(names) <= set(runtimes.OnnxRuntime.feature_names):
      unknown = [name for name in names if name not in self.feature_names]
      if unknown or not names:
        raise ValueError(
          f'this network has no feature {", ".join(map(repr, unknown)) or "of no name"}: choose '
          f'from {", ".join(self.feature_names)}.'
        )
    batches = list(self._run(pictures, names))
    if not batches:
      raise ValueError('no pictures were given: features needs at least one.')
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

  def rank(self, logits: np.ndarray, top: int = 5) -> list[Prediction]:
    """Returns the most likely classes, most likely first, from one picture's logits [K].

    Raises:
      ValueError: the logits are not finite numbers.
    """
    if not np.isfinite(logits).all():
      raise ValueError(
        'the network gave numbers that are not finite: its weights are damaged, or were trained '
        'with another activation or preprocessing.'
      )
    odds = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = odds / odds.sum()
    order = np.argsort(-probabilities, kind='stable')[:top]
    return [Prediction(self.class_names[i], float(probabilities[i]), int(i)) for i in order]

  @property
  def feature_names(self) -> tuple[str, ...]:
    """What `features` can return."""
    return self._made('_xla').feature_names

  @functools.cached_property
  def _xla(self) -> runtimes.Runtime:
    return runtimes.XlaRuntime(self._params, self.spec, self.size, self.dtype)

  @functools.cached_property
  def _engine(self) -> runtimes.Runtime:
    if self.runtime == 'onnx':
      return runtimes.OnnxRuntime(self._params, self.spec, self.size)
    return self._xla

  def _made(self, runtime: str) -> runtimes.Runtime:
    """One of the two above, made only once for any number of threads."""
    with self._lock:
      return getattr(self, runtime)

  def _run(
    self, pictures: Picture | Iterable[Picture], names: tuple[str, ...]
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the outputs of batch after batch; the next one is prepared while XLA computes one."""
    if picture_sources.is_several(pictures):
      raise ValueError(
        f'{os.fspath(pictures)} stands for several pictures: '
        f'classifier.each({os.fspath(pictures)!r}) labels them one after the other.'
      )
    several = picture_sources.is_iterable(pictures)
    numbered = enumerate(picture_sources.pictures_of(pictures))
    running = None
    for chunk in _batched(numbered, self.batch_size if several else 1):
      batch = [self._preprocess(picture, number, several) for number, picture in chunk]
      started = self._start(batch, names, self.batch_size if several else 1), len(batch)
      if running is not None:
        yield _fetch(*running)
      running = started
    if running is not None:
      yield _fetch(*running)

  def _start(
    self, batch: Sequence[np.ndarray], names: tuple[str, ...], pad_to: int
  ) -> Mapping[str, Any]:
    """Outputs to come of preprocessed pictures [size, size, 3]."""
    has_all = set(names) <= set(runtimes.OnnxRuntime.feature_names)
    return self._made('_engine' if has_all else '_xla')(np.stack(batch), names, pad_to)

  def _compute(self, batch: Sequence[np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return _fetch(self._start(batch, names, self.batch_size), len(batch))

  def _preprocess(self, picture: Picture, number: int, several: bool) -> np.ndarray:
    try:
      return self.preprocessing(picture)
    except ValueError as error:
      if isinstance(picture, str | os.PathLike):
        raise ValueError(f'{os.fspath(picture)}: {error}') from None
      if several:
        raise ValueError(f'picture {number} of the list (from 0): {error}') from None
      raise


def _batched(items: Iterable[Any], count: int) -> Iterator[list[Any]]:
  """Yields lists of up to `count` items."""
  items = iter(items)
  while chunk := list(itertools.islice(items, count)):
    yield chunk


def _check_top(top: int) -> None:
  if top < 1:
    raise ValueError(f'top must be at least 1, got {top}.')


def _check_options(
  size: int | None,
  mode: str | None,
  dtype: str,
  batch_size: int | None,
  runtime: str | None,
) -> str:
  """Raises ValueError for an invalid option of a classifier; returns the runtime."""
  Preprocessing(1).replace(size=size, mode=mode)
  if dtype not in DTYPES:
    raise ValueError(f'dtype must be one of {", ".join(DTYPES)}, got {dtype!r}.')
  if batch_size is not None and batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  return runtimes.choose(runtime, dtype)


def _find_name(spec: zoo.AnySpec) -> str:
  """The published name of a network, or its family's."""
  return next((name for name in zoo.list_models() if zoo.get_spec(name) == spec), spec.family)


def _fetch(outputs: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
  """The outputs of a batch on the host, without the padding."""
  return {name: np.asarray(out)[:count] for name, out in outputs.items()}


def _complete_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
  if names is None:
    imagenet = labels.imagenet()
    is_imagenet = num_classes == len(imagenet)
    return imagenet if is_imagenet else tuple(f'class {i}' for i in range(num_classes))
  if isinstance(names, str):
    raise ValueError(f'class_names must be a list of names, got the text {names!r}.')
  if len(names) != num_classes:
    raise ValueError(f'{len(names)} class names were given but the network has {num_classes}.')
  return tuple(names)
