"""Times our ONNX file in runtimes for serving. Needs no JAX."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nfnets import onnx_session
from scripts.benchmarking import serving

# Contestant -> the package that it needs.
PACKAGES = {'onnx': 'onnxruntime', 'openvino': 'openvino'}


class RuntimeWorker(serving.Worker):
  """Times the contestants 'onnx' (ONNX Runtime) and 'openvino' on the CPU, in float32."""

  def about(self, contestant: str) -> dict[str, Any]:
    """Returns the versions.

    Raises:
      ImportError: the contestant's package is not installed.
    """
    package = PACKAGES[contestant]
    version = importlib.import_module(package).__version__.split('-')[0]  # without the commit
    return {'versions': {'python': sys.version.split()[0], package: version}}

  def build(
    self,
    *,
    contestant: str,
    files: Mapping[str, str],
    task: str,
    batch: int,
    size: int,
    dtype: str,
    **_: Any,
  ) -> Callable[[], np.ndarray]:
    """Returns a function of no arguments -> logits, float32 [batch, 1000], of random images.

    Raises:
      ValueError: another task than 'predict', or another dtype than float32.
    """
    if task != 'predict' or dtype != 'float32':
      raise ValueError(f'an ONNX file predicts in float32, asked for: {task} in {dtype}')
    images = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    make = {'onnx': _onnx_runtime, 'openvino': _openvino}[contestant]
    return make(files['onnx'], images)


def _threads() -> int:
  """As many as OpenMP, and so PyTorch, is told to take; 0: as many as the runtime wants."""
  return int(os.environ.get('OMP_NUM_THREADS', 0))


def _onnx_runtime(file: str, images: np.ndarray) -> Callable[[], np.ndarray]:
  load = functools.partial(onnx_session.load, file)
  session = onnx_session.OnnxSession(load, _threads())
  return lambda: session(images, ['logits'])[0]


def _openvino(file: str, images: np.ndarray) -> Callable[[], np.ndarray]:
  import openvino

  core = openvino.Core()
  model = core.read_model(file)
  model.reshape(images.shape)
  # As the others: some processors would compute in bfloat16 otherwise.
  options = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
  options |= {'INFERENCE_NUM_THREADS': _threads()}
  compiled = core.compile_model(model, 'CPU', options)
  request, output = compiled.create_infer_request(), compiled.output(0)
  return lambda: request.infer({'images': images}, share_inputs=True)[output]


if __name__ == '__main__':
  serving.serve(RuntimeWorker)
