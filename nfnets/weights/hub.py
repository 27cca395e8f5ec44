"""Published weights by name: downloaded, verified, checked against their model."""

import contextlib
import dataclasses
import difflib
import fnmatch
import importlib.util
import json
import logging
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfnets import installation, zoo
from nfnets.audio import SoundPreprocessing
from nfnets.preprocessing import Preprocessing, read_metadata, usual
from nfnets.weights import fitting, formats, proxies
from nfnets.weights import tree as trees
from nfnets.weights.deepmind import find_variant, load_deepmind
from nfnets.weights.download import advise, cache_directory, fetch
from nfnets.weights.published import DEEPMIND, NAMES, SHIPPED, TIMM, preprocessing_of
from nfnets.weights.timm import from_timm

_LOG = logging.getLogger(__name__)

_TIMM_FILE = 'model.safetensors'
RUN_FILE = 'ema_weights.safetensors'  # what a finished training run leaves in its folder


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """Weights and their network; unpacks into three: `params, spec, name = ...`.

  `hk.transform(lambda x: nfnets.create_model(spec, K)(x, False)).apply(params, ...)` runs them, on
  `preprocessing(picture)[None]`.

  Attributes:
    params: module path -> name -> numpy array; no classifier if the weights have none.
    spec: the network, for `create_model`.
    name: the published name, or the name of a local file without its extension.
    preprocessing: how pictures, or sounds, are prepared for the network.
    class_names: in the order of the logits; None: the weights have no class names.
  """

  params: trees.Tree
  spec: zoo.AnySpec
  name: str
  preprocessing: Preprocessing | SoundPreprocessing
  class_names: tuple[str, ...] | None = None

  def __iter__(self) -> Iterator[Any]:
    """Yields params, spec and name."""
    yield from (self.params, self.spec, self.name)

  def __repr__(self) -> str:
    """One line, without the numbers."""
    count = sum(x.size for entries in self.params.values() for x in entries.values())
    return f'Pretrained({self.name!r}, {count:,} numbers, {self.preprocessing})'


