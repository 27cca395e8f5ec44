"""Pictures in, labels out."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets import baselines, labels, weights, zoo
from nfnets.inference import EVALUATION_MODES, Picture, preprocess

DTYPES = ('float32', 'bfloat16')

_Params = Mapping[str, Mapping[str, Any]]


class Prediction(NamedTuple):
  """One class that a picture may belong to."""

  label: str
  probability: float  # of this class; over all classes they sum to 1
  index: int  # of the class


class Classifier:
  """A network with everything that it takes to label pictures.

      classifier = nfnets.Classifier.from_pretrained('F0')
      for label, probability, index in classifier('cat.jpg'):
        ...

  A picture is a path, the bytes of an encoded file, an array or a Pillow image, see
  `inference.read_picture`. One picture runs alone, a list in batches of `batch_size`, the last one
  padded: so the network is compiled once for either, at the first use.
  """

  def __init__(
    self,
    params: _Params,
    spec: zoo.AnySpec,
    class_names: Sequence[str] | None = None,
    *,
    size: int | None = None,
    mode: str = 'resize_crop_32',
    dtype: str = 'float32',
    batch_size: int | None = None,
  ):
    """Checks the parameters and moves them to the default device; compiles nothing yet.

    Args:
      params: module path -> name -> array, the parameters of `create_model(spec, K)`; with those
        of a batch-normalised network its state, see `baselines.join_state`.
      spec: the network. `*nfnets.deploy.fold(params, spec)` gives the two for less work.
      class_names: K names. None: ImageNet's if K is 1000, else 'class 0', 'class 1', ...
      size: height and width that pictures are brought to, in pixels; None: spec.test_size.
      mode: how they are brought to it, see `inference.resize_for_evaluation`.
      dtype: what the network computes in, one of DTYPES. What comes out is float32.
      batch_size: pictures of a list that the network takes at a time. None: 4 on a CPU, else 32.

    Raises:
      ValueError: the parameters are not those of the network, the number of names is not K, or an
        option has no such value.
    """
    _check_options(size, mode, dtype, batch_size)
    self.spec = spec
    self.size = spec.test_size if size is None else size  # pixels
    self.mode = mode
    self.dtype = dtype
    self.batch_size = batch_size or (4 if jax.default_backend() == 'cpu' else 32)
    fitted = weights.fit(params, spec, needs_classifier=True)
    self.num_classes = weights.count_classes(fitted, spec)
    self.class_names = _complete_names(class_names, self.num_classes)
    self._transformed = hk.transform_with_state(self._network)
    params, state = baselines.split_state(fitted)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    self._variables = params, jax.tree.map(jnp.asarray, state)
    self._program = jax.jit(self._compute, static_argnames='names')

  @classmethod
  def from_pretrained(
    cls,
    name_or_path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
  ) -> Self:
    """Makes a classifier of published weights or of a local file.

    Args:
      name_or_path: as in `nfnets.load_pretrained`: 'F0', 'eca_nfnet_l0', a file of DeepMind's
        release, or a file that `nfnets.weights.save` or a training run wrote.
      class_names: K names; None: the file's own, or else as in the constructor.
      cache_dir: where downloads are kept, as in `nfnets.load_pretrained`.
      **options: `size`, `mode`, `dtype` and `batch_size` of the constructor; None: as if not given.
        Where size and mode are not given, those of the file hold, if it has any.

    A file's own are the entries 'class_names' (a JSON list), 'eval_mode' and 'eval_size' of its
    metadata, which training runs write.

    Raises:
      ConnectionError: the weights cannot be downloaded.
      ValueError: as `nfnets.load_pretrained` or the constructor.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _check_options(**given)  # before a long download
    loaded = weights.load_pretrained(name_or_path, cache_dir=cache_dir)
    stored = _stored_options(Path(name_or_path)) if Path(name_or_path).is_file() else {}
    if class_names is not None:
      given['class_names'] = class_names
    return cls(loaded.params, loaded.spec, **{**stored, **given})

  def __call__(
    self, pictures: Picture | Sequence[Picture], top: int = 5
  ) -> list[Prediction] | list[list[Prediction]]:
    """Labels a picture, or several.

    Args:
      pictures: one picture, or a list of pictures (an array [N, H, W, 3] is a list too).
      top: how many classes to name, at most all.

    Returns:
      The likeliest classes, likeliest first; for a list, a list of these.

    Raises:
      OSError: a file cannot be read.
      ValueError: something is no picture, in a list saying which, or top is less than 1.
    """
    if top < 1:
      raise ValueError(f'top must be at least 1, got {top}.')
    ranked = []
    for outputs in self._run(pictures, ('logits',)):
      ranked += [self.rank(logits, top) for logits in outputs['logits']]
    return ranked if _is_list(pictures) else ranked[0]

  def features(
    self, pictures: Picture | Sequence[Picture], names: Sequence[str] | None = None
  ) -> dict[str, np.ndarray]:
    """Returns what the network makes of pictures on its way to the labels.

    Args:
      pictures: one picture or a list, as above.
      names: which of `feature_names` to return; None: all of them.

    Returns:
      'logits' [N, K], 'pool' [N, C] and the maps 'stem', 'stage0', 'stage1', ... [N, h, w, c]: all
      float32, N = 1 for one picture.

    Raises:
      OSError: a file cannot be read.
      ValueError: something is no picture, there is none, or no such feature, or names is no list.
    """
    if isinstance(names, str):
      raise ValueError(
        f'names must be a list of names, such as [{names!r}], got the text {names!r}.'
      )
    names = self.feature_names if names is None else tuple(names)
    unknown = [name for name in names if name not in self.feature_names]
    if unknown or not names:
      raise ValueError(
        f'this network has no feature {", ".join(map(repr, unknown)) or "of no name"}: choose from '
        f'{", ".join(self.feature_names)}.'
      )
    batches = list(self._run(pictures, names))
    if not batches:
      raise ValueError('features of no pictures were asked for: give at least one.')
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

  def rank(self, logits: np.ndarray, top: int = 5) -> list[Prediction]:
    """Returns the likeliest classes, likeliest first, of one picture's logits [K].

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

  @functools.cached_property
  def feature_names(self) -> tuple[str, ...]:
    """What `features` can return."""
    outputs, _ = jax.eval_shape(self._transformed.apply, *self._variables, None, self._images)
    return tuple(outputs)

  @property
  def _images(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.float32)

  def _network(self, batch: jax.Array) -> dict[str, jax.Array]:
    """The outputs and the maps on the way to them, float32, of normalised images [N, H, W, 3]."""
    outputs = {}

    def keep_maps(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if context.method_name == 'features':
        outputs.update(out)
      return out

    with hk.intercept_methods(keep_maps):
      model = zoo.create_model(self.spec, self.num_classes)
      outputs.update(model(batch.astype(self.dtype), is_training=False))
    return {name: out.astype(jnp.float32) for name, out in outputs.items()}

  def _compute(
    self, variables: tuple[_Params, _Params], batch: jax.Array, names: tuple[str, ...]
  ) -> dict[str, jax.Array]:
    outputs, _ = self._transformed.apply(*variables, None, batch)
    return {name: outputs[name] for name in names}  # the compiler drops the others

  def _run(
    self, pictures: Picture | Sequence[Picture], names: tuple[str, ...]
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the outputs of batch after batch; the next one is prepared while one computes."""
    batch_size = self.batch_size if _is_list(pictures) else 1
    pictures = pictures if _is_list(pictures) else [pictures]
    running = None
    for start in range(0, len(pictures), batch_size):
      count = min(batch_size, len(pictures) - start)
      batch = np.zeros((batch_size, self.size, self.size, 3), np.float32)
      for i in range(count):
        batch[i] = self._preprocess(pictures[start + i], start + i, len(pictures))
      outputs = self._program(self._variables, batch, names=names)
      if running is not None:
        yield _fetch(*running)
      running = outputs, count
    if running is not None:
      yield _fetch(*running)

  def _preprocess(self, picture: Picture, number: int, total: int) -> np.ndarray:
    try:
      return preprocess(picture, self.size, self.mode)
    except ValueError as error:
      if isinstance(picture, str | os.PathLike):
        raise ValueError(f'{os.fspath(picture)}: {error}') from None
      if total > 1:
        raise ValueError(f'picture {number} of the list (from 0): {error}') from None
      raise


