"""The runtime of a network in use: XLA, or the faster ONNX Runtime on a CPU."""

import functools
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets import baselines, installation, interruption, onnx_session, weights, zoo
from nfnets.deploy import onnx_file
from nfnets.deploy.folding import Params

RUNTIMES = ('jax', 'onnx')
_PACKAGES = ('onnx', 'onnxruntime')


class Runtime(Protocol):
  """A network that is ready to run."""

  feature_names: tuple[str, ...]  # what it can give

  def __call__(
    self, images: np.ndarray, names: Sequence[str], pad_to: int
  ) -> Mapping[str, jax.Array | np.ndarray]:
    """Starts the computation.

    Args:
      images: float32 [N, H, W, 3], normalised.
      names: which outputs.
      pad_to: at least N; programs that are compiled for a number of images use this number.

    Returns:
      Name -> float32 [at least N, ...], of which the first N rows count.
    """


def choose(runtime: str | None, dtype: str) -> str:
  """Returns the runtime for this machine: one of RUNTIMES.

  Args:
    runtime: the user's choice; None: ONNX Runtime if JAX computes on a CPU, in float32, and it is
      installed, otherwise XLA.
    dtype: the dtype in which the network computes.

  Raises:
    ImportError: ONNX Runtime was chosen but is not installed.
    ValueError: there is no such runtime, or it does not compute in this dtype.
  """
  if runtime is None:
    on_cpu = dtype == 'float32' and jax.default_backend() == 'cpu'
    return 'onnx' if on_cpu and not _missing() else 'jax'
  if runtime not in RUNTIMES:
    raise ValueError(f'runtime must be one of {", ".join(RUNTIMES)}, got {runtime!r}.')
  if runtime == 'onnx':
    if dtype != 'float32':
      raise ValueError(f"the runtime 'onnx' computes in float32, not in {dtype}: use 'jax'.")
    if _missing():
      needed = ' and '.join(_missing())
      raise ImportError(f"the runtime 'onnx' needs {needed}: {installation.command('serve')}")
  return runtime


def _missing() -> list[str]:
  return [name for name in _PACKAGES if not _is_installed(name)]


def _is_installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ValueError:  # it is set to None among the loaded modules
    return False


class OnnxRuntime:
  """A network in ONNX Runtime, on the CPU: 'logits' [N, K] and 'pool' [N, C]."""

  feature_names = ('logits', 'pool')

  def __init__(self, params: Params, spec: zoo.AnySpec, size: int):
    """Folds the network and hands it over.

    Args:
      params: as for `fold`, with a classifier.
      spec: what they belong to.
      size: height and width of the images, in pixels.
    """

    def load(threads: int) -> Any:
      with interruption.temporary_folder() as folder:  # a file may be above the 2 GB of a message
        path = pathlib.Path(folder) / 'network.onnx'
        onnx_file.export_onnx(path, params, spec, size=size, pool=True)
        return onnx_session.load(path, threads)

    self._session = onnx_session.OnnxSession(load)

  def __call__(
    self, images: np.ndarray, names: Sequence[str], pad_to: int
  ) -> dict[str, np.ndarray]:
    """Computes; see `Runtime`."""
    return dict(zip(names, self._session(images, names), strict=True))


class XlaRuntime:
  """A network compiled by XLA for JAX's default device, with all its maps."""

  def __init__(self, params: Params, spec: zoo.AnySpec, size: int, dtype: str):
    """Moves the parameters to the device; compiles nothing yet.

    Args:
      params: as `weights.fit` returns them.
      spec: what they belong to.
      size: height and width of the images, in pixels.
      dtype: what the network computes in.
    """
    self._spec, self._dtype = spec, dtype
    self._num_classes = weights.count_classes(params, spec)
    params, state = baselines.split_state(params)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    self._variables = params, jax.tree.map(jnp.asarray, state)
    self._transformed = hk.transform_with_state(self._network)
    self._program = jax.jit(self._compute, static_argnames='names')
    self._images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

  @functools.cached_property
  def feature_names(self) -> tuple[str, ...]:
    """The maps and the outputs of the network."""
    outputs, _ = jax.eval_shape(self._transformed.apply, *self._variables, None, self._images)
    return tuple(outputs)

  def __call__(self, images: np.ndarray, names: Sequence[str], pad_to: int) -> dict[str, jax.Array]:
    """Starts to compute; see `Runtime`."""
    rows = [(0, pad_to - len(images)), (0, 0), (0, 0), (0, 0)]
    return self._program(self._variables, np.pad(images, rows), names=tuple(names))

  def _network(self, batch: jax.Array) -> dict[str, jax.Array]:
    """The outputs and the maps on the way to them, float32, of normalised images [N, H, W, 3]."""
    outputs = {}

    def keep_maps(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if context.method_name == 'features':
        outputs.update(out)
      return out

    with hk.intercept_methods(keep_maps):
      model = zoo.create_model(self._spec, self._num_classes)
      outputs.update(model(batch.astype(self._dtype), is_training=False))
    return {name: out.astype(jnp.float32) for name, out in outputs.items()}

  def _compute(
    self, variables: tuple[Params, Params], batch: jax.Array, names: tuple[str, ...]
  ) -> dict[str, jax.Array]:
    outputs, _ = self._transformed.apply(*variables, None, batch)
    return {name: outputs[name] for name in names}  # the compiler drops the others