def list_models(pattern: str = '*', *, pretrained: bool = False) -> list[str]:
  """Returns the names of models.

      nfnets.list_models('nf-resnet-*')  # ['NF-ResNet-50', ...]
      nfnets.list_models(pretrained=True)  # ['F0', ..., 'eca_nfnet_l0', ...]

  Args:
    pattern: a shell-style pattern, in upper or lower case.
    pretrained: the names that `load_pretrained` knows: models with published weights, then the
      small networks that come with the library.
  """
  if not pretrained:
    return zoo.list_models(pattern)
  return [name for name in NAMES if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def load_pretrained(
  name: str | os.PathLike,
  num_classes: int | None = None,
  *,
  seed: int = 0,
  cache_dir: str | os.PathLike | None = None,
) -> Pretrained:
  """Loads published weights by name, or a local file. See `Pretrained` for what comes back.

      params, spec, name = nfnets.load_pretrained('F0')
      network = hk.transform(lambda x: nfnets.create_model(spec)(x, is_training=False)['logits'])
      logits = network.apply(params, None, images)

  Args:
    name: one of `list_models(pretrained=True)`, in upper or lower case: 'F0'..'F6' (DeepMind's
      release), timm's, such as 'eca_nfnet_l0', or a small network that comes with the library, such
      as 'digits'; or the path of a file: one that `save` wrote with the model's spec, or one of
      DeepMind's release; or the folder of a training run, which stands for the averaged weights in
      it. A file or a run is meant before a published name that is spelled like it.
    num_classes: if K differs from the weights' own number of classes, a new classifier is made,
      w [C, K] ~ N(0, 0.01^2) and b [K] = 0; nothing else changes, and a line is logged. None or the
      weights' own number keeps their classifier. Weights without a classifier are then loaded
      without one.
    seed: seed of the new classifier.
    cache_dir: where DeepMind's files are kept, see `fetch`. A timm file that you put there as
      `<repository>.safetensors` is used; downloads stay in huggingface_hub's cache.

  Raises:
    ConnectionError: a file cannot be downloaded; the message says where to put it by hand.
    FileNotFoundError: the path is a folder without a run, or the run is not finished.
    ImportError: huggingface_hub, which timm's weights need, is not installed.
    ValueError: no such name or file; a file is damaged, or of another format or model.
  """
  if num_classes is not None and num_classes < 1:
    raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
  place = locate(name)
  if isinstance(place, Path):
    loaded = _load_file(place)
    if Path(name).is_dir() and place.parent == Path(name):
      loaded = dataclasses.replace(loaded, name=Path(name).resolve().name)
  elif place in TIMM:
    loaded = _load_timm(place, cache_dir)
  else:
    params = load_deepmind(fetch(DEEPMIND[place], cache_dir), place)
    loaded = Pretrained(params, zoo.get_spec(place), place, preprocessing_of(place))
  own = fitting.count_classes(loaded.params, loaded.spec)
  if own is None and num_classes is None:
    _LOG.warning(
      '%s: the weights have no classifier, only the layers before it are loaded; '
      'num_classes=K makes a new one',
      loaded.name,
    )
  if num_classes in (None, own):
    return loaded
  params = _new_classifier(loaded, own, num_classes, seed)
  return dataclasses.replace(loaded, params=params, class_names=None)


def locate(name: str | os.PathLike) -> Path | str:
  """Returns the file that stands for weights, or the published name of what is downloaded.

  Args:
    name: as in `load_pretrained`.

  Raises:
    FileNotFoundError: the path is a folder without a run, or the run is not finished.
    ValueError: no such name or file.
  """
  path = Path(name)
  if path.is_file():
    return path
  published = next((known for known in NAMES if known.lower() == str(name).lower()), None)
  if path.is_dir() and (published is None or _is_run(path)):
    return find_in_run(path)
  if published is not None:
    return SHIPPED.get(published, published)
  close = difflib.get_close_matches(str(name), NAMES, n=3, cutoff=0.5)
  raise ValueError(
    f'{str(name)!r} is neither the name of published weights nor a file: '
    + (f'did you mean {", ".join(close)}?' if close else f'choose one of {", ".join(NAMES)}.')
  )


def _is_run(folder: Path) -> bool:
  """Whether a training run has been here, finished or not."""
  return any((folder / name).exists() for name in (RUN_FILE, 'config.json', 'checkpoints'))


def find_in_run(folder: str | os.PathLike) -> Path:
  """Returns the weights file in the folder of a training run.

  Raises:
    FileNotFoundError: there is none; the message says whether there is a run.
  """
  path = Path(folder) / RUN_FILE
  if path.is_file():
    return path
  if _is_run(Path(folder)):
    raise FileNotFoundError(
      f'the run in {os.fspath(folder)!r} is not finished, so it has no {RUN_FILE} yet: give the '
      'command that began it again, which goes on from its last checkpoint.'
    )
  found = sorted(file.name for file in Path(folder).glob('*.safetensors'))
  instead = f' name a file in it, such as {found[0]},' if found else ' name a file of weights,'
  raise FileNotFoundError(
    f'{os.fspath(folder)!r} is a folder, but not of a training run, which would hold {RUN_FILE}:'
    f'{instead} or a published name such as F0.'
  )


def _load_file(path: Path) -> Pretrained:
  """A local file: safetensors of this library, otherwise a pickle of DeepMind's release."""
  if not formats.is_safetensors(path):
    params = load_deepmind(path)
    name = find_variant(params)
    return Pretrained(params, zoo.get_spec(name), name, preprocessing_of(name))
  params, metadata = trees.load(path)
  if 'spec' not in metadata:
    raise ValueError(
      f'{path} does not say which model it is for: save it with spec=spec, or read its '
      f'arrays with nfnets.weights.load.'
    )
  try:
    spec = zoo.spec_from_dict(metadata['spec'])
    blocks = sum(getattr(spec, 'depth', ()))
    if blocks > len(params):  # before a damaged number keeps JAX busy for hours
      raise ValueError(f'it has {blocks} blocks and the file {len(params)} modules')
    params = fitting.fit(params, spec)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path} does not hold the model of its metadata: {error}') from None
  try:
    preprocessing = read_metadata(metadata) or usual(zoo.input_shape(spec))
    names = _class_names(metadata, fitting.count_classes(params, spec))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from None
  return Pretrained(params, spec, path.stem, preprocessing, names)


def _class_names(metadata: Mapping[str, str], num_classes: int | None) -> tuple[str, ...] | None:
  """The names of the classes that a file has; raises ValueError if they cannot be used."""
  if 'class_names' not in metadata or num_classes is None:
    return None
  try:
    names = json.loads(metadata['class_names'])
  except ValueError:
    names = None
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise ValueError('its class_names are not a JSON list of text')
  if len(names) != num_classes:
    raise ValueError(f'it has {num_classes} classes and names {len(names)}')
  return tuple(names)


