"""What the batch-normalised networks share: specs, layers, the head, the state in a file.

Batch normalisation keeps running statistics, so these networks need `hk.transform_with_state`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations
from nfnets.execution import convolve
from nfnets.spec import check_fields

_STATE_PREFIX = 'state/'  # of the modules of a network's state, in one tree with its parameters

Tree = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineSpec:
  """The fields that the specs of all baselines share; each family adds its own."""

  FAMILY: ClassVar[str]  # module name of the network
  NORM_DECAY: ClassVar[float]  # of the running statistics
  NORM_EPS: ClassVar[float]  # added to the variance
  MIXES_EXAMPLES: ClassVar[bool] = True  # whether a batch is normalised as a whole

  family: str = ''  # FAMILY, so that a stored spec says what it is of
  activation: str = 'relu'  # a name in nfnets.activations.ACTIVATIONS; not scaled here
  drop_rate: float = 0.0  # dropout before the classifier
  stochdepth_rate: float = 0.0  # stochastic depth rate that the last block approaches
  train_size: int = 224  # side of the training images, pixels
  test_size: int = 224  # side of the evaluation images, pixels
  augment_magnitude: float = 0.0  # of RandAugment; none of the baselines' papers has one
  folded: bool = False  # whether the convolutions hold the normalisations, see nfnets.deploy.fold

  def __post_init__(self):
    """Turns lists into tuples and checks the values."""
    object.__setattr__(self, 'family', self.family or self.FAMILY)
    for field in dataclasses.fields(self):
      object.__setattr__(self, field.name, _as_tuples(getattr(self, field.name)))
    if self.family != self.FAMILY:
      raise ValueError(f'{type(self).__name__} is of {self.FAMILY!r}, got family={self.family!r}.')
    activations.get(self.activation)
    for field in ('drop_rate', 'stochdepth_rate'):
      if not 0 <= getattr(self, field) < 1:
        raise ValueError(
          f'{type(self).__name__}.{field} must be in [0, 1), got {getattr(self, field)}.'
        )

  def conv_before(self, norm: str) -> str | None:
    """Names the convolution directly before a normalisation; None if there is none.

    Args:
      norm: module name of the normalisation; the convolution's is in the same module.
    """
    raise NotImplementedError

  def replace(self, **changes: Any) -> Self:
    """Returns a copy with some fields changed.

    Raises:
      ValueError: there is no such field, or the network cannot be built.
    """
    return type(self).from_dict({**self._fields(), **changes})

  def _fields(self) -> dict[str, Any]:
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as plain numbers, strings and tuples, ready for JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> Self:
    """Builds a spec from the result of `to_dict`, or from part of it.

    Raises:
      ValueError: there is an unknown field, one is missing, or the network cannot be built.
    """
    check_fields(cls, fields)
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in fields]
    if missing:
      raise ValueError(f'{cls.__name__} needs {" and ".join(missing)}.')
    return cls(**fields)


def _as_tuples(value: Any) -> Any:
  """Lists, as they come from JSON, as tuples."""
  return tuple(_as_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def find_variant(
  variant: str | BaselineSpec, table: Mapping[str, BaselineSpec], changes: Mapping[str, Any]
) -> BaselineSpec:
  """Returns the spec of a name in a family's table, or the given one, with fields changed.

  Raises:
    ValueError: there is no such variant, or the network cannot be built.
  """
  if isinstance(variant, str):
    if variant not in table:
      raise ValueError(f'Unknown variant {variant!r}: choose one of {", ".join(table)}.')
    variant = table[variant]
  return variant.replace(**{field: v for field, v in changes.items() if v is not None})


class BlockRow(NamedTuple):
  """One residual block, a row of its network's table."""

  in_channels: int
  out_channels: int
  stride: int
  stochdepth_rate: float
  is_first: bool  # of its stage


def plan_stages(spec: Any, in_channels: int) -> list[list[BlockRow]]:
  """Returns the blocks of each stage of a ResNet.

  Args:
    spec: has a width, a depth and a stride for each stage, and the last block's stochdepth_rate.
    in_channels: of the first block.
  """
  stages = []
  for width, depth, stride in zip(spec.width, spec.depth, spec.stride, strict=True):
    before = sum(map(len, stages))
    blocks = []
    for i in range(depth):
      rate = spec.stochdepth_rate * (before + i) / sum(spec.depth)
      blocks.append(BlockRow(in_channels, width, stride if i == 0 else 1, rate, i == 0))
      in_channels = width
    stages.append(blocks)
  return stages


