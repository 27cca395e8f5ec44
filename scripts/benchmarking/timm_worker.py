"""Times timm's models on PyTorch. Needs neither JAX nor this library: only torch and timm."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from scripts.benchmarking import serving

LABEL_SMOOTHING = 0.1
CLIPPING = 0.01
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
WEIGHT_DECAY = 2e-5
EMA_DECAY = 0.99999


class TimmWorker(serving.Worker):
  """Times the contestants 'timm' (channels last), 'timm-contiguous' and 'timm-compiled'."""

  def __init__(self):
    """Imports torch and timm.

    Raises:
      ImportError: one of them is not installed.
    """
    super().__init__()
    import timm
    import torch

    self._timm, self._torch = timm, torch
    self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    # As JAX does by default: products of float32 may round their factors to TF32 on a GPU.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True

  def about(self) -> dict[str, Any]:
    """Returns the versions and what PyTorch runs on."""
    torch = self._torch
    cuda = self._device.type == 'cuda'
    return {
      'versions': {
        'python': sys.version.split()[0],
        'torch': torch.__version__,
        'timm': self._timm.__version__,
      },
      'device': torch.cuda.get_device_name() if cuda else 'cpu',
      'platform': self._device.type,
      'threads': torch.get_num_threads(),
    }

  def product(self, size: int, dtype: str) -> Callable[[], Any]:
    """See the base class."""
    torch = self._torch
    matrix = torch.randn(size, size, device=self._device).to(getattr(torch, dtype))

    def run() -> None:
      torch.matmul(matrix, matrix)
      self._wait()

    return run

  def build(
    self,
    *,
    contestant: str,
    timm_name: str,
    task: str,
    batch: int,
    size: int,
    dtype: str,
    rates: Mapping[str, float],
    **_: Any,
  ) -> Callable[[], Any]:
    """Returns a function that does the task once, its tensors being on the device.

    Raises:
      ValueError: timm has no model of the name.
    """
    torch = self._torch
    if timm_name not in self._timm.list_models():
      raise ValueError(f'timm {self._timm.__version__} has no model {timm_name!r}')
    torch.manual_seed(0)
    rates = rates if task != 'predict' else {}
    model = self._timm.create_model(timm_name, pretrained=False, **rates)
    with torch.no_grad():
      for name, parameter in model.named_parameters():
        if name.endswith('skipinit_gain'):
          parameter.fill_(1.0)  # as ours: see jax_worker
    layout = torch.contiguous_format if contestant == 'timm-contiguous' else torch.channels_last
    precision = torch.bfloat16 if task == 'predict' and dtype == 'bfloat16' else torch.float32
    model = model.to(self._device, precision, memory_format=layout).train(task != 'predict')
    images = torch.randn(batch, 3, size, size, device=self._device).to(memory_format=layout)
    if contestant == 'timm-compiled':
      model.compile()
    if task == 'predict':
      return self._predict(model, images, precision)
    labels = torch.arange(batch, device=self._device) % 1000
    gradient = self._gradient(model, images, labels, dtype)
    return gradient if task == 'gradient' else self._step(model, gradient)

  def device_memory(self) -> int | None:
    """None on the CPU, where PyTorch does not count."""
    return None if self._device.type == 'cpu' else self._torch.cuda.max_memory_allocated()

  def reset_device_memory(self) -> None:
    """From here on; what tried convolution algorithms out does not count."""
    if self._device.type == 'cuda':
      self._torch.cuda.reset_peak_memory_stats()

  def _wait(self) -> None:
    if self._device.type == 'cuda':
      self._torch.cuda.synchronize()

  def _predict(self, model: Any, images: Any, precision: Any) -> Callable[[], Any]:
    torch = self._torch

    @torch.inference_mode()
    def run() -> Any:
      logits = model(images.to(precision)).float()
      self._wait()
      return logits

    return run

  def _gradient(self, model: Any, images: Any, labels: Any, dtype: str) -> Callable[[], Any]:
    torch = self._torch

    def run() -> None:
      model.zero_grad(set_to_none=True)
      half = torch.autocast(self._device.type, torch.bfloat16)
      with half if dtype == 'bfloat16' else contextlib.nullcontext():
        logits = model(images)
      loss = torch.nn.functional.cross_entropy(
        logits.float(), labels, label_smoothing=LABEL_SMOOTHING
      )
      loss.backward()
      self._wait()

    return run

  def _step(self, model: Any, gradient: Callable[[], Any]) -> Callable[[], Any]:
    """The same recipe with timm's parts: AGC, Nesterov momentum, averaged weights."""
    from timm.models import model_parameters
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, adaptive_clip_grad

    optimizer = create_optimizer_v2(
      model, 'sgd', lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    average = ModelEmaV3(model, decay=EMA_DECAY)

    def run() -> None:
      gradient()
      adaptive_clip_grad(model_parameters(model, exclude_head=True), CLIPPING)
      optimizer.step()
      average.update(model)
      self._wait()

    return run


if __name__ == '__main__':
  serving.serve(TimmWorker)
