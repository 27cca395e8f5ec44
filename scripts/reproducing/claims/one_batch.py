"""What one example's result depends on, and what a step costs: no training run."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.reporting import plot_style
from experiments.training import steps
from experiments.training.gradients import StepSettings, cross_entropy
from nfnets import initialization, optim, zoo
from scripts.reproducing import drawing, networks
from scripts.reproducing.claims.claim import Claim, Measurement
from scripts.reproducing.pictures import Pictures, make_batch
from scripts.reproducing.rows import Row

_MODES = {'training': True, 'test': False}
_LABELS = {'BN': 'batch normalisation', 'NF': 'normalizer-free'}
_NEIGHBOURS = 24  # different batches that the example is put into
_BATCHES = (2, 8, 32)


def _differences(name: str, mode: str, batch: int, pictures: Pictures) -> Row:
  """How far an example's logits and gradient change with the other examples of its batch.

  Returns:
    The largest change of any logit over the largest logit, the same of the gradient of the
    example's loss by norms; of all pairs of a first batch and another one.
  """
  network = networks.build(name, pictures.num_classes)
  images, labels = pictures.train
  key, opening = jax.random.split(jax.random.key(0))
  function = functools.partial(networks.function(name, pictures.num_classes), is_training=True)
  params, _ = initialization.initialize(function, key, images[:batch])
  params = initialization.open_branches(params, opening)
  _, state = network.init(key, jnp.asarray(images[:batch]), is_training=True)
  if mode == 'test':  # running statistics of real pictures, of a test as it is
    for start in range(0, 320, 32):
      _, state = network.apply(params, state, None, images[start : start + 32], is_training=True)

  @jax.jit
  def example(params: Any, batch_images: jax.Array) -> tuple[jax.Array, Any]:
    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
      out, _ = network.apply(params, state, None, batch_images, is_training=_MODES[mode])
      logits = out['logits'][:1]
      label, one = labels[:1], np.ones(1, np.float32)
      return jnp.sum(cross_entropy(logits, label, label, one, 0.0)), logits[0]

    gradient, logits = jax.grad(loss, has_aux=True)(params)
    return logits, gradient

  rng = np.random.default_rng(0)
  results = []
  for _ in range(_NEIGHBOURS):
    others = rng.choice(np.arange(1, len(images)), batch - 1, replace=False)
    results.append(example(params, jnp.asarray(images[[0, *others]])))
  (logits, gradient), *rest = results
  largest, norm = jnp.max(jnp.abs(logits)), _norm(gradient)
  changes = [jnp.max(jnp.abs(other - logits)) / largest for other, _ in rest]
  turns = [_norm(jax.tree.map(jnp.subtract, other, gradient)) / norm for _, other in rest]
  return {'logits': float(max(changes)), 'gradient': float(max(turns))}


def _norm(tree: Any) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def _independence(pictures: Pictures, quick: bool) -> list[Measurement]:
  return [
    (
      {'label': _LABELS[name], 'network': name, 'mode': mode, 'batch': batch},
      functools.partial(_differences, name, mode, batch, pictures),
    )
    for name in _LABELS
    for mode in _MODES
    for batch in (_BATCHES[:1] if quick else _BATCHES)
  ]


def _draw_independence(rows: Sequence[Row]) -> Figure:
  figure, panels = drawing.panels(2)
  curves = [(label, mode) for label in _LABELS.values() for mode in _MODES]
  for axes, quantity in zip(panels, ('logits', 'gradient'), strict=True):
    for i, (label, mode) in enumerate(curves):
      own = [row for row in rows if (row['label'], row['mode']) == (label, mode)]
      xs, ys = [row['batch'] for row in own], [row[quantity] for row in own]
      size = 15 - 3 * i  # several are exactly 0, one upon the other
      style = {**drawing.STYLES[i], 'markersize': size, 'fillstyle': 'none'}
      axes.plot(xs, ys, label=f'{label}, {mode}', **style)
    drawing.log_axis(axes, {row['batch'] for row in rows})
    axes.set_yscale('symlog', linthresh=2**-23)  # below float32's rounding only 0 means something
    axes.set_yticks([0, *(10.0**power for power in range(-6, 1, 2))])
    axes.set_ylim(-5e-8, 5)
    axes.set_xlabel('batch')
    axes.set_ylabel('largest relative change')
    axes.set_title(f"one example's {quantity}, other neighbours", fontsize='medium')
    plot_style.tidy(axes)
  drawing.legend_above(figure, panels[0])
  return figure


def _say_independence(rows: Sequence[Row]) -> list[str]:
  return [
    f'{row["label"]}, {row["mode"]}, batch {row["batch"]}: with other neighbours the logits change '
    f'by {row["logits"]:.1e}, the gradient by {row["gradient"]:.1e} of themselves'
    for row in rows
  ]


def _step(name: str, size: int, batch: int) -> Callable[[], None]:
  """Returns a function that makes one train step of a published network, compiled."""
  spec = zoo.get_spec(name)
  network = hk.transform_with_state(
    lambda images, is_training: zoo.create_model(spec, 1000)(images, is_training)
  )
  optimizer = optim.nfnet_sgd(0.1, clipping=None if name.startswith('BN-') else 0.01)
  settings = StepSettings(schedule=lambda step: jnp.float32(0.1), clipping=None)
  images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
  data = make_batch(images, np.zeros(batch, np.int32))
  key = jax.random.key(0)
  params, _ = initialization.initialize(
    lambda x: zoo.create_model(spec, 1000)(x, is_training=True), key, images[:1]
  )
  state_shapes = jax.eval_shape(
    functools.partial(network.init, is_training=True), key, jnp.asarray(images[:1])
  )[1]
  network_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state_shapes)
  step = steps.make_train_step(network, optimizer, settings)
  held = [steps.replicate(steps.begin(optimizer, params, network_state))]

  def run() -> None:
    held[0], values = step(held[0], data)
    jax.block_until_ready(values)

  run()
  return run


def _step_times(name: str, size: int, batch: int, rounds: int) -> Row:
  """Times both networks by turns, so that other work on the machine meets both alike."""
  runs = {'nf': _step(name, size, batch), 'bn': _step(f'BN-{name}', size, batch)}
  seconds: dict[str, list[float]] = {which: [] for which in runs}
  for _ in range(rounds):
    for which, run in runs.items():
      began = time.perf_counter()
      run()
      seconds[which].append(time.perf_counter() - began)
  ratios = np.array(seconds['nf']) / seconds['bn']
  return {
    'nf_seconds': round(float(np.median(seconds['nf'])), 4),
    'bn_seconds': round(float(np.median(seconds['bn'])), 4),
    'ratios': [round(float(ratio), 4) for ratio in ratios],
  }


def _step_cost(_pictures: Pictures, quick: bool) -> list[Measurement]:
  sizes = ((64, 2, 3),) if quick else ((96, 4, 7),)
  return [
    (
      {'network': 'F0', 'size': size, 'batch': batch, 'rounds': rounds},
      functools.partial(_step_times, 'F0', size, batch, rounds),
    )
    for size, batch, rounds in sizes
  ]


# [NFNet] table 3: milliseconds of a step on TPUv3, NFNet and the same with batch normalisation.
_PUBLISHED = {'F0': (73.3, 111.7), 'F1': (158.5, 258.0), 'F2': (295.8, 396.3), 'F3': (532.2, 617.7)}


def _draw_step_cost(rows: Sequence[Row]) -> Figure:
  figure, (axes,) = drawing.panels(1, width=6.0)
  published = [nf / bn for nf, bn in _PUBLISHED.values()]
  axes.plot(range(len(published)), published, 'o', color=plot_style.BLUE, label='published, TPUv3')
  names = [*_PUBLISHED]
  for row in rows:
    place = len(names)
    names.append(f'{row["network"]}, {row["size"]} px,\nbatch {row["batch"]}')
    axes.plot(
      [place] * len(row['ratios']), row['ratios'], 's', alpha=0.4, color=plot_style.VERMILION
    )
    axes.hlines(np.median(row['ratios']), place - 0.3, place + 0.3, color=plot_style.VERMILION)
  axes.plot([], [], 's-', color=plot_style.VERMILION, label='here, CPU: each turn, and the median')
  axes.axhline(1, color='0.5', linewidth=1)
  axes.set_ylim(bottom=0)
  axes.set_xticks(range(len(names)), names)
  axes.set_ylabel('time of a step over that with BN')
  axes.legend(frameon=False, loc='lower right')
  plot_style.tidy(axes, 'y')
  return figure


def _say_step_cost(rows: Sequence[Row]) -> list[str]:
  lines = []
  for row in rows:
    low, median, high = np.quantile(row['ratios'], (0, 0.5, 1))
    lines.append(
      f'{row["network"]} at {row["size"]} px, batch {row["batch"]}: a step takes {median:.2f} of '
      f'the time with batch normalisation ({low:.2f} to {high:.2f} over {row["rounds"]} turns)'
    )
  return lines


BATCH_INDEPENDENCE = Claim(
  name='batch_independence',
  statement="An example's result does not depend on the rest of its batch in a normalizer-free "
  'network; with batch normalisation it does in training.',
  source='[NFNet] section 1',
  measurements=_independence,
  draw=_draw_independence,
  say=_say_independence,
)
STEP_COST = Claim(
  name='step_cost',
  statement='A step of an NFNet takes 20 to 40 % less time than one of the same network with batch '
  'normalisation.',
  source='[NFNet] table 3',
  measurements=_step_cost,
  draw=_draw_step_cost,
  say=_say_step_cost,
)