def _check_options(
  size: int | None = None,
  mode: str = EVALUATION_MODES[0],
  dtype: str = DTYPES[0],
  batch_size: int | None = None,
) -> None:
  """Refuses options of a classifier that have no such value."""
  for what, value, choices in (('mode', mode, EVALUATION_MODES), ('dtype', dtype, DTYPES)):
    if value not in choices:
      raise ValueError(f'{what} must be one of {", ".join(choices)}, got {value!r}.')
  for what, value in (('size', size), ('batch_size', batch_size)):
    if value is not None and value < 1:
      raise ValueError(f'{what} must be at least 1, got {value}.')


def _is_list(pictures: Picture | Sequence[Picture]) -> bool:
  """Whether these are several pictures: a list, a tuple or an array [N, H, W, C]."""
  return isinstance(pictures, list | tuple) or getattr(pictures, 'ndim', 0) == 4


def _fetch(outputs: dict[str, jax.Array], count: int) -> dict[str, np.ndarray]:
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
    raise ValueError(f'{len(names)} class names were given and the network has {num_classes}.')
  return tuple(names)


def _stored_options(path: Path) -> dict[str, Any]:
  """What a weights file that is known to be good says of class names, mode and size."""
  try:
    metadata = weights.read_metadata(path)
  except ValueError:  # it is not safetensors but of DeepMind's release
    return {}
  readers = {'class_names': json.loads, 'eval_mode': str, 'eval_size': int}
  found = {name: metadata[name] for name in readers if name in metadata}
  try:
    values = {name: readers[name](text) for name, text in found.items()}
    names = values.get('class_names', [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
      raise ValueError('class_names is not a JSON list of text')
    options = {name.removeprefix('eval_'): value for name, value in values.items()}
    _check_options(**{name: value for name, value in options.items() if name != 'class_names'})
  except ValueError as error:
    raise ValueError(f'{path} is damaged, its metadata cannot be used: {error}') from None
  return options
