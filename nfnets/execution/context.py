"""The choice of how layers are computed: made by whoever trains or compiles, never by a model.

Values agree between all choices, up to the order of summation. The choice is part of the key
under which `jax.jit` caches what it has traced, so a function is retraced under another choice.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import haiku as hk
import jax

CONVOLUTIONS = ('auto', 'plain', 'cpu', 'tpu')
SPACE_TO_DEPTH = ('auto', 'on', 'off')
MINIMAL_FILTERING = ('auto', 'on', 'off')


@dataclasses.dataclass(frozen=True)
class Strategy:
  """How the code that is being traced is computed; see `strategy` for the fields."""

  convolutions: str = 'auto'
  space_to_depth: str = 'auto'
  training_step: bool = False
  rematerialize: tuple[int, ...] = ()
  minimal_filtering: str = 'auto'


_current = jax.make_user_context(Strategy())


def current() -> Strategy:
  """Returns the current choice."""
  return _current.value


def using(chosen: Strategy) -> contextlib.AbstractContextManager:
  """A context with the given choice."""
  return _current(chosen)


@contextlib.contextmanager
def strategy(
  convolutions: str | None = None,
  *,
  space_to_depth: str | None = None,
  training_step: bool | None = None,
  rematerialize: Sequence[int] | None = None,
  minimal_filtering: str | None = None,
) -> Iterator[None]:
  """Chooses, for everything called or traced inside, how layers are computed.

  Arguments that are None keep the value of the enclosing context.

  Args:
    convolutions: 'plain' leaves every convolution to XLA, 'cpu' and 'tpu' rewrite them as
      `nfnets.execution.convolution` says, and 'auto', the default, is what `jax.default_backend()`
      returns, 'plain' on a GPU. Name one when compiling for another kind of machine.
    space_to_depth: whether the stem of a network works on squares of pixels as channels: 'auto',
      the default, does on TPUs, where it was measured, 'on' wherever the image's size allows it,
      'off' never.
    training_step: whether what is traced is compiled here for a step of training, in reverse mode.
      Convolutions written for a CPU then keep only their inputs for the gradient, and recompute
      activations and centred weights: about half the memory, in less time. Reverse mode works to
      every order, forward mode does not. On a TPU the weights keep the layout of the parameters,
      which makes the update faster; `jax.export` does not accept such programs.
      `experiments.train` switches it on; it is off by default.
    rematerialize: numbers, from 0, of the stages whose blocks are recomputed as a whole for the
      gradient (`hk.remat`): less memory, more time. A training step on a CPU ignores it, because
      it would keep more memory than `training_step` alone.
    minimal_filtering: whether a training step on a CPU computes the gradients of 3x3 weights with
      fewer products (`nfnets.execution.minimal_filtering`): 'auto', the default, where that is
      faster, 'on' wherever it is possible, 'off' never. It changes them by rounding, up to 1e-5 of
      a layer's largest gradient.

  Raises:
    ValueError: there is no such choice; raised by a network, it has no such stage.
  """
  given = {
    'convolutions': convolutions,
    'space_to_depth': space_to_depth,
    'training_step': training_step,
    'rematerialize': None if rematerialize is None else tuple(rematerialize),
    'minimal_filtering': minimal_filtering,
  }
  changes = {field: value for field, value in given.items() if value is not None}
  for field, choices in (
    ('convolutions', CONVOLUTIONS),
    ('space_to_depth', SPACE_TO_DEPTH),
    ('minimal_filtering', MINIMAL_FILTERING),
  ):
    if field in changes and changes[field] not in choices:
      raise ValueError(f'Unknown {field} {changes[field]!r}: choose one of {choices}.')
  around = current()
  with contextlib.ExitStack() as stack:
    stack.enter_context(using(dataclasses.replace(around, **changes)))
    if rematerialize and not around.rematerialize:  # else it is there already
      stack.enter_context(hk.intercept_methods(_rematerialized))
    yield


def written_for() -> str:
  """The backend that what is traced here is written for: 'cpu', 'tpu', or 'plain' for any."""
  chosen = current().convolutions
  if chosen == 'auto':
    chosen = jax.default_backend()
  return chosen if chosen in CONVOLUTIONS else 'plain'


def uses_space_to_depth() -> bool:
  """Whether stems traced now work on squares of pixels."""
  chosen = current().space_to_depth
  return chosen == 'on' or (chosen == 'auto' and jax.default_backend() == 'tpu')


def recomputes() -> bool:
  """Whether what is traced now recomputes what it can for the gradient."""
  return current().training_step and written_for() == 'cpu'


def keeps_layout() -> bool:
  """Whether what is traced now keeps weights in the memory layout of the parameters."""
  return current().training_step


def _rematerialized(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
  """Runs the blocks of the chosen stages under `hk.remat`.

  A block has an attribute `stage`, its number, and a network `num_stages`.
  """
  chosen = current().rematerialize
  count = getattr(context.module, 'num_stages', None)
  if count is not None and not all(0 <= stage < count for stage in chosen):
    raise ValueError(
      f'rematerialize={chosen} names a stage that {context.module.name} does not have: its '
      f'{count} stages are 0 to {count - 1}.'
    )
  is_block = context.method_name == '__call__' and getattr(context.module, 'stage', None) in chosen
  if not is_block or recomputes():
    return call(*args, **kwargs)
  x, *rest = args
  return hk.remat(lambda x: call(x, *rest, **kwargs))(x)


def is_explicitly_sharded(x: jax.Array) -> bool:
  """Whether an array's type says how it lies on several devices (a mesh of explicit axes)."""
  return any(part is not None for part in jax.typeof(x).sharding.spec)