class Conv2D(hk.Module):
  """A plain convolution of [N, H, W, I] without bias, its parameter `w` [k, k, I / groups, O]."""

  def __init__(
    self,
    output_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    w_init: hk.initializers.Initializer | None = None,
    name: str | None = None,
  ):
    """Builds the layer, padded 'SAME'. By default the weights start as N(0, 2 / fan_in)."""
    super().__init__(name=name)
    self.output_channels = output_channels
    self.kernel = kernel
    self.stride = stride
    self.groups = groups
    self.w_init = w_init or hk.initializers.VarianceScaling(2.0, 'fan_in', 'truncated_normal')

  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves x [N, H, W, I] to [N, H / stride, W / stride, O]."""
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.output_channels)
    w = hk.get_parameter('w', shape, x.dtype, init=self.w_init)
    return convolve(x, w, stride=self.stride, groups=self.groups)


class BatchNorm(hk.Module):
  """`hk.BatchNorm` over all but the channels, in float32 whatever the dtype around it.

  Squares of bfloat16 numbers would leave the variance only two correct digits.
  """

  def __init__(
    self,
    decay: float,
    eps: float,
    cross_replica_axis: str | None = None,
    name: str | None = None,
  ):
    """Builds the layer: learnt scale and offset [1, 1, 1, C], running mean and variance.

    Args:
      decay: of the running statistics.
      eps: added to the variance.
      cross_replica_axis: name of a mapped axis (of pmap or vmap) whose devices share their
        statistics while training; None: each normalises its own examples.
      name: Haiku module name.
    """
    super().__init__(name=name)
    self.norm = hk.BatchNorm(
      create_scale=True,
      create_offset=True,
      decay_rate=decay,
      eps=eps,
      cross_replica_axis=cross_replica_axis,
      name='batch_norm',
    )

  def __call__(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Normalises x [N, H, W, C]; keeps its dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if hk.running_init():
      is_training = True  # only then does Haiku make the running statistics
      self.norm.cross_replica_axis = None  # their values are dropped, so no axis need be mapped
    return self.norm(wide, is_training, test_local_stats).astype(x.dtype)


class FoldedNorm(hk.Module):
  """What remains of a folded normalisation: its offset, the bias of the convolution before it.

  If no convolution comes directly before it, there is also a scale.
  """

  def __init__(self, has_scale: bool, name: str):
    """Builds the layer; parameters are `offset` [C] and, if asked for, `scale` [C]."""
    super().__init__(name=name)
    self.has_scale = has_scale

  def __call__(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Scales and shifts x [N, H, W, C], the same in training and evaluation."""
    del is_training, test_local_stats  # there are no statistics
    if self.has_scale:
      x = x * hk.get_parameter('scale', x.shape[-1:], x.dtype, init=jnp.ones)
    return x + hk.get_parameter('offset', x.shape[-1:], x.dtype, init=jnp.zeros)


def make_norm(spec: BaselineSpec, name: str, axis: str | None) -> BatchNorm | FoldedNorm:
  """Returns the normalisation of a network; `axis` as `BatchNorm`'s cross_replica_axis."""
  if spec.folded:
    return FoldedNorm(spec.conv_before(name) is None, name)
  return BatchNorm(spec.NORM_DECAY, spec.NORM_EPS, axis, name)


class Baseline(hk.Module):
  """The head of a batch-normalised network; a subclass provides `features` and `finish`."""

  def __init__(
    self,
    num_classes: int,
    spec: BaselineSpec,
    classifier_init: hk.initializers.Initializer,
    name: str,
  ):
    """Builds the classifier of `num_classes` logits, its weights drawn by `classifier_init`."""
    super().__init__(name=name)
    if num_classes < 1:
      raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
    self.spec = spec
    self.activation = activations.get(spec.activation).function
    self.classifier = hk.Linear(num_classes, w_init=classifier_init, name='linear')

  def __call__(
    self, images: jax.Array, is_training: bool, test_local_stats: bool = False
  ) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: [N, H, W, 3] normalised images of any size, float32 or bfloat16.
      is_training: whether the batch's own statistics are used and the running ones updated, and
        dropout and stochastic depth are active (then a random key is needed).
      test_local_stats: the batch's own statistics outside training, too.

    Returns:
      {'pool': [N, C] pooled features, 'logits': [N, K]}, in the images' dtype.
    """
    if images.ndim != 4:
      raise ValueError(f'Images must be [N, H, W, C], got shape {images.shape}.')
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f'Images must be normalised numbers in float32 or bfloat16, got {images.dtype}: '
        'nfnets.inference.preprocess makes them of pictures.'
      )
    maps = self.features(images, is_training, test_local_stats)
    x = maps[f'stage{len(maps) - 2}']  # by name: a policy of Haiku's sorts the maps
    pool = jnp.mean(self.finish(x, is_training, test_local_stats), axis=(1, 2))
    out = pool
    if is_training and self.spec.drop_rate > 0:
      out = hk.dropout(hk.next_rng_key(), self.spec.drop_rate, out)
    return {'pool': pool, 'logits': self.classify(out)}

  def classify(self, pool: jax.Array) -> jax.Array:
    """The logits [N, K] of pooled features [N, C], after dropout."""
    return self.classifier(pool)


def join_state(params: Mapping[str, Any], state: Mapping[str, Any]) -> Tree:
  """Returns parameters and a network's state as one tree, for `nfnets.weights.save`.

  Args:
    params: module path -> name -> array.
    state: the same, the running statistics; may be empty.
  """
  return {**params, **{f'{_STATE_PREFIX}{module}': entries for module, entries in state.items()}}


def split_state(tree: Mapping[str, Any]) -> tuple[Tree, Tree]:
  """Returns the parameters and the state of a tree that `join_state` made."""
  params = {m: entries for m, entries in tree.items() if not m.startswith(_STATE_PREFIX)}
  state = {
    m.removeprefix(_STATE_PREFIX): entries
    for m, entries in tree.items()
    if m.startswith(_STATE_PREFIX)
  }
  return params, state
