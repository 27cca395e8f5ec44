"""Theory of each block's variance at initialisation, for images of white noise.

The derivation is that of [SigProp] sections 3 and 4 (arXiv 2101.08692): the inputs of each layer
are assumed to be Gaussian and its channels independent, so that a convolution turns second moments
into variances and an activation is an integral in one dimension.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from nfnets import activations, sides
from nfnets.baselines.resnet import ResNetSpec
from nfnets.block_plan import plan_blocks
from nfnets.spec import ModelSpec

_HE = 2.0  # fan-in times the variance of a baseline's weights (arXiv 1502.01852)
_POINTS = 100  # of the quadrature
_NOT_ELEMENTWISE = ('glu', 'log_softmax')


class Moments(NamedTuple):
  """The moments of one block; each is a mean over channels."""

  variance: float  # of the block's output
  squared_mean: float  # of the block's output
  branch_variance: float  # of the residual branch, before it is scaled


def activation_moments(name: str, variance: float = 1.0, gamma: float = 1.0) -> tuple[float, float]:
  """Returns mean and variance of `gamma * act(x)` for x ~ N(0, variance), by Gauss-Hermite.

  Raises:
    ValueError: there is no such activation, or it mixes its inputs.
  """
  if name in _NOT_ELEMENTWISE:
    raise ValueError(f'There is no theory for {name!r}: it mixes channels.')
  z, weight = np.polynomial.hermite_e.hermegauss(_POINTS)
  weight = weight / weight.sum()
  function = activations.get(name).function
  y = gamma * np.asarray(function(jnp.asarray(np.sqrt(variance) * z)), np.float64)
  mean = weight @ y
  return float(mean), float(weight @ np.square(y) - mean**2)


def predict(spec: ModelSpec) -> list[Moments]:
  """Returns the moments of a normalizer-free network's blocks, with its skip gains at 1.

  A standardised convolution preserves the variance and, as its weights sum to zero, leaves no mean;
  an activation maps the variance q to V(q), which is 1 at 1; average pooling of n pixels that are
  independent divides by n. It ignores padding, the noise of finite widths, and a max pool in the
  stem.

  Raises:
    ValueError: the activation is not elementwise, or the network has two trunks.
  """
  if spec.fast is not None:
    raise ValueError('There is no theory of two trunks: give the spec of one, such as fast_trunk.')
  gamma = activations.get(spec.activation).gamma

  def v(q: float) -> float:
    return activation_moments(spec.activation, q, gamma)[1]

  q, moments = 1.0, []
  for plan in plan_blocks(spec):
    normalised = branch = v(q) * plan.beta**2
    for _ in range(3 if spec.two_convs else 2):  # the activations inside the branch
      branch = v(branch)
    pooled = math.prod(sides.pair(plan.stride)) if spec.shortcut == 'average_pool' else 1
    q = (normalised / pooled if plan.is_transition else q) + spec.alpha**2 * branch
    moments.append(Moments(q, 0.0, branch))
  return moments


def design(spec: ModelSpec) -> list[float]:
  """Returns the variance that each block's beta assumes: 1 + k alpha^2 after k blocks of a stage.

  It is `predict` without pooling and with an activation for which V(q) = q, such as relu.
  """
  return [plan.expected_std**2 for plan in plan_blocks(spec)]


def predict_baseline(spec: ResNetSpec) -> list[Moments]:
  """Returns the moments of a batch-normalised ResNet's blocks, if no branch starts at zero.

  Whatever the input of a branch, its last convolution sees act(z) with z ~ N(0, 1), and gives it a
  second moment of 2 E[act(z)^2], 1 for relu. Of that, 2 E[act(z)]^2 is the square of a mean that
  each channel has over the whole batch: for relu 1 / pi, which leaves a variance of 1 - 1 / pi. The
  moments of branch and shortcut add up within a stage; a transition's shortcut is a convolution of
  normalised inputs, so there the sum starts again.
  """
  mean, variance = activation_moments(spec.activation)
  attention = 0.25 if spec.se_ratio else 1.0  # sigmoid(0), squared
  branch = Moments(_HE * variance * attention, _HE * mean**2 * attention, 0.0)
  in_channels = spec.stem[-1][2]
  # The stem's last convolution sees the images, or an activation.
  variance_sum, squared_mean_sum = (_HE, 0.0)
  if len(spec.stem) > 1:
    variance_sum, squared_mean_sum = _HE * variance, _HE * mean**2
  moments = []
  for width, depth, stride in zip(spec.width, spec.depth, spec.stride, strict=True):
    for index in range(depth):
      if index == 0 and (stride > 1 or in_channels != width):
        pooled = stride**2 if spec.shortcut == 'average_pool' else 1
        variance_sum, squared_mean_sum = _HE * variance / pooled, _HE * mean**2
      variance_sum += branch.variance
      squared_mean_sum += branch.squared_mean
      moments.append(Moments(variance_sum, squared_mean_sum, branch.variance))
    in_channels = width
  return moments