def _load_timm(name: str, cache_dir: str | os.PathLike | None) -> Pretrained:
  """Weights of a timm model by its name."""
  path = _fetch_timm(name, cache_dir)
  try:
    return Pretrained(from_timm(path, name), zoo.get_spec(name), name, preprocessing_of(name))
  except ValueError as error:
    raise ValueError(
      f'the stored file of {name} cannot be used: {error} Delete {path} and try again.'
    ) from None


def _fetch_timm(name: str, cache_dir: str | os.PathLike | None) -> Path:
  """The safetensors file of a timm model, from the hub or put in the cache by hand."""
  repository = TIMM[name].repository
  directory = Path(cache_dir) if cache_dir is not None else cache_directory()
  by_hand = directory / f'{repository.rpartition("/")[2]}.safetensors'
  if by_hand.is_file():
    return by_hand
  path = _fetch_from_hub(repository, by_hand)
  if path.is_file() and formats.is_cut(path):
    _LOG.warning('%s has a wrong size: it is deleted and downloaded again', path)
    for file in (path.resolve(), path):  # the hub's cache keeps a link to the file
      file.unlink(missing_ok=True)
    path = _fetch_from_hub(repository, by_hand)
  return path


def _fetch_from_hub(repository: str, by_hand: Path) -> Path:
  """The file in huggingface_hub's cache, downloaded if it is not there."""
  try:
    import huggingface_hub
    from huggingface_hub import constants, errors
  except ImportError:
    raise ImportError(
      f'timm weights come through huggingface_hub: {installation.command("hub")}, or put '
      f'{_TIMM_FILE} of https://huggingface.co/{repository} at {by_hand}.'
    ) from None
  except ValueError as error:  # it reads its variables when it is imported
    because = _problem_of_settings(os.environ.get('HF_ENDPOINT', '')) or f'({error})'
    raise ConnectionError(
      f'cannot download {_TIMM_FILE} of {repository} {because}, or get the file elsewhere and put '
      f'it at {by_hand}.'
    ) from None
  try:
    # Without a home it would make a folder named ~.
    homeless = constants.HF_HUB_CACHE.startswith('~')
    options = {'cache_dir': cache_directory() / 'huggingface'} if homeless else {}
    return Path(huggingface_hub.hf_hub_download(repository, _TIMM_FILE, **options))
  # Settings of proxies and endpoints fail in the HTTP library in ways that it does not list.
  except Exception as error:
    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
      error = error.__cause__  # it hides what the server answered
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = next(iter(str(error).splitlines()), '').rstrip('.:') or type(error).__name__
    reason = f'HTTP {status}' if status else reason
    because = _problem_of_settings(constants.ENDPOINT) or f'({reason}): {advise(status)}'
    raise ConnectionError(
      f'cannot download {_TIMM_FILE} from {constants.ENDPOINT}/{repository} {because}, or get the '
      f'file elsewhere and put it at {by_hand}.'
    ) from None


def _problem_of_settings(endpoint: str) -> str:
  """What in the environment prevents huggingface_hub from connecting; '' if nothing does."""
  with contextlib.suppress(ValueError):
    parts = urllib.parse.urlsplit(endpoint)
    if parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0:
      with_socks = importlib.util.find_spec('socksio') is not None
      socks = ('socks5', 'socks5h') if with_socks else ()
      problem = proxies.problem(endpoint, ('http', 'https', *socks))
      return f'because {problem}' if problem else ''
  return (
    f'because HF_ENDPOINT={endpoint} is not a URL: write it as https://HOST, or leave the '
    f'variable out'
  )


def _new_classifier(loaded: Pretrained, own: int | None, num_classes: int, seed: int) -> trees.Tree:
  """The same parameters (the same arrays) with a new classifier."""
  path = zoo.classifier_path(loaded.spec)
  like = loaded.params if own else zoo.parameter_shapes(loaded.spec, num_classes)
  channels, _ = like[path]['w'].shape
  # As a new network starts, [NFNet] appendix.
  w = np.random.default_rng(seed).normal(0.0, 0.01, (channels, num_classes))
  b = np.zeros(num_classes, np.float32)
  _LOG.warning(
    '%s: the classifier %s is new, %d classes instead of %s; all other weights are kept',
    loaded.name,
    path,
    num_classes,
    own or 'none',
  )
  return {**loaded.params, path: {'w': w.astype(np.float32), 'b': b}}
