"""Networks whose signal scripts/plot_signal.py measures: by name, from a file, or a user's own."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from experiments.reporting import plot_style
from nfnets import activations, baselines, initialization, load_pretrained, mean_field, sides, zoo
from nfnets.baselines.common import BatchNorm
from nfnets.sides import Sides
from nfnets.signal_propagation import BlockStatistics, measure_blocks
from nfnets.spec import ModelSpec

_RELU_GAMMA = activations.get('relu').gamma


class Subject(NamedTuple):
  """A network to measure."""

  name: str
  network: Callable[[jax.Array], Any]
  size: Sides  # of its images, pixels
  params: Any = None  # None: to be initialised
  state: Any = None
  spec: Any = None  # what the theory is for


class Curve(NamedTuple):
  """One network of the comparison."""

  label: str
  colour: str
  style: str
  rows: Sequence[BlockStatistics]


def make_images(kind: str, batch: int, size: Sides, seed: int, channels: int = 3) -> jax.Array:
  """Returns float32 noise [batch, *size, channels] of variance 1.

  Args:
    kind: 'white': independent pixels, for which the theory is; 'pink': the 1/f spectrum of
      photographs, whose neighbouring pixels are alike.
    batch: number of images.
    size: side in pixels, or both.
    seed: of the noise.
    channels: of an image.
  """
  height, width = sides.pair(size)
  noise = np.random.default_rng(seed).normal(size=(batch, height, width, channels))
  if kind == 'pink':
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))[:, :, None]
    radius[0, 0] = np.inf  # no mean
    noise = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) / radius, axes=(1, 2)).real
  return jnp.asarray(noise / noise.std(), jnp.float32)


def measure(subject: Subject, images: jax.Array, seed: int) -> list[BlockStatistics]:
  """Measures a network, initialised with its branches opened unless it brings parameters."""
  params, state = subject.params, subject.state
  if params is None:
    key, opening = jax.random.split(jax.random.key(seed))
    params, state = initialization.initialize(subject.network, key, images)
    params = initialization.open_branches(params, opening)
  return measure_blocks(subject.network, params, images, rng=jax.random.key(seed + 1), state=state)


def of_spec(name: str, spec: zoo.AnySpec, **subject: Any) -> Subject:
  """A network of the zoo."""
  # Fresh running statistics normalise nothing.
  fresh = isinstance(spec, baselines.BaselineSpec) and 'params' not in subject
  options = {'test_local_stats': True} if fresh else {}
  num_classes = subject.pop('num_classes', 10)

  def network(images: jax.Array) -> Any:
    return zoo.create_model(spec, num_classes)(images, is_training=False, **options)

  return Subject(name, network, spec.train_size, spec=spec, **subject)


def of_weights(path: str) -> Subject:
  """The network of a weights file, or of a published name, with its weights."""
  params, spec, name = load_pretrained(path)
  params, state = baselines.split_state(params)
  (num_classes,) = (e['w'].shape[1] for m, e in params.items() if m == f'{spec.family}/~/linear')
  return of_spec(name, spec, params=params, state=state, num_classes=num_classes)


def of_function(address: str) -> Subject:
  """A function given as `package.module:function` or `path/to/file.py:function`.

  Raises:
    ValueError: there is no such function.
  """
  module_name, separator, function_name = address.rpartition(':')
  if not separator:
    raise ValueError(f'{address!r} is not of the form module:function.')
  try:
    if module_name.endswith('.py'):
      spec = importlib.util.spec_from_file_location('measured', module_name)
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
    else:
      sys.path.insert(0, '')
      module = importlib.import_module(module_name)
  except (ImportError, OSError) as error:
    raise ValueError(f'{module_name} cannot be imported: {error}.') from None
  function = getattr(module, function_name, None)
  if not callable(function):
    raise ValueError(f'{module_name} has no function {function_name!r}.')
  return Subject(address, function, 64)


def theory(subject: Subject) -> list[mean_field.Moments] | None:
  """What is expected of a freshly initialised network of the zoo on white noise."""
  if subject.params is not None:
    return None
  if isinstance(subject.spec, baselines.ResNetSpec):
    return mean_field.predict_baseline(subject.spec)
  # There is none of other baselines, nor of two trunks.
  if not isinstance(subject.spec, ModelSpec) or subject.spec.fast is not None:
    return None
  return mean_field.predict(subject.spec)


def no_norm(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
  """Leaves out batch normalisations, as an interceptor of Haiku's methods."""
  is_norm = isinstance(context.module, BatchNorm) and context.method_name == '__call__'
  return args[0] if is_norm else next_function(*args, **kwargs)


def unstandardized(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
  """Takes weights of networks with relu as they are, N(0, 2 / fan_in): another interceptor."""
  out = next_function(*args, **kwargs)
  if context.method_name != 'standardized_weight':
    return out
  # The activation behind it brings gamma, which He's law does without.
  return hk.get_parameter('w', out.shape, out.dtype) * (2**0.5 / _RELU_GAMMA)


def no_gamma(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
  """Takes relu as it is, without its factor gamma: another interceptor."""
  out = next_function(*args, **kwargs)
  return out / _RELU_GAMMA if context.method_name == 'standardized_weight' else out


def intercepted(network: Callable[..., Any], interceptor: Any) -> Callable[..., Any]:
  """Returns a network whose modules' methods are intercepted."""

  def changed(*args: Any, **kwargs: Any) -> Any:
    with hk.intercept_methods(interceptor):
      return network(*args, **kwargs)

  return changed


def compare(depth: str, images: jax.Array, seed: int) -> tuple[list[Curve], dict[str, Any]]:
  """Measures the networks of the figure: narrow ResNet-v2s with relu, at 64 pixels.

  Returns:
    The curves, and name -> spec of the two whose theory is drawn.
  """
  narrow = {'width': (64, 128, 256, 512), 'stem': ((3, 1, 16),), 'stem_pool': False}
  bn = zoo.get_spec(f'BN-{depth}').replace(**narrow)
  nf = zoo.get_spec(f'NF-{depth}').replace(**narrow)

  with_bn, with_nf = of_spec('BN', bn), of_spec('NF', nf)
  curves = []
  for label, colour, style, subject in (
    ('batch normalisation', plot_style.VERMILION, '-', with_bn),
    ('normalizer-free: scaled weight standardisation and gamma', plot_style.BLUE, '-', with_nf),
    ('no normalisation at all', plot_style.PURPLE, '-.', _changed(with_bn, no_norm)),
    (
      'normalizer-free without weight standardisation',
      plot_style.GREEN,
      '--',
      _changed(with_nf, unstandardized),
    ),
    ('normalizer-free without gamma', plot_style.ORANGE, ':', _changed(with_nf, no_gamma)),
  ):
    curves.append(Curve(label, colour, style, measure(subject, images, seed)))
    print(f'measured: {label}', flush=True)
  return curves, {'bn': with_bn, 'nf': with_nf}


def _changed(subject: Subject, interceptor: Any) -> Subject:
  return subject._replace(network=intercepted(subject.network, interceptor))
