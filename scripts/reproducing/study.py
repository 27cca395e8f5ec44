"""A grid of runs: each method at its own best learning rate, chosen on pictures kept from training.

The first seed tries all rates of a grid that is the same for all methods; the other seeds repeat
the best one. All runs of a study have the same number of pictures to learn from.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import optax

from experiments.training.gradients import StepSettings
from nfnets import optim
from scripts.reproducing import networks
from scripts.reproducing.pictures import SIZE, Pictures
from scripts.reproducing.rows import Row, Rows
from scripts.reproducing.training import Trainer

_WARMUP = 0.1  # of a run
_LABEL_SMOOTHING = 0.1
_EMA_DECAY = 0.95  # parameters and running statistics are averaged over the last twenty updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
  """A method at one setting: what its best learning rate is found for.

  Attributes:
    label: of the method.
    network: a name in `networks`.
    depth: blocks of each stage.
    batch: pictures of an update.
    slices: parts of the batch that are computed, and normalised, one by one.
    clipping: of adaptive gradient clipping; 0: none.
    clip_classifier: whether that is clipped, too.
    mixing: of the pictures, one of `experiments.data.augment.mixing.RECIPES`.
  """

  label: str
  network: str
  depth: tuple[int, ...] = networks.SHALLOW
  batch: int = 128
  slices: int = 1
  clipping: float = 0.0
  clip_classifier: bool = False
  mixing: str = 'none'

  @property
  def key(self) -> Row:
    """The fields as they are in a row."""
    fields = dataclasses.asdict(self)
    return {**fields, 'depth': list(self.depth)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """A grid of runs.

  Attributes:
    arms: the settings.
    rates: peak learning rates.
    seeds: number of them.
    pictures: to train on.
    epochs: of them that a run lasts.
  """

  arms: Sequence[Arm]
  rates: Sequence[float]
  seeds: int = 3
  pictures: int
  epochs: float

  @property
  def runs(self) -> int:
    """How many there are."""
    return len(self.arms) * (len(self.rates) + self.seeds - 1)


def measure(study: Study, pictures: Pictures, rows: Rows) -> list[Row]:
  """Trains all runs that are not there and returns the rows of all."""
  found = []
  test, choose = pictures.test.batches(), pictures.choose.batches()

  def run(arm: Arm, rate: float, seed: int) -> Row:
    def train() -> Row:
      program = dataclasses.replace(arm, label='', mixing='none', clipping=float(arm.clipping > 0))
      trainer = _trainer(program, study.epochs, pictures.num_classes, len(pictures.train.labels))
      knobs = {'rate': rate, **_clipping(arm)}
      ended = trainer.run(knobs, seed, *pictures.train, arm.mixing)
      if not ended.finite:
        chance = 1 / pictures.num_classes
        return {'choose': chance, 'test': chance, 'steps': ended.steps, 'finite': False}
      averages = ended.state.ema_params, ended.state.ema_network_state
      return {
        'choose': round(trainer.top1(*averages, choose), 4),
        'test': round(trainer.top1(*averages, test), 4),
        'steps': ended.steps,
        'finite': True,
      }

    return rows.get({**arm.key, 'rate': rate, 'seed': seed}, train)

  for arm in study.arms:
    tried = [run(arm, rate, 0) for rate in study.rates]
    found += tried
    best = max(tried, key=lambda row: row['choose'])
    found += [run(arm, best['rate'], seed) for seed in range(1, study.seeds)]
  return found


@functools.lru_cache(maxsize=1)  # arms that differ in numbers alone follow one another
def _trainer(program: Arm, epochs: float, num_classes: int, num_train: int) -> Trainer:
  """Returns what trains all arms of one program."""
  total = max(1, round(epochs * num_train / program.batch))
  schedule = optim.warmup_cosine(peak=1.0, warmup_steps=_WARMUP * total, total_steps=total)
  settings = StepSettings(
    schedule=schedule,
    label_smoothing=_LABEL_SMOOTHING,
    ema_decay=_EMA_DECAY,
    accumulation_steps=program.slices,
    clipping=None,  # its shares are not looked at
  )

  classifier = '' if program.clip_classifier else None

  def plain(rate: float) -> optax.GradientTransformation:
    return optax.chain(optim.nfnet_sgd(schedule, clipping=None), optax.scale(rate))

  def clipped(rate: float, clipping: float) -> optax.GradientTransformation:
    sgd = optim.nfnet_sgd(schedule, clipping=clipping, classifier=classifier)
    return optax.chain(sgd, optax.scale(rate))

  return Trainer(
    networks.build(program.network, num_classes, program.depth),
    clipped if program.clipping else plain,
    settings,
    batch=program.batch,
    total_steps=total,
    image_size=SIZE,
    knobs={'rate': 1.0, **_clipping(program)},
  )


def _clipping(arm: Arm) -> dict[str, float]:
  return {'clipping': arm.clipping} if arm.clipping else {}


def best_runs(rows: Sequence[Row], **fields: Any) -> list[Row]:
  """Returns the runs of all seeds at the best rate, of the rows that have these fields."""
  chosen = [row for row in rows if all(row.get(name) == v for name, v in fields.items())]
  tried = [row for row in chosen if row['seed'] == 0]
  best = max(tried, key=lambda row: row['choose'])['rate']
  return [row for row in chosen if row['rate'] == best]
